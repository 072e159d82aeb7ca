//! A model whose every answer is known: after a token comes always the same one. Its vocabulary are the 256 bytes and
//! ChatML's control tokens, so that a text has a token for each byte.

use rocmforge::gguf::Value;

use crate::common::gguf_writer::GgufWriter;

pub const IM_START: u32 = 256;
pub const IM_END: u32 = 257;
const N_VOCAB: usize = 258;
/// A token is a direction of its own; heads of 64.
const N_EMBD: usize = 320;
const N_FF: usize = 32;

pub const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

pub const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Tokens that CHATML puts around a message of the user and before the assistant's.
pub const AROUND_USER: usize = 1 + "user\n".len() + 2;
pub const BEFORE_ANSWER: usize = 1 + "assistant\n".len();

pub struct Bigram {
    next: Vec<u32>,
    pairs: Vec<(String, Value)>,
    tensors: Vec<String>,
}

impl Bigram {
    /// After a newline it says the alphabet and ends; after any other byte it starts at "a".
    pub fn new(template: &str) -> Self {
        let mut next = vec![u32::from(b'a'); N_VOCAB];
        for letter in b'a'..=b'y' {
            next[usize::from(letter)] = u32::from(letter) + 1;
        }
        next[usize::from(b'z')] = IM_END;
        let model = Bigram { next, pairs: Vec::new(), tensors: Vec::new() };
        model
            .meta("general.architecture", "llama")
            .meta("tokenizer.ggml.pre", "gpt-2")
            .meta("tokenizer.chat_template", template)
    }

    /// After `token` comes `next`.
    pub fn next(mut self, token: impl Into<u32>, next: impl Into<u32>) -> Self {
        self.next[token.into() as usize] = next.into();
        self
    }

    /// A text of the metadata, in place of what the key has.
    pub fn meta(mut self, key: &str, text: &str) -> Self {
        self.pairs.retain(|(other, _)| other != key);
        self.pairs.push((key.to_owned(), Value::String(text.to_owned())));
        self
    }

    /// One more tensor, which no model needs.
    pub fn tensor(mut self, name: &str) -> Self {
        self.tensors.push(name.to_owned());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = GgufWriter::new();
        for (key, value) in &self.pairs {
            file = file.meta(key, value.clone());
        }
        let mut tokens: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
        tokens.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
        let types: Vec<i32> = (0..N_VOCAB).map(|token| if token < 256 { 1 } else { 3 }).collect();
        file = file
            .meta("llama.block_count", 1u32)
            .meta("llama.context_length", 4096u32)
            .meta("llama.embedding_length", N_EMBD as u32)
            .meta("llama.feed_forward_length", N_FF as u32)
            .meta("llama.attention.head_count", 5u32)
            .meta("llama.attention.head_count_kv", 1u32)
            .meta("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
            .meta("tokenizer.ggml.model", "gpt2")
            .meta("tokenizer.ggml.tokens", tokens)
            .meta("tokenizer.ggml.token_type", types)
            .meta("tokenizer.ggml.merges", vec!["\u{120} t"])
            .meta("tokenizer.ggml.eos_token_id", IM_END);

        let matrix = |file: GgufWriter, name: &str, cols: usize, rows: usize, ones: &[(usize, usize)]| {
            let mut values = vec![0f32; cols * rows];
            ones.iter().for_each(|(row, col)| values[row * cols + col] = 8.0);
            file.f32_tensor(name, &[cols as u64, rows as u64], &values)
        };
        let embedding: Vec<_> = (0..N_VOCAB).map(|token| (token, token)).collect();
        let output: Vec<_> =
            self.next.iter().enumerate().map(|(token, next)| (*next as usize, token)).collect();
        file = matrix(file, "token_embd.weight", N_EMBD, N_VOCAB, &embedding);
        file = matrix(file, "output.weight", N_EMBD, N_VOCAB, &output);
        // layers that add nothing
        for (part, cols, rows) in [
            ("attn_q", N_EMBD, N_EMBD),
            ("attn_k", N_EMBD, 64),
            ("attn_v", N_EMBD, 64),
            ("attn_output", N_EMBD, N_EMBD),
            ("ffn_gate", N_EMBD, N_FF),
            ("ffn_up", N_EMBD, N_FF),
            ("ffn_down", N_FF, N_EMBD),
        ] {
            file = matrix(file, &format!("blk.0.{part}.weight"), cols, rows, &[]);
        }
        for norm in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file = file.f32_tensor(&format!("{norm}.weight"), &[N_EMBD as u64], &[1.0; N_EMBD]);
        }
        for name in &self.tensors {
            file = file.f32_tensor(name, &[1], &[1.0]);
        }
        file.build()
    }
}

/// How GPT-2's vocabularies spell a byte: printable ones as they are, the others from U+0100 on in their order.
fn byte_char(byte: u8) -> char {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_itself(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !is_itself(*other)).count() as u32;
    char::from_u32(0x100 + before).expect("a character")
}
