//! Scalar integer instructions: SOP1, SOP2, SOPC, SOPK. SCC is set as the manuals say: carry, overflow, or
//! "the result is not zero".

use crate::counters::Class::Scalar;
use crate::isa::alu::Done;
use crate::isa::{Inst, Operand, Table};
use crate::stop::Fault;
use crate::wave::{Denormals, EXEC, Wave};

/// A result and the new SCC, if the instruction sets it.
type Result32 = (u32, Option<bool>);
type Result64 = (u64, Option<bool>);

pub fn table(t: &mut Table) {
    moves(t);
    arithmetic(t);
    bitwise(t);
    shifts_and_fields(t);
    counts(t);
    exec_masks(t);
    compares(t);
    immediates(t);
    modes(t);
}

fn moves(t: &mut Table) {
    t.add("s_mov_b32", Scalar, 1, |i, w, _| {
        let value = (w.scalar32(i.src[0]), w.written(i.src[0], 1) != 0);
        put32(i, w, value)
    });
    t.add("s_mov_b64", Scalar, 1, |i, w, _| {
        let value = (w.scalar64(i.src[0], false), w.written(i.src[0], 2) != 0);
        put64(i, w, value)
    });
    t.add("s_cmov_b32", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        if w.scc { put32(i, w, (w.scalar32(i.src[0]), w.written(i.src[0], 1) != 0)) } else { Ok(()) }
    });
    t.add("s_cmov_b64", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        if w.scc { put64(i, w, (w.scalar64(i.src[0], false), w.written(i.src[0], 2) != 0)) } else { Ok(()) }
    });
    t.add("s_cselect_b32", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        let from = i.src[!w.scc as usize];
        put32(i, w, (w.scalar32(from), w.written(from, 1) != 0))
    });
    t.add("s_cselect_b64", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        let from = i.src[!w.scc as usize];
        put64(i, w, (w.scalar64(from, false), w.written(from, 2) != 0))
    });
    t.add("s_sext_i32_i8", Scalar, 1, |i, w, _| int1(i, w, |a| (a as i8 as u32, None)));
    t.add("s_sext_i32_i16", Scalar, 1, |i, w, _| int1(i, w, |a| (a as i16 as u32, None)));
    t.add("s_pack_ll_b32_b16", Scalar, 1, |i, w, _| pack(i, w, |a, b| a & 0xffff | b << 16));
    t.add("s_pack_lh_b32_b16", Scalar, 1, |i, w, _| pack(i, w, |a, b| a & 0xffff | b & 0xffff_0000));
    t.add("s_pack_hh_b32_b16", Scalar, 1, |i, w, _| pack(i, w, |a, b| a >> 16 | b & 0xffff_0000));
    t.add("s_pack_hl_b32_b16", Scalar, 1, |i, w, _| pack(i, w, |a, b| a >> 16 | b << 16));
}

