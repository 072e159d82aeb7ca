//! Descriptions of models from llama.cpp's generator, test-llama-archs, and its logits.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge::gguf::{Gguf, TensorType, Value};

use super::archs::{Fixture, LENGTHS, Tensor};
use super::tiny_model::Rng;
use super::{variants_moe, variants_norm, variants_rms};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Swapping two early tokens must move the logits by so much.
pub const LEAST: f64 = 1e-4;

/// llama.cpp's programs, and what they write.
pub struct Peer {
    programs: PathBuf,
    work: PathBuf,
}

impl Peer {
    /// By the folder of test-llama-archs and peer_logits (tools/peer_build.sh builds them).
    pub fn new(programs: impl Into<PathBuf>) -> Result<Peer> {
        let peer = Peer {
            programs: programs.into(),
            work: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/archs"),
        };
        if !peer.generated().is_dir() {
            let unfinished = peer.work.join("unfinished");
            fs::create_dir_all(&unfinished)?;
            run(Command::new(peer.programs.join("test-llama-archs"))
                .args(["-s", "1", "-o"])
                .arg(format!("{}/", unfinished.display())))?;
            fs::rename(unfinished, peer.generated())?;
        }
        Ok(peer)
    }

    fn generated(&self) -> PathBuf {
        self.work.join("generated")
    }

