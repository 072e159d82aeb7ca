//! The sampler against direct definitions of each filter, and its draws against exact probabilities.

use proptest::prelude::*;
use rocmforge::Error;
use rocmforge::engine::{Sampler, SamplerParams};

/// Everything off: a draw from softmax(logits).
fn plain() -> SamplerParams {
    SamplerParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        penalty_last_n: 0,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: 1,
    }
}

fn sampler(params: &SamplerParams) -> Sampler {
    Sampler::new(params.clone()).unwrap()
}

/// (id, probability) of the candidates left, in rank order: each filter as its definition reads, in f64.
fn definition(logits: &[f32], params: &SamplerParams) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(i, l)| (i as u32, f64::from(*l))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let softmax = |all: &[(u32, f64)], temperature: f64| -> Vec<f64> {
        let exp: Vec<f64> = all.iter().map(|(_, l)| ((l - all[0].1) / temperature).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.iter().map(|e| e / sum).collect()
    };
    if params.top_k > 0 {
        all.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let mut sum = 0.0;
        let p = softmax(&all, 1.0);
        let reached = p.iter().position(|p| {
            sum += p;
            sum >= f64::from(params.top_p)
        });
        all.truncate(reached.map_or(all.len(), |at| at + 1));
    }
    let p = softmax(&all, 1.0);
    let mut at = 0;
    all.retain(|_| {
        at += 1;
        p[at - 1] >= f64::from(params.min_p) * p[0]
    });
    let p = softmax(&all, f64::from(params.temperature));
    all.iter().zip(p).map(|((id, _), p)| (*id, p)).collect()
}

/// Number `draw` (from 1) of the documented sequence, from its description.
fn uniform(seed: u64, draw: u64) -> f64 {
    let golden = 0x9E3779B97F4A7C15u64;
    let mut z = (u128::from(seed) + u128::from(draw) * u128::from(golden)) as u64;
    z ^= z >> 30;
    z = z.wrapping_mul(0xBF58476D1CE4E5B9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94D049BB133111EB);
    z ^= z >> 31;
    (z >> 11) as f64 * 2f64.powi(-53)
}

