//! Loads, stores and atomics on global memory; scalar loads. FLAT addresses in the LDS aperture go to LDS.

use half::{bf16, f16};

use crate::counters::Class::{Global, ScalarMemory};
use crate::group::Group;
use crate::isa::alu::{Done, Room, SHARED_BASE, by_lane, halves};
use crate::isa::floats;
use crate::isa::{Inst, Operand, Table};
use crate::memory::Access;
use crate::stop::{Fault, LaneFault};
use crate::wave::Wave;

pub fn table(t: &mut Table) {
    scalar_loads(t);
    loads(t);
    stores(t);
    atomics(t);
}

/// What a load does with less than 32 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Words,
    SignedByte,
    SignedShort,
    /// 16 bits of the register; the others are kept.
    Low,
    High,
    LowSignedByte,
    HighSignedByte,
}

fn scalar_loads(t: &mut Table) {
    macro_rules! words {
        ($($new:literal $old:literal $words:literal)*) => {$(
            t.add(concat!("s_load_", $new), ScalarMemory, 1, |i, w, g| scalar_load(i, w, g, $words));
            if $old != "" {
                t.alias(&[concat!("s_load_", $old)], concat!("s_load_", $new));
            }
        )*};
    }
    words!("b32" "dword" 1 "b64" "dwordx2" 2 "b96" "" 3 "b128" "dwordx4" 4 "b256" "dwordx8" 8 "b512" "dwordx16" 16);
    t.add("s_load_u8", ScalarMemory, 1, |i, w, g| scalar_part(i, w, g, 1, |v| v));
    t.add("s_load_i8", ScalarMemory, 1, |i, w, g| scalar_part(i, w, g, 1, |v| v as i8 as u32));
    t.add("s_load_u16", ScalarMemory, 1, |i, w, g| scalar_part(i, w, g, 2, |v| v));
    t.add("s_load_i16", ScalarMemory, 1, |i, w, g| scalar_part(i, w, g, 2, |v| v as i16 as u32));
}

/// Base, a register or constant, and the offset behind the operands.
fn scalar_address(inst: &Inst, wave: &Wave) -> Result<u64, LaneFault> {
    wave.need(inst.src[0], 2, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let base = wave.scalar64(inst.src[0], false);
    let offset = match inst.src[1] {
        Operand::Int(v) => v as i64,
        other => wave.scalar32(other) as i64,
    };
    Ok(base.wrapping_add_signed(offset).wrapping_add_signed(inst.mods.offset as i64))
}

fn scalar_load(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, words: usize) -> Done {
    // The two low bits of the address do not count.
    let addr = scalar_address(inst, wave)? & !3;
    let mut loaded = [0; 16];
    group.memory.scalar_load(addr, &mut loaded[..words], &mut group.counters)?;
    if let Operand::Sgpr(n) = inst.dst[0] {
        for (k, &value) in loaded[..words].iter().enumerate() {
            wave.set_sgpr(n + k as u8, value);
        }
    }
    Ok(())
}

fn scalar_part(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, f: fn(u32) -> u32) -> Done {
    let addr = [scalar_address(inst, wave)?; 64];
    let access = Access { addr: &addr, active: 1, bytes };
    group.memory.load(&access, &mut wave.words, &mut group.counters)?;
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, f(wave.words[0][0]));
    }
    Ok(())
}

