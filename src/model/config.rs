//! Hyper-parameters, typed and checked, from a file's metadata.

use crate::gguf::{Array, Gguf, Metadata, Short};
use crate::{Error, Result};

/// Largest value accepted for any dimension-like key: far above every model there is, far below
/// what could overflow a product of three of them in u64.
const MAX_DIM: u64 = 1 << 20;
/// The same for context lengths, in positions.
const MAX_CONTEXT: u64 = 1 << 31;

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
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

/// The hyper-parameters that the supported architectures share. Lengths are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`
    pub arch: String,
    pub n_layer: usize,
    /// Context length the model was trained for, positions.
    pub n_ctx_train: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    /// Elements of a head that RoPE rotates.
    pub n_rot: usize,
    pub n_vocab: usize,
    pub rms_eps: f32,
    pub rope_base: f32,
    pub rope_scaling: RopeScaling,
    /// Factor on what RoPE rotates, on top of yarn's own.
    pub rope_attn_factor: f32,
}

impl Config {
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let meta = file.metadata();
        let arch = meta
            .str("general.architecture")?
            .ok_or_else(|| Error::model("the key general.architecture is missing"))?
            .to_owned();
        let keys = Keys { meta, arch: &arch };

        if let Some(n @ 1..) = meta.u64(&keys.key("expert_count"))? {
            return Err(Error::Unsupported {
                what: "feed-forward",
                name: format!("{n} experts ({})", keys.key("expert_count")),
                supported: "one dense feed-forward per layer".into(),
            });
        }
        if meta.bool(&keys.key("attention.causal"))? == Some(false) {
            return Err(Error::Unsupported {
                what: "attention",
                name: format!("to later positions ({} is false)", keys.key("attention.causal")),
                supported: "causal attention, in which no position sees a later one".into(),
            });
        }
        let n_embd = keys.dim("embedding_length")?;
        let n_head = keys.dim("attention.head_count")?;
        let n_head_kv = keys.dim_or("attention.head_count_kv", n_head)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(Error::model(format!(
                "{n_head} query heads do not divide among {n_head_kv} kv heads"
            )));
        }
        let head_dim = keys.dim_or("attention.key_length", n_embd / n_head)?;
        if head_dim == 0 {
            return Err(Error::model(format!(
                "{n_head} heads over {n_embd} elements leave a head no element"
            )));
        }
        let value_dim = keys.dim_or("attention.value_length", head_dim)?;
        if value_dim != head_dim {
            return Err(Error::model(format!(
                "key length {head_dim} and value length {value_dim} differ, which {arch} does not have"
            )));
        }
        let n_rot = keys.dim_or("rope.dimension_count", head_dim)?;
        if n_rot > head_dim || n_rot % 2 != 0 {
            return Err(Error::model(format!(
                "{arch}.rope.dimension_count is {n_rot}; it must be even and at most the head's {head_dim}"
            )));
        }
        let embd = file
            .tensor("token_embd.weight")
            .ok_or_else(|| Error::model("the tensor token_embd.weight is missing"))?;

        let config = Config {
            n_layer: keys.dim("block_count")?,
            n_ctx_train: keys.context_length()?,
            n_embd,
            n_ff: keys.dim("feed_forward_length")?,
            n_head,
            n_head_kv,
            head_dim,
            n_rot,
            n_vocab: embd.rows(),
            rms_eps: keys.float("attention.layer_norm_rms_epsilon", None)?,
            rope_base: keys.float("rope.freq_base", Some(10_000.0))?,
            rope_scaling: keys.rope_scaling()?,
            rope_attn_factor: keys.float("rope.scaling.attn_factor", Some(1.0))?,
            arch: arch.clone(),
        };
        // Token ids are i32 in C.
        if config.n_vocab == 0 || i32::try_from(config.n_vocab).is_err() {
            return Err(Error::model(format!(
                "token_embd.weight has {} rows; a vocabulary has 1 to {} tokens",
                config.n_vocab,
                i32::MAX
            )));
        }
        if !(config.rms_eps >= 0.0 && config.rms_eps < 1.0) {
            return Err(Error::model(format!(
                "{arch}.attention.layer_norm_rms_epsilon is {}",
                config.rms_eps
            )));
        }
        if !(config.rope_base.is_finite() && config.rope_base > 0.0) {
            return Err(Error::model(format!("{arch}.rope.freq_base is {}", config.rope_base)));
        }
        Ok(config)
    }
}

