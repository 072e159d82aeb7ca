//! Flags as llama.cpp's users type them, and the texts that come with them.

use crate::cli_common;

use cli_common::bigram::{ALPHABET, Bigram, CHATML};
use cli_common::{Scratch, rocmforge, smollm2, stderr, stdout};

fn bigram(scratch: &Scratch) -> String {
    scratch.write("bigram.gguf", &Bigram::new(CHATML).bytes())
}

/// The first 8 tokens that SmolLM2 draws, and what was said on standard error.
fn drawn(more: &[&str]) -> (String, String) {
    let args = ["generate", "-m", &smollm2(), "-p", "Once upon a time", "-n", "8", "-t", "2"];
    let output = rocmforge(&[&args[..], more].concat());
    let said = stderr(&output);
    (stdout(output), said)
}

#[test]
fn numbers_mean_what_they_mean_to_the_peer() {
    let hot = ["--seed", "5", "--temp", "1.5"];
    let of = |more: &[&str]| drawn(&[&hot[..], more].concat()).0;
    // no limit of any kind: the second best of a hot draw is not the best of a cold one
    let whole = of(&["--top-k", "0", "--top-p", "1", "--min-p", "0"]);
    assert_eq!(of(&["--top-k", "-1", "--top-p", "1", "--min-p", "0"]), whole);
    assert_ne!(of(&["--top-k", "1", "--top-p", "1", "--min-p", "0"]), whole);
    // the most likely token, whatever the seed
    let greedy = drawn(&["--temp", "0"]).0;
    assert_eq!(drawn(&["--temp", "-1", "--seed", "9"]).0, greedy);
    assert_eq!(drawn(&["--temperature", "0.0", "-t", "-1", "-ngl", "-1"]).0, greedy);

    let scratch = Scratch::new("flags-numbers");
    let model = bigram(&scratch);
    let text = |more: &[&str]| {
        let args = ["generate", "-m", &model, "--device", "cpu", "--temp", "0", "-p", "x\\n"];
        stdout(rocmforge(&[&args[..], more].concat()))
    };
    for n in ["-1", "-2"] {
        assert_eq!(text(&["-n", n]), format!("{ALPHABET}\n"));
    }
    assert_eq!(text(&["-n", "0"]), "\n");
    // the context: 64 positions, 2 of the prompt; the last of 63 tokens needs none, and 2 are <|im_end|>
    assert_eq!(text(&["-n", "-1", "-c", "64", "--ignore-eos"]).trim_end().len(), 61);
}

#[test]
fn the_seed_is_random_and_printed_and_repeats_the_run() {
    let seed = |said: &str| -> u64 {
        let line =
            said.lines().find(|line| line.starts_with("seed: ")).unwrap_or_else(|| panic!("no seed: {said}"));
        let number = line.split_whitespace().nth(1).unwrap();
        assert_eq!(line, format!("seed: {number} (--seed {number} repeats this run)"));
        number.parse().unwrap()
    };
    let (first, said) = drawn(&["--temp", "2", "--top-k", "0"]);
    let number = seed(&said);
    let (again, said) = drawn(&["--temp", "2", "--top-k", "0", "--seed", &number.to_string()]);
    assert_eq!(first, again);
    assert!(!said.contains("seed"), "who gave it knows it: {said}");
    let (_, said) = drawn(&["--temp", "2", "--top-k", "0", "--seed", "-1"]);
    assert_ne!(seed(&said), number, "one in four billion");
    assert!(!drawn(&["--temp", "0"]).1.contains("seed"), "nothing is drawn");
}

#[test]
fn the_last_of_a_flag_counts() {
    let scratch = Scratch::new("flags-last");
    let model = bigram(&scratch);
    let args = ["generate", "-m", "none.gguf", "-m", &model, "--device", "reference", "--device", "cpu"];
    let more =
        ["--temp", "1", "--temp", "0", "-n", "50", "-p", "a", "-n", "3", "-p", "x\\n", "--n_predict", "4"];
    assert_eq!(stdout(rocmforge(&[&args[..], &more].concat())), "abcd\n");
    // stop texts add up
    let more = ["--temp", "0", "-p", "x\\n", "-r", "x", "-r", "c", "-r", "q"];
    assert_eq!(stdout(rocmforge(&[&args[..], &more].concat())), "ab\n");
}

#[test]
fn a_value_may_look_like_a_flag() {
    let scratch = Scratch::new("flags-values");
    let model = bigram(&scratch);
    let ids = |text: &str| {
        let ids: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        format!("[{}]\n", ids.join(", "))
    };
    for text in ["-ngl", "-sys", "-sp", "--help", "--no_escape", "-m", "--", "-"] {
        for prompt in
            [&["-p", text][..], &["--prompt", text], &[&format!("--prompt={text}")], &[&format!("-p{text}")]]
        {
            let args = [&["tokenize", "-m", &model, "--ids"][..], prompt].concat();
            assert_eq!(stdout(rocmforge(&args)), ids(text), "{args:?}");
        }
    }
    let args =
        ["generate", "-m", &model, "--device", "cpu", "--temp", "0", "-p", "x\\n", "-sys", "-ngl", "-n", "2"];
    assert_eq!(stdout(rocmforge(&args)), "ab\n");
}

