//! Draws on the GPU against those of `engine::Sampler` on the processor, token for token: on every emulated card, or on
//! a real GPU with ROCMFORGE_TEST_GPU=1. The sampler itself is tested against the definitions in tests/engine/sampler.rs.

use crate::common;

use std::sync::Arc;

use common::emulated::Emulator;
use common::gpu::{Gpu, Input, Test, is_real};
use common::tiny_model::{Rng, TinyModel};
use rocmforge::Error;
use rocmforge::device::hip::device::HipDevice;
use rocmforge::device::hip::sampler::DeviceSampler;
use rocmforge::device::sampling::{Draw, Penalty, WHOLE};
use rocmforge::device::{Device, DeviceChoice, SessionLimits, Step};
use rocmforge::engine::{Sampler, SamplerParams};
use rocmforge::model::arch;

pub const TESTS: &[Test] = &[
    Test::new("greedy", greedy),
    Test::new("every_combination", every_combination),
    Test::new("vocabularies_of_any_size", vocabularies_of_any_size),
    Test::new("usual_parameters", usual_parameters),
    Test::new("sets_beyond_what_is_sorted", sets_beyond_what_is_sorted),
    Test::new("ties_beyond_what_is_sorted", ties_beyond_what_is_sorted),
    Test::new("penalties", penalties),
    Test::new("extreme_logits", extreme_logits),
    Test::new("bad_logits_are_errors", bad_logits_are_errors),
    Test::new("rows_and_what_is_refused", rows_and_what_is_refused),
    Test::new("sessions_draw_from_their_logits", |_| sessions_draw_from_their_logits()),
    Test::new("a_draw_after_one_that_nobody_waited_for", a_draw_after_one_that_nobody_waited_for),
    Test::new("many_rows_in_one_call", many_rows_in_one_call),
];

/// A row in the card's memory, a sampler there and one here.
struct Bench<'a> {
    gpu: &'a Gpu,
    device: DeviceSampler,
    logits: Vec<f32>,
    row: Input,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, logits: Vec<f32>) -> Self {
        let device = DeviceSampler::new(&gpu.pool, logits.len()).unwrap();
        let row = gpu.input(&logits);
        Bench { gpu, device, logits, row }
    }

    /// Other logits, as many.
    fn replace(&mut self, logits: Vec<f32>) {
        assert_eq!(logits.len(), self.logits.len());
        self.row = self.gpu.input(&logits);
        self.logits = logits;
    }

    fn on_device(&mut self, draw: &Draw<'_>) -> rocmforge::Result<u32> {
        let mut token = [0];
        self.device.draw(&self.gpu.stream, &[(self.row.span(), *draw)], &mut token)?;
        Ok(token[0])
    }

    /// As many draws here and there: the same tokens or errors. Gives the tokens.
    fn compare(&mut self, params: &SamplerParams, history: &[u32], n: usize) -> Vec<u32> {
        let mut here = Sampler::new(params.clone()).unwrap();
        history.iter().for_each(|token| here.accept(*token).unwrap());
        let mut there = here.clone();
        let mut tokens = Vec::new();
        for draw in 0..n {
            let want = here.sample(&self.logits);
            let got = self.on_device(&there.draw(self.logits.len()).unwrap());
            let same = match (&want, &got) {
                (Ok(want), Ok(got)) => want == got,
                (Err(Error::Model(want)), Err(Error::Model(got))) => want == got,
                _ => false,
            };
            assert!(same, "draw {draw} of {} logits: {got:?}, not {want:?}; {params:?}", self.logits.len());
            if let Ok(token) = got {
                there.count_draw();
                tokens.push(token);
                here.accept(token).unwrap();
                there.accept(token).unwrap();
            }
        }
        let bytes: Vec<u8> = self.logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        assert!(self.gpu.bytes(self.row.span()) == bytes, "the logits were changed");
        tokens
    }

    /// Kernels that `work` launches; None on a real GPU.
    fn launches(&mut self, work: impl FnOnce(&mut Self)) -> Option<u64> {
        if is_real() {
            work(self);
            return None;
        }
        let emulator = Emulator::open();
        let calls = || emulator.calls("hipModuleLaunchKernel");
        let before = calls();
        work(self);
        Some(calls() - before)
    }
}

