//! A loaded model: file, configuration, vocabulary, template, and the plan on a device.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Backend;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Config;
use crate::text::{ChatTemplate, Vocab};

#[derive(Default)]
pub struct ModelParams<'a> {
    /// Called with (bytes done, bytes in all); returning false stops the load with Error::Cancelled.
    pub progress: Option<&'a mut dyn FnMut(u64, u64) -> bool>,
}

/// How long each phase of a load took.
#[derive(Clone, Debug, Default)]
pub struct LoadTimes {
    /// Open, map, parse and check the file(s).
    pub file: Duration,
    /// Vocabulary, merges, template.
    pub text: Duration,
    /// Configuration and plan.
    pub plan: Duration,
    /// Weights made ready on the device.
    pub weights: Duration,
}

#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub arch: String,
    /// `general.name`, or empty.
    pub name: String,
    /// "Q4_K - Medium" and such, from `general.file_type`; "mixed" where unknown.
    pub n_params: u64,
    pub file_bytes: u64,
    /// Bytes of weights held outside the file's map.
    pub weight_bytes: u64,
    pub n_vocab: usize,
    pub n_ctx_train: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
}

/// Cheap to clone (shared), callable from many threads; keeps its backend alive.
#[derive(Clone)]
pub struct Model {}

impl Model {
    pub fn load(_backend: &Backend, _path: impl AsRef<Path>, _params: ModelParams<'_>) -> Result<Self> {
        todo!()
    }
    /// From a file already opened (tests build files in memory).
    pub fn from_gguf(_backend: &Backend, _file: Arc<Gguf>, _params: ModelParams<'_>) -> Result<Self> {
        todo!()
    }
    pub fn backend(&self) -> &Backend {
        todo!()
    }
    pub fn file(&self) -> &Arc<Gguf> {
        todo!()
    }
    pub fn config(&self) -> &Config {
        todo!()
    }
    pub fn vocab(&self) -> &Arc<Vocab> {
        todo!()
    }
    /// The file's chat template; Err when it has one that does not compile.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>> {
        todo!()
    }
    pub fn info(&self) -> ModelInfo {
        todo!()
    }
    pub fn load_times(&self) -> &LoadTimes {
        todo!()
    }
}
