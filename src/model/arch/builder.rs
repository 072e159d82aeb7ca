//! What the architectures share when they write a plan: checked weights, buffers, named ops.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::device::plan::*;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::{Error, Result, memory};

pub struct PlanBuilder<'a> {
    file: &'a Gguf,
    weights: Vec<Weight>,
    ids: HashMap<String, WeightId>,
    /// Tensors read while building, which are no weights of the plan.
    read: HashSet<&'static str>,
    buffers: Vec<Buffer>,
    ropes: Vec<Rope>,
    ops: Vec<NamedOp>,
    layers: Vec<Range<usize>>,
}

impl<'a> PlanBuilder<'a> {
    pub fn new(file: &'a Gguf) -> Self {
        PlanBuilder {
            file,
            weights: Vec::new(),
            ids: HashMap::new(),
            read: HashSet::new(),
            buffers: Vec::new(),
            ropes: Vec::new(),
            ops: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// A matrix of `rows` rows of `cols` elements; missing, misshapen or of a type that cannot be
    /// computed with is an error.
    pub fn matrix(&mut self, name: &str, cols: usize, rows: usize) -> Result<WeightId> {
        self.find(name, cols, rows)?.ok_or_else(|| missing(name))
    }

    pub fn vector(&mut self, name: &str, len: usize) -> Result<WeightId> {
        self.matrix(name, len, 1)
    }

    /// The same, where the file may leave it out.
    pub fn find(&mut self, name: &str, cols: usize, rows: usize) -> Result<Option<WeightId>> {
        let Some(tensor) = self.file.tensor(name) else {
            return Ok(None);
        };
        check_shape(tensor, cols, rows)?;
        if let Some(id) = self.ids.get(name) {
            return Ok(Some(*id));
        }
        if !tensor.ty.is_supported() {
            return Err(Error::Unsupported {
                what: "tensor type",
                name: format!("{} ({name})", tensor.ty),
                supported: TensorType::supported_names(),
            });
        }
        let id = WeightId(self.weights.len() as u32);
        let weight = Weight { name: name.to_owned(), ty: tensor.ty, cols, rows };
        memory::push(&mut self.weights, weight, "the plan")?;
        memory::reserve_map(&mut self.ids, 1, "the plan")?;
        self.ids.insert(name.to_owned(), id);
        Ok(Some(id))
    }

    /// The shape that [`Self::matrix`] is going to ask for, before anything is sized by it.
    pub fn expect(&self, name: &str, cols: usize, rows: usize) -> Result<()> {
        check_shape(self.file.tensor(name).ok_or_else(|| missing(name))?, cols, rows)
    }

    pub fn buffer(&mut self, name: &'static str, width: usize, rows: Rows) -> BufferId {
        self.buffers.push(Buffer { name, width, rows });
        BufferId(self.buffers.len() as u32 - 1)
    }

    pub fn rope(&mut self, rope: Rope) -> RopeId {
        let at = self.ropes.iter().position(|r| *r == rope);
        let at = at.unwrap_or_else(|| {
            self.ropes.push(rope);
            self.ropes.len() - 1
        });
        RopeId(at as u32)
    }

    pub fn op(&mut self, name: impl Into<String>, op: Op) {
        self.ops.push(NamedOp { name: name.into(), op });
    }

    /// The ops that `build` adds are a layer's.
    pub fn layer(&mut self, build: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let first = self.ops.len();
        // a layer has fewer ops; each of their names is small
        memory::reserve(&mut self.ops, 64, "the plan")?;
        build(self)?;
        memory::push(&mut self.layers, first..self.ops.len(), "the plan")?;
        memory::check()
    }

    /// Counts a tensor as used that went into a table instead of a weight.
    pub fn has_read(&mut self, name: &'static str) {
        self.read.insert(name);
    }

    /// A file with tensors that nobody asked for is another architecture than it says: an error, for what
    /// it would compute is not what its maker meant.
    pub fn finish(self, cache: CacheShape, output: BufferId) -> Result<Plan> {
        let names = self.file.tensors().iter().map(|t| t.name.as_str());
        let mut unknown = names.filter(|name| !self.ids.contains_key(*name) && !self.read.contains(name));
        if let Some(name) = unknown.next() {
            let more = unknown.count();
            return Err(Error::model(format!(
                "the architecture has no tensor {name}{}",
                if more > 0 { format!(" (and {more} more of the file's)") } else { String::new() }
            )));
        }
        let PlanBuilder { weights, buffers, ropes, ops, layers, .. } = self;
        Ok(Plan { weights, buffers, ropes, ops, layers, cache, input: None, output })
    }
}

fn missing(name: &str) -> Error {
    Error::model(format!("the tensor {name} is missing"))
}

fn check_shape(tensor: &TensorInfo, cols: usize, rows: usize) -> Result<()> {
    if tensor.dims != [cols as u64, rows as u64, 1, 1] {
        return Err(Error::model(format!(
            "the tensor {} has shape {:?}; [{cols}, {rows}] is wanted",
            tensor.name,
            &tensor.dims[..tensor.n_dims]
        )));
    }
    Ok(())
}
