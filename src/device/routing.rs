//! How a token's experts are chosen: one definition for all devices, so that a choice never depends on the device where
//! the logits do not.

use crate::plan::{Gating, Routing};

/// Chooses by `logits`, one per expert; `bias` is as long or absent. Writes the ids of the chosen, best first, and their
/// weights, `routing.n_used` of each. `scratch` is twice as long as the logits. Of equal experts the first is better; NaN
/// is worse than everything.
pub fn choose(
    logits: &[f32],
    bias: Option<&[f32]>,
    routing: &Routing,
    scratch: &mut [f32],
    ids: &mut [u32],
    weights: &mut [f32],
) {
    let (values, select) = scratch.split_at_mut(logits.len());
    values.copy_from_slice(logits);
    match routing.gating {
        Gating::Softmax => softmax(values),
        Gating::Sigmoid => values.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
        Gating::SoftmaxOfChosen => {}
    }
    select.copy_from_slice(values);
    for (value, bias) in select.iter_mut().zip(bias.into_iter().flatten()) {
        *value += bias;
    }
    if routing.n_groups > 1 {
        keep_groups(select, routing);
    }
    for (id, weight) in ids.iter_mut().zip(weights.iter_mut()) {
        let best = best(select);
        // the next is another one, also where what is left is infinitely bad
        select[best] = f32::NAN;
        let shared = best / routing.per_id;
        *id = shared as u32;
        *weight = values[shared];
    }
    if routing.gating == Gating::SoftmaxOfChosen {
        softmax(weights);
    }
    if routing.least_sum > 0.0 {
        let sum = weights.iter().sum::<f32>().max(routing.least_sum);
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w *= routing.scale);
}

/// The place of the largest value, the first of equals.
fn best(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] || values[best].is_nan() {
            best = i;
        }
    }
    best
}

fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
}

/// Makes the experts of all but the best groups infinitely bad.
fn keep_groups(select: &mut [f32], routing: &Routing) {
    let len = (select.len() / routing.n_groups).max(1);
    let score = |group: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for v in group {
            if *v > first {
                (first, second) = (*v, first);
            } else if *v > second {
                second = *v;
            }
        }
        if second == f32::NEG_INFINITY { first } else { first + second }
    };
    // a group is kept where fewer than `n_groups_used` are better
    for i in 0..routing.n_groups {
        let mine = score(&select[i * len..(i + 1) * len]);
        let better = (0..routing.n_groups).filter(|j| {
            let other = score(&select[j * len..(j + 1) * len]);
            other > mine || (other == mine && *j < i)
        });
        if better.count() >= routing.n_groups_used {
            // marked with a NaN, so that the scores of the others stay
            select[i * len..(i + 1) * len].fill(f32::NAN);
        }
    }
    select.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Routing = Routing {
        gating: Gating::Softmax,
        n_used: 2,
        least_sum: 0.0,
        scale: 1.0,
        n_groups: 0,
        n_groups_used: 0,
        per_id: 1,
    };

    fn chosen(logits: &[f32], bias: Option<&[f32]>, routing: Routing) -> (Vec<u32>, Vec<f32>) {
        let (mut ids, mut weights) = (vec![9; routing.n_used], vec![9.0; routing.n_used]);
        choose(logits, bias, &routing, &mut vec![0.0; 2 * logits.len()], &mut ids, &mut weights);
        (ids, weights)
    }

    #[test]
    fn the_best_come_first_and_the_first_of_equals() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        let (ids, weights) = chosen(&logits, None, PLAIN);
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        assert_eq!(ids, [1, 3]);
        assert!(weights.iter().all(|w| (w - 2f32.exp() / total).abs() < 1e-6), "{weights:?}");
        let (ids, weights) = chosen(&logits, None, Routing { gating: Gating::SoftmaxOfChosen, ..PLAIN });
        assert_eq!((ids, weights), (vec![1, 3], vec![0.5, 0.5]));
        let (_, weights) = chosen(&logits, None, Routing { least_sum: 1e-5, scale: 3.0, ..PLAIN });
        assert!(weights.iter().all(|w| (w - 1.5).abs() < 1e-6), "{weights:?}");
    }

    #[test]
    fn a_bias_selects_and_does_not_weigh() {
        let routing = Routing { gating: Gating::Sigmoid, ..PLAIN };
        let (ids, weights) = chosen(&[0.0, 1.0, 2.0], Some(&[5.0, 0.0, 0.0]), routing);
        assert_eq!(ids, [0, 2]);
        assert_eq!(weights[0], 0.5);
    }

    #[test]
    fn experts_of_other_groups_are_not_chosen() {
        // the best single expert stands in the group with the worse pair
        let logits = [5.0, -9.0, 4.0, 3.0, 0.0, 0.0];
        let routing = Routing { gating: Gating::SoftmaxOfChosen, n_groups: 3, n_groups_used: 1, ..PLAIN };
        assert_eq!(chosen(&logits, None, routing).0, [2, 3]);
        assert_eq!(chosen(&logits, None, Routing { n_groups_used: 2, ..routing }).0, [2, 3]);
        assert_eq!(chosen(&logits, None, Routing { n_groups_used: 3, ..routing }).0, [0, 2]);
    }

    #[test]
    fn neighbours_share_an_id_and_the_weight_of_the_expert_of_that_id() {
        let routing = Routing { gating: Gating::Sigmoid, per_id: 2, ..PLAIN };
        let (ids, weights) = chosen(&[0.0, -1.0, 5.0, 1.0, 4.0, 3.0], None, routing);
        assert_eq!(ids, [1, 2]);
        assert_eq!(weights, [-1.0f32, 5.0].map(|logit| 1.0 / (1.0 + (-logit).exp())));
    }

    #[test]
    fn what_is_no_number_still_chooses_experts() {
        let (ids, _) = chosen(&[f32::NAN; 3], None, PLAIN);
        assert!(ids.iter().all(|id| *id < 3));
        let (ids, _) =
            chosen(&[f32::NEG_INFINITY; 3], None, Routing { gating: Gating::SoftmaxOfChosen, ..PLAIN });
        assert_eq!(ids, [0, 1]);
    }
}
