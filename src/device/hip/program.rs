//! A plan's weights in a GPU's memory, and what it is given for a step.

use std::sync::Arc;

use super::loader::Loader;
use super::memory::{Buffer, Pool, Span};
use super::ops::ready::load_kernels;
use super::planes::PlaneLayout;
use super::schedule::{self, Scheduled, Size};
use super::support;
use super::weight::Weight;
use crate::device::Progress;
use crate::gguf::{Gguf, TensorType};
use crate::plan::weights::{self, Roles, Source};
use crate::plan::{self, Plan, Vector, WeightId, fuse};
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
    /// Declared last, so dropped last: trims the pool after all buffers.
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
fn bytes(weight: &plan::Weight, roles: Roles) -> Result<u64> {
    let mut bytes = 0;
    if roles.rows || roles.matrix || roles.experts > 0 {
        bytes += PlaneLayout::new(weight.ty, weight.rows, weight.cols)?.bytes;
    }
    if roles.vector {
        bytes += PlaneLayout::new(TensorType::F32, weight.rows, weight.cols)?.bytes;
    }
    Ok(bytes)
}

/// Bytes of all of a plan's weights on a GPU; refuses what its kernels do not take.
pub fn weight_bytes(plan: &Plan) -> Result<u64> {
    support::check(plan)?;
    let mut sum = 0u64;
    for (weight, roles) in plan.weights.iter().zip(weights::roles(plan)?) {
        let bytes = bytes(weight, roles)?;
        sum = sum.checked_add(bytes).ok_or_else(|| Error::param("weights of more than 2^64 bytes"))?;
    }
    Ok(sum)
}

impl HipProgram {
    pub fn load(pool: &Arc<Pool>, plan: Arc<Plan>, file: &Gguf, progress: &mut Progress<'_>) -> Result<Self> {
        let weight_bytes = weight_bytes(&plan)?;
        let roles = weights::roles(&plan)?;
        load_kernels(pool.card(), &plan)?;
        let sources = memory::try_collect(plan.weights.iter().map(|w| Source::find(file, w)), WEIGHTS)?;
        let total = sources.iter().map(Source::bytes).sum();
        if !progress(0, total) {
            return Err(Error::Cancelled);
        }
        let trimmed = TrimmedPool(Arc::clone(pool));
        pool.reserve(weight_bytes, "weights")?;
        let mut loader = Loader::new(pool)?;
        let mut done = 0;
        let mut loaded = Vec::new();
        for ((weight, roles), source) in plan.weights.iter().zip(roles).zip(sources) {
            file.prefetch(source.tensor());
            memory::push(&mut loaded, load(&mut loader, file, weight, &source, roles)?, WEIGHTS)?;
            file.forget_pages(source.tensor());
            done += source.bytes();
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

    pub(super) fn matrix(&self, id: impl Into<WeightId>) -> Result<&Weight> {
        let id = id.into();
        let missing = || Error::Internal(format!("weight {} is no matrix", id.0));
        self.weights[id.0 as usize].matrix.as_ref().ok_or_else(missing)
    }

    pub(super) fn vector(&self, Vector(id): Vector) -> Result<Span<'_>> {
        let missing = || Error::Internal(format!("weight {} is no vector", id.0));
        self.weights[id.0 as usize].vector.as_ref().map(Buffer::span).ok_or_else(missing)
    }
}

fn load(
    loader: &mut Loader,
    file: &Gguf,
    weight: &plan::Weight,
    source: &Source,
    roles: Roles,
) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let plan::Weight { name, ty, rows, cols, .. } = weight;
    if roles.vector {
        loaded.vector = Some(loader.load_floats(&source.vector(file)?, name)?);
    }
    if roles.rows || roles.matrix || roles.experts > 0 {
        loaded.matrix = Some(loader.load(*ty, *rows, *cols, source.data(file), name)?);
    }
    Ok(loaded)
}
