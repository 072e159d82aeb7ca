//! A plan's weights, packed, and the ops the CPU runs for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::isa::Isa;
use super::matmul::PackedMatrix;
use super::session::CpuSession;
use super::team::Team;
use crate::plan::fuse::{self, Placed};
use crate::plan::{Plan, WeightId};
use crate::plan::weights;
use crate::device::{Program, Progress, Session, SessionLimits};
use crate::gguf::{Gguf, TensorInfo, dequant};
use crate::{Error, Result, memory};

/// What memory is for, in errors.
const WEIGHTS: &str = "the weights' records";

pub struct CpuProgram {
    pub plan: Arc<Plan>,
    pub team: Arc<Team>,
    pub isa: Isa,
    file: Arc<Gguf>,
    weights: Vec<Loaded>,
    pub fused: Vec<Placed>,
    pub unfused: Vec<Placed>,
    weight_bytes: u64,
}

/// One of the plan's weights, in the forms its ops want.
#[derive(Default)]
struct Loaded {
    info: Option<TensorInfo>,
    matrix: Option<PackedMatrix>,
    vector: Option<Vec<f32>>,
}

impl CpuProgram {
    pub fn load(
        plan: Arc<Plan>,
        file: Arc<Gguf>,
        team: Arc<Team>,
        isa: Isa,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let roles = weights::roles(&plan)?;
        let infos = memory::try_collect(plan.weights.iter().map(|w| weights::tensor(&file, w)), WEIGHTS)?;
        let total = infos.iter().map(|info| info.bytes).sum();
        let (mut done, mut weight_bytes) = (0, 0);
        let packed = plan.weights.iter().zip(&roles).filter(|(_, roles)| roles.matrix);
        let shapes = memory::collect(packed.map(|(w, _)| (w.ty, w.rows, w.cols)), WEIGHTS)?;
        let mut matrices = PackedMatrix::together(&shapes)?.into_iter();
        let mut weights = Vec::new();
        for ((weight, roles), info) in plan.weights.iter().zip(roles).zip(infos) {
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
            let mut loaded = Loaded::default();
            if roles.vector {
                let mut values = memory::filled(0.0, weight.cols, WEIGHTS)?;
                dequant::row(weight.ty, file.data(&info), &mut values)?;
                weight_bytes += 4 * weight.cols as u64;
                loaded.vector = Some(values);
            }
            if roles.matrix
                && let Some(matrix) = matrices.next()
            {
                file.prefetch(&info);
                pack(&team, &matrix, file.data(&info))?;
                file.forget_pages(&info);
                weight_bytes += matrix.bytes() as u64;
                loaded.matrix = Some(matrix);
            }
            done += info.bytes;
            loaded.info = Some(info);
            memory::push(&mut weights, loaded, WEIGHTS)?;
            memory::check()?;
        }
        if !progress(done, total) {
            return Err(Error::Cancelled);
        }
        let (fused, unfused) =
            memory::with_room(fuse::room(&plan), "the plan", || (fuse::fused(&plan), fuse::unfused(&plan)))?;
        Ok(CpuProgram { plan, team, isa, file, weights, fused, unfused, weight_bytes })
    }

    /// Bytes of weights that [`load`](Self::load) would hold.
    pub fn needs(plan: &Plan) -> Result<u64> {
        let mut bytes = 0u64;
        for (weight, roles) in plan.weights.iter().zip(weights::roles(plan)?) {
            if roles.vector {
                bytes = bytes.saturating_add(4 * weight.cols as u64);
            }
            if roles.matrix {
                let shape = (weight.ty, weight.rows, weight.cols);
                bytes = bytes.saturating_add(PackedMatrix::bytes_of(shape)?);
            }
        }
        Ok(bytes)
    }

    pub fn matrix(&self, id: WeightId) -> &PackedMatrix {
        self.weights[id.0 as usize].matrix.as_ref().expect("packed, as a MatMul's weight")
    }

    pub fn vector(&self, id: WeightId) -> &[f32] {
        self.weights[id.0 as usize].vector.as_ref().expect("kept, as a norm or a bias")
    }

    /// Row `row` of an embedding; false if it has no such row.
    pub fn embed(&self, id: WeightId, row: usize, out: &mut [f32]) -> bool {
        let weight = self.plan.weight(id);
        let Some(info) = &self.weights[id.0 as usize].info else {
            return false;
        };
        let data = self.file.data(info);
        let len = data.len() / weight.rows;
        row < weight.rows && dequant::row(weight.ty, &data[row * len..][..len], out).is_ok()
    }
}

impl Program for CpuProgram {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn session(self: Arc<Self>, limits: SessionLimits) -> Result<Box<dyn Session>> {
        Ok(Box::new(CpuSession::new(self, limits)?))
    }
}

/// Packs on all of the team's threads.
fn pack(team: &Team, matrix: &PackedMatrix, tensor: &[u8]) -> Result<()> {
    const TILES: usize = 16;
    let complete = AtomicBool::new(false);
    team.run(&|worker| {
        worker.for_each(matrix.n_tiles().div_ceil(TILES), |chunk| {
            for tile in chunk * TILES..((chunk + 1) * TILES).min(matrix.n_tiles()) {
                // SAFETY: each chunk has its own tiles and each is taken once.
                unsafe { matrix.pack_tile(tile, tensor) };
            }
        })?;
        complete.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    match complete.into_inner() {
        true => Ok(()),
        false => Err(Error::Internal("packing stopped half-way".into())),
    }
}
