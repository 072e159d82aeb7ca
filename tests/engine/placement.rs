//! Models in parts on several devices: the same as on one, and placed as their memory allows.

use crate::common;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::archs::{self, CUTS, Fixture};
use common::logits::kl_divergence;
use common::models;
use common::tiny_model::{Rng, TinyModel};
use rocmforge::Error;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::pipeline::{self, Stage};
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::device::{BLOCK_LEN, Device, DeviceInfo, Needs, Program, Progress, SessionLimits};
use rocmforge::engine::{
    Backend, Batch, Context, ContextParams, CpuExperts, DeviceKind, GpuLayers, Model, ModelParams, Slice,
    Target,
};
use rocmforge::gguf::{Gguf, TensorType, Value};
use rocmforge::model::arch;
use rocmforge::plan::{Plan, split};

/// A device that computes as another does and has as much memory as a test says.
struct Card {
    device: Arc<dyn Device>,
    free: AtomicU64,
}

impl Card {
    fn new(device: Arc<dyn Device>, free: u64) -> Arc<Card> {
        Arc::new(Card { device, free: free.into() })
    }
}

impl Device for Card {
    fn info(&self) -> DeviceInfo {
        let memory_free = self.free.load(Ordering::Relaxed);
        DeviceInfo { memory_free, memory_total: 1 << 40, ..self.device.info() }
    }

    fn needs(&self, plan: &Plan, limits: SessionLimits) -> rocmforge::Result<Needs> {
        self.device.needs(plan, limits)
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        file: Arc<Gguf>,
        progress: &mut Progress<'_>,
    ) -> rocmforge::Result<Arc<dyn Program>> {
        self.device.load(plan, file, progress)
    }

    fn transpose(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> rocmforge::Result<()> {
        self.device.transpose(src, dst, rows, cols)
    }
}

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(1).unwrap())
}

fn reference() -> Arc<dyn Device> {
    Arc::new(ReferenceDevice::new(1))
}

/// Every architecture, with types of both of the CPU's kinds, output tied and not.
fn tiny_models() -> Vec<TinyModel> {
    use TensorType::*;
    let types = [Q8_0, F16, Q4_K];
    let llama = TinyModel { n_layer: 4, tied: true, rope_freqs: true, ..TinyModel::new("llama") };
    let qwen2 = TinyModel { n_layer: 3, n_head_kv: 1, n_ff: 512, ..TinyModel::new("qwen2") };
    let qwen3 = TinyModel { n_layer: 2, ..TinyModel::new("qwen3") };
    [llama, qwen2, qwen3].map(|tiny| tiny.types(&types)).into()
}

/// The same, and one with windows; each has 2 layers or more.
fn all_models() -> Vec<(String, Arc<Gguf>)> {
    let windows = Fixture::open("gemma3-dense");
    let tiny = tiny_models().into_iter().map(|tiny| (tiny.arch.to_owned(), tiny.gguf()));
    tiny.chain([(windows.name.clone(), windows.model(1))]).collect()
}

fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    let mut rng = Rng(7);
    (0..n).map(|_| rng.below(n_vocab) as u32).collect()
}

fn model(backend: &Backend, file: Arc<Gguf>, gpu_layers: GpuLayers) -> rocmforge::Result<Model> {
    mixed(backend, file, gpu_layers, CpuExperts::Auto)
}

fn mixed(
    backend: &Backend,
    file: Arc<Gguf>,
    gpu_layers: GpuLayers,
    cpu_experts: CpuExperts,
) -> rocmforge::Result<Model> {
    let params = ModelParams { gpu_layers, cpu_experts, n_ctx: 512, ..ModelParams::default() };
    Model::from_gguf(backend, file, params)
}

/// On one CPU device.
fn whole(file: Arc<Gguf>) -> Model {
    let backend = Backend::with_gpus(vec![cpu()], 2).unwrap();
    let model = model(&backend, file, GpuLayers::All).unwrap();
    assert_eq!(model.placement().parts.len(), 1);
    model
}

fn context(model: &Model, n_seq_max: usize) -> Context {
    Context::new(model, &ContextParams { n_ctx: 512, n_batch: 48, n_seq_max, checkpoint_interval: 0 })
        .unwrap()
}