fn loads(t: &mut Table) {
    macro_rules! both {
        ($($new:literal $old:literal $bytes:literal $into:ident)*) => {$(
            t.add(concat!("global_load_", $new), Global, 1, |i, w, g| load(i, w, g, false, $bytes, Into::$into));
            t.add(concat!("flat_load_", $new), Global, 1, |i, w, g| load(i, w, g, true, $bytes, Into::$into));
            t.alias(&[concat!("global_load_", $old)], concat!("global_load_", $new));
            t.alias(&[concat!("flat_load_", $old)], concat!("flat_load_", $new));
        )*};
    }
    both!(
        "u8" "ubyte" 1 Words
        "i8" "sbyte" 1 SignedByte
        "u16" "ushort" 2 Words
        "i16" "sshort" 2 SignedShort
        "b32" "dword" 4 Words
        "b64" "dwordx2" 8 Words
        "b96" "dwordx3" 12 Words
        "b128" "dwordx4" 16 Words
        "d16_u8" "ubyte_d16" 1 Low
        "d16_hi_u8" "ubyte_d16_hi" 1 High
        "d16_i8" "sbyte_d16" 1 LowSignedByte
        "d16_hi_i8" "sbyte_d16_hi" 1 HighSignedByte
        "d16_b16" "short_d16" 2 Low
        "d16_hi_b16" "short_d16_hi" 2 High
    );
}

fn stores(t: &mut Table) {
    macro_rules! both {
        ($($new:literal $old:literal $bytes:literal $shift:literal)*) => {$(
            t.add(concat!("global_store_", $new), Global, 0, |i, w, g| store(i, w, g, false, $bytes, $shift));
            t.add(concat!("flat_store_", $new), Global, 0, |i, w, g| store(i, w, g, true, $bytes, $shift));
            t.alias(&[concat!("global_store_", $old)], concat!("global_store_", $new));
            t.alias(&[concat!("flat_store_", $old)], concat!("flat_store_", $new));
        )*};
    }
    both!(
        "b8" "byte" 1 0
        "b16" "short" 2 0
        "b32" "dword" 4 0
        "b64" "dwordx2" 8 0
        "b96" "dwordx3" 12 0
        "b128" "dwordx4" 16 0
        "d16_hi_b8" "byte_d16_hi" 1 16
        "d16_hi_b16" "short_d16_hi" 2 16
    );
}

/// `new = f(old, data)`.
pub type Update = fn(u64, u64) -> u64;

/// Atomic operations: gfx11's name, that of gfx9 (the 64-bit ones end in `_x2` there), bytes, function.
pub const ATOMICS: &[(&str, &str, u32, Update)] = &[
    ("swap_b32", "swap", 4, |_, new| new),
    ("add_u32", "add", 4, |old, v| (old as u32).wrapping_add(v as u32) as u64),
    ("sub_u32", "sub", 4, |old, v| (old as u32).wrapping_sub(v as u32) as u64),
    ("csub_u32", "csub", 4, |old, v| (old as u32).saturating_sub(v as u32) as u64),
    ("min_i32", "smin", 4, |old, v| (old as i32).min(v as i32) as u32 as u64),
    ("min_u32", "umin", 4, |old, v| old.min(v)),
    ("max_i32", "smax", 4, |old, v| (old as i32).max(v as i32) as u32 as u64),
    ("max_u32", "umax", 4, |old, v| old.max(v)),
    ("and_b32", "and", 4, |old, v| old & v),
    ("or_b32", "or", 4, |old, v| old | v),
    ("xor_b32", "xor", 4, |old, v| old ^ v),
    ("inc_u32", "inc", 4, |old, most| if old >= most { 0 } else { old + 1 }),
    ("dec_u32", "dec", 4, |old, most| if old == 0 || old > most { most } else { old - 1 }),
    ("swap_b64", "swap_x2", 8, |_, new| new),
    ("add_u64", "add_x2", 8, u64::wrapping_add),
    ("sub_u64", "sub_x2", 8, u64::wrapping_sub),
    ("min_i64", "smin_x2", 8, |old, v| (old as i64).min(v as i64) as u64),
    ("min_u64", "umin_x2", 8, u64::min),
    ("max_i64", "smax_x2", 8, |old, v| (old as i64).max(v as i64) as u64),
    ("max_u64", "umax_x2", 8, u64::max),
    ("and_b64", "and_x2", 8, |old, v| old & v),
    ("or_b64", "or_x2", 8, |old, v| old | v),
    ("xor_b64", "xor_x2", 8, |old, v| old ^ v),
    ("inc_u64", "inc_x2", 8, |old, most| if old >= most { 0 } else { old + 1 }),
    ("dec_u64", "dec_x2", 8, |old, most| if old == 0 || old > most { most } else { old - 1 }),
    ("add_f32", "", 4, |old, v| f32_of(old, v, |a, b| a + b)),
    ("min_f32", "fmin", 4, |old, v| f32_of(old, v, floats::min)),
    ("max_f32", "fmax", 4, |old, v| f32_of(old, v, floats::max)),
    ("min_num_f32", "", 4, |old, v| f32_of(old, v, floats::min_num)),
    ("max_num_f32", "", 4, |old, v| f32_of(old, v, floats::max_num)),
    ("add_f64", "", 8, |old, v| f64_of(old, v, |a, b| a + b)),
    ("min_f64", "", 8, |old, v| f64_of(old, v, floats::min)),
    ("max_f64", "", 8, |old, v| f64_of(old, v, floats::max)),
    ("pk_add_f16", "", 4, |old, v| halves_of(old, v, add_f16)),
    ("pk_add_bf16", "", 4, |old, v| halves_of(old, v, add_bf16)),
];