impl Config {
    /// Of a file of a vocabulary alone: nothing but the length of the context.
    pub fn of_vocabulary(meta: &Metadata, n_vocab: usize) -> Result<Self> {
        let arch = meta.str("general.architecture")?.unwrap_or_default();
        Ok(Config {
            arch: arch.to_owned(),
            n_layer: 0,
            n_ctx_train: Keys { meta, arch }.context_length()?,
            n_embd: 0,
            n_ff: 0,
            n_head: 0,
            n_head_kv: 0,
            head_dim: 0,
            n_rot: 0,
            n_vocab,
            rms_eps: 0.0,
            rope_base: 0.0,
            rope_scaling: RopeScaling::None,
            rope_attn_factor: 1.0,
        })
    }
}

/// Reads `{arch}.{name}` keys.
struct Keys<'a> {
    meta: &'a Metadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn find_dim(&self, name: &str) -> Result<Option<usize>> {
        self.find_count(name, MAX_DIM)
    }

    /// A count of 1 to `most`. Some files give one value per layer: accepted when all are equal.
    fn find_count(&self, name: &str, most: u64) -> Result<Option<usize>> {
        let key = self.key(name);
        let value = match self.meta.get(&key) {
            Some(crate::gguf::Value::Array(array)) => Some(uniform(&key, array)?),
            _ => self.meta.u64(&key)?,
        };
        match value {
            None => Ok(None),
            Some(v) if (1..=most).contains(&v) => Ok(Some(v as usize)),
            Some(v) => Err(Error::model(format!("{key} is {v}; it must be 1 to {most}"))),
        }
    }

    fn dim(&self, name: &str) -> Result<usize> {
        self.find_dim(name)?.ok_or_else(|| Error::model(format!("the key {} is missing", self.key(name))))
    }

    fn dim_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.find_dim(name)?.unwrap_or(default))
    }

    fn context_length(&self) -> Result<usize> {
        Ok(self.find_count("context_length", MAX_CONTEXT)?.unwrap_or(2048))
    }

    fn float(&self, name: &str, default: Option<f32>) -> Result<f32> {
        let key = self.key(name);
        match (self.meta.f32(&key)?, default) {
            (Some(v), _) | (None, Some(v)) => Ok(v),
            (None, None) => Err(Error::model(format!("the key {key} is missing"))),
        }
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        let kind = self.meta.str(&self.key("rope.scaling.type"))?;
        // before `rope.scaling.type` existed a linear factor was written as `rope.scale_linear`
        let factor = match self.meta.f32(&self.key("rope.scaling.factor"))? {
            Some(f) => Some(f),
            None => self.meta.f32(&self.key("rope.scale_linear"))?,
        };
        let factor = factor.filter(|f| *f != 0.0).unwrap_or(1.0);
        if !(factor.is_finite() && factor > 0.0) {
            return Err(Error::model(format!("{} is {factor}", self.key("rope.scaling.factor"))));
        }
        match kind {
            Some("none") => Ok(RopeScaling::None),
            None | Some("linear") if factor == 1.0 => Ok(RopeScaling::None),
            None | Some("linear") => Ok(RopeScaling::Linear { factor }),
            Some("yarn") => Ok(RopeScaling::Yarn {
                factor,
                original_context: match self
                    .find_count("rope.scaling.original_context_length", MAX_CONTEXT)?
                {
                    Some(n) => n as u32,
                    None => self.context_length()? as u32,
                },
                beta_fast: self.float("rope.scaling.yarn_beta_fast", Some(32.0))?,
                beta_slow: self.float("rope.scaling.yarn_beta_slow", Some(1.0))?,
            }),
            Some(other) => Err(Error::Unsupported {
                what: "rope scaling",
                name: Short(other).to_string(),
                supported: "none, linear, yarn, and rope_freqs.weight (llama3)".into(),
            }),
        }
    }
}

/// The one value that all elements share.
fn uniform(key: &str, array: &Array) -> Result<u64> {
    fn of<T: Copy + Into<i128>>(values: &[T]) -> Option<i128> {
        let (first, rest) = values.split_first()?;
        let first = (*first).into();
        rest.iter().all(|x| (*x).into() == first).then_some(first)
    }
    let value = match array {
        Array::U32(v) => of(v),
        Array::I32(v) => of(v),
        Array::U64(v) => of(v),
        Array::I64(v) => of(v),
        _ => None,
    };
    match value {
        Some(value) => {
            u64::try_from(value).map_err(|_| Error::model(format!("{key} holds a negative count")))
        }
        None => Err(Error::Unsupported {
            what: "per-layer values in",
            name: key.to_owned(),
            supported: "one value for all layers".into(),
        }),
    }
}