#[test]
fn the_uniform_sequence_is_splitmix64() {
    // first outputs of splitmix64 with seed 0, as published with the xoshiro generators
    for (draw, output) in [(1, 0xE220A8397B1DCDAFu64), (2, 0x6E789E6AA1B965F4), (3, 0x06C45D188009454F)] {
        assert_eq!(uniform(0, draw), (output >> 11) as f64 * 2f64.powi(-53));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Which token a draw gives follows from the description alone. Logits on a coarse grid make many ties.
    #[test]
    fn each_draw_is_the_documented_one(
        grid in prop::collection::vec(-20i32..20, 1..200),
        scale in prop::sample::select(vec![0.05f32, 0.25, 1.0]),
        top_k in prop::sample::select(vec![0u32, 1, 2, 5, 40, 1000]),
        top_p in prop::sample::select(vec![1.0f32, 0.95, 0.5, 0.1, 0.0]),
        min_p in prop::sample::select(vec![0.0f32, 0.05, 0.3, 1.0]),
        temperature in prop::sample::select(vec![1.0f32, 0.8, 0.1, 3.0]),
        seed: u64,
    ) {
        let logits: Vec<f32> = grid.iter().map(|g| *g as f32 * scale).collect();
        let params = SamplerParams { top_k, top_p, min_p, temperature, seed, ..plain() };
        let left = definition(&logits, &params);
        let mut sampler = sampler(&params);
        for draw in 1..=3 {
            let token = sampler.sample(&logits).unwrap();
            let u = uniform(seed, draw);
            let mut sum = 0.0;
            let bounds = left.iter().map(|(id, p)| {
                let from = sum;
                sum += p;
                (*id, from, sum)
            });
            // u may lie on a bound, to rounding: either side is right then
            let allowed: Vec<u32> =
                bounds.filter(|(_, from, to)| (from - 1e-6..to + 1e-6).contains(&u)).map(|b| b.0).collect();
            // so may the bound of a filter: a tie in p at the edge of min-p or top-p
            let edge = {
                let nudged = |top_p: f32, min_p: f32| definition(&logits, &SamplerParams { top_p, min_p, ..params.clone() }).len();
                nudged(top_p * 0.99999, min_p) != nudged((top_p * 1.00001).min(1.0), min_p)
                    || nudged(top_p, min_p * 0.99999) != nudged(top_p, min_p * 1.00001)
            };
            prop_assert!(allowed.contains(&token) || edge, "{} not in {:?}, u {}", token, allowed, u);
        }
    }

    #[test]
    fn penalties_follow_their_definition(
        logits in prop::collection::vec(-4.0f32..4.0, 8),
        history in prop::collection::vec(0u32..8, 0..20),
        last_n in 0usize..12,
        repeat in prop::sample::select(vec![1.0f32, 1.3, 0.7]),
        frequency in prop::sample::select(vec![0.0f32, 0.5, -0.5]),
        presence in prop::sample::select(vec![0.0f32, 1.0, -0.25]),
    ) {
        let params = SamplerParams {
            temperature: 0.0,
            penalty_last_n: last_n,
            repeat_penalty: repeat,
            frequency_penalty: frequency,
            presence_penalty: presence,
            ..plain()
        };
        let mut sampler = sampler(&params);
        history.iter().for_each(|t| sampler.accept(*t).unwrap());
        let window = &history[history.len().saturating_sub(last_n)..];
        let mut want = logits.clone();
        for (id, logit) in want.iter_mut().enumerate() {
            let count = window.iter().filter(|t| **t == id as u32).count() as f32;
            if count > 0.0 {
                *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
                *logit -= count * frequency + presence;
            }
        }
        let best = want.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let token = sampler.sample(&logits).unwrap() as usize;
        prop_assert!((want[token] - best).abs() < 1e-6, "{} of {:?}", token, want);
    }
}

/// The selection from a large vocabulary finds what sorting all of it finds.
#[test]
fn top_k_of_a_large_vocabulary() {
    for (seed, k) in [(1, 1u32), (2, 3), (3, 40), (4, 200)] {
        // coarse: ties abound, at the k-th place too
        let logits: Vec<f32> =
            (0..10_000).map(|i| (uniform(seed, i + 1) * 2000.0).floor() as f32 / 100.0).collect();
        let params = SamplerParams { top_k: k, temperature: 1e6, seed, ..plain() };
        let left: Vec<u32> = definition(&logits, &params).iter().map(|(id, _)| *id).collect();
        let mut sampler = sampler(&params);
        let mut seen = vec![false; k as usize];
        for _ in 0..15 * k {
            let token = sampler.sample(&logits).unwrap();
            let rank = left.iter().position(|id| *id == token);
            seen[rank.unwrap_or_else(|| panic!("{token} is not among the {k} best"))] = true;
        }
        assert!(seen.iter().all(|s| *s), "some of the {k} best never came");
    }
}

/// Pearson's statistic of `n` draws against the exact probabilities must lie below the value that a right
/// sampler exceeds with probability 1e-4 (Wilson and Hilferty's approximation).
fn check_frequencies(logits: &[f32], params: &SamplerParams, n: usize) {
    let want = definition(logits, params);
    let mut counts = vec![0u32; logits.len()];
    let mut sampler = sampler(params);
    for _ in 0..n {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    let kept: u32 = want.iter().map(|(id, _)| counts[*id as usize]).sum();
    assert_eq!(kept as usize, n, "a token was drawn that the filters drop");
    let chi2: f64 = want
        .iter()
        .map(|(id, p)| {
            let expected = p * n as f64;
            assert!(expected >= 5.0, "too few draws for token {id}");
            (f64::from(counts[*id as usize]) - expected).powi(2) / expected
        })
        .sum();
    let df = (want.len() - 1) as f64;
    let bound = df * (1.0 - 2.0 / (9.0 * df) + 3.719 * (2.0 / (9.0 * df)).sqrt()).powi(3);
    assert!(chi2 < bound, "chi-square {chi2:.1} of {df} degrees of freedom, bound {bound:.1}: {params:?}");
    // and not too good to be true either
    assert!(df < 8.0 || chi2 > df / 8.0, "chi-square {chi2:.3} of {df}");
}

#[test]
fn draws_have_the_exact_frequencies() {
    let logits: Vec<f32> = (0..24).map(|i| ((i * 7 % 24) as f32 * 0.41).sin() - 0.04 * i as f32).collect();
    for seed in [0, 1, 42, u64::MAX] {
        for (top_k, top_p, min_p, temperature) in [
            (0, 1.0, 0.0, 1.0),
            (0, 1.0, 0.0, 0.6),
            (0, 1.0, 0.0, 2.5),
            (10, 1.0, 0.0, 1.0),
            (0, 0.8, 0.0, 0.9),
            (0, 1.0, 0.1, 1.3),
            (12, 0.9, 0.05, 0.8),
        ] {
            let params = SamplerParams { top_k, top_p, min_p, temperature, seed, ..plain() };
            check_frequencies(&logits, &params, 40_000);
        }
    }
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    for temperature in [0.0, -1.0] {
        let mut sampler = sampler(&SamplerParams { temperature, ..plain() });
        assert_eq!(sampler.sample(&[1.0, 3.0, -1.0, 3.0, 2.0]).unwrap(), 1);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0]).unwrap(), 1);
    }
}

