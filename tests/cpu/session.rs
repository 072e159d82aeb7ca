//! The CPU device's threads, limits and failures: many sessions on one team, cancelling, panics,
//! steps that are not what the interface asks for, memory that cannot be had.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::tiny_model::TinyModel;
use rocmforge::Error;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::{Call, Cancel, Device, Program, Session, SessionLimits, Step};
use rocmforge::gguf::TensorType;
use rocmforge::model::arch;

const LIMITS: SessionLimits =
    SessionLimits { max_tokens: 8, max_outputs: 8, n_blocks: 4, n_sequences: 8, n_states: 0 };

fn program(device: &CpuDevice) -> Arc<dyn Program> {
    let model =
        TinyModel { n_embd: 64, n_ff: 96, n_head: 2, n_head_kv: 1, head_dim: 32, ..TinyModel::new("llama") };
    let file = model.types(&[TensorType::Q8_0]).gguf();
    let plan = Arc::new(arch::plan(&file).unwrap().1);
    device.load(plan, file, &mut |_, _| true).unwrap()
}

fn step<'a>(tokens: &'a [u32], positions: &'a [u32], tables: &'a [&'a [u32]]) -> Step<'a> {
    Step {
        tokens,
        positions,
        sequences: &[0; 8][..tokens.len()],
        tables,
        outputs: &[0],
        inputs: &[],
        states: &[],
    }
}

const TABLE: &[&[u32]] = &[&[2, 0]];
static LIVE: Cancel = Cancel::new();

/// Logits of 100 positions, one step each.
fn decode(session: &mut dyn Session, seed: u32) -> Vec<f32> {
    let mut out = Vec::new();
    for pos in 0..100 {
        session.run(&step(&[(pos * 7 + seed) % 131], &[pos], TABLE), &LIVE).unwrap();
        out.extend_from_slice(session.output(0).unwrap());
    }
    out
}

/// Thousands of tiny steps from more threads than the team has, on teams larger than the machine.
#[test]
fn sessions_share_a_team() {
    for threads in [1, 2, 5] {
        let device = CpuDevice::new(threads).unwrap();
        let program = program(&device);
        let want: Vec<Vec<f32>> =
            (0..3).map(|seed| decode(&mut *program.clone().session(LIMITS).unwrap(), seed)).collect();
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (program, want) = (program.clone(), &want[seed]);
                scope.spawn(move || {
                    let mut session = program.session(LIMITS).unwrap();
                    for _ in 0..5 {
                        assert!(decode(&mut *session, seed as u32) == *want, "{threads} threads");
                    }
                });
            }
        });
    }
}

/// Devices come and go with their threads asleep or awake.
#[test]
fn devices_are_dropped_in_any_state() {
    for i in 0..50 {
        let device = CpuDevice::new(1 + i % 4).unwrap();
        if i % 3 > 0 {
            let program = program(&device);
            drop(device); // the program keeps the threads
            program.session(LIMITS).unwrap().run(&step(&[1], &[0], TABLE), &LIVE).unwrap();
        }
        if i % 5 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[test]
fn a_step_is_cancelled_and_the_session_goes_on() {
    let device = CpuDevice::new(2).unwrap();
    let mut session = program(&device).session(LIMITS).unwrap();
    let want = decode(&mut *session, 1);
    let cancel = Arc::new(Cancel::new());
    let call = Call::begin(&cancel);
    assert!(cancel.request());
    let cancelled = session.run(&step(&[1], &[100], TABLE), &cancel);
    drop(call);
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    assert!(matches!(session.output(0), Err(Error::Param(_))), "a step that was cancelled leaves nothing");
    // from inside a step, by another's flag
    let _call = Call::begin(&cancel);
    let ops = Arc::new(AtomicUsize::new(0));
    let (flag, count) = (Arc::clone(&cancel), Arc::clone(&ops));
    session.observe(Some(Box::new(move |_, _, _| {
        if count.fetch_add(1, Ordering::Relaxed) == 5 {
            assert!(flag.request());
        }
    })));
    assert!(matches!(session.run(&step(&[1], &[100], TABLE), &cancel), Err(Error::Cancelled)));
    assert_eq!(ops.load(Ordering::Relaxed), 6, "the op after the flag was set does not run");
    session.observe(None);
    assert!(decode(&mut *session, 1) == want);
}

/// Whoever waits for the threads while another session has them is cancelled all the same.
#[test]
fn waiting_for_another_step_is_cancelled() {
    let device = CpuDevice::new(2).unwrap();
    let program = program(&device);
    let (mut busy, mut waiting) =
        (program.clone().session(LIMITS).unwrap(), program.session(LIMITS).unwrap());
    let want = decode(&mut *waiting, 1);
    let (entered, enter) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let left = std::sync::Mutex::new(left);
    // holds the threads until the other's step has come back
    busy.observe(Some(Box::new(move |name, _, _| {
        if name == "token_embd" {
            entered.send(()).unwrap();
            left.lock().unwrap().recv().unwrap();
        }
    })));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| busy.run(&step(&[1], &[0], TABLE), &LIVE));
        enter.recv().unwrap();
        let cancel = Arc::new(Cancel::new());
        let _call = Call::begin(&cancel);
        let request = Arc::clone(&cancel);
        let request = scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            request.request()
        });
        let outcome = waiting.run(&step(&[1], &[100], TABLE), &cancel);
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert!(request.join().unwrap());
        leave.send(()).unwrap();
        other.join().unwrap().unwrap();
    });
    assert!(decode(&mut *waiting, 1) == want);
}

