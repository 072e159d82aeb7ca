//! Architectures: each turns a file's hyper-parameters and tensors into a [`Plan`].

mod afmoe;
mod arctic;
mod attention;
mod blocks;
mod cohere;
mod cohere2moe;
mod dbrx;
mod deepseek;
mod deepseek2;
mod gemma3;
mod gpt2;
mod gpt_oss;
mod granite_swa;
mod grok;
mod grovemoe;
mod hunyuan_moe;
mod llama;
mod llama4;
mod mellum;
mod mimo2;
mod minimax;
mod mixture;
mod muse_glimmer;
mod olmoe;
mod phi2;
mod phimoe;
mod plamo3;
mod qwen35;
mod qwen_moe;
mod refact;
mod rope;
mod smallthinker;
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
    ("deepseek", deepseek::deepseek),
    ("dots1", deepseek::dots1),
    ("bailingmoe", deepseek::bailingmoe),
    ("bailingmoe2", deepseek::bailingmoe2),
    ("glm4moe", deepseek::glm4moe),
    ("ernie4_5-moe", deepseek::ernie4_5_moe),
    ("qwen3vlmoe", qwen_moe::qwen3vlmoe),
    ("olmoe", olmoe::olmoe),
    ("minimax-m2", minimax::minimax_m2),
    ("minimax-m3", minimax::minimax_m3),
    ("hunyuan-moe", hunyuan_moe::hunyuan_moe),
    ("hy_v3", hunyuan_moe::hy_v3),
    ("grok", grok::grok),
    ("arctic", arctic::arctic),
    ("smallthinker", smallthinker::smallthinker),
    ("afmoe", afmoe::afmoe),
    ("mellum", mellum::mellum),
    ("exaone-moe", mellum::exaone_moe),
    ("mimo2", mimo2::mimo2),
    ("cohere2moe", cohere2moe::cohere2moe),
    ("qwen2moe", qwen_moe::qwen2moe),
    ("dbrx", dbrx::dbrx),
    ("phimoe", phimoe::phimoe),
    ("grovemoe", grovemoe::grovemoe),
    ("llama4", llama4::llama4),
    ("laguna", afmoe::laguna),
    ("maple", mellum::maple),
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