fn plain(seed: u64) -> SamplerParams {
    SamplerParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        penalty_last_n: 0,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed,
    }
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[(rng.next() >> 33) as usize % of.len()]
}

/// About normal.
fn normal(rng: &mut Rng) -> f32 {
    (0..6).map(|_| rng.signed()).sum::<f32>() / std::f32::consts::SQRT_2
}

/// Rows of every kind that a model makes, and some that none does.
const KINDS: [fn(&mut Rng, usize) -> Vec<f32>; 8] = [
    |rng, n| (0..n).map(|_| 3.0 * normal(rng)).collect(),
    |rng, n| (0..n).map(|_| 0.2 * normal(rng)).collect(),
    // a few stand out
    |rng, n| {
        let mut row: Vec<f32> = (0..n).map(|_| 2.0 * normal(rng) - 4.0).collect();
        for _ in 0..3 {
            let at = (rng.next() >> 33) as usize % n;
            row[at] = 12.0 + normal(rng);
        }
        row
    },
    // ties, at every cut
    |rng, n| (0..n).map(|_| (2.0 * normal(rng)).floor() * 0.5).collect(),
    |rng, n| (0..n).map(|_| if rng.next() >> 63 == 0 { 0.0 } else { -0.0 }).collect(),
    // masked
    |rng, n| {
        (0..n).map(|_| if rng.next() >> 61 == 0 { 4.0 * normal(rng) } else { f32::NEG_INFINITY }).collect()
    },
    |_, n| (0..n).map(|i| 20.0 - 0.01 * i as f32).collect(),
    // all sizes that a float has
    |rng, n| (0..n).map(|_| f32::from_bits((rng.next() >> 32) as u32 & 0xbf7f_ffff)).collect(),
];

fn any_params(rng: &mut Rng) -> SamplerParams {
    SamplerParams {
        temperature: pick(rng, &[0.0, 1e-30, 0.05, 0.7, 0.8, 1.0, 1.5, 4.0, 1e6, f32::MAX]),
        top_k: pick(rng, &[0, 0, 1, 2, 40, 40, 100, 1000, 1024, 1025, 3000, u32::MAX]),
        top_p: pick(rng, &[1.0, 1.0, 0.95, 0.9, 0.5, 1e-6, 0.0, 0.999_999]),
        min_p: pick(rng, &[0.0, 0.0, 0.05, 0.3, 1e-6, 1.0]),
        penalty_last_n: pick(rng, &[0, 0, 0, 1, 64, 500]),
        repeat_penalty: pick(rng, &[1.0, 1.1, 1.3, 0.7]),
        frequency_penalty: pick(rng, &[0.0, 0.5, -0.25]),
        presence_penalty: pick(rng, &[0.0, 1.0, -0.5]),
        seed: rng.next(),
    }
}

fn history(rng: &mut Rng, n_vocab: usize, len: usize) -> Vec<u32> {
    // some often, some beyond the vocabulary
    (0..len).map(|_| (rng.next() >> 33) as u32 % (n_vocab as u32 + 2) / 3 * 3).collect()
}

fn greedy(gpu: &Gpu) {
    let mut rng = Rng(1);
    for n in [1, 2, 300, 2048, 4099, gpu.pick(151_936, 20_000)] {
        for kind in KINDS {
            let mut bench = Bench::new(gpu, kind(&mut rng, n));
            let launches = bench.launches(|bench| {
                bench.compare(&SamplerParams { temperature: 0.0, ..plain(0) }, &[], 1);
            });
            assert!(launches.is_none_or(|n| n == 2), "{launches:?} launches");
        }
    }
}