fn f32_of(old: u64, v: u64, f: impl Fn(f32, f32) -> f32) -> u64 {
    f(f32::from_bits(old as u32), f32::from_bits(v as u32)).to_bits() as u64
}

fn f64_of(old: u64, v: u64, f: impl Fn(f64, f64) -> f64) -> u64 {
    f(f64::from_bits(old), f64::from_bits(v)).to_bits()
}

fn halves_of(old: u64, v: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    f(old as u16, v as u16) as u64 | (f((old >> 16) as u16, (v >> 16) as u16) as u64) << 16
}

fn add_f16(a: u16, b: u16) -> u16 {
    f16::from_f32(f16::from_bits(a).to_f32() + f16::from_bits(b).to_f32()).to_bits()
}

fn add_bf16(a: u16, b: u16) -> u16 {
    bf16::from_f32(bf16::from_bits(a).to_f32() + bf16::from_bits(b).to_f32()).to_bits()
}

fn atomics(t: &mut Table) {
    for &(new, old, _, _) in ATOMICS {
        for (space, handler) in [("global", global_atomic as crate::isa::Handler), ("flat", flat_atomic as _)]
        {
            t.atomic(&format!("{space}_atomic_{new}"), handler);
            if !old.is_empty() {
                t.atomic(&format!("{space}_atomic_{old}"), handler);
            }
        }
    }
    t.atomic("global_atomic_cmpswap_b32", |i, w, g| compare_swap(i, w, g, false, 4));
    t.atomic("global_atomic_cmpswap_b64", |i, w, g| compare_swap(i, w, g, false, 8));
    t.atomic("flat_atomic_cmpswap_b32", |i, w, g| compare_swap(i, w, g, true, 4));
    t.atomic("flat_atomic_cmpswap_b64", |i, w, g| compare_swap(i, w, g, true, 8));
    for space in ["global", "flat"] {
        t.alias(&[&format!("{space}_atomic_cmpswap")], &format!("{space}_atomic_cmpswap_b32"));
        t.alias(&[&format!("{space}_atomic_cmpswap_x2")], &format!("{space}_atomic_cmpswap_b64"));
        t.alias(&[&format!("{space}_atomic_sub_clamp_u32")], &format!("{space}_atomic_csub_u32"));
    }
}

