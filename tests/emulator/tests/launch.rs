//! What waves start with: ids, arguments, the code object's constants; and what is counted of them.

mod common;

use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};

use amdhip64::api::*;
use common::{Emulator, assemble, compile};

const TARGETS: [&str; 6] = ["gfx1100", "gfx1201", "gfx942", "gfx90a", "gfx1030", "gfx906"];

/// Launches with arguments of any type and waits.
fn run(
    emulator: &Emulator,
    function: *mut c_void,
    grid: [u32; 3],
    block: [u32; 3],
    lds: u32,
    args: &[*const c_void],
) {
    let mut args: Vec<*mut c_void> = args.iter().map(|a| a.cast_mut()).collect();
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    let args = args.as_mut_ptr();
    // SAFETY: an address for each argument.
    let code =
        unsafe { hipModuleLaunchKernel(function, gx, gy, gz, bx, by, bz, lds, null_mut(), args, null_mut()) };
    assert_eq!(code, 0);
    // SAFETY: takes nothing.
    assert_eq!(unsafe { hipDeviceSynchronize() }, 0, "{}", emulator.last_stop());
}

fn arg<T>(value: &T) -> *const c_void {
    from_ref(value).cast()
}

#[test]
fn every_work_item_knows_its_place() {
    const SOURCE: &str = r#"
        KERNEL void ids(unsigned *out, unsigned gx, unsigned gy, unsigned bx, unsigned by, unsigned bz) {
            unsigned group = __builtin_amdgcn_workgroup_id_x()
                + gx * (__builtin_amdgcn_workgroup_id_y() + gy * __builtin_amdgcn_workgroup_id_z());
            unsigned item = __builtin_amdgcn_workitem_id_x()
                + bx * (__builtin_amdgcn_workitem_id_y() + by * __builtin_amdgcn_workitem_id_z());
            out[group * (bx * by * bz) + item] = group * 1000 + item;
        }
        KERNEL void x_only(unsigned *out) { out[gid * 60 + tid] = gid * 1000 + tid; }"#;
    for target in TARGETS {
        let emulator = Emulator::card(target);
        let code = compile(target, SOURCE);
        let (grid, block) = ([3u32, 2, 2], [5u32, 4, 3]);
        let out = emulator.upload(&[0u32; 12 * 60]);
        let want: Vec<u32> = (0..12 * 60).map(|i| i / 60 * 1000 + i % 60).collect();
        let args = [arg(&out), arg(&grid[0]), arg(&grid[1]), arg(&block[0]), arg(&block[1]), arg(&block[2])];
        run(&emulator, emulator.function(&code, "ids"), grid, block, 0, &args);
        assert_eq!(emulator.download::<u32>(out, 720), want, "{target}");
        let out = emulator.upload(&[0u32; 12 * 60]);
        run(&emulator, emulator.function(&code, "x_only"), [12, 1, 1], [60, 1, 1], 0, &[arg(&out)]);
        assert_eq!(emulator.download::<u32>(out, 720), want, "{target}");
    }
}

#[test]
fn arguments_of_all_sizes_lie_where_the_kernel_looks() {
    const SOURCE: &str = r#"
        struct Three { int x[3]; };
        KERNEL void mix(unsigned long *out, unsigned char a, unsigned short b, Three c, unsigned long d, float e) {
            if (tid == 0) {
                out[0] = a; out[1] = b; out[2] = c.x[2]; out[3] = d; out[4] = (unsigned long)e;
            }
        }"#;
    for target in TARGETS {
        let emulator = Emulator::card(target);
        let out = emulator.upload(&[0u64; 5]);
        let (a, b, c, d, e) = (200u8, 60_000u16, [1i32, 2, 3], 1u64 << 40, 7.5f32);
        let function = emulator.function(&compile(target, SOURCE), "mix");
        run(
            &emulator,
            function,
            [1; 3],
            [32, 1, 1],
            0,
            &[arg(&out), arg(&a), arg(&b), arg(&c), arg(&d), arg(&e)],
        );
        assert_eq!(emulator.download::<u64>(out, 5), [200, 60_000, 3, 1 << 40, 7], "{target}");
    }
}

