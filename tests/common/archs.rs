//! Small models of llama.cpp's architectures. Metadata and tensors are as its own generator, test-llama-archs,
//! describes them; a rule makes the weights (arch_weights.rs); the logits are those that llama.cpp computes from them.
//!
//! A fixture, tests/data/archs/NAME.gguf, is a GGUF file of the model's metadata and of the logits. Keys that begin
//! with `fixture.` say the rest:
//!
//!     fixture.tensors      the model's tensors: "NAME TYPE NE0 NE1 ..."
//!     fixture.tokens.I     token ids of sequence I
//!     fixture.sha256       digests of the model files of seeds 1 and 2, as llama.cpp was given them
//!     fixture.note         what is known of llama.cpp's own rounding
//!
//! Tensor `logits.SEED.I` has a row for every eighth position of sequence I, from 1 on for seed 1, from 3 on for seed 2.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge::engine::{
    Backend, BackendParams, Batch, Context, ContextParams, DeviceKind, Model, ModelParams,
};
use rocmforge::gguf::{Array, Gguf, TensorType, Value};
use sha2::{Digest, Sha256};

use super::arch_weights::elements;
use super::gguf_writer::GgufWriter;

pub const SEEDS: [u64; 2] = [1, 2];
/// Tokens of the two sequences.
pub const LENGTHS: [usize; 2] = [80, 45];

pub struct Fixture {
    pub name: String,
    /// The model's, without what begins with `fixture.`.
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    pub tokens: [Vec<u32>; 2],
    /// By seed, then by sequence: rows of the kept positions.
    pub logits: [[Vec<f32>; 2]; 2],
    pub sha256: [String; 2],
    pub note: String,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub ty: TensorType,
    pub dims: Vec<u64>,
}

/// Positions of a sequence of `n` tokens whose logits are kept.
pub fn kept(seed: u64, n: usize) -> impl Iterator<Item = usize> + Clone {
    (2 * seed as usize - 1..n).step_by(8)
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/archs")
}

/// Of the fixtures that there are, in order.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let models = files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let mut names: Vec<_> =
        models.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let file = Gguf::open(folder().join(format!("{name}.gguf"))).unwrap_or_else(|e| panic!("{e}"));
        let meta = file.metadata();
        let strings = |key: &str| match meta.array(key) {
            Ok(Some(Array::String(strings))) => strings.clone(),
            other => panic!("{name}: {key} is {other:?}"),
        };
        let tokens = |i: usize| match meta.array(&format!("fixture.tokens.{i}")) {
            Ok(Some(Array::U32(tokens))) => tokens.clone(),
            other => panic!("{name}: tokens are {other:?}"),
        };
        let logits = |seed: u64, i: usize| {
            let tensor = file.tensor(&format!("logits.{seed}.{i}")).unwrap();
            file.data(tensor).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        Fixture {
            name: name.to_owned(),
            metadata: meta
                .iter()
                .filter(|(key, _)| !key.starts_with("fixture."))
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
            tensors: strings("fixture.tensors").iter().map(|line| Tensor::parse(line)).collect(),
            tokens: [0, 1].map(tokens),
            logits: SEEDS.map(|seed| [0, 1].map(|i| logits(seed, i))),
            sha256: strings("fixture.sha256").try_into().unwrap(),
            note: meta.str("fixture.note").unwrap().unwrap_or_default().to_owned(),
        }
    }

    /// Gives a key of the architecture's another value.
    pub fn set(&mut self, key: &str, value: Value) {
        let arch = self.metadata.iter().find(|(key, _)| key == "general.architecture");
        let Some((_, Value::String(arch))) = arch else { panic!("{}: no architecture", self.name) };
        let key = format!("{arch}.{key}");
        let known = self.metadata.iter_mut().find(|(known, _)| *known == key);
        known.unwrap_or_else(|| panic!("{}: no key {key}", self.name)).1 = value;
    }

    pub fn n_vocab(&self) -> usize {
        let named = |name: &str| self.tensors.iter().find(|t| t.name == name);
        let embedding = named("token_embd.weight").or_else(|| named("output.weight"));
        embedding.expect("an embedding").dims[1] as usize
    }

    /// Logits of a position: more than tokens in some models.
    pub fn n_logits(&self, seed: u64, sequence: usize) -> usize {
        let n_kept = kept(seed, self.tokens[sequence].len()).count();
        self.logits[seed as usize - 1][sequence].len() / n_kept
    }

    /// The model file of that seed.
    pub fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut file = GgufWriter::new();
        for (key, value) in &self.metadata {
            file = file.meta(key, value.clone());
        }
        for Tensor { name, ty, dims } in &self.tensors {
            assert_eq!(*ty, TensorType::F32, "{}: {name}", self.name);
            file = file.f32_tensor(name, dims, &elements(&self.name, name, dims, seed));
        }
        file.build()
    }

    /// The same, open. Panics where it is not the file that llama.cpp was given.
    pub fn model(&self, seed: u64) -> Arc<Gguf> {
        let bytes = self.bytes(seed);
        let kept = &self.sha256[seed as usize - 1];
        assert_eq!(sha256(&bytes), *kept, "{}: not the file that the logits are of", self.name);
        Arc::new(Gguf::from_bytes(bytes, &self.name).unwrap())
    }

    /// The fixture's own file.
    pub fn build(&self) -> Vec<u8> {
        let lines = self.tensors.iter().map(Tensor::line).collect::<Vec<_>>();
        let mut file = GgufWriter::new();
        for (key, value) in &self.metadata {
            file = file.meta(key, value.clone());
        }
        file = file
            .meta("fixture.note", self.note.as_str())
            .meta("fixture.sha256", self.sha256.to_vec())
            .meta("fixture.tensors", lines);
        for (i, tokens) in self.tokens.iter().enumerate() {
            file = file.meta(&format!("fixture.tokens.{i}"), tokens.clone());
        }
        for (seed, sequences) in SEEDS.iter().zip(&self.logits) {
            for (i, logits) in sequences.iter().enumerate() {
                let n_logits = self.n_logits(*seed, i);
                let dims = [n_logits as u64, (logits.len() / n_logits) as u64];
                file = file.f32_tensor(&format!("logits.{seed}.{i}"), &dims, logits);
            }
        }
        file.build()
    }
}

