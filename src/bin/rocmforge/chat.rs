//! `chat`: a conversation over the file's template, message by message.

use std::io::{self, Write};

use anyhow::{Result, bail};
use rocmforge::Error;
use rocmforge::engine::StopReason;

use crate::args::{ContextArgs, ModelArgs};
use crate::conversation::{Answer, Conversation};
use crate::input::{Input, Line};
use crate::prompt::{EscapeArgs, SystemArgs};
use crate::sampling::{GenerationArgs, SamplingArgs};
use crate::{interrupt, one_line, terminal};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    system: SystemArgs,
    /// The first user's message
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    #[command(flatten)]
    escapes: EscapeArgs,
    /// Say after each answer how fast it was and what of the context is in use
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    context: ContextArgs,
}

/// Commands of a line of their own, and what they do.
const COMMANDS: [(&str, &str); 6] = [
    ("/help", "what there is to type"),
    ("/clear", "forget the conversation"),
    ("/regenerate", "answer the last message again"),
    ("/system", "show the system's message; with a text: replace it"),
    ("/stats", "figures after each answer, on or off"),
    ("/exit", "end the chat, as Ctrl-D does"),
];
const KEYS: [&str; 3] = [
    "Ctrl-C stops an answer; at the prompt, twice, it ends the chat.",
    "A message of several lines: \\ at the end of a line, or \"\"\" before the first and after the last.",
    "A message that starts with a word like /help: put a space before it.",
];

/// What stands for the user's first message while it is not known.
const ANY_MESSAGE: &str = "Hello";

pub fn run(args: Args) -> Result<()> {
    let system = args.system.text(&args.escapes)?;
    let mut first = args.prompt.map(|text| args.escapes.of_argument(text));
    let model = args.context.load(&args.model)?;
    let context = args.context.create(&model)?;
    let sampler = args.sampling.sampler(context.info().n_ctx)?;
    let params = args.generation.params(&args.escapes);
    let mut talk = Talk {
        chat: Conversation::new(context, sampler.clone(), params),
        has_stats: args.stats,
        last: None,
        n_unanswered: 0,
    };
    // what the template refuses is to be said before the user has typed anything
    let message = first.as_deref().filter(|text| !text.trim().is_empty()).unwrap_or(ANY_MESSAGE);
    talk.chat.set_system(system, message)?;

    let mut input = Input::new(COMMANDS.iter().map(|(name, _)| *name).collect())?;
    if input.is_terminal() {
        terminal::dim_note(format_args!("/help lists what there is to type; Ctrl-D ends the chat."));
    }
    args.sampling.note_seed(&sampler);
    let mut is_interrupted = false;
    loop {
        let line = match first.take() {
            // given as a message, it is no command
            Some(text) if text.trim().is_empty() => continue,
            Some(text) => {
                talk.answer(|chat| chat.answer(&text).map(Some), input.is_terminal())?;
                continue;
            }
            None => input.read()?,
        };
        let was_interrupted = std::mem::take(&mut is_interrupted);
        match line {
            Line::End => break,
            Line::Interrupted if was_interrupted => {
                interrupt::set();
                return Err(Error::Cancelled.into());
            }
            Line::Interrupted => {
                is_interrupted = true;
                terminal::dim_note(format_args!("(Ctrl-C again, or Ctrl-D, ends the chat)"));
            }
            Line::Unreadable(why) => talk.refuse(&why),
            Line::Text(text) if text.trim().is_empty() => {}
            Line::Text(text) => match command(&text) {
                Some("/exit" | "/quit") => break,
                Some(name) => talk.obey(name, text[name.len()..].trim(), input.is_terminal())?,
                None => {
                    let text = args.escapes.of_input(text);
                    talk.answer(|chat| chat.answer(&text).map(Some), input.is_terminal())?;
                }
            },
        }
    }
    match talk.n_unanswered {
        n if n == 0 || input.is_terminal() => Ok(()),
        1 => bail!("1 message was not answered"),
        n => bail!("{n} messages were not answered"),
    }
}

/// The command that the line is, if it is one: "/" and a word. "/usr/bin" is none.
fn command(line: &str) -> Option<&str> {
    let first = line.split_whitespace().next().filter(|first| line.starts_with(first))?;
    let word = first.strip_prefix('/')?;
    (word == "?" || word.bytes().all(|byte| byte.is_ascii_alphabetic())).then_some(first)
}

