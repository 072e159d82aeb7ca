//! `logits`, `perplexity`, `bench`: figures against the library's, the peer's and independent arithmetic.

use crate::cli_common;

use cli_common::{Scratch, rocmforge, smollm2, stdout};
use rocmforge::engine::{Backend, BackendParams, Batch, Context, ContextParams, Model, ModelParams};
use serde_json::Value as Json;

fn load() -> Model {
    let backend = Backend::new(&BackendParams::default()).unwrap();
    Model::load(&backend, smollm2(), ModelParams::default()).unwrap()
}

/// Logits at every position, by the Rust API.
fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let params = ContextParams { n_ctx: tokens.len(), n_batch: 512, n_seq_max: 1, checkpoint_interval: 0 };
    let mut context = Context::new(model, &params).unwrap();
    let want = vec![true; tokens.len()];
    context.decode(&Batch { tokens, positions: None, sequences: None, want: Some(&want) }).unwrap();
    (0..tokens.len()).map(|row| context.logits(row).unwrap().to_vec()).collect()
}

fn json(args: &[&str]) -> Json {
    serde_json::from_str(&stdout(rocmforge(args))).expect("JSON on standard output")
}

fn number(json: &Json, path: &str) -> f64 {
    json.pointer(path).and_then(Json::as_f64).unwrap_or_else(|| panic!("no number at {path} in {json}"))
}

#[test]
fn logits_writes_what_the_library_computes() {
    let scratch = Scratch::new("logits");
    let model = smollm2();
    let out = scratch.path("out.f32");
    let out_name = out.to_str().unwrap();
    let tokens = [504u32, 3575, 282, 4649, 314];
    let list = "504,3575,282,4649,314";
    let run = |more: &[&str]| {
        let printed = stdout(rocmforge(&[&["logits", "-m", &model, "-o", out_name][..], more].concat()));
        assert_eq!(printed, "5 49152\n");
        let bytes = std::fs::read(&out).unwrap();
        assert_eq!(bytes.len(), 5 * 49152 * 4);
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
    };
    let written = run(&["--tokens", list]);
    assert_eq!(written, logits(&load(), &tokens).concat());
    // "The capital of France is" tokenizes to them
    let by_text = run(&["-p", "The capital of France is"]);
    let model = load();
    assert_eq!(model.vocab().tokenize("The capital of France is", true, true).unwrap(), tokens);
    assert_eq!(written, by_text);
}

/// What llama-perplexity -m MODEL -f tests/data/text/kl.txt -c 64 says of the truth (tools/kl.py says what that is), its error
/// behind it: of the first two chunks, and of all 45. The peer itself, with the file as it is, says 17.6039 on a processor with
/// AVX2.
const TRUE_PPL_OF_TWO: (f64, f64) = (31.5702, 9.17192);
const TRUE_PPL: (f64, f64) = (17.5438, 1.30640);
const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/text/kl.txt");

#[test]
fn perplexity_agrees_with_the_peer() {
    let model = smollm2();
    let args = ["perplexity", "-m", &model, "-f", TEXT, "-c", "64", "--json"];
    let exact = json(&[&args[..], &["--chunks", "2", "--device", "reference"]].concat());
    assert_eq!(number(&exact, "/count"), 62.0);
    // the reference device computes the truth: equal but for the order of f32 sums
    let relative = |value: f64, expected: f64| (value / expected - 1.0).abs();
    assert!(relative(number(&exact, "/ppl/value"), TRUE_PPL_OF_TWO.0) < 2e-4, "{exact}");
    assert!(relative(number(&exact, "/ppl/error"), TRUE_PPL_OF_TWO.1) < 1e-3, "{exact}");
    // The CPU device rounds activations to 8 bits, as the peer does. Of one token that moves the logarithm by 0.07 (the root of
    // twice the mean divergence), of 1,395 by 0.002, in another way for each instruction set.
    let fast = json(&args);
    assert_eq!(number(&fast, "/count"), 1395.0);
    assert!(relative(number(&fast, "/ppl/value"), TRUE_PPL.0) < 0.01, "{fast}");
    assert!(relative(number(&fast, "/ppl/error"), TRUE_PPL.1) < 0.02, "{fast}");
}

