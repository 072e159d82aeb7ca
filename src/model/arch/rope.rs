//! RoPE's rotation frequencies with their scalings: the host's half of the op.

use std::sync::Arc;

use crate::device::plan::{Rope, RopePairs};
use crate::gguf::{Gguf, dequant};
use crate::model::{Config, RopeScaling};
use crate::{Error, Result, memory};

/// A tensor of factors that divide each pair's frequency (llama3).
pub const FACTORS: &str = "rope_freqs.weight";

/// What memory is for, in errors.
const TABLE: &str = "rope frequencies";

/// The table for `config`, with the file's [`FACTORS`] if `with_factors` and it has them.
pub fn table(config: &Config, file: &Gguf, pairs: RopePairs, with_factors: bool) -> Result<Rope> {
    let n = config.n_rot / 2;
    let base = f64::from(config.rope_base);
    let freq = (0..n).map(|i| base.powf(-2.0 * i as f64 / config.n_rot as f64));
    let mut freq: Vec<f64> = memory::collect(freq, TABLE)?;
    if with_factors && let Some(factors) = factors(file, n)? {
        for (f, factor) in freq.iter_mut().zip(factors) {
            *f /= f64::from(factor);
        }
    }
    let mut magnitude = f64::from(config.rope_attn_factor);
    match config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => freq.iter_mut().for_each(|f| *f /= f64::from(factor)),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
            // Peng et al. 2023 (YaRN), section 3.2: pairs that turn often keep their frequency, slow ones are
            // interpolated, with a linear ramp between the two dimensions found from the betas.
            let dim = |turns: f32| {
                let period = f64::from(original_context) / (f64::from(turns) * std::f64::consts::TAU);
                config.n_rot as f64 * period.ln() / (2.0 * base.ln())
            };
            let low = dim(beta_fast).floor().max(0.0);
            let high = dim(beta_slow).ceil().min(config.n_rot as f64 - 1.0);
            for (i, f) in freq.iter_mut().enumerate() {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                *f = *f / f64::from(factor) * ramp + *f * (1.0 - ramp);
            }
            // section 3.4; positions that are not stretched need no sharper attention
            magnitude *= 1.0 + 0.1 * f64::from(factor.max(1.0)).ln();
        }
    }
    let inv_freq = memory::collect(freq.iter().map(|f| *f as f32), TABLE)?;
    let inv_freq: Arc<[f32]> = memory::with_room(4 * n + 64, TABLE, || inv_freq.into())?;
    let magnitude = magnitude as f32;
    if !(magnitude.is_finite() && inv_freq.iter().all(|f| f.is_finite())) {
        return Err(Error::model(format!(
            "no rotation can be computed from rope base {}, factor {} and {:?}",
            config.rope_base, config.rope_attn_factor, config.rope_scaling
        )));
    }
    Ok(Rope { pairs, inv_freq, magnitude })
}

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
    match values.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
        Some(bad) => Err(Error::model(format!("{FACTORS} holds the factor {bad}"))),
        None => Ok(Some(values)),
    }
}