/// A panic on one of the threads is an error; nothing hangs, and the device goes on.
#[test]
fn a_panic_in_a_step_is_an_error() {
    let device = CpuDevice::new(3).unwrap();
    let mut session = program(&device).session(LIMITS).unwrap();
    let want = decode(&mut *session, 1);
    session.observe(Some(Box::new(|name, _, _| assert!(name != "blk.1.attn_q", "on purpose"))));
    let result = session.run(&step(&[1], &[100], TABLE), &LIVE);
    let Err(Error::Internal(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("a compute thread panicked: on purpose"), "{text}");
    session.observe(None);
    assert!(decode(&mut *session, 1) == want);
}

#[test]
fn a_load_is_cancelled_by_its_progress() {
    let file = TinyModel::new("llama").gguf();
    let plan = Arc::new(arch::plan(&file).unwrap().1);
    let device = CpuDevice::new(2).unwrap();
    let mut seen = Vec::new();
    let result = device.load(plan.clone(), file.clone(), &mut |done, total| {
        seen.push((done, total));
        seen.len() < 4
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(seen.len() == 4 && seen.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == w[1].1), "{seen:?}");
    let mut last = (1, 0);
    device
        .load(plan, file, &mut |done, total| {
            last = (done, total);
            true
        })
        .unwrap();
    assert_eq!(last.0, last.1);
}

#[test]
fn steps_that_break_the_contract_are_refused() {
    let device = CpuDevice::new(1).unwrap();
    let mut session = program(&device).session(LIMITS).unwrap();
    let good = step(&[1, 2], &[0, 1], TABLE);
    session.run(&good, &LIVE).unwrap();
    for (what, bad) in [
        ("no token", Step { tokens: &[], positions: &[], sequences: &[], outputs: &[], ..good }),
        (
            "too many tokens",
            Step { tokens: &[1; 9], positions: &[0, 1, 2, 3, 4, 5, 6, 7, 8], sequences: &[0; 9], ..good },
        ),
        ("too many outputs", Step { outputs: &[0; 9], ..good }),
        ("no such output", Step { outputs: &[2], ..good }),
        ("positions missing", Step { positions: &[0], ..good }),
        ("positions fall", Step { positions: &[1, 0], ..good }),
        ("positions repeat", Step { positions: &[1, 1], ..good }),
        ("position outside the table", Step { positions: &[0, 128], ..good }),
        ("position that overflows", Step { positions: &[0, u32::MAX], ..good }),
        ("no such sequence", Step { sequences: &[0, 1], ..good }),
        ("no such block", Step { tables: &[&[4]], ..good }),
    ] {
        let result = session.run(&bad, &LIVE);
        assert!(matches!(result, Err(Error::Param(_))), "{what}: {result:?}");
    }
    session.run(&good, &LIVE).unwrap();
    assert!(matches!(session.copy_block(0, 0, 4), Err(Error::Param(_))));
    session.copy_block(0, 2, 3).unwrap();
}

/// A copied block is the same cache: the next token gets the same logits through it.
#[test]
fn a_copied_block_holds_the_same_cells() {
    let device = CpuDevice::new(2).unwrap();
    let mut session = program(&device).session(LIMITS).unwrap();
    session.run(&step(&[5, 6, 7], &[0, 1, 2], &[&[1]]), &LIVE).unwrap();
    session.copy_block(0, 1, 3).unwrap();
    session.run(&step(&[8], &[3], &[&[1]]), &LIVE).unwrap();
    let want = session.output(0).unwrap().to_vec();
    session.run(&step(&[8], &[3], &[&[3]]), &LIVE).unwrap();
    assert!(session.output(0).unwrap() == want);
}

/// A cache is reserved, not filled: pages come with their first use.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_takes_memory_as_it_fills() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        4096 * statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let device = CpuDevice::new(1).unwrap();
    let program = program(&device);
    let before = resident();
    let limits = SessionLimits { n_blocks: 1 << 14, ..LIMITS };
    let mut sessions: Vec<_> = (0..4).map(|_| program.clone().session(limits).unwrap()).collect();
    let reserved: u64 = sessions.iter().map(|session| session.memory().0).sum();
    let grown = resident().saturating_sub(before);
    assert!(reserved >= 1 << 30, "{reserved} bytes");
    assert!(grown < reserved / 8, "{grown} of {reserved} bytes are there before anything is evaluated");
    for session in &mut sessions {
        session.run(&step(&[1], &[0], &[&[9999]]), &LIVE).unwrap();
        assert!(session.output(0).unwrap().iter().all(|x| x.is_finite()));
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let device = CpuDevice::new(1).unwrap();
    let program = program(&device);
    for limits in [
        SessionLimits { n_blocks: usize::MAX, ..LIMITS },
        SessionLimits { n_blocks: 1 << 45, ..LIMITS },
        SessionLimits { max_tokens: usize::MAX, ..LIMITS },
        SessionLimits { max_tokens: 1 << 45, ..LIMITS },
        SessionLimits { max_outputs: 1 << 50, ..LIMITS },
    ] {
        match program.clone().session(limits).err() {
            Some(Error::OutOfMemory { wanted, .. }) => assert!(wanted > 1 << 40),
            other => panic!("{limits:?}: {other:?}"),
        }
    }
    assert!(matches!(CpuDevice::new(usize::MAX), Err(Error::Param(_))));
}
