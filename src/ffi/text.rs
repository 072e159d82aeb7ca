//! Text to tokens and back, chat prompts.

#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char};
use std::ptr;

use super::args::{self, Buffer, array, c_text, optional_c_text};
use super::failure::{Failure, Outcome};
use super::guard::guard;
use super::handle;
use super::model::rf_model;
use super::sized::{self, Sized};
use super::status::{RF_ERROR_TEMPLATE, rf_status};
use super::token::{rf_token, token_ids};
use crate::memory;
use crate::text::{ChatMessage, ChatPrompt, TokenAttr};

/// Flags of rf_tokenize. ADD_SPECIAL: begin and end with BOS and EOS as the model's file asks. For a whole text; a
/// prompt takes RF_TOKENIZE_ADD_BOS.
pub const RF_TOKENIZE_ADD_SPECIAL: u32 = 1;
/// PARSE_SPECIAL: control tokens written out in the text become those tokens. Never for text that a user typed: it
/// could then pose as another speaker.
pub const RF_TOKENIZE_PARSE_SPECIAL: u32 = 2;
/// ADD_BOS: begin with BOS as the model's file asks, and never end with EOS: for a prompt, which is to go on.
pub const RF_TOKENIZE_ADD_BOS: u32 = 4;

/// Flag of rf_detokenize: write control tokens out, too.
pub const RF_DETOKENIZE_SPECIAL: u32 = 1;

/// More messages than any model reads: a larger number was never set.
const MAX_MESSAGES: usize = 1 << 20;

fn check_flags(flags: u32, known: u32) -> Outcome {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Failure::param(format!("unknown flags {unknown:#x}"))),
    }
}

fn fill_tokens(buffer: Buffer<rf_token>, ids: &[u32]) -> Outcome {
    // SAFETY: i32 and u32 are alike in size and alignment; ids are below n_vocab, which an i32 holds.
    buffer.fill(unsafe { std::slice::from_raw_parts(ids.as_ptr().cast(), ids.len()) })
}

/// Turns `text_len` bytes of UTF-8 into tokens. `flags`: RF_TOKENIZE_*.
///
/// `tokens` takes `capacity` ids; *n is how many there are. RF_ERROR_BUFFER: more than `capacity`; nothing else is
/// written (ask with NULL and 0 for the count). RF_ERROR_TOKENIZER: the model
/// has no vocabulary, or no token for a character. RF_ERROR_PARAM: not UTF-8, unknown flags, a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_tokenize(
    model: *const rf_model,
    text: *const c_char,
    text_len: usize,
    flags: u32,
    tokens: *mut rf_token,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
        let (model, text, buffer) = unsafe {
            (handle::share(model)?, args::text(text, text_len, "text")?, Buffer::new(tokens, capacity, n)?)
        };
        let _log = model.log.enter();
        check_flags(flags, RF_TOKENIZE_ADD_SPECIAL | RF_TOKENIZE_PARSE_SPECIAL | RF_TOKENIZE_ADD_BOS)?;
        let has = |flag| flags & flag != 0;
        let (vocab, parse_special) = (model.model.vocab(), has(RF_TOKENIZE_PARSE_SPECIAL));
        let ids = if has(RF_TOKENIZE_ADD_BOS) && !has(RF_TOKENIZE_ADD_SPECIAL) {
            vocab.tokenize_to_continue(text, parse_special)?
        } else {
            vocab.tokenize(text, has(RF_TOKENIZE_ADD_SPECIAL), parse_special)?
        };
        fill_tokens(buffer, &ids)
    })
}

/// Turns tokens into text, bytes that are not UTF-8 replaced by U+FFFD. `flags`: RF_DETOKENIZE_SPECIAL or 0.
///
/// `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. RF_ERROR_BUFFER: more than
/// `capacity`; nothing else is written. RF_ERROR_PARAM: an id that is no token, unknown flags, a NULL. Any thread.
///
/// For text that is still growing, take it from rf_generate, or the bytes of each token from rf_token_info: a
/// character may be spread over several tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_detokenize(
    model: *const rf_model,
    tokens: *const rf_token,
    n_tokens: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
        let (model, ids, buffer) = unsafe {
            (
                handle::share(model)?,
                token_ids(tokens, n_tokens, "tokens")?,
                Buffer::text(buffer, capacity, n)?,
            )
        };
        let _log = model.log.enter();
        check_flags(flags, RF_DETOKENIZE_SPECIAL)?;
        let vocab = model.model.vocab();
        if let Some(at) = ids.iter().position(|id| *id as usize >= vocab.len()) {
            return Err(no_token(&format!("tokens[{at}]"), ids[at], vocab.len()));
        }
        buffer.fill_text(&vocab.detokenize(ids, flags & RF_DETOKENIZE_SPECIAL != 0)?)
    })
}