fn arithmetic(t: &mut Table) {
    t.add("s_add_u32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| {
            let (sum, carry) = a.overflowing_add(b);
            (sum, Some(carry))
        })
    });
    t.add("s_sub_u32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| {
            let (difference, borrow) = a.overflowing_sub(b);
            (difference, Some(borrow))
        })
    });
    t.add("s_add_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| {
            let (sum, overflow) = (a as i32).overflowing_add(b as i32);
            (sum as u32, Some(overflow))
        })
    });
    t.add("s_sub_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| {
            let (difference, overflow) = (a as i32).overflowing_sub(b as i32);
            (difference as u32, Some(overflow))
        })
    });
    t.add("s_addc_u32", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        let carry = w.scc as u64;
        int2(i, w, |a, b| {
            let sum = a as u64 + b as u64 + carry;
            (sum as u32, Some(sum >> 32 != 0))
        })
    });
    t.add("s_subb_u32", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        let borrow = w.scc as u64;
        int2(i, w, |a, b| {
            let difference = (a as u64).wrapping_sub(b as u64 + borrow);
            (difference as u32, Some(difference >> 32 != 0))
        })
    });
    t.alias(&["s_add_co_u32"], "s_add_u32");
    t.alias(&["s_sub_co_u32"], "s_sub_u32");
    t.alias(&["s_add_co_i32"], "s_add_i32");
    t.alias(&["s_sub_co_i32"], "s_sub_i32");
    t.alias(&["s_add_co_ci_u32"], "s_addc_u32");
    t.alias(&["s_sub_co_ci_u32"], "s_subb_u32");
    t.add("s_add_nc_u64", Scalar, 1, |i, w, _| wide2(i, w, |a, b| (a.wrapping_add(b), None)));
    t.add("s_sub_nc_u64", Scalar, 1, |i, w, _| wide2(i, w, |a, b| (a.wrapping_sub(b), None)));
    t.alias(&["s_add_u64"], "s_add_nc_u64");
    t.alias(&["s_sub_u64"], "s_sub_nc_u64");
    t.add("s_mul_u64", Scalar, 1, |i, w, _| wide2(i, w, |a, b| (a.wrapping_mul(b), None)));
    t.add("s_mul_i32", Scalar, 1, |i, w, _| int2(i, w, |a, b| (a.wrapping_mul(b), None)));
    t.add("s_mul_hi_u32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| (((a as u64 * b as u64) >> 32) as u32, None))
    });
    t.add("s_mul_hi_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| (((a as i32 as i64 * b as i32 as i64) >> 32) as u32, None))
    });
    t.add("s_abs_i32", Scalar, 1, |i, w, _| int1(i, w, |a| nonzero((a as i32).wrapping_abs() as u32)));
    t.add("s_absdiff_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| nonzero((a as i32).wrapping_sub(b as i32).wrapping_abs() as u32))
    });
    t.add("s_min_u32", Scalar, 1, |i, w, _| int2(i, w, |a, b| (a.min(b), Some(a < b))));
    t.add("s_max_u32", Scalar, 1, |i, w, _| int2(i, w, |a, b| (a.max(b), Some(a >= b))));
    t.add("s_min_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| ((a as i32).min(b as i32) as u32, Some((a as i32) < b as i32)))
    });
    t.add("s_max_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| ((a as i32).max(b as i32) as u32, Some(a as i32 >= b as i32)))
    });
    macro_rules! shift_add {
        ($($name:literal $by:literal)*) => {$(
            t.add($name, Scalar, 1, |i, w, _| {
                int2(i, w, |a, b| {
                    let sum = ((a as u64) << $by) + b as u64;
                    (sum as u32, Some(sum >> 32 != 0))
                })
            });
        )*};
    }
    shift_add!("s_lshl1_add_u32" 1 "s_lshl2_add_u32" 2 "s_lshl3_add_u32" 3 "s_lshl4_add_u32" 4);
}

fn bitwise(t: &mut Table) {
    macro_rules! both {
        ($($name:literal $f:expr;)*) => {$(
            t.add(concat!($name, "_b32"), Scalar, 1, |i, w, _| {
                let f: fn(u64, u64) -> u64 = $f;
                logic32(i, w, |a, b| f(a as u64, b as u64) as u32)
            });
            t.add(concat!($name, "_b64"), Scalar, 1, |i, w, _| logic64(i, w, $f));
        )*};
    }
    both!(
        "s_and" |a, b| a & b;
        "s_or" |a, b| a | b;
        "s_xor" |a, b| a ^ b;
        "s_and_not1" |a, b| a & !b;
        "s_or_not1" |a, b| a | !b;
        "s_nand" |a, b| !(a & b);
        "s_nor" |a, b| !(a | b);
        "s_xnor" |a, b| !(a ^ b);
    );
    t.alias(&["s_andn2_b32"], "s_and_not1_b32");
    t.alias(&["s_andn2_b64"], "s_and_not1_b64");
    t.alias(&["s_orn2_b32"], "s_or_not1_b32");
    t.alias(&["s_orn2_b64"], "s_or_not1_b64");
    t.add("s_not_b32", Scalar, 1, |i, w, _| {
        let (value, written) = (!w.scalar32(i.src[0]), w.written(i.src[0], 1) != 0);
        w.set_scc(value != 0);
        put32(i, w, (value, written))
    });
    t.add("s_not_b64", Scalar, 1, |i, w, _| {
        let (value, written) = (!w.scalar64(i.src[0], false), w.written(i.src[0], 2) != 0);
        w.set_scc(value != 0);
        put64(i, w, (value, written))
    });
    t.add("s_wqm_b32", Scalar, 1, |i, w, _| int1(i, w, |a| nonzero(whole_quads(a as u64) as u32)));
    t.add("s_wqm_b64", Scalar, 1, |i, w, _| wide1(i, w, |a| nonzero64(whole_quads(a))));
    t.add("s_quadmask_b32", Scalar, 1, |i, w, _| int1(i, w, |a| nonzero(quad_mask(a as u64) as u32)));
    t.add("s_quadmask_b64", Scalar, 1, |i, w, _| wide1(i, w, |a| nonzero64(quad_mask(a))));
    t.add("s_bitreplicate_b64_b32", Scalar, 1, |i, w, _| {
        w.need(i.src[0], 1, 0)?;
        let a = w.scalar32(i.src[0]);
        set64(i, w, (0..32).fold(0, |all, bit| all | ((a >> bit & 1) as u64 * 3) << (2 * bit)));
        Ok(())
    });
    t.add("s_bitset0_b32", Scalar, 1, |i, w, _| keep32(i, w, |old, a| old & !(1 << (a & 31))));
    t.add("s_bitset1_b32", Scalar, 1, |i, w, _| keep32(i, w, |old, a| old | 1 << (a & 31)));
    t.add("s_bitset0_b64", Scalar, 1, |i, w, _| keep64(i, w, |old, a| old & !(1 << (a & 63))));
    t.add("s_bitset1_b64", Scalar, 1, |i, w, _| keep64(i, w, |old, a| old | 1 << (a & 63)));
}

