//! A loaded model: file, configuration, vocabulary, template, and the plan on a device.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Backend;
use super::context::{ContextParams, session_limits};
use super::placement::{self, CpuExperts, GpuLayers, PlacedPart, Placement, Question, Target};
use super::text_only::{self, NoProgram};
use crate::device::pipeline::{self, Stage};
use crate::device::{BLOCK_LEN, Device, Program};
use crate::gguf::Gguf;
use crate::model::{Config, arch};
use crate::plan::split::{self, Leg, Slice};
use crate::plan::{Plan, weights};
use crate::text::{ChatTemplate, Vocab};
use crate::{Error, Result, memory};

#[derive(Default)]
pub struct ModelParams<'a> {
    /// Called with (bytes done, bytes in all); returning false stops the load with Error::Cancelled.
    pub progress: Option<&'a mut dyn FnMut(u64, u64) -> bool>,
    /// How much of the model goes on the backend's GPUs.
    pub gpu_layers: GpuLayers,
    /// Whose experts of layers on GPUs the processor computes.
    pub cpu_experts: CpuExperts,
    /// The context that room on GPUs is planned for, of one sequence: positions and tokens of a step, as in
    /// [`ContextParams`](super::ContextParams), with the same defaults for 0. A larger one may be made, and is
    /// Error::OutOfMemory where it does not fit.
    pub n_ctx: usize,
    pub n_batch: usize,
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
    pub file_type: String,
    /// Elements of all tensors.
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

/// Cheap to clone (shared), callable from many threads; keeps its backend alive. One of a file without tensors has a
/// vocabulary and a template; a context of it is Error::Model.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    file: Arc<Gguf>,
    config: Config,
    vocab: Arc<Vocab>,
    /// Err: why the file's template does not compile.
    template: Result<Option<ChatTemplate>, String>,
    placement: Placement,
    program: Arc<dyn Program>,
    times: LoadTimes,
}

impl Model {
    pub fn load(backend: &Backend, path: impl AsRef<Path>, params: ModelParams<'_>) -> Result<Self> {
        let start = Instant::now();
        let file = Arc::new(Gguf::open(path)?);
        Self::with_file(backend, file, params, start.elapsed())
    }

    /// From a file already opened (tests build files in memory).
    pub fn from_gguf(backend: &Backend, file: Arc<Gguf>, params: ModelParams<'_>) -> Result<Self> {
        Self::with_file(backend, file, params, Duration::ZERO)
    }

    fn with_file(
        backend: &Backend,
        file: Arc<Gguf>,
        params: ModelParams<'_>,
        file_time: Duration,
    ) -> Result<Self> {
        let mut times = LoadTimes { file: file_time, ..LoadTimes::default() };

        let start = Instant::now();
        let planned = if file.tensors().is_empty() { None } else { Some(arch::plan(&file)?) };
        times.plan = start.elapsed();

        let start = Instant::now();
        let vocab = Arc::new(Vocab::from_file(&file)?);
        // a model is of use without its template: the error waits for whoever asks for it
        let template = match ChatTemplate::from_metadata(file.metadata(), &vocab) {
            Ok(template) => Ok(template),
            Err(memory @ Error::OutOfMemory { .. }) => return Err(memory),
            Err(Error::Template(why)) => Err(why),
            Err(other) => Err(other.to_string()),
        };
        if let Err(why) = &template {
            tracing::warn!(path = %file.path().display(), why, "the chat template does not compile");
        }
        times.text = start.elapsed();

        let Some((config, plan)) = planned else {
            let config = Config::of_vocabulary(file.metadata(), vocab.len())?;
            let (placement, program) = (text_only::placement(), Arc::new(NoProgram::new(vocab.len())?));
            let shared =
                Shared { backend: backend.clone(), file, config, vocab, template, placement, program, times };
            return Ok(Model { shared: Arc::new(shared) });
        };

        let start = Instant::now();
        let mut always = |_, _| true;
        let progress = params.progress.unwrap_or(&mut always);
        let plan = Arc::new(plan);
        let limits = |n_ctx| {
            let of = ContextParams { n_ctx, n_batch: params.n_batch, ..ContextParams::default() };
            session_limits(&config, &plan, &of)
        };
        let n_ctx = limits(params.n_ctx)?.n_blocks * BLOCK_LEN;
        let mut placement = placement::place(&Question {
            n_layers: plan.layers.len(),
            with_experts: &split::layers_with_experts(&plan),
            gpus: &backend.gpus().iter().map(|gpu| gpu.memory()).collect::<Result<Vec<_>>>()?,
            gpu_layers: params.gpu_layers,
            cpu_experts: params.cpu_experts,
            n_ctx,
            limits: &limits,
            needs: &|target, part, limits| {
                let parts = parts_of(&plan, std::slice::from_ref(part))?;
                device(backend, target)?.needs(&parts.plans[0], limits)
            },
            reads: &|part| {
                let parts = parts_of(&plan, std::slice::from_ref(part))?;
                Ok(weights::read_by_token(&parts.plans[0], n_ctx))
            },
        })?;
        if placement.targets().contains(&Target::Host) {
            placement.host = backend.host()?.memory()?;
        }
        let slices = placement.parts.iter().map(|placed| placed.part.clone()).collect::<Vec<_>>();
        let Parts { plans, legs } = parts_of(&plan, &slices)?;
        let stage = |(placed, plan): (&PlacedPart, Arc<Plan>)| -> Result<Stage> {
            Ok(Stage { device: device(backend, placed.target)?.clone(), plan })
        };
        let stages = placement.parts.iter().zip(plans).map(stage).collect::<Result<Vec<_>>>()?;
        let program = pipeline::load(plan, &stages, &legs, &file, progress)?;
        times.weights = start.elapsed();

        tracing::info!(
            path = %file.path().display(),
            arch = config.arch,
            weight_bytes = program.weight_bytes(),
            gpu_layers = placement.gpu_layers(),
            cpu_experts = placement.cpu_experts,
            ?times,
            "model loaded"
        );
        let backend = backend.clone();
        let shared = Shared { backend, file, config, vocab, template, placement, program, times };
        Ok(Model { shared: Arc::new(shared) })
    }