struct Talk {
    chat: Conversation,
    has_stats: bool,
    last: Option<Answer>,
    n_unanswered: usize,
}

impl Talk {
    fn obey(&mut self, command: &str, text: &str, is_terminal: bool) -> Result<()> {
        match command {
            "/help" | "/?" => {
                COMMANDS.iter().for_each(|(name, does)| terminal::note(format_args!("{name:<12} {does}")));
                KEYS.iter().for_each(|line| terminal::note(format_args!("{line}")));
            }
            "/clear" => self.chat.clear(),
            "/regenerate" => self.answer(Conversation::answer_again, is_terminal)?,
            "/system" if text.is_empty() => match self.chat.system() {
                Some(system) => terminal::note(format_args!("{system}")),
                None => terminal::note(format_args!("(there is no system's message)")),
            },
            "/system" => {
                if let Err(error) = self.chat.set_system(Some(text.to_owned()), ANY_MESSAGE) {
                    terminal::note(format_args!("(the system's message stays: {})", one_line(&error)));
                }
            }
            "/stats" => {
                self.has_stats = !self.has_stats;
                match &self.last {
                    Some(answer) if self.has_stats => self.print_stats(answer),
                    _ => terminal::note(format_args!(
                        "(figures after each answer: {})",
                        if self.has_stats { "on" } else { "off" }
                    )),
                }
            }
            unknown => {
                self.n_unanswered += 1;
                terminal::note(format_args!("({unknown} is unknown; /help lists what there is)"));
            }
        }
        Ok(())
    }

    /// A message that cannot be one; the conversation goes on.
    fn refuse(&mut self, why: &str) {
        self.n_unanswered += 1;
        terminal::note(format_args!("(not answered: {why})"));
    }

    /// Has an answer printed, and says what is odd about it.
    fn answer(
        &mut self,
        answer: impl FnOnce(&mut Conversation) -> Result<Option<Answer>>,
        is_terminal: bool,
    ) -> Result<()> {
        let answer = match answer(&mut self.chat) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                terminal::note(format_args!("(there is no message to answer)"));
                return Ok(());
            }
            Err(error) if ends_chat(&error) => return Err(error),
            Err(error) => {
                self.refuse(&one_line(&error));
                return Ok(());
            }
        };
        writeln!(io::stdout())?;
        match answer.generation.stop {
            StopReason::Cancelled if !is_terminal => return Err(Error::Cancelled.into()),
            StopReason::Cancelled => {
                interrupt::take();
                let rest = if answer.is_remembered { "" } else { "; the message is forgotten" };
                terminal::dim_note(format_args!("(stopped{rest})"));
            }
            StopReason::CacheFull => terminal::note(format_args!(
                "(the answer is cut: the context of {} positions is full; --ctx-size gives more)",
                self.chat.n_ctx()
            )),
            _ if !answer.is_remembered => {
                terminal::note(format_args!("(the answer is empty: the message is forgotten)"));
            }
            _ => {}
        }
        if self.has_stats {
            self.print_stats(&answer);
        }
        self.last = Some(answer);
        Ok(())
    }

    fn print_stats(&self, answer: &Answer) {
        let g = &answer.generation;
        // the first token comes out of the prompt's step
        let decoded = g.tokens.len().saturating_sub(1);
        terminal::dim_note(format_args!(
            "({} tokens, {:.1} tok/s; prompt: {} new, {} kept, {:.1} tok/s; context: {} of {})",
            g.tokens.len(),
            terminal::rate(decoded, g.decode_us),
            g.prompt_tokens,
            answer.kept,
            terminal::rate(g.prompt_tokens, g.prompt_us),
            self.chat.n_used(),
            self.chat.n_ctx()
        ));
    }
}

/// Whether the next message would fail as this one did, whatever it is.
fn ends_chat(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Error>() {
        Some(Error::Cancelled | Error::DeviceLost { .. } | Error::Gpu(_) | Error::Internal(_)) => true,
        Some(_) => false,
        None => error.is::<io::Error>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_behind_a_slash() {
        for (line, name) in [
            ("/help", Some("/help")),
            ("/system Be brief.", Some("/system")),
            ("/nonsense now", Some("/nonsense")),
            ("/?", Some("/?")),
            ("/", Some("/")),
            ("/usr/bin is what?", None),
            (" /help", None),
            ("help", None),
            ("1/2", None),
            ("// a comment", None),
        ] {
            assert_eq!(command(line), name, "{line:?}");
        }
    }
}
