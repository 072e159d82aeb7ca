//! Memory, staging, streams, events and graphs: on every emulated card, or on a real GPU with ROCMFORGE_TEST_GPU=1.

use crate::common;

use std::sync::Arc;

use common::emulated::Emulator;
use common::gpu::{Gpu, Test};
use common::tiny_model::Rng;
use rocmforge::Error;
use rocmforge::device::hip::card::Card;
use rocmforge::device::hip::event::Event;
use rocmforge::device::hip::graph::{self, Graph};
use rocmforge::device::hip::kernels::TRANSPOSE_F32;
use rocmforge::device::hip::loader::Loader;
use rocmforge::device::hip::memory::{ALIGNMENT, Buffer, Pool, PoolUse, Staging};
use rocmforge::device::hip::ops::{self, elementwise};
use rocmforge::device::hip::stream::Stream;
use rocmforge::gguf::TensorType;
use rocmforge::plan::Binary;

pub const TESTS: &[Test] = &[
    Test::new("pool_hands_out_parts_that_do_not_overlap", parts_do_not_overlap),
    Test::new("pool_reserves_in_one_piece", reserves_in_one_piece),
    Test::new("pool_exhausted_says_so_and_stays_usable", exhaustion)
        .env(&[("ROCMFORGE_EMULATOR_MEMORY", "256M")]),
    Test::new("staging_carries_any_length", staging),
    Test::new("copies_of_any_part", copies_of_any_part),
    Test::new("parts_beyond_a_buffer_are_refused", parts_beyond_a_buffer_are_refused),
    Test::new("streams_and_events_order_work", order),
    Test::new("graph_replays_what_it_captured", graph_replays),
    Test::new("graph_reads_its_parameters_anew", graph_parameters),
    Test::new("graph_failed_leaves_the_stream_usable", graph_failed),
    Test::new("graph_switched_off", graph_switched_off).env(&[(graph::SWITCH, "0")]),
    Test::new("graph_off_where_launches_are_synchronous", graph_switched_off)
        .env(&[("HIP_LAUNCH_BLOCKING", "1")]),
    Test::new("loader_refuses_what_is_not_the_tensor", loader_refuses),
    Test::new("many_threads_share_a_card", threads),
    Test::new("a_call_that_fails_is_an_error_and_no_more", failures).emulated_only(),
    Test::new("a_lost_card_refuses_and_is_left_alone", losses).emulated_only(),
];

fn random(seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.next() as u8).collect()
}

fn parts_do_not_overlap(gpu: &Gpu) {
    let pool = Pool::with_chunks(Arc::clone(&gpu.card), 1 << 16);
    let mut rng = Rng(1);
    let mut held: Vec<(Buffer, u8)> = Vec::new();
    for i in 0..200u32 {
        let bytes = rng.below(20_000) as u64;
        let buffer = pool.alloc(bytes, "part").unwrap();
        assert!(buffer.span().ptr().0.is_multiple_of(ALIGNMENT));
        gpu.stream.fill(buffer.span(), i as u8).unwrap();
        held.push((buffer, i as u8));
        if i % 3 == 0 {
            held.swap_remove(rng.below(held.len()));
        }
    }
    for (buffer, byte) in &held {
        assert!(gpu.bytes(buffer.span()).iter().all(|b| b == byte));
    }
    let taken: u64 = held.iter().map(|(b, _)| b.bytes().max(1).next_multiple_of(ALIGNMENT)).sum();
    let used = pool.in_use();
    assert_eq!(used.taken, taken);
    assert!(used.held >= taken && used.chunks > 1);
    drop(held);
    assert_eq!(pool.in_use().taken, 0);
    pool.trim().unwrap();
    assert_eq!(pool.in_use(), PoolUse::default());
}

fn reserves_in_one_piece(gpu: &Gpu) {
    let pool = Pool::with_chunks(Arc::clone(&gpu.card), 4096);
    pool.reserve(100 * 512, "weights").unwrap();
    assert_eq!(pool.in_use(), PoolUse { chunks: 1, held: 51_200, taken: 0 });
    pool.reserve(50 * 512, "weights").unwrap();
    let buffers: Vec<_> = (0..100).map(|_| pool.alloc(500, "weight").unwrap()).collect();
    assert_eq!(pool.in_use(), PoolUse { chunks: 1, held: 51_200, taken: 51_200 });
    let more = pool.alloc(500, "weight").unwrap();
    assert_eq!(pool.in_use().chunks, 2);
    drop((buffers, more));
}

