//! Every instruction of the kernels on the emulated targets: the emulator knows it, and what it does there is tested
//! against AMD's pseudo-code (tests/emulator/oracle). So a kernel that brings a new instruction brings a new case.

use std::collections::{BTreeMap, BTreeSet};

use amdhip64::isa::{Arch, Disassembly, Inst};
use rocmforge::device::hip::code_object;

const TARGETS: [&str; 4] = ["gfx1100", "gfx1201", "gfx90a", "gfx942"];

const GOLDEN: &str = include_str!("../emulator/tests/data/semantics.jsonl");

/// Beginnings of the names that no golden case has, with the reason: what they do is not the registers' contents
/// alone. The emulator's own tests are about these.
const ELSEWHERE: &[(&str, &str)] = &[
    ("global_", "memory"),
    ("flat_", "memory"),
    ("buffer_", "memory and caches"),
    ("s_load_", "memory"),
    ("s_buffer_load_", "memory"),
    ("ds_load_", "LDS"),
    ("ds_store_", "LDS"),
    ("ds_read", "LDS"),
    ("ds_write", "LDS"),
    ("ds_add_", "LDS"),
    ("ds_max_", "LDS"),
    ("ds_min_", "LDS"),
    ("s_branch", "the program counter"),
    ("s_cbranch_", "the program counter"),
    ("s_endpgm", "the program counter"),
    ("s_code_end", "never executed"),
    ("s_getpc_", "the program counter"),
    ("s_setpc_", "the program counter"),
    ("s_swappc_", "the program counter"),
    ("s_barrier", "the group's waves"),
    ("s_wait", "no effect but time"),
    ("s_delay_alu", "no effect but time"),
    ("s_clause", "no effect but time"),
    ("s_nop", "no effect but time"),
    ("s_sleep", "no effect but time"),
    ("s_setprio", "no effect but time"),
    ("s_set_inst_prefetch_distance", "no effect but time"),
    ("s_inst_prefetch", "no effect but time"),
    ("s_prefetch_", "no effect but time"),
    ("s_sendmsg", "the end of a wave"),
];

/// Modifiers of these are addresses and cache policy.
fn elsewhere(mnemonic: &str) -> bool {
    ELSEWHERE.iter().any(|(start, _)| mnemonic.starts_with(start))
}

/// An instruction's name less its encoding, and the names of its modifiers; two of each for a VOPD.
fn parts(text: &str) -> Vec<(&str, Vec<&str>)> {
    const ENCODINGS: [&str; 5] = ["_e64_dpp", "_dpp", "_sdwa", "_e32", "_e64"];
    let halves = text.split("//").next().unwrap().split(" :: ").map(str::trim);
    halves
        .map(|half| {
            let (name, rest) = half.split_once(char::is_whitespace).unwrap_or((half, ""));
            let name = ENCODINGS.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            // operands end with a comma, but for the last one
            let words = rest.split_whitespace().skip_while(|word| word.ends_with(',')).skip(1);
            (name, words.map(|word| word.split(':').next().unwrap()).collect())
        })
        .collect()
}

/// Names and modifiers that some case has, by target.
fn golden() -> BTreeMap<String, BTreeSet<String>> {
    let mut tested = BTreeMap::<String, BTreeSet<String>>::new();
    for line in GOLDEN.lines().skip(1) {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        for (targets, texts) in case["asm"].as_object().unwrap() {
            for text in texts.as_array().unwrap() {
                for (mnemonic, modifiers) in parts(text.as_str().unwrap()) {
                    for target in targets.split(' ') {
                        let tested = tested.entry(target.to_owned()).or_default();
                        tested.insert(mnemonic.to_owned());
                        tested.extend(modifiers.iter().map(|m| (*m).to_owned()));
                    }
                }
            }
        }
    }
    tested
}

#[test]
fn every_instruction_of_the_kernels_is_known_and_tested() {
    let golden = golden();
    let mut faults = BTreeSet::new();
    for target in TARGETS {
        let arch = Arch::parse(target).unwrap();
        let objects = code_object::for_arch(0, target).unwrap().open_all().unwrap();
        let read: Vec<_> =
            objects.iter().map(|object| Disassembly::of(&object.bytes, &arch).unwrap()).collect();
        let (mut lines, mut mnemonics) = (0, BTreeSet::new());
        let of_each = objects.iter().zip(&read);
        for (disassembly, kernel) in of_each.flat_map(|(o, d)| o.kernels.iter().map(move |k| (d, k))) {
            let text = disassembly.function(&kernel.name).expect("machine code of every kernel");
            assert!(!text.is_empty(), "{target} {}", kernel.name);
            for line in text {
                lines += 1;
                if let Err(why) = Inst::parse(line, &arch) {
                    faults.insert(format!(
                        "{target} {}: the emulator cannot read `{}`: {why}",
                        kernel.name,
                        line.trim()
                    ));
                }
                for (mnemonic, modifiers) in parts(line.trim()) {
                    mnemonics.insert(mnemonic.to_owned());
                    if elsewhere(mnemonic) {
                        continue;
                    }
                    let untested =
                        [mnemonic].into_iter().chain(modifiers).filter(|m| !golden[target].contains(*m));
                    faults.extend(
                        untested.map(|m| format!("{target} {}: no golden case has {m}", kernel.name)),
                    );
                }
            }
        }
        let tested = mnemonics.iter().filter(|m| !elsewhere(m)).count();
        println!(
            "{target}: {lines} instructions, {} mnemonics, {tested} of them with golden cases",
            mnemonics.len()
        );
        assert!(lines > 1000 && tested > 50, "{target}: {lines} instructions, {tested} mnemonics");
    }
    assert!(
        faults.is_empty(),
        "{} (tests/emulator/oracle/README.md tells how cases are made):\n{}",
        faults.len(),
        faults.into_iter().collect::<Vec<_>>().join("\n")
    );
}