#[test]
fn perplexity_does_not_depend_on_the_batch_size() {
    let model = smollm2();
    let run = |batch: &str| {
        let args =
            ["perplexity", "-m", &model, "-f", TEXT, "-c", "64", "--chunks", "1", "-b", batch, "--json"];
        number(&json(&args), "/nll/value")
    };
    let (whole, parts) = (run("64"), run("24"));
    assert!((whole - parts).abs() < 1e-4, "{whole} {parts}");
}

/// A base file by the definition of its format, and the divergences that follow from it in f64.
struct Base {
    bytes: Vec<u8>,
    klds: Vec<f64>,
    nlls: Vec<f64>,
    nlls_base: Vec<f64>,
    same_top: usize,
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    x.iter().map(|x| x - log_sum).collect()
}

fn top(x: &[f64]) -> usize {
    (0..x.len()).max_by(|a, b| x[*a].total_cmp(&x[*b])).unwrap()
}

/// The base's distributions are the model's, flattened by a tenth and shaken: far enough to have tops that differ.
fn make_base(model: &Model, tokens: &[u32], n_ctx: usize) -> Base {
    let n_vocab = model.info().n_vocab;
    let mut bytes = b"_logits_".to_vec();
    for n in [n_ctx, n_vocab, tokens.len() / n_ctx] {
        bytes.extend((n as i32).to_le_bytes());
    }
    tokens.iter().for_each(|t| bytes.extend((*t as i32).to_le_bytes()));
    let mut base = Base { bytes, klds: vec![], nlls: vec![], nlls_base: vec![], same_top: 0 };
    for chunk in tokens.chunks_exact(n_ctx) {
        let rows = logits(model, chunk);
        for i in n_ctx / 2..n_ctx - 1 {
            let x: Vec<f64> = rows[i].iter().map(|v| f64::from(*v)).collect();
            let shaken: Vec<f64> = x
                .iter()
                .enumerate()
                .map(|(j, v)| 0.9 * v + 0.5 * f64::sin((i * 131 + j * 17) as f64))
                .collect();
            let (q, p) = (log_softmax(&x), log_softmax(&shaken));
            // the tail at or below -16 is left out, by the definition of the figure
            base.klds
                .push(p.iter().zip(&q).filter(|(p, _)| **p > -16.0).map(|(p, q)| p.exp() * (p - q)).sum());
            base.nlls.push(-q[chunk[i + 1] as usize]);
            base.nlls_base.push(-p[chunk[i + 1] as usize]);
            base.same_top += usize::from(top(&p) == top(&q));

            let max = p[top(&p)];
            let min = p.iter().copied().fold(f64::INFINITY, f64::min).max(max - 16.0);
            let scale = ((max - min) / 65535.0) as f32;
            base.bytes.extend(scale.to_le_bytes());
            base.bytes.extend((min as f32).to_le_bytes());
            for p in &p {
                let step = ((p - min).max(0.0) / f64::from(scale)).round().min(65535.0);
                base.bytes.extend((step as u16).to_le_bytes());
            }
        }
    }
    base
}

