//! Architectures: each turns a file's hyper-parameters and tensors into a [`Plan`].

mod attention;
mod blocks;
mod cogvlm;
mod deci;
mod deepseek2;
mod diffusion;
mod ernie;
mod exaone;
mod gemma3;
mod glm4;
mod gpt_oss;
mod granite;
mod hunyuan;
mod llama;
mod loops;
mod mixture;
mod olmo2;
mod phi2;
mod plain;
mod qwen;
mod qwen35;
mod rope;
mod talkie;

use super::{Config, Hyper};
use crate::gguf::{Gguf, Short};
use crate::plan::{NamedOp, Op, Plan};
use crate::{Error, Result};

type Model = (Config, Plan);
type Build = fn(&Hyper<'_>, &Gguf) -> Result<Model>;

/// Every architecture by the name files give it.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("llama", llama::llama),
    ("mistral3", llama::mistral3),
    ("qwen2", llama::qwen2),
    ("qwen3", llama::qwen3),
    ("qwen3moe", llama::qwen3moe),
    ("qwen", qwen::qwen),
    ("qwen2vl", qwen::qwen2vl),
    ("qwen3vl", qwen::qwen3vl),
    ("qwen3tts", qwen::qwen3tts),
    ("arcee", plain::arcee),
    ("baichuan", plain::baichuan),
    ("chatglm", plain::chatglm),
    ("gemma", plain::gemma),
    ("internlm2", plain::with_output),
    ("maincoder", plain::maincoder),
    ("openelm", plain::openelm),
    ("pangu-embedded", plain::pangu),
    ("phi3", plain::phi3),
    ("plamo", plain::plamo),
    ("seed_oss", plain::seed_oss),
    ("smollm3", plain::smollm3),
    ("xverse", plain::with_output),
    ("cogvlm", cogvlm::cogvlm),
    ("deci", deci::deci),
    ("ernie4_5", ernie::ernie4_5),
    ("paddleocr", ernie::paddleocr),
    ("dream", diffusion::dream),
    ("llada", diffusion::llada),
    ("llada-moe", diffusion::llada_moe),
    ("rnd1", diffusion::rnd1),
    ("exaone", exaone::exaone),
    ("exaone4", exaone::exaone4),
    ("glm4", glm4::glm4),
    ("granite", granite::granite),
    ("granitemoe", granite::granitemoe),
    ("minicpm", granite::minicpm),
    ("hunyuan-dense", hunyuan::hunyuan_dense),
    ("hunyuan_vl", hunyuan::hunyuan_vl),
    ("nanbeige", loops::nanbeige),
    ("hrm_text", loops::hrm_text),
    ("olmo2", olmo2::olmo2),
    ("talkie", talkie::talkie),
    ("gemma3", gemma3::gemma3),
    ("gpt-oss", gpt_oss::gpt_oss),
    ("phi2", phi2::phi2),
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
    let hyper = Hyper::read(file, name)?;
    let (config, plan) = build(&hyper, file)?;
    let is_causal = |named: &NamedOp| matches!(&named.op, Op::Attention { scores, .. } if scores.causal);
    if !hyper.keys.bool_or("attention.causal", true)? && plan.ops.iter().any(is_causal) {
        return Err(Error::Unsupported {
            what: "attention",
            name: format!("to later positions ({} is false)", hyper.keys.key("attention.causal")),
            supported: "causal attention, in which no position sees a later one".into(),
        });
    }
    Ok((config, plan))
}
