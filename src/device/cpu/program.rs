//! A plan's weights, packed, and the ops the CPU runs for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::isa::Isa;
use super::matmul::PackedMatrix;
use super::session::CpuSession;
use super::team::Team;
use crate::device::{Program, Progress, Session, SessionLimits};
use crate::gguf::{Gguf, dequant};
use crate::plan::fuse::{self, Placed};
use crate::plan::weights::{self, Source};
use crate::plan::{Lookup, Matrix, Plan, Vector};
use crate::{Error, Result, memory};

/// What memory is for, in errors.
const WEIGHTS: &str = "the weights' records";

pub struct CpuProgram {
    pub plan: Arc<Plan>,
    pub team: Arc<Team>,
    pub isa: Isa,
    file: Arc<Gguf>,
    weights: Vec<Loaded>,
    pub unfused: Vec<Placed>,
    weight_bytes: u64,
}

/// One of the plan's weights, in the forms its ops want.
struct Loaded {
    source: Source,
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
        let sources = memory::try_collect(plan.weights.iter().map(|w| Source::find(&file, w)), WEIGHTS)?;
        let total = sources.iter().map(Source::bytes).sum();
        let (mut done, mut weight_bytes) = (0, 0);
        let packed = plan.weights.iter().zip(&roles).filter(|(_, roles)| roles.matrix);
        let shapes = memory::collect(packed.map(|(w, _)| (w.ty, w.rows, w.cols)), WEIGHTS)?;
        let mut matrices = PackedMatrix::together(&shapes)?.into_iter();
        let mut weights = Vec::new();
        for (roles, source) in roles.into_iter().zip(sources) {
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
            let mut loaded = Loaded { source, matrix: None, vector: None };
            let source = &loaded.source;
            if roles.vector {
                let values = source.vector(&file)?;
                weight_bytes += 4 * values.len() as u64;
                loaded.vector = Some(values);
            }
            if roles.matrix
                && let Some(matrix) = matrices.next()
            {
                file.prefetch(source.tensor());
                pack(&team, &matrix, source.data(&file))?;
                file.forget_pages(source.tensor());
                weight_bytes += matrix.bytes() as u64;
                loaded.matrix = Some(matrix);
            }
            done += source.bytes();
            memory::push(&mut weights, loaded, WEIGHTS)?;
            memory::check()?;
        }
        if !progress(done, total) {
            return Err(Error::Cancelled);
        }
        let unfused = memory::with_room(fuse::room(&plan), "the plan", || fuse::unfused(&plan))?;
        Ok(CpuProgram { plan, team, isa, file, weights, unfused, weight_bytes })
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

    pub fn matrix(&self, Matrix(id): Matrix) -> &PackedMatrix {
        self.weights[id.0 as usize].matrix.as_ref().expect("packed, as the roles say")
    }

    pub fn vector(&self, Vector(id): Vector) -> &[f32] {
        self.weights[id.0 as usize].vector.as_ref().expect("kept, as the roles say")
    }

    /// Row `row` of an embedding; false if it has no such row.
    pub fn embed(&self, Lookup(id): Lookup, row: usize, out: &mut [f32]) -> bool {
        let data = self.weights[id.0 as usize].source.row(&self.file, row);
        data.is_some_and(|data| dequant::row(self.plan.weight(id).ty, data, out).is_ok())
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