/// Logits of all `tokens`, in steps of up to 48 and of one token.
fn evaluate(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut context = context(model, 1);
    let mut logits = Vec::new();
    let (prompt, rest) = tokens.split_at(tokens.len() - 3);
    for part in [prompt].into_iter().chain(rest.chunks(1)) {
        let want = vec![true; part.len()];
        let batch = Batch { tokens: part, positions: None, sequences: None, want: Some(&want) };
        context.decode(&batch).unwrap();
        (0..part.len()).for_each(|row| logits.extend_from_slice(context.logits(row).unwrap()));
    }
    logits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The whole plan cut before each of these layers (the last of them may be as many as there are), a device for each part.
fn cut(file: &Arc<Gguf>, cuts: &[usize], devices: &[Arc<dyn Device>]) -> Arc<dyn Program> {
    let plan = Arc::new(arch::plan(file).unwrap().1);
    let slice = |i: usize| {
        let from = if i == 0 { 0 } else { cuts[i - 1] };
        let to = cuts.get(i).copied().unwrap_or(plan.layers.len());
        Slice { embed: i == 0, head: i == cuts.len(), ..Slice::of(from..to) }
    };
    let legs = split::legs(&plan, &(0..=cuts.len()).map(slice).collect::<Vec<_>>()).unwrap();
    let stage = |i: usize| {
        let plan = Arc::new(Plan::new(split::part(&plan, &legs, i).unwrap()).unwrap());
        Stage { device: devices[i % devices.len()].clone(), plan }
    };
    let stages: Vec<_> = (0..=cuts.len()).map(stage).collect();
    pipeline::load(plan.clone(), &stages, &legs, file, &mut |_, _| true).unwrap()
}

/// What a device that has the slice computes.
fn part(plan: &Plan, slice: &Slice) -> Arc<Plan> {
    let legs = split::legs(plan, std::slice::from_ref(slice)).unwrap();
    Arc::new(Plan::new(split::part(plan, &legs, 0).unwrap()).unwrap())
}

/// What a program computes for one sequence, in steps of `chunk` tokens.
fn run(program: Arc<dyn Program>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    use rocmforge::device::Cancel;
    use rocmforge::device::Step;
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    let n_pools = program.plan().pools().len();
    let mut session = program
        .session(SessionLimits {
            max_tokens: chunk,
            max_outputs: chunk,
            n_blocks,
            n_sequences: 8,
            n_states: 0,
        })
        .unwrap();
    let table: Vec<u32> = (0..n_blocks as u32).rev().collect();
    let mut logits = Vec::new();
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let (n, first) = (tokens.len() as u32, (i * chunk) as u32);
        let step = Step {
            tokens,
            positions: &(first..first + n).collect::<Vec<_>>(),
            sequences: &vec![0; tokens.len()],
            tables: &vec![&table[..]; n_pools],
            outputs: &(0..n).collect::<Vec<_>>(),
            inputs: &[],
            states: &[],
        };
        session.run(&step, &Cancel::default()).unwrap();
        session.wait().unwrap();
        logits.extend_from_slice(session.output(0).unwrap());
    }
    logits
}

#[test]
fn parts_compute_what_the_whole_does() {
    for (name, file) in all_models() {
        let (config, plan) = arch::plan(&file).unwrap();
        let (n, tokens) = (plan.layers.len(), tokens(100, config.n_vocab));
        for device in [cpu(), reference()] {
            let one = run(cut(&file, &[], std::slice::from_ref(&device)), &tokens, 40);
            let everywhere: Vec<usize> = (0..=n).collect();
            for cuts in [&[0][..], &[1], &[n], &[0, n], &[1, n - 1], &everywhere] {
                let cuts = if cuts.windows(2).any(|c| c[0] >= c[1]) { &cuts[..1] } else { cuts };
                let parts = run(cut(&file, cuts, &[device.clone(), device.clone()]), &tokens, 40);
                assert!(bits(&parts) == bits(&one), "{name} cut before {cuts:?}");
            }
        }
    }
}

#[test]
fn layers_that_run_again_are_cut_like_others() {
    let tiny = TinyModel::new("nanbeige").meta("{}.num_loops", Value::U32(3)).types(&[TensorType::Q8_0]);
    let (file, tokens) = (tiny.gguf(), tokens(50, tiny.n_vocab));
    let one = bits(&run(cut(&file, &[], &[cpu()]), &tokens, 40));
    let everywhere: Vec<usize> = (0..=6).collect();
    for cuts in [&[1][..], &[2], &[3, 5], &everywhere] {
        assert!(bits(&run(cut(&file, cuts, &[cpu(), cpu()]), &tokens, 40)) == one, "cut before {cuts:?}");
    }
}