fn exhaustion(gpu: &Gpu) {
    let pool = Pool::new(Arc::clone(&gpu.card));
    let (_, total) = gpu.card.memory().unwrap();
    let kept = pool.alloc(1000, "kept").unwrap();
    gpu.stream.fill(kept.span(), 7).unwrap();
    for wanted in [u64::MAX, u64::MAX - ALIGNMENT, 1 << 62, total + (1 << 30)] {
        match pool.alloc(wanted, "a cache") {
            Err(Error::OutOfMemory { what, wanted: told, free, total: told_total }) => {
                assert!(what.contains("a cache"), "{what}");
                assert_eq!((told, told_total), (wanted, total));
                assert!(free < total);
            }
            other => panic!("{wanted} bytes: {other:?}"),
        }
    }
    assert!(matches!(pool.reserve(1 << 62, "weights"), Err(Error::OutOfMemory { .. })));

    // until nothing is left, in quarters and then less
    let mut held = Vec::new();
    let mut refused = 0;
    let mut size = total / 4;
    while size >= 64 << 20 {
        match pool.alloc(size, "a quarter") {
            Ok(buffer) => held.push(buffer),
            Err(Error::OutOfMemory { free, .. }) => {
                assert!(free < total);
                refused += 1;
                size /= 4;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(held.len() < 20, "{} buffers of a quarter of {total} bytes and less", held.len());
    }
    assert!(refused > 0 && held.len() >= 3);
    // the pool goes on: what was given back can be had again, in a larger piece as well
    let last = held.pop().unwrap();
    drop(last);
    held.clear();
    let large = pool.alloc(total / 2, "half").unwrap();
    let tail = large.span().part(total / 2 - 100..total / 2).unwrap();
    gpu.stream.fill(tail, 9).unwrap();
    assert_eq!(gpu.bytes(tail), [9; 100]);
    assert_eq!(gpu.bytes(kept.span()), [7; 1000]);
}

fn staging(gpu: &Gpu) {
    const HALF: usize = 4096;
    let mut staging = Staging::with_halves(&gpu.card, HALF).unwrap();
    assert_eq!(staging.half_bytes(), HALF);
    let buffer = gpu.pool.alloc(10 * HALF as u64, "a copy").unwrap();
    for n in [0, 1, HALF - 1, HALF, HALF + 1, 2 * HALF, 3 * HALF + 17, 9 * HALF + 5] {
        for first in [0, 3, 255] {
            let src = random(n as u64, n);
            gpu.stream.fill(buffer.span(), 0xee).unwrap();
            let span = buffer.span().part(first..first + n as u64).unwrap();
            staging.upload(&gpu.stream, &src, span).unwrap();
            let mut got = vec![0; n];
            staging.download(&gpu.stream, span, &mut got).unwrap();
            assert!(got == src, "{n} bytes from {first}");
            let all = gpu.bytes(buffer.span());
            let around = all[..first as usize].iter().chain(&all[first as usize + n..]);
            assert!(around.into_iter().all(|byte| *byte == 0xee), "{n} bytes from {first}: more was written");
        }
    }
    let span = buffer.span().first(10).unwrap();
    assert!(matches!(staging.upload(&gpu.stream, &[0; 11], span), Err(Error::Param(_))));
    assert!(matches!(staging.download(&gpu.stream, span, &mut [0; 9]), Err(Error::Param(_))));
    if gpu.is_fast() {
        // as weights travel
        let mut staging = Staging::new(&gpu.card).unwrap();
        let src = random(1, 300_000_001);
        let buffer = gpu.pool.alloc(src.len() as u64, "a copy").unwrap();
        staging.upload(&gpu.stream, &src, buffer.span()).unwrap();
        let mut got = vec![0; src.len()];
        staging.download(&gpu.stream, buffer.span(), &mut got).unwrap();
        assert!(got == src);
    }
}

fn copies_of_any_part(gpu: &Gpu) {
    let src = random(2, 1000);
    let (from, to) = (gpu.pool.alloc(1000, "from").unwrap(), gpu.pool.alloc(1000, "to").unwrap());
    gpu.write(from.span(), &src);
    for (at, n, dst) in [(0, 1000, 0), (1, 7, 990), (999, 1, 0), (500, 0, 10), (16, 256, 512)] {
        gpu.stream.fill(to.span(), 1).unwrap();
        let part = from.span().part(at..at + n).unwrap();
        gpu.stream.copy(part, to.span().part(dst..dst + n).unwrap()).unwrap();
        let mut want = vec![1; 1000];
        want[dst as usize..(dst + n) as usize].copy_from_slice(&src[at as usize..(at + n) as usize]);
        assert!(gpu.bytes(to.span()) == want, "{n} bytes from {at} to {dst}");
        assert_eq!(gpu.bytes(part), src[at as usize..(at + n) as usize]);
    }
    let short = to.span().first(999).unwrap();
    assert!(matches!(gpu.stream.copy(from.span(), short), Err(Error::Param(_))));
}

fn parts_beyond_a_buffer_are_refused(gpu: &Gpu) {
    let buffer = gpu.pool.alloc(100, "small").unwrap();
    let span = buffer.span().part(10..90).unwrap();
    assert_eq!((span.bytes(), span.ptr().0), (80, buffer.span().ptr().0 + 10));
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..81, 81..81, 80..79, 0..u64::MAX, u64::MAX..u64::MAX] {
        assert!(matches!(span.part(range.clone()), Err(Error::Param(_))), "{range:?}");
    }
    assert_eq!(span.part(80..80).unwrap().bytes(), 0);
    // within the pool's alignment, but not within the buffer
    assert!(buffer.span().first(101).is_err());
}

fn order(gpu: &Gpu) {
    let other = Stream::new(&gpu.card).unwrap();
    let n = gpu.pick(64 << 20, 1 << 16);
    let (a, b) = (gpu.pool.alloc(n, "a").unwrap(), gpu.pool.alloc(n, "b").unwrap());
    let (start, done) = (Event::new(&gpu.card).unwrap(), Event::new(&gpu.card).unwrap());
    done.synchronize().unwrap(); // never recorded: passed
    start.record(&gpu.stream).unwrap();
    for byte in 0..20 {
        gpu.stream.fill(a.span(), byte).unwrap();
    }
    done.record(&gpu.stream).unwrap();
    done.hold(&other).unwrap();
    other.copy(a.span(), b.span()).unwrap();
    other.synchronize().unwrap();
    assert!(gpu.bytes(b.span()).iter().all(|byte| *byte == 19));
    done.synchronize().unwrap();
    let seconds = done.seconds_since(&start).unwrap();
    assert!((0.0..10.0).contains(&seconds), "{seconds}");
    assert!(!gpu.is_fast() || seconds > 0.0);
    // without a time there is an error, not a number
    let untimed = Event::without_timing(&gpu.card).unwrap();
    untimed.record(&gpu.stream).unwrap();
    untimed.synchronize().unwrap();
    assert!(matches!(untimed.seconds_since(&start), Err(Error::Gpu(_))));
    gpu.stream.synchronize().unwrap();
}

/// x[i] += step[i] for four numbers.
struct Counter {
    x: Buffer,
    step: Buffer,
}

impl Counter {
    fn new(gpu: &Gpu) -> Self {
        let buffer = |value: f32| {
            let buffer = gpu.pool.alloc(16, "counter").unwrap();
            gpu.write(buffer.span(), &value.to_le_bytes().repeat(4));
            buffer
        };
        Counter { x: buffer(0.0), step: buffer(1.0) }
    }

    fn count(&self, stream: &Stream) -> rocmforge::Result<()> {
        elementwise::binary(stream, Binary::Add, self.x.span(), (self.step.span(), 1), self.x.span(), 4)
    }

    fn value(&self, gpu: &Gpu) -> f32 {
        let bytes = gpu.bytes(self.x.span());
        assert!(bytes[4..] == bytes[..12]);
        f32::from_le_bytes(bytes[..4].try_into().unwrap())
    }
}

fn graph_replays(gpu: &Gpu) {
    let counter = Counter::new(gpu);
    let copy = gpu.pool.alloc(16, "copy").unwrap();
    let graph = Graph::capture(&gpu.stream, || {
        (0..3).try_for_each(|_| counter.count(&gpu.stream))?;
        gpu.stream.copy(counter.x.span(), copy.span())?;
        gpu.stream.fill(counter.x.span().first(0).unwrap(), 1)
    })
    .unwrap()
    .expect("graphs are on");
    assert_eq!(counter.value(gpu), 0.0, "nothing runs while it is recorded");
    for i in 1..=5 {
        graph.launch(&gpu.stream).unwrap();
        assert_eq!(counter.value(gpu), 3.0 * i as f32);
    }
    assert_eq!(gpu.bytes(copy.span())[..4], 15f32.to_le_bytes());
    // on another stream, and many in a row
    let other = Stream::new(&gpu.card).unwrap();
    (0..10).for_each(|_| graph.launch(&other).unwrap());
    drop(graph);
    other.synchronize().unwrap();
    assert_eq!(counter.value(gpu), 45.0);
}

fn graph_parameters(gpu: &Gpu) {
    let counter = Counter::new(gpu);
    let graph = Graph::capture(&gpu.stream, || counter.count(&gpu.stream)).unwrap().expect("graphs are on");
    let mut want = 0.0;
    for step in [1.0, 10.0, 0.5] {
        gpu.write(counter.step.span(), &f32::to_le_bytes(step).repeat(4));
        graph.launch(&gpu.stream).unwrap();
        want += step;
    }
    assert_eq!(counter.value(gpu), want);
}

fn graph_failed(gpu: &Gpu) {
    let counter = Counter::new(gpu);
    let refused = Graph::capture(&gpu.stream, || {
        counter.count(&gpu.stream)?;
        Err(Error::Param("no further".into()))
    });
    assert!(matches!(refused, Err(Error::Param(why)) if why == "no further"));
    // what a capture does not allow
    let waited = Graph::capture(&gpu.stream, || {
        counter.count(&gpu.stream)?;
        gpu.stream.synchronize()
    });
    assert!(matches!(waited, Err(Error::Gpu(_))), "{waited:?}");
    // a capture within a capture
    let nested = Graph::capture(&gpu.stream, || {
        Graph::capture(&gpu.stream, || Ok(())).map(|_| ())?;
        counter.count(&gpu.stream)
    });
    assert!(matches!(nested, Err(Error::Gpu(_))), "{nested:?}");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Graph::capture(&gpu.stream, || panic!("in a capture"))
    }));
    assert!(panic.is_err());
    assert_eq!(counter.value(gpu), 0.0, "none of it ran");
    counter.count(&gpu.stream).unwrap();
    assert_eq!(counter.value(gpu), 1.0);
    graph_replays(gpu);
}

