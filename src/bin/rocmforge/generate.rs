//! `generate`: text on standard output as it comes, timings on standard error.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use rocmforge::Error;
use rocmforge::engine::{Context, GenerateParams, Generation, Sampler, StopReason, generate};
use rocmforge::text::ChatMessage;

use crate::args::{ContextArgs, ModelArgs};
use crate::prompt::{EscapeArgs, Source, SystemArgs, chat_tokens};
use crate::sampling::{GenerationArgs, SamplingArgs, report};
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    escapes: EscapeArgs,
    /// Put the prompt as a user's message through the chat template of the file; a system's message implies it
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    system: SystemArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    context: ContextArgs,
}

pub fn run(args: Args) -> Result<()> {
    let text = args.escapes.text(args.source.prompt.as_deref(), args.source.file.as_deref())?;
    let text = text.unwrap_or_default();
    let system = args.system.text(&args.escapes)?;
    let model = args.context.load(&args.model)?;
    let tokens = if args.chat || system.is_some() {
        let mut messages = Vec::new();
        messages.extend(system.map(|text| ChatMessage::new("system", text)));
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
    let n_ctx = context.info().n_ctx;
    if tokens.len() > n_ctx {
        bail!("the prompt is {} tokens; the context holds {n_ctx} (--ctx-size)", tokens.len());
    }
    let mut sampler = args.sampling.sampler(n_ctx)?;
    args.sampling.note_seed(&sampler);
    let params = args.generation.params(&args.escapes);
    let generation = stream(&mut context, &mut sampler, &tokens, &params)?;
    writeln!(io::stdout())?;
    report(&generation);
    if generation.stop == StopReason::Cancelled {
        return Err(Error::Cancelled.into());
    }
    Ok(())
}

/// Generates with each piece of text written out and flushed at once. A terminal gets control characters spelled out,
/// anything else the text as it is.
pub fn stream(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[u32],
    params: &GenerateParams,
) -> Result<Generation> {
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    let shown = |text: &str| match is_terminal {
        true => terminal::visible_lines(text).into_owned(),
        false => text.to_owned(),
    };
    let mut written = Ok(());
    let mut n_written = 0;
    let generated = generate(context, sampler, prompt, params, &mut |piece| {
        n_written += piece.text.len();
        written = out.write_all(shown(piece.text).as_bytes()).and_then(|()| out.flush());
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    written?;
    match generated {
        Ok(generation) => {
            // held back for a possible stop text when the generation was interrupted
            let rest = generation.text.get(n_written..).unwrap_or_default();
            out.write_all(shown(rest).as_bytes())?;
            Ok(generation)
        }
        Err(error) => {
            if n_written > 0 {
                writeln!(out)?;
            }
            Err(error.into())
        }
    }
}
