//! What a plan's weights are used as, and where the file has them.

use super::plan::{Op, Plan, Weight};
use crate::gguf::{Gguf, TensorInfo};
use crate::{Error, Result, memory};

/// How the plan's ops use a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Rows of it are looked up.
    pub rows: bool,
    /// It is multiplied with.
    pub matrix: bool,
    /// A norm's or a bias.
    pub vector: bool,
}

/// One entry per weight of the plan.
///
/// # Errors
/// Error::OutOfMemory.
pub fn roles(plan: &Plan) -> Result<Vec<Roles>> {
    let mut roles = memory::filled(Roles::default(), plan.weights.len(), "the weights' roles")?;
    for named in &plan.ops {
        match named.op {
            Op::Embed { weight, .. } => roles[weight.0 as usize].rows = true,
            Op::RmsNorm { weight, .. } => roles[weight.0 as usize].vector = true,
            Op::MatMul { weight, bias, .. } => {
                roles[weight.0 as usize].matrix = true;
                if let Some(bias) = bias {
                    roles[bias.0 as usize].vector = true;
                }
            }
            _ => {}
        }
    }
    Ok(roles)
}

/// The weight's tensor, of the type and shape that the plan states.
pub fn tensor(file: &Gguf, weight: &Weight) -> Result<TensorInfo> {
    let info = file.tensor(&weight.name);
    let info = info.ok_or_else(|| Error::model(format!("the tensor {} is missing", weight.name)))?;
    if info.ty != weight.ty || info.row_len() != weight.cols || info.rows() != weight.rows {
        return Err(Error::model(format!(
            "the tensor {} is {} {} x {}; the plan wants {} {} x {}",
            weight.name,
            info.ty,
            info.row_len(),
            info.rows(),
            weight.ty,
            weight.cols,
            weight.rows
        )));
    }
    Ok(TensorInfo { name: memory::text(&info.name, "a tensor's name")?, ..*info })
}