impl Tensor {
    fn line(&self) -> String {
        let dims: Vec<_> = self.dims.iter().map(u64::to_string).collect();
        format!("{} {} {}", self.name, self.ty.name(), dims.join(" "))
    }

    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let (name, ty) = (words.next().unwrap(), words.next().unwrap());
        let ty = TensorType::all().find(|t| t.name() == ty).unwrap_or_else(|| panic!("{line}"));
        Tensor { name: name.to_owned(), ty, dims: words.map(|n| n.parse().unwrap()).collect() }
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tokens with two swapped near the start, which moves the logits behind them: attention, positions and all that
/// follow are seen.
pub fn swapped(tokens: &[u32]) -> Vec<u32> {
    let mut swapped = tokens.to_vec();
    assert_ne!(swapped[1], swapped[2]);
    swapped.swap(1, 2);
    swapped
}

pub fn load(device: DeviceKind, file: Arc<Gguf>) -> rocmforge::Result<Model> {
    let backend = Backend::new(&BackendParams { device, threads: 2, ..BackendParams::default() }).unwrap();
    Model::from_gguf(&backend, file, ModelParams::default())
}

/// Logits of all positions of both sequences.
pub type Logits = [Vec<f32>; 2];

/// Evaluates the sequences together, step by step: each step takes the next tokens of each, as many as it says.
pub fn evaluate(model: &Model, sequences: [&[u32]; 2], steps: impl Iterator<Item = [usize; 2]>) -> Logits {
    let n = sequences[0].len() + sequences[1].len();
    let params = ContextParams {
        n_ctx: n.next_multiple_of(64) + 64,
        n_batch: n,
        n_seq_max: 2,
        checkpoint_interval: 0,
    };
    let mut context = Context::new(model, &params).unwrap();
    let mut at = [0, 0];
    let mut logits = [Vec::new(), Vec::new()];
    for step in steps {
        if at == sequences.map(<[u32]>::len) {
            break;
        }
        let takes = [0, 1].map(|s| step[s].min(sequences[s].len() - at[s]));
        // tokens of the two alternate within a step
        let mut batch: Vec<(usize, u32)> = Vec::new();
        for i in 0..takes[0].max(takes[1]) {
            for s in (0..2).filter(|s| i < takes[*s]) {
                batch.push((s, sequences[s][at[s]]));
                at[s] += 1;
            }
        }
        if batch.is_empty() {
            continue;
        }
        let tokens: Vec<u32> = batch.iter().map(|(_, token)| *token).collect();
        let owners: Vec<u32> = batch.iter().map(|(s, _)| *s as u32).collect();
        let want = vec![true; batch.len()];
        let of = Batch { tokens: &tokens, positions: None, sequences: Some(&owners), want: Some(&want) };
        context.decode(&of).unwrap();
        for (row, (s, _)) in batch.iter().enumerate() {
            logits[*s].extend_from_slice(context.logits(row).unwrap());
        }
    }
    logits
}

/// A way to cut two sequences into steps: the number of the next tokens of each, by the step's number.
pub type Cut = fn(usize) -> [usize; 2];

pub const CUTS: [(&str, Cut); 3] = [
    ("in one batch", |_| [usize::MAX, 0]),
    ("token by token", |_| [1, 0]),
    // the second begins later, ends earlier, and pauses; both alone and together, one token and several
    ("two sequences", |step| [[3, 0], [1, 1], [5, 2], [1, 4], [0, 1], [9, 7]][step % 6]),
];

/// The ways that a model of that name can be evaluated.
pub fn cuts(name: &str) -> &'static [(&'static str, Cut)] {
    match SEES_ALL.iter().any(|arch| name.starts_with(arch)) {
        true => &WHOLE,
        false => &CUTS,
    }
}

/// What names of models begin with in which a position sees later ones, too: a sequence is one step.
const SEES_ALL: [&str; 3] = ["dream-", "llada-", "rnd1-"];

const WHOLE: [(&str, Cut); 2] =
    [("in one batch", |_| [usize::MAX, 0]), ("two sequences", |_| [usize::MAX, usize::MAX])];
