//! Text of LLVM's disassembler -> Inst.

use crate::counters::Class;
use crate::isa::table::{Entry, Outs};
use crate::isa::{Arch, Inst, Modifiers, Operand, Table, lanes};
use crate::wave::{ACC, EXEC, M0, NULL, TEMP, TTMP, VCC};

/// Suffixes that tell an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    Dpp,
    Sdwa,
}

impl Inst {
    /// Parses `v_add_f32_e32 v0, 1.0, v1`, with or without the disassembler's comment (`// address: words`).
    ///
    /// # Errors
    ///
    /// An unknown mnemonic or operand, said in words.
    pub fn parse(text: &str, arch: &Arch) -> Result<Inst, String> {
        let (text, comment) = match text.find("//") {
            Some(at) => (text[..at].trim(), text[at + 2..].trim()),
            None => (text.trim(), ""),
        };
        let (offset, bytes) = address(comment);
        let table = Table::of(arch.generation);
        let mut inst = match text.split_once(" :: ") {
            Some((x, y)) => dual(single(x, table)?, single(y, table)?, text),
            None => single(text, table)?,
        };
        inst.set_place(offset, bytes);
        Ok(inst)
    }

    fn set_place(&mut self, offset: u64, bytes: u64) {
        self.offset = offset;
        self.next = offset + bytes;
        for inner in &mut self.inner {
            inner.set_place(offset, bytes);
        }
    }
}

/// `000000003F08: D6560000 0401100F <...>`: address and length.
fn address(comment: &str) -> (u64, u64) {
    let Some((address, words)) = comment.split_once(':') else { return (0, 0) };
    let words = words.split_whitespace().take_while(|w| w.len() == 8 && !w.starts_with('<')).count();
    (u64::from_str_radix(address.trim(), 16).unwrap_or(0), 4 * words as u64)
}

fn single(text: &str, table: &Table) -> Result<Inst, String> {
    let (written, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (mnemonic, encoding, entry) =
        find(written, table).ok_or_else(|| format!("unknown instruction {written}"))?;
    let mut inst = Inst {
        handler: entry.handler,
        class: entry.class,
        after: entry.after,
        dst: [Operand::None; 2],
        src: [Operand::None; 4],
        mods: Modifiers::default(),
        zero_high: table.generation.is_gfx9() && !entry.keeps_high,
        target: usize::MAX,
        next: 0,
        control: lanes::Control::None,
        inner: Vec::new(),
        offset: 0,
        mnemonic: mnemonic.into_boxed_str(),
        text: text.into(),
    };
    if entry.outs == Outs::Ignored {
        return Ok(inst);
    }
    let (operands, modifiers) = split(rest);
    inst.mods.list = modifiers.iter().map(|&m| m.into()).collect();
    let returns =
        modifiers.iter().any(|&m| m == "glc" || m == "sc0" || m.starts_with("th:") && m.contains("RETURN"));
    inst.mods.returns = returns;
    let outs = match entry.outs {
        Outs::First(n) => n as usize,
        Outs::IfReturned => returns as usize,
        Outs::Ignored => 0,
    };
    if operands.len() < outs || operands.len() > outs + inst.src.len() {
        return Err(format!("{} operands: {text}", operands.len()));
    }
    for (k, written) in operands.iter().enumerate() {
        let parsed = operand(written).ok_or_else(|| format!("unknown operand {written}: {text}"))?;
        if k < outs {
            inst.dst[k] = parsed.operand;
            inst.mods.op_sel |= (parsed.high as u8) << 3;
        } else {
            let k = k - outs;
            inst.src[k] = parsed.operand;
            inst.mods.neg |= (parsed.neg as u8) << k;
            inst.mods.abs |= (parsed.abs as u8) << k;
            inst.mods.sext |= (parsed.sext as u8) << k;
            inst.mods.op_sel |= (parsed.high as u8) << k;
        }
    }
    modify(&mut inst, &modifiers, operands.len() - outs, &entry)
        .ok_or_else(|| format!("unknown modifier: {text}"))?;
    if inst.class == Class::Branch
        && let Some(n) = operands.last().and_then(|n| n.parse::<i64>().ok())
    {
        // Words to jump over, to be resolved by the program.
        inst.target = n as u16 as i16 as usize;
    }
    lanes::wrap(inst, encoding)
}

/// The mnemonic in the table: whole, or less its suffix. Halves of a VOPD go by the names of VOP2.
fn find(written: &str, table: &Table) -> Option<(String, Encoding, Entry)> {
    const SUFFIXES: [(&str, Encoding); 6] = [
        ("_e64_dpp", Encoding::Dpp),
        ("_dpp", Encoding::Dpp),
        ("_sdwa", Encoding::Sdwa),
        ("_e32", Encoding::Plain),
        ("_e64", Encoding::Plain),
        ("", Encoding::Plain),
    ];
    SUFFIXES.iter().find_map(|&(suffix, encoding)| {
        let name = written.strip_suffix(suffix)?;
        let name = match name.strip_prefix("v_dual_") {
            Some(rest) => format!("v_{rest}"),
            None => name.to_owned(),
        };
        table.find(&name).map(|&entry| (name, encoding, entry))
    })
}

/// Operands are separated by commas, modifiers follow them, separated by spaces.
fn split(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut operands, mut modifiers) = (Vec::new(), Vec::new());
    let (mut depth, mut start, mut after_comma) = (0, 0, true);
    let bytes = text.as_bytes();
    for at in 0..=bytes.len() {
        let c = bytes.get(at).copied().unwrap_or(b' ');
        match c {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth -= 1,
            b',' | b' ' if depth == 0 => {
                let word = &text[start..at];
                start = at + 1;
                if !word.is_empty() {
                    if after_comma {
                        operands.push(word)
                    } else {
                        modifiers.push(word)
                    }
                    after_comma = false;
                }
                after_comma |= c == b',';
            }
            _ => {}
        }
    }
    (operands, modifiers)
}