#[test]
fn escapes_and_line_ends() {
    let scratch = Scratch::new("flags-escapes");
    let model = bigram(&scratch);
    let text = |more: &[&str]| {
        let args = ["generate", "-m", &model, "--device", "cpu", "--temp", "0"];
        stdout(rocmforge(&[&args[..], more].concat()))
    };
    assert_eq!(text(&["-p", "x\\n", "-r", "\\x64ef"]), "abc\n");
    assert_eq!(text(&["-p", "x\n", "-r", "\\x64ef", "--no-escape"]), format!("{ALPHABET}\n"));
    assert_eq!(text(&["-p", "x\n", "-r", "\\x64ef", "--no-escape", "-e"]), "abc\n", "the last counts");

    let ids = |more: &[&str]| stdout(rocmforge(&[&["tokenize", "-m", &model, "--ids"][..], more].concat()));
    assert_eq!(ids(&["-p", "a\\nb"]), "[97, 10, 98]\n");
    assert_eq!(ids(&["-p", "a\\nb", "--no-escape"]), "[97, 92, 110, 98]\n");
    // one line end at the end of a prompt's file is its editor's, be it LF or CRLF
    let prompt_tokens = |bytes: &[u8]| {
        let file = scratch.write("prompt.txt", bytes);
        let output =
            rocmforge(&["generate", "-m", &model, "--device", "cpu", "--temp", "0", "-n", "1", "-f", &file]);
        let said = stderr(&output);
        said.strip_prefix("prompt: ").unwrap().split_once(' ').unwrap().0.parse::<usize>().unwrap()
    };
    for (bytes, n) in
        [(&b"hello"[..], 5), (b"hello\n", 5), (b"hello\r\n", 5), (b"hello\n\n", 6), (b"hello\r\n\r\n", 7)]
    {
        assert_eq!(prompt_tokens(bytes), n, "{bytes:?}");
    }
}

#[test]
fn what_names_a_limit_names_its_flag() {
    let scratch = Scratch::new("flags-limits");
    let model = bigram(&scratch);
    let run = |more: &[&str]| {
        let args = ["generate", "-m", &model, "--device", "cpu", "--temp", "0"];
        rocmforge(&[&args[..], more].concat())
    };
    let output = run(&["-c", "64", "-p", &"y".repeat(65)]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "rocmforge: the prompt is 65 tokens; the context holds 64 (--ctx-size)\n");
    let output = run(&["-c", "64", "-p", "x", "--ignore-eos"]);
    assert!(stderr(&output).contains("| stop: context full (--ctx-size) |"), "{}", stderr(&output));
}

/// The names and texts that a file may have put there, with what colours a terminal.
#[test]
fn a_files_control_characters_are_spelled_out() {
    let scratch = Scratch::new("flags-terminal");
    let hostile = "a\x1b[31m\u{9b}\r\nX";
    let write = |name: &str, model: Bigram| scratch.write(name, &model.bytes());
    let key = write("key.gguf", Bigram::new(CHATML).meta(hostile, hostile));
    let tensor = write("tensor.gguf", Bigram::new(CHATML).tensor(hostile));
    let name = write("name.gguf", Bigram::new(CHATML).meta("general.name", hostile));
    let arch = write("arch.gguf", Bigram::new(CHATML).meta("general.architecture", hostile));
    let pre = write("pre.gguf", Bigram::new(CHATML).meta("tokenizer.ggml.pre", hostile));
    let raise = "{{ raise_exception('a\x1b[31m\u{9b}X') }}";
    let template = write("template.gguf", Bigram::new(raise));

    let generate = ["generate", "--device", "cpu", "--temp", "0", "-n", "1", "-p", "x", "-m"];
    let spelled = "a\\u{1b}[31m\\u{9b}";
    for (args, part) in [
        (vec!["inspect", "-m", &key], "a\\u{1b}[31m\\u{9b}\\r\\nX "),
        (vec!["inspect", "-m", &key], "string       \"a\\u001b[31m\\u009b\\r\\nX\""),
        (vec!["inspect", "-m", &key, "--full", "--json"], "\"a\\u001b[31m\\u009b\\r\\nX\": {"),
        (vec!["inspect", "-m", &tensor], "a\\u{1b}[31m\\u{9b}\\r\\nX "),
        (vec!["load", "-m", &name, "--device", "cpu", "-c", "64"], "a\\u{1b}[31m\\u{9b}\\r\\nX (llama, "),
        ([&generate[..], &[&arch]].concat(), spelled),
        ([&generate[..], &[&pre]].concat(), spelled),
        ([&generate[..], &[&template, "--chat"]].concat(), spelled),
        (vec!["chat", "-m", &template, "--device", "cpu"], spelled),
    ] {
        let output = rocmforge(&args);
        let all = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert!(all.contains(part), "{args:?}: {part} is not in:\n{all:?}");
        let raw = all.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{args:?}: {all:?}");
    }
    // what programs read is what the file says
    let json: serde_json::Value =
        serde_json::from_str(&stdout(rocmforge(&["inspect", "-m", &key, "--json"]))).unwrap();
    assert_eq!(json["metadata"][hostile]["value"], hostile);
}