    pub fn backend(&self) -> &Backend {
        &self.shared.backend
    }

    pub fn file(&self) -> &Arc<Gguf> {
        &self.shared.file
    }

    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.shared.vocab
    }

    /// Which device computes what.
    pub fn placement(&self) -> &Placement {
        &self.shared.placement
    }

    /// The plan with its weights, for those who drive a device themselves.
    pub fn program(&self) -> &Arc<dyn Program> {
        &self.shared.program
    }

    /// The file's chat template; Err when it has one that does not compile.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>> {
        match &self.shared.template {
            Ok(template) => Ok(template.as_ref()),
            Err(why) => Err(Error::Template(why.clone())),
        }
    }

    /// The file's `general.name`, or empty.
    pub fn name(&self) -> &str {
        self.shared.file.metadata().str("general.name").ok().flatten().unwrap_or_default()
    }

    /// See [`ModelInfo::file_type`].
    pub fn file_type(&self) -> &'static str {
        let file_type = self.shared.file.metadata().u64("general.file_type").ok().flatten();
        file_type.and_then(file_type_name).unwrap_or("mixed")
    }

    pub fn info(&self) -> ModelInfo {
        let Shared { file, config, program, .. } = &*self.shared;
        ModelInfo {
            arch: config.arch.clone(),
            name: self.name().to_owned(),
            file_type: self.file_type().to_owned(),
            n_params: file.tensors().iter().map(|t| t.row_len() as u64 * t.rows() as u64).sum(),
            file_bytes: file.file_bytes(),
            weight_bytes: program.weight_bytes(),
            n_vocab: config.n_vocab,
            n_ctx_train: config.n_ctx_train,
            n_embd: config.n_embd,
            n_layer: config.n_layer,
            n_head: config.n_head,
            n_head_kv: config.n_head_kv,
            head_dim: config.head_dim,
        }
    }

    pub fn load_times(&self) -> &LoadTimes {
        &self.shared.times
    }
}

fn device(backend: &Backend, target: Target) -> Result<&Arc<dyn Device>> {
    match target {
        Target::Gpu(i) => {
            backend.gpus().get(i).ok_or_else(|| Error::Internal(format!("GPU {i} of the backend's")))
        }
        Target::Host => backend.host(),
    }
}

/// Parts of a plan, and a step's way through them.
struct Parts {
    plans: Vec<Arc<Plan>>,
    legs: Vec<Leg>,
}

fn parts_of(plan: &Arc<Plan>, slices: &[Slice]) -> Result<Parts> {
    const WHAT: &str = "parts of the plan";
    let room = split::room(plan);
    let legs = memory::with_room(room, WHAT, || split::legs(plan, slices))??;
    if slices == [Slice::whole(plan)] {
        return Ok(Parts { plans: vec![plan.clone()], legs });
    }
    let part = |part| {
        let graph = memory::with_room(room, WHAT, || split::part(plan, &legs, part))??;
        Ok(Arc::new(Plan::new(graph)?))
    };
    let plans = (0..slices.len()).map(part).collect::<Result<Vec<_>>>()?;
    Ok(Parts { plans, legs })
}

/// Names of `general.file_type` values, as llama.cpp prints them (enum llama_ftype).
fn file_type_name(id: u64) -> Option<&'static str> {
    Some(match id {
        0 => "all F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K - Medium",
        11 => "Q3_K - Small",
        12 => "Q3_K - Medium",
        13 => "Q3_K - Large",
        14 => "Q4_K - Small",
        15 => "Q4_K - Medium",
        16 => "Q5_K - Small",
        17 => "Q5_K - Medium",
        18 => "Q6_K",
        21 => "Q2_K - Small",
        32 => "BF16",
        _ => return None,
    })
}
