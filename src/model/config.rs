//! What the architectures have in common: the hyper-parameters that nearly every file states, with the field's defaults.

use super::keys::Keys;
use crate::gguf::{Gguf, Metadata};
use crate::{Error, Result, memory};

/// What an engine asks of a model beside its plan. Lengths are in elements; where layers differ, those of the first that
/// has any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `general.architecture`
    pub arch: String,
    pub n_layer: usize,
    /// Context length the model was trained for, positions.
    pub n_ctx_train: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
}

impl Config {
    /// Of a file of a vocabulary alone: nothing but the length of the context.
    pub fn of_vocabulary(meta: &Metadata, n_vocab: usize) -> Result<Self> {
        let arch = meta.str("general.architecture")?.unwrap_or_default();
        let n_ctx_train = Keys::new(meta, arch).context_length()?;
        Ok(Config { arch: arch.to_owned(), n_ctx_train, n_vocab, ..Config::default() })
    }
}

/// The hyper-parameters that builders of graphs begin with.
#[derive(Clone)]
pub struct Hyper<'a> {
    pub keys: Keys<'a>,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_vocab: usize,
    /// Per layer: query heads, kv heads, elements between the matrices of a feed-forward. 0 where a layer has none.
    pub n_head: Vec<usize>,
    pub n_head_kv: Vec<usize>,
    pub n_ff: Vec<usize>,
    /// Elements of a head's query and key, and of its value.
    pub k: usize,
    pub v: usize,
    /// Elements of a head that RoPE rotates.
    pub n_rot: usize,
}

impl<'a> Hyper<'a> {
    pub fn read(file: &'a Gguf, arch: &'a str) -> Result<Self> {
        let keys = Keys::new(file.metadata(), arch);
        let (n_embd, n_layer) = (keys.dim("embedding_length")?, keys.dim("block_count")?);
        // before anything is sized by it
        if n_layer > file.tensors().len() {
            return Err(Error::model(format!(
                "{} is {n_layer}; the file has {} tensors",
                keys.key("block_count"),
                file.tensors().len()
            )));
        }
        let n_head = keys.per_layer("attention.head_count", n_layer, 0)?;
        let first = n_head.iter().copied().find(|n| *n > 0);
        let first =
            first.ok_or_else(|| Error::model(format!("{} is 0", keys.key("attention.head_count"))))?;
        let n_head_kv = match keys.find_per_layer("attention.head_count_kv", n_layer, 0)? {
            Some(n) => n,
            None => memory::collect(n_head.iter().copied(), "hyper-parameters")?,
        };
        if let Some((q, kv)) =
            n_head.iter().zip(&n_head_kv).find(|(q, kv)| **kv > 0 && !q.is_multiple_of(**kv))
        {
            return Err(Error::model(format!("{q} query heads do not divide among {kv} kv heads")));
        }
        let k = keys.find_dim("attention.key_length")?.unwrap_or(n_embd / first);
        if k == 0 {
            return Err(Error::model(format!(
                "{first} heads over {n_embd} elements leave a head no element"
            )));
        }
        let v = keys.find_dim("attention.value_length")?.unwrap_or(k);
        let n_rot = keys.find_dim(ROTATED)?.unwrap_or(k);
        check_rotated(&keys, ROTATED, n_rot, k)?;
        let n_ff = match keys.find_per_layer("feed_forward_length", n_layer, 0)? {
            Some(n) => n,
            None => memory::filled(0, n_layer, "hyper-parameters")?,
        };
        let embd = file.embedding();
        let n_vocab = embd.ok_or_else(|| Error::model("the tensor token_embd.weight is missing"))?.rows();
        // Token ids are i32 in C.
        if n_vocab == 0 || i32::try_from(n_vocab).is_err() {
            return Err(Error::model(format!(
                "token_embd.weight has {n_vocab} rows; a vocabulary has 1 to {} tokens",
                i32::MAX
            )));
        }
        Ok(Hyper { keys, n_layer, n_embd, n_vocab, n_head, n_head_kv, n_ff, k, v, n_rot })
    }

    /// Elements of a head that rotate in layers with windows, of an architecture where these have a number of their own.
    pub fn near_n_rot(&self) -> Result<usize> {
        let n_rot = self.keys.number_or(ROTATED_NEAR, self.n_rot)?;
        check_rotated(&self.keys, ROTATED_NEAR, n_rot, self.k)?;
        Ok(n_rot)
    }

    /// # Errors
    /// Error::Unsupported where the file has experts: for architectures whose mixtures are not computed.
    pub fn without_experts(&self) -> Result<()> {
        match self.keys.number("expert_count")? {
            0 => Ok(()),
            n => Err(Error::Unsupported {
                what: "feed-forward",
                name: format!("{n} experts ({})", self.keys.key("expert_count")),
                supported: "one dense feed-forward per layer".into(),
            }),
        }
    }

    /// The same without the last blocks, `nextn_predict_layers` of them: they predict tokens behind the next.
    ///
    /// # Errors
    /// Error::Model where none is left.
    pub fn without_nextn(&self) -> Result<Self> {
        let ahead = self.keys.number("nextn_predict_layers")?;
        let n_layer = self.n_layer.checked_sub(ahead).filter(|n| *n > 0);
        let n_layer = n_layer.ok_or_else(|| {
            let key = self.keys.key("nextn_predict_layers");
            Error::model(format!("{key} is {ahead} of {} layers", self.n_layer))
        })?;
        Ok(Hyper { n_layer, ..self.clone() })
    }

    pub fn config(&self) -> Result<Config> {
        let first = |per_layer: &[usize]| per_layer.iter().copied().find(|n| *n > 0).unwrap_or(0);
        Ok(Config {
            arch: self.keys.arch().to_owned(),
            n_layer: self.n_layer,
            n_ctx_train: self.keys.context_length()?,
            n_embd: self.n_embd,
            n_head: first(&self.n_head),
            n_head_kv: first(&self.n_head_kv),
            head_dim: self.k,
            n_vocab: self.n_vocab,
        })
    }
}

const ROTATED: &str = "rope.dimension_count";
const ROTATED_NEAR: &str = "rope.dimension_count_swa";

fn check_rotated(keys: &Keys<'_>, key: &str, n_rot: usize, k: usize) -> Result<()> {
    if n_rot > k || !n_rot.is_multiple_of(2) {
        let key = keys.key(key);
        return Err(Error::model(format!("{key} is {n_rot}; it must be even and at most the head's {k}")));
    }
    Ok(())
}
