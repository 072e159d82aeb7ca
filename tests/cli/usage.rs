//! What the command line answers to right and wrong usage: exit codes 0, 1 and 2, and messages of one line.

use crate::cli_common;

#[cfg(feature = "hip")]
use cli_common::on_emulator;
use cli_common::{Scratch, command, rocmforge, smollm2, stderr, stdout};
use rocmforge::device::cpu::isa::Isa;

const COMMANDS: [&str; 9] =
    ["devices", "load", "generate", "chat", "inspect", "tokenize", "bench", "logits", "perplexity"];

#[test]
fn help_lists_the_commands_and_exit_codes() {
    let help = stdout(rocmforge(&["--help"]));
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in:\n{help}");
    }
    assert!(help.contains("Exit codes: 0 ") && help.contains("130 "), "{help}");
}

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let help = stdout(rocmforge(&[command, "--help"]));
        assert!(help.contains(&format!("Usage: rocmforge {command}")), "{help}");
    }
}

#[test]
fn generate_has_the_flags_of_the_peer() {
    let help = stdout(rocmforge(&["generate", "--help"]));
    for flag in [
        "-m, --model",
        "-p, --prompt",
        "-f, --file",
        "-n, --predict",
        "-c, --ctx-size",
        "-t, --threads",
        "-b, --batch-size",
        "--temp",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repeat-penalty",
        "--repeat-last-n",
        "--frequency-penalty",
        "--presence-penalty",
        "-s, --seed",
        "-e, --escape",
        "--ignore-eos",
        "--special",
        "-r, --reverse-prompt",
        "--device",
        "--gpu-layers",
    ] {
        assert!(help.contains(flag), "{flag} is not in:\n{help}");
    }
}

