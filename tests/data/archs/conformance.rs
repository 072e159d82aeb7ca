//! Holds this library's logits against llama.cpp's: all models that its generator describes, with weights of a seed.
//!
//!     cargo run --release --example conformance -- PEER [--seed N] [--device reference,cpu,hip] [NAME...]
//!
//! A line a model: how far two swapped tokens move llama.cpp's logits, and each device's normalized mean squared error
//! over all ways to cut two sequences into steps, or why the model is refused. The exit status is 1 where one is above
//! its bound.

use std::sync::Arc;
use std::{env, process};

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
    names: Vec<String>,
}

fn args() -> Result<Args> {
    let mut words = env::args().skip(1);
    let peer = words.next().ok_or("usage: conformance PEER [--seed N] [--device LIST] [NAME...]")?;
    let mut args =
        Args { peer, seed: 1, devices: vec![DeviceKind::Reference, DeviceKind::Cpu], names: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--seed" => args.seed = value()?.parse()?,
            "--device" => args.devices = value()?.split(',').map(device).collect::<Result<_>>()?,
            _ => args.names.push(word),
        }
    }
    Ok(args)
}

fn device(name: &str) -> Result<DeviceKind> {
    match name {
        "reference" => Ok(DeviceKind::Reference),
        "cpu" => Ok(DeviceKind::Cpu),
        "hip" => Ok(DeviceKind::Hip),
        other => Err(format!("no device is called {other}").into()),
    }
}

fn main() -> Result<()> {
    let args = args()?;
    let peer = Peer::new(&args.peer)?;
    let names = if args.names.is_empty() { peer.names()? } else { args.names.clone() };
    let (mut followed, mut failed) = (0, 0);
    for name in &names {
        let fixture = peer.describe(name)?;
        match follow(&peer, &fixture, &args) {
            Ok((line, fits)) => {
                println!("{name}: {line}");
                followed += u32::from(fits);
                failed += u32::from(!fits);
            }
            Err(e) => println!("{name}: refused: {e}"),
        }
    }
    println!("{followed} of {} follow llama.cpp, {failed} do not, the others are refused", names.len());
    process::exit(i32::from(failed > 0));
}

/// The model's line, and whether all of it is within bounds.
fn follow(peer: &Peer, fixture: &Fixture, args: &Args) -> Result<(String, bool)> {
    let bytes = fixture.bytes(args.seed);
    let file = Arc::new(Gguf::from_bytes(bytes.clone(), &fixture.name)?);
    archs::load(DeviceKind::Reference, file.clone())?;
    let [first, second] = &fixture.tokens;
    let truth = peer.logits(&fixture.name, &bytes, &[first, second, &archs::swapped(first)])?;
    let row = truth[0].len() / LENGTHS[0];
    let moved = nmse(&truth[0][3 * row..], &truth[2][3 * row..]);
    let (mut line, mut fits) = (format!("two tokens swapped {moved:.0e}"), moved >= LEAST);
    for device in &args.devices {
        let most = if *device == DeviceKind::Reference { 1e-8 } else { 1e-5 };
        let model = archs::load(*device, file.clone())?;
        for (what, cut) in archs::cuts(&fixture.name) {
            let is_one = cut(1)[1] == 0;
            let sequences = [&first[..], if is_one { &[] } else { &second[..] }];
            let logits = evaluate(&model, sequences, (0..).map(*cut));
            let errors = truth.iter().zip(&logits).filter(|(_, logits)| !logits.is_empty());
            let worst = errors.map(|(truth, logits)| nmse(truth, logits)).fold(0.0, nan_max);
            fits &= worst <= most;
            let word = if worst <= most { "" } else { " (!)" };
            line += &format!("; {device:?} {what} {worst:.1e}{word}");
        }
    }
    Ok((line, fits))
}

/// The larger one; what is no number is larger than all.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