fn graph_switched_off(gpu: &Gpu) {
    let counter = Counter::new(gpu);
    let graph = Graph::capture(&gpu.stream, || panic!("nothing is recorded")).unwrap();
    assert!(graph.is_none());
    counter.count(&gpu.stream).unwrap();
    assert_eq!(counter.value(gpu), 1.0);
}

fn loader_refuses(gpu: &Gpu) {
    let staging = |bytes| Staging::with_halves(&gpu.card, bytes).unwrap();
    let mut loader = Loader::with_staging(&gpu.pool, staging(1 << 16)).unwrap();
    let q8_0 = vec![0; 34 * 10];
    loader.load(TensorType::Q8_0, 5, 64, &q8_0, "w").unwrap();
    for (ty, rows, cols, n) in [
        (TensorType::Q8_0, 5, 64, 339),
        (TensorType::Q8_0, 6, 64, 340),
        (TensorType::Q8_0, 5, 65, 340),
        (TensorType::F32, 1, 84, 340),
        (TensorType::F32, usize::MAX, 2, 340),
    ] {
        let error = loader.load(ty, rows, cols, &q8_0[..n], "w").unwrap_err();
        assert!(matches!(error, Error::Param(_)), "{ty} {rows} x {cols}: {error}");
    }
    let error = loader.load(TensorType::IQ2_XXS, 1, 256, &[0; 66], "w").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    loader.finish().unwrap();
    assert!(Loader::with_staging(&gpu.pool, staging(100)).is_err());
}