#[test]
fn hidden_arguments_and_the_dispatch_packet() {
    const SOURCE: &str = r#"
        KERNEL void hidden(unsigned *out) {
            if (tid == 0 && gid == 0) {
                out[0] = __builtin_amdgcn_workgroup_size_x();
                out[1] = __builtin_amdgcn_workgroup_size_y();
                out[2] = __builtin_amdgcn_grid_size_x();
            }
        }"#;
    for target in ["gfx1100", "gfx942"] {
        let emulator = Emulator::card(target);
        let out = emulator.upload(&[0u32; 3]);
        run(
            &emulator,
            emulator.function(&compile(target, SOURCE), "hidden"),
            [5, 1, 1],
            [48, 2, 1],
            0,
            &[arg(&out)],
        );
        assert_eq!(emulator.download::<u32>(out, 3), [48, 2, 240], "{target}");
    }
}

#[test]
fn constants_of_the_code_object() {
    const SOURCE: &str = r#"
        #define __constant__ __attribute__((constant))
        __constant__ const unsigned a[8] = {3, 1, 4, 1, 5, 9, 2, 6};
        __constant__ const unsigned b[8] = {2, 7, 1, 8, 2, 8, 1, 8};
        __constant__ const unsigned *const tables[2] = {a, b};
        KERNEL void constants(unsigned *out, unsigned which) { out[tid] = tables[which][tid & 7] + a[tid & 7]; }"#;
    for target in ["gfx1100", "gfx1201", "gfx90a"] {
        let emulator = Emulator::card(target);
        let function = emulator.function(&compile(target, SOURCE), "constants");
        let out = emulator.upload(&[0u32; 8]);
        run(&emulator, function, [1; 3], [8, 1, 1], 0, &[arg(&out), arg(&1u32)]);
        assert_eq!(emulator.download::<u32>(out, 8), [5, 8, 5, 9, 7, 17, 3, 14], "{target}");
    }
}

#[test]
fn shared_memory_of_the_launch() {
    const SOURCE: &str = r#"
        extern __shared__ unsigned t[];
        KERNEL void mirror(unsigned *p, unsigned n) {
            t[tid] = p[tid];
            barrier();
            p[tid] = t[n - 1 - tid];
        }"#;
    for target in TARGETS {
        let emulator = Emulator::card(target);
        let function = emulator.function(&compile(target, SOURCE), "mirror");
        let data: Vec<u32> = (0..256).collect();
        let p = emulator.upload(&data);
        run(&emulator, function, [1; 3], [256, 1, 1], 1024, &[arg(&p), arg(&256u32)]);
        assert!(emulator.download::<u32>(p, 256).into_iter().eq((0..256).rev()), "{target}");
    }
}

