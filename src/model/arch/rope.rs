//! RoPE's rotation frequencies with their scalings: the host's half of the op.

use std::sync::Arc;

use crate::gguf::{Gguf, Short, dequant};
use crate::model::{Hyper, Keys};
use crate::plan::builder::Builder;
use crate::plan::{LongTurns, Rope, RopePairs};
use crate::{Error, Result, memory};

/// A tensor of factors that divide each pair's frequency (llama3).
pub const FACTORS: &str = "rope_freqs.weight";
/// The same for sessions up to the context that a model was first trained on, and for longer ones (longrope).
const SHORT_FACTORS: &str = "rope_factors_short.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// What memory is for, in errors.
const TABLE: &str = "rope frequencies";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f32,
    },
    Yarn {
        factor: f32,
        /// Context the model was trained on before scaling.
        original_context: u32,
        beta_fast: f32,
        beta_slow: f32,
    },
}

/// What a table is made of.
#[derive(Clone, Debug)]
pub struct Turns {
    pub pairs: RopePairs,
    pub n_rot: usize,
    pub base: f32,
    pub scaling: Scaling,
    /// Factor on what RoPE rotates, on top of yarn's own.
    pub attn_factor: f32,
    /// Yarn's own, where it is another than the factor says.
    pub yarn_magnitude: Option<f64>,
    /// Divide the pairs' frequencies.
    pub factors: Option<Vec<f32>>,
    /// What divides them instead in sessions of more than so many positions.
    pub long: Option<(usize, Vec<f32>)>,
    /// Which coordinate of a position a pair follows. A text's positions have three of them equal, and the fourth 0.
    pub sections: Option<Sections>,
}

/// Pairs that follow each of the four coordinates of a position, over and over again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sections {
    /// One of each of the first three in turns, as long as a section has pairs left; the fourth takes what is left over.
    Turns([usize; 4]),
    /// One section behind the other.
    Ranges([usize; 4]),
}

impl Sections {
    /// The sections' lengths, which the file must have.
    pub fn lengths(keys: &Keys<'_>) -> Result<[usize; 4]> {
        let missing = || Error::model(format!("the key {} is missing", keys.key(SECTIONS)));
        find_sections(keys)?.ok_or_else(missing)
    }

    /// Ranges, in a file whose first two have pairs.
    pub fn find(keys: &Keys<'_>) -> Result<Option<Sections>> {
        let lengths = find_sections(keys)?.filter(|lengths| lengths[0] > 0 && lengths[1] > 0);
        Ok(lengths.map(Sections::Ranges))
    }

    /// Whether pair `i` follows the fourth coordinate.
    fn is_fourth(self, i: usize) -> bool {
        let (Sections::Turns(sections) | Sections::Ranges(sections)) = self;
        let at = i % sections.iter().fold(0, |sum: usize, n| sum.saturating_add(*n)).max(1);
        let most = match self {
            Sections::Turns(_) => sections[at % 3].saturating_mul(3),
            Sections::Ranges([a, b, c, _]) => a.saturating_add(b).saturating_add(c),
        };
        at >= most
    }
}

const SECTIONS: &str = "rope.dimension_sections";

fn find_sections(keys: &Keys<'_>) -> Result<Option<[usize; 4]>> {
    Ok(keys.find_per_layer(SECTIONS, 4, 0)?.and_then(|lengths| lengths.try_into().ok()))
}

impl Turns {
    /// As the file's keys say. A table is as long as a head, which a tensor of the file must bear out first.
    pub fn read(b: &Builder<'_>, hyper: &Hyper<'_>, pairs: RopePairs) -> Result<Turns> {
        let layer = hyper.n_head_kv.iter().position(|n| *n > 0).unwrap_or(0);
        if !b.has(&format!("blk.{layer}.attn_qkv.weight")) {
            b.expect(&format!("blk.{layer}.attn_q.weight"), hyper.n_embd, hyper.n_head[layer] * hyper.k)?;
        }
        Turns::of(hyper, pairs)
    }

    /// The same, where the caller has seen that the file bears the length out.
    pub fn of(hyper: &Hyper<'_>, pairs: RopePairs) -> Result<Turns> {
        let keys = &hyper.keys;
        let base = keys.positive_or("rope.freq_base", 10_000.0)?;
        let attn_factor = keys.float_or("rope.scaling.attn_factor", 1.0)?;
        Ok(Turns {
            pairs,
            n_rot: hyper.n_rot,
            base,
            scaling: scaling(keys)?,
            attn_factor,
            yarn_magnitude: None,
            factors: None,
            long: None,
            sections: None,
        })
    }