/// Streams, staging and pool in several threads at once, each thread new to the runtime.
fn threads(gpu: &Gpu) {
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            scope.spawn(move || {
                let stream = Stream::new(&gpu.card).unwrap();
                let mut staging = Staging::with_halves(&gpu.card, 1000).unwrap();
                for i in 0..20 {
                    let src = random(t * 100 + i, 5000);
                    let buffers = [(); 2].map(|()| gpu.pool.alloc(5000, "a thread's").unwrap());
                    let [a, b] = &buffers;
                    staging.upload(&stream, &src, a.span()).unwrap();
                    // of one column: a copy
                    ops::transpose(&stream, a.span(), b.span(), 1250, 1).unwrap();
                    let mut got = vec![0; 5000];
                    staging.download(&stream, b.span(), &mut got).unwrap();
                    assert!(got == src);
                }
            });
        }
    });
}

/// Memory, copies, a kernel, events and a graph: what a step needs of the runtime.
fn scenario(card: &Arc<Card>) -> rocmforge::Result<()> {
    let pool = Pool::with_chunks(Arc::clone(card), 1 << 16);
    let stream = Stream::new(card)?;
    card.load([TRANSPOSE_F32.id()])?;
    let mut staging = Staging::with_halves(card, 1000)?;
    let src = random(1, 5000);
    let (a, b) = (pool.alloc(5000, "a")?, pool.alloc(100_000, "b")?);
    let to = b.span().first(5000)?;
    staging.upload(&stream, &src, a.span())?;
    let (start, end) = (Event::new(card)?, Event::new(card)?);
    start.record(&stream)?;
    let work = || {
        // of one column: a copy
        ops::transpose(&stream, a.span(), to, 1250, 1)?;
        stream.fill(to.first(10)?, 1)
    };
    match Graph::capture(&stream, work)? {
        Some(graph) => graph.launch(&stream)?,
        None => work()?,
    }
    end.record(&stream)?;
    let mut got = vec![0; 5000];
    staging.download(&stream, to, &mut got)?;
    end.seconds_since(&start)?;
    assert!(got[..10] == [1; 10] && got[10..] == src[10..]);
    drop((a, b));
    pool.trim()?;
    stream.synchronize()
}

