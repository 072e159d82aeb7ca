//! Holds this library's logits against llama.cpp's: all models that its generator describes and variants of them, with
//! weights of a seed.
//!
//!     cargo run --release --example conformance -- PEER [--seed N] [--device reference,cpu,hip] [--write FILE] [NAME...]
//!
//! A line a model: how far two swapped tokens move llama.cpp's logits, and each device's normalized mean squared error,
//! the worst of all ways to cut two sequences into steps, or why the model is refused. --write makes a table of them. The
//! exit status is 1 where an error is above its bound.

use std::fmt::Write;
use std::sync::Arc;
use std::{env, fs, process};

use rocmforge::engine::DeviceKind;
use rocmforge::gguf::Gguf;

#[path = "../../common/mod.rs"]
mod common;

use common::archs::{self, Fixture, LENGTHS, evaluate};
use common::generated::{LEAST, Peer, Result};
use common::logits::nmse;

struct Args {
    peer: String,
    seed: u64,
    devices: Vec<DeviceKind>,
    write: Option<String>,
    names: Vec<String>,
}

fn args() -> Result<Args> {
    let mut words = env::args().skip(1);
    let peer =
        words.next().ok_or("usage: conformance PEER [--seed N] [--device LIST] [--write FILE] [NAME...]")?;
    let devices = vec![DeviceKind::Reference, DeviceKind::Cpu];
    let mut args = Args { peer, seed: 1, devices, write: None, names: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--seed" => args.seed = value()?.parse()?,
            "--device" => args.devices = value()?.split(',').map(device).collect::<Result<_>>()?,
            "--write" => args.write = Some(value()?),
            _ => args.names.push(word),
        }
    }
    Ok(args)
}

const DEVICES: [(&str, DeviceKind); 3] =
    [("reference", DeviceKind::Reference), ("cpu", DeviceKind::Cpu), ("hip", DeviceKind::Hip)];

fn device(name: &str) -> Result<DeviceKind> {
    let found = DEVICES.iter().find(|(known, _)| *known == name);
    Ok(found.ok_or_else(|| format!("no device is called {name}"))?.1)
}

fn main() -> Result<()> {
    let args = args()?;
    let peer = Peer::new(&args.peer)?;
    let names = if args.names.is_empty() { peer.names()? } else { args.names.clone() };
    let mut found = Vec::new();
    for name in names {
        let fixture = peer.describe(&name)?;
        let outcome = follow(&peer, &fixture, &args);
        println!("{name}: {}", line(&outcome));
        found.push((name, outcome));
    }
    let count = |fits: bool| found.iter().filter(|(_, o)| o.as_ref().is_ok_and(|o| o.fits() == fits)).count();
    let (followed, failed) = (count(true), count(false));
    println!("{followed} of {} follow llama.cpp, {failed} do not, the others are refused", found.len());
    if let Some(path) = &args.write {
        fs::write(path, table(&args, &found))?;
    }
    process::exit(i32::from(failed > 0));
}

/// What came of a model that loads.
struct Outcome {
    /// By how much two swapped tokens move llama.cpp's logits.
    moved: f64,
    /// The worst error of each device.
    errors: Vec<(DeviceKind, f64)>,
}

impl Outcome {
    fn fits(&self) -> bool {
        self.moved >= LEAST && self.errors.iter().all(|(device, error)| *error <= bound(*device))
    }
}

fn bound(device: DeviceKind) -> f64 {
    if device == DeviceKind::Reference { 1e-8 } else { 1e-5 }
}

fn follow(peer: &Peer, fixture: &Fixture, args: &Args) -> Result<Outcome> {
    let bytes = fixture.bytes(args.seed);
    let file = Arc::new(Gguf::from_bytes(bytes.clone(), &fixture.name)?);
    archs::load(DeviceKind::Reference, file.clone())?;
    let [first, second] = &fixture.tokens;
    let truth = peer.logits(&fixture.name, &bytes, &[first, second, &archs::swapped(first)])?;
    let row = truth[0].len() / LENGTHS[0];
    let mut outcome = Outcome { moved: nmse(&truth[0][3 * row..], &truth[2][3 * row..]), errors: Vec::new() };
    for device in &args.devices {
        let model = archs::load(*device, file.clone())?;
        let mut worst = 0.0;
        for (_, cut) in archs::cuts(&fixture.name) {
            let is_one = cut(1)[1] == 0;
            let sequences = [&first[..], if is_one { &[] } else { &second[..] }];
            let logits = evaluate(&model, sequences, (0..).map(*cut));
            let errors = truth.iter().zip(&logits).filter(|(_, logits)| !logits.is_empty());
            worst = errors.map(|(truth, logits)| nmse(truth, logits)).fold(worst, nan_max);
        }
        outcome.errors.push((*device, worst));
    }
    Ok(outcome)
}

/// The larger one; what is no number is larger than all.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn line(outcome: &Result<Outcome>) -> String {
    match outcome {
        Ok(outcome) => {
            let mut line = format!("two tokens swapped {:.0e}", outcome.moved);
            for (device, error) in &outcome.errors {
                let mark = if *error <= bound(*device) { "" } else { " (!)" };
                let _ = write!(line, "; {device:?} {error:.1e}{mark}");
            }
            line
        }
        Err(e) => format!("refused: {e}"),
    }
}

/// docs/COMPATIBILITY.md.
fn table(args: &Args, found: &[(String, Result<Outcome>)]) -> String {
    let follows = found.iter().filter(|(_, o)| o.as_ref().is_ok_and(Outcome::fits)).count();
    let mut text = format!(
        "# Architectures beside llama.cpp\n\n\
         `make conformance` writes this file. Each row is a small model that llama.cpp's own generator \
         (`test-llama-archs` of llama-cpp-python 0.3.36) describes: NAME-dense and NAME-moe, or a variant of one with what \
         the generator cannot show (grouped heads, more layers, scaled rotations, windows, groups of experts). Weights are \
         strong ones of seed {}, with 2 of 4 experts chosen. A figure is the normalized mean squared error of the logits of \
         80 tokens beside llama.cpp's with an f32 cache, the worst of one batch, token by token, and two interleaved \
         sequences; at most 1e-8 on the reference, and 1e-5 where keys and values are f16. The last column says by how much \
         two swapped tokens move llama.cpp's own logits: what a mistake would look like.\n\n\
         {follows} of {} models follow llama.cpp.\n\n| model |",
        args.seed,
        found.len()
    );
    let names = |device| DEVICES.iter().find(|(_, known)| *known == device).map_or("", |(name, _)| name);
    for device in &args.devices {
        let _ = write!(text, " {} |", names(*device));
    }
    let _ = writeln!(text, " two tokens swapped |\n| --- |{} ---: |", " ---: |".repeat(args.devices.len()));
    let mut refused = String::new();
    for (name, outcome) in found {
        match outcome {
            Ok(outcome) => {
                let _ = write!(text, "| {name} |");
                for (device, error) in &outcome.errors {
                    let mark = if *error <= bound(*device) { "" } else { " (above the bound)" };
                    let _ = write!(text, " {error:.1e}{mark} |");
                }
                let _ = writeln!(text, " {:.0e} |", outcome.moved);
            }
            Err(e) => {
                let why = e.to_string();
                let _ =
                    writeln!(refused, "| {name} | {} |", why.split("; supported").next().unwrap_or_default());
            }
        }
    }
    if !refused.is_empty() {
        let _ = write!(text, "\n## Refused\n\n| model | why |\n| --- | --- |\n{refused}");
    }
    text
}