fn every_combination(gpu: &Gpu) {
    let mut rng = Rng(2);
    let sizes = [700, 2049, 5003, gpu.pick(151_936, 9000)];
    for n in sizes {
        let mut bench = Bench::new(gpu, vec![0.0; n]);
        for kind in KINDS {
            bench.replace(kind(&mut rng, n));
            for _ in 0..gpu.pick(150, 7) {
                let params = any_params(&mut rng);
                let history = history(&mut rng, n, 80);
                bench.compare(&params, &history, gpu.pick(4, 2));
            }
        }
    }
}

fn vocabularies_of_any_size(gpu: &Gpu) {
    let mut rng = Rng(3);
    for n in
        [1, 2, 3, 31, 32, 33, 63, 65, 255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2050, 4095, 4096, 4097]
    {
        let mut bench = Bench::new(gpu, KINDS[0](&mut rng, n));
        for _ in 0..2 {
            let params = any_params(&mut rng);
            let history = history(&mut rng, n, 20);
            bench.compare(&params, &history, 2);
        }
        bench.compare(&plain(n as u64), &[], 2);
    }
    if gpu.is_fast() {
        for n in [300_000, DeviceSampler::MAX_VOCAB - 1, DeviceSampler::MAX_VOCAB] {
            let mut bench = Bench::new(gpu, KINDS[1](&mut rng, n));
            bench.compare(&plain(5), &[n as u32 - 1, 7], 3);
            bench.compare(&SamplerParams { top_k: 40, ..plain(6) }, &[], 3);
        }
    }
}

/// Those of the command line, over a long generation: decided at once.
fn usual_parameters(gpu: &Gpu) {
    let mut rng = Rng(4);
    let n = 151_936;
    let mut bench = Bench::new(gpu, vec![0.0; n]);
    let presets = [
        SamplerParams { seed: 1, ..SamplerParams::default() },
        SamplerParams { top_k: 0, top_p: 0.9, min_p: 0.0, ..SamplerParams::default() },
        SamplerParams { top_k: 0, top_p: 1.0, min_p: 0.1, ..SamplerParams::default() },
        SamplerParams { repeat_penalty: 1.1, frequency_penalty: 0.1, seed: 9, ..SamplerParams::default() },
        SamplerParams { temperature: 1.0, ..plain(3) },
    ];
    for params in presets {
        for step in 0..gpu.pick(100, 5) {
            let mut row = KINDS[2](&mut rng, n);
            // a head of the size that text has
            for at in 0..50 {
                row[(at * 211 + step * 17) % n] = 11.0 - 0.2 * at as f32;
            }
            bench.replace(row);
            let launches = bench.launches(|bench| {
                bench.compare(&params, &[5, 5, 211], 1);
            });
            assert!(launches.is_none_or(|n| n <= 3), "{launches:?} launches: {params:?}");
        }
    }
}

/// top-k beyond 1024, nuclei of thousands, draws from everything: found digit by digit.
fn sets_beyond_what_is_sorted(gpu: &Gpu) {
    let mut rng = Rng(5);
    let n = gpu.pick(151_936, 6000);
    let mut bench = Bench::new(gpu, KINDS[1](&mut rng, n));
    let searches = |bench: &mut Bench<'_>, params: &SamplerParams, digits: u64| {
        let draws = 4;
        let mut tokens = Vec::new();
        let launches = bench.launches(|bench| tokens = bench.compare(params, &[], draws));
        if let (Some(launches), true) = (launches, digits > 0) {
            assert!(launches > 3 * draws as u64 + digits, "{launches} launches: {params:?}");
        }
        assert!(tokens.iter().any(|token| *token != tokens[0]), "{tokens:?}");
    };
    searches(&mut bench, &SamplerParams { top_k: 3000, ..plain(1) }, 20);
    searches(&mut bench, &SamplerParams { top_k: 3000, top_p: 0.9, ..plain(2) }, 30);
    searches(&mut bench, &SamplerParams { top_k: 5000, top_p: 0.9, min_p: 0.3, ..plain(3) }, 30);
    searches(&mut bench, &SamplerParams { top_p: 0.95, ..plain(4) }, 20);
    searches(&mut bench, &SamplerParams { min_p: 0.01, ..plain(5) }, 10);
    searches(&mut bench, &SamplerParams { temperature: 1e6, ..plain(6) }, 0);
    searches(
        &mut bench,
        &SamplerParams { temperature: 3.0, repeat_penalty: 1.2, penalty_last_n: 9, ..plain(7) },
        0,
    );
}