fn no_token(name: &str, id: impl std::fmt::Display, n_vocab: usize) -> Failure {
    Failure::param(format!("{name} is {id}; the model has tokens 0 to {}", n_vocab.saturating_sub(1)))
}

/// One token of the vocabulary.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_token_details {
    /// sizeof(rf_token_details), set by the caller.
    pub size: usize,
    /// The token as the file spells it, `text_len` bytes of UTF-8, not NUL-terminated. Valid as long as the model.
    pub text: *const c_char,
    pub text_len: usize,
    /// The bytes it stands for in text, control tokens written out; often not whole characters. Valid as long as the model.
    pub bytes: *const u8,
    pub bytes_len: usize,
    /// RF_TOKEN_NORMAL, RF_TOKEN_CONTROL, ...
    pub kind: i32,
    /// 1 if the token ends a generation, else 0.
    pub is_eog: i32,
    /// The tokenizer's score; 0 where the file has none.
    pub score: f32,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_token_details {
    const NAME: &'static str = "rf_token_details";
}

/// Describes a token. Set info->size first. RF_ERROR_PARAM: no such token, a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_token_info(
    model: *const rf_model,
    token: rf_token,
    info: *mut rf_token_details,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, sized::Out::new(info)?) };
        let vocab = model.model.vocab();
        let id = u32::try_from(token).ok().filter(|id| (*id as usize) < vocab.len());
        let id = id.ok_or_else(|| no_token("the token", token, vocab.len()))?;
        let text = vocab.token_text(id).unwrap_or("");
        let bytes = vocab.token_bytes(id, true).unwrap_or(&[]);
        out.set(rf_token_details {
            size: 0,
            text: text.as_ptr().cast(),
            text_len: text.len(),
            bytes: bytes.as_ptr(),
            bytes_len: bytes.len(),
            kind: vocab.attr(id).unwrap_or(TokenAttr::Undefined) as i32,
            is_eog: vocab.is_eog(id).into(),
            score: vocab.score(id),
        });
        Ok(())
    })
}

/// A conversation to be put into the form that the model was trained on. Fill it with rf_chat_params_init first, then
/// give either `roles` and `contents`, or `messages_json`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_chat_params {
    /// sizeof(rf_chat_params), set by rf_chat_params_init.
    pub size: usize,
    /// Messages in `roles` ("system", "user", "assistant", ...) and `contents`: NUL-terminated UTF-8.
    pub n_messages: usize,
    pub roles: *const *const c_char,
    pub contents: *const *const c_char,
    /// Instead of these: a JSON array of objects with "role", "content" and what else the template knows ("tool_calls",
    /// ...); NULL (default) for none. A content is text, a list of parts ({"type": "text", "text": ...}), null or absent;
    /// where the template knows text only, parts of text are joined by newlines, and null and absent are empty.
    pub messages_json: *const c_char,
    /// A JSON array of the tools that the model may call; NULL (default) for none.
    pub tools_json: *const c_char,
    /// 1 (default): end where the assistant's answer begins. 0: after the last message.
    pub add_generation_prompt: i32,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_chat_params {
    const NAME: &'static str = "rf_chat_params";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_chat_params_init(params: *mut rf_chat_params, size: usize) -> rf_status {
    guard(|| {
        let default = rf_chat_params {
            size,
            n_messages: 0,
            roles: ptr::null(),
            contents: ptr::null(),
            messages_json: ptr::null(),
            tools_json: ptr::null(),
            add_generation_prompt: 1,
        };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Puts a conversation into the model's chat template and gives the tokens to evaluate. Control tokens come from
/// the template only: those that a message spells out stay text.
///
/// `tokens` takes `capacity` ids; *n is how many there are; RF_ERROR_BUFFER as in rf_tokenize. RF_ERROR_TEMPLATE: the
/// model has no template, or it refuses these messages; the message says why. RF_ERROR_PARAM: no messages, both kinds of
/// them, not UTF-8, not JSON, a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_chat_apply(
    model: *const rf_model,
    params: *const rf_chat_params,
    tokens: *mut rf_token,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
        let (model, params, buffer) =
            unsafe { (handle::share(model)?, sized::read(params)?, Buffer::new(tokens, capacity, n)?) };
        let _log = model.log.enter();
        // SAFETY: as above.
        let prompt = unsafe { apply(&model, &params) }?;
        fill_tokens(buffer, &model.model.vocab().tokenize_prompt(&prompt)?)
    })
}