    /// Names of all models that the generator describes, and of ours beside them.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = variants().map(|(name, ..)| (*name).to_owned()).collect();
        for entry in fs::read_dir(self.generated())? {
            let path = entry?.path();
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The model of that name, without logits.
    pub fn describe(&self, name: &str) -> Result<Fixture> {
        let variant = variants().find(|(of, ..)| *of == name);
        let generator = variant.map_or(name, |(_, generator, _)| generator);
        let mut fixture = describe(name, &self.generated().join(format!("{generator}.gguf")))?;
        if let Some((.., vary)) = variant {
            vary(&mut fixture);
        }
        Ok(fixture)
    }

    /// Logits of each of the tokens by the model file `bytes`, and its name while it exists.
    pub fn logits(&self, name: &str, bytes: &[u8], sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let file = |suffix: &str| self.work.join(format!("{name}.{}.{suffix}", std::process::id()));
        let (model, out) = (file("gguf"), file("f32"));
        fs::write(&model, bytes)?;
        let logits = sequences.iter().map(|tokens| {
            let ids: Vec<_> = tokens.iter().map(u32::to_string).collect();
            let mut command = Command::new(self.programs.join("peer_logits"));
            run(command.arg("--exact").args([&model, &out]).arg(ids.join(",")))?;
            let bytes = fs::read(&out)?;
            let logits: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            match logits.iter().any(|x| x.is_nan()) {
                true => Err("logits that are no numbers".into()),
                false => Ok(logits),
            }
        });
        let logits = logits.collect();
        fs::remove_file(&model)?;
        let _ = fs::remove_file(&out);
        logits
    }
}

/// Models in which the usual tokens meet two experts so nearly equal that a cache of f16, or products of f16, change the choice.
/// They have others.
const OTHER_TOKENS: [&str; 5] =
    ["glm4moe-moe", "hunyuan-moe-moe", "laguna-layers", "llama4-moe", "minimax-m2-moe"];

/// What is known of llama.cpp's own rounding.
const NOTES: [(&str, &str); 2] = [
    ("gemma3-dense", "GELU computed in f32; llama.cpp's own table of f16 is at an NMSE of 1.8e-8 from that"),
    ("phi2-dense", "GELU computed in f32; llama.cpp's own table of f16 is at an NMSE of 9.4e-8 from that"),
];

/// The generator's metadata and tensors, but for two things. Of mixtures it chooses 2 of 2 experts; here 2 of 4 are
/// chosen, so that the choice shows, and the keys that say what is done with their weights differ from what their
/// absence says. Its tokenizer, "test", is one that only llama.cpp's tests know: here there is none.
fn describe(name: &str, path: &Path) -> Result<Fixture> {
    let file = Gguf::open(path)?;
    let arch = file.metadata().str("general.architecture")?.ok_or("no architecture")?.to_owned();
    let experts = file.metadata().u64(&format!("{arch}.expert_count"))?.unwrap_or(0);
    let kept = file
        .metadata()
        .iter()
        .filter(|(key, _)| !key.starts_with("tokenizer.ggml.") || key.ends_with(".model"));
    let metadata = kept.map(|(key, value)| {
        let value = match key.strip_prefix(&arch).unwrap_or(key) {
            "tokenizer.ggml.model" => Value::String("none".into()),
            ".expert_count" if experts > 0 => Value::U32(2 * experts as u32),
            ".expert_weights_scale" => Value::F32(1.5),
            ".expert_weights_norm" => Value::Bool(true),
            // chunks of two experts, of which the generator has one each
            ".experts_per_group" if arch == "grovemoe" => Value::U32(2),
            // beside which the layers of grok would hardly show
            ".embedding_scale" if arch == "grok" => Value::F32(8.0),
            _ => value.clone(),
        };
        (key.to_owned(), value)
    });
    let tensors = file.tensors().iter().map(|tensor| {
        let mut dims = tensor.dims[..tensor.n_dims].to_vec();
        let is_of_experts =
            ["_exps", "ffn_gate_inp.", "exp_probs_b"].iter().any(|part| tensor.name.contains(part));
        if is_of_experts && !tensor.name.contains("norm") {
            let last = dims.last_mut().expect("at least one dimension");
            assert_eq!(*last, experts, "{}: {} of {experts} experts", name, tensor.name);
            *last = 2 * experts;
        }
        Tensor { name: tensor.name.clone(), ty: tensor.ty, dims }
    });
    let mut fixture = Fixture {
        name: name.to_owned(),
        metadata: metadata.collect(),
        tensors: tensors.collect(),
        tokens: Default::default(),
        logits: Default::default(),
        sha256: Default::default(),
        note: NOTES.iter().find(|(of, _)| *of == name).map_or("", |(_, note)| *note).to_owned(),
    };
    let n_vocab = fixture.n_vocab();
    let mut rng = Rng(if OTHER_TOKENS.contains(&name) { 0xA2C8 } else { 0xA2C5 });
    fixture.tokens = LENGTHS.map(|n| (0..n).map(|_| rng.below(n_vocab) as u32).collect());
    Ok(fixture)
}

/// A model that the generator does not describe: name, what it describes that is nearest, and the difference.
pub type Variant = (&'static str, &'static str, fn(&mut Fixture));

fn variants() -> impl Iterator<Item = &'static Variant> {
    let ours = [VARIANTS, variants_rms::VARIANTS, variants_norm::VARIANTS, variants_moe::VARIANTS];
    ours.into_iter().flatten()
}

const VARIANTS: &[Variant] = &[
    ("deepseek2-heads", "deepseek2-moe", deepseek2_heads),
    ("deepseek2-expanded", "deepseek2-moe", deepseek2_expanded),
];

/// Several heads over latent rows, yarn with a multiplier, temperature, and experts in groups, with gate and up apart.
fn deepseek2_heads(fixture: &mut Fixture) {
    fixture.set("rope.scaling.type", Value::String("yarn".into()));
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.1));
    fixture.set("rope.scaling.original_context_length", Value::U32(32));
    fixture.set("rope.scaling.yarn_log_multiplier", Value::F32(0.0707));
    fixture.set("attention.temperature_scale", Value::F32(0.2));
    fixture.set("attention.temperature_length", Value::U32(16));
    fixture.set("expert_count", Value::U32(8));
    fixture.set("expert_group_count", Value::U32(4));
    fixture.set("expert_group_used_count", Value::U32(2));
    fixture.set("expert_gating_func", Value::U32(1));
    fixture.set("expert_weights_norm", Value::Bool(false));
    small_heads(fixture, 1, [72, 56], true);
    for tensor in &mut fixture.tensors {
        let of_experts =
            ["_exps", "ffn_gate_inp.", "exp_probs_b"].iter().any(|part| tensor.name.contains(part));
        if of_experts {
            *tensor.dims.last_mut().expect("at least one dimension") = 8;
        }
    }
    let both = fixture.tensors.iter().position(|tensor| tensor.name.contains("ffn_gate_up_exps"));
    let mut both = fixture.tensors.remove(both.expect("gate and up of the experts"));
    both.dims[1] /= 2;
    for name in ["ffn_gate_exps", "ffn_up_exps"] {
        let name = both.name.replace("ffn_gate_up_exps", name);
        fixture.tensors.push(Tensor { name, ty: both.ty, dims: both.dims.clone() });
    }
}

