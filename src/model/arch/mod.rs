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
    ("llama4", llama4::llama4),
    ("deci", deci::deci),
    ("nanbeige", loops::nanbeige),
    ("arcee", plain::arcee),
    ("smollm3", plain::smollm3),
    ("internlm2", plain::with_output),
    ("xverse", plain::with_output),
    ("baichuan", plain::baichuan),
    ("orion", gpt2::orion),
    ("seed_oss", plain::seed_oss),
    ("pangu-embedded", plain::pangu),
    ("maincoder", plain::maincoder),
    ("qwen", qwen::qwen),
    ("qwen2", llama::qwen2),
    ("qwen2moe", qwen_moe::qwen2moe),
    ("qwen2vl", qwen::qwen2vl),
    ("qwen3", llama::qwen3),
    ("qwen3moe", llama::qwen3moe),
    ("qwen3vl", qwen::qwen3vl),
    ("qwen3vlmoe", qwen_moe::qwen3vlmoe),
    ("qwen3tts", qwen::qwen3tts),
    ("qwen35", qwen35::qwen35),
    ("gemma", plain::gemma),
    ("gemma2", gemma3::gemma2),
    ("gemma3", gemma3::gemma3),
    ("granite", granite::granite),
    ("granitemoe", granite::granitemoe),
    ("granite_swa", granite::granite_swa),
    ("minicpm", granite::minicpm),
    ("phi2", phi2::phi2),
    ("phi3", plain::phi3),
    ("phimoe", phimoe::phimoe),
    ("gpt2", gpt2::gpt2),
    ("starcoder", gpt2::gpt2),
    ("starcoder2", gpt2::starcoder2),
    ("bloom", gpt2::bloom),
    ("mpt", gpt2::mpt),
    ("jais", gpt2::jais),
    ("jais2", gpt2::jais2),
    ("gptneox", gpt2::gptneox),
    ("falcon", gpt2::falcon),
    ("stablelm", gpt2::stablelm),
    ("codeshell", gpt2::codeshell),
    ("nemotron", gpt2::nemotron),
    ("refact", refact::refact),
    ("pockettts", gpt2::pockettts),
    ("gpt-oss", gpt_oss::gpt_oss),
    ("command-r", cohere::command_r),
    ("cohere2", cohere::cohere2),
    ("cohere2moe", cohere2moe::cohere2moe),
    ("olmo", gpt2::olmo),
    ("olmo2", olmo2::olmo2),
    ("olmoe", olmoe::olmoe),
    ("openelm", plain::openelm),
    ("plamo", plain::plamo),
    ("plamo3", plamo3::plamo3),
    ("exaone", exaone::exaone),
    ("exaone4", exaone::exaone4),
    ("exaone-moe", mellum::exaone_moe),
    ("hunyuan-dense", hunyuan::hunyuan_dense),
    ("hunyuan-moe", hunyuan_moe::hunyuan_moe),
    ("hunyuan_vl", hunyuan::hunyuan_vl),
    ("hy_v3", hunyuan_moe::hy_v3),
    ("ernie4_5", ernie::ernie4_5),
    ("ernie4_5-moe", deepseek::ernie4_5_moe),
    ("paddleocr", ernie::paddleocr),
    ("chatglm", plain::chatglm),
    ("glm4", glm4::glm4),
    ("glm4moe", deepseek::glm4moe),
    ("cogvlm", cogvlm::cogvlm),
    ("deepseek", deepseek::deepseek),
    ("deepseek2", deepseek2::deepseek2),
    ("dots1", deepseek::dots1),
    ("bailingmoe", deepseek::bailingmoe),
    ("bailingmoe2", deepseek::bailingmoe2),
    ("minimax-m2", minimax::minimax_m2),
    ("minimax-m3", minimax::minimax_m3),
    ("grok", grok::grok),
    ("arctic", arctic::arctic),
    ("dbrx", dbrx::dbrx),
    ("grovemoe", grovemoe::grovemoe),
    ("smallthinker", smallthinker::smallthinker),
    ("afmoe", afmoe::afmoe),
    ("laguna", afmoe::laguna),
    ("mellum", mellum::mellum),
    ("maple", mellum::maple),
    ("mimo2", mimo2::mimo2),
    ("muse-glimmer", muse_glimmer::muse_glimmer),
    ("spark2_5", spark::spark2_5),
    ("talkie", talkie::talkie),
    ("hrm_text", loops::hrm_text),
    ("dream", diffusion::dream),
    ("llada", diffusion::llada),
    ("llada-moe", diffusion::llada_moe),
    ("rnd1", diffusion::rnd1),
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
