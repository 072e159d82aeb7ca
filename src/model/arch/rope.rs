//! RoPE's rotation frequencies with their scalings: the host's half of the op.

use std::sync::Arc;

use crate::gguf::{Gguf, Short, dequant};
use crate::model::{Hyper, Keys};
use crate::plan::builder::Builder;
use crate::plan::{Rope, RopePairs};
use crate::{Error, Result, memory};

/// A tensor of factors that divide each pair's frequency (llama3).
pub const FACTORS: &str = "rope_freqs.weight";

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
    /// Of pairs that follow four coordinates of a position.
    pub sections: Option<Sections>,
}

/// Pairs that follow each of the four coordinates of a position, again and again. A text's positions have three of them
/// equal, and the fourth 0.
#[derive(Clone, Copy, Debug)]
pub enum Sections {
    /// One range behind the other.
    Ranges([usize; 4]),
    /// The first three by turns.
    Turns([usize; 4]),
}

impl Sections {
    /// The lengths, which the file must have.
    pub fn lengths(keys: &Keys<'_>) -> Result<[usize; 4]> {
        let missing = || Error::model(format!("the key {} is missing", keys.key(SECTIONS)));
        find_sections(keys)?.ok_or_else(missing)
    }

    /// Ranges, in a file whose first two have pairs.
    pub fn find(keys: &Keys<'_>) -> Result<Option<Sections>> {
        let lengths = find_sections(keys)?.filter(|lengths| lengths[0] > 0 && lengths[1] > 0);
        Ok(lengths.map(Sections::Ranges))
    }

    /// Whether pair `i` follows the fourth.
    fn is_fourth(self, i: usize) -> bool {
        let (Sections::Ranges(lengths) | Sections::Turns(lengths)) = self;
        let at = i % lengths.iter().sum::<usize>().max(1);
        match self {
            Sections::Ranges([t, h, w, _]) => at >= t + h + w,
            Sections::Turns(lengths) => at >= 3 * lengths[at % 3],
        }
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
            sections: None,
        })
    }

    /// The same with the file's [`FACTORS`], if it has them.
    pub fn factored(self, b: &mut Builder<'_>, hyper: &Hyper<'_>, file: &Gguf) -> Result<Turns> {
        b.ignore(FACTORS, "they go into the table")?;
        Ok(Turns { factors: factors(file, self.n_rot / 2)?, ..self })
    }

    pub fn table(&self) -> Result<Rope> {
        let n = self.n_rot / 2;
        let base = f64::from(self.base);
        let freq = (0..n).map(|i| base.powf(-2.0 * i as f64 / self.n_rot as f64));
        let mut freq: Vec<f64> = memory::collect(freq, TABLE)?;
        for (f, factor) in freq.iter_mut().zip(self.factors.iter().flatten()) {
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
            for (i, f) in freq.iter_mut().enumerate() {
                if sections.is_fourth(i) {
                    *f = 0.0;
                }
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
        Ok(Rope { pairs: self.pairs, inv_freq, magnitude })
    }
}

/// What yarn multiplies what is rotated by, section 3.4: positions that are not stretched need no sharper attention.
pub fn yarn_magnitude(factor: f32, multiplier: f64) -> f64 {
    1.0 + 0.1 * multiplier * f64::from(factor.max(1.0)).ln()
}

/// Positions of the context that a model was trained on before scaling.
pub fn original_context(keys: &Keys<'_>) -> Result<usize> {
    match keys.find_positions("rope.scaling.original_context_length")? {
        Some(n) => Ok(n),
        None => keys.context_length(),
    }
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
        None | Some("linear") if factor == 1.0 => Ok(Scaling::None),
        None | Some("linear") => Ok(Scaling::Linear { factor }),
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
            supported: "none, linear, yarn, and rope_freqs.weight (llama3)".into(),
        }),
    }
}

/// The file's [`FACTORS`] for `n` pairs, if it has them.
///
/// # Errors
/// Error::Model for a factor that nothing can be divided by, or of another length than `n`.
fn factors(file: &Gguf, n: usize) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = file.tensor(FACTORS) else {
        return Ok(None);
    };
    if !tensor.ty.is_supported() || tensor.row_len() != n || tensor.rows() != 1 {
        return Err(Error::model(format!(
            "{FACTORS} is {} {:?}; F32 [{n}] is wanted",
            tensor.ty,
            &tensor.dims[..tensor.n_dims]
        )));
    }
    let mut values = memory::filled(0.0, n, TABLE)?;
    dequant::row(tensor.ty, file.data(tensor), &mut values)?;
    match values.iter().find(|v| !v.is_finite() || **v == 0.0) {
        Some(bad) => Err(Error::model(format!("{FACTORS} holds the factor {bad}"))),
        None => Ok(Some(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_no_section_do_not_turn() {
        let turns = Turns {
            pairs: RopePairs::Halves,
            n_rot: 128,
            base: 1e6,
            scaling: Scaling::None,
            attn_factor: 1.0,
            yarn_magnitude: None,
            factors: None,
            sections: Some(Sections::Turns([24, 20, 20, 0])),
        };
        let still = |turns: &Turns| {
            let table = turns.table().unwrap();
            (0..64).filter(|i| table.inv_freq[*i] == 0.0).collect::<Vec<_>>()
        };
        assert_eq!(still(&turns), [61, 62]);
        let of = |sections| still(&Turns { sections: Some(sections), ..turns.clone() });
        assert_eq!(of(Sections::Turns([11, 11, 10, 0])), [0usize; 0]);
        assert_eq!(of(Sections::Turns([0; 4])), (0..64).collect::<Vec<_>>());
        assert_eq!(of(Sections::Ranges([16, 24, 24, 0])), [0usize; 0]);
        assert_eq!(of(Sections::Ranges([10, 10, 10, 5])), [30, 31, 32, 33, 34]);
    }
}
