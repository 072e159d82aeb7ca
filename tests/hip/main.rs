//! What runs on cards: every operation, whole models, memory. On every emulated card, or on a real GPU with
//! ROCMFORGE_TEST_GPU=1.

#[path = "../common/mod.rs"]
mod common;

mod decode;
mod experts;
mod latent;
mod memory;
mod model;
mod ops;
mod paper;
mod prefill;
mod sampling;

use std::process::ExitCode;

use common::gpu::{EMULATED, Group};

const GROUPS: &[Group] = &[
    Group { name: "ops", tests: ops::TESTS, cards: &EMULATED },
    Group { name: "decode", tests: decode::TESTS, cards: &EMULATED },
    Group { name: "experts", tests: experts::TESTS, cards: &EMULATED },
    Group { name: "prefill", tests: prefill::TESTS, cards: &EMULATED },
    Group { name: "latent", tests: latent::TESTS, cards: &EMULATED },
    Group { name: "sampling", tests: sampling::TESTS, cards: &EMULATED },
    // gfx90a computes as gfx942 does
    Group { name: "model", tests: model::TESTS, cards: EMULATED.first_chunk::<3>().unwrap() },
    // what is tested there knows no architecture
    Group { name: "memory", tests: memory::TESTS, cards: &["gfx1100"] },
    Group { name: "paper", tests: paper::TESTS, cards: &[paper::CARD] },
];

fn main() -> ExitCode {
    paper::asked_for_the_table().unwrap_or_else(|| common::gpu::main(GROUPS))
}