#[test]
fn parts_on_devices_of_two_kinds_lie_between_them() {
    for tiny in tiny_models() {
        let (file, tokens) = (tiny.gguf(), tokens(60, tiny.n_vocab));
        let truth = run(cut(&file, &[], &[reference()]), &tokens, 60);
        let fast = run(cut(&file, &[], &[cpu()]), &tokens, 60);
        let distance = |logits: &[f32]| {
            let rows = truth.chunks(tiny.n_vocab).zip(logits.chunks(tiny.n_vocab));
            rows.map(|(want, got)| kl_divergence(want, got)).sum::<f64>() / tokens.len() as f64
        };
        let most = 2.0 * distance(&fast);
        for devices in [[reference(), cpu()], [cpu(), reference()]] {
            for cuts in [&[1][..], &[0, tiny.n_layer]] {
                let mixed = distance(&run(cut(&file, cuts, &devices), &tokens, 60));
                assert!(mixed > 0.0 && mixed < most, "{}: mean KL {mixed:.1e}, {most:.1e}", tiny.arch);
            }
        }
    }
}

#[test]
fn smollm2_in_two_parts() {
    let file = Arc::new(Gguf::open(models::path(models::SMOLLM2)).unwrap());
    let tokens = tokens(70, 49_152);
    let one = bits(&run(cut(&file, &[], &[cpu()]), &tokens, 64));
    for at in [0, 10, 29, 30] {
        assert!(bits(&run(cut(&file, &[at], &[cpu(), cpu()]), &tokens, 64)) == one, "cut before layer {at}");
    }
}

#[test]
fn needs_are_what_is_allocated() {
    let limits = [(1, 1, 1), (7, 3, 2), (128, 100, 40)];
    for (name, file) in all_models() {
        let plan = Arc::new(arch::plan(&file).unwrap().1);
        let n = plan.layers.len();
        for device in [cpu(), reference(), Arc::new(CpuDevice::new(3).unwrap())] {
            for part in [
                Slice::whole(&plan),
                Slice { embed: true, ..Slice::of(0..0) },
                Slice::of(1..2),
                Slice { head: true, ..Slice::of(n..n) },
            ] {
                let plan = self::part(&plan, &part);
                let program = device.load(plan.clone(), file.clone(), &mut |_, _| true).unwrap();
                for (max_tokens, max_outputs, n_blocks) in limits {
                    let limits =
                        SessionLimits { max_tokens, max_outputs, n_blocks, n_sequences: 2, n_states: 0 };
                    let needs = device.needs(&plan, limits).unwrap();
                    assert_eq!(needs.weights, program.weight_bytes(), "{name} {part:?}");
                    let session = program.clone().session(limits).unwrap();
                    assert_eq!((needs.cache, needs.scratch), session.memory(), "{name} {part:?}");
                }
            }
            // beyond what can be counted: no panic, and nothing that could fit
            let limits = SessionLimits {
                max_tokens: usize::MAX,
                max_outputs: 1,
                n_blocks: usize::MAX,
                n_sequences: 8,
                n_states: 0,
            };
            let needs = device.needs(&plan, limits).unwrap();
            assert_eq!((needs.cache, needs.scratch, needs.total()), (u64::MAX, u64::MAX, u64::MAX));
        }
    }
}

#[test]
fn layers_on_two_devices_and_the_host() {
    for tiny in tiny_models() {
        let (file, tokens) = (tiny.gguf(), tokens(90, tiny.n_vocab));
        let one = bits(&evaluate(&whole(file.clone()), &tokens));
        let cards = [Card::new(cpu(), 1 << 40), Card::new(cpu(), 1 << 40)];
        let backend = Backend::with_gpus(cards.map(|card| -> Arc<dyn Device> { card }).into(), 2).unwrap();
        for n in 0..=tiny.n_layer + 1 {
            let model = model(&backend, file.clone(), GpuLayers::Last(n)).unwrap();
            let placement = model.placement();
            assert_eq!((placement.gpu_layers(), placement.n_gpu_layers()), (n.min(tiny.n_layer), n));
            assert_eq!(placement.targets().contains(&Target::Host), n <= tiny.n_layer);
            assert!(bits(&evaluate(&model, &tokens)) == one, "{}: {n} layers, {placement:?}", tiny.arch);
            let needs = placement.parts.iter().map(|p| p.needs).sum::<Needs>();
            assert_eq!(model.info().weight_bytes, needs.weights);
            let context = Context::new(&model, &ContextParams { n_ctx: 512, ..ContextParams::default() });
            let info = context.unwrap().info();
            assert_eq!((info.cache_bytes, info.scratch_bytes), (needs.cache, needs.scratch));
        }
    }
}

