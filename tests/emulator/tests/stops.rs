//! Each kernel commits one sin and is stopped for it; its twin without it passes.

mod common;

use amdhip64::api::*;
use amdhip64::code::{ILLEGAL_ADDRESS, LAUNCH_FAILURE};
use common::{Emulator, assemble, compile};

const TARGETS: [&str; 4] = ["gfx1100", "gfx1201", "gfx942", "gfx90a"];

/// Runs kernels `sin` and `clean` (unsigned *p, unsigned *q), 256 numbers each, in one group of 256. The sin's code
/// and what was said of it, a text for each target.
fn sin_and_twin(source: &str, code: i32) -> Vec<String> {
    let stops = TARGETS.map(|target| {
        let object = compile(target, source);
        let emulator = Emulator::new(&format!("CARD={target}\nLIMIT=100000"));
        let numbers: Vec<u32> = (0..256).collect();
        let run = |name: &str| {
            let (p, q) = (emulator.upload(&numbers), emulator.upload(&numbers));
            emulator.run(emulator.function(&object, name), 1, 256, &[p, q])
        };
        assert_eq!(run("clean"), Ok(()), "{target}: {}", emulator.last_stop());
        assert_eq!(run("sin"), Err(code), "{target}: {}", emulator.last_stop());
        let stop = emulator.last_stop();
        assert!(stop.starts_with("kernel sin+0x"), "{stop}");
        stop
    });
    stops.to_vec()
}

#[track_caller]
fn assert_all(stops: &[String], parts: &[&str]) {
    for stop in stops {
        for part in parts {
            assert!(stop.contains(part), "{stop:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_read_past_the_end() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) { q[tid] = p[tid + 1]; }
         KERNEL void clean(unsigned *p, unsigned *q) { q[tid] = p[tid]; }",
        ILLEGAL_ADDRESS,
    );
    assert_all(
        &stops,
        &["4 bytes at 0x", "lie outside every allocation; 0 bytes past the end of allocation", "1024 bytes"],
    );
    for (stop, target) in stops.iter().zip(TARGETS) {
        let at = if target.starts_with("gfx9") { "wave 3, lane 63" } else { "wave 7, lane 31" };
        assert!(stop.contains(at) && stop.contains("global_load"), "{stop}");
    }
}

#[test]
fn a_write_before_the_start() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) { q[(int)tid - 1] = 5; }
         KERNEL void clean(unsigned *p, unsigned *q) { q[tid] = 5; }",
        ILLEGAL_ADDRESS,
    );
    assert_all(&stops, &["wave 0, lane 0", "global_store", "4 bytes before allocation"]);
}

#[test]
fn a_misaligned_atomic() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) {
             __atomic_fetch_add((unsigned *)((char *)q + p[2]), 1, __ATOMIC_RELAXED);
         }
         KERNEL void clean(unsigned *p, unsigned *q) {
             __atomic_fetch_add((unsigned *)((char *)q + p[4]), 1, __ATOMIC_RELAXED);
         }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["are misaligned", "atomic"]);
}

#[test]
fn a_read_of_lds_that_nothing_wrote() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) {
             __shared__ unsigned t[256];
             if (tid != 77) t[tid] = p[tid];
             barrier();
             q[tid] = t[255 - tid];
         }
         KERNEL void clean(unsigned *p, unsigned *q) {
             __shared__ unsigned t[256];
             t[tid] = p[tid];
             barrier();
             q[tid] = t[255 - tid];
         }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["LDS byte 308 is read, and nothing wrote it"]);
}

