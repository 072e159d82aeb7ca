//! Which lane reads which: permutes here, DPP and SDWA below.

pub mod dpp;
pub mod sdwa;

use crate::counters::Class::{Lds, Vector};
use crate::group::Group;
use crate::isa::alu::Done;
use crate::isa::parse::Encoding;
use crate::isa::{Generation, Inst, Modifiers, Operand, Table};
use crate::stop::LaneFault;
use crate::wave::{TEMP, Wave};

/// What DPP and SDWA do before (and after) the plain instruction in `inst.inner`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    #[default]
    None,
    Dpp(Box<dpp::Dpp>),
    Sdwa(sdwa::Sdwa),
}

pub fn table(t: &mut Table) {
    t.add("v_readlane_b32", Vector, 1, readlane);
    t.add("v_readfirstlane_b32", Vector, 1, readfirstlane);
    t.add("v_writelane_b32", Vector, 1, writelane);
    t.add("v_mbcnt_lo_u32_b32", Vector, 1, |i, w, _| mbcnt(i, w, 0));
    t.add("v_mbcnt_hi_u32_b32", Vector, 1, |i, w, _| mbcnt(i, w, 32));
    if t.generation >= Generation::Gfx10 {
        t.add("v_permlane16_b32", Vector, 1, |i, w, _| permlane16(i, w, 0));
        t.add("v_permlanex16_b32", Vector, 1, |i, w, _| permlane16(i, w, 16));
    }
    if t.generation >= Generation::Gfx11 {
        t.add("v_permlane64_b32", Vector, 1, permlane64);
    }
    if t.generation >= Generation::Gfx12 {
        t.add("v_permlane16_var_b32", Vector, 1, |i, w, _| permlane16_var(i, w, 0));
        t.add("v_permlanex16_var_b32", Vector, 1, |i, w, _| permlane16_var(i, w, 16));
    }
    t.add("ds_swizzle_b32", Lds, 1, swizzle);
    // Up to gfx11 a wave64 permutes by 32 lanes, too.
    if matches!(t.generation, Generation::Gfx10 | Generation::Gfx11) {
        t.add("ds_permute_b32", Lds, 1, |i, w, _| permute(i, w, 32));
        t.add("ds_bpermute_b32", Lds, 1, |i, w, _| bpermute(i, w, 32));
    } else {
        t.add("ds_permute_b32", Lds, 1, |i, w, _| permute(i, w, w.lanes));
        t.add("ds_bpermute_b32", Lds, 1, |i, w, _| bpermute(i, w, w.lanes));
    }
}

/// The instruction that brings sources into `wave::TEMP..` and then executes `plain` on them.
///
/// # Errors
///
/// Modifiers in `plain.mods.list` that are unknown.
pub fn wrap(plain: Inst, encoding: Encoding) -> Result<Inst, String> {
    if encoding == Encoding::Plain && !dpp::is_dpp(&plain.mods) {
        return Ok(plain);
    }
    let text = plain.text.clone();
    let wrapped = if encoding == Encoding::Sdwa { sdwa::wrap(plain) } else { dpp::wrap(plain) };
    wrapped.ok_or_else(|| format!("{encoding:?} is unknown: {text}"))
}

/// Says the program's name for an operand where a fault names the temporary register that stands for it.
#[cold]
fn name_operands(mut fault: LaneFault, inst: &Inst) -> LaneFault {
    use crate::stop::Fault::UnwrittenRegister;
    if let UnwrittenRegister { register } = &mut fault.fault
        && let Some(k) = register.strip_prefix("temporary ").and_then(|k| k.parse::<usize>().ok())
        && let Some(Operand::Vgpr(n)) = inst.src.get(k)
        && *n < TEMP
    {
        *register = format!("v{n} (through {})", inst.mods.list.join(" "));
    }
    fault
}

/// A vector operand as it stands, with the lanes that were written.
fn whole(wave: &Wave, operand: Operand) -> ([u32; 64], u64) {
    match operand {
        Operand::Vgpr(n) => (wave.vgpr[n as usize], wave.vgpr_written[n as usize]),
        other => ([wave.scalar32(other); 64], wave.written(other, 1)),
    }
}

/// Gives the lanes of `active` their values, and the knowledge whether those were written.
fn set(wave: &mut Wave, operand: Operand, active: u64, values: &[u32; 64], written: u64) {
    if let Operand::Vgpr(n) = operand {
        wave.set_vgpr(n, active, values);
        wave.set_written(operand, 1, active, written);
    }
}

