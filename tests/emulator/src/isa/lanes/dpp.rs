//! DPP: source 0 comes from another lane.

use super::{Control, name_operands, number};
use crate::group::Group;
use crate::isa::alu::Done;
use crate::isa::{Inst, Modifiers, Operand};
use crate::wave::{TEMP, Wave};

/// No lane: outside the row or the wave.
const NONE: u8 = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpp {
    /// The lane that each lane reads.
    source: [u8; 64],
    /// Lanes that row_mask and bank_mask let write.
    write: u64,
    /// A lane without a source, or with an inactive one, takes zero; else it writes nothing.
    zero: bool,
    fetch_inactive: bool,
    /// Registers of source 0.
    words: u16,
    /// v_cmpx: EXEC is the result.
    sets_exec: bool,
}

/// gfx11's v_cmp has no suffix that tells.
pub fn is_dpp(mods: &Modifiers) -> bool {
    mods.value("dpp8").is_some() || pattern(mods).is_some()
}

/// None: modifiers or operands that DPP does not have.
pub fn wrap(mut plain: Inst) -> Option<Inst> {
    let mods = &plain.mods;
    let flag = |name| number(mods, name).unwrap_or(0) != 0;
    // Assemblers have written bound_ctrl:0 and bound_ctrl:1 for the same bit.
    let zero = mods.value("bound_ctrl").is_some();
    let (source, write, zero) = match mods.value("dpp8") {
        Some(list) => (eights(list)?, u64::MAX, true),
        None => {
            let (rows, banks) = (number(mods, "row_mask")?, number(mods, "bank_mask")?);
            let write =
                (0..64).filter(|lane| rows >> (lane / 16) & 1 != 0 && banks >> (lane / 4 % 4) & 1 != 0);
            (pattern(mods)?, write.fold(0, |all, lane| all | 1 << lane), zero)
        }
    };
    let Operand::Vgpr(_) = plain.src[0] else { return None };
    let dpp = Dpp {
        source,
        write,
        zero,
        fetch_inactive: flag("fi"),
        words: if plain.mnemonic.contains("64") { 2 } else { 1 },
        sets_exec: plain.mnemonic.starts_with("v_cmpx"),
    };
    let outer = Inst { handler: execute, control: Control::Dpp(Box::new(dpp)), ..plain.clone() };
    plain.src[0] = Operand::Vgpr(TEMP);
    Some(Inst { inner: vec![plain], ..outer })
}

fn execute(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    let (Control::Dpp(dpp), Operand::Vgpr(from)) = (&inst.control, inst.src[0]) else {
        unreachable!("wrapped with both");
    };
    let exec = wave.exec();
    let readable = if dpp.fetch_inactive { wave.all() } else { exec };
    let valid = (0..wave.lanes).fold(0, |all, lane| match dpp.source[lane] {
        NONE => all,
        at => all | (readable >> at & 1) << lane,
    });
    for word in 0..dpp.words {
        let (register, written) =
            (wave.vgpr[(from + word) as usize], wave.vgpr_written[(from + word) as usize]);
        let mut temp_written = !valid;
        let temp = &mut wave.vgpr[(TEMP + word) as usize];
        for (lane, value) in temp.iter_mut().enumerate() {
            let at = dpp.source[lane] as usize & 63;
            let bit = valid >> lane & 1;
            *value = if bit != 0 { register[at] } else { 0 };
            temp_written |= (written >> at & bit) << lane;
        }
        wave.vgpr_written[(TEMP + word) as usize] = temp_written;
    }
    wave.set_exec(exec & dpp.write & if dpp.zero { u64::MAX } else { valid });
    let done = inst.inner[0].execute(wave, group);
    if !dpp.sets_exec {
        wave.set_exec(exec);
    }
    done.map_err(|fault| name_operands(fault, inst))
}

/// `[1,0,3,2,5,4,7,6]`: within each eight lanes.
fn eights(list: &str) -> Option<[u8; 64]> {
    let selects = list_of::<8>(list)?;
    Some(std::array::from_fn(|lane| (lane as u8 & !7) | selects[lane % 8] & 7))
}

fn list_of<const N: usize>(list: &str) -> Option<[u8; N]> {
    let numbers = list.strip_prefix('[')?.strip_suffix(']')?.split(',');
    let numbers: Vec<u8> = numbers.map(|n| n.trim().parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// The lane each lane reads. A row is 16 lanes; a left shift moves data towards lane 0.
fn pattern(mods: &Modifiers) -> Option<[u8; 64]> {
    let lanes = |from: &dyn Fn(i32) -> Option<i32>| {
        std::array::from_fn(|lane| from(lane as i32).map_or(NONE, |at| at as u8))
    };
    let in_row = |lane: i32, at: i32| (0..16).contains(&at).then_some((lane & !15) + at);
    if mods.flag("row_mirror") {
        return Some(lanes(&|lane| Some(lane ^ 15)));
    }
    if mods.flag("row_half_mirror") {
        return Some(lanes(&|lane| Some(lane ^ 7)));
    }
    for modifier in &mods.list {
        let Some((name, value)) = modifier.split_once(':') else { continue };
        if name == "quad_perm" {
            let selects = list_of::<4>(value)?;
            return Some(lanes(&|lane| Some((lane & !3) + (selects[lane as usize % 4] & 3) as i32)));
        }
        let Ok(n) = value.parse::<i32>() else { continue };
        return Some(match name {
            "row_shl" => lanes(&|lane| in_row(lane, lane % 16 + n)),
            "row_shr" => lanes(&|lane| in_row(lane, lane % 16 - n)),
            "row_ror" => lanes(&|lane| in_row(lane, (lane - n) & 15)),
            "row_share" | "row_newbcast" => lanes(&|lane| in_row(lane, n)),
            "row_xmask" => lanes(&|lane| in_row(lane, (lane % 16) ^ n)),
            // To the next row, or the next half.
            "row_bcast" if n == 15 => lanes(&|lane| (lane > 15).then_some((lane & !15) - 1)),
            "row_bcast" if n == 31 => lanes(&|lane| (lane > 31).then_some(31)),
            "wave_shl" => lanes(&|lane| (lane < 63).then_some(lane + 1)),
            "wave_shr" => lanes(&|lane| (lane > 0).then_some(lane - 1)),
            "wave_rol" => lanes(&|lane| Some((lane + 1) & 63)),
            "wave_ror" => lanes(&|lane| Some((lane - 1) & 63)),
            _ => continue,
        });
    }
    None
}