/// Per lane: a 64-bit address, or a 32-bit offset to a scalar base; plus the constant offset.
#[inline]
fn addresses(inst: &Inst, wave: &Wave, base: Operand, exec: u64) -> Result<[u64; 64], LaneFault> {
    let offset = inst.mods.offset as i64;
    let mut out = [0; 64];
    let mut room = Room::uninit();
    if let Operand::Sgpr(n) = base
        && n != crate::wave::NULL
    {
        wave.need(base, 2, 0)?;
        wave.need(inst.src[0], 1, exec)?;
        let base = wave.sgpr64(n).wrapping_add_signed(offset);
        for (half, _) in halves(exec) {
            let offsets = wave.lanes(inst.src[0], half, &mut room);
            for lane in 0..32 {
                out[32 * half + lane] = base.wrapping_add(offsets[lane] as u64);
            }
        }
    } else {
        wave.need(inst.src[0], 2, exec)?;
        for (half, _) in halves(exec) {
            let addresses = wave.lanes64(inst.src[0], half, false);
            for lane in 0..32 {
                out[32 * half + lane] = addresses[lane].wrapping_add_signed(offset);
            }
        }
    }
    Ok(out)
}

/// Lanes whose flat address lies in LDS.
fn in_lds(addr: &[u64; 64], active: u64) -> u64 {
    (0..64)
        .filter(|&lane| active >> lane & 1 != 0 && addr[lane] >> 32 == SHARED_BASE as u64)
        .fold(0, |m, l| m | 1 << l)
}

fn lds_addresses(addr: &[u64; 64]) -> [u64; 64] {
    addr.map(|a| a & 0xffff_ffff)
}

fn load(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, flat: bool, bytes: u32, into: Into) -> Done {
    let exec = wave.exec();
    let addr = addresses(inst, wave, inst.src[1], exec)?;
    let shared = if flat { in_lds(&addr, exec) } else { 0 };
    let access = Access { addr: &addr, active: exec & !shared, bytes };
    group.memory.load(&access, &mut wave.words, &mut group.counters)?;
    if shared != 0 {
        let access = Access { addr: &lds_addresses(&addr), active: shared, bytes };
        group.lds.load(wave.id, &access, &mut wave.words, &mut group.counters)?;
    }
    put_loaded(inst.dst[0], wave, bytes, into);
    Ok(())
}

/// What was loaded, from `wave.words` to registers.
pub fn put_loaded(to: Operand, wave: &mut Wave, bytes: u32, into: Into) {
    let exec = wave.exec();
    let Operand::Vgpr(n) = to else { return };
    for word in 0..bytes.div_ceil(4) as usize {
        let register = Operand::Vgpr(n + word as u16);
        for (half, active) in halves(exec) {
            let loaded = wave.words[word].as_chunks::<32>().0[half];
            if into == Into::Words {
                wave.put32(register, half, active, &loaded);
                continue;
            }
            let values = {
                let old = wave.lanes32(register, half);
                let low = |l: usize, v: u32| old[l] & 0xffff_0000 | v & 0xffff;
                let high = |l: usize, v: u32| old[l] & 0xffff | v << 16;
                by_lane(|l| match into {
                    Into::Words => loaded[l],
                    Into::SignedByte => loaded[l] as i8 as u32,
                    Into::SignedShort => loaded[l] as i16 as u32,
                    Into::Low => low(l, loaded[l]),
                    Into::High => high(l, loaded[l]),
                    Into::LowSignedByte => low(l, loaded[l] as i8 as u32),
                    Into::HighSignedByte => high(l, loaded[l] as i8 as u32),
                })
            };
            wave.put32(register, half, active, &values);
        }
    }
    wave.wrote(to, bytes.div_ceil(4) as u16, exec);
}

/// What is to be stored, from registers to `wave.words`.
pub fn take_stored(from: Operand, wave: &mut Wave, bytes: u32, shift: u32) -> Done {
    let words = bytes.div_ceil(4);
    wave.need(from, words, wave.exec())?;
    if let Operand::Vgpr(n) = from {
        for word in 0..words as usize {
            wave.words[word] = wave.vgpr[n as usize + word];
        }
        if shift != 0 {
            wave.words[0] = wave.words[0].map(|v| v >> shift);
        }
    }
    Ok(())
}