#[test]
fn a_barrier_forgotten() {
    let stops = sin_and_twin(
        "#define KERNEL_WITH(name, between) KERNEL void name(unsigned *p, unsigned *q) { \
             __shared__ volatile unsigned t[256]; \
             t[tid] = 0; \
             barrier(); \
             t[tid] = p[tid]; \
             between; \
             q[tid] = t[tid ^ 64]; \
         }
         KERNEL_WITH(sin, (void)0)
         KERNEL_WITH(clean, barrier())",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["since the last barrier", "LDS byte 256 was read by wave 0"]);
}

#[test]
fn lanes_that_disagree_about_a_word() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) {
             __shared__ unsigned t[32];
             if (tid < 32) t[tid / 2] = p[tid];
             barrier();
             if (tid < 16) q[tid] = t[tid];
         }
         KERNEL void clean(unsigned *p, unsigned *q) {
             __shared__ unsigned t[32];
             if (tid < 32) t[tid / 2] = p[tid / 2];
             barrier();
             if (tid < 16) q[tid] = t[tid];
         }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["wave 0, lane 1: LDS byte 0 was written by wave 0"]);
}

#[test]
fn a_barrier_that_some_waves_do_not_reach() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) {
             if (tid < 64) barrier();
             q[tid] = p[tid];
         }
         KERNEL void clean(unsigned *p, unsigned *q) {
             barrier();
             q[tid] = p[tid];
         }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["s_barrier", "waves wait at a barrier that"]);
    assert!(stops[0].contains("2 waves wait at a barrier that 6 others do not reach"), "{}", stops[0]);
    assert!(stops[2].contains("1 waves wait at a barrier that 3 others do not reach"), "{}", stops[2]);
}

#[test]
fn an_endless_loop() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) { while (__atomic_load_n(p, __ATOMIC_RELAXED) == 0) {} }
         KERNEL void clean(unsigned *p, unsigned *q) { while (__atomic_load_n(p + 1, __ATOMIC_RELAXED) == 0) {} }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["still running after 100001 instructions"]);
}

#[test]
fn scratch_memory() {
    let stops = sin_and_twin(
        "KERNEL void sin(unsigned *p, unsigned *q) {
             volatile unsigned t[64];
             t[p[tid] & 63] = 1;
             q[tid] = t[p[255 - tid] & 63];
         }
         KERNEL void clean(unsigned *p, unsigned *q) { q[tid] = p[tid]; }",
        LAUNCH_FAILURE,
    );
    assert_all(&stops, &["scratch memory"]);
}

/// Assembled kernels `body`, on targets whose assembly has these names.
fn assembled(target: &str, body: &str) -> Result<(), String> {
    let emulator = Emulator::card(target);
    let function = emulator.function(&assemble(target, body), "k");
    let (p, q) = (emulator.upload(&[1u32; 256]), emulator.upload(&[1u32; 256]));
    emulator.run(function, 1, 64, &[p, q]).map_err(|code| {
        let stop = emulator.last_stop();
        let outside = stop.contains("outside every allocation");
        assert_eq!(code, if outside { ILLEGAL_ADDRESS } else { LAUNCH_FAILURE });
        stop
    })
}

#[test]
fn registers_that_nothing_wrote() {
    for target in TARGETS {
        let vector = assembled(target, "v_add_f32_e32 v3, v7, v7").unwrap_err();
        assert!(vector.contains("lane 0: v7 is read, and nothing wrote it"), "{vector}");
        assembled(target, "v_mov_b32_e32 v7, 1.0\nv_add_f32_e32 v3, v7, v7").unwrap();
        let scalar = assembled(target, "s_add_u32 s20, s21, s21").unwrap_err();
        assert!(scalar.contains("s21 is read, and nothing wrote it"), "{scalar}");
        assembled(target, "s_mov_b32 s21, 1\ns_add_u32 s20, s21, s21").unwrap();
    }
    // Written where lane 3 was off, read where it is on.
    let some = assembled(
        "gfx1100",
        "s_mov_b32 exec_lo, 0xfffffff7\nv_mov_b32_e32 v7, 1.0\ns_mov_b32 exec_lo, -1\nv_add_f32_e32 v3, v7, v7",
    );
    assert!(some.as_ref().is_err_and(|stop| stop.contains("lane 3: v7")), "{some:?}");
}