    /// With the factors that the file has: one set, or in a file whose scaling is longrope by a session's length.
    pub fn factored(mut self, b: &mut Builder<'_>, hyper: &Hyper<'_>, file: &Gguf) -> Result<Turns> {
        if hyper.keys.str("rope.scaling.type")? == Some("longrope") {
            return self.factored_by_length(b, hyper, file);
        }
        b.ignore(FACTORS, "it went into the table of rotations")?;
        self.factors = factors(file, FACTORS, self.n_rot / 2)?;
        Ok(self)
    }

    /// With the factors that the file has for sessions by their length.
    pub fn factored_by_length(
        mut self,
        b: &mut Builder<'_>,
        hyper: &Hyper<'_>,
        file: &Gguf,
    ) -> Result<Turns> {
        for name in [SHORT_FACTORS, LONG_FACTORS] {
            b.ignore(name, "it went into the table of rotations")?;
        }
        self.factors = factors(file, SHORT_FACTORS, self.n_rot / 2)?;
        if let Some(long) = factors(file, LONG_FACTORS, self.n_rot / 2)? {
            self.long = Some((original_context(&hyper.keys)?, long));
        }
        Ok(self)
    }

    /// The same for layers with windows, which may have a base of their own.
    pub fn near(&self, hyper: &Hyper<'_>) -> Result<Turns> {
        let base = hyper.keys.positive_or("rope.freq_base_swa", self.base)?;
        Ok(Turns { base, ..self.clone() })
    }

    /// The same where these layers' positions are not scaled, and the base is 10000 in a file that states none.
    pub fn near_unscaled(&self, hyper: &Hyper<'_>) -> Result<Turns> {
        let base = hyper.keys.positive_or("rope.freq_base_swa", 10_000.0)?;
        Ok(Turns { base, scaling: Scaling::None, ..self.clone() })
    }

    pub fn table(&self) -> Result<Rope> {
        let (inv_freq, magnitude) = self.turns(self.factors.as_deref().unwrap_or_default())?;
        let long = match &self.long {
            None => None,
            Some((beyond, factors)) => {
                let (inv_freq, magnitude) = self.turns(factors)?;
                Some(LongTurns { beyond: *beyond, inv_freq, magnitude })
            }
        };
        Ok(Rope { pairs: self.pairs, inv_freq, magnitude, long })
    }

    /// Frequencies, divided by `factors` (none: they stay), and the magnitude.
    fn turns(&self, factors: &[f32]) -> Result<(Arc<[f32]>, f32)> {
        let n = self.n_rot / 2;
        let base = f64::from(self.base);
        let freq = (0..n).map(|i| base.powf(-2.0 * i as f64 / self.n_rot as f64));
        let mut freq: Vec<f64> = memory::collect(freq, TABLE)?;
        for (f, factor) in freq.iter_mut().zip(factors) {
            *f /= f64::from(*factor);
        }
        let mut magnitude = f64::from(self.attn_factor);
        match self.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => freq.iter_mut().for_each(|f| *f /= f64::from(factor)),
            Scaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                // Peng et al. 2023 (YaRN), section 3.2: pairs that turn often keep their frequency, slow ones are
                // interpolated, with a linear ramp between the two dimensions found from the betas.
                let dim = |turns: f32| {
                    let period = f64::from(original_context) / (f64::from(turns) * std::f64::consts::TAU);
                    self.n_rot as f64 * period.ln() / (2.0 * base.ln())
                };
                let low = dim(beta_fast).floor().max(0.0);
                let high = dim(beta_slow).ceil().min(self.n_rot as f64 - 1.0);
                for (i, f) in freq.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *f = *f / f64::from(factor) * ramp + *f * (1.0 - ramp);
                }
                magnitude *= self.yarn_magnitude.unwrap_or(yarn_magnitude(factor, 1.0));
            }
        }
        if let Some(sections) = self.sections {
            for (_, f) in freq.iter_mut().enumerate().filter(|(i, _)| sections.is_fourth(*i)) {
                *f = 0.0;
            }
        }
        let inv_freq = memory::collect(freq.iter().map(|f| *f as f32), TABLE)?;
        let inv_freq: Arc<[f32]> = memory::with_room(4 * n + 64, TABLE, || inv_freq.into())?;
        let magnitude = magnitude as f32;
        if !(magnitude.is_finite() && inv_freq.iter().all(|f| f.is_finite())) {
            return Err(Error::model(format!(
                "no rotation can be computed from rope base {}, factor {} and {:?}",
                self.base, self.attn_factor, self.scaling
            )));
        }
        Ok((inv_freq, magnitude))
    }
}

