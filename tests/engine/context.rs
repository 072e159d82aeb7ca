//! Contexts: steps over many sequences, the paged cache, errors and cancellation, on every device.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use common::backends::{context, load, on_every_device};
use common::logits::nmse;
use common::tiny_model::{Rng, TinyModel};
use rocmforge::Error;
use rocmforge::device::BLOCK_LEN;
use rocmforge::engine::{Batch, Context, DeviceKind, Model, Sampler, SamplerParams};
use rocmforge::gguf::TensorType;

/// Of float weights on a GPU, where [`same`] then needs no more than the bound of the cache's f16.
fn model(device: DeviceKind) -> Model {
    let types = match device {
        DeviceKind::Hip => [TensorType::F32, TensorType::F16],
        _ => [TensorType::Q8_0, TensorType::Q4_0],
    };
    let tiny = TinyModel { n_head: 3, n_head_kv: 1, n_ff: 320, ..TinyModel::new("llama").types(&types) };
    load(device, 2, &tiny)
}

/// Whether logits are those of the same tokens in other steps: bit for bit; near on a GPU, where a step's size decides on
/// its kernels and on what they round to f16: 1e-5 of all rows, as in tests/hip/model.rs, and 5e-5 of the worst.
fn same(device: DeviceKind, got: &[Vec<f32>], want: &[Vec<f32>]) -> bool {
    if device != DeviceKind::Hip {
        return got == want;
    }
    let near = |want: &[f32], got: &[f32], bound: f64| nmse(want, got) <= bound;
    got.len() == want.len()
        && near(&want.concat(), &got.concat(), 1e-5)
        && got.iter().zip(want).all(|(got, want)| near(want, got, 5e-5))
}

fn tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.below(131) as u32).collect()
}

fn batch(tokens: &[u32]) -> Batch<'_> {
    Batch { tokens, positions: None, sequences: None, want: None }
}

/// Evaluates `tokens` at the end of `sequence`; the logits of all of them.
fn extend(context: &mut Context, sequence: u32, tokens: &[u32]) -> Vec<Vec<f32>> {
    let (sequences, want) = (vec![sequence; tokens.len()], vec![true; tokens.len()]);
    let batch = Batch { tokens, positions: None, sequences: Some(&sequences), want: Some(&want) };
    context.decode(&batch).unwrap();
    rows(context)
}

fn rows(context: &Context) -> Vec<Vec<f32>> {
    (0..context.n_logits()).map(|row| context.logits(row).unwrap().to_vec()).collect()
}

/// What `tokens` give in a fresh context, in one step.
fn alone(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    extend(&mut context(model, 512, 512, 1), 0, tokens)
}

/// (cells in use, length of each sequence)
fn state(context: &Context) -> (usize, Vec<usize>) {
    let info = context.info();
    (info.n_used, (0..info.n_seq_max as u32).map(|s| context.kv_len(s).unwrap()).collect())
}

#[test]
fn a_prompt_in_pieces_gives_the_same_logits() {
    on_every_device("a_prompt_in_pieces_gives_the_same_logits", |device| {
        let model = model(device);
        let tokens = tokens(1, 150);
        let whole = alone(&model, &tokens);
        // n_batch cuts inside one decode; then one decode per piece, down to single tokens
        for n_batch in [1, 7, 64, 149] {
            let mut context = context(&model, 192, n_batch, 1);
            assert!(
                same(device, &extend(&mut context, 0, &tokens), &whole),
                "{device:?}: steps of {n_batch}"
            );
        }
        let mut context = context(&model, 192, 0, 1);
        for (i, piece) in [&tokens[..100], &tokens[100..101], &tokens[101..150]].iter().enumerate() {
            let at = [0, 100, 101][i];
            let got = extend(&mut context, 0, piece);
            assert!(same(device, &got, &whole[at..at + piece.len()]), "{device:?}: piece {i}");
        }
    });
}