#[test]
fn divergence_is_what_the_distributions_say() {
    let scratch = Scratch::new("divergence");
    let model = load();
    let text = std::fs::read_to_string(TEXT).unwrap();
    let n_ctx = 24;
    let tokens = model.vocab().tokenize(&text, true, false).unwrap();
    let base = make_base(&model, &tokens[..2 * n_ctx], n_ctx);
    let file = scratch.write("base.kl", &base.bytes);
    let result = json(&["perplexity", "-m", &smollm2(), "--kl-base", &file, "--json"]);

    let n = base.klds.len() as f64;
    assert_eq!(number(&result, "/count"), 22.0);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let near = |path: &str, expected: f64, tolerance: f64| {
        let got = number(&result, path);
        assert!((got - expected).abs() < tolerance, "{path}: {got}, expected {expected}\n{result}");
    };
    // 16 bits over a range of 16: steps of 2.4e-4
    assert!(mean(&base.klds) > 0.01);
    near("/kld/value", mean(&base.klds), 2e-4);
    let variance = base.klds.iter().map(|k| (k - mean(&base.klds)).powi(2)).sum::<f64>() / n;
    near("/kld/error", (variance / (n - 1.0)).sqrt(), 1e-4);
    let mut sorted = base.klds.clone();
    sorted.sort_by(f64::total_cmp);
    near("/kld_percentiles/0/value", sorted[21], 2e-4);
    near("/kld_percentiles/5/value", (sorted[10] + sorted[11]) / 2.0, 2e-4);
    near("/kld_percentiles/10/value", sorted[0], 2e-4);
    near("/ppl/value", mean(&base.nlls).exp(), 1e-3);
    near("/ppl_base/value", mean(&base.nlls_base).exp(), 5e-2);
    near("/ln_ppl_ratio/value", mean(&base.nlls) - mean(&base.nlls_base), 1e-3);
    near("/same_top/value", base.same_top as f64 / n, 1e-9);
    let p_diff: Vec<f64> =
        base.nlls.iter().zip(&base.nlls_base).map(|(q, p)| (-q).exp() - (-p).exp()).collect();
    near("/p_diff/value", mean(&p_diff), 1e-4);

    let text = stdout(rocmforge(&["perplexity", "-m", &smollm2(), "--kl-base", &file]));
    for line in ["mean KLD", "median KLD", "99.9% KLD", "same top token", "RMS Δp"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} is not in:\n{text}");
    }
}

#[test]
fn bench_has_the_fields_of_llama_bench() {
    let model = smollm2();
    let results = json(&["bench", "-m", &model, "-p", "16,0", "-n", "4", "-r", "3", "-t", "1", "--json"]);
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), 2);
    for (result, (n_prompt, n_gen)) in results.iter().zip([(16.0, 0.0), (0.0, 4.0)]) {
        assert_eq!(number(result, "/n_prompt"), n_prompt);
        assert_eq!(number(result, "/n_gen"), n_gen);
        assert_eq!(number(result, "/n_threads"), 1.0);
        for field in ["build_commit", "cpu_info", "backends", "model_filename", "model_type", "test_time"] {
            assert!(result[field].as_str().is_some_and(|s| !s.is_empty()), "{field}: {result}");
        }
        assert_eq!(result["model_type"], "llama 135M Q4_1");
        assert_eq!(number(result, "/model_n_params"), 134515008.0);
        // mean and sample deviation of the samples
        let samples: Vec<f64> =
            result["samples_ns"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(samples.len(), 3);
        let mean = samples.iter().sum::<f64>() / 3.0;
        assert!((number(result, "/avg_ns") - mean).abs() <= 1.0);
        let deviation = (samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((number(result, "/stddev_ns") - deviation).abs() <= 1.0);
        for (ns, ts) in samples.iter().zip(result["samples_ts"].as_array().unwrap()) {
            assert!((ts.as_f64().unwrap() - 1e9 * (n_prompt + n_gen) / ns).abs() < 1e-6);
        }
        let mean_ts =
            result["samples_ts"].as_array().unwrap().iter().filter_map(Json::as_f64).sum::<f64>() / 3.0;
        assert!((number(result, "/avg_ts") - mean_ts).abs() < 1e-6);
        assert!(number(result, "/stddev_ts") >= 0.0);
    }
}

#[test]
fn bench_prints_a_table() {
    let model = smollm2();
    let table = stdout(rocmforge(&["bench", "-m", &model, "-p", "8", "-n", "2", "-d", "0,8", "-r", "1"]));
    for test in [" pp8 ", " tg2 ", " pp8 @ d8 ", " tg2 @ d8 "] {
        assert_eq!(table.lines().filter(|l| l.contains(&format!("|{test}|"))).count(), 1, "{test}:\n{table}");
    }
}