/// What yarn multiplies what is rotated by, section 3.4: positions that are not stretched need no sharper attention.
pub fn yarn_magnitude(factor: f32, multiplier: f64) -> f64 {
    1.0 + 0.1 * multiplier * f64::from(factor.max(1.0)).ln()
}

fn scaling(keys: &Keys<'_>) -> Result<Scaling> {
    // before `rope.scaling.type` existed a linear factor was written as `rope.scale_linear`
    let factor = match keys.find_float("rope.scaling.factor")? {
        Some(f) => Some(f),
        None => keys.find_float("rope.scale_linear")?,
    };
    let factor = factor.filter(|f| *f != 0.0).unwrap_or(1.0);
    if !(factor.is_finite() && factor > 0.0) {
        return Err(Error::model(format!("{} is {factor}", keys.key("rope.scaling.factor"))));
    }
    match keys.str("rope.scaling.type")? {
        Some("none") => Ok(Scaling::None),
        None | Some("linear" | "longrope") if factor == 1.0 => Ok(Scaling::None),
        None | Some("linear" | "longrope") => Ok(Scaling::Linear { factor }),
        Some("yarn") => Ok(Scaling::Yarn {
            factor,
            original_context: original_context(keys)? as u32,
            // what nearly every architecture uses, whatever rope.scaling.yarn_beta_* say
            beta_fast: 32.0,
            beta_slow: 1.0,
        }),
        Some(other) => Err(Error::Unsupported {
            what: "rope scaling",
            name: Short(other).to_string(),
            supported: "none, linear, yarn, longrope, and rope_freqs.weight (llama3)".into(),
        }),
    }
}

/// The context that a model was trained on before scaling.
pub fn original_context(keys: &Keys<'_>) -> Result<usize> {
    match keys.find_positions("rope.scaling.original_context_length")? {
        Some(n) => Ok(n),
        None => keys.context_length(),
    }
}

/// The file's factors `name` for `n` pairs, if it has them.
///
/// # Errors
/// Error::Model for a factor that nothing can be divided by, or of another length than `n`.
fn factors(file: &Gguf, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = file.tensor(name) else {
        return Ok(None);
    };
    if !tensor.ty.is_supported() || tensor.row_len() != n || tensor.rows() != 1 {
        return Err(Error::model(format!(
            "{name} is {} {:?}; F32 [{n}] is wanted",
            tensor.ty,
            &tensor.dims[..tensor.n_dims]
        )));
    }
    let mut values = memory::filled(0.0, n, TABLE)?;
    dequant::row(tensor.ty, file.data(tensor), &mut values)?;
    match values.iter().find(|v| !v.is_finite() || **v == 0.0) {
        Some(bad) => Err(Error::model(format!("{name} holds the factor {bad}"))),
        None => Ok(Some(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(n_rot: usize) -> Turns {
        Turns {
            pairs: RopePairs::Halves,
            n_rot,
            base: 1e6,
            scaling: Scaling::None,
            attn_factor: 1.0,
            yarn_magnitude: None,
            factors: None,
            long: None,
            sections: None,
        }
    }

    #[test]
    fn pairs_of_the_fourth_coordinate_do_not_turn() {
        let still = |sections| {
            let table = Turns { sections: Some(sections), ..plain(128) }.table().unwrap();
            (0..64).filter(|i| table.inv_freq[*i] == 0.0).collect::<Vec<_>>()
        };
        let none = [0usize; 0];
        assert_eq!(still(Sections::Turns([24, 20, 20, 0])), [61, 62]);
        assert_eq!(still(Sections::Turns([11, 11, 10, 0])), none);
        assert_eq!(still(Sections::Turns([0; 4])), (0..64).collect::<Vec<_>>());
        assert_eq!(still(Sections::Ranges([24, 20, 20, 0])), none);
        assert_eq!(still(Sections::Ranges([9, 10, 11, 5])), [30, 31, 32, 33, 34]);
        assert_eq!(still(Sections::Ranges([0; 4])), (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn longer_sessions_have_factors_of_their_own() {
        let turns = Turns { factors: Some(vec![2.0, 1.0]), long: Some((100, vec![8.0, -4.0])), ..plain(4) };
        let table = turns.table().unwrap();
        assert_eq!(table.inv_freq[..], [0.5, 1e-3]);
        let long = table.long.unwrap();
        assert_eq!((long.beyond, long.magnitude, &long.inv_freq[..]), (100, 1.0, &[0.125, -2.5e-4][..]));
    }
}
