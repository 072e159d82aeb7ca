//! Writes the fixtures of this folder: descriptions of models from llama.cpp's generator, logits from llama.cpp.
//!
//!     cargo run --example record_archs -- PEER [NAME...]
//!
//! PEER is the folder of test-llama-archs and peer_logits (tools/peer_build.sh builds them). A NAME is a fixture's,
//! "llama-moe"; without one every fixture of this folder is recorded anew.

use std::{env, fs};

#[path = "../../common/mod.rs"]
mod common;

use common::archs::{self, Fixture, SEEDS, kept};
use common::generated::{LEAST, Peer, Result};
use common::logits::nmse;

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let peer = Peer::new(args.next().ok_or("usage: record_archs PEER [NAME...]")?)?;
    let mut names: Vec<String> = args.collect();
    if names.is_empty() {
        names = archs::names();
    }
    for name in names {
        let mut fixture = peer.describe(&name)?;
        record(&mut fixture, &peer)?;
        fs::write(archs::folder().join(format!("{name}.gguf")), fixture.build())?;
    }
    Ok(())
}

/// Fills in the logits, and makes sure that they would show a mistake.
fn record(fixture: &mut Fixture, peer: &Peer) -> Result<()> {
    for (s, seed) in SEEDS.into_iter().enumerate() {
        let bytes = fixture.bytes(seed);
        fixture.sha256[s] = archs::sha256(&bytes);
        for i in 0..fixture.tokens.len() {
            let tokens = &fixture.tokens[i];
            let swapped = archs::swapped(tokens);
            let [all, moved] = &peer.logits(&fixture.name, &bytes, &[tokens, &swapped])?[..] else {
                unreachable!("two sequences");
            };
            let n_vocab = all.len() / tokens.len();
            // later positions are of the same tokens
            let moved = nmse(&all[3 * n_vocab..], &moved[3 * n_vocab..]);
            println!("{} seed {seed} sequence {i}: two tokens swapped, NMSE {moved:.1e}", fixture.name);
            assert!(moved >= LEAST, "{}: a mistake might not show", fixture.name);
            let kept = kept(seed, tokens.len()).flat_map(|p| &all[p * n_vocab..][..n_vocab]);
            fixture.logits[s][i] = kept.copied().collect();
        }
    }
    Ok(())
}