struct Parsed {
    operand: Operand,
    neg: bool,
    abs: bool,
    sext: bool,
    high: bool,
}

fn operand(text: &str) -> Option<Parsed> {
    let mut parsed = Parsed { operand: Operand::None, neg: false, abs: false, sext: false, high: false };
    let mut text = text;
    if let Some(inside) = text.strip_prefix('-')
        && !inside.starts_with(|c: char| c.is_ascii_digit())
    {
        parsed.neg = true;
        text = inside;
    }
    if let Some(inside) = text.strip_prefix("neg(").and_then(|t| t.strip_suffix(')')) {
        parsed.neg = true;
        text = inside;
    }
    if let Some(inside) = text.strip_prefix('|').and_then(|t| t.strip_suffix('|')) {
        parsed.abs = true;
        text = inside;
    }
    if let Some(inside) = text.strip_prefix("sext(").and_then(|t| t.strip_suffix(')')) {
        parsed.sext = true;
        text = inside;
    }
    if let Some(inside) = text.strip_suffix(".h") {
        parsed.high = true;
        text = inside;
    } else if let Some(inside) = text.strip_suffix(".l") {
        text = inside;
    }
    parsed.operand = plain_operand(text)?;
    Some(parsed)
}

fn plain_operand(text: &str) -> Option<Operand> {
    Some(match text {
        "off" => Operand::None,
        "vcc" | "vcc_lo" => Operand::Sgpr(VCC),
        "vcc_hi" => Operand::Sgpr(VCC + 1),
        "exec" | "exec_lo" => Operand::Sgpr(EXEC),
        "exec_hi" => Operand::Sgpr(EXEC + 1),
        "m0" => Operand::Sgpr(M0),
        "null" => Operand::Sgpr(NULL),
        // Of gfx9, where they are no other registers than these.
        "flat_scratch" | "flat_scratch_lo" => Operand::Sgpr(102),
        "flat_scratch_hi" => Operand::Sgpr(103),
        "xnack_mask" | "xnack_mask_lo" => Operand::Sgpr(104),
        "xnack_mask_hi" => Operand::Sgpr(105),
        "scc" | "src_scc" => Operand::Scc,
        "vccz" | "src_vccz" => Operand::Vccz,
        "execz" | "src_execz" => Operand::Execz,
        "src_shared_base" => Operand::SharedBase,
        "src_private_base" => Operand::PrivateBase,
        _ if text.starts_with("0x") => Operand::Literal(u32::from_str_radix(&text[2..], 16).ok()?),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => match text.parse::<i32>() {
            Ok(n) => Operand::Int(n),
            Err(_) if text.starts_with("-0x") => Operand::Int(-integer(&text[1..])?),
            Err(_) => Operand::Float(text.parse::<f32>().ok()?.to_bits()),
        },
        _ => register(text)?,
    })
}

/// `v7`, `s[4:7]`, `ttmp9`, `a[0:3]`: the first register.
fn register(text: &str) -> Option<Operand> {
    let digits = text.find(|c: char| c.is_ascii_digit() || c == '[')?;
    let (file, number) = text.split_at(digits);
    let number = match number.strip_prefix('[') {
        Some(range) => range.strip_suffix(']')?.split(':').next()?,
        None => number,
    };
    let n: u16 = number.parse().ok()?;
    match file {
        "v" if n < ACC => Some(Operand::Vgpr(n)),
        "a" if n < TEMP - ACC => Some(Operand::Vgpr(ACC + n)),
        "s" if n < VCC as u16 => Some(Operand::Sgpr(n as u8)),
        "ttmp" if n < 16 => Some(Operand::Sgpr(TTMP + n as u8)),
        _ => None,
    }
}

