//! RoPE's rotation frequencies with their scalings: the host's half of the op.

use std::sync::Arc;

use crate::device::plan::{Rope, RopePairs};
use crate::gguf::{Gguf, dequant};
use crate::model::{Config, RopeScaling};
use crate::{Error, Result};

/// The table for `config`. `rope_freqs.weight`, where the file has it (llama3), divides each
/// pair's frequency.
pub fn table(config: &Config, file: &Gguf, pairs: RopePairs) -> Result<Rope> {
    let n = config.n_rot / 2;
    let base = f64::from(config.rope_base);
    let mut freq: Vec<f64> = (0..n).map(|i| base.powf(-2.0 * i as f64 / config.n_rot as f64)).collect();
    if let Some(factors) = factors(file, n)? {
        for (f, factor) in freq.iter_mut().zip(factors) {
            *f /= f64::from(factor);
        }
    }
    let mut magnitude = 1.0;
    match config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => freq.iter_mut().for_each(|f| *f /= f64::from(factor)),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attn_factor } => {
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
            magnitude = f64::from(attn_factor) * (1.0 + 0.1 * f64::from(factor).ln());
        }
    }
    Ok(Rope {
        pairs,
        inv_freq: Arc::from_iter(freq.into_iter().map(|f| f as f32)),
        magnitude: magnitude as f32,
    })
}

fn factors(file: &Gguf, n: usize) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    let Some(tensor) = file.tensor(NAME) else {
        return Ok(None);
    };
    if tensor.row_len() != n || tensor.rows() != 1 {
        return Err(Error::model(format!(
            "{NAME} has shape {:?}; [{n}] is wanted",
            &tensor.dims[..tensor.n_dims]
        )));
    }
    let mut values = vec![0.0; n];
    dequant::row(tensor.ty, file.data(tensor), &mut values)?;
    match values.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
        Some(bad) => Err(Error::model(format!("{NAME} holds the factor {bad}"))),
        None => Ok(Some(values)),
    }
}
