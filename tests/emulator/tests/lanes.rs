//! Which lane reads which, against the tables of AMD's ISA manuals (DPP: GCN3, RDNA3 "Data Parallel
//! Processing"; swizzle: DS_SWIZZLE_B32), written out as lists.

use amdhip64::counters::Counters;
use amdhip64::group::Group;
use amdhip64::isa::{Arch, Inst};
use amdhip64::lds::Lds;
use amdhip64::memory::Memory;
use amdhip64::stop::{Fault, LaneFault};
use amdhip64::wave::Wave;

fn execute(arch: &str, wave: &mut Wave, text: &str) -> Result<(), LaneFault> {
    let arch = Arch::parse(arch).unwrap();
    let inst = Inst::parse(text, &arch).unwrap_or_else(|why| panic!("{text}: {why}"));
    let memory = Memory::default();
    let mut group = Group { memory: &memory, lds: Lds::new(0), counters: Counters::default() };
    inst.execute(wave, &mut group)
}

/// v1 holds 1000 + lane, v2 100 + lane, v3 lane.
fn wave(lanes: usize) -> Wave {
    let mut wave = Wave::new(lanes);
    for (n, start) in [(1, 1000), (2, 100), (3, 0)] {
        wave.set_vgpr(n, u64::MAX, &std::array::from_fn(|lane| start + lane as u32));
    }
    wave
}

fn run(arch: &str, lanes: usize, exec: u64, text: &str) -> Vec<u32> {
    let mut wave = wave(lanes);
    wave.set_exec(exec);
    execute(arch, &mut wave, text).unwrap();
    assert_eq!(wave.exec(), exec & wave.all(), "{text}");
    wave.vgpr[1][..lanes].to_vec()
}

const ALL: u64 = u64::MAX;

/// `v_mov_b32_dpp v1, v2 PATTERN`: the lanes that the first lanes read; None where v1 stays as it is.
fn check_dpp(arch: &str, lanes: usize, pattern: &str, from: &dyn Fn(usize) -> Option<usize>) {
    let text = format!("v_mov_b32_dpp v1, v2 {pattern} row_mask:0xf bank_mask:0xf");
    let kept: Vec<u32> =
        (0..lanes).map(|lane| from(lane).map_or(1000 + lane as u32, |at| 100 + at as u32)).collect();
    assert_eq!(run(arch, lanes, ALL, &text), kept, "{text}");
    // bound_ctrl: zero in place of the old value.
    let zeroed: Vec<u32> = (0..lanes).map(|lane| from(lane).map_or(0, |at| 100 + at as u32)).collect();
    assert_eq!(run(arch, lanes, ALL, &format!("{text} bound_ctrl:1")), zeroed, "{text} bound_ctrl:1");
    // Destination and source the same.
    let text = format!("v_mov_b32_dpp v2, v2 {pattern} row_mask:0xf bank_mask:0xf");
    let mut wave = wave(lanes);
    execute(arch, &mut wave, &text).unwrap();
    let same: Vec<u32> = (0..lanes).map(|lane| 100 + from(lane).unwrap_or(lane) as u32).collect();
    assert_eq!(wave.vgpr[2][..lanes], same, "{text}");
}

/// Sources of the 16 lanes of a row, the same in each; 99: none.
fn check_row(arch: &str, pattern: &str, row: [usize; 16]) {
    let lanes = if arch.starts_with("gfx9") { 64 } else { 32 };
    check_dpp(arch, lanes, pattern, &|lane| {
        let at = row[lane % 16];
        (at < 16).then_some(lane / 16 * 16 + at)
    });
}