/// Each active lane gets source 0 of lane `from(lane)`: None leaves it as it is; where that lane is not in
/// `readable` it gets zero, or stays as it is.
fn gather(
    inst: &Inst,
    wave: &mut Wave,
    readable: u64,
    zero: bool,
    from: impl Fn(&Wave, usize) -> usize,
) -> Done {
    let (source, source_written) = whole(wave, inst.src[0]);
    let exec = wave.exec();
    let (mut values, mut active, mut written) = ([0; 64], 0, 0);
    for lane in (0..wave.lanes).filter(|lane| exec >> lane & 1 != 0) {
        let at = from(wave, lane);
        if readable >> at & 1 != 0 {
            values[lane] = source[at];
            active |= 1 << lane;
            written |= (source_written >> at & 1) << lane;
        } else if zero {
            active |= 1 << lane;
            written |= 1 << lane;
        }
    }
    set(wave, inst.dst[0], active, &values, written);
    Ok(())
}

fn readlane(inst: &Inst, wave: &mut Wave, _: &mut Group<'_>) -> Done {
    wave.need(inst.src[1], 1, wave.exec())?;
    let lane = wave.scalar32(inst.src[1]) as usize % wave.lanes;
    read(inst, wave, lane)
}

fn readfirstlane(inst: &Inst, wave: &mut Wave, _: &mut Group<'_>) -> Done {
    let lane = match wave.exec() {
        0 => 0,
        exec => exec.trailing_zeros() as usize,
    };
    read(inst, wave, lane)
}

/// A lane of a vector register to a scalar one; unwritten stays unwritten.
fn read(inst: &Inst, wave: &mut Wave, lane: usize) -> Done {
    let (source, written) = whole(wave, inst.src[0]);
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, source[lane]);
        if written >> lane & 1 == 0 {
            wave.sgpr_written &= !(1 << n);
        }
    }
    Ok(())
}

/// EXEC is ignored.
fn writelane(inst: &Inst, wave: &mut Wave, _: &mut Group<'_>) -> Done {
    wave.need(inst.src[1], 1, wave.exec())?;
    let lane = wave.scalar32(inst.src[1]) as usize % wave.lanes;
    let (value, written) = whole(wave, inst.src[0]);
    set(wave, inst.dst[0], 1 << lane, &value, written);
    Ok(())
}

/// Bits of source 0 below the own lane, of the 32 lanes from `first` on, counted on top of source 1.
fn mbcnt(inst: &Inst, wave: &mut Wave, first: usize) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    let (mask, _) = whole(wave, inst.src[0]);
    let (start, _) = whole(wave, inst.src[1]);
    let count = std::array::from_fn(|lane| {
        let below = ((1u64 << lane) - 1) >> first;
        start[lane].wrapping_add((mask[lane] & below as u32).count_ones())
    });
    set(wave, inst.dst[0], exec, &count, exec);
    Ok(())
}

/// Lane `i` of a row of 16 takes the lane of its own row (`other` = 0) or its neighbour (16) that the i-th
/// nibble of sources 1 and 2 names. op_sel: [0] inactive lanes may be read; [1] they give zero if not.
fn permlane16(inst: &Inst, wave: &mut Wave, other: usize) -> Done {
    wave.need(inst.src[1], 1, wave.exec())?;
    wave.need(inst.src[2], 1, wave.exec())?;
    let selects = wave.scalar32(inst.src[1]) as u64 | (wave.scalar32(inst.src[2]) as u64) << 32;
    let readable = if inst.mods.op_sel & 1 != 0 { wave.all() } else { wave.exec() };
    gather(inst, wave, readable, inst.mods.op_sel & 2 != 0, |_, lane| {
        ((lane & !15) ^ other) | (selects >> (lane % 16 * 4) & 15) as usize
    })
}

/// The same, the nibble from each lane's own source 1.
fn permlane16_var(inst: &Inst, wave: &mut Wave, other: usize) -> Done {
    wave.need(inst.src[1], 1, wave.exec())?;
    let (selects, _) = whole(wave, inst.src[1]);
    let readable = if inst.mods.op_sel & 1 != 0 { wave.all() } else { wave.exec() };
    gather(inst, wave, readable, inst.mods.op_sel & 2 != 0, |_, lane| {
        ((lane & !15) ^ other) | (selects[lane] & 15) as usize
    })
}

/// Halves of a wave64 are exchanged; nothing happens in wave32.
fn permlane64(inst: &Inst, wave: &mut Wave, _: &mut Group<'_>) -> Done {
    if wave.lanes == 32 {
        return Ok(());
    }
    gather(inst, wave, u64::MAX, false, |_, lane| lane ^ 32)
}