#[test]
fn instructions_that_the_emulator_does_not_know() {
    let image = "image_load v1, v[0:1], s[4:11] dmask:0x1 dim:SQ_RSRC_IMG_2D unorm";
    let stop = assembled("gfx1100", &format!("s_nop 0\n{image}")).unwrap_err();
    assert!(stop.starts_with("kernel k+0x4 `image_load v1"), "{stop}");
    assert!(stop.ends_with("unknown instruction"), "{stop}");
    for target in TARGETS {
        let stop = assembled(target, ".long 0xbfffffff").unwrap_err();
        assert!(stop.ends_with("unknown instruction"), "{stop}");
    }
    assembled("gfx1100", &format!("s_branch .Lover\n{image}\n.Lover:")).expect("it is not executed");
}

#[test]
fn a_write_to_arguments() {
    for target in TARGETS {
        let word = if target.starts_with("gfx9") { "dword" } else { "b32" };
        assembled(target, &format!("v_mov_b32_e32 v1, 0\nglobal_load_{word} v2, v1, s[0:1]")).unwrap();
        let body = format!("v_mov_b32_e32 v1, 0\nglobal_store_{word} v1, v1, s[0:1]");
        let stop = assembled(target, &body).unwrap_err();
        assert!(stop.contains("kernels may only read it: 0 bytes into allocation"), "{stop}");
    }
}

#[test]
fn memory_that_was_freed() {
    for target in TARGETS {
        let emulator = Emulator::card(target);
        let source = "KERNEL void k(unsigned *p, unsigned *q) { q[tid] = p[tid]; }";
        let function = emulator.function(&compile(target, source), "k");
        let (p, q) = (emulator.upload(&[1u32; 64]), emulator.upload(&[1u32; 64]));
        emulator.run(function, 1, 64, &[p, q]).unwrap();
        // SAFETY: allocated above, used by the kernel only.
        assert_eq!(unsafe { hipFree(p) }, 0);
        assert_eq!(emulator.run(function, 1, 64, &[p, q]), Err(ILLEGAL_ADDRESS));
        assert!(emulator.last_stop().contains("it was freed: allocation"), "{}", emulator.last_stop());
    }
}

#[test]
fn a_fault_is_told_when_something_waits_and_stays() {
    for schedule in ["lazy", "eager"] {
        let emulator = Emulator::new(&format!("CARD=gfx1100\nSCHEDULE={schedule}"));
        let source = "KERNEL void k(unsigned *p, unsigned *q) { q[tid] = p[tid]; }";
        let function = emulator.function(&compile("gfx1100", source), "k");
        let (p, q) = (emulator.upload(&[1u32; 64]), emulator.upload(&[2u32; 64]));
        let null = std::ptr::null_mut();
        assert_eq!(emulator.launch(function, 1, 65, &[p, q], null), 0);
        assert_eq!(hipGetLastError(), 0);
        assert_eq!(emulator.launch(function, 1, 64, &[p, q], null), 0, "not yet told");
        let mut address = 0;
        // SAFETY: writes where it is told.
        unsafe {
            assert_eq!(hipStreamSynchronize(null), ILLEGAL_ADDRESS, "{schedule}");
            assert_eq!(hipGetLastError(), ILLEGAL_ADDRESS);
            assert_eq!(hipMalloc(&mut address, 4), ILLEGAL_ADDRESS, "it stays");
            assert_eq!(emulator.launch(function, 1, 64, &[p, q], null), ILLEGAL_ADDRESS);
            assert_eq!(hipDeviceReset(), 0);
            assert_eq!(hipMalloc(&mut address, 4), 0);
        }
    }
}

#[test]
fn the_first_group_is_named_whatever_the_threads_do() {
    let source = "KERNEL void k(unsigned *p, unsigned *q) { if (gid >= 5) q[tid + 1000] = 1; }";
    let object = compile("gfx1100", source);
    for _ in 0..5 {
        let emulator = Emulator::new("CARD=gfx1100\nTHREADS=4");
        let (p, q) = (emulator.upload(&[1u32; 64]), emulator.upload(&[2u32; 64]));
        emulator.run(emulator.function(&object, "k"), 64, 64, &[p, q]).unwrap_err();
        assert!(emulator.last_stop().contains("group (5,0,0), wave 0, lane 0"), "{}", emulator.last_stop());
    }
}
