//! `chat`: a conversation, line by line, over the file's template. The cache is kept between turns as far as the new
//! prompt begins like the old one.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result, bail};
use rocmforge::Error;
use rocmforge::engine::{Context, GenerateParams, Generation, Model, Sampler, StopReason};
use rocmforge::text::ChatMessage;

use crate::args::{ContextArgs, GenerationArgs, ModelArgs, SamplingArgs, report};
use crate::generate::stream;
use crate::prompt::{chat_tokens, utf8};
use crate::{interrupt, terminal};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The system's message (-sys)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system_prompt: Option<String>,
    /// The first user's message
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    context: ContextArgs,
}

const HELP: &str = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer.";

pub fn run(args: Args) -> Result<()> {
    let model = args.context.load(&args.model)?;
    let context = args.context.create(&model)?;
    let sampler = Sampler::new(args.sampling.params(context.info().n_ctx))?;
    let system: Vec<_> =
        args.system_prompt.map(|text| ChatMessage::new("system", text)).into_iter().collect();
    let mut chat = Conversation {
        n_system: system.len(),
        messages: system,
        cached: Vec::new(),
        params: args.generation.params(),
        model,
        context,
        sampler,
    };
    // a file without a template is to fail before the user has typed anything
    chat_tokens(&chat.model, &[ChatMessage::new("user", "")])?;

    let interactive = io::stdin().is_terminal();
    if interactive {
        terminal::note(format_args!("{HELP}"));
    }
    let mut first = args.prompt;
    loop {
        let line = match first.take() {
            Some(text) => text,
            None => match read_line(interactive)? {
                Some(line) => line,
                None => return Ok(()),
            },
        };
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/clear" => {
                chat.clear();
                continue;
            }
            _ => {}
        }
        let generation = chat.answer(line)?;
        writeln!(io::stdout())?;
        if interactive {
            report(&generation);
        }
        if interactive {
            interrupt::take();
        } else if generation.stop == StopReason::Cancelled {
            return Err(Error::Cancelled.into());
        }
    }
}

/// The next line without its end; None at the end of input.
fn read_line(interactive: bool) -> Result<Option<String>> {
    if interactive {
        let mut err = io::stderr();
        let _ = write!(err, "> ").and_then(|()| err.flush());
    }
    let mut line = Vec::new();
    let n = interrupt::while_idle(|| io::stdin().lock().read_until(b'\n', &mut line))
        .context("cannot read standard input")?;
    if n == 0 {
        return Ok(None);
    }
    let line = utf8(line).context("standard input")?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

struct Conversation {
    model: Model,
    context: Context,
    sampler: Sampler,
    params: GenerateParams,
    messages: Vec<ChatMessage>,
    /// The first so many messages are the system's.
    n_system: usize,
    /// Tokens that the context's sequence holds.
    cached: Vec<u32>,
}

impl Conversation {
    fn clear(&mut self) {
        self.messages.truncate(self.n_system);
        self.context.kv_clear();
        self.cached.clear();
        self.sampler.reset();
    }

    /// Adds the user's message, prints the answer as it comes, and adds that.
    fn answer(&mut self, text: String) -> Result<Generation> {
        self.messages.push(ChatMessage::new("user", text));
        let prompt = self.fitting_prompt()?;
        // at least the last token is evaluated anew: its logits are wanted
        let same = self.cached.iter().zip(&prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.context.kv_truncate(0, same)?;
        tracing::debug!(kept = same, new = prompt.len() - same, "prompt");
        let generation = stream(&mut self.context, &mut self.sampler, &prompt[same..], &self.params)?;
        self.cached = prompt;
        self.cached.extend(&generation.tokens);
        // the last token generated has not been evaluated, nor has a prompt that was interrupted
        self.cached.truncate(self.context.kv_len(0)?);
        self.messages.push(ChatMessage::new("assistant", generation.text.clone()));
        Ok(generation)
    }

    /// The conversation's tokens; the oldest exchanges are dropped while they leave no room for an answer.
    fn fitting_prompt(&mut self) -> Result<Vec<u32>> {
        let n_ctx = self.context.info().n_ctx;
        let room = self.params.max_tokens.unwrap_or(0).clamp(1, n_ctx / 4 + 1);
        loop {
            let tokens = chat_tokens(&self.model, &self.messages)?;
            if tokens.is_empty() {
                bail!("the chat template made an empty prompt");
            }
            if tokens.len() + room <= n_ctx {
                return Ok(tokens);
            }
            // a user's message and the answer to it
            if self.messages.len() < self.n_system + 3 {
                bail!(
                    "the message is {} tokens with its template; the context holds {n_ctx} (--ctx-size)",
                    tokens.len()
                );
            }
            self.messages.drain(self.n_system..self.n_system + 2);
            terminal::note(format_args!("(the context is full: the oldest exchange is forgotten)"));
        }
    }
}