/// Each call of the scenario fails in turn.
fn failures(gpu: &Gpu) {
    let emulator = Emulator::open();
    emulator.fail("");
    scenario(&gpu.card).unwrap();
    let calls = emulator.calls("");
    assert!(calls > 50, "{calls} calls");
    let mut failed = 0;
    for code in [2, 999] {
        for n in 1..=calls {
            emulator.fail(&format!("{n}:{code}"));
            match scenario(&gpu.card) {
                // in a drop, or memory was found in another way
                Ok(()) => {}
                Err(Error::Gpu(failure)) => {
                    assert_eq!(failure.code, code, "call {n}: {failure}");
                    assert!(failure.call.starts_with("hip"), "call {n}: {failure}");
                    failed += 1;
                }
                Err(Error::OutOfMemory { what, wanted, .. }) => {
                    // a call that is about no size of memory is named instead
                    assert!(
                        code == 2 && (wanted > 0 || what.starts_with("hip")),
                        "call {n}: {what}, {wanted}"
                    );
                    failed += 1;
                }
                Err(other) => panic!("call {n} fails with {code}: {other}"),
            }
            // what failed left nothing behind
            emulator.fail("");
            scenario(&gpu.card).unwrap_or_else(|error| panic!("after call {n} failed with {code}: {error}"));
        }
    }
    assert!(failed > calls, "{failed} failures of {calls} calls");
}

/// A fault at each call in turn ends the card: the rest of the scenario, drops included, calls nothing.
fn losses(gpu: &Gpu) {
    let emulator = Emulator::open();
    emulator.fail("");
    scenario(&gpu.card).unwrap();
    let calls = emulator.calls("");
    let launches = emulator.calls("hipModuleLaunchKernel");
    let mut unnoticed = 0;
    for n in 1..=calls {
        // where the capture's end fails, its thread can do no more
        let lost = std::thread::scope(|scope| scope.spawn(|| lose(gpu, &emulator, n)).join().unwrap());
        unnoticed += u64::from(!lost);
    }
    // what is pending is cleared before each launch
    assert!(unnoticed <= launches, "{unnoticed} failures unnoticed");
}

/// Whether a fault of call `n` was noticed.
fn lose(gpu: &Gpu, emulator: &Emulator, n: u64) -> bool {
    let card = Card::new(gpu.card.driver(), gpu.card.index()).unwrap();
    emulator.fail(&format!("{n}:700"));
    if let Err(error) = scenario(&card) {
        assert!(matches!(error, Error::DeviceLost { .. }), "call {n}: {error}");
        // a launch's error is read, and an open capture ended, all the same
        let more = emulator.calls("") - n;
        assert!(more <= 2, "call {n} lost the card, {more} calls followed");
    }
    let lost = card.lost().is_some();
    if lost {
        assert!(matches!(scenario(&card), Err(Error::DeviceLost { .. })), "call {n}");
        assert!(emulator.calls("") <= n + 2, "a lost card was called");
    }
    emulator.fail("");
    lost
}
