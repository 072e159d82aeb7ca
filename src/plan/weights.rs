//! What a plan's weights are used as, and where the file has them.

use super::{Graph, NamedOp, Op, Role, Weight};
use crate::gguf::{Gguf, TensorInfo, dequant};
use crate::{Error, Result, memory};

/// How the plan's ops use a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Rows of it are looked up.
    pub rows: bool,
    /// It is multiplied with.
    pub matrix: bool,
    /// It is a matrix for each of so many experts or heads; 0: it is not.
    pub experts: usize,
    /// It is read in f32: a norm's weight, a bias.
    pub vector: bool,
}

/// One entry per weight of the plan.
///
/// # Errors
/// Error::OutOfMemory.
pub fn roles(graph: &Graph) -> Result<Vec<Roles>> {
    let mut roles = memory::filled(Roles::default(), graph.weights.len(), "the weights' roles")?;
    for named in &graph.ops {
        named.op.each(&mut |role| match role {
            Role::Lookup(id) => roles[id.0 as usize].rows = true,
            Role::Matrix(id) => roles[id.0 as usize].matrix = true,
            Role::Vector(id) => roles[id.0 as usize].vector = true,
            Role::Experts(id) => roles[id.0 as usize].experts = experts(graph, &named.op),
            Role::In(_) | Role::Over(_) | Role::Out(_) | Role::Cache(_) | Role::State(_) | Role::Rope(_) => {}
        });
    }
    Ok(roles)
}

fn experts(graph: &Graph, op: &Op) -> usize {
    match *op {
        Op::MatMulExperts { ids, weight, out, .. } => graph.expert_shape(ids, weight, out).n_experts,
        Op::MatMulHeads { x, weight, out } => graph.head_shape(x, weight, out).n_experts,
        _ => 0,
    }
}

/// Bytes of weights, caches and states that a token reads, behind so many positions.
pub fn read_by_token(graph: &Graph, positions: usize) -> u64 {
    let bytes = |weight: &Weight| {
        let row = weight.ty.row_bytes(weight.cols).unwrap_or(usize::MAX);
        (row as u64).saturating_mul(weight.rows as u64)
    };
    let mut sum = 0u64;
    for NamedOp { op, .. } in &graph.ops {
        // of a mixture's matrices and vectors those of the chosen experts
        let (used, of) = match *op {
            Op::MatMulExperts { ids, weight, out, .. } => {
                let shape = graph.expert_shape(ids, weight, out);
                (shape.n_used, shape.n_experts)
            }
            _ => (1, 1),
        };
        let is_attention = matches!(op, Op::Attention { .. });
        op.each(&mut |role| {
            let read = match role {
                Role::Matrix(id) | Role::Experts(id) | Role::Vector(id) => {
                    let all = u128::from(bytes(graph.weight(id)));
                    u64::try_from(all * used as u128 / of.max(1) as u128).unwrap_or(u64::MAX)
                }
                Role::Cache(id) if is_attention => {
                    let cache = graph.cache(id);
                    let seen =
                        positions.min(cache.window.map_or(usize::MAX, |window| window.most() as usize));
                    let cell = 2 * cache.n_head_kv * (cache.k + cache.own_v());
                    (seen as u64).saturating_mul(cell as u64)
                }
                Role::State(id) => 4 * graph.state(id).elements as u64,
                Role::Lookup(_)
                | Role::Cache(_)
                | Role::In(_)
                | Role::Over(_)
                | Role::Out(_)
                | Role::Rope(_) => 0,
            };
            sum = sum.saturating_add(read);
        });
    }
    sum
}

/// Where the file has a weight.
#[derive(Clone, Debug)]
pub struct Source {
    info: TensorInfo,
    first_col: usize,
    cols: usize,
    first_row: usize,
    rows: usize,
}

impl Source {
    /// The weight's tensor, of the type and shape that the plan states.
    pub fn find(file: &Gguf, weight: &Weight) -> Result<Source> {
        let info = file.tensor(&weight.name);
        let info = info.ok_or_else(|| Error::model(format!("the tensor {} is missing", weight.name)))?;
        let Weight { ty, cols, first_col, rows, first_row, .. } = *weight;
        let holds =
            |first: usize, len: usize, all: usize| first.checked_add(len).is_some_and(|end| end <= all);
        let whole_rows = first_col == 0 && cols == info.row_len();
        let fits = holds(first_row, rows, info.rows()) && holds(first_col, cols, info.row_len());
        if info.ty != ty || rows == 0 || !fits || !(whole_rows || rows == 1) {
            return Err(Error::model(format!(
                "the tensor {} is {} {} x {}; the plan wants rows {first_row} to {} of {ty} x {cols}",
                weight.name,
                info.ty,
                info.rows(),
                info.row_len(),
                first_row.saturating_add(rows),
            )));
        }
        let info = TensorInfo { name: memory::text(&info.name, "a tensor's name")?, ..*info };
        Ok(Source { info, first_col, cols, first_row, rows })
    }

    /// The whole tensor: for advice to the file's map.
    pub fn tensor(&self) -> &TensorInfo {
        &self.info
    }

    /// Bytes of the rows.
    pub fn bytes(&self) -> u64 {
        self.info.bytes / self.info.rows() as u64 * self.rows as u64
    }

    /// The rows as the file has them.
    pub fn data<'f>(&self, file: &'f Gguf) -> &'f [u8] {
        let all = file.data(&self.info);
        let row = all.len() / self.info.rows();
        &all[self.first_row * row..(self.first_row + self.rows) * row]
    }

    /// A row as the file has it; whole, also where the weight is a part of a vector. None: there is no such row.
    pub fn row<'f>(&self, file: &'f Gguf, row: usize) -> Option<&'f [u8]> {
        let data = self.data(file);
        let len = data.len() / self.rows;
        data.get(row.checked_mul(len)?..(row + 1).checked_mul(len)?)
    }

    /// The elements, row by row.
    pub fn vector(&self, file: &Gguf) -> Result<Vec<f32>> {
        let mut values = memory::filled(0.0, self.rows * self.info.row_len(), "a vector of the model")?;
        dequant::row(self.info.ty, self.data(file), &mut values)?;
        if self.cols < self.info.row_len() {
            values.truncate(self.first_col + self.cols);
            values.drain(..self.first_col);
        }
        Ok(values)
    }
}