fn store(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, flat: bool, bytes: u32, shift: u32) -> Done {
    let exec = wave.exec();
    let addr = addresses(inst, wave, inst.src[2], exec)?;
    take_stored(inst.src[1], wave, bytes, shift)?;
    let shared = if flat { in_lds(&addr, exec) } else { 0 };
    let access = Access { addr: &addr, active: exec & !shared, bytes };
    group.memory.store(&access, &wave.words, &mut group.counters)?;
    if shared != 0 {
        let access = Access { addr: &lds_addresses(&addr), active: shared, bytes };
        group.lds.store(wave.id, &access, &wave.words, &mut group.counters)?;
    }
    Ok(())
}

fn global_atomic(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    named_atomic(inst, wave, group, false)
}

fn flat_atomic(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    named_atomic(inst, wave, group, true)
}

fn named_atomic(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, flat: bool) -> Done {
    let name = inst.mnemonic.split_once("_atomic_").map_or("", |(_, name)| name);
    let known = ATOMICS.iter().find(|&&(new, old, _, _)| new == name || old == name);
    let &(_, _, bytes, update) = known.ok_or(Fault::UnknownOpcode)?;
    let data = lane_data(inst.src[1], wave, bytes)?;
    atomic(inst, wave, group, flat, bytes, &mut |lane, old| update(old, data[lane]))
}

fn compare_swap(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, flat: bool, bytes: u32) -> Done {
    let new = lane_data(inst.src[1], wave, bytes)?;
    let expected = match inst.src[1] {
        Operand::Vgpr(n) => lane_data(Operand::Vgpr(n + bytes as u16 / 4), wave, bytes)?,
        _ => return Err(Fault::UnknownOpcode.into()),
    };
    atomic(inst, wave, group, flat, bytes, &mut |lane, old| {
        if old == expected[lane] { new[lane] } else { old }
    })
}

/// One value of 4 or 8 bytes per lane.
pub fn lane_data(from: Operand, wave: &Wave, bytes: u32) -> Result<[u64; 64], LaneFault> {
    wave.need(from, bytes / 4, wave.exec())?;
    let mut data = [0; 64];
    if let Operand::Vgpr(n) = from {
        for (lane, data) in data.iter_mut().enumerate() {
            let high = if bytes == 8 { wave.vgpr[n as usize + 1][lane] } else { 0 };
            *data = wave.vgpr[n as usize][lane] as u64 | (high as u64) << 32;
        }
    }
    Ok(data)
}

/// Old values to the destination, if they are asked for.
pub fn put_old(to: Operand, wave: &mut Wave, bytes: u32, old: &[u64; 64]) {
    let exec = wave.exec();
    if let Operand::Vgpr(n) = to {
        wave.set_vgpr(n, exec, &old.map(|v| v as u32));
        if bytes == 8 {
            wave.set_vgpr(n + 1, exec, &old.map(|v| (v >> 32) as u32));
        }
    }
}

fn atomic(
    inst: &Inst,
    wave: &mut Wave,
    group: &mut Group<'_>,
    flat: bool,
    bytes: u32,
    update: &mut dyn FnMut(usize, u64) -> u64,
) -> Done {
    let exec = wave.exec();
    let addr = addresses(inst, wave, inst.src[2], exec)?;
    let shared = if flat { in_lds(&addr, exec) } else { 0 };
    let mut old = [0; 64];
    let access = Access { addr: &addr, active: exec & !shared, bytes };
    group.memory.atomic(&access, &mut old, update, &mut group.counters)?;
    if shared != 0 {
        let access = Access { addr: &lds_addresses(&addr), active: shared, bytes };
        group.lds.atomic(wave.id, &access, &mut old, update, &mut group.counters)?;
    }
    put_old(inst.dst[0], wave, bytes, &old);
    Ok(())
}