/// As rf_chat_apply, but gives the prompt's text, for people to read. To evaluate it take the tokens of
/// rf_chat_apply: the text no longer tells the template's control tokens from a user's.
///
/// `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_chat_text(
    model: *const rf_model,
    params: *const rf_chat_params,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
        let (model, params, buffer) =
            unsafe { (handle::share(model)?, sized::read(params)?, Buffer::text(buffer, capacity, n)?) };
        let _log = model.log.enter();
        // SAFETY: as above.
        let prompt = unsafe { apply(&model, &params) }?;
        buffer.fill_text(prompt.text())
    })
}

/// # Safety
/// The pointers in `params` are NULL or valid, of the lengths it states.
unsafe fn apply(model: &rf_model, params: &rf_chat_params) -> Outcome<ChatPrompt> {
    // SAFETY: the caller's promise.
    let room = unsafe { room(params) }?;
    // SAFETY: the caller's promise.
    memory::with_room(room, "a conversation", || unsafe { apply_in_room(model, params) })?
}

/// Bytes that the messages and tools take as JSON values, in three copies. What a value takes with its place in a list
/// or an object while that grows is less than VALUE.
///
/// # Safety
/// As `apply`.
unsafe fn room(params: &rf_chat_params) -> Outcome<usize> {
    const VALUE: usize = 640;
    let mut bytes = VALUE * 16;
    // SAFETY: the caller's promise.
    let texts = unsafe {
        [
            optional_c_text(params.messages_json, "messages_json")?,
            optional_c_text(params.tools_json, "tools_json")?,
        ]
    };
    for text in texts.into_iter().flatten() {
        let values = text.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
        bytes = bytes.saturating_add(8 * text.len()).saturating_add(VALUE * values);
    }
    if params.messages_json.is_null() && params.n_messages <= MAX_MESSAGES {
        // SAFETY: the caller's promise.
        let columns = unsafe {
            [
                array(params.roles, params.n_messages, "roles")?,
                array(params.contents, params.n_messages, "contents")?,
            ]
        };
        for text in columns.into_iter().flatten().filter(|text| !text.is_null()) {
            // SAFETY: the caller's promise.
            let len = unsafe { CStr::from_ptr(*text) }.count_bytes();
            bytes = bytes.saturating_add(8 * len + 4 * VALUE);
        }
    }
    Ok(bytes.saturating_mul(3))
}

/// # Safety
/// As `apply`.
unsafe fn apply_in_room(model: &rf_model, params: &rf_chat_params) -> Outcome<ChatPrompt> {
    // SAFETY: the caller's promise.
    let (messages, tools) = unsafe { (messages(params)?, optional_c_text(params.tools_json, "tools_json")?) };
    let tools = tools.map(|text| json::<serde_json::Value>(text, "tools_json")).transpose()?;
    if tools.as_ref().is_some_and(|tools| !tools.is_array()) {
        return Err(Failure::param("tools_json is no JSON array"));
    }
    let template = model.model.chat_template()?.ok_or_else(|| {
        Failure::new(RF_ERROR_TEMPLATE, "the model's file has no chat template (tokenizer.chat_template)")
    })?;
    Ok(template.apply(&messages, tools.as_ref(), params.add_generation_prompt != 0)?)
}

/// # Safety
/// As `apply`.
unsafe fn messages(params: &rf_chat_params) -> Outcome<Vec<ChatMessage>> {
    // SAFETY: the caller's promise.
    let text = unsafe { optional_c_text(params.messages_json, "messages_json") }?;
    let messages = match text {
        Some(_) if params.n_messages > 0 => {
            return Err(Failure::param("give roles and contents or messages_json, not both"));
        }
        Some(text) => json(text, "messages_json")?,
        None => {
            if params.n_messages > MAX_MESSAGES {
                return Err(Failure::param(format!(
                    "n_messages is {}; the most is {MAX_MESSAGES}",
                    params.n_messages
                )));
            }
            // SAFETY: the caller's promise.
            let (roles, contents) = unsafe {
                (
                    array(params.roles, params.n_messages, "roles")?,
                    array(params.contents, params.n_messages, "contents")?,
                )
            };
            let message = |at: usize| {
                // SAFETY: the caller's promise.
                let (role, content) = unsafe {
                    (
                        c_text(roles[at], &format!("roles[{at}]"))?,
                        c_text(contents[at], &format!("contents[{at}]"))?,
                    )
                };
                Ok(ChatMessage { role: role.into(), content: content.into(), ..Default::default() })
            };
            (0..params.n_messages).map(message).collect::<Outcome<Vec<_>>>()?
        }
    };
    if messages.is_empty() {
        return Err(Failure::param("there are no messages"));
    }
    Ok(messages)
}

fn json<T: serde::de::DeserializeOwned>(text: &str, name: &str) -> Outcome<T> {
    serde_json::from_str(text).map_err(|e| Failure::param(format!("{name}: {e}")))
}
