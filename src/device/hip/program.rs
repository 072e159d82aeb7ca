//! A plan's weights in a GPU's memory, and what it is given for a step.

use std::sync::Arc;

use super::loader::Loader;
use super::memory::{Buffer, Pool, Span};
use super::ops::project::head_pad;
use super::ops::ready::load_kernels;
use super::planes::PlaneLayout;
use super::schedule::{self, Scheduled, Size};
use super::weight::Weight;
use crate::device::plan::{Plan, WeightId};
use crate::device::weights::{self, Roles};
use crate::device::{Progress, fuse};
use crate::gguf::{Gguf, TensorInfo, TensorType, dequant};
use crate::{Error, Result, memory};

#[derive(Debug)]
pub struct HipProgram {
    pub(super) plan: Arc<Plan>,
    weights: Vec<Loaded>,
    pub(super) one: Vec<Scheduled>,
    pub(super) few: Vec<Scheduled>,
    pub(super) many: Vec<Scheduled>,
    pub(super) unfused: Vec<Scheduled>,
    pub(super) weight_bytes: u64,
    /// The last to go.
    pub(super) pool: TrimmedPool,
}

/// A pool that gives back what it does not need when a user of it goes.
#[derive(Debug)]
pub(super) struct TrimmedPool(pub Arc<Pool>);

impl Drop for TrimmedPool {
    fn drop(&mut self) {
        if let Err(error) = self.0.trim() {
            tracing::warn!(%error, "device memory could not be returned");
        }
    }
}

/// What memory is for, in errors.
const WEIGHTS: &str = "the weights' records";

/// One of the plan's weights, in the forms its ops want.
#[derive(Debug, Default)]
struct Loaded {
    matrix: Option<Weight>,
    /// f32.
    vector: Option<Buffer>,
}

/// Bytes that a weight takes in its roles.
fn bytes(ty: TensorType, rows: usize, cols: usize, roles: Roles) -> Result<u64> {
    let mut bytes = 0;
    if roles.rows || roles.matrix {
        bytes += PlaneLayout::new(ty, rows, cols)?.bytes;
    }
    if roles.vector {
        bytes += PlaneLayout::new(TensorType::F32, rows, cols)?.bytes;
    }
    Ok(bytes)
}

/// Bytes of all of a plan's weights on a GPU; refuses what its kernels do not take.
pub fn weight_bytes(plan: &Plan) -> Result<u64> {
    head_pad(plan.cache.head_dim)?;
    let mut sum = 0u64;
    for (weight, roles) in plan.weights.iter().zip(weights::roles(plan)?) {
        let bytes = bytes(weight.ty, weight.rows, weight.cols, roles)?;
        sum = sum.checked_add(bytes).ok_or_else(|| Error::param("weights of more than 2^64 bytes"))?;
    }
    Ok(sum)
}

impl HipProgram {
    pub fn load(pool: &Arc<Pool>, plan: Arc<Plan>, file: &Gguf, progress: &mut Progress<'_>) -> Result<Self> {
        let weight_bytes = weight_bytes(&plan)?;
        let roles = weights::roles(&plan)?;
        load_kernels(pool.card(), &plan)?;
        let infos = memory::try_collect(plan.weights.iter().map(|w| weights::tensor(file, w)), WEIGHTS)?;
        let total = infos.iter().map(|info| info.bytes).sum();
        if !progress(0, total) {
            return Err(Error::Cancelled);
        }
        let trimmed = TrimmedPool(Arc::clone(pool));
        pool.reserve(weight_bytes, "weights")?;
        let mut loader = Loader::new(pool)?;
        let mut done = 0;
        let mut loaded = Vec::new();
        for ((weight, roles), info) in plan.weights.iter().zip(roles).zip(infos) {
            file.prefetch(&info);
            memory::push(&mut loaded, load(&mut loader, file, &info, &weight.name, roles)?, WEIGHTS)?;
            file.forget_pages(&info);
            done += info.bytes;
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
        }
        loader.finish()?;
        drop(loader);
        pool.trim()?;
        memory::with_room(4 * fuse::room(&plan), "the plan", || HipProgram {
            one: schedule::fused(&plan, Size::One),
            few: schedule::fused(&plan, Size::Few),
            many: schedule::fused(&plan, Size::Many),
            unfused: schedule::unfused(&plan),
            weights: loaded,
            weight_bytes,
            plan,
            pool: trimmed,
        })
    }

    pub(super) fn matrix(&self, id: WeightId) -> Result<&Weight> {
        let missing = || Error::Internal(format!("weight {} is no matrix", id.0));
        self.weights[id.0 as usize].matrix.as_ref().ok_or_else(missing)
    }

    pub(super) fn vector(&self, id: WeightId) -> Result<Span<'_>> {
        let missing = || Error::Internal(format!("weight {} is no vector", id.0));
        self.weights[id.0 as usize].vector.as_ref().map(Buffer::span).ok_or_else(missing)
    }
}

fn load(loader: &mut Loader, file: &Gguf, info: &TensorInfo, name: &str, roles: Roles) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let data = file.data(info);
    if roles.vector {
        let mut values = memory::filled(0.0, info.row_len(), WEIGHTS)?;
        dequant::row(info.ty, data, &mut values)?;
        loaded.vector = Some(loader.load_floats(&values, name)?);
    }
    if roles.rows || roles.matrix {
        loaded.matrix = Some(loader.load(info.ty, info.rows(), info.row_len(), data, name)?);
    }
    Ok(loaded)
}