fn shifts_and_fields(t: &mut Table) {
    t.add("s_lshl_b32", Scalar, 1, |i, w, _| int2(i, w, |a, b| nonzero(a << (b & 31))));
    t.add("s_lshr_b32", Scalar, 1, |i, w, _| int2(i, w, |a, b| nonzero(a >> (b & 31))));
    t.add("s_ashr_i32", Scalar, 1, |i, w, _| int2(i, w, |a, b| nonzero((a as i32 >> (b & 31)) as u32)));
    t.add("s_lshl_b64", Scalar, 1, |i, w, _| shift64(i, w, false, |a, b| a << (b & 63)));
    t.add("s_lshr_b64", Scalar, 1, |i, w, _| shift64(i, w, false, |a, b| a >> (b & 63)));
    t.add("s_ashr_i64", Scalar, 1, |i, w, _| shift64(i, w, true, |a, b| (a as i64 >> (b & 63)) as u64));
    t.add("s_bfm_b32", Scalar, 1, |i, w, _| int2(i, w, |a, b| (((1 << (a & 31)) - 1) << (b & 31), None)));
    t.add("s_bfm_b64", Scalar, 1, |i, w, _| {
        int2(i, w, |_, _| (0, None))?;
        let (a, b) = (w.scalar32(i.src[0]), w.scalar32(i.src[1]));
        set64(i, w, ((1u64 << (a & 63)) - 1) << (b & 63));
        Ok(())
    });
    t.add("s_bfe_u32", Scalar, 1, |i, w, _| int2(i, w, |a, b| nonzero(field(a as u64, b, 31) as u32)));
    t.add("s_bfe_i32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| nonzero(signed_field(a as i32 as i64 as u64, b, 31, 32) as u32))
    });
    t.add("s_bfe_u64", Scalar, 1, |i, w, _| shift64(i, w, false, |a, b| field(a, b, 63)));
    t.add("s_bfe_i64", Scalar, 1, |i, w, _| shift64(i, w, true, |a, b| signed_field(a, b, 63, 64)));
    t.add("s_brev_b32", Scalar, 1, |i, w, _| int1(i, w, |a| (a.reverse_bits(), None)));
    t.add("s_brev_b64", Scalar, 1, |i, w, _| wide1(i, w, |a| (a.reverse_bits(), None)));
}