#[test]
fn interleaved_sequences_give_what_each_gives_alone() {
    on_every_device("interleaved_sequences_give_what_each_gives_alone", |device| {
        let model = model(device);
        let (a, b) = (tokens(1, 80), tokens(2, 90));
        let (want_a, want_b) = (alone(&model, &a), alone(&model, &b));
        for n_batch in [512, 10] {
            let mut context = context(&model, 512, n_batch, 4);
            // prompts of both, their tokens alternating as they never would: batch order is the caller's
            let (mut ids, mut sequences, mut want) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..70 {
                ids.extend([b[i], a[i]]);
                sequences.extend([3, 1]);
                want.extend([i % 3 == 0, i % 2 == 0]);
            }
            let batch =
                Batch { tokens: &ids, positions: None, sequences: Some(&sequences), want: Some(&want) };
            context.decode(&batch).unwrap();
            let mut row = 0;
            for i in 0..70 {
                for (wanted, full) in [(i % 3 == 0, &want_b), (i % 2 == 0, &want_a)] {
                    if wanted {
                        let got = context.logits(row).unwrap().to_vec();
                        assert!(same(device, &[got], &full[i..=i]), "{device:?}: row {row}");
                        row += 1;
                    }
                }
            }
            assert_eq!(context.n_logits(), row);
            // then a token of each per step
            for i in 70..80 {
                let batch = Batch {
                    tokens: &[a[i], b[i]],
                    positions: Some(&[i as u32, i as u32]),
                    sequences: Some(&[1, 3]),
                    want: Some(&[true, true]),
                };
                context.decode(&batch).unwrap();
                let want = [want_a[i].clone(), want_b[i].clone()];
                assert!(same(device, &rows(&context), &want), "{device:?}: token {i}");
            }
            assert_eq!(state(&context), (160, vec![0, 80, 0, 80]));
        }
    });
}

/// Sequences of any length take runs of any length in one step: each as if it were alone.
#[test]
fn runs_of_any_length_share_a_step() {
    on_every_device("runs_of_any_length_share_a_step", |device| {
        let model = model(device);
        let runs: [(usize, usize); 9] =
            [(70, 1), (5, 20), (64, 4), (3, 5), (0, 1), (63, 1), (130, 2), (0, 70), (17, 1)];
        let all: Vec<Vec<u32>> =
            runs.iter().zip(20..).map(|((held, run), seed)| tokens(seed, held + run)).collect();
        let mut context = context(&model, 1024, 512, runs.len());
        for (s, (held, _)) in (0..).zip(runs).filter(|(_, (held, _))| *held > 0) {
            extend(&mut context, s, &all[s as usize][..held]);
        }
        let ids: Vec<u32> = all.iter().zip(runs).flat_map(|(ids, (held, _))| ids[held..].to_vec()).collect();
        let sequences: Vec<u32> =
            (0..).zip(runs).flat_map(|(s, (_, run))| std::iter::repeat_n(s, run)).collect();
        let want = vec![true; ids.len()];
        let batch = Batch { tokens: &ids, positions: None, sequences: Some(&sequences), want: Some(&want) };
        context.decode(&batch).unwrap();
        let mut got = rows(&context).into_iter();
        for (ids, (held, run)) in all.iter().zip(runs) {
            let got: Vec<_> = got.by_ref().take(run).collect();
            assert!(same(device, &got, &alone(&model, ids)[held..]), "{device:?}: {run} behind {held}");
        }
    });
}

#[test]
fn a_copied_sequence_goes_on_as_the_original() {
    on_every_device("a_copied_sequence_goes_on_as_the_original", |device| {
        let model = model(device);
        let prompt = tokens(3, BLOCK_LEN + 20);
        let (left, right) = (tokens(4, 5), tokens(5, 70));
        let joined = |tail: &[u32], n: usize| [&prompt[..n], tail].concat();
        let mut context = context(&model, 512, 512, 3);
        extend(&mut context, 0, &prompt);
        context.kv_copy(0, 1, prompt.len()).unwrap();
        context.kv_copy(0, 2, BLOCK_LEN + 3).unwrap();
        assert_eq!(context.info().n_used, prompt.len(), "nothing is stored twice");

        // in one batch: the last block, shared by three, is written by all
        let ids = [&left[..], &right, &left].concat();
        let sequences = [vec![0; 5], vec![1; 70], vec![2; 5]].concat();
        let want = vec![true; ids.len()];
        let batch = Batch { tokens: &ids, positions: None, sequences: Some(&sequences), want: Some(&want) };
        context.decode(&batch).unwrap();
        let got = rows(&context);
        for (rows, tail, n) in
            [(0..5, &left, prompt.len()), (5..75, &right, prompt.len()), (75..80, &left, BLOCK_LEN + 3)]
        {
            let want = &alone(&model, &joined(tail, n))[n..];
            assert!(same(device, &got[rows.clone()], want), "{device:?}: rows {rows:?}");
        }
    });
}

