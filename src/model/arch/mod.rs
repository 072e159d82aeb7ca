//! Architectures: each turns a file's hyper-parameters and tensors into a [`Plan`].

mod attention;
mod blocks;
mod cohere;
mod deepseek2;
mod gemma3;
mod gpt2;
mod gpt_oss;
mod granite_swa;
mod llama;
mod mixture;
mod muse_glimmer;
mod phi2;
mod plamo3;
mod qwen35;
mod refact;
mod rope;
mod spark;

use super::{Config, Hyper};
use crate::gguf::{Gguf, Short};
use crate::plan::Plan;
use crate::{Error, Result};

type Model = (Config, Plan);
type Build = fn(&Hyper<'_>, &Gguf) -> Result<Model>;

/// Every architecture by the name files give it.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("llama", llama::llama),
    ("qwen2", llama::qwen2),
    ("qwen3", llama::qwen3),
    ("qwen3moe", llama::qwen3moe),
    ("gemma2", gemma3::gemma2),
    ("gemma3", gemma3::gemma3),
    ("plamo3", plamo3::plamo3),
    ("spark2_5", spark::spark2_5),
    ("granite_swa", granite_swa::granite_swa),
    ("muse-glimmer", muse_glimmer::muse_glimmer),
    ("gpt-oss", gpt_oss::gpt_oss),
    ("phi2", phi2::phi2),
    ("gpt2", gpt2::gpt2),
    ("starcoder", gpt2::gpt2),
    ("bloom", gpt2::bloom),
    ("mpt", gpt2::mpt),
    ("jais", gpt2::jais),
    ("gptneox", gpt2::gptneox),
    ("falcon", gpt2::falcon),
    ("stablelm", gpt2::stablelm),
    ("starcoder2", gpt2::starcoder2),
    ("codeshell", gpt2::codeshell),
    ("nemotron", gpt2::nemotron),
    ("jais2", gpt2::jais2),
    ("orion", gpt2::orion),
    ("olmo", gpt2::olmo),
    ("pockettts", gpt2::pockettts),
    ("refact", refact::refact),
    ("command-r", cohere::command_r),
    ("cohere2", cohere::cohere2),
    ("deepseek2", deepseek2::deepseek2),
    ("qwen35", qwen35::qwen35),
];

/// Names of the supported architectures, comma-separated.
pub fn supported() -> String {
    let names: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// What is wrong with a file of a vocabulary alone where a model is wanted.
pub const NO_TENSORS: &str =
    "the file has no tensors: its metadata and vocabulary can be read, but there is no model to run";

/// The plan of `file`'s model.
pub fn plan(file: &Gguf) -> Result<(Config, Plan)> {
    if file.tensors().is_empty() {
        return Err(Error::model(NO_TENSORS));
    }
    let name = file
        .metadata()
        .str("general.architecture")?
        .ok_or_else(|| Error::model("the key general.architecture is missing"))?;
    let Some((_, build)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        return Err(Error::UnknownArchitecture { name: Short(name).to_string(), supported: supported() });
    };
    build(&Hyper::read(file, name)?, file)
}
