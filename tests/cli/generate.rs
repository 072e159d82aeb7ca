//! `generate`, `chat`, `tokenize`, `inspect`, `load` on a real model.

use crate::cli_common;

use std::io::{Read, Write};
use std::process::Stdio;

use cli_common::{Scratch, command, interrupt, rocmforge, smollm2, stderr, stdout, with_stdin};
use rocmforge::engine::{
    Backend, BackendParams, Context, ContextParams, GenerateParams, Model, ModelParams, Sampler,
    SamplerParams, generate,
};

const GREEDY: [&str; 2] = ["--temp", "0"];

fn greedy(model: &str, more: &[&str]) -> String {
    stdout(rocmforge(&[&["generate", "-m", model][..], &GREEDY, more].concat()))
}

#[test]
fn generate_prints_what_the_library_generates() {
    let path = smollm2();
    let printed = greedy(&path, &["-p", "The capital of France is", "-n", "12"]);

    let backend = Backend::new(&BackendParams::default()).unwrap();
    let model = Model::load(&backend, &path, ModelParams::default()).unwrap();
    let mut context =
        Context::new(&model, &ContextParams { n_ctx: 0, n_batch: 512, n_seq_max: 1, checkpoint_interval: 0 })
            .unwrap();
    let mut sampler = Sampler::new(SamplerParams {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        penalty_last_n: 0,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: 0,
    })
    .unwrap();
    let prompt = model.vocab().tokenize("The capital of France is", true, true).unwrap();
    let params = GenerateParams { max_tokens: Some(12), ..GenerateParams::default() };
    let generation =
        generate(&mut context, &mut sampler, &prompt, &params, &mut |_| std::ops::ControlFlow::Continue(()))
            .unwrap();
    assert_eq!(generation.tokens.len(), 12);
    assert_eq!(printed, format!("{}\n", generation.text));
    // a fact any working SmolLM2 knows; two threads of rounding do not change it
    assert!(printed.contains("Paris"), "{printed}");
}

#[test]
fn the_seed_fixes_the_text() {
    let model = smollm2();
    let run = |seed: &str, threads: &str| {
        let args = ["-p", "Once upon a time", "-n", "24", "--temp", "1.2", "-s", seed, "-t", threads];
        stdout(rocmforge(&[&["generate", "-m", &model][..], &args].concat()))
    };
    let text = run("7", "1");
    assert_eq!(text, run("7", "2"));
    assert_ne!(text, run("8", "1"));
}

#[test]
fn timings_go_to_standard_error() {
    let model = smollm2();
    let output = rocmforge(&["generate", "-m", &model, "-p", "Hello", "-n", "4", "--temp", "0"]);
    let summary = stderr(&output);
    assert!(summary.contains("prompt: 1 tokens, ") && summary.contains("decode: 4 tokens, "), "{summary}");
    assert!(summary.contains("stop: token limit | peak memory: "), "{summary}");
}

#[test]
fn a_reverse_prompt_ends_the_text_and_is_not_printed() {
    let model = smollm2();
    let whole = greedy(&model, &["-p", "1, 2, 3, 4,", "-n", "16"]);
    assert!(whole.contains("8"), "{whole}");
    let (before, _) = whole.split_once('8').unwrap();
    assert_eq!(greedy(&model, &["-p", "1, 2, 3, 4,", "-n", "16", "-r", "8"]), format!("{before}\n"));
}

#[test]
fn files_and_escapes() {
    let model = smollm2();
    let scratch = Scratch::new("files");
    let n = ["-n", "6"];
    let expected = greedy(&model, &[&["-p", "One\\nTwo\\n"][..], &n].concat());
    // the editor's newline at the end of a file does not count
    let real = scratch.write("real.txt", b"One\nTwo\n\n");
    assert_eq!(greedy(&model, &[&["-f", &real][..], &n].concat()), expected);
    let escaped = scratch.write("escaped.txt", b"One\\nTwo\\n\n");
    assert_eq!(greedy(&model, &[&["-f", &escaped, "-e"][..], &n].concat()), expected);
    let literal = greedy(&model, &[&["-f", &escaped][..], &n].concat());
    assert_eq!(greedy(&model, &[&["-p", "One\\nTwo\\n", "--no-escape"][..], &n].concat()), literal);

    let args = [&["generate", "-m", &model][..], &GREEDY, &["-f", "-"], &n].concat();
    assert_eq!(stdout(with_stdin(&args, b"One\nTwo\n\n")), expected);
}

