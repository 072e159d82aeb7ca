//! Attention whose keys and values differ in length, or whose keys hold the values, and what cuts and joins rows for it,
//! against the definition.

use crate::common;

use common::gpu::{Gpu, Test, nmse};
use common::operands::{bits, floats};
use common::tiny_model::Rng;
use half::f16;
use rocmforge::Error;
use rocmforge::device::BLOCK_LEN;
use rocmforge::device::hip::ops::attend::{self, AttendScratch, AttendShape, HeadNorms, Scores};
use rocmforge::device::hip::ops::prefill::{Tiles, attention_tiles, prefill_attention};
use rocmforge::device::hip::ops::project::{Dest, LATENT_PAD, LayerCache, Tokens, cell_pad};
use rocmforge::device::hip::ops::rows::{self, Parts};
use rocmforge::device::reference::ops as reference;
use rocmforge::plan::{self, Cache, Values, Window};

pub const TESTS: &[Test] = &[
    Test::new("values_of_another_length", values_of_another_length),
    Test::new("values_in_keys", values_in_keys),
    Test::new("columns", columns),
    Test::new("temper", temper),
];

/// Two sequences: tokens of the first from position 0 to `long`, of the second to `short`; the last of each attend.
struct Case {
    n_head: usize,
    n_head_kv: usize,
    k: usize,
    values: Values,
    lengths: [usize; 2],
    window: Option<Window>,
    splits: usize,
}

