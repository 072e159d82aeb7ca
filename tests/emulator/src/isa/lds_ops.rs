//! LDS: loads, stores, atomics.

use crate::counters::Class::Lds;
use crate::group::Group;
use crate::isa::alu::{Done, Room, halves};
use crate::isa::memory_ops::{ATOMICS, Into, Update, lane_data, put_loaded, put_old, take_stored};
use crate::isa::{Inst, Operand, Table};
use crate::memory::Access;
use crate::stop::{Fault, LaneFault};
use crate::wave::Wave;

pub fn table(t: &mut Table) {
    macro_rules! loads {
        ($($new:literal $old:literal $bytes:literal $into:ident)*) => {$(
            t.add(concat!("ds_load_", $new), Lds, 1, |i, w, g| load(i, w, g, $bytes, Into::$into));
            t.alias(&[concat!("ds_read_", $old)], concat!("ds_load_", $new));
        )*};
    }
    loads!(
        "u8" "u8" 1 Words
        "i8" "i8" 1 SignedByte
        "u16" "u16" 2 Words
        "i16" "i16" 2 SignedShort
        "b32" "b32" 4 Words
        "b64" "b64" 8 Words
        "b96" "b96" 12 Words
        "b128" "b128" 16 Words
        "u8_d16" "u8_d16" 1 Low
        "u8_d16_hi" "u8_d16_hi" 1 High
        "i8_d16" "i8_d16" 1 LowSignedByte
        "i8_d16_hi" "i8_d16_hi" 1 HighSignedByte
        "u16_d16" "u16_d16" 2 Low
        "u16_d16_hi" "u16_d16_hi" 2 High
    );
    macro_rules! stores {
        ($($new:literal $old:literal $bytes:literal $shift:literal)*) => {$(
            t.add(concat!("ds_store_", $new), Lds, 0, |i, w, g| store(i, w, g, $bytes, $shift));
            t.alias(&[concat!("ds_write_", $old)], concat!("ds_store_", $new));
        )*};
    }
    stores!(
        "b8" "b8" 1 0
        "b16" "b16" 2 0
        "b32" "b32" 4 0
        "b64" "b64" 8 0
        "b96" "b96" 12 0
        "b128" "b128" 16 0
        "b8_d16_hi" "b8_d16_hi" 1 16
        "b16_d16_hi" "b16_d16_hi" 2 16
    );
    // Two addresses; offsets count in elements, or in 64 of them.
    macro_rules! pairs {
        ($($load:literal $read:literal $store:literal $write:literal $bytes:literal $unit:literal)*) => {$(
            t.add($load, Lds, 1, |i, w, g| load_pair(i, w, g, $bytes, $unit));
            t.alias(&[$read], $load);
            t.add($store, Lds, 0, |i, w, g| store_pair(i, w, g, $bytes, $unit));
            t.alias(&[$write], $store);
        )*};
    }
    pairs!(
        "ds_load_2addr_b32" "ds_read2_b32" "ds_store_2addr_b32" "ds_write2_b32" 4 4
        "ds_load_2addr_b64" "ds_read2_b64" "ds_store_2addr_b64" "ds_write2_b64" 8 8
        "ds_load_2addr_stride64_b32" "ds_read2st64_b32" "ds_store_2addr_stride64_b32" "ds_write2st64_b32" 4 256
        "ds_load_2addr_stride64_b64" "ds_read2st64_b64" "ds_store_2addr_stride64_b64" "ds_write2st64_b64" 8 512
    );
    atomics(t);
}

fn atomics(t: &mut Table) {
    for &(name, _, _, _) in ATOMICS {
        let (op, kind) = name.rsplit_once('_').unwrap_or((name, ""));
        let op = match op {
            "swap" => {
                // Exists only with its old value returned.
                t.add(&format!("ds_storexchg_rtn_{kind}"), Lds, 1, exchange);
                t.alias(&[&format!("ds_wrxchg_rtn_{kind}")], &format!("ds_storexchg_rtn_{kind}"));
                continue;
            }
            op => op,
        };
        t.add(&format!("ds_{op}_{kind}"), Lds, 0, named_atomic);
        t.add(&format!("ds_{op}_rtn_{kind}"), Lds, 1, named_atomic);
    }
    t.alias(&["ds_sub_clamp_u32"], "ds_csub_u32");
    t.alias(&["ds_sub_clamp_rtn_u32"], "ds_csub_rtn_u32");
    t.add("ds_rsub_u32", Lds, 0, |i, w, g| atomic(i, w, g, 4, reverse32));
    t.add("ds_rsub_rtn_u32", Lds, 1, |i, w, g| atomic(i, w, g, 4, reverse32));
    t.add("ds_rsub_u64", Lds, 0, |i, w, g| atomic(i, w, g, 8, |old, v| v.wrapping_sub(old)));
    t.add("ds_rsub_rtn_u64", Lds, 1, |i, w, g| atomic(i, w, g, 8, |old, v| v.wrapping_sub(old)));
    // The new value and the expected one: gfx11 has them in this order, those before in the other.
    t.add("ds_cmpstore_b32", Lds, 0, |i, w, g| compare_store(i, w, g, 4, 1, 2));
    t.add("ds_cmpstore_b64", Lds, 0, |i, w, g| compare_store(i, w, g, 8, 1, 2));
    t.add("ds_cmpstore_rtn_b32", Lds, 1, |i, w, g| compare_store(i, w, g, 4, 1, 2));
    t.add("ds_cmpstore_rtn_b64", Lds, 1, |i, w, g| compare_store(i, w, g, 8, 1, 2));
    t.add("ds_cmpst_b32", Lds, 0, |i, w, g| compare_store(i, w, g, 4, 2, 1));
    t.add("ds_cmpst_b64", Lds, 0, |i, w, g| compare_store(i, w, g, 8, 2, 1));
    t.add("ds_cmpst_rtn_b32", Lds, 1, |i, w, g| compare_store(i, w, g, 4, 2, 1));
    t.add("ds_cmpst_rtn_b64", Lds, 1, |i, w, g| compare_store(i, w, g, 8, 2, 1));
}