#[test]
fn the_seed_decides_and_reset_begins_again() {
    let logits = vec![0.0; 1000];
    let draw =
        |sampler: &mut Sampler| -> Vec<u32> { (0..20).map(|_| sampler.sample(&logits).unwrap()).collect() };
    let mut one = sampler(&SamplerParams { seed: 5, ..plain() });
    let first = draw(&mut one);
    assert_ne!(draw(&mut one), first);
    let mut clone = one.clone();
    assert_eq!(draw(&mut clone), draw(&mut one));
    one.reset();
    assert_eq!(draw(&mut one), first);
    assert_ne!(draw(&mut sampler(&SamplerParams { seed: 6, ..plain() })), first);
}

#[test]
fn reset_forgets_what_was_accepted() {
    let params = SamplerParams { temperature: 0.0, penalty_last_n: 4, presence_penalty: 9.0, ..plain() };
    let mut sampler = sampler(&params);
    sampler.accept(0).unwrap();
    sampler.accept(99).unwrap(); // beyond these logits: no matter
    assert_eq!(sampler.sample(&[1.0, 0.0]).unwrap(), 1);
    sampler.reset();
    assert_eq!(sampler.sample(&[1.0, 0.0]).unwrap(), 0);
}

#[test]
fn masked_tokens_are_never_drawn() {
    let mut logits = vec![f32::NEG_INFINITY; 100];
    logits[17] = -3.0;
    logits[60] = -3.0;
    let mut sampler = sampler(&plain());
    let mut seen = [0; 2];
    for _ in 0..100 {
        match sampler.sample(&logits).unwrap() {
            17 => seen[0] += 1,
            60 => seen[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
}

#[test]
fn bad_logits_and_parameters_are_errors() {
    for temperature in [0.0, 1.0] {
        let mut sampler = sampler(&SamplerParams { temperature, ..plain() });
        for logits in [&[][..], &[0.0, f32::NAN], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3]] {
            assert!(matches!(sampler.sample(logits), Err(Error::Model(_))), "{logits:?}");
        }
    }
    let bad = [
        SamplerParams { temperature: f32::NAN, ..plain() },
        SamplerParams { top_p: 1.5, ..plain() },
        SamplerParams { top_p: f32::NAN, ..plain() },
        SamplerParams { min_p: -0.1, ..plain() },
        SamplerParams { repeat_penalty: 0.0, ..plain() },
        SamplerParams { repeat_penalty: f32::INFINITY, ..plain() },
        SamplerParams { frequency_penalty: f32::NAN, ..plain() },
        SamplerParams { presence_penalty: f32::INFINITY, ..plain() },
    ];
    for params in bad {
        assert!(matches!(Sampler::new(params.clone()), Err(Error::Param(_))), "{params:?}");
    }
}
