//! A conversation over the file's template: what was said, what of it the cache holds, and what is forgotten when the
//! context is full.

use anyhow::{Context as _, Result, bail};
use rocmforge::engine::{Context, GenerateParams, Generation, Model, Sampler, StopReason};
use rocmforge::text::{ChatMessage, Detokenizer};

use crate::generate::stream;
use crate::prompt::chat_tokens;
use crate::terminal;

pub struct Conversation {
    model: Model,
    context: Context,
    sampler: Sampler,
    params: GenerateParams,
    system: Option<String>,
    /// The user's and the assistant's in turn.
    messages: Vec<ChatMessage>,
    /// Tokens that the context's sequence holds.
    cached: Vec<u32>,
}

/// One answer.
pub struct Answer {
    pub generation: Generation,
    /// Tokens of the prompt that the cache held already.
    pub kept: usize,
    /// It counts as a part of the conversation. Otherwise that is as if the message had not been given: there was no
    /// answer, or it was stopped before it began.
    pub is_remembered: bool,
}

impl Conversation {
    pub fn new(context: Context, sampler: Sampler, params: GenerateParams) -> Self {
        Conversation {
            model: context.model().clone(),
            context,
            sampler,
            params,
            system: None,
            messages: Vec::new(),
            cached: Vec::new(),
        }
    }

    pub fn n_ctx(&self) -> usize {
        self.context.info().n_ctx
    }

    /// Positions of the context in use.
    pub fn n_used(&self) -> usize {
        self.cached.len()
    }

    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Takes another system's message from now on, if the template takes it with what was said and `message` next.
    pub fn set_system(&mut self, system: Option<String>, message: &str) -> Result<()> {
        let before = std::mem::replace(&mut self.system, system);
        let checked = self.check(message);
        if checked.is_err() {
            self.system = before;
        }
        checked
    }

    /// Whether `message` can be put through the template.
    fn check(&mut self, message: &str) -> Result<()> {
        let messages = self.with_message(message);
        let tokens = self.tokens(&messages);
        let Some(system) = self.system.take() else { return tokens.map(drop) };
        let is_fine_without = tokens.is_err() && self.tokens(&messages).is_ok();
        let (alone, n_ctx) = (self.model.vocab().tokenize(&system, false, false)?.len(), self.n_ctx());
        self.system = Some(system);
        if alone >= n_ctx {
            bail!("the system's message is {alone} tokens; the context holds {n_ctx} (--ctx-size)");
        }
        match tokens {
            Err(error) if is_fine_without => {
                Err(error).context("the file's template does not take the system's message")
            }
            tokens => tokens.map(drop),
        }
    }

    pub fn clear(&mut self) {
        self.messages.clear();
        self.context.kv_clear();
        self.cached.clear();
        self.sampler.reset();
    }

    /// Prints the answer to the user's message as it comes. On an error the conversation is as before.
    pub fn answer(&mut self, message: &str) -> Result<Answer> {
        self.respond(self.with_message(message))
    }

    /// Another answer to the last message, in place of the one there is; None where there is no message.
    pub fn answer_again(&mut self) -> Result<Option<Answer>> {
        match self.messages.split_last() {
            Some((_, messages)) => self.respond(messages.to_vec()).map(Some),
            None => Ok(None),
        }
    }

    fn with_message(&self, text: &str) -> Vec<ChatMessage> {
        let message = ChatMessage::new("user", text);
        self.messages.iter().cloned().chain([message]).collect()
    }

    fn respond(&mut self, messages: Vec<ChatMessage>) -> Result<Answer> {
        let (mut messages, tokens) = self.fitting(messages)?;
        // at least the last token is evaluated anew: its logits are wanted
        let kept = self.cached.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        let kept = self.context.kv_reachable(0, kept)?;
        self.context.kv_truncate(0, kept)?;
        tracing::debug!(kept, new = tokens.len() - kept, "prompt");
        let generated = stream(&mut self.context, &mut self.sampler, &tokens[kept..], &self.params);
        // of a generation that failed the tokens are not known
        let known = tokens.len() + generated.as_ref().map_or(0, |generation| generation.tokens.len());
        let held = self.context.kv_reachable(0, known)?;
        self.context.kv_truncate(0, held)?;
        self.cached = tokens;
        let generation = generated.inspect(|generation| self.cached.extend(&generation.tokens));
        // the last token generated has not been evaluated, nor has a prompt that was interrupted
        self.cached.truncate(held);

        let generation = generation?;
        let text = self.text(&generation)?;
        let is_remembered = !text.is_empty();
        if is_remembered {
            messages.push(ChatMessage::new("assistant", text));
            self.messages = messages;
        }
        Ok(Answer { generation, kept, is_remembered })
    }

    /// What was said, which is the text without that of control tokens.
    fn text(&self, generation: &Generation) -> Result<String> {
        if !self.params.special {
            return Ok(generation.text.clone());
        }
        let mut detokenizer = Detokenizer::new(self.model.vocab().clone(), false);
        let mut text = String::new();
        for token in &generation.tokens {
            text.push_str(&detokenizer.push(*token)?);
        }
        text.push_str(&detokenizer.finish()?);
        if generation.stop == StopReason::StopText {
            let stops = self.params.stop.iter().filter_map(|stop| text.find(stop.as_str()));
            text.truncate(stops.min().unwrap_or(text.len()));
        }
        Ok(text)
    }

    fn tokens(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let system = self.system.iter().map(|text| ChatMessage::new("system", text.as_str()));
        let all: Vec<_> = system.chain(messages.iter().cloned()).collect();
        let tokens = chat_tokens(&self.model, &all)?;
        if tokens.is_empty() {
            bail!("the chat template made an empty prompt");
        }
        Ok(tokens)
    }

    /// Messages, of which the last is the user's, with their tokens. Where they leave no room for an answer, the oldest
    /// exchanges are dropped until half of the context is free: what follows them has to be evaluated anew, and the more
    /// are dropped, the longer it is until then.
    fn fitting(&self, mut messages: Vec<ChatMessage>) -> Result<(Vec<ChatMessage>, Vec<u32>)> {
        let n_ctx = self.n_ctx();
        let room = self.params.max_tokens.unwrap_or(usize::MAX).clamp(1, n_ctx / 4 + 1);
        let mut tokens = self.tokens(&messages)?;
        if tokens.len() + room <= n_ctx {
            return Ok((messages, tokens));
        }
        let n_exchanges = messages.len().saturating_sub(1) / 2;
        let without = |n: usize| self.tokens(&messages[2 * n..]);
        let alone = without(n_exchanges)?.len();
        if alone >= n_ctx {
            let system = if self.system.is_some() { " and the system's message" } else { "" };
            bail!(
                "the message is {alone} tokens with its template{system}; the context holds {n_ctx} (--ctx-size)"
            );
        }
        if n_exchanges > 0 {
            // `few` are too few to drop; `many` are enough, or all that there are
            let (mut few, mut many) = (0, n_exchanges);
            while few + 1 < many {
                let n = few.midpoint(many);
                if without(n)?.len() <= n_ctx / 2 { many = n } else { few = n }
            }
            tokens = without(many)?;
            messages.drain(..2 * many);
            let oldest = match many {
                1 => "the oldest exchange is".to_owned(),
                n => format!("the {n} oldest exchanges are"),
            };
            terminal::note(format_args!("(the context is full: {oldest} forgotten; --ctx-size gives more)"));
        }
        Ok((messages, tokens))
    }
}
