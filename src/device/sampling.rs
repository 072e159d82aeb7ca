//! What a draw of a token is, so that every device draws the same one from the same logits, bit for bit.
//!
//! 1. Penalties change the logits of tokens seen before ([`Penalty::apply`]). NaN or plus infinity among the logits,
//!    as they then are, is an error; minus infinity is no candidate.
//! 2. Candidates are ranked by logit, highest first, equal ones (0 and -0 are equal) by id, lowest first. What follows
//!    shortens the list from behind.
//! 3. top-k: the first `top_k` stay.
//! 4. top-p: those up to the first at which the running sum of [`weight`]s (at temperature 1) is [`share`] of `top_p`
//!    of the sum over all left, or more.
//! 5. min-p: those whose logit is `best + min_p` in f32, or more.
//! 6. The token is the first at which the running sum of weights (at the temperature) exceeds [`share`] of `uniform`
//!    of the sum over all left.
//!
//! Weights are whole numbers, so that sums are exact and their order does not matter; a weight is made of f32
//! products and sums, each rounded to nearest, in the order written here. kernels/sample.hip has the same.

use crate::Error;

/// One draw from one row of logits.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Candidates at most; 0: all. 1, the greedy choice, makes everything below but the penalties idle.
    pub top_k: u32,
    /// In 2^-53; [`WHOLE`]: off.
    pub top_p: u64,
    /// ln of min-p; minus infinity: off.
    pub min_p: f32,
    /// Finite and above 0.
    pub inverse_temperature: f32,
    /// In 2^-53, below [`WHOLE`].
    pub uniform: u64,
    pub repeat_penalty: f32,
    /// One for each token seen, by ascending token.
    pub penalties: &'a [Penalty],
}

/// 1, in 2^-53.
pub const WHOLE: u64 = 1 << 53;

/// A token whose logit is lowered.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Penalty {
    pub token: u32,
    /// occurrences * frequency penalty + presence penalty
    pub subtract: f32,
}

impl Penalty {
    pub fn apply(&self, logit: f32, repeat_penalty: f32) -> f32 {
        let scaled = if logit > 0.0 { logit / repeat_penalty } else { logit * repeat_penalty };
        scaled - self.subtract
    }
}

/// Logits in a row at most: sums of their weights are below 2^64.
pub const MAX_LOGITS: usize = 1 << 24;

/// exp((logit - best) * inverse_temperature) in 2^-40, rounded down.
#[inline]
pub fn weight(logit: f32, best: f32, inverse_temperature: f32) -> u64 {
    power((logit - best) * inverse_temperature)
}

/// e^x in 2^-40, rounded down, for x <= 0: within 2^-22 of its size. 0 for what is below e^-28, and for NaN.
///
/// e^x = 2^n * e^r with |r| <= ln(2) / 2; the polynomial of e^r is that of Cephes' expf.
#[inline]
fn power(x: f32) -> u64 {
    use std::f32::consts::LOG2_E;
    // ln(2) in two parts; products of the first with n are exact
    const LN_2: f32 = 0.693_359_4;
    const LN_2_REST: f32 = -2.121_944_4e-4;
    // adding it rounds to a whole number, in the low bits
    const ROUND: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 5] = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1];
    if x.is_nan() || x <= -28.0 {
        return 0;
    }
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2) - n * LN_2_REST;
    let mut p = 1.987_569_1e-4;
    for coefficient in COEFFICIENTS {
        p = p * r + coefficient;
    }
    let e = (p * (r * r) + r) + 1.0;
    // whole, since e is at least 0.7
    let mantissa = (e * 16_777_216.0) as u32;
    let halvings = ROUND.to_bits().wrapping_sub(rounded.to_bits());
    (u64::from(mantissa) << 16) >> (halvings & 63)
}

/// `fraction` (in 2^-53, below [`WHOLE`]) of a sum, rounded down.
#[inline]
pub fn share(fraction: u64, sum: u64) -> u64 {
    ((u128::from(fraction) * u128::from(sum)) >> 53) as u64
}

/// Whether a logit is an error.
#[inline]
pub fn is_bad(logit: f32) -> bool {
    logit.is_nan() || logit == f32::INFINITY
}

/// The error of a logit that [`is_bad`]: the model's, since the host has no part in it.
#[cold]
pub fn bad_logit(token: u32, logit: f32) -> Error {
    Error::model(format!("the logit of token {token} is {logit}"))
}

/// The error of a row without candidates.
#[cold]
pub fn no_candidate() -> Error {
    Error::model("no logit is above minus infinity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_powers_of_e_rounded_down() {
        let one = 2f64.powi(40);
        assert_eq!(power(0.0), 1 << 40);
        assert_eq!(power(-0.0), 1 << 40);
        for x in [f32::NEG_INFINITY, f32::NAN, f32::MIN, -28.0, -30.0] {
            assert_eq!(power(x), 0, "{x}");
        }
        let mut x = 0.0f32;
        let mut worst = 0.0f64;
        while x > -28.0 {
            let (want, got) = (f64::from(x).exp() * one, power(x) as f64);
            worst = worst.max(((got - want).abs() - 1.0) / want);
            x -= 1e-6 + x.abs() * 1e-5;
        }
        assert!(worst < 2f64.powi(-22), "{worst:e}");
        assert!(worst > 2f64.powi(-26), "{worst:e}: not f32");
    }

    #[test]
    fn a_weight_depends_on_the_distance_to_the_best_alone() {
        assert_eq!(weight(7.5, 9.5, 0.5), power(-1.0));
        assert_eq!(weight(0.0, -0.0, f32::MAX), 1 << 40);
        assert_eq!(weight(1.0, 1.0000001, f32::MAX), 0);
        assert_eq!(weight(f32::MIN, f32::MAX, 1e-38), 0);
    }

    #[test]
    fn shares_are_exact() {
        assert_eq!(share(0, u64::MAX), 0);
        assert_eq!(share(WHOLE / 2, 9), 4);
        assert_eq!(share(WHOLE - 1, 1 << 40), (1 << 40) - 1);
        assert_eq!(share(WHOLE - 1, u64::MAX), u64::MAX - (1 << 11));
    }
}