fn counts(t: &mut Table) {
    t.add("s_bcnt0_i32_b32", Scalar, 1, |i, w, _| int1(i, w, |a| nonzero(a.count_zeros())));
    t.add("s_bcnt1_i32_b32", Scalar, 1, |i, w, _| int1(i, w, |a| nonzero(a.count_ones())));
    t.add("s_bcnt0_i32_b64", Scalar, 1, |i, w, _| count64(i, w, |a| nonzero(a.count_zeros())));
    t.add("s_bcnt1_i32_b64", Scalar, 1, |i, w, _| count64(i, w, |a| nonzero(a.count_ones())));
    t.add("s_ctz_i32_b32", Scalar, 1, |i, w, _| int1(i, w, |a| (first(a.trailing_zeros(), 32), None)));
    t.add("s_ctz_i32_b64", Scalar, 1, |i, w, _| count64(i, w, |a| (first(a.trailing_zeros(), 64), None)));
    t.add("s_clz_i32_u32", Scalar, 1, |i, w, _| int1(i, w, |a| (first(a.leading_zeros(), 32), None)));
    t.add("s_clz_i32_u64", Scalar, 1, |i, w, _| count64(i, w, |a| (first(a.leading_zeros(), 64), None)));
    t.add("s_cls_i32", Scalar, 1, |i, w, _| int1(i, w, |a| (sign_bits(a), None)));
    t.add("s_cls_i32_i64", Scalar, 1, |i, w, _| {
        count64(i, w, |a| (first((a ^ (a as i64 >> 63) as u64).leading_zeros(), 64), None))
    });
    t.add("s_ff0_i32_b32", Scalar, 1, |i, w, _| int1(i, w, |a| (first(a.trailing_ones(), 32), None)));
    t.add("s_ff0_i32_b64", Scalar, 1, |i, w, _| count64(i, w, |a| (first(a.trailing_ones(), 64), None)));
    t.alias(&["s_ff1_i32_b32"], "s_ctz_i32_b32");
    t.alias(&["s_ff1_i32_b64"], "s_ctz_i32_b64");
    t.alias(&["s_flbit_i32_b32"], "s_clz_i32_u32");
    t.alias(&["s_flbit_i32_b64"], "s_clz_i32_u64");
    t.alias(&["s_flbit_i32"], "s_cls_i32");
    t.alias(&["s_flbit_i32_i64"], "s_cls_i32_i64");
}

fn exec_masks(t: &mut Table) {
    // EXEC = f(source, EXEC); the old EXEC is kept.
    macro_rules! save {
        ($($name:literal $f:expr;)*) => {$(
            t.add(concat!("s_", $name, "_saveexec_b32"), Scalar, 1, |i, w, _| save_exec(i, w, false, $f));
            t.add(concat!("s_", $name, "_saveexec_b64"), Scalar, 1, |i, w, _| save_exec(i, w, true, $f));
        )*};
    }
    save!(
        "and" |s, exec| s & exec;
        "or" |s, exec| s | exec;
        "xor" |s, exec| s ^ exec;
        "nand" |s, exec| !(s & exec);
        "nor" |s, exec| !(s | exec);
        "xnor" |s, exec| !(s ^ exec);
        "and_not0" |s, exec| !s & exec;
        "or_not0" |s, exec| !s | exec;
        "and_not1" |s, exec| s & !exec;
        "or_not1" |s, exec| s | !exec;
    );
    macro_rules! aliases {
        ($($old:literal $new:literal)*) => {$(
            t.alias(&[concat!("s_", $old, "_saveexec_b32")], concat!("s_", $new, "_saveexec_b32"));
            t.alias(&[concat!("s_", $old, "_saveexec_b64")], concat!("s_", $new, "_saveexec_b64"));
        )*};
    }
    aliases!("andn1" "and_not0" "orn1" "or_not0" "andn2" "and_not1" "orn2" "or_not1");
    // The same, but the new EXEC is what is kept.
    t.add("s_and_not0_wrexec_b32", Scalar, 1, |i, w, _| write_exec(i, w, false, |s, exec| !s & exec));
    t.add("s_and_not0_wrexec_b64", Scalar, 1, |i, w, _| write_exec(i, w, true, |s, exec| !s & exec));
    t.add("s_and_not1_wrexec_b32", Scalar, 1, |i, w, _| write_exec(i, w, false, |s, exec| s & !exec));
    t.add("s_and_not1_wrexec_b64", Scalar, 1, |i, w, _| write_exec(i, w, true, |s, exec| s & !exec));
    t.alias(&["s_andn1_wrexec_b32"], "s_and_not0_wrexec_b32");
    t.alias(&["s_andn1_wrexec_b64"], "s_and_not0_wrexec_b64");
    t.alias(&["s_andn2_wrexec_b32"], "s_and_not1_wrexec_b32");
    t.alias(&["s_andn2_wrexec_b64"], "s_and_not1_wrexec_b64");
}