fn ties_beyond_what_is_sorted(gpu: &Gpu) {
    let n = gpu.pick(151_936, 5000);
    for (levels, top_k, top_p) in
        [(1, 0, 1.0), (1, 40, 1.0), (1, 3000, 0.5), (2, 0, 0.9), (2, 1000, 1.0), (3, 0, 1.0)]
    {
        let row = (0..n).map(|i| 0.25 * (i % levels) as f32).collect();
        let mut bench = Bench::new(gpu, row);
        bench.compare(&SamplerParams { top_k, top_p, ..plain(levels as u64) }, &[], gpu.pick(20, 3));
    }
}

fn penalties(gpu: &Gpu) {
    let mut rng = Rng(6);
    for n in [50, gpu.pick(151_936, 4500)] {
        let mut bench = Bench::new(gpu, KINDS[0](&mut rng, n));
        for len in [1, 64, 3000] {
            let history = history(&mut rng, n, len);
            for temperature in [0.0, 0.9] {
                let params = SamplerParams {
                    temperature,
                    penalty_last_n: len,
                    repeat_penalty: 1.3,
                    frequency_penalty: 0.3,
                    presence_penalty: 0.4,
                    top_k: 40,
                    ..plain(len as u64)
                };
                bench.compare(&params, &history, 3);
            }
        }
        // every token of the vocabulary
        let all: Vec<u32> = (0..n as u32).collect();
        let params = SamplerParams { penalty_last_n: n, presence_penalty: 2.0, ..plain(8) };
        bench.compare(&params, &all, 1);
    }
}

fn extreme_logits(gpu: &Gpu) {
    let mut rng = Rng(7);
    let rows: [Vec<f32>; 5] = [
        vec![f32::MAX, f32::MIN, f32::MAX, 0.0, -0.0, f32::MIN_POSITIVE, 1e-45, -1e-45],
        vec![-1e-45, -0.0, 0.0, 1e-45, f32::NEG_INFINITY],
        vec![f32::MIN; 40],
        (0..3000).map(|i| if i == 2999 { f32::MIN } else { f32::NEG_INFINITY }).collect(),
        (0..3000).map(|i| f32::from_bits(0x7f7f_ffff - i % 7)).collect(),
    ];
    for row in rows {
        let mut bench = Bench::new(gpu, row);
        for _ in 0..6 {
            let params = any_params(&mut rng);
            bench.compare(&params, &[0, 1, 1], 2);
        }
        for temperature in [1e-30, f32::MAX] {
            bench.compare(&SamplerParams { temperature, ..plain(1) }, &[], 2);
        }
    }
}

fn bad_logits_are_errors(gpu: &Gpu) {
    let mut rng = Rng(8);
    for n in [6, 5000] {
        let good = KINDS[0](&mut rng, n);
        let params = [
            SamplerParams { temperature: 0.0, ..plain(0) },
            plain(1),
            SamplerParams { top_k: 40, ..plain(1) },
        ];
        let mut bench = Bench::new(gpu, good.clone());
        for at in [0, n / 2, n - 1] {
            for value in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let mut row = good.clone();
                row[at] = value;
                row[n - 1] = value;
                bench.replace(row);
                for params in &params {
                    assert!(bench.compare(params, &[], 1).is_empty());
                }
                let draw = Draw {
                    top_k: 40,
                    top_p: WHOLE,
                    min_p: f32::NEG_INFINITY,
                    inverse_temperature: 1.0,
                    uniform: 0,
                    repeat_penalty: 1.0,
                    penalties: &[],
                };
                let error = bench.on_device(&draw).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    Error::model(format!("the logit of token {at} is {value}")).to_string()
                );
            }
        }
        bench.replace(vec![f32::NEG_INFINITY; n]);
        for params in &params {
            assert!(bench.compare(params, &[], 1).is_empty());
        }
        // what penalties make of it counts
        bench.replace(vec![f32::MAX; n]);
        let params = SamplerParams { penalty_last_n: 4, repeat_penalty: 0.5, ..plain(1) };
        assert!(bench.compare(&params, &[3], 1).is_empty());
    }
}