#[test]
fn dpp_within_rows() {
    for arch in ["gfx906", "gfx942", "gfx1030", "gfx1100", "gfx1201"] {
        check_row(arch, "quad_perm:[1,0,3,2]", [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]);
        check_row(arch, "quad_perm:[2,2,0,1]", [2, 2, 0, 1, 6, 6, 4, 5, 10, 10, 8, 9, 14, 14, 12, 13]);
        check_row(arch, "row_shl:1", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 99]);
        check_row(arch, "row_shl:15", [15, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99]);
        check_row(arch, "row_shr:4", [99, 99, 99, 99, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        check_row(arch, "row_ror:3", [13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        check_row(arch, "row_mirror", [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        check_row(arch, "row_half_mirror", [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]);
    }
    for arch in ["gfx1030", "gfx1100", "gfx1201"] {
        check_row(arch, "row_share:5", [5; 16]);
        check_row(arch, "row_xmask:5", [5, 4, 7, 6, 1, 0, 3, 2, 13, 12, 15, 14, 9, 8, 11, 10]);
    }
    check_row("gfx90a", "row_newbcast:9", [9; 16]);
}

#[test]
fn dpp_across_rows_of_gfx9() {
    let check = |pattern, from: &dyn Fn(usize) -> Option<usize>| check_dpp("gfx906", 64, pattern, from);
    check("row_bcast:15", &|lane| [None, Some(15), Some(31), Some(47)][lane / 16]);
    check("row_bcast:31", &|lane| [None, Some(31)][lane / 32]);
    check("wave_shl:1", &|lane| if lane == 63 { None } else { Some(lane + 1) });
    check("wave_shr:1", &|lane| if lane == 0 { None } else { Some(lane - 1) });
    check("wave_rol:1", &|lane| Some(if lane == 63 { 0 } else { lane + 1 }));
    check("wave_ror:1", &|lane| Some(if lane == 0 { 63 } else { lane - 1 }));
}

#[test]
fn dpp_masks() {
    let got = run("gfx906", 64, ALL, "v_mov_b32_dpp v1, v2 row_mirror row_mask:0xa bank_mask:0xf");
    for lane in 0..64 {
        let want = if lane / 16 % 2 == 1 { 100 + (lane ^ 15) } else { 1000 + lane };
        assert_eq!(got[lane as usize], want);
    }
    let got = run("gfx1100", 32, ALL, "v_mov_b32_dpp v1, v2 row_mirror row_mask:0xf bank_mask:0x5");
    for lane in 0..32 {
        let want = if lane / 4 % 2 == 0 { 100 + (lane ^ 15) } else { 1000 + lane };
        assert_eq!(got[lane as usize], want);
    }
}

#[test]
fn dpp_inactive_lanes() {
    // Lanes 0, 1, 2, 4 are active; lane 2 and 4 would read the inactive 3 and 5.
    let (exec, text) = (0b1_0111, "v_mov_b32_dpp v1, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf");
    assert_eq!(run("gfx1100", 32, exec, text)[..6], [101, 100, 1002, 1003, 1004, 1005]);
    let zero = format!("{text} bound_ctrl:1");
    assert_eq!(run("gfx1100", 32, exec, &zero)[..6], [101, 100, 0, 1003, 0, 1005]);
    let fetch = format!("{text} fi:1");
    assert_eq!(run("gfx1100", 32, exec, &fetch)[..6], [101, 100, 103, 1003, 105, 1005]);
}

#[test]
fn dpp8() {
    let text = "v_mov_b32_dpp v1, v2 dpp8:[7,6,5,4,3,2,1,0]";
    let got = run("gfx1100", 32, ALL, text);
    assert_eq!(got[..9], [107, 106, 105, 104, 103, 102, 101, 100, 115]);
    // An inactive lane gives zero, or itself with fi.
    assert_eq!(run("gfx1100", 32, 0x7F, text)[..8], [0, 106, 105, 104, 103, 102, 101, 1007]);
    assert_eq!(run("gfx1100", 32, 0x7F, &format!("{text} fi:1"))[0], 107);
}

#[test]
fn dpp_of_two_sources_and_64_bits() {
    let got = run("gfx1100", 32, ALL, "v_add_nc_u32_dpp v1, v2, v3 row_shr:1 row_mask:0xf bank_mask:0xf");
    assert_eq!(got[..3], [1000, 101, 103]);
    let mut wave = wave(64);
    for n in [4, 5] {
        wave.set_vgpr(n, ALL, &[0; 64]);
    }
    let text = "v_mov_b64_dpp v[4:5], v[2:3] row_newbcast:3 row_mask:0xf bank_mask:0xf";
    execute("gfx942", &mut wave, text).unwrap();
    assert_eq!((wave.vgpr[4][20], wave.vgpr[5][20]), (119, 19));
}

#[test]
fn dpp_reads_of_unwritten_lanes_stop() {
    let mut wave = wave(32);
    wave.vgpr_written[2] &= !(1 << 7);
    let text = "v_add_nc_u32_dpp v1, v2, v3 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf";
    let fault = execute("gfx1100", &mut wave, text).unwrap_err();
    assert_eq!(fault.lane, Some(6));
    assert!(matches!(fault.fault, Fault::UnwrittenRegister { register } if register.starts_with("v2 (")));
    assert_eq!(wave.exec(), 0xFFFF_FFFF);
    // A move hands the knowledge on.
    execute("gfx1100", &mut wave, "v_mov_b32_dpp v1, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf")
        .unwrap();
    assert_eq!(wave.vgpr_written[1] as u32, !(1 << 6));
}

#[test]
fn sdwa_sources() {
    let mut wave = wave(64);
    wave.set_vgpr(4, ALL, &[0x8899_AABB; 64]);
    wave.set_vgpr(5, ALL, &[0; 64]);
    for (select, plain, signed) in [
        ("BYTE_0", 0xBB, 0xFFFF_FFBB),
        ("BYTE_1", 0xAA, 0xFFFF_FFAA),
        ("BYTE_2", 0x99, 0xFFFF_FF99),
        ("BYTE_3", 0x88, 0xFFFF_FF88),
        ("WORD_0", 0xAABB, 0xFFFF_AABB),
        ("WORD_1", 0x8899, 0xFFFF_8899),
        ("DWORD", 0x8899_AABB, 0x8899_AABB),
    ] {
        for (source, want) in [("v4", plain), ("sext(v4)", signed)] {
            let text = format!(
                "v_or_b32_sdwa v6, v5, {source} dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:{select}"
            );
            execute("gfx906", &mut wave, &text).unwrap();
            assert_eq!(wave.vgpr[6][9], want, "{text}");
        }
    }
}

#[test]
fn sdwa_destination() {
    for (select, unused, want) in [
        ("BYTE_1", "UNUSED_PAD", 0x0000_8500),
        ("BYTE_1", "UNUSED_SEXT", 0xFFFF_8500),
        ("BYTE_1", "UNUSED_PRESERVE", 0x1234_8578),
        ("WORD_0", "UNUSED_SEXT", 0xFFFF_F085),
        ("WORD_1", "UNUSED_PRESERVE", 0xF085_5678),
        ("DWORD", "UNUSED_PAD", 0x000D_F085),
    ] {
        let mut wave = wave(64);
        wave.set_vgpr(4, ALL, &[0x000D_F080; 64]);
        wave.set_vgpr(5, ALL, &[0x0000_0500; 64]);
        wave.set_vgpr(6, ALL, &[0x1234_5678; 64]);
        let text = format!(
            "v_or_b32_sdwa v6, v4, v5 dst_sel:{select} dst_unused:{unused} src0_sel:DWORD src1_sel:BYTE_1"
        );
        execute("gfx906", &mut wave, &text).unwrap();
        assert_eq!(wave.vgpr[6][63], want, "{text}");
    }
}

#[test]
fn permlane16() {
    // Lane i takes nibble i of s[3:4]: reversed.
    let mut wave = wave(32);
    wave.set_sgpr(3, 0x89AB_CDEF);
    wave.set_sgpr(4, 0x0123_4567);
    execute("gfx1100", &mut wave, "v_permlane16_b32 v1, v2, s3, s4").unwrap();
    assert_eq!(wave.vgpr[1][..32], std::array::from_fn::<u32, 32, _>(|lane| 100 + (lane as u32 ^ 15)));
    execute("gfx1100", &mut wave, "v_permlanex16_b32 v1, v2, s3, s4").unwrap();
    assert_eq!(wave.vgpr[1][..32], std::array::from_fn::<u32, 32, _>(|lane| 100 + (lane as u32 ^ 31)));
    // Inactive sources: kept; zero with op_sel[1]; read with op_sel[0].
    wave.set_exec(0xFFFF);
    for (suffix, want) in [("", 131), (" op_sel:[0,1]", 0), (" op_sel:[1,0]", 131)] {
        wave.vgpr[1][0] = 131;
        execute("gfx1100", &mut wave, &format!("v_permlanex16_b32 v1, v2, s3, s4{suffix}")).unwrap();
        assert_eq!(wave.vgpr[1][0], want, "{suffix}");
    }
    let mut wave = self::wave(32);
    execute("gfx1201", &mut wave, "v_permlane16_var_b32 v1, v2, v3").unwrap();
    assert_eq!(wave.vgpr[1][..32], std::array::from_fn::<u32, 32, _>(|lane| 100 + lane as u32));
    execute("gfx1201", &mut wave, "v_permlanex16_var_b32 v1, v2, v3").unwrap();
    assert_eq!(wave.vgpr[1][..32], std::array::from_fn::<u32, 32, _>(|lane| 100 + (lane as u32 ^ 16)));
    assert_eq!(run("gfx1100", 64, ALL, "v_permlane64_b32 v1, v2")[..2], [132, 133]);
    assert_eq!(run("gfx1100", 32, ALL, "v_permlane64_b32 v1, v2")[..2], [1000, 1001]);
}

#[test]
fn single_lanes() {
    let mut wave = wave(64);
    wave.set_exec(0xF0);
    execute("gfx942", &mut wave, "v_readfirstlane_b32 s5, v2").unwrap();
    execute("gfx942", &mut wave, "v_readlane_b32 s6, v2, 63").unwrap();
    wave.set_sgpr(7, 64 + 33);
    execute("gfx942", &mut wave, "v_readlane_b32 s8, v2, s7").unwrap();
    assert_eq!((wave.sgpr[5], wave.sgpr[6], wave.sgpr[8]), (104, 163, 133));
    execute("gfx942", &mut wave, "v_writelane_b32 v1, s5, 2").unwrap();
    assert_eq!(wave.vgpr[1][..4], [1000, 1001, 104, 1003]);
    wave.set_exec(0);
    execute("gfx942", &mut wave, "v_readfirstlane_b32 s5, v2").unwrap();
    assert_eq!(wave.sgpr[5], 100);
    // An unwritten lane makes an unwritten scalar.
    wave.vgpr_written[2] &= !1;
    execute("gfx942", &mut wave, "v_readfirstlane_b32 s5, v2").unwrap();
    assert!(wave.need_sgprs(5, 1).is_err());
}

#[test]
fn mask_bit_counts() {
    let mut wave = wave(64);
    wave.set_sgpr(4, 0xFFFF_FFFF);
    wave.set_sgpr(5, 0x0000_000F);
    execute("gfx942", &mut wave, "v_mbcnt_lo_u32_b32 v1, s4, 7").unwrap();
    execute("gfx942", &mut wave, "v_mbcnt_hi_u32_b32 v1, s5, v1").unwrap();
    for lane in 0..64usize {
        let want = 7 + lane.min(32) as u32 + lane.saturating_sub(32).min(4) as u32;
        assert_eq!(wave.vgpr[1][lane], want, "lane {lane}");
    }
}

#[test]
fn permutes_by_address() {
    for (arch, lanes) in [("gfx1100", 32), ("gfx1201", 32), ("gfx942", 64)] {
        let mut wave = wave(lanes);
        let last = lanes as u32 - 1;
        wave.set_vgpr(4, ALL, &std::array::from_fn(|lane| 4 * (last - lane as u32 % (last + 1)) + 1024));
        execute(arch, &mut wave, "ds_bpermute_b32 v1, v4, v2").unwrap();
        let want: Vec<u32> = (0..=last).map(|lane| 100 + last - lane).collect();
        assert_eq!(wave.vgpr[1][..lanes], want);
        execute(arch, &mut wave, "ds_permute_b32 v1, v4, v2 offset:4").unwrap();
        // Lane i pushes to (last - i) + 1.
        assert_eq!(wave.vgpr[1][..3], [100, 100 + last, 100 + last - 1]);
        // Inactive lanes give zero, and receive nothing.
        wave.set_exec(0b11);
        wave.set_vgpr(1, ALL, &[7; 64]);
        wave.set_vgpr(4, ALL, &[8; 64]);
        execute(arch, &mut wave, "ds_bpermute_b32 v1, v4, v2").unwrap();
        assert_eq!(wave.vgpr[1][..3], [0, 0, 7]);
        wave.set_vgpr(4, ALL, &[4; 64]);
        execute(arch, &mut wave, "ds_permute_b32 v1, v4, v2").unwrap();
        assert_eq!(wave.vgpr[1][..3], [0, 101, 7], "the higher lane wins");
    }
}

#[test]
fn swizzles() {
    let sources = |text: &str, exec: u64| -> Vec<i64> {
        run("gfx942", 64, exec, text).into_iter().map(|value| value as i64 - 100).collect()
    };
    let check = |offset: &str, from: &dyn Fn(i64) -> i64| {
        let want: Vec<i64> = (0..64).map(from).collect();
        assert_eq!(sources(&format!("ds_swizzle_b32 v1, v2 offset:{offset}"), ALL), want, "{offset}");
    };
    check("swizzle(QUAD_PERM,1,0,3,2)", &|lane| lane ^ 1);
    check("swizzle(SWAP,16)", &|lane| lane ^ 16);
    check("swizzle(REVERSE,8)", &|lane| lane ^ 7);
    check("swizzle(BROADCAST,8,2)", &|lane| lane / 8 * 8 + 2);
    // Bits 4..0: zero, one, the lane's, the lane's inverted, zero.
    check("swizzle(BITMASK_PERM,\"01pi0\")", &|lane| lane & 32 | 8 | lane & 4 | (lane & 2 ^ 2));
    // CDNA3's table for FFT (its lanes count from 1): offset[4:0] = 0x00, 0x10, 0x1f.
    const FFT_00: [i64; 32] = [
        0x1, 0x11, 0x9, 0x19, 0x5, 0x15, 0xd, 0x1d, 0x3, 0x13, 0xb, 0x1b, 0x7, 0x17, 0xf, 0x1f, 0x2, 0x12,
        0xa, 0x1a, 0x6, 0x16, 0xe, 0x1e, 0x4, 0x14, 0xc, 0x1c, 0x8, 0x18, 0x10, 0x20,
    ];
    const FFT_10: [i64; 32] = [
        0x1, 0x9, 0x5, 0xd, 0x3, 0xb, 0x7, 0xf, 0x2, 0xa, 0x6, 0xe, 0x4, 0xc, 0x8, 0x10, 0x11, 0x19, 0x15,
        0x1d, 0x13, 0x1b, 0x17, 0x1f, 0x12, 0x1a, 0x16, 0x1e, 0x14, 0x1c, 0x18, 0x20,
    ];
    check("57344", &|lane| lane / 32 * 32 + FFT_00[lane as usize % 32] - 1);
    check("57360", &|lane| lane / 32 * 32 + FFT_10[lane as usize % 32] - 1);
    check("57375", &|lane| lane);
    // Rotation by one lane, to the left (bit 10 clear).
    check("49184", &|lane| lane & 32 | (lane + 1) & 31);
    assert_eq!(sources("ds_swizzle_b32 v1, v2 offset:swizzle(SWAP,1)", 1)[..2], [-100, 901]);
}
