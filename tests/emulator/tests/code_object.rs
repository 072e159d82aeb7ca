//! Code objects against what the compiler itself says of them.

mod common;

use amdhip64::code_object::{CodeObject, Malformed, UserSgpr, runs};
use common::{assembly, compile};

const TARGETS: [&str; 20] = [
    "gfx900",
    "gfx906",
    "gfx908",
    "gfx90a",
    "gfx942",
    "gfx1010",
    "gfx1030",
    "gfx1100",
    "gfx1101",
    "gfx1102",
    "gfx1103",
    "gfx1150",
    "gfx1151",
    "gfx1200",
    "gfx1201",
    "gfx9-generic",
    "gfx10-1-generic",
    "gfx10-3-generic",
    "gfx11-generic",
    "gfx12-generic",
];

const SOURCE: &str = r#"
    KERNEL void many(unsigned *p, float e, unsigned short s) {
        __shared__ unsigned t[100];
        t[__builtin_amdgcn_workitem_id_y()] = 1;
        barrier();
        p[tid + __builtin_amdgcn_workgroup_id_z()] = t[s] + __builtin_amdgcn_workgroup_size_x()
            + __builtin_amdgcn_grid_size_y();
    }
    KERNEL void few() {}"#;

/// `.amdhsa_NAME VALUE` of a kernel.
fn stated(assembly: &str, kernel: &str, name: &str) -> u32 {
    let block = assembly.split(&format!(".amdhsa_kernel {kernel}\n")).nth(1).expect("the kernel's block");
    let block = block.split(".end_amdhsa_kernel").next().unwrap();
    let line = block.lines().find_map(|l| l.trim().strip_prefix(&format!(".amdhsa_{name} ")));
    line.unwrap_or("0").trim().parse().expect("a number")
}

#[test]
fn descriptors_say_what_the_compiler_stated() {
    for target in TARGETS {
        let object =
            CodeObject::parse(&compile(target, SOURCE)).unwrap_or_else(|e| panic!("{target}: {e:?}"));
        let text = assembly(target, SOURCE);
        assert_eq!(object.target, target);
        for kernel in ["many", "few"] {
            let stated = |name: &str| stated(&text, kernel, name);
            let found = &object.kernels[kernel];
            let descriptor = &found.descriptor;
            let at = format!("{target} {kernel}");
            assert_eq!(descriptor.lds, stated("group_segment_fixed_size"), "{at}");
            assert_eq!(descriptor.scratch, stated("private_segment_fixed_size"), "{at}");
            assert_eq!(descriptor.kernarg, stated("kernarg_size"), "{at}");
            assert_eq!(descriptor.user_sgpr_count(), stated("user_sgpr_count"), "{at}");
            let ids = ["x", "y", "z"].map(|axis| stated(&format!("system_sgpr_workgroup_id_{axis}")) == 1);
            assert_eq!(descriptor.workgroup_ids(), ids, "{at}");
            assert_eq!(descriptor.workitem_ids() as u32, stated("system_vgpr_workitem_id") + 1, "{at}");
            assert_eq!(descriptor.wave32(), stated("wavefront_size32") == 1, "{at}");
            let denormals = [stated("float_denorm_mode_32"), stated("float_denorm_mode_16_64")];
            assert_eq!(descriptor.denormals(), denormals, "{at}");
            let user: Vec<_> = descriptor.user_sgprs().collect();
            for (sgpr, name) in [
                (UserSgpr::PrivateSegmentBuffer, "private_segment_buffer"),
                (UserSgpr::DispatchPtr, "dispatch_ptr"),
                (UserSgpr::QueuePtr, "queue_ptr"),
                (UserSgpr::KernargSegmentPtr, "kernarg_segment_ptr"),
                (UserSgpr::DispatchId, "dispatch_id"),
                (UserSgpr::FlatScratchInit, "flat_scratch_init"),
                (UserSgpr::PrivateSegmentSize, "private_segment_size"),
            ] {
                assert_eq!(user.contains(&sgpr), stated(&format!("user_sgpr_{name}")) == 1, "{at} {name}");
            }
            assert_eq!(found.metadata.lanes, if descriptor.wave32() { 32 } else { 64 }, "{at}");
            assert_eq!(found.metadata.max_block, 1024, "{at}");
        }
        let args = &object.kernels["many"].metadata.args;
        let explicit: Vec<_> = args.iter().filter(|a| !a.hidden()).map(|a| (a.offset, a.size)).collect();
        assert_eq!(explicit, [(0, 8), (8, 4), (12, 2)], "{target}");
    }
}

#[test]
fn generic_code_runs_on_its_family_alone() {
    for (card, code, want) in [
        ("gfx1100", "gfx1100", true),
        ("gfx1100", "gfx1101", false),
        ("gfx1151", "gfx11-generic", true),
        ("gfx1201", "gfx11-generic", false),
        ("gfx906", "gfx9-generic", true),
        ("gfx90a", "gfx9-generic", false),
        ("gfx942", "gfx9-4-generic", true),
        ("gfx1010", "gfx10-3-generic", false),
    ] {
        assert_eq!(runs(card, code), want, "{code} on {card}");
    }
}

#[test]
fn broken_files_are_refused_without_a_panic() {
    let good = compile("gfx1100", SOURCE);
    assert!(matches!(CodeObject::parse(&[]), Err(Malformed::NotOne)));
    let host = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(matches!(CodeObject::parse(&host), Err(Malformed::NotOne)), "an ELF file of another machine");
    for length in (0..good.len()).step_by(7) {
        // Only sections, which are not looked at, may be missing from what parses.
        if let Ok(object) = CodeObject::parse(&good[..length]) {
            assert_eq!(object.kernels.len(), 2, "{length}");
        }
    }
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            if let Ok(object) = CodeObject::parse(&bad) {
                object.relocated(0x1000);
            }
        }
    }
}
