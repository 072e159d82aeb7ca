//! A file of a vocabulary without tensors: a model of text alone, which no context can be made of.

use std::sync::Arc;

use super::Placement;
use crate::device::{Memory, Program, Session, SessionLimits};
use crate::model::arch;
use crate::plan::{Graph, Plan, Rows, Value, ValueId};
use crate::{Error, Result};

/// In place of weights.
pub struct NoProgram(Arc<Plan>);

impl NoProgram {
    pub fn new(n_vocab: usize) -> Result<Self> {
        let logits = Value { name: "logits", width: n_vocab, rows: Rows::Outputs };
        let graph = Graph { values: vec![logits], outputs: vec![ValueId(0)], ..Graph::default() };
        Ok(Self(Arc::new(Plan::new(graph)?)))
    }
}

impl Program for NoProgram {
    fn plan(&self) -> &Arc<Plan> {
        &self.0
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn session(self: Arc<Self>, _: SessionLimits) -> Result<Box<dyn Session>> {
        Err(Error::model(arch::NO_TENSORS))
    }
}

/// On no device.
pub fn placement() -> Placement {
    Placement {
        parts: Vec::new(),
        n_layers: 0,
        cpu_experts: 0,
        n_ctx: 0,
        n_batch: 0,
        gpus: Vec::new(),
        host: Memory::default(),
        smaller: Vec::new(),
    }
}
