//! Sequences with a recurrent state: copies, ways back and failures, on every device. After each the logits are those of the
//! same tokens that never parted: bit for bit on the processor, within the f16 of the GPU's products there.

use crate::common;

use common::archs::Fixture;
use common::backends::on_every_device;
use common::logits::nmse;
use rocmforge::Error;
use rocmforge::engine::{
    Backend, BackendParams, Batch, Context, ContextParams, DeviceKind, Model, ModelParams,
};

const INTERVAL: usize = 20;

fn model(device: DeviceKind) -> Model {
    let backend = Backend::new(&BackendParams { device, threads: 2, ..BackendParams::default() }).unwrap();
    let file = Fixture::open("qwen35-dense").model(1);
    Model::from_gguf(&backend, file, ModelParams::default()).unwrap()
}

fn context(model: &Model, n_batch: usize) -> Context {
    let params = ContextParams { n_ctx: 512, n_batch, n_seq_max: 3, checkpoint_interval: INTERVAL };
    Context::new(model, &params).unwrap()
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

/// What `tail` gives behind `head` in a fresh context, in steps that no checkpoint cuts.
fn alone(model: &Model, head: &[u32], tail: &[u32]) -> Vec<f32> {
    let params = ContextParams { n_ctx: 512, n_batch: 512, n_seq_max: 1, checkpoint_interval: 0 };
    let mut context = Context::new(model, &params).unwrap();
    extend(&mut context, &[(0, head)]);
    extend(&mut context, &[(0, tail)]).remove(0)
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
fn a_copy_goes_on_as_the_original() {
    on_every_device("a_copy_goes_on_as_the_original", |device| {
        let model = model(device);
        let (prompt, left, right) = (tokens(1, 50), tokens(2, 6), tokens(3, 45));
        let mut context = context(&model, 24);
        extend(&mut context, &[(0, &prompt)]);
        context.kv_copy(0, 1, 50).unwrap();
        context.kv_copy(0, 2, 40).unwrap();
        let got = extend(&mut context, &[(0, &left), (1, &right), (2, &left)]);
        check(device, "the original", &got[0], &alone(&model, &prompt, &left));
        check(device, "the copy", &got[1], &alone(&model, &prompt, &right));
        check(device, "the copy of a part", &got[2], &alone(&model, &prompt[..40], &left));
        // the copies have the original's checkpoints, and their own
        context.kv_truncate(1, 60).unwrap();
        let got = extend(&mut context, &[(1, &left)]).remove(0);
        let kept = [&prompt[..], &right[..10]].concat();
        check(device, "a checkpoint of the copy", &got, &alone(&model, &kept, &left));
        context.kv_truncate(2, 20).unwrap();
        let got = extend(&mut context, &[(2, &left)]).remove(0);
        check(device, "a checkpoint of the original", &got, &alone(&model, &prompt[..20], &left));
    });
}

#[test]
fn a_sequence_goes_back_to_its_checkpoints() {
    on_every_device("a_sequence_goes_back_to_its_checkpoints", |device| {
        let model = model(device);
        let (prompt, next) = (tokens(4, 97), tokens(5, 9));
        let mut context = context(&model, 64);
        extend(&mut context, &[(0, &prompt[..30])]);
        extend(&mut context, &[(0, &prompt[30..])]);
        for refused in [context.kv_truncate(0, 70), context.kv_copy(0, 1, 70)] {
            let error = refused.unwrap_err();
            assert!(
                matches!(&error, Error::NotKept { wanted: 70, kept } if *kept == [0, 40, 60, 80, 97].map(|at| at..=at)),
                "{error:?}"
            );
            assert_eq!(
                error.to_string(),
                "position 70 of the sequence cannot be gone back to: what the model remembers was kept at 0, 40, 60, 80, 97 only"
            );
        }
        assert_eq!((context.kv_len(0).unwrap(), context.kv_len(1).unwrap()), (97, 0));
        assert_eq!([39, 70, 97, 500].map(|most| context.kv_reachable(0, most).unwrap()), [0, 60, 97, 97]);
        // behind 97 another checkpoint comes, and the first of three goes
        for kept in [97, 80, 60, 0] {
            context.kv_truncate(0, kept).unwrap();
            let got = extend(&mut context, &[(0, &next)]).remove(0);
            let want = match kept {
                0 => alone(&model, &next[..1], &next[1..]),
                kept => alone(&model, &prompt[..kept], &next),
            };
            check(device, &format!("after {kept}"), &got[got.len() - want.len()..], &want);
        }
        context.kv_clear();
        assert_eq!(context.kv_reachable(0, 500).unwrap(), 0);
    });
}

/// A batch of several steps that is cancelled in one of them, and one that does not fit.
#[test]
fn a_failed_batch_costs_nothing() {
    on_every_device("a_failed_batch_costs_nothing", |device| {
        let model = model(device);
        let (prompt, next) = (tokens(6, 33), tokens(7, 70));
        let mut context = context(&model, 16);
        extend(&mut context, &[(0, &prompt)]);
        extend(&mut context, &[(1, &prompt[..7])]);
        for cancelled_at in 1..=4 {
            let (handle, mut steps) = (context.cancel_handle(), 0);
            context.observe(Some(Box::new(move |name, _, _| {
                steps += usize::from(name == "blk.0.delta_net");
                if steps == cancelled_at {
                    handle.cancel();
                }
            })));
            let outcome =
                context.decode(&Batch { tokens: &next, positions: None, sequences: None, want: None });
            assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
            context.observe(None);
        }
        let many = tokens(8, 600);
        let outcome = context.decode(&Batch { tokens: &many, positions: None, sequences: None, want: None });
        assert!(matches!(outcome, Err(Error::CacheFull { .. })), "{outcome:?}");
        assert_eq!((context.kv_len(0).unwrap(), context.kv_len(1).unwrap()), (33, 7));
        let got = extend(&mut context, &[(0, &next), (1, &next)]);
        check(device, "the first", &got[0], &alone(&model, &prompt, &next));
        check(device, "the second", &got[1], &alone(&model, &prompt[..7], &next));
    });
}