fn compares(t: &mut Table) {
    macro_rules! compare {
        ($($name:literal $op:tt)*) => {$(
            t.add(concat!("s_cmp_", $name, "_i32"), Scalar, 0, |i, w, _| {
                compare32(i, w, |a, b| (a as i32) $op (b as i32))
            });
            t.add(concat!("s_cmp_", $name, "_u32"), Scalar, 0, |i, w, _| compare32(i, w, |a, b| a $op b));
            // The immediate has 16 bits, signed or not as the comparison is.
            t.add(concat!("s_cmpk_", $name, "_i32"), Scalar, 0, |i, w, _| {
                compare32(i, w, |a, b| (a as i32) $op (b as i16 as i32))
            });
            t.add(concat!("s_cmpk_", $name, "_u32"), Scalar, 0, |i, w, _| {
                compare32(i, w, |a, b| a $op (b as u16 as u32))
            });
        )*};
    }
    compare!("eq" == "lg" != "gt" > "ge" >= "lt" < "le" <=);
    t.add("s_cmp_eq_u64", Scalar, 0, |i, w, _| compare64(i, w, |a, b| a == b));
    t.add("s_cmp_lg_u64", Scalar, 0, |i, w, _| compare64(i, w, |a, b| a != b));
    t.add("s_bitcmp0_b32", Scalar, 0, |i, w, _| compare32(i, w, |a, b| a >> (b & 31) & 1 == 0));
    t.add("s_bitcmp1_b32", Scalar, 0, |i, w, _| compare32(i, w, |a, b| a >> (b & 31) & 1 == 1));
    t.add("s_bitcmp0_b64", Scalar, 0, |i, w, _| bit_compare64(i, w, false));
    t.add("s_bitcmp1_b64", Scalar, 0, |i, w, _| bit_compare64(i, w, true));
}

fn immediates(t: &mut Table) {
    t.add("s_movk_i32", Scalar, 1, |i, w, _| {
        set32(i, w, immediate(i));
        Ok(())
    });
    t.add("s_cmovk_i32", Scalar, 1, |i, w, _| {
        w.need_scc()?;
        if w.scc {
            set32(i, w, immediate(i));
        }
        Ok(())
    });
    t.add("s_addk_i32", Scalar, 1, |i, w, _| {
        w.need(i.dst[0], 1, 0)?;
        let (sum, overflow) = (w.scalar32(i.dst[0]) as i32).overflowing_add(immediate(i) as i32);
        set32(i, w, sum as u32);
        w.set_scc(overflow);
        Ok(())
    });
    t.alias(&["s_addk_co_i32"], "s_addk_i32");
    t.add("s_mulk_i32", Scalar, 1, |i, w, _| {
        w.need(i.dst[0], 1, 0)?;
        set32(i, w, w.scalar32(i.dst[0]).wrapping_mul(immediate(i)));
        Ok(())
    });
}

fn modes(t: &mut Table) {
    t.add("s_denorm_mode", Scalar, 0, |i, w, _| {
        let mode = i.src[0].bits32();
        w.denormals = Denormals::from_mode(mode);
        w.denormals_16_64 = Denormals::from_mode(mode >> 2);
        Ok(())
    });
    // Rounding to nearest even is the only mode there is here.
    t.add("s_round_mode", Scalar, 0, |i, _, _| {
        if i.src[0].bits32() & 15 == 0 { Ok(()) } else { Err(Fault::UnknownOpcode.into()) }
    });
}

fn nonzero(value: u32) -> Result32 {
    (value, Some(value != 0))
}

fn nonzero64(value: u64) -> Result64 {
    (value, Some(value != 0))
}

/// A bit's position, or -1 if there is none.
pub fn first(position: u32, none: u32) -> u32 {
    if position == none { u32::MAX } else { position }
}

/// Leading bits equal to the sign, or -1 if all are.
pub fn sign_bits(a: u32) -> u32 {
    first((a ^ (a as i32 >> 31) as u32).leading_zeros(), 32)
}