#[test]
fn the_system_prompt_goes_through_the_template() {
    let model = smollm2();
    let n = ["-n", "8"];
    // ChatML, as the file's template writes it
    let raw = "<|im_start|>system\\nBe brief.<|im_end|>\\n<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n";
    assert_eq!(
        greedy(&model, &[&["-p", "Hi", "-sys", "Be brief."][..], &n].concat()),
        greedy(&model, &[&["-p", raw][..], &n].concat())
    );
}

#[test]
fn chat_reads_lines_until_the_end_of_input() {
    let model = smollm2();
    let n = ["-n", "24"];
    let args = [&["chat", "-m", &model, "-sys", "Be brief."][..], &n, &GREEDY].concat();
    let text = stdout(with_stdin(&args, b"What is the capital of France?\n\nAnd of Italy?\n"));

    // each answer is what `generate` gives for the whole conversation up to it, spelled in ChatML
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let scratch = Scratch::new("chat");
    let answer = |conversation: &str| {
        let file = scratch.write("prompt.txt", format!("{conversation}<|im_start|>assistant\n\n").as_bytes());
        greedy(&model, &[&["-f", &file][..], &n].concat()).trim_end_matches('\n').to_owned()
    };
    let start = turn("system", "Be brief.") + &turn("user", "What is the capital of France?");
    let first = answer(&start);
    assert!(first.contains("Paris"), "{first}");
    let second = answer(&(start + &turn("assistant", &first) + &turn("user", "And of Italy?")));
    assert_eq!(text, format!("{first}\n{second}\n"));
}

#[test]
fn chat_is_cleared_and_left() {
    let model = smollm2();
    let args = [&["chat", "-m", &model, "-n", "12"][..], &GREEDY].concat();
    let twice = stdout(with_stdin(&args, b"Say hello.\n/clear\nSay hello.\n/exit\nnever read\n"));
    let once = stdout(with_stdin(&args, b"Say hello.\n"));
    assert_eq!(twice, format!("{once}{once}"));
}

#[test]
fn control_tokens_in_a_message_stay_text() {
    let model = smollm2();
    // were <|im_end|> taken as the token, the template would show the model a finished message
    let log = stderr(&rocmforge(&[
        "generate",
        "-m",
        &model,
        "--chat",
        "-p",
        "<|im_end|>",
        "-n",
        "1",
        "--temp",
        "0",
    ]));
    let empty =
        stderr(&rocmforge(&["generate", "-m", &model, "--chat", "-p", "x", "-n", "1", "--temp", "0"]));
    let prompt_tokens = |summary: &str| -> usize {
        let rest = summary.split_once("prompt: ").expect("a summary").1;
        rest.split_once(' ').unwrap().0.parse().unwrap()
    };
    // llama-tokenize --no-parse-special: <|im_end|> is 7 tokens of text; the cut inside may cost one more
    let extra = prompt_tokens(&log) - prompt_tokens(&empty);
    assert!((6..=7).contains(&extra), "{extra} more tokens\n{log}");
}

#[test]
fn tokenize_prints_what_llama_tokenize_prints() {
    let model = smollm2();
    let ids = |more: &[&str]| stdout(rocmforge(&[&["tokenize", "-m", &model, "--ids"][..], more].concat()));
    // goldens: llama-tokenize -m MODEL --ids -p TEXT
    assert_eq!(ids(&["-p", "Hello, world!"]), "[19556, 28, 905, 17]\n");
    assert_eq!(ids(&["-p", "a<|im_end|>b"]), "[81, 2, 82]\n");
    assert_eq!(
        ids(&["-p", "a<|im_end|>b", "--no-parse-special"]),
        "[81, 44, 108, 306, 79, 486, 108, 46, 82]\n"
    );
    assert_eq!(
        ids(&["-p", "  naïve café 東京 🙂"]),
        "[216, 15486, 46494, 37366, 17097, 247, 126, 16736, 122, 47526]\n"
    );
    assert_eq!(ids(&["-p", "a\\nb"]), "[81, 198, 82]\n");
    assert_eq!(ids(&["-p", "a\\nb", "--no-escape"]), "[81, 76, 22808]\n");
    let args = ["tokenize", "-m", &model, "--ids", "--stdin", "--no-bos"];
    assert_eq!(stdout(with_stdin(&args, b"a\nb")), "[81, 198, 82]\n");

    let pieces = stdout(rocmforge(&["tokenize", "-m", &model, "-p", "Hi <|im_end|>", "--show-count"]));
    assert_eq!(pieces, " 26843 -> 'Hi'\n   216 -> ' '\n     2 -> '<|im_end|>'\nTotal number of tokens: 3\n");
}

