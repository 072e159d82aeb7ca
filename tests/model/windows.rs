//! Sequences of a model with windows, in contexts whose windowed caches have the room of their windows: copies, ways back and
//! failures, on every device. After each the logits are those of the same tokens in a context that keeps all cells: bit for
//! bit on the processor, within the f16 of the GPU's products there.

use crate::common;

use common::archs::Fixture;
use common::backends::on_every_device;
use common::logits::nmse;
use rocmforge::Error;
use rocmforge::device::BLOCK_LEN;
use rocmforge::engine::{
    Backend, BackendParams, Batch, Context, ContextParams, DeviceKind, Model, ModelParams,
};
use rocmforge::gguf::{Gguf, Value};

/// Of two layers one sees all positions, the other a window of so many.
const WINDOW: usize = 32;
const N_BATCH: usize = 24;
const N_CTX: usize = 32 * BLOCK_LEN;

fn model(device: DeviceKind, window: usize) -> Model {
    let backend = Backend::new(&BackendParams { device, threads: 2, ..BackendParams::default() }).unwrap();
    let mut fixture = Fixture::open("gemma3-dense");
    fixture.set("attention.sliding_window", Value::U32(window as u32));
    let file = Gguf::from_bytes(fixture.bytes(1), "a model with windows").unwrap();
    let params = ModelParams { n_ctx: N_CTX, n_batch: N_BATCH, ..ModelParams::default() };
    Model::from_gguf(&backend, file.into(), params).unwrap()
}

fn context(model: &Model, n_seq_max: usize) -> Context {
    let params = ContextParams { n_ctx: N_CTX, n_batch: N_BATCH, n_seq_max, checkpoint_interval: 0 };
    Context::new(model, &params).unwrap()
}

/// Blocks of such a context: of each sequence twice the two that a window touches and one more, and one for a step's tokens.
fn blocks(n_seq_max: usize) -> usize {
    n_seq_max * (2 * 2 + 1) + 1
}

fn tokens(seed: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 37 + seed * 61 + i * i * (seed + 3)) % 128) as u32).collect()
}

/// Evaluates the pieces, each at the end of its sequence, in one batch; the logits of each.
fn extend(context: &mut Context, pieces: &[(u32, &[u32])]) -> Vec<Vec<f32>> {
    let tokens = pieces.iter().map(|(_, tokens)| *tokens).collect::<Vec<_>>().concat();
    let sequences: Vec<u32> =
        pieces.iter().flat_map(|(s, tokens)| std::iter::repeat_n(*s, tokens.len())).collect();
    let want = vec![true; tokens.len()];
    let batch = Batch { tokens: &tokens, positions: None, sequences: Some(&sequences), want: Some(&want) };
    context.decode(&batch).unwrap();
    let mut row = 0;
    let rows = pieces.iter().map(|(_, tokens)| {
        let rows = row..row + tokens.len();
        row = rows.end;
        rows.flat_map(|row| context.logits(row).unwrap().to_vec()).collect()
    });
    rows.collect()
}

/// What `tail` gives behind `head` where all cells are kept: with so many sequences windows have room for all positions.
fn alone(model: &Model, head: &[u32], tail: &[u32]) -> Vec<f32> {
    let params = ContextParams { n_ctx: 1024, n_batch: 512, n_seq_max: 64, checkpoint_interval: 0 };
    let mut context = Context::new(model, &params).unwrap();
    if !head.is_empty() {
        extend(&mut context, &[(0, head)]);
    }
    let logits = extend(&mut context, &[(0, tail)]).remove(0);
    assert_eq!(context.kv_reachable(0, 1).unwrap(), 1, "the first cells are gone");
    logits
}

fn check(device: DeviceKind, what: &str, got: &[f32], want: &[f32]) {
    match device {
        DeviceKind::Hip => {
            let error = nmse(want, got);
            assert!(error <= 1e-5, "{device:?}: {what}: NMSE {error:.1e}");
        }
        _ => assert!(got == want, "{device:?}: {what}: NMSE {:.1e}", nmse(want, got)),
    }
}

#[test]
fn a_window_takes_the_room_of_a_window() {
    on_every_device("a_window_takes_the_room_of_a_window", |device| {
        let bytes = |window, n_seq_max| context(&model(device, window), n_seq_max).info().cache_bytes;
        let planned =
            |window| model(device, window).placement().parts.iter().map(|part| part.needs.cache).sum::<u64>();
        let all = bytes(0, 1);
        assert_eq!([planned(0), planned(WINDOW)], [all, bytes(WINDOW, 1)]);
        for n_seq_max in [1, 3] {
            let windows = all / 2 * blocks(n_seq_max) as u64 / (N_CTX / BLOCK_LEN) as u64;
            assert_eq!(bytes(WINDOW, n_seq_max), all / 2 + windows);
        }
        assert_eq!(bytes(N_CTX, 3), all);
    });
}

