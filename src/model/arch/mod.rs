//! Architectures: each turns a file's hyper-parameters and tensors into a [`Plan`].

mod afmoe;
mod arctic;
mod attention;
mod blocks;
mod cogvlm;
mod cohere;
mod cohere2moe;
mod dbrx;
mod deci;
mod deepseek;
mod deepseek2;
mod diffusion;
mod ernie;
mod exaone;
mod gemma3;
mod glm4;
mod gpt2;
mod gpt_oss;
mod granite;
mod grok;
mod grovemoe;
mod hunyuan;
mod hunyuan_moe;
mod llama;
mod llama4;
mod loops;
mod mellum;
mod mimo2;
mod minimax;
mod mixture;
mod muse_glimmer;
mod olmo2;
mod olmoe;
mod phi2;
mod phimoe;
mod plain;
mod plamo3;
mod qwen;
mod qwen35;
mod qwen_moe;
mod refact;
mod rope;
mod smallthinker;
mod spark;
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
    ("granite_swa", granite::granite_swa),
    ("minicpm", granite::minicpm),
    ("hunyuan-dense", hunyuan::hunyuan_dense),
    ("hunyuan_vl", hunyuan::hunyuan_vl),
    ("nanbeige", loops::nanbeige),
    ("hrm_text", loops::hrm_text),
    ("olmo2", olmo2::olmo2),
    ("talkie", talkie::talkie),
    ("gemma2", gemma3::gemma2),
    ("gemma3", gemma3::gemma3),
    ("plamo3", plamo3::plamo3),
    ("spark2_5", spark::spark2_5),
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