fn rows_and_what_is_refused(gpu: &Gpu) {
    let (n, rows) = (1003, 3);
    let mut rng = Rng(9);
    let all: Vec<f32> = KINDS[0](&mut rng, n * rows);
    let input = gpu.input(&all);
    let mut device = DeviceSampler::new(&gpu.pool, n).unwrap();
    let row = |row: usize| input.span().part((row * n * 4) as u64..((row + 1) * n * 4) as u64).unwrap();
    for i in 0..rows {
        let mut here = Sampler::new(SamplerParams::default()).unwrap();
        let mut got = [0];
        device.draw(&gpu.stream, &[(row(i), here.draw(n).unwrap())], &mut got).unwrap();
        assert_eq!(got[0], here.sample(&all[i * n..][..n]).unwrap(), "row {i}");
    }

    let refused =
        |outcome: rocmforge::Result<()>| assert!(matches!(outcome, Err(Error::Param(_))), "{outcome:?}");
    let mut here = Sampler::new(SamplerParams::default()).unwrap();
    let mut draw = here.draw(n).unwrap();
    refused(device.draw(&gpu.stream, &[(row(0).first(4 * n as u64 - 4).unwrap(), draw)], &mut [0]));
    let penalties = vec![Penalty { token: 0, subtract: 0.0 }; n + 1];
    draw.penalties = &penalties;
    refused(device.draw(&gpu.stream, &[(row(0), draw)], &mut [0]));
    // tokens that there are not are passed over
    let penalties =
        [n as u32, n as u32 + 5, u32::MAX].map(|token| Penalty { token, subtract: f32::NEG_INFINITY });
    draw.penalties = &penalties;
    let mut got = [0];
    device.draw(&gpu.stream, &[(row(0), draw)], &mut got).unwrap();
    assert_eq!(got[0], here.sample(&all[..n]).unwrap());
    for n in [0, DeviceSampler::MAX_VOCAB + 1] {
        refused(DeviceSampler::new(&gpu.pool, n).map(|_| ()));
    }
}

fn a_draw_after_one_that_nobody_waited_for(gpu: &Gpu) {
    let mut rng = Rng(10);
    let mut bench = Bench::new(gpu, KINDS[0](&mut rng, 3000));
    let mut sampler = Sampler::new(plain(4)).unwrap();
    bench.device.enqueue(&gpu.stream, &[(bench.row.span(), sampler.draw(3000).unwrap())]).unwrap();
    bench.compare(&plain(5), &[], 2);
    bench.device.enqueue(&gpu.stream, &[(bench.row.span(), sampler.draw(3000).unwrap())]).unwrap();
}

