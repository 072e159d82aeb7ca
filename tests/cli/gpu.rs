//! Models on the emulated GPU, by the command line.
#![cfg(feature = "hip")]

use crate::cli_common;

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
    assert!(!text.trim().is_empty(), "{text:?}");
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
        stdout(command.env("ROCMFORGE_EMULATOR_MEMORY", "40M").output().unwrap())
    };
    let text = run(&["-p", "12", "-n", "1", "-d", "3"]);
    println!("{text}");
    let tables: Vec<&str> = text.split(", one step of ").collect();
    assert_eq!(tables.len(), 3, "{text}");
    assert!(tables[1].starts_with("pp12 @ d3: AMD Radeon RX 7900 XTX (gfx1100), reads "), "{text}");
    assert!(tables[2].starts_with("tg1 @ d3: "), "{text}");
    // f16 matrices of 32 columns (268 rows of the output, which is the embedding; q, k, v 64 together; gate and up 128),
    // norms of 32 f32, two layers; a layer's cache has 64 bytes a position
    let (qkv, norm, gates, down, output) = (2 * (4096 + 128), 128, 2 * (8192 + 128), 2 * 4096, 17_152);
    let expected = |rows: &[(&str, u64, u64)]| {
        let sum = |which: fn(&(&str, u64, u64)) -> u64| rows.iter().map(which).sum::<u64>();
        let (calls, bytes) = (sum(|row| row.1), sum(|row| row.2));
        let all = rows.iter().copied().chain([("sum", calls, bytes), ("the whole step", calls, bytes)]);
        all.map(|(op, calls, bytes)| (op.to_owned(), calls, bytes)).collect::<Vec<_>>()
    };
    assert_eq!(
        rows(tables[1]),
        expected(&[
            ("token_embd", 1, 12 * 64),
            ("attn_norm..attn_v", 2, qkv),
            ("rope_q..kv_append", 2, 0),
            ("attention", 2, 2 * 15 * 64),
            ("attn_output..attn_residual", 2, 2 * 2048),
            ("ffn_norm..ffn_glu", 2, gates),
            ("ffn_down..ffn_residual", 2, down),
            ("select", 1, 0),
            ("output_norm..output", 1, norm + output),
        ])
    );
    let of_a_token = [
        ("token_embd", 1, 64),
        ("attn_norm..kv_append", 2, qkv),
        ("attention", 2, 2 * 4 * 64),
        ("attn_output..attn_residual", 2, 2 * 2048),
        ("ffn_norm..ffn_glu", 2, gates),
        ("ffn_down..ffn_residual", 2, down),
        ("select..output", 1, norm + output),
    ];
    assert_eq!(rows(tables[2]), expected(&of_a_token));

    let json: Json = serde_json::from_str(&run(&["-p", "0", "-d", "3", "--json"])).unwrap();
    let step = &json[0];
    assert_eq!((&step["n_prompt"], &step["n_gen"], &step["n_depth"]), (&0.into(), &1.into(), &3.into()));
    assert!(step["step_seconds"].as_f64() > Some(0.0) && step["read_bytes_per_second"].as_u64() > Some(0));
    let ops = step["ops"].as_array().unwrap();
    assert_eq!(ops.len(), of_a_token.len());
    for (op, (name, calls, bytes)) in ops.iter().zip(of_a_token) {
        assert_eq!((&op["op"], &op["calls"], &op["bytes"]), (&name.into(), &calls.into(), &bytes.into()));
        assert!(op["seconds"].as_f64() > Some(0.0), "{op}");
    }
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