fn modify(inst: &mut Inst, modifiers: &[&str], sources: usize, entry: &Entry) -> Option<()> {
    let mods = &mut inst.mods;
    for modifier in modifiers {
        let (name, value) = modifier.split_once(':').unwrap_or((modifier, ""));
        match name {
            "clamp" => mods.clamp = true,
            "mul" => mods.omod = if value == "2" { 1 } else { 2 },
            "div" => mods.omod = 3,
            "op_sel" => {
                let (bits, n) = bit_list(value)?;
                // Unless packed, the entry after the sources' is the destination's.
                mods.op_sel |= if !entry.packed && n == sources + 1 && n <= 4 {
                    bits & ((1 << sources) - 1) | (bits >> sources) << 3
                } else {
                    bits
                };
            }
            "op_sel_hi" => mods.op_sel_hi = Some(bit_list(value)?.0),
            "neg_lo" => mods.neg_lo = bit_list(value)?.0,
            "neg_hi" => mods.neg_hi = bit_list(value)?.0,
            "offset" | "offset0" => mods.offset = lanes::swizzle_offset(value).or_else(|| integer(value))?,
            "offset1" => mods.offset1 = integer(value)?,
            _ => {}
        }
    }
    Some(())
}

/// `[0,1,1]` -> bits, low first, and how many.
fn bit_list(text: &str) -> Option<(u8, usize)> {
    let (mut bits, mut n) = (0, 0);
    for bit in text.strip_prefix('[')?.strip_suffix(']')?.split(',') {
        bits |= match bit {
            "0" => 0,
            "1" => 1 << n,
            _ => return None,
        };
        n += 1;
    }
    Some((bits, n))
}

pub fn integer(text: &str) -> Option<i32> {
    match text.strip_prefix("0x") {
        Some(hex) => i32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Both halves read the registers as they were before either. A half that would disturb the other one goes
/// second; where each would, the first one writes a temporary register that is moved last.
fn dual(mut x: Inst, y: Inst, text: &str) -> Inst {
    let (handler, order): (_, fn(Inst, Inst) -> Vec<Inst>) = if !y.reads(x.dst[0]) {
        (crate::isa::vector::each as _, |x, y| vec![x, y])
    } else if !x.reads(y.dst[0]) {
        (crate::isa::vector::each as _, |x, y| vec![y, x])
    } else {
        (crate::isa::vector::swap as _, |x, y| vec![x, y])
    };
    let dst = x.dst;
    x.text = x.text.trim().into();
    let mut both = Inst { handler, dst, text: text.into(), ..x.clone() };
    both.inner = order(x, y);
    both
}

impl Inst {
    fn reads(&self, register: Operand) -> bool {
        let accumulates = self.mnemonic.contains("fmac") || self.mnemonic.contains("dot2c");
        self.src.contains(&register) || accumulates && self.dst[0] == register
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Inst {
        Inst::parse(text, &Arch::parse("gfx1100").unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn operands_modifiers_and_place() {
        let inst = parse("v_add3_u32 v1, -v2, |s[4:5]|, 0x10 clamp mul:4// 000000003F08: D6560000 0401100F");
        assert_eq!(inst.dst[0], Operand::Vgpr(1));
        assert_eq!(inst.src[..3], [Operand::Vgpr(2), Operand::Sgpr(4), Operand::Literal(16)]);
        assert_eq!((inst.mods.neg, inst.mods.abs, inst.mods.clamp, inst.mods.omod), (1, 2, true, 2));
        assert_eq!((inst.offset, inst.next), (0x3f08, 0x3f10));
        let inst = parse("v_add_nc_u32_e64 v1.h, -1, -0.5 op_sel:[0,1,0]");
        assert_eq!(inst.src[..2], [Operand::Int(-1), Operand::Float((-0.5f32).to_bits())]);
        assert_eq!((inst.mods.op_sel, inst.mods.neg), (0b1010, 0));
    }

    #[test]
    fn halves_of_a_vopd_in_an_order_that_keeps_old_values() {
        let inst = parse("v_dual_mov_b32 v4, 0 :: v_dual_lshlrev_b32 v3, 2, v4");
        assert_eq!(inst.inner[0].dst[0], Operand::Vgpr(3));
        let inst = parse("v_dual_mov_b32 v4, v3 :: v_dual_lshlrev_b32 v3, 2, v2");
        assert_eq!(inst.inner[0].dst[0], Operand::Vgpr(4));
    }

    #[test]
    fn what_is_unknown_is_said() {
        let arch = Arch::parse("gfx1100").unwrap();
        let error = |text| Inst::parse(text, &arch).unwrap_err();
        assert!(error("v_frobnicate_b32 v0, v1").contains("v_frobnicate_b32"));
        assert!(error("v_mov_b32_e32 v0, w1").contains("w1"));
        assert!(error("v_mov_b32_e32").contains("0 operands"));
    }
}
