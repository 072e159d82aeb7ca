//! A step allocates nothing: a counting allocator watches prefill and decode on every thread.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::tiny_model::TinyModel;
use counting::ALLOCATIONS;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::{Cancel, Device, SessionLimits, Step};
use rocmforge::gguf::TensorType;
use rocmforge::model::arch;

#[test]
fn steps_do_not_allocate() {
    use TensorType::*;
    let file = TinyModel::new("qwen3").types(&[Q8_0, Q4_K, F16]).gguf();
    let plan = Arc::new(arch::plan(&file).unwrap().1);
    let device = CpuDevice::new(3).unwrap();
    let program = device.load(plan, file, &mut |_, _| true).unwrap();
    let mut session = program
        .session(SessionLimits { max_tokens: 300, max_outputs: 2, n_blocks: 8, n_sequences: 8, n_states: 0 })
        .unwrap();
    let table: Vec<u32> = (0..8).collect();
    let positions: Vec<u32> = (0..512).collect();
    let live = Cancel::new();
    // The test harness's own thread allocates now and then: of three rounds one must be without.
    let least = (0..3).map(|_| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        // prefill, decode, few tokens at a depth where spans are computed side by side
        for (from, n) in [(0, 300), (300, 1), (301, 5), (306, 1), (307, 100)] {
            let step = Step {
                tokens: &[7; 300][..n],
                positions: &positions[from..from + n],
                sequences: &[0; 300][..n],
                tables: &[&table],
                outputs: &[0],
                inputs: &[],
                states: &[],
            };
            session.run(&step, &live).unwrap();
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(least.min(), Some(0), "allocations in five steps");
    assert!(session.output(0).unwrap().iter().all(|x| x.is_finite()));
}