#[test]
fn inspect_shows_metadata_and_tensors() {
    let model = smollm2();
    let text = stdout(rocmforge(&["inspect", "-m", &model]));
    for part in
        ["GGUF v3, 98362432 bytes, 33 keys, 272 tensors", "\"llama\"", "token_embd.weight", "576 x 49152"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(rocmforge(&["inspect", "-m", &model, "--json", "--full"]))).unwrap();
    assert_eq!(json["metadata"]["llama.block_count"]["value"], 30);
    assert_eq!(json["metadata"]["llama.attention.layer_norm_rms_epsilon"]["value"], 1e-5);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["value"].as_array().unwrap().len(), 49152);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 272);
    assert_eq!(json["tensors"][0]["dims"], serde_json::json!([576, 49152]));
}

#[test]
fn load_times_phases_and_checks_tensors() {
    let model = smollm2();
    let text = stdout(rocmforge(&["load", "-m", &model, "--verify"]));
    for part in
        ["open and check file", "vocabulary, template", "weights", "start to first token", "peak memory"]
    {
        assert!(text.lines().any(|l| l.starts_with(part)), "{part} is not in:\n{text}");
    }
    assert!(text.contains("272 tensors checked, 0 bad; 134515008 finite values"), "{text}");
}

#[test]
fn load_verify_finds_bad_values() {
    let scratch = Scratch::new("bad-values");
    let mut bytes = std::fs::read(smollm2()).unwrap();
    // output_norm.weight is F32: its first value becomes NaN
    let file = rocmforge::gguf::Gguf::open(smollm2()).unwrap();
    let at = file.tensor("output_norm.weight").unwrap().offset as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = scratch.write("bad.gguf", &bytes);
    let output = rocmforge(&["load", "-m", &bad, "--verify"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("bad   output_norm.weight (F32): 1 NaN and 0 infinite of 576 values"), "{text}");
    assert!(stderr(&output).contains("1 of 272 tensors are bad"));
}

#[test]
fn a_closed_standard_output_ends_quietly() {
    let model = smollm2();
    for args in [
        &["generate", "-m", &model, "-p", "Once", "-n", "400", "--ignore-eos", "--temp", "0"][..],
        &["inspect", "-m", &model],
    ] {
        let mut child = command(args).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0u8; 1];
        out.read_exact(&mut first).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
}

#[test]
fn ctrl_c_keeps_the_text_and_exits_130() {
    let model = smollm2();
    let args = ["generate", "-m", &model, "-p", "Once", "-n", "-1", "--ignore-eos", "--temp", "0"];
    let mut child = command(&args).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0u8; 20];
    out.read_exact(&mut text).unwrap();
    interrupt(&child);
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(text.len() > 20 && text.ends_with(b"\n"), "{:?}", String::from_utf8_lossy(&text));
    let summary = stderr(&output);
    assert!(summary.contains("stop: interrupted") && summary.ends_with("interrupted\n"), "{summary}");
}

#[test]
fn ctrl_c_stops_a_long_prompt() {
    let model = smollm2();
    // minutes of work on the reference device
    let prompt = "word ".repeat(3000);
    let args = ["generate", "-m", &model, "-f", "-", "-n", "1", "--device", "reference", "-v"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(prompt.as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    interrupt(&child);
    let then = std::time::Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(then.elapsed().as_secs() < 60, "{:?}", then.elapsed());
}

#[test]
fn ctrl_c_ends_a_chat_that_waits() {
    let model = smollm2();
    let mut child = command(&["chat", "-m", &model, "-n", "4"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Hello\n").unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut answer = Vec::new();
    let mut byte = [0u8];
    while byte[0] != b'\n' {
        out.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}
