//! `generate`: text on standard output as it comes, timings on standard error.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use rocmforge::Error;
use rocmforge::engine::{Context, GenerateParams, Generation, Sampler, StopReason, generate};
use rocmforge::text::ChatMessage;

use crate::args::{ContextArgs, GenerationArgs, ModelArgs, SamplingArgs, report};
use crate::prompt::{PromptArgs, chat_tokens};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Put the prompt as a user's message through the chat template of the file
    #[arg(long)]
    chat: bool,
    /// The system's message (-sys); implies --chat
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system_prompt: Option<String>,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    context: ContextArgs,
}

pub fn run(args: Args) -> Result<()> {
    let text = args.prompt.text()?;
    let model = args.context.load(&args.model)?;
    let tokens = if args.chat || args.system_prompt.is_some() {
        let mut messages = Vec::new();
        messages.extend(args.system_prompt.map(|text| ChatMessage::new("system", text)));
        messages.push(ChatMessage::new("user", text));
        chat_tokens(&model, &messages)?
    } else {
        model.vocab().tokenize_to_continue(&text, true)?
    };
    if tokens.is_empty() {
        bail!(
            "the prompt is empty, and this model's vocabulary has no beginning-of-text token to start from"
        );
    }
    let mut context = args.context.create(&model)?;
    let mut sampler = Sampler::new(args.sampling.params(context.info().n_ctx))?;
    let generation = stream(&mut context, &mut sampler, &tokens, &args.generation.params())?;
    writeln!(io::stdout())?;
    report(&generation);
    if generation.stop == StopReason::Cancelled {
        return Err(Error::Cancelled.into());
    }
    Ok(())
}

/// Generates with each piece of text written out and flushed at once.
pub fn stream(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[u32],
    params: &GenerateParams,
) -> Result<Generation> {
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let mut n_written = 0;
    let generation = generate(context, sampler, prompt, params, &mut |piece| {
        n_written += piece.text.len();
        written = out.write_all(piece.text.as_bytes()).and_then(|()| out.flush());
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    // held back for a possible stop text when the generation was interrupted
    out.write_all(generation.text.get(n_written..).unwrap_or_default().as_bytes())?;
    Ok(generation)
}