/// Keys and values of each head, by one matrix; linear scaling of positions; no experts.
fn deepseek2_expanded(fixture: &mut Fixture) {
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    fixture.set("leading_dense_block_count", Value::U32(2));
    for length in ["key_length_mla", "value_length_mla"] {
        fixture.set(&format!("attention.{length}"), Value::U32(0));
    }
    small_heads(fixture, HEADS, [HEAD, HEAD_VALUE], false);
    let apart = |tensor: &Tensor| tensor.name.contains("attn_k_b") || tensor.name.contains("attn_v_b");
    let of_mixture = |tensor: &Tensor| tensor.name.starts_with("blk.1.") && !tensor.name.contains("attn");
    fixture.tensors.retain(|tensor| !apart(tensor) && !of_mixture(tensor));
    let first: Vec<_> = fixture.tensors.iter().filter(|t| t.name.starts_with("blk.0.ffn")).cloned().collect();
    for tensor in first {
        fixture.tensors.push(Tensor { name: tensor.name.replace("blk.0.", "blk.1."), ..tensor });
    }
    for layer in 0..2 {
        let dims = vec![RANK, HEADS * (HEAD - TURNED + HEAD_VALUE)];
        fixture.tensors.push(Tensor {
            name: format!("blk.{layer}.attn_kv_b.weight"),
            ty: TensorType::F32,
            dims,
        });
    }
}

/// Of the variants of deepseek2: heads, elements of a head's query, how many of them are rotated, and of its value; elements
/// of latent rows, and of what queries are made of.
const HEADS: u64 = 3;
const HEAD: u64 = 40;
const TURNED: u64 = 16;
const HEAD_VALUE: u64 = 24;
const RANK: u64 = 56;
const QUERY_RANK: u64 = 32;

fn small_heads(fixture: &mut Fixture, kv_heads: u64, [key, value]: [u64; 2], of_each_head: bool) {
    let mut set = |key: &str, value: u64| fixture.set(key, Value::U32(value as u32));
    set("attention.head_count", HEADS);
    set("attention.head_count_kv", kv_heads);
    set("attention.key_length", key);
    set("attention.value_length", value);
    set("attention.q_lora_rank", QUERY_RANK);
    set("attention.kv_lora_rank", RANK);
    set("rope.dimension_count", TURNED);
    if of_each_head {
        set("attention.key_length_mla", HEAD);
        set("attention.value_length_mla", HEAD_VALUE);
    }
    for tensor in &mut fixture.tensors {
        let part = tensor.name.split('.').nth(2).unwrap_or_default();
        let own = !tensor.name.contains("scale");
        match part {
            "attn_q_a_norm" => tensor.dims = vec![QUERY_RANK],
            "attn_kv_a_norm" => tensor.dims = vec![RANK],
            "attn_q_a" => tensor.dims[1] = QUERY_RANK,
            "attn_q_b" => tensor.dims = vec![QUERY_RANK, HEADS * HEAD],
            "attn_kv_a_mqa" => tensor.dims[1] = RANK + TURNED,
            "attn_k_b" => tensor.dims = vec![HEAD - TURNED, RANK, HEADS],
            "attn_v_b" => tensor.dims = vec![RANK, HEAD_VALUE, HEADS],
            "attn_output" if own => tensor.dims[0] = HEADS * HEAD_VALUE,
            _ => {}
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{text}", output.status).into());
    }
    Ok(())
}