/// Draws of many kinds from rows of many kinds, with one call: those that are decided at once, those that are searched for,
/// with more penalties in all than there is room for at a time.
fn many_rows_in_one_call(gpu: &Gpu) {
    let (n, n_rows) = (3000, 70);
    let mut rng = Rng(12);
    let rows: Vec<Vec<f32>> = (0..n_rows)
        .map(|i| if i % 5 == 3 { vec![1.0; n] } else { KINDS[i % KINDS.len()](&mut rng, n) })
        .collect();
    let input = gpu.input(&rows.concat());
    let mut here: Vec<Sampler> = (0..n_rows)
        .map(|i| {
            let penalty_last_n = if i % 7 == 0 { 2500 } else { 3 };
            let kind = [
                SamplerParams { temperature: 0.0, ..plain(i as u64) },
                SamplerParams { top_k: 40, ..plain(i as u64) },
                SamplerParams { top_p: 0.9, ..plain(i as u64) },
                SamplerParams { top_k: 2500, ..plain(i as u64) },
            ];
            let params = kind[i % 4].clone();
            let mut sampler =
                Sampler::new(SamplerParams { penalty_last_n, repeat_penalty: 1.1, ..params }).unwrap();
            (0..2500).for_each(|token| sampler.accept(token).unwrap());
            sampler
        })
        .collect();
    let want: Vec<u32> =
        here.clone().iter_mut().zip(&rows).map(|(sampler, row)| sampler.sample(row).unwrap()).collect();
    let row = |row: usize| input.span().part((row * n * 4) as u64..((row + 1) * n * 4) as u64).unwrap();
    let mut draws: Vec<_> =
        here.iter_mut().enumerate().map(|(i, sampler)| (row(i), sampler.draw(n).unwrap())).collect();
    let mut device = DeviceSampler::new(&gpu.pool, n).unwrap();
    let mut got = vec![u32::MAX; n_rows];
    device.draw(&gpu.stream, &draws, &mut got).unwrap();
    assert_eq!(got, want);

    // a bad row among good ones, decided or searched for
    let bad = gpu.input(&[f32::NAN; 3000]);
    for i in [0, 40, n_rows - 1] {
        let good = draws[i].0;
        draws[i].0 = bad.span();
        assert!(matches!(device.draw(&gpu.stream, &draws, &mut got), Err(Error::Model(_))), "row {i}");
        draws[i].0 = good;
    }
    device.draw(&gpu.stream, &draws, &mut got).unwrap();
    assert_eq!(got, want);
}

/// Without a wait between the step and the draw, from any row.
fn sessions_draw_from_their_logits() {
    let device = HipDevice::open(&DeviceChoice::Best).unwrap();
    let file = TinyModel::new("llama").gguf();
    let (_, plan) = arch::plan(&file).unwrap();
    let n_vocab = plan.width(plan.outputs[0]);
    let program = device.load(Arc::new(plan), file, &mut |_, _| true).unwrap();
    let mut session = program
        .session(SessionLimits { max_tokens: 4, max_outputs: 4, n_blocks: 1, n_sequences: 8, n_states: 0 })
        .unwrap();
    let params = SamplerParams { top_k: 0, repeat_penalty: 1.2, seed: 3, ..SamplerParams::default() };
    let mut here = Sampler::new(params).unwrap();
    let mut there = here.clone();
    let mut token = 7;
    // of three tokens once, of one token often enough to be replayed
    let mut position = 0;
    for n in [3, 1, 1, 1, 1, 1] {
        let positions: Vec<u32> = (position..position + n as u32).collect();
        let outputs: Vec<u32> = (0..n as u32).collect();
        let step = Step {
            tokens: &[token, 5, 9][..n],
            positions: &positions,
            sequences: &vec![0; n],
            tables: &[&[0]],
            outputs: &outputs,
            inputs: &[],
            states: &[],
        };
        session.run(&step, &Default::default()).unwrap();
        for row in (0..n).rev() {
            let mut drawn = [0];
            session.sample(&[(row, there.draw(n_vocab).unwrap())], &mut drawn).unwrap();
            token = drawn[0];
            there.count_draw();
            let logits = session.output(0).unwrap();
            assert_eq!(token, here.sample(&logits[row * n_vocab..][..n_vocab]).unwrap(), "row {row} of {n}");
            [&mut here, &mut there].into_iter().for_each(|sampler| sampler.accept(token).unwrap());
        }
        let beyond = session.sample(&[(n, there.draw(n_vocab).unwrap())], &mut [0]);
        assert!(matches!(beyond, Err(Error::Param(_))), "{beyond:?}");
        position += n as u32;
    }
}