#[test]
fn what_is_counted_is_exact() {
    const BODY: &str = "
        s_load_b128 s[4:7], s[0:1], 0x0
        v_and_b32_e32 v1, 31, v0
        v_lshlrev_b32_e32 v2, 4, v1
        v_lshlrev_b32_e32 v3, 5, v1
        s_waitcnt lgkmcnt(0)
        global_load_b128 v[4:7], v2, s[4:5]
        s_waitcnt vmcnt(0)
        ds_store_b32 v3, v4
        s_waitcnt lgkmcnt(0)
        ds_load_b32 v8, v3
        s_waitcnt lgkmcnt(0)
        global_store_b16 v3, v8, s[6:7]";
    let counters = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("counters.jsonl");
    std::fs::remove_file(&counters).ok();
    let emulator = Emulator::new(&format!("CARD=gfx1100\nREADS=1\nCOUNTERS={}", counters.display()));
    let function = emulator.function(&assemble("gfx1100", BODY), "k");
    let (src, dst) = (emulator.upload(&[7u32; 128]), emulator.upload(&[0u8; 1024]));
    emulator.run(function, 3, 32, &[src, dst]).unwrap();
    let seen = emulator.last_launch();
    assert_eq!(seen["kernel"], "k");
    assert_eq!(seen["grid"], serde_json::json!([3, 1, 1]));
    assert_eq!(seen["block"], serde_json::json!([32, 1, 1]));
    assert_eq!(seen["lds"], 1024);
    assert_eq!(seen["groups"], 3);
    for (class, of_a_wave) in
        [("scalar_memory", 1), ("vector", 3), ("global", 2), ("lds", 2), ("matrix", 0), ("dot", 0)]
    {
        assert_eq!(seen["instructions"][class], 3 * of_a_wave, "{class}");
    }
    assert_eq!(seen["lanes"], 3 * 7 * 32);
    assert_eq!(seen["bytes_read"], 3 * (16 + 32 * 16));
    assert_eq!(seen["lines_read"], 3 * (1 + 4));
    assert_eq!(seen["bytes_written"], 3 * 32 * 2);
    assert_eq!(seen["lines_written"], 3 * 8, "a halfword every 32 bytes");
    assert_eq!(seen["bank_conflicts"], 3 * 2 * 7, "32 words in 4 banks");
    let of_src = serde_json::json!([{
        "allocation": src,
        "bytes": 512,
        "bytes_by_groups": 3 * 512,
        "lines": 4,
        "lines_by_groups": 3 * 4,
    }]);
    assert_eq!(seen["reads"], of_src);
    let file = std::fs::read_to_string(&counters).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(file.trim()).unwrap(), seen);
}

#[test]
fn graphs_replay_kernels() {
    let emulator = Emulator::card("gfx1100");
    const SOURCE: &str = "KERNEL void add(unsigned *p, unsigned *q) { p[tid] += q[tid]; }";
    let function = emulator.function(&compile("gfx1100", SOURCE), "add");
    let (p, q) = (emulator.upload(&[0u32; 64]), emulator.upload(&[3u32; 64]));
    let (mut stream, mut graph, mut executable) = (null_mut(), null_mut(), null_mut());
    // SAFETY: writes handles; all of them live.
    unsafe {
        assert_eq!(hipStreamCreateWithFlags(&mut stream, 1), 0);
        assert_eq!(hipStreamBeginCapture(stream, 1), 0);
        assert_eq!(emulator.launch(function, 1, 64, &[p, q], stream), 0);
        assert_eq!(emulator.launch(function, 1, 64, &[p, q], stream), 0);
        assert_eq!(hipStreamEndCapture(stream, &mut graph), 0);
        assert_eq!(hipGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
        for _ in 0..3 {
            assert_eq!(hipGraphLaunch(executable, stream), 0);
        }
        assert_eq!(hipStreamSynchronize(stream), 0, "{}", emulator.last_stop());
    }
    assert_eq!(emulator.download::<u32>(p, 64), [18; 64]);
}

#[test]
fn groups_run_on_threads_with_one_result() {
    const SOURCE: &str = r#"
        KERNEL void sum(unsigned *p, unsigned *q) { __atomic_fetch_add(q, p[gid * 256 + tid], __ATOMIC_RELAXED); }"#;
    for threads in [1, 4] {
        let emulator = Emulator::new(&format!("CARD=gfx1100\nTHREADS={threads}"));
        let function = emulator.function(&compile("gfx1100", SOURCE), "sum");
        let data: Vec<u32> = (0..64 * 256).collect();
        let (p, q) = (emulator.upload(&data), emulator.upload(&[0u32]));
        emulator.run(function, 64, 256, &[p, q]).unwrap_or_else(|_| panic!("{}", emulator.last_stop()));
        assert_eq!(emulator.download::<u32>(q, 1), [data.iter().sum::<u32>()]);
    }
}