impl Case {
    fn run(&self, gpu: &Gpu) {
        let Case { n_head, n_head_kv, k, values, lengths, window, splits } = *self;
        let shape = Cache { n_head_kv, k, values, window };
        let (v, own_v, pad) = (shape.v(), shape.own_v(), cell_pad(shape).unwrap());
        let what = format!("{n_head} / {n_head_kv} heads of {k}, {values:?}, {lengths:?}, window {window:?}");
        let mut rng = Rng(51);

        // blocks of the two alternate, the first block is nobody's
        let stride = lengths.iter().max().unwrap().div_ceil(BLOCK_LEN);
        let table: Vec<u32> =
            (0..2 * stride as u32).map(|i| 1 + i % stride as u32 * 2 + i / stride as u32).collect();
        let n_blocks = 1 + 2 * stride;
        let tokens: Vec<(u32, u32)> = lengths
            .iter()
            .enumerate()
            .flat_map(|(sequence, n)| (0..*n as u32).map(move |position| (sequence as u32, position)))
            .collect();
        let n = tokens.len();
        let [sequences, positions] = [0, 1].map(|which| {
            let each =
                tokens.iter().map(|(sequence, position)| if which == 0 { *sequence } else { *position });
            gpu.input(&each.collect::<Vec<u32>>())
        });
        let on_card = gpu.input(&table);
        let all = Tokens {
            n,
            positions: positions.span(),
            sequences: sequences.span(),
            table: on_card.span(),
            n_tables: 2,
            table_stride: stride,
        };

        let cells = [0; 2].map(|_| gpu.output::<u16>(n_blocks * n_head_kv * BLOCK_LEN * pad));
        let cache = LayerCache {
            k: cells[0].span(),
            v: cells[usize::from(pad != LATENT_PAD)].span(),
            n_head_kv,
            head_dim: k,
            value_dim: v,
            head_pad: pad,
            n_blocks,
        };
        let rows = [k, own_v].map(|len| floats(&mut rng, n * n_head_kv * len, 1.0));
        let (keys, own) = (gpu.input(&rows[0]), gpu.input(&rows[1]));
        let q = floats(&mut rng, n * n_head * k, 1.0);
        let q_on_card = gpu.input(&q);
        let norms = HeadNorms { q: None, k: None, eps: 0.0 };
        let own = (own_v > 0).then(|| own.span());
        attend::prepare_heads(&gpu.stream, 0, keys.span(), keys.span(), own, norms, None, all, cache)
            .unwrap();

        // the definition, over cells as f16 holds them
        let rounded = rows.map(|rows| rows.iter().map(|x| f16::from_f32(*x).to_f32()).collect::<Vec<f32>>());
        let scale = 1.5 / (k as f32).sqrt();
        let heads = reference::Heads { n_head, n_head_kv, scores: plan::Scores::scaled(scale) };
        let of = |cells, step, len| reference::CellHeads { cells, width: n_head_kv * step, step, len };
        let values = if own_v > 0 { of(&rounded[1], v, v) } else { of(&rounded[0], k, v) };
        let mut want = vec![0.0; n * n_head * v];
        for (t, out) in want.chunks_exact_mut(n_head * v).enumerate() {
            let (start, position) = (t - tokens[t].1 as usize, tokens[t].1);
            let seen = shape.first_seen(position as usize) as u32;
            let slots: Vec<usize> = (seen..=position).map(|position| start + position as usize).collect();
            let cells = reference::Cells { slots: &slots, first: seen as usize, own: position as usize };
            let q = &q[t * n_head * k..][..n_head * k];
            reference::attention(q, cells, of(&rounded[0], k, k), values, heads, None, out).unwrap();
        }

        let scores = Scores { window, ..Scores::scaled(scale) };
        let tiles = attention_tiles(tokens.iter().copied(), pad);
        let tiles_on_card = gpu.input(&tiles.concat());
        let tiles = Tiles {
            tiles: tiles_on_card.span(),
            n_tiles: tiles.len(),
            table: on_card.span(),
            n_tables: 2,
            table_stride: stride,
        };
        let out = gpu.output::<f32>(want.len());
        prefill_attention(&gpu.stream, n, n_head, q_on_card.span(), tiles, cache, scores, out.span())
            .unwrap();
        let error = nmse(&want, &gpu.read::<f32>(&out));
        println!("{what}, many: NMSE {error:.1e}");
        assert!(error <= 1e-6, "{what}, many: NMSE {error:.1e}");

        // the last token of each alone, as a step of two
        let few = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end - 1)
        });
        let few: Vec<usize> = few.collect();
        let [sequences, positions] = [0, 1].map(|which| {
            let each = few.iter().map(|t| if which == 0 { tokens[*t].0 } else { tokens[*t].1 });
            gpu.input(&each.collect::<Vec<u32>>())
        });
        let two = Tokens { n: 2, positions: positions.span(), sequences: sequences.span(), ..all };
        let pick = |rows: &[f32], width: usize| {
            few.iter().flat_map(|t| rows[t * width..][..width].to_vec()).collect::<Vec<f32>>()
        };
        let q = gpu.input(&pick(&q, n_head * k));
        let shape = AttendShape { n_head, n_head_kv, splits };
        let parts = gpu.output::<f32>(2 * n_head * splits * (pad + 2));
        let tickets = gpu.output::<u32>(2 * n_head);
        gpu.stream.fill(tickets.span(), 0).unwrap();
        let results = [0; 2].map(|_| {
            let out = gpu.output::<f32>(2 * n_head * v);
            let scratch = AttendScratch { parts: parts.span(), tickets: tickets.span() };
            let to = Dest { plain: Some(out.span()), rounded: None };
            attend::attend(&gpu.stream, shape, q.span(), scores, two, None, cache, scratch, to).unwrap();
            gpu.read::<f32>(&out)
        });
        let error = nmse(&pick(&want, n_head * v), &results[0]);
        println!("{what}, few: NMSE {error:.1e}");
        assert!(error <= 1e-6, "{what}, few: NMSE {error:.1e}");
        assert!(bits(&results[0]) == bits(&results[1]), "{what}: a second call gives another result");
    }
}