#[test]
fn a_long_sequence_sees_its_window() {
    on_every_device("a_long_sequence_sees_its_window", |device| {
        let model = model(device, WINDOW);
        let (prompt, next) = (tokens(1, 420), tokens(2, 40));
        let want = [alone(&model, &[], &prompt), alone(&model, &prompt, &next)].concat();
        let mut context = context(&model, 1);
        let mut got = extend(&mut context, &[(0, &prompt)]).remove(0);
        for token in next.chunks(1) {
            got.extend(extend(&mut context, &[(0, token)]).remove(0));
        }
        check(device, "all", &got, &want);
        // of 8 blocks there are the last 6
        let least = (8 - blocks(1)) * BLOCK_LEN + WINDOW - 1;
        assert_eq!([least - 1, least].map(|most| context.kv_reachable(0, most).unwrap()), [0, least]);
        context.kv_truncate(0, least).unwrap();
        let got = extend(&mut context, &[(0, &next)]).remove(0);
        check(device, "the least that is kept", &got, &alone(&model, &prompt[..least], &next));
    });
}

#[test]
fn a_copy_goes_on_as_the_original() {
    on_every_device("a_copy_goes_on_as_the_original", |device| {
        let model = model(device, WINDOW);
        let (prompt, left, right) = (tokens(1, 300), tokens(2, 6), tokens(3, 150));
        let mut context = context(&model, 3);
        extend(&mut context, &[(0, &prompt)]);
        context.kv_copy(0, 1, 300).unwrap();
        context.kv_copy(0, 2, 290).unwrap();
        let got = extend(&mut context, &[(0, &left), (1, &right), (2, &left)]);
        check(device, "the original", &got[0], &alone(&model, &prompt, &left));
        check(device, "the copy", &got[1], &alone(&model, &prompt, &right));
        check(device, "the copy of a part", &got[2], &alone(&model, &prompt[..290], &left));
        // blocks that one gave back are still the others'
        for _ in 0..3 {
            extend(&mut context, &[(1, &right)]);
        }
        let got = extend(&mut context, &[(0, &right), (2, &right)]);
        let heads = [[&prompt, &left[..]].concat(), [&prompt[..290], &left].concat()];
        check(device, "the original, later", &got[0], &alone(&model, &heads[0], &right));
        check(device, "the copy of a part, later", &got[1], &alone(&model, &heads[1], &right));
    });
}

#[test]
fn a_sequence_goes_back_as_far_as_its_window_is_kept() {
    on_every_device("a_sequence_goes_back_as_far_as_its_window_is_kept", |device| {
        let model = model(device, WINDOW);
        let (prompt, next) = (tokens(4, blocks(2) * BLOCK_LEN), tokens(5, 9));
        let mut context = context(&model, 2);
        extend(&mut context, &[(0, &prompt[..30])]);
        extend(&mut context, &[(0, &prompt[30..])]);
        // nothing else wants room
        assert_eq!(context.kv_reachable(0, 70).unwrap(), 70);
        // until another does
        extend(&mut context, &[(1, &next)]);
        assert_eq!([94, 95, 96, 900].map(|most| context.kv_reachable(0, most).unwrap()), [0, 95, 96, 704]);
        for refused in [context.kv_truncate(0, 94), context.kv_copy(0, 1, 94)] {
            let error = refused.unwrap_err();
            assert!(
                matches!(&error, Error::NotKept { wanted: 94, kept } if *kept == [0..=0, 95..=704]),
                "{error:?}"
            );
            assert_eq!(
                error.to_string(),
                "position 94 of the sequence cannot be gone back to: what the model remembers was kept at 0, 95 to 704 only"
            );
        }
        assert_eq!((context.kv_len(0).unwrap(), context.kv_len(1).unwrap()), (704, 9));
        for kept in [704, 703, 320, 0] {
            context.kv_truncate(0, kept).unwrap();
            let got = extend(&mut context, &[(0, &next)]).remove(0);
            check(device, &format!("after {kept}"), &got, &alone(&model, &prompt[..kept], &next));
        }
        context.kv_clear();
        assert_eq!(context.kv_reachable(0, 500).unwrap(), 0);
    });
}

/// A batch of many steps that is cancelled in one of them: its sequences go back to windows that the steps have left behind.
#[test]
fn a_failed_batch_costs_nothing() {
    on_every_device("a_failed_batch_costs_nothing", |device| {
        let model = model(device, WINDOW);
        let (prompt, next) = (tokens(6, 133), tokens(7, 200));
        let mut context = context(&model, 3);
        extend(&mut context, &[(0, &prompt)]);
        context.kv_copy(0, 1, 130).unwrap();
        extend(&mut context, &[(2, &tokens(8, 600))]);
        for cancelled_at in [1, 2, 7, 17] {
            let (handle, mut steps) = (context.cancel_handle(), 0);
            context.observe(Some(Box::new(move |name, _, _| {
                steps += usize::from(name == "blk.0.attn_norm");
                if steps == cancelled_at {
                    handle.cancel();
                }
            })));
            let (tokens, sequences) = ([&next[..], &next].concat(), [[0; 200], [1; 200]].concat());
            let batch = Batch { tokens: &tokens, positions: None, sequences: Some(&sequences), want: None };
            let outcome = context.decode(&batch);
            assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
            context.observe(None);
            assert_eq!((context.kv_len(0).unwrap(), context.kv_len(1).unwrap()), (133, 130));
        }
        let got = extend(&mut context, &[(0, &next), (1, &next)]);
        check(device, "the first", &got[0], &alone(&model, &prompt, &next));
        check(device, "the second", &got[1], &alone(&model, &prompt[..130], &next));
    });
}
