//! Models on the emulated GPU, by the command line.
#![cfg(feature = "hip")]

mod cli_common;

use cli_common::{on_emulator, rocmforge, smollm2, stderr, stdout};
use serde_json::Value as Json;

const TINY: &str = "tests/data/tiny/tiny.gguf";

#[test]
fn load_says_what_the_gpu_has() {
    let text = stdout(
        on_emulator(&["load", "-m", &smollm2(), "--device", "hip", "-c", "64", "-b", "1"]).output().unwrap(),
    );
    let placed = "planned for 64 positions in steps of 1 tokens:\n  \
                  AMD Radeon RX 7900 XTX (gfx1100): embedding, layers 0 to 29, output\n    weights ";
    assert!(text.contains(placed), "{text}");
    assert!(text.contains("\nfirst token "), "{text}");
}

#[test]
fn generate_on_the_gpu_with_graphs_and_without() {
    let model = smollm2();
    let args =
        ["generate", "-m", &model, "-p", "The", "-n", "4", "--temp", "0", "-c", "64", "--device", "hip"];
    let text = stdout(on_emulator(&args).output().unwrap());
    println!("{text:?}");
    assert!(text.starts_with("The") || !text.trim().is_empty(), "{text:?}");
    assert_eq!(text, stdout(on_emulator(&args).env("ROCMFORGE_HIP_GRAPH", "0").output().unwrap()));
}

/// Rows of a step's table, as (op, calls, bytes).
fn rows(table: &str) -> Vec<(String, u64, u64)> {
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2).map(cells);
    rows.map(|row| (row[0].clone(), row[1].parse().unwrap(), row[2].parse().unwrap())).collect()
}

#[test]
fn bench_per_op_has_a_row_for_each_kind() {
    let run = |more: &[&str]| {
        let args = ["bench", "--per-op", "-m", TINY, "--device", "hip", "-r", "1"];
        let mut command = on_emulator(&[&args[..], more].concat());
        stdout(command.env("ROCMFORGE_EMULATOR_MEMORY", "64M").output().unwrap())
    };
    let text = run(&["-p", "12", "-n", "1", "-d", "3"]);
    println!("{text}");
    let tables: Vec<&str> = text.split(", one step of ").collect();
    assert_eq!(tables.len(), 3, "{text}");
    assert!(tables[1].starts_with("pp12 @ d3: AMD Radeon RX 7900 XTX (gfx1100), reads "), "{text}");
    assert!(tables[2].starts_with("tg1 @ d3: "), "{text}");
    let [prompt, token] = [rows(tables[1]), rows(tables[2])];
    panic!("{prompt:?}\n{token:?}");
}

#[test]
fn bench_per_op_is_for_gpus() {
    let output = rocmforge(&["bench", "--per-op", "-m", TINY, "--device", "cpu", "-p", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("one GPU with the whole model") && text.contains("rocmforge::cpu::profile"),
        "{text}"
    );
}