/// Byte address of the lane that source 0 names, modulo `lanes`.
fn lane_at(inst: &Inst, address: u32, lanes: usize) -> usize {
    (address.wrapping_add(inst.mods.offset as u32) / 4) as usize % lanes
}

/// Each active lane pushes source 1 to the lane it names; of several the highest wins, none gives zero.
fn permute(inst: &Inst, wave: &mut Wave, lanes: usize) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    let (address, _) = whole(wave, inst.src[0]);
    let (source, source_written) = whole(wave, inst.src[1]);
    let (mut values, mut written) = ([0; 64], exec);
    for lane in (0..wave.lanes).filter(|lane| exec >> lane & 1 != 0) {
        let to = lane_at(inst, address[lane], lanes);
        values[to] = source[lane];
        written = written & !(1 << to) | (source_written >> lane & 1) << to;
    }
    set(wave, inst.dst[0], exec, &values, written);
    Ok(())
}

/// Each active lane pulls source 1 of the lane it names; inactive ones give zero.
fn bpermute(inst: &Inst, wave: &mut Wave, lanes: usize) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    let (address, _) = whole(wave, inst.src[0]);
    let (source, source_written) = whole(wave, inst.src[1]);
    let (mut values, mut written) = ([0; 64], exec);
    for lane in (0..wave.lanes).filter(|lane| exec >> lane & 1 != 0) {
        let at = lane_at(inst, address[lane], lanes);
        if exec >> at & 1 != 0 {
            values[lane] = source[at];
            written = written & !(1 << lane) | (source_written >> at & 1) << lane;
        }
    }
    set(wave, inst.dst[0], exec, &values, written);
    Ok(())
}

/// Modes by the 16-bit offset: FFT, rotation, quads, bit masks. Inactive lanes give zero.
fn swizzle(inst: &Inst, wave: &mut Wave, _: &mut Group<'_>) -> Done {
    let offset = inst.mods.offset as usize;
    let readable = wave.exec();
    gather(inst, wave, readable, true, |_, lane| swizzle_source(offset, lane))
}

fn swizzle_source(offset: usize, lane: usize) -> usize {
    let within = match offset {
        0xE000.. => {
            let mask = offset & 31;
            let reversed = (lane as u8 & 31).reverse_bits() as usize >> 3;
            reversed >> mask.count_ones() | lane & mask
        }
        0xC000.. => {
            let (mask, by) = (offset & 31, offset >> 5 & 31);
            let by = if offset & 0x400 != 0 { 32 - by } else { by };
            lane & mask | (lane + by) & !mask
        }
        0x8000.. => lane & !3 | offset >> (lane % 4 * 2) & 3,
        _ => (lane & offset | offset >> 5) ^ offset >> 10,
    };
    lane & 32 | within & 31
}

/// The 16-bit offset behind `offset:` of ds_swizzle, from LLVM's words for it.
pub fn swizzle_offset(text: &str) -> Option<i32> {
    let list = text.strip_prefix("swizzle(")?.strip_suffix(')')?;
    let (mode, arguments) = list.split_once(',')?;
    if mode == "BITMASK_PERM" {
        let (mut and, mut or, mut xor) = (0, 0, 0);
        for (k, letter) in arguments.trim_matches('"').bytes().rev().enumerate() {
            let (a, o, x) = match letter {
                b'0' => (0, 0, 0),
                b'1' => (0, 1, 0),
                b'p' => (1, 0, 0),
                b'i' => (1, 0, 1),
                _ => return None,
            };
            and |= a << k;
            or |= o << k;
            xor |= x << k;
        }
        return Some(and | or << 5 | xor << 10);
    }
    let numbers: Vec<i32> = arguments.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?;
    Some(match (mode, numbers.as_slice()) {
        ("QUAD_PERM", [a, b, c, d]) => 0x8000 | a | b << 2 | c << 4 | d << 6,
        ("SWAP", [size]) => 31 | size << 10,
        ("REVERSE", [size]) => 31 | (size - 1) << 10,
        ("BROADCAST", [size, lane]) => (32 - size) | lane << 5,
        ("FFT", [mask]) => 0xE000 | mask,
        ("ROTATE", [direction, by]) => 0xC000 | direction << 10 | by << 5,
        _ => return None,
    })
}

/// The value of `name:` among an instruction's modifiers, as an integer.
fn number(mods: &Modifiers, name: &str) -> Option<u64> {
    let value = mods.value(name)?;
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}