/// Bits `offset = b[4:0]` (or 5:0), `width = b[22:16]` of `a`.
fn field(a: u64, b: u32, offsets: u32) -> u64 {
    let width = b >> 16 & 0x7f;
    let mask = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
    a >> (b & offsets) & mask
}

fn signed_field(a: u64, b: u32, offsets: u32, size: u32) -> u64 {
    let width = (b >> 16 & 0x7f).min(size);
    if width == 0 {
        return 0;
    }
    ((field(a, b, offsets) << (64 - width)) as i64 >> (64 - width)) as u64
}

/// Per four bits: all of them, if one is set.
fn whole_quads(a: u64) -> u64 {
    quad_bits(a) * 15
}

/// Bit 0 of each four: is one of them set.
fn quad_bits(a: u64) -> u64 {
    (a | a >> 1 | a >> 2 | a >> 3) & 0x1111_1111_1111_1111
}

fn quad_mask(a: u64) -> u64 {
    (0..16).fold(0, |all, quad| all | (quad_bits(a) >> (4 * quad) & 1) << quad)
}

/// The 16-bit immediate of a SOPK, sign-extended.
fn immediate(inst: &Inst) -> u32 {
    inst.src[0].bits32() as i16 as u32
}

fn set32(inst: &Inst, wave: &mut Wave, value: u32) {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, value);
    }
}

fn set64(inst: &Inst, wave: &mut Wave, value: u64) {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr64(n, value);
    }
}

/// A value, and whether it counts as written.
fn put32(inst: &Inst, wave: &mut Wave, (value, written): (u32, bool)) -> Done {
    set32(inst, wave, value);
    if !written && let Operand::Sgpr(n) = inst.dst[0] {
        wave.sgpr_written &= !(1 << n);
    }
    Ok(())
}

fn put64(inst: &Inst, wave: &mut Wave, (value, written): (u64, bool)) -> Done {
    set64(inst, wave, value);
    if !written && let Operand::Sgpr(n) = inst.dst[0] {
        wave.sgpr_written &= !(3 << n);
    }
    Ok(())
}

#[inline(always)]
fn int1(inst: &Inst, wave: &mut Wave, f: impl Fn(u32) -> Result32) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    let (value, scc) = f(wave.scalar32(inst.src[0]));
    finish32(inst, wave, value, scc)
}

#[inline(always)]
fn int2(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> Result32) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let (value, scc) = f(wave.scalar32(inst.src[0]), wave.scalar32(inst.src[1]));
    finish32(inst, wave, value, scc)
}

fn finish32(inst: &Inst, wave: &mut Wave, value: u32, scc: Option<bool>) -> Done {
    set32(inst, wave, value);
    if let Some(scc) = scc {
        wave.set_scc(scc);
    }
    Ok(())
}

#[inline(always)]
fn wide1(inst: &Inst, wave: &mut Wave, f: impl Fn(u64) -> Result64) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    let (value, scc) = f(wave.scalar64(inst.src[0], false));
    finish64(inst, wave, value, scc)
}

#[inline(always)]
fn wide2(inst: &Inst, wave: &mut Wave, f: impl Fn(u64, u64) -> Result64) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    wave.need(inst.src[1], 2, 0)?;
    let (value, scc) = f(wave.scalar64(inst.src[0], false), wave.scalar64(inst.src[1], false));
    finish64(inst, wave, value, scc)
}

fn finish64(inst: &Inst, wave: &mut Wave, value: u64, scc: Option<bool>) -> Done {
    set64(inst, wave, value);
    if let Some(scc) = scc {
        wave.set_scc(scc);
    }
    Ok(())
}

/// 64 bits in, 32 out.
#[inline(always)]
fn count64(inst: &Inst, wave: &mut Wave, f: impl Fn(u64) -> Result32) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    let (value, scc) = f(wave.scalar64(inst.src[0], false));
    finish32(inst, wave, value, scc)
}

/// 64 bits and a 32-bit distance.
#[inline(always)]
fn shift64(inst: &Inst, wave: &mut Wave, signed: bool, f: impl Fn(u64, u32) -> u64) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let value = f(wave.scalar64(inst.src[0], signed), wave.scalar32(inst.src[1]));
    finish64(inst, wave, value, Some(value != 0))
}