#[test]
fn version() {
    assert_eq!(stdout(rocmforge(&["--version"])), format!("rocmforge {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_2() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["generate", "-m", "x"],
        &["generate", "-p", "x"],
        &["generate", "-m", "x", "-p", "x", "-f", "x"],
        &["generate", "-m", "x", "-p", "x", "--top-p", "1.5"],
        &["generate", "-m", "x", "-p", "x", "--top-k", "few"],
        &["generate", "-m", "x", "-p", "x", "--top-k", "5000000000"],
        &["generate", "-m", "x", "-p", "x", "--min-p", "nan"],
        &["generate", "-m", "x", "-p", "x", "--temp", "warm"],
        &["generate", "-m", "x", "-p", "x", "--temp", "nan"],
        &["generate", "-m", "x", "-p", "x", "--temp", "inf"],
        &["generate", "-m", "x", "-p", "x", "--repeat-penalty", "0"],
        &["generate", "-m", "x", "-p", "x", "--repeat-penalty", "nan"],
        &["generate", "-m", "x", "-p", "x", "--repeat-last-n", "-2"],
        &["generate", "-m", "x", "-p", "x", "--frequency-penalty", "inf"],
        &["generate", "-m", "x", "-p", "x", "--presence-penalty", "nan"],
        &["generate", "-m", "x", "-p", "x", "--seed", "-2"],
        &["generate", "-m", "x", "-p", "x", "-c", "1000000000"],
        &["generate", "-m", "x", "-p", "x", "-c", "-1"],
        &["generate", "-m", "x", "-p", "x", "-b", "0"],
        &["generate", "-m", "x", "-p", "x", "-b", "2000000"],
        &["generate", "-m", "x", "-p", "x", "-t", "1025"],
        &["generate", "-m", "x", "-p", "x", "-t", "-2"],
        &["chat", "-m", "x", "--system-prompt", "x", "--system-prompt-file", "x"],
        &["generate", "-m", "x", "-p", "x", "-n", "-5"],
        &["generate", "-m", "x", "-p", "x", "--device", "toaster"],
        &["generate", "-m", "x", "-p", "x", "-ngl", "most"],
        &["bench"],
        &["bench", "-m", "x", "-r", "0"],
        &["bench", "-m", "x", "-p", "0", "-n", "0"],
        &["bench", "-m", "x", "-p", "300000000"],
        &["bench", "-m", "x", "-p", "200000000", "-d", "200000000"],
        &["bench", "-m", "x", "-t", "2,1025"],
        &["bench", "-m", "x", "-b", "0"],
        &["bench", "-m", "x", "-p", "12,x"],
        &["logits", "-m", "x", "-o", "y"],
        &["logits", "-m", "x", "-o", "y", "--tokens", "1,-2"],
        &["logits", "-m", "x", "-o", "y", "--tokens", "1", "-b", "0"],
        &["perplexity", "-m", "x"],
        &["perplexity", "-m", "x", "-p", "x", "--chunks", "0"],
        &["perplexity", "-m", "x", "-p", "x", "--chunks", "-2"],
        &["perplexity", "-m", "x", "-p", "x", "-c", "3"],
        &["perplexity", "-m", "x", "-p", "x", "-c", "1000000000"],
        &["perplexity", "-m", "x", "-f", "x", "--kl-base", "y"],
        &["tokenize", "-m", "x"],
    ] {
        let output = rocmforge(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?} printed to standard output");
        assert!(stderr(&output).contains("Usage:") || stderr(&output).contains("--help"), "{args:?}");
    }
}

/// One line on standard error that contains `part`, nothing on standard output, exit code 1.
fn fails(args: &[&str], part: &str) {
    let output = rocmforge(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?} printed to standard output");
    assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    assert!(message.starts_with("rocmforge: ") && message.contains(part), "{args:?}: {message}");
}

#[test]
fn a_missing_model_is_named() {
    for command in [
        &["load"][..],
        &["inspect"],
        &["generate", "-p", "x"],
        &["chat"],
        &["tokenize", "-p", "x"],
        &["bench"],
        &["logits", "--tokens", "1", "-o", "never-written"],
        &["perplexity", "-p", "x"],
    ] {
        let args = [command, &["-m", "no/such/model.gguf"]].concat();
        fails(&args, "cannot open no/such/model.gguf: No such file or directory");
    }
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let scratch = Scratch::new("no-model");
    let text = scratch.write("text.gguf", b"this is not a model");
    let empty = scratch.write("empty.gguf", b"");
    for file in [&text, &empty] {
        fails(&["inspect", "-m", file], file);
        fails(&["generate", "-m", file, "-p", "x"], file);
    }
}

#[test]
fn wrong_text_is_told() {
    let scratch = Scratch::new("wrong-text");
    let bytes = scratch.write("bytes.txt", b"abc\xff\xfe");
    let model = smollm2();
    fails(&["generate", "-m", &model, "-f", &bytes], "not UTF-8 text at byte 3");
    fails(&["tokenize", "-m", &model, "-f", &bytes], "not UTF-8 text at byte 3");
    fails(&["generate", "-m", &model, "-f", "no/such/prompt.txt"], "cannot read no/such/prompt.txt");
    // SmolLM2 adds no BOS: nothing to start from
    fails(&["generate", "-m", &model, "-p", ""], "the prompt is empty");
}

#[test]
fn what_does_not_fit_is_told() {
    let model = smollm2();
    let long = "word ".repeat(400);
    fails(&["generate", "-m", &model, "-c", "64", "-p", &long], "the context holds 64 (--ctx-size)");
    fails(&["perplexity", "-m", &model, "-p", "too short", "-c", "64"], "two chunks of 64");
    let scratch = Scratch::new("refused-logits");
    let out = scratch.path("logits.f32");
    fails(&["logits", "-m", &model, "-o", out.to_str().unwrap(), "--tokens", "99999999"], "99999999");
    assert!(!out.exists(), "a refused request left a file behind");
}

#[test]
fn a_wrong_base_file_is_told() {
    let scratch = Scratch::new("wrong-base");
    let model = smollm2();
    let text = scratch.write("text.kl", b"this is not a file of log-probabilities");
    fails(&["perplexity", "-m", &model, "--kl-base", &text], "not a file of log-probabilities");
    let mut header = b"_logits_".to_vec();
    for n in [64i32, 49152, 2] {
        header.extend(n.to_le_bytes());
    }
    let short = scratch.write("short.kl", &header);
    fails(&["perplexity", "-m", &model, "--kl-base", &short], "20 bytes, but 2 chunks of 64 tokens");
    header[12..16].copy_from_slice(&(-1i32).to_le_bytes());
    let negative = scratch.write("negative.kl", &header);
    fails(&["perplexity", "-m", &model, "--kl-base", &negative], "-1 at byte 12");
}

#[test]
fn devices_names_both() {
    let text = stdout(rocmforge(&["devices"]));
    assert!(text.lines().any(|l| l.starts_with("cpu ")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("reference ")), "{text}");
    let json: serde_json::Value = serde_json::from_str(&stdout(rocmforge(&["devices", "--json"]))).unwrap();
    assert_eq!(json[0]["device"], "cpu");
    assert!(json[0]["compute_units"].as_u64().unwrap() >= 1);
}

/// Logits of four tokens of SmolLM2, computed as `isa` and `device` say.
fn logits(scratch: &Scratch, device: &str, isa: Isa) -> Vec<f32> {
    let (model, out) = (smollm2(), scratch.path(&format!("{device}-{}.f32", isa.name())));
    let args = ["logits", "-m", &model, "--device", device, "--tokens", "504,3575,282,4649", "-o"];
    let mut command = command(&[&args[..], &[out.to_str().unwrap()]].concat());
    stdout(command.env("ROCMFORGE_CPU_ISA", isa.name()).output().unwrap());
    let bytes = std::fs::read(out).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn the_environment_forces_each_instruction_set() {
    let scratch = Scratch::new("isa");
    let truth = logits(&scratch, "reference", Isa::Scalar);
    let mean = truth.iter().sum::<f32>() / truth.len() as f32;
    let variance: f32 = truth.iter().map(|x| (x - mean).powi(2)).sum();
    for isa in Isa::ALL {
        let devices = command(&["devices"]).env("ROCMFORGE_CPU_ISA", isa.name()).output().unwrap();
        let named = String::from_utf8_lossy(&devices.stdout).contains(&format!("({})", isa.name()));
        assert_eq!(named, isa.is_available(), "{}: {}", isa.name(), stderr(&devices));
        if named {
            let error: f32 =
                logits(&scratch, "cpu", isa).iter().zip(&truth).map(|(a, b)| (a - b).powi(2)).sum();
            // what 8-bit activations cost: 2.6e-3 to 2.8e-3 on all three paths
            assert!(error / variance < 5e-3, "{}: {:e} of the variance", isa.name(), error / variance);
        }
    }
    let unknown = command(&["load", "-m", &smollm2()]).env("ROCMFORGE_CPU_ISA", "mmx").output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("ROCMFORGE_CPU_ISA=mmx: the paths are scalar, avx2, avx512vnni"));
}

#[test]
#[cfg(feature = "hip")]
fn devices_lists_gpus_with_their_limits() {
    let text = stdout(on_emulator(&["devices"]).output().unwrap());
    for part in [
        "\nhip:0      AMD Radeon RX 7900 XTX (gfx1100), 48 compute units, ",
        " blocks of up to 1024 threads (1024, 1024, 1024), grids of up to (2147483647, 65536, 65536) blocks\n",
        " 32 threads in lockstep, 65536 bytes of shared memory per block, discrete\n",
        " kernels included; runtime ",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(on_emulator(&["devices", "--json"]).output().unwrap())).unwrap();
    let gpu = &json[2];
    assert_eq!(
        (&gpu["device"], &gpu["arch"], &gpu["warp_size"]),
        (&"hip:0".into(), &"gfx1100".into(), &32.into())
    );
    assert_eq!(gpu["max_grid"], serde_json::json!([2_147_483_647, 65_536, 65_536]));
}

#[test]
#[cfg(feature = "hip")]
fn without_a_gpu_devices_says_why_and_hip_fails() {
    let nowhere =
        |args: &[&str]| command(args).env("ROCMFORGE_HIP_LIBRARY", "/nonexistent.so").output().unwrap();
    let text = stdout(nowhere(&["devices"]));
    assert!(text.ends_with("\nhip        no GPU runtime: /nonexistent.so: not found\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&stdout(nowhere(&["devices", "--json"]))).unwrap();
    assert_eq!(json[2]["error"], "no GPU runtime: /nonexistent.so: not found");
    let output = nowhere(&["load", "-m", &smollm2(), "--device", "hip"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "rocmforge: no GPU runtime: /nonexistent.so: not found\n");
}

#[test]
#[cfg(feature = "hip")]
fn load_says_where_experts_are() {
    let scratch = Scratch::new("experts");
    let model = scratch.write("mixture.gguf", &crate::common::archs::Fixture::open("llama-moe").bytes(1));
    let args = ["load", "-m", &model, "--device", "hip:gfx1100", "-ngl", "all", "-ncmoe", "1"];
    let text = stdout(on_emulator(&args).output().unwrap());
    let on_gpu = "(gfx1100): embedding, layers 0 to 1, but for the experts of layer 0, output\n    weights ";
    assert!(text.contains(on_gpu) && text.contains("): experts of layer 0\n    weights "), "{text}");
}

/// The tiny model's own embedding, transposed on the emulated card; each launch is logged. So are its layers.
#[test]
#[cfg(feature = "hip")]
fn load_verify_transposes_the_embedding_on_the_gpu() {
    let model = "tests/data/tiny/tiny.gguf";
    let output =
        on_emulator(&["-vv", "load", "-m", model, "--verify", "--device", "hip:gfx1100"]).output().unwrap();
    let log = stderr(&output);
    let text = stdout(output);
    assert!(text.contains("(gfx1100): embedding, layers 0 to 1, output\n    weights "), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("transpose of token_embd.weight ("), "{text}");
    assert!(last.contains("AMD Radeon RX 7900 XTX (gfx1100): equal bit for bit to "), "{text}");
    let launch = log.lines().find(|line| line.contains("launch ") && line.contains("\"transpose_f32\""));
    let launch = launch.unwrap_or_else(|| panic!("no launch in:\n{log}"));
    for part in
        ["DEBUG", "kernel=\"transpose_f32\"", "block=[32, 32, 1]", "grid=[", "shared_bytes=", "device=0"]
    {
        assert!(launch.contains(part), "{part} is not in: {launch}");
    }
}