#[test]
fn a_truncated_sequence_evaluates_again() {
    on_every_device("a_truncated_sequence_evaluates_again", |device| {
        let model = model(device);
        let (first, second) = (tokens(6, 100), tokens(7, 40));
        let mut context = context(&model, 256, 512, 2);
        extend(&mut context, 0, &first);
        context.kv_truncate(0, 70).unwrap();
        assert_eq!(state(&context), (70, vec![70, 0]));
        let got = extend(&mut context, 0, &second);
        let want = &alone(&model, &[&first[..70], &second[..]].concat())[70..];
        assert!(same(device, &got, want), "{device:?}");
        context.kv_truncate(0, 110).unwrap();
        assert!(matches!(context.kv_truncate(0, 111), Err(Error::Param(_))));
        assert_eq!(context.kv_len(0).unwrap(), 110);
        context.kv_clear();
        assert_eq!(state(&context), (0, vec![0, 0]));
        assert!(same(device, &extend(&mut context, 1, &first), &alone(&model, &first)), "{device:?}");
    });
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    on_every_device("a_batch_that_does_not_fit_changes_nothing", |device| {
        let model = model(device);
        let mut context = context(&model, 3 * BLOCK_LEN, 16, 2);
        let (prompt, next) = (tokens(8, BLOCK_LEN + 10), tokens(9, 1));
        let want = alone(&model, &[&prompt[..], &next].concat())[prompt.len()..].to_vec();
        extend(&mut context, 0, &prompt);
        context.kv_copy(0, 1, prompt.len()).unwrap();
        let before = state(&context);
        for (n, sequence) in [(10 * BLOCK_LEN, 0), (2 * BLOCK_LEN, 1), (BLOCK_LEN, 0)] {
            let ids = tokens(10, n);
            let sequences = vec![sequence; n];
            let batch = Batch { tokens: &ids, positions: None, sequences: Some(&sequences), want: None };
            match context.decode(&batch) {
                Err(Error::CacheFull { wanted, free, total }) => {
                    assert_eq!((wanted, free, total), (n, BLOCK_LEN, 3 * BLOCK_LEN));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(state(&context), before);
            assert_eq!(context.n_logits(), 0);
        }
        assert!(same(device, &extend(&mut context, 1, &next), &want), "{device:?}");
        assert!(same(device, &extend(&mut context, 0, &next), &want), "{device:?}");
    });
}

#[test]
fn wrong_batches_are_refused_and_change_nothing() {
    let model = model(DeviceKind::Reference);
    let mut context = context(&model, 128, 16, 2);
    extend(&mut context, 1, &[5, 6]);
    let before = state(&context);
    let ok = Batch { tokens: &[1, 2], positions: None, sequences: Some(&[0, 1]), want: None };
    let wrong = [
        (batch(&[]), "empty"),
        (batch(&[1, 131]), "131"),
        (Batch { sequences: Some(&[0, 2]), ..ok }, "sequence 2"),
        (Batch { sequences: Some(&[0]), ..ok }, "1 sequences"),
        (Batch { positions: Some(&[0]), ..ok }, "1 positions"),
        (Batch { want: Some(&[]), ..ok }, "0 want"),
        (Batch { positions: Some(&[0, 1]), ..ok }, "position 1"),
        (Batch { positions: Some(&[1, 2]), ..ok }, "position 1"),
        (Batch { positions: Some(&[u32::MAX, 2]), ..ok }, "position 4294967295"),
    ];
    for (batch, text) in wrong {
        match context.decode(&batch) {
            Err(Error::Param(message)) => assert!(message.contains(text), "{message}"),
            other => panic!("{batch:?}: {other:?}"),
        }
        assert_eq!(state(&context), before);
    }
    context.decode(&Batch { positions: Some(&[0, 2]), ..ok }).unwrap();
    assert_eq!(context.n_logits(), 1, "of the last token only");
    assert!(matches!(context.logits(1), Err(Error::Param(_))));
    for result in [
        context.kv_len(2).map(|_| ()),
        context.kv_truncate(9, 0),
        context.kv_copy(0, 2, 0),
        context.kv_copy(0, 0, 0),
        context.kv_copy(0, 1, 2),
    ] {
        assert!(matches!(result, Err(Error::Param(_))), "{result:?}");
    }
}

#[test]
fn a_cancelled_batch_is_rolled_back_within_a_layer() {
    on_every_device("a_cancelled_batch_is_rolled_back_within_a_layer", |device| {
        let model = model(device);
        let mut context = context(&model, 256, 16, 2);
        let (prompt, next) = (tokens(11, 70), tokens(12, 50));
        let want = alone(&model, &[&prompt[..], &next].concat())[prompt.len()..].to_vec();
        extend(&mut context, 0, &prompt);
        context.kv_copy(0, 1, prompt.len()).unwrap();

        // nothing to cancel: the next batch is not affected
        assert!(!context.cancel_handle().cancel() && !context.cancel_handle().withdraw());
        assert!(same(device, &extend(&mut context, 0, &next), &want), "{device:?}");
        context.kv_truncate(0, prompt.len()).unwrap();

        // a flag that is set before ends it at once
        static STOP: AtomicI32 = AtomicI32::new(0);
        context.stop_on(&STOP);
        STOP.store(1, Ordering::Relaxed);
        assert!(matches!(context.decode(&batch(&next)), Err(Error::Cancelled)));
        STOP.store(0, Ordering::Relaxed);

        // set while the third of four steps computes its first layer: no second layer follows
        let (ops, after) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let handle = context.cancel_handle();
        let (seen, late) = (ops.clone(), after.clone());
        let mut steps = 0;
        let mut cancelled = false;
        context.observe(Some(Box::new(move |name, _, _| {
            seen.fetch_add(1, Ordering::Relaxed);
            steps += usize::from(name == "token_embd");
            late.fetch_add(usize::from(cancelled && name.starts_with("blk.1.ffn")), Ordering::Relaxed);
            if steps == 3 && name == "blk.0.attn_norm" {
                assert!(handle.cancel() && handle.withdraw() && !handle.withdraw() && handle.cancel());
                cancelled = true;
            }
        })));
        assert!(matches!(context.decode(&batch(&next)), Err(Error::Cancelled)), "{device:?}");
        context.observe(None);
        assert!(ops.load(Ordering::Relaxed) > 0);
        assert_eq!(after.load(Ordering::Relaxed), 0, "{device:?}: a whole layer ran after the cancellation");
        assert_eq!(context.kv_len(0).unwrap(), prompt.len());

        // that was the request's only call, and both sequences are as they were
        assert!(same(device, &extend(&mut context, 0, &next), &want), "{device:?}");
        assert!(same(device, &extend(&mut context, 1, &next), &want), "{device:?}");
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    on_every_device("threads_do_not_change_a_bit", |device| {
        let tiny =
            TinyModel { n_ff: 512, ..TinyModel::new("qwen2").types(&[TensorType::Q5_0, TensorType::Q6_K]) };
        let ids = tokens(13, 100);
        let logits = |threads: usize| alone(&load(device, threads, &tiny), &ids);
        let one = logits(1);
        for threads in [2, 3] {
            assert!(logits(threads) == one, "{device:?}: {threads} threads");
        }
    });
}

#[test]
fn counters_count() {
    let model = model(DeviceKind::Reference);
    let mut context = context(&model, 256, 16, 1);
    extend(&mut context, 0, &tokens(1, 40));
    extend(&mut context, 0, &[1]);
    context.count_sampling(1, std::time::Duration::from_micros(7));
    let perf = context.perf();
    assert_eq!((perf.prefill_tokens, perf.decode_tokens, perf.sampled_tokens, perf.sample_us), (40, 1, 1, 7));
    assert!(perf.prefill_us > 0 && perf.decode_us > 0);
    context.perf_reset();
    assert_eq!(context.perf().prefill_tokens, 0);
    let info = context.info();
    // 2 layers of keys and values, 1 head of 64, f32 in the reference device
    assert_eq!((info.n_ctx, info.n_batch, info.cache_bytes), (256, 16, 256 * 2 * 2 * 64 * 4));
}

fn sampling() -> Sampler {
    let params = SamplerParams {
        temperature: 1.3,
        repeat_penalty: 1.2,
        penalty_last_n: 8,
        seed: 11,
        ..SamplerParams::default()
    };
    Sampler::new(params).unwrap()
}

#[test]
fn a_context_samples_what_the_sampler_samples() {
    on_every_device("a_context_samples_what_the_sampler_samples", |device| {
        let model = model(device);
        // steps of 8 tokens: logits of several steps are kept
        let mut context = context(&model, 256, 8, 2);
        let prompt = tokens(5, 20);
        for n_wanted in [1, 3, 20] {
            let want: Vec<bool> = (0..prompt.len()).map(|i| i >= prompt.len() - n_wanted).collect();
            context.kv_clear();
            context.perf_reset();
            context.decode(&Batch { want: Some(&want), ..batch(&prompt) }).unwrap();
            let (mut one, mut other) = (sampling(), sampling());
            for row in 0..n_wanted {
                let want = one.sample(context.logits(row).unwrap()).unwrap();
                assert_eq!(context.sample(row, &mut other).unwrap(), want, "{device:?} row {row}");
                one.accept(want).unwrap();
                other.accept(want).unwrap();
            }
            assert!(matches!(context.sample(n_wanted, &mut other), Err(Error::Param(_))));
            assert_eq!(context.perf().sampled_tokens, n_wanted as u64);
        }
    });
}

#[test]
fn many_rows_are_sampled_in_one_call() {
    on_every_device("many_rows_are_sampled_in_one_call", |device| {
        let model = model(device);
        // the second context keeps the logits of several steps
        for n_batch in [0, 8] {
            let mut context = context(&model, 256, n_batch, 2);
            let prompt = tokens(5, 20);
            context.decode(&Batch { want: Some(&[true; 20]), ..batch(&prompt) }).unwrap();
            let mut one: Vec<Sampler> = (0..5).map(|_| sampling()).collect();
            one.iter_mut().zip(1..).for_each(|(sampler, token)| sampler.accept(token).unwrap());
            let mut other = one.clone();
            let at = [19, 3, 3, 0, 11];
            context.perf_reset();
            for round in 0..3 {
                let want: Vec<u32> = one
                    .iter_mut()
                    .zip(at)
                    .map(|(sampler, row)| sampler.sample(context.logits(row).unwrap()).unwrap())
                    .collect();
                let mut got = [0; 5];
                let mut samplers: Vec<&mut Sampler> = other.iter_mut().collect();
                context.sample_rows(&at, &mut samplers, &mut got).unwrap();
                assert_eq!(got.to_vec(), want, "{device:?} round {round}");
                for wrong in [&[19, 3, 20, 0, 11][..], &at[..4]] {
                    let refused = context.sample_rows(wrong, &mut samplers, &mut got);
                    assert!(matches!(refused, Err(Error::Param(_))), "{refused:?}");
                }
            }
            assert_eq!(context.perf().sampled_tokens, 15);
        }
    });
}

#[test]
fn evaluating_and_sampling_in_one_is_the_same_as_one_by_one() {
    on_every_device("evaluating_and_sampling_in_one_is_the_same_as_one_by_one", |device| {
        let model = model(device);
        let (mut one, mut both) = (context(&model, 256, 8, 1), context(&model, 256, 8, 1));
        let (mut first, mut second) = (sampling(), sampling());
        let mut next = tokens(6, 20);
        for step in 0..12 {
            one.decode(&batch(&next)).unwrap();
            let want = first.sample(one.logits(0).unwrap()).unwrap();
            let got = both.decode_and_sample(&batch(&next), &mut second).unwrap();
            assert_eq!(got, want, "{device:?} step {step}");
            assert_eq!(rows(&one), rows(&both));
            first.accept(want).unwrap();
            second.accept(want).unwrap();
            next = vec![want];
        }
        assert_eq!(state(&one), state(&both));
        let perf = both.perf();
        assert_eq!((perf.prefill_tokens, perf.decode_tokens, perf.sampled_tokens), (20, 11, 12));

        // the last wanted row counts; without one nothing happens
        let want = [true, true, false];
        let three = Batch { want: Some(&want), ..batch(&[1, 2, 3]) };
        one.decode(&three).unwrap();
        let wanted = first.sample(one.logits(1).unwrap()).unwrap();
        assert_eq!(both.decode_and_sample(&three, &mut second).unwrap(), wanted);
        let before = state(&both);
        let none = Batch { want: Some(&[false; 3]), ..batch(&[1, 2, 3]) };
        assert!(matches!(both.decode_and_sample(&none, &mut second), Err(Error::Param(_))));
        assert_eq!((state(&both), both.n_logits()), (before, 0));
        one.decode(&three).unwrap();
        let wanted = first.sample(one.logits(1).unwrap()).unwrap();
        assert_eq!(both.decode_and_sample(&three, &mut second).unwrap(), wanted);
    });
}