/// Bitwise operations: one written source is enough, see [`crate::isa`].
#[inline(always)]
fn logic32(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> u32) -> Done {
    let written = wave.written(inst.src[0], 1) | wave.written(inst.src[1], 1) != 0;
    let value = f(wave.scalar32(inst.src[0]), wave.scalar32(inst.src[1]));
    wave.set_scc(value != 0);
    put32(inst, wave, (value, written))
}

#[inline(always)]
fn logic64(inst: &Inst, wave: &mut Wave, f: impl Fn(u64, u64) -> u64) -> Done {
    let written = wave.written(inst.src[0], 2) | wave.written(inst.src[1], 2) != 0;
    let value = f(wave.scalar64(inst.src[0], false), wave.scalar64(inst.src[1], false));
    wave.set_scc(value != 0);
    put64(inst, wave, (value, written))
}

/// Two 16-bit halves: a move, unwritten if either source is.
fn pack(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> u32) -> Done {
    let written = wave.written(inst.src[0], 1) & wave.written(inst.src[1], 1) != 0;
    put32(inst, wave, (f(wave.scalar32(inst.src[0]), wave.scalar32(inst.src[1])), written))
}

/// The destination is a source too.
fn keep32(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> u32) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    let value = f(wave.scalar32(inst.dst[0]), wave.scalar32(inst.src[0]));
    put32(inst, wave, (value, wave.written(inst.dst[0], 1) != 0))
}

fn keep64(inst: &Inst, wave: &mut Wave, f: impl Fn(u64, u32) -> u64) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    let value = f(wave.scalar64(inst.dst[0], false), wave.scalar32(inst.src[0]));
    put64(inst, wave, (value, wave.written(inst.dst[0], 2) != 0))
}

#[inline(always)]
fn compare32(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> bool) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let scc = f(wave.scalar32(inst.src[0]), wave.scalar32(inst.src[1]));
    wave.set_scc(scc);
    Ok(())
}

#[inline(always)]
fn compare64(inst: &Inst, wave: &mut Wave, f: impl Fn(u64, u64) -> bool) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    wave.need(inst.src[1], 2, 0)?;
    let scc = f(wave.scalar64(inst.src[0], false), wave.scalar64(inst.src[1], false));
    wave.set_scc(scc);
    Ok(())
}

fn bit_compare64(inst: &Inst, wave: &mut Wave, set: bool) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let bit = wave.scalar64(inst.src[0], false) >> (wave.scalar32(inst.src[1]) & 63) & 1;
    wave.set_scc((bit != 0) == set);
    Ok(())
}

fn new_exec(
    inst: &Inst,
    wave: &Wave,
    wide: bool,
    f: fn(u64, u64) -> u64,
) -> Result<(u64, u64), crate::stop::LaneFault> {
    wave.need(inst.src[0], 1 + wide as u32, 0)?;
    let old = wave.sgpr64(EXEC);
    Ok(if wide {
        (old, f(wave.scalar64(inst.src[0], false), old))
    } else {
        let low = f(wave.scalar32(inst.src[0]) as u64, old & 0xffff_ffff) & 0xffff_ffff;
        (old, old & !0xffff_ffff | low)
    })
}

#[inline(always)]
fn save_exec(inst: &Inst, wave: &mut Wave, wide: bool, f: fn(u64, u64) -> u64) -> Done {
    let (old, new) = new_exec(inst, wave, wide, f)?;
    if wide {
        set64(inst, wave, old)
    } else {
        set32(inst, wave, old as u32)
    }
    wave.set_exec(new);
    wave.set_scc(if wide { new != 0 } else { new as u32 != 0 });
    Ok(())
}

#[inline(always)]
fn write_exec(inst: &Inst, wave: &mut Wave, wide: bool, f: fn(u64, u64) -> u64) -> Done {
    let (_, new) = new_exec(inst, wave, wide, f)?;
    wave.set_exec(new);
    if wide {
        set64(inst, wave, new)
    } else {
        set32(inst, wave, new as u32)
    }
    wave.set_scc(if wide { new != 0 } else { new as u32 != 0 });
    Ok(())
}