fn values_of_another_length(gpu: &Gpu) {
    let plain = Case {
        n_head: 4,
        n_head_kv: 2,
        k: 24,
        values: Values::Own(40),
        lengths: [70, 9],
        window: None,
        splits: 3,
    };
    plain.run(gpu);
    Case { k: 64, values: Values::Own(32), window: Some(Window::Sliding(20)), ..plain }.run(gpu);
    Case { n_head: 2, k: 192, values: Values::Own(128), lengths: [66, 3], ..plain }.run(gpu);
    Case { n_head: 3, n_head_kv: 1, k: 9, values: Values::Own(3), ..plain }.run(gpu);
}

fn values_in_keys(gpu: &Gpu) {
    let plain = Case {
        n_head: 3,
        n_head_kv: 1,
        k: 576,
        values: Values::InKeys(512),
        lengths: [70, 9],
        window: None,
        splits: 3,
    };
    plain.run(gpu);
    Case { n_head: 9, k: 72, values: Values::InKeys(56), splits: 1, ..plain }.run(gpu);
    Case {
        n_head: 2,
        n_head_kv: 2,
        k: 33,
        values: Values::InKeys(33),
        window: Some(Window::Chunks(20)),
        ..plain
    }
    .run(gpu);
    Case { n_head: 1, k: 321, values: Values::InKeys(258), lengths: [5, 130], ..plain }.run(gpu);
    for (k, v) in [(577, 512), (600, 513), (64, 65)] {
        let cache = Cache { n_head_kv: 1, k, values: Values::InKeys(v), window: None };
        assert!(matches!(cell_pad(cache), Err(Error::Unsupported { .. })), "{v} of {k}");
    }
}

fn columns(gpu: &Gpu) {
    for (n, n_parts, len, step, first, gap) in
        [(1, 1, 1, 1, 0, 0), (3, 5, 7, 11, 4, 2), (2, 3, 300, 0, 9, 1), (4, 2, 64, 96, 32, 0)]
    {
        let (width, to_width) = ((n_parts - 1) * step + first + len, n_parts * (len + gap));
        let x = floats(&mut Rng(52), n * width, 1.0);
        let (from, dst) = (gpu.input(&x), gpu.output::<f32>(n * to_width));
        gpu.stream.fill(dst.span(), 0).unwrap();
        let (part, to) =
            (Parts { width, first, step }, Parts { width: to_width, first: gap, step: len + gap });
        rows::columns(&gpu.stream, from.span(), part, dst.span(), to, n, n_parts, len).unwrap();
        let mut want = vec![0.0; n * to_width];
        for (i, want) in want.chunks_exact_mut(len + gap).enumerate() {
            want[gap..].copy_from_slice(&x[i / n_parts * width + first + i % n_parts * step..][..len]);
        }
        assert!(bits(&want) == bits(&gpu.read::<f32>(&dst)), "{n_parts} x {len}");
        let long = Parts { width, first: first + 1, step };
        let outcome = rows::columns(&gpu.stream, from.span(), long, dst.span(), to, n, n_parts, len);
        assert!(matches!(outcome, Err(Error::Param(_))), "{outcome:?}");
    }
}

fn temper(gpu: &Gpu) {
    let positions = [0u32, 15, 16, 47, 100_000];
    let (width, length, scale) = (300, 16, 0.1);
    let x = floats(&mut Rng(53), positions.len() * width, 1.0);
    let (from, dst, at) = (gpu.input(&x), gpu.output::<f32>(x.len()), gpu.input(&positions));
    rows::temper(&gpu.stream, from.span(), dst.span(), at.span(), positions.len(), width, scale, length)
        .unwrap();
    let want = x.chunks_exact(width).zip(positions).flat_map(|(row, position)| {
        let factor = 1.0 + f64::from(scale) * f64::from(position / length as u32 + 1).ln();
        row.iter().map(move |x| (f64::from(*x) * factor) as f32)
    });
    let error = nmse(&want.collect::<Vec<_>>(), &gpu.read::<f32>(&dst));
    assert!(error <= 1e-12, "NMSE {error:.1e}");
}