fn reverse32(old: u64, v: u64) -> u64 {
    (v as u32).wrapping_sub(old as u32) as u64
}

/// Byte addresses, which wrap at 32 bits.
fn addresses(inst: &Inst, wave: &Wave, offset: u32) -> Result<[u64; 64], LaneFault> {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    let mut out = [0; 64];
    let mut room = Room::uninit();
    for (half, _) in halves(exec) {
        let base = wave.lanes(inst.src[0], half, &mut room);
        for lane in 0..32 {
            out[32 * half + lane] = base[lane].wrapping_add(offset) as u64;
        }
    }
    Ok(out)
}

fn load(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, into: Into) -> Done {
    let addr = addresses(inst, wave, inst.mods.offset as u32)?;
    let access = Access { addr: &addr, active: wave.exec(), bytes };
    group.lds.load(wave.id, &access, &mut wave.words, &mut group.counters)?;
    put_loaded(inst.dst[0], wave, bytes, into);
    Ok(())
}

fn store(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, shift: u32) -> Done {
    let addr = addresses(inst, wave, inst.mods.offset as u32)?;
    take_stored(inst.src[1], wave, bytes, shift)?;
    let access = Access { addr: &addr, active: wave.exec(), bytes };
    group.lds.store(wave.id, &access, &wave.words, &mut group.counters)
}

fn load_pair(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, unit: u32) -> Done {
    let Operand::Vgpr(n) = inst.dst[0] else { return Err(Fault::UnknownOpcode.into()) };
    // Both addresses before the first result: the destination may hold the address.
    let addrs =
        [inst.mods.offset, inst.mods.offset1].map(|offset| addresses(inst, wave, offset as u32 * unit));
    for (k, addr) in addrs.into_iter().enumerate() {
        let access = Access { addr: &addr?, active: wave.exec(), bytes };
        group.lds.load(wave.id, &access, &mut wave.words, &mut group.counters)?;
        put_loaded(Operand::Vgpr(n + k as u16 * bytes as u16 / 4), wave, bytes, Into::Words);
    }
    Ok(())
}

fn store_pair(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, unit: u32) -> Done {
    for (data, offset) in [(inst.src[1], inst.mods.offset), (inst.src[2], inst.mods.offset1)] {
        let addr = addresses(inst, wave, offset as u32 * unit)?;
        take_stored(data, wave, bytes, 0)?;
        let access = Access { addr: &addr, active: wave.exec(), bytes };
        group.lds.store(wave.id, &access, &wave.words, &mut group.counters)?;
    }
    Ok(())
}

fn exchange(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    let bytes = if inst.mnemonic.ends_with("b64") { 8 } else { 4 };
    atomic(inst, wave, group, bytes, |_, new| new)
}

fn named_atomic(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    let name = inst.mnemonic.strip_prefix("ds_").unwrap_or("").replace("_rtn_", "_");
    let name = name.replace("sub_clamp", "csub");
    let known = ATOMICS.iter().find(|&&(atomic, _, _, _)| atomic == name);
    let &(_, _, bytes, update) = known.ok_or(Fault::UnknownOpcode)?;
    atomic(inst, wave, group, bytes, update)
}

fn atomic(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>, bytes: u32, update: Update) -> Done {
    let data = lane_data(inst.src[1], wave, bytes)?;
    update_lanes(inst, wave, group, bytes, &mut |lane, old| update(old, data[lane]))
}

fn compare_store(
    inst: &Inst,
    wave: &mut Wave,
    group: &mut Group<'_>,
    bytes: u32,
    new: usize,
    expected: usize,
) -> Done {
    let [new, expected] = [new, expected].map(|k| lane_data(inst.src[k], wave, bytes));
    let (new, expected) = (new?, expected?);
    let update = &mut |lane: usize, old| if old == expected[lane] { new[lane] } else { old };
    update_lanes(inst, wave, group, bytes, update)
}

fn update_lanes(
    inst: &Inst,
    wave: &mut Wave,
    group: &mut Group<'_>,
    bytes: u32,
    update: &mut dyn FnMut(usize, u64) -> u64,
) -> Done {
    let addr = addresses(inst, wave, inst.mods.offset as u32)?;
    let access = Access { addr: &addr, active: wave.exec(), bytes };
    let mut old = [0; 64];
    group.lds.atomic(wave.id, &access, &mut old, update, &mut group.counters)?;
    put_old(inst.dst[0], wave, bytes, &old);
    Ok(())
}