#[test]
fn auto_puts_on_a_device_what_it_has_room_for() {
    let tiny = TinyModel { n_layer: 6, ..TinyModel::new("llama").types(&[TensorType::Q8_0]) };
    let (file, tokens) = (tiny.gguf(), tokens(90, tiny.n_vocab));
    let whole = whole(file.clone());
    let one = bits(&evaluate(&whole, &tokens));
    let Needs { weights, cache, scratch } = whole.placement().needs(Target::Gpu(0));
    let card = Card::new(cpu(), 0);
    let backend = Backend::with_gpus(vec![card.clone()], 2).unwrap();
    let mut before = 0;
    let mut seen = std::collections::BTreeSet::new();
    // of a card this small 32 MiB are left free
    for free in (0..=30).map(|i| (32 << 20) + scratch * 8 / 10 + (weights + cache) * i / 20) {
        card.free.store(free, Ordering::Relaxed);
        let model = model(&backend, file.clone(), GpuLayers::Auto).unwrap();
        let placement = model.placement();
        assert!(placement.needs(Target::Gpu(0)).total() <= free);
        assert!(placement.gpu_layers() >= before, "more room, fewer layers");
        before = placement.gpu_layers();
        if seen.insert(before) {
            assert!(bits(&evaluate(&model, &tokens)) == one, "{placement:?}");
        }
        card.free.store(free - (32 << 20), Ordering::Relaxed);
        match self::model(&backend, file.clone(), GpuLayers::All) {
            Ok(model) => assert!(model.placement().n_gpu_layers() == 7),
            Err(Error::OutOfMemory { wanted, free: told, total, .. }) => {
                assert!(wanted > told && told == free - (32 << 20) && total == 1 << 40);
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(seen.contains(&0) && seen.contains(&6) && seen.len() >= 4, "{seen:?}");
    assert!(backend.gpus().len() == 1 && backend.kind() == DeviceKind::Hip);
}

#[test]
fn sequences_that_part_ways_do_so_in_every_part() {
    let mixture = TinyModel { n_layer: 3, experts: [4, 2], ..TinyModel::new("llama") };
    for (name, file) in all_models().into_iter().chain([("a mixture".to_owned(), mixture.gguf())]) {
        let backend = Backend::with_gpus(vec![cpu(), cpu()], 2).unwrap();
        let n_layer = whole(file.clone()).config().n_layer;
        let (layers, experts) = (GpuLayers::Last(n_layer - 1), CpuExperts::First(usize::MAX));
        let split = mixed(&backend, file.clone(), layers, experts).unwrap();
        assert!(split.placement().parts.len() >= 2);
        let mut histories = Vec::new();
        for model in [&whole(file.clone()), &split] {
            let mut context = context(model, 3);
            let mut logits = Vec::new();
            let ids = tokens(120, model.config().n_vocab);
            let mut feed = |context: &mut Context, sequence: u32, ids: &[u32]| {
                let (sequences, want) = (vec![sequence; ids.len()], vec![true; ids.len()]);
                let batch =
                    Batch { tokens: ids, positions: None, sequences: Some(&sequences), want: Some(&want) };
                context.decode(&batch).unwrap();
                (0..ids.len()).for_each(|row| logits.extend(bits(context.logits(row).unwrap())));
            };
            feed(&mut context, 0, &ids[..70]);
            // the shared last block is copied in every layer when either goes on
            context.kv_copy(0, 1, 69).unwrap();
            feed(&mut context, 1, &ids[80..90]);
            feed(&mut context, 0, &ids[70..80]);
            context.kv_truncate(0, 5).unwrap();
            feed(&mut context, 0, &ids[90..100]);
            feed(&mut context, 1, &ids[100..]);
            histories.push(logits);
        }
        assert!(histories[0] == histories[1], "{name}");
    }
}

#[test]
fn every_part_is_watched_and_heeds_a_cancel() {
    let tiny = TinyModel { n_layer: 3, ..TinyModel::new("llama") };
    let file = tiny.gguf();
    let backend = Backend::with_gpus(vec![cpu()], 2).unwrap();
    let split = model(&backend, file.clone(), GpuLayers::Last(1)).unwrap();
    let names_of = |model: &Model| {
        let names = Arc::new(Mutex::new(Vec::new()));
        let mut context = context(model, 1);
        let sink = names.clone();
        context.observe(Some(Box::new(move |name, rows, values| {
            assert!(values.len().is_multiple_of(rows));
            sink.lock().unwrap().push(name.to_owned());
        })));
        let batch = Batch { tokens: &[1, 2, 3], positions: None, sequences: None, want: None };
        context.decode(&batch).unwrap();
        context.observe(None);
        context.decode(&batch).unwrap();
        drop(context);
        Arc::into_inner(names).unwrap().into_inner().unwrap()
    };
    assert_eq!(names_of(&split), names_of(&whole(file)));

    // cancelled from within each part in turn; then all is as if nothing had been
    let want = evaluate(&split, &tokens(20, tiny.n_vocab));
    for at in ["token_embd", "blk.0.ffn_down", "blk.2.attn_norm", "output_norm"] {
        let mut context = context(&split, 1);
        let cancel = context.cancel_handle();
        let later = Arc::new(AtomicUsize::new(0));
        let counter = later.clone();
        let mut cancelled = false;
        context.observe(Some(Box::new(move |name, _, _| {
            counter.fetch_add(usize::from(cancelled), Ordering::Relaxed);
            if name == at {
                cancel.cancel();
                cancelled = true;
            }
        })));
        let ids = tokens(20, tiny.n_vocab);
        let batch = Batch { tokens: &ids, positions: None, sequences: None, want: Some(&[true; 20]) };
        assert!(matches!(context.decode(&batch), Err(Error::Cancelled)), "{at}");
        assert!(later.load(Ordering::Relaxed) <= 2, "{at}: it went on");
        assert_eq!(context.kv_len(0).unwrap(), 0);
        context.observe(None);
        context.decode(&batch).unwrap();
        let last = context.logits(19).unwrap();
        assert!(bits(last) == bits(&want[want.len() - tiny.n_vocab..]), "{at}");
    }
}

/// Fixtures of mixtures, with what an expert may have: beside a shared one, biases, latent attention.
const MIXTURES: [&str; 4] = ["llama-moe", "qwen3moe-moe", "gpt-oss-moe", "deepseek2-moe"];

#[test]
fn experts_on_the_processor_compute_the_same() {
    for name in MIXTURES {
        let fixture = Fixture::open(name);
        let (file, [first, second]) = (fixture.model(1), fixture.tokens.each_ref().map(Vec::as_slice));
        let all = |model: &Model| {
            CUTS.map(|(_, cut)| {
                let second = if cut(1)[1] == 0 { &[] } else { second };
                archs::evaluate(model, [first, second], (0..).map(cut)).map(|logits| bits(&logits))
            })
        };
        let one = whole(file.clone());
        let want = all(&one);
        for cards in [1, 2] {
            let backend = Backend::with_gpus(vec![cpu(); cards], 2).unwrap();
            let n_layer = one.placement().n_layers;
            let mut seen = Vec::new();
            for asked in [0, 1, usize::MAX] {
                for layers in [GpuLayers::All, GpuLayers::Last(n_layer - 1)] {
                    let model = mixed(&backend, file.clone(), layers, CpuExperts::First(asked)).unwrap();
                    let placement = model.placement();
                    let what = format!("{name}, {cards} cards, {layers:?}, {asked}: {placement:?}");
                    seen.push(placement.cpu_experts);
                    assert!(all(&model) == want, "{what}");
                    let needs = placement.parts.iter().map(|p| p.needs).sum::<Needs>();
                    assert_eq!(model.info().weight_bytes, needs.weights, "{what}");
                    let params = ContextParams { n_ctx: 512, ..ContextParams::default() };
                    let info = Context::new(&model, &params).unwrap().info();
                    assert_eq!(
                        (info.cache_bytes, info.scratch_bytes),
                        (needs.cache, needs.scratch),
                        "{what}"
                    );
                }
            }
            let most = *seen.iter().max().unwrap();
            assert!(seen[..3] == [0, 0, 1] && seen[4] == most && most >= 1, "{name}: {seen:?}");
        }
    }
}

#[test]
fn auto_leaves_experts_where_a_device_has_no_room_for_them() {
    let file = Fixture::open("qwen3moe-moe").model(1);
    let tokens = tokens(90, 64);
    let one = bits(&evaluate(&whole(file.clone()), &tokens));
    let card = Card::new(cpu(), 0);
    let backend = Backend::with_gpus(vec![card.clone()], 2).unwrap();
    let bare = mixed(&backend, file.clone(), GpuLayers::Last(0), CpuExperts::Auto);
    assert_eq!(bare.unwrap().placement().cpu_experts, 0);
    card.free.store(1 << 40, Ordering::Relaxed);
    let room = |experts| {
        let model = mixed(&backend, file.clone(), GpuLayers::All, CpuExperts::First(experts)).unwrap();
        (model.placement().needs(Target::Gpu(0)).total() + (32 << 20), model.placement().n_layers)
    };
    let rooms: Vec<_> = [usize::MAX, 1, 0].map(room).into();
    assert!(rooms.is_sorted() && rooms[0] < rooms[2]);
    for ((free, n_layers), experts) in rooms.into_iter().zip([2, 1, 0]) {
        card.free.store(free, Ordering::Relaxed);
        let model = model(&backend, file.clone(), GpuLayers::Auto).unwrap();
        let placement = model.placement();
        assert_eq!(
            (placement.n_gpu_layers(), placement.cpu_experts),
            (n_layers + 1, experts),
            "{placement:?}"
        );
        assert!(placement.needs(Target::Gpu(0)).total() <= free - (32 << 20));
        assert!(bits(&evaluate(&model, &tokens)) == one, "{placement:?}");
        let wanted = match experts {
            0 => vec![Target::Gpu(0)],
            _ => vec![Target::Gpu(0), Target::Host],
        };
        assert_eq!(placement.targets(), wanted);
    }
}

#[test]
fn a_step_that_leaves_a_card_between_layers_heeds_a_cancel_and_begins_anew() {
    let fixture = Fixture::open("llama-moe");
    let backend = Backend::with_gpus(vec![cpu()], 2).unwrap();
    let model = mixed(&backend, fixture.model(1), GpuLayers::All, CpuExperts::First(usize::MAX)).unwrap();
    let tokens = &fixture.tokens[0][..20];
    let want = evaluate(&model, tokens);
    let n_vocab = fixture.n_vocab();
    for at in ["blk.0.attn_norm", "blk.0.ffn_combine", "blk.1.ffn_up_exps", "output_norm"] {
        let mut context = context(&model, 1);
        let cancel = context.cancel_handle();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        context.observe(Some(Box::new(move |name, _, _| {
            sink.lock().unwrap().push(name.to_owned());
            if name.starts_with(at) {
                cancel.cancel();
            }
        })));
        let batch = Batch { tokens, positions: None, sequences: None, want: Some(&[true; 20]) };
        assert!(matches!(context.decode(&batch), Err(Error::Cancelled)), "{at}: {seen:?}");
        assert_eq!(context.kv_len(0).unwrap(), 0);
        context.observe(None);
        context.decode(&batch).unwrap();
        let last = context.logits(19).unwrap();
        assert!(bits(last) == bits(&want[want.len() - n_vocab..]), "{at}");
    }
}

#[test]
fn a_load_in_parts_reports_one_progress_and_stops() {
    let tiny = TinyModel { n_layer: 4, ..TinyModel::new("qwen2") };
    let file = tiny.gguf();
    let backend = Backend::with_gpus(vec![cpu()], 2).unwrap();
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut progress = |done, total| {
        seen.push((done, total));
        true
    };
    let params = ModelParams {
        progress: Some(&mut progress),
        gpu_layers: GpuLayers::Last(2),
        ..ModelParams::default()
    };
    Model::from_gguf(&backend, file.clone(), params).unwrap();
    let total = seen[0].1;
    assert!(seen.iter().all(|(done, of)| done <= of && *of == total));
    assert!(seen.is_sorted_by_key(|(done, _)| *done) && seen.last() == Some(&(total, total)));
    assert!(total >= file.tensors().iter().map(|t| t.bytes).sum());

    for stop in [0, 1, seen.len() / 2, seen.len() - 1] {
        let mut calls = 0;
        let mut progress = |_, _| {
            calls += 1;
            calls <= stop
        };
        let params = ModelParams {
            progress: Some(&mut progress),
            gpu_layers: GpuLayers::Last(2),
            ..ModelParams::default()
        };
        let outcome = Model::from_gguf(&backend, file.clone(), params);
        assert!(matches!(outcome.err(), Some(Error::Cancelled)), "after {stop} calls");
        assert_eq!(calls, stop + 1);
    }
}

#[test]
fn a_context_beyond_the_plan_may_be_made() {
    let tiny = TinyModel::new("llama");
    let backend = Backend::with_gpus(vec![Card::new(cpu(), 1 << 40)], 2).unwrap();
    let model = model(&backend, tiny.gguf(), GpuLayers::Auto).unwrap();
    assert_eq!((model.placement().n_ctx, model.placement().n_batch), (512, 512));
    let context = Context::new(&model, &ContextParams { n_ctx: 2048, ..ContextParams::default() }).unwrap();
    assert_eq!(context.info().n_ctx, 2048);
    let params = ModelParams { n_ctx: usize::MAX, ..ModelParams::default() };
    assert!(matches!(Model::from_gguf(&backend, tiny.gguf(), params).err(), Some(Error::Param(_))));
}

#[test]
fn a_backend_without_gpus_takes_any_number_of_layers() {
    use rocmforge::engine::BackendParams;
    for device in [DeviceKind::Cpu, DeviceKind::Reference] {
        let backend = Backend::new(&BackendParams { device, ..BackendParams::default() }).unwrap();
        for gpu_layers in [GpuLayers::Auto, GpuLayers::All, GpuLayers::Last(1)] {
            let model = model(&backend, TinyModel::new("llama").gguf(), gpu_layers).unwrap();
            assert_eq!(model.placement().targets(), [Target::Host]);
            assert_eq!(model.placement().n_gpu_layers(), 0);
        }
    }
    assert!(matches!(Backend::with_gpus(Vec::new(), 1).err(), Some(Error::Param(_))));
}

#[cfg(feature = "hip")]
mod gpus {
    use super::*;
    use crate::common::emulated::{Emulator, on_emulator};
    use rocmforge::device::hip::device::HipDevice;
    use rocmforge::engine::{BackendParams, DeviceChoice};

    fn backend(choice: DeviceChoice) -> Backend {
        let device = DeviceKind::Hip;
        Backend::new(&BackendParams { device, choice, threads: 1 }).unwrap()
    }

    fn small(arch: &'static str) -> TinyModel {
        TinyModel { n_layer: 3, ..TinyModel::new(arch).types(&[TensorType::Q8_0, TensorType::Q4_K]) }
    }

    #[test]
    fn needs_are_what_a_gpu_is_asked_for() {
        on_emulator("gpus::needs_are_what_a_gpu_is_asked_for", &[], || {
            let device = HipDevice::open(&DeviceChoice::Best).unwrap();
            let tiny = small("qwen3");
            let file = tiny.gguf();
            let plan = Arc::new(arch::plan(&file).unwrap().1);
            for part in [
                Slice::whole(&plan),
                Slice { embed: true, ..Slice::of(0..0) },
                Slice::of(1..3),
                Slice { head: true, ..Slice::of(3..3) },
            ] {
                let plan = self::part(&plan, &part);
                let program = device.load(plan.clone(), file.clone(), &mut |_, _| true).unwrap();
                let limits = SessionLimits {
                    max_tokens: 40,
                    max_outputs: 9,
                    n_blocks: 3,
                    n_sequences: 8,
                    n_states: 0,
                };
                let needs = device.needs(&plan, limits).unwrap();
                assert_eq!(needs.weights, program.weight_bytes(), "{part:?}");
                let session = program.session(limits).unwrap();
                assert_eq!((needs.cache, needs.scratch), session.memory(), "{part:?}");
            }
            let beyond = SessionLimits {
                max_tokens: usize::MAX,
                max_outputs: 1,
                n_blocks: usize::MAX / 64,
                n_sequences: 8,
                n_states: 0,
            };
            assert_eq!(device.needs(&plan, beyond).unwrap().total(), u64::MAX);
        });
    }

    /// GPUs and the CPU round activations alike to 8 bits, and differ in the order of their sums.
    fn near(want: &[f32], got: &[f32], what: &str) {
        let mean = want.iter().sum::<f32>() / want.len() as f32;
        let variance: f32 = want.iter().map(|x| (x - mean).powi(2)).sum();
        let error: f32 = want.iter().zip(got).map(|(a, b)| (a - b).powi(2)).sum();
        assert!(want.len() == got.len() && error / variance < 5e-3, "{what}: {:e}", error / variance);
    }

    #[test]
    fn layers_on_gpus_and_the_processor() {
        let cards = [("CARD", "gfx1100,gfx1201")];
        on_emulator("gpus::layers_on_gpus_and_the_processor", &cards, || {
            for arch in ["llama", "qwen2"] {
                let tiny = small(arch);
                let (file, tokens) = (tiny.gguf(), tokens(12, tiny.n_vocab));
                let want = run(cut(&file, &[], &[reference()]), &tokens, 12);
                for (choice, last) in [
                    (DeviceChoice::Best, 1),
                    (DeviceChoice::Best, 3),
                    (DeviceChoice::Best, 4),
                    (DeviceChoice::All, 2),
                    (DeviceChoice::All, 4),
                ] {
                    let model = model(&backend(choice.clone()), file.clone(), GpuLayers::Last(last)).unwrap();
                    let placement = model.placement();
                    assert_eq!(placement.n_gpu_layers(), last);
                    let n_gpus = if choice == DeviceChoice::All { 2 } else { 1 };
                    assert_eq!(placement.targets().len(), n_gpus + usize::from(last < 4), "{placement:?}");
                    near(&want, &evaluate(&model, &tokens), &format!("{arch}, {choice:?}, {last} layers"));
                }
            }
        });
    }

    #[test]
    fn experts_elsewhere_cost_a_layer_two_transfers() {
        on_emulator("gpus::experts_elsewhere_cost_a_layer_two_transfers", &[], || {
            let emulator = Emulator::open();
            let fixture = Fixture::open("qwen3moe-moe");
            let (backend, experts) = (backend(DeviceChoice::Best), CpuExperts::First(usize::MAX));
            let model = mixed(&backend, fixture.model(1), GpuLayers::All, experts).unwrap();
            let layers = model.placement().cpu_experts as u64;
            let mut context = context(&model, 1);
            // launched, recorded and, from the third on, replayed
            for token in &fixture.tokens[0][..4] {
                emulator.fail("");
                let batch =
                    Batch { tokens: &[*token], positions: None, sequences: None, want: Some(&[true]) };
                context.decode(&batch).unwrap();
                context.logits(0).unwrap();
            }
            let calls = |name| emulator.calls(name);
            assert_eq!(calls("hipGraphLaunch"), layers + 1);
            // what the step says of its token, and sums
            assert_eq!(calls("hipMemcpyHtoDAsync"), 1 + layers);
            // rows, ids and weights together, and logits
            assert_eq!(calls("hipMemcpyDtoHAsync"), layers + 1);
            assert_eq!(calls("hipMemcpyDtoDAsync") + calls("hipModuleLaunchKernel"), 0, "in graphs alone");
        });
    }

    #[test]
    fn auto_fills_a_small_card() {
        on_emulator("gpus::auto_fills_a_small_card", &[("MEMORY", "38554432")], || {
            let tiny = small("llama");
            let (file, tokens) = (tiny.gguf(), tokens(12, tiny.n_vocab));
            let backend = Backend::new(&BackendParams { threads: 1, ..BackendParams::default() }).unwrap();
            assert_eq!(backend.kind(), DeviceKind::Hip);
            let model = model(&backend, file.clone(), GpuLayers::Auto).unwrap();
            let placement = model.placement();
            assert!((1..3).contains(&placement.gpu_layers()), "{placement:?}");
            let want = run(cut(&file, &[], &[reference()]), &tokens, 12);
            near(&want, &evaluate(&model, &tokens), &format!("{placement:?}"));
        });
    }
}
