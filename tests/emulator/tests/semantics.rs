//! Every golden case of instruction semantics (oracle/README.md says where they come from and how they read)
//! on the emulator.

use std::collections::{BTreeMap, BTreeSet};

use amdhip64::counters::Counters;
use amdhip64::group::Group;
use amdhip64::isa::{Arch, Inst};
use amdhip64::lds::Lds;
use amdhip64::memory::Memory;
use amdhip64::stop::Fault;
use amdhip64::wave::{ACC, EXEC, M0, VCC, Wave};
use serde_json::Value;

const GOLDEN: &str = include_str!("data/semantics.jsonl");

/// Mnemonics with golden cases that the emulator does not execute, and why. The kernels use none of them
/// (tests/hip_host/instructions.rs).
const NOT_IMPLEMENTED: &[(&str, &str)] = &[];

/// Registers that every case starts with and that must not change unless it says so.
const WATCHED: u16 = 48;

/// A register of a case by its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Register {
    /// v or, from ACC on, a.
    Vector(u16),
    Scalar(u8),
    /// A lane mask at this scalar register.
    Mask(u8),
    Scc,
}

impl Register {
    fn parse(name: &str) -> Register {
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("register {name}"));
        match name {
            "exec" => Register::Mask(EXEC),
            "vcc" => Register::Mask(VCC),
            "exec_lo" => Register::Scalar(EXEC),
            "exec_hi" => Register::Scalar(EXEC + 1),
            "m0" => Register::Scalar(M0),
            "scc" => Register::Scc,
            _ if name.starts_with("mask:s") => Register::Mask(number(&name[6..]) as u8),
            _ if name.starts_with('v') => Register::Vector(number(&name[1..])),
            _ if name.starts_with('a') => Register::Vector(ACC + number(&name[1..])),
            _ if name.starts_with('s') => Register::Scalar(number(&name[1..]) as u8),
            _ => panic!("register {name}"),
        }
    }
}

/// Words of 8 hex digits.
fn words(text: &str) -> Vec<u32> {
    assert_eq!(text.len() % 8, 0, "{text}");
    (0..text.len()).step_by(8).map(|at| u32::from_str_radix(&text[at..at + 8], 16).unwrap()).collect()
}

/// scc, one digit a row.
fn digits(text: &str) -> Vec<u32> {
    text.chars().map(|c| c.to_digit(2).unwrap()).collect()
}

#[derive(Clone)]
struct Expected {
    shape: String,
    words: Vec<u32>,
}

struct Case {
    /// Targets, each with texts.
    asm: Vec<(String, String)>,
    before: Vec<(Register, Vec<u32>)>,
    after: BTreeMap<Register, Expected>,
    ulp: u64,
    error: f64,
    /// Executions of a scalar instruction; 0: one execution, a word per lane.
    rows: usize,
}

fn cases() -> Vec<Case> {
    let mut lines = GOLDEN.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let columns: BTreeMap<String, Vec<u32>> = lines.next().unwrap()["columns"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, text)| (name.clone(), words(text.as_str().unwrap())))
        .collect();
    lines
        .map(|line| {
            let mut asm = Vec::new();
            for (targets, texts) in line["asm"].as_object().unwrap() {
                for target in targets.split(' ') {
                    asm.extend(
                        texts
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|t| (target.to_owned(), t.as_str().unwrap().to_owned())),
                    );
                }
            }
            let before = line["in"].as_object().unwrap().iter().map(|(name, from)| {
                let (register, from) = (Register::parse(name), from.as_str().unwrap());
                let values = match from.strip_prefix('=') {
                    Some(bits) if register == Register::Scc => digits(bits),
                    Some(text) => words(text),
                    None => columns[from].clone(),
                };
                (register, values)
            });
            let after = line["out"].as_object().unwrap().iter().map(|(name, to)| {
                let register = Register::parse(name);
                let expected = match to {
                    Value::String(text) if register == Register::Scc => {
                        Expected { shape: "b32".into(), words: digits(text) }
                    }
                    Value::String(text) => Expected { shape: "b32".into(), words: words(text) },
                    _ => Expected {
                        shape: to[0].as_str().unwrap().to_owned(),
                        words: words(to[1].as_str().unwrap()),
                    },
                };
                (register, expected)
            });
            Case {
                asm,
                before: before.collect(),
                after: after.collect(),
                ulp: line["ulp"].as_u64().unwrap_or(0),
                error: line["error"].as_f64().unwrap_or(0.0),
                rows: line["rows"].as_u64().unwrap_or(0) as usize,
            }
        })
        .collect()
}

/// Exponent and fraction bits of a float type.
fn layout(shape: &str) -> Option<(u32, u32)> {
    match shape {
        "f16" => Some((5, 10)),
        "bf16" => Some((8, 7)),
        "f32" => Some((8, 23)),
        "f64" => Some((11, 52)),
        _ => None,
    }
}

fn value(bits: u64, (exponent, fraction): (u32, u32)) -> f64 {
    let (e, f) = (bits >> fraction & ((1 << exponent) - 1), bits & ((1 << fraction) - 1));
    let bias = (1 << (exponent - 1)) - 1;
    let magnitude = match e {
        0 => f as f64 * 2f64.powi(1 - bias - fraction as i32),
        _ => (f + (1 << fraction)) as f64 * 2f64.powi(e as i32 - bias - fraction as i32),
    };
    if bits >> (exponent + fraction) & 1 == 1 { -magnitude } else { magnitude }
}

/// One float: equal bits, two NaNs, or as near as the case allows.
fn float_agrees(case: &Case, layout: (u32, u32), want: u64, got: u64) -> bool {
    let (exponent, fraction) = layout;
    let infinity = ((1u64 << exponent) - 1) << fraction;
    let magnitude = (1u64 << (exponent + fraction)) - 1;
    let nan = |bits: u64| bits & magnitude > infinity;
    if want == got || nan(want) && nan(got) {
        return true;
    }
    if nan(want) || nan(got) {
        return false;
    }
    if case.error > 0.0 {
        return (value(want, layout) - value(got, layout)).abs() <= case.error;
    }
    if case.ulp == 0 || (want ^ got) >> (exponent + fraction) & 1 != 0 {
        return false;
    }
    let (want, got) = (want & magnitude, got & magnitude);
    want.abs_diff(got) <= case.ulp || got == 0 && want >> fraction == 0
}

/// A word against the expected one; `high` are the words of the next register, for f64.
fn agrees(case: &Case, shape: &str, want: (u32, u32), got: (u32, u32)) -> bool {
    let halves = |x: u32| [x as u64 & 0xffff, x as u64 >> 16];
    let ((want_low, want_high), (got_low, got_high)) = (want, got);
    let [want0, want1] = halves(want_low);
    let [got0, got1] = halves(got_low);
    match shape {
        "b32" | "b16" => want_low == got_low,
        "b16.low" => want0 == got0,
        "f32" => float_agrees(case, layout("f32").unwrap(), want_low as u64, got_low as u64),
        "f16" | "bf16" => float_agrees(case, layout(shape).unwrap(), want0, got0) && want1 == got1,
        "f16.low" | "bf16.low" => float_agrees(case, layout(&shape[..shape.len() - 4]).unwrap(), want0, got0),
        "f16.high" => float_agrees(case, layout("f16").unwrap(), want1, got1) && want0 == got0,
        "2f16" | "2bf16" => {
            let layout = layout(&shape[1..]).unwrap();
            float_agrees(case, layout, want0, got0) && float_agrees(case, layout, want1, got1)
        }
        "f64" => {
            let wide = |low: u32, high: u32| low as u64 | (high as u64) << 32;
            float_agrees(case, layout("f64").unwrap(), wide(want_low, want_high), wide(got_low, got_high))
        }
        _ => panic!("shape {shape}"),
    }
}

/// A wave whose watched registers hold what no case computes.
fn prepared(lanes: usize) -> Wave {
    let mut wave = Wave::new(lanes);
    for n in (0..WATCHED).chain(ACC..ACC + WATCHED) {
        let values = std::array::from_fn(|lane| 0xa500_0000 | (n as u32) << 8 | lane as u32);
        wave.set_vgpr(n, u64::MAX, &values);
    }
    for n in 0..WATCHED as u8 {
        wave.set_sgpr(n, 0x5a00_0000 | n as u32);
    }
    wave.set_sgpr(M0, 0x5a5a_5a5a);
    wave.set_sgpr64(VCC, 0x1234_5678_9abc_def0);
    wave.set_scc(true);
    wave
}

/// Sets a register for execution `row` of a scalar instruction, or all lanes of it.
fn set(wave: &mut Wave, case: &Case, register: Register, values: &[u32], row: usize) {
    let here = if values.len() == 1 { values[0] } else { values[row % values.len()] };
    match register {
        Register::Scc => wave.set_scc(here != 0),
        Register::Scalar(n) => wave.set_sgpr(n, here),
        Register::Mask(n) => wave.set_mask(n, values[0] as u64 | (values[0] as u64) << 32),
        Register::Vector(n) => {
            assert!(case.rows == 0 && !values.is_empty());
            wave.set_vgpr(n, u64::MAX, &std::array::from_fn(|lane| values[lane % values.len()]));
        }
    }
}

#[derive(Default)]
struct Outcome {
    passed: usize,
    /// Texts that the emulator does not know, with the reason.
    unknown: Vec<(String, String)>,
    wrong: Vec<String>,
}

fn run(case: &Case, target: &str, text: &str, arch: &Arch, fresh: &Wave, outcome: &mut Outcome) {
    let memory = Memory::default();
    let inst = match Inst::parse(text, arch) {
        Ok(inst) => inst,
        Err(why) => return outcome.unknown.push((text.to_owned(), why)),
    };
    for row in 0..case.rows.max(1) {
        let mut start = fresh.clone();
        for (register, values) in &case.before {
            set(&mut start, case, *register, values, row);
        }
        let mut wave = start.clone();
        let mut group = Group { memory: &memory, lds: Lds::new(0), counters: Counters::default() };
        match inst.execute(&mut wave, &mut group) {
            Ok(()) => {}
            Err(fault) if fault.fault == Fault::UnknownOpcode => {
                return outcome.unknown.push((text.to_owned(), "no semantics".into()));
            }
            Err(fault) => {
                return outcome
                    .wrong
                    .push(format!("{target} `{text}`: stopped: {} in {:?}", fault.fault, fault.lane));
            }
        }
        if let Some(difference) = difference(case, row, &start, &wave) {
            let inputs: Vec<_> =
                case.before.iter().map(|(register, _)| shown(*register, &start, &difference)).collect();
            return outcome.wrong.push(format!(
                "{target} `{text}`{}: {} with {}",
                if case.rows > 0 { format!(" row {row}") } else { String::new() },
                difference.message,
                inputs.join(", ")
            ));
        }
    }
    outcome.passed += 1;
}

struct Difference {
    lane: usize,
    message: String,
}

fn shown(register: Register, wave: &Wave, at: &Difference) -> String {
    match register {
        Register::Vector(n) => format!("v{n}={:08x}", wave.vgpr[n as usize][at.lane]),
        Register::Scalar(n) => format!("s{n}={:08x}", wave.sgpr[n as usize]),
        Register::Mask(n) => format!("mask {n}={:x}", wave.mask(n)),
        Register::Scc => format!("scc={}", wave.scc as u8),
    }
}

/// The first register and lane that are not as expected; what no expectation names must be as before.
fn difference(case: &Case, row: usize, start: &Wave, end: &Wave) -> Option<Difference> {
    let mut masked = BTreeSet::new();
    for register in case.after.keys() {
        if let Register::Mask(n) = register {
            masked.insert(*n);
            if end.lanes == 64 {
                masked.insert(n + 1);
            }
        }
    }
    for n in (0..WATCHED).chain(ACC..ACC + WATCHED) {
        let expected = case.after.get(&Register::Vector(n));
        let of = |register: u16, lane: usize| match case.after.get(&Register::Vector(register)) {
            Some(e) => e.words[lane % e.words.len()],
            None => start.vgpr[register as usize][lane],
        };
        // The upper word of a double is compared with the lower one.
        let upper = n > 0 && case.after.get(&Register::Vector(n - 1)).is_some_and(|e| e.shape == "f64");
        if upper && n % 2 == 1 {
            continue;
        }
        if expected.is_none() && start.vgpr[n as usize] == end.vgpr[n as usize] {
            continue;
        }
        let shape = expected.map_or("b32", |e| e.shape.as_str());
        for lane in 0..end.lanes {
            let (want, got) = (
                (of(n, lane), of(n + 1, lane)),
                (end.vgpr[n as usize][lane], end.vgpr[n as usize + 1][lane]),
            );
            let active = start.exec() >> lane & 1 != 0;
            let equal = if active { agrees(case, shape, want, got) } else { want.0 == got.0 };
            if !equal {
                let message =
                    format!("v{n} lane {lane} is {:08x} instead of {:08x} ({shape})", got.0, want.0);
                return Some(Difference { lane, message });
            }
        }
    }
    let scalars = (0..WATCHED as u8).chain([VCC, VCC + 1, M0, EXEC, EXEC + 1]);
    for n in scalars.filter(|n| !masked.contains(n)) {
        let expected = case.after.get(&Register::Scalar(n));
        let want = expected.map_or(start.sgpr[n as usize], |e| e.words[row % e.words.len()]);
        let shape = expected.map_or("b32", |e| e.shape.as_str());
        let got = end.sgpr[n as usize];
        if !agrees(case, shape, (want, 0), (got, 0)) {
            return Some(Difference {
                lane: 0,
                message: format!("s{n} is {got:08x} instead of {want:08x} ({shape})"),
            });
        }
    }
    for (register, expected) in &case.after {
        if let Register::Mask(n) = *register {
            let want = (expected.words[0] as u64 | (expected.words[0] as u64) << 32) & end.all();
            let got = end.mask(n);
            if want != got {
                let lane = (want ^ got).trailing_zeros() as usize;
                let message = format!("mask {n} is {got:x} instead of {want:x}, first in lane {lane}");
                return Some(Difference { lane, message });
            }
        }
    }
    let scc = case.after.get(&Register::Scc).map_or(start.scc, |e| e.words[row] != 0);
    (scc != end.scc).then(|| Difference { lane: 0, message: format!("scc is {}", end.scc as u8) })
}

/// Without what tells the encoding, as the emulator names instructions.
fn mnemonic(text: &str) -> &str {
    let word = text.split_whitespace().next().unwrap();
    ["_e64_dpp", "_dpp", "_sdwa", "_e32", "_e64"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word)
}

#[test]
fn every_golden_case() {
    let cases = cases();
    let (mut failures, mut missing) = (Vec::new(), BTreeSet::new());
    for target in ["gfx1100", "gfx1201", "gfx942", "gfx90a"] {
        let arch = Arch::parse(target).unwrap();
        let fresh = prepared(arch.lanes());
        let mut outcome = Outcome::default();
        let mut texts = 0;
        for case in &cases {
            for (_, text) in case.asm.iter().filter(|(t, _)| t == target) {
                texts += 1;
                run(case, target, text, &arch, &fresh, &mut outcome);
            }
        }
        let unknown: BTreeSet<&str> = outcome.unknown.iter().map(|(text, _)| mnemonic(text)).collect();
        println!(
            "{target}: {texts} golden instructions: {} agree, {} differ, {} are not implemented ({} mnemonics: {})",
            outcome.passed,
            outcome.wrong.len(),
            outcome.unknown.len(),
            unknown.len(),
            unknown.iter().copied().collect::<Vec<_>>().join(" "),
        );
        assert_eq!(texts, outcome.passed + outcome.wrong.len() + outcome.unknown.len());
        assert!(outcome.passed > 0, "{target}: no golden case");
        failures.extend(outcome.wrong);
        let listed = |text: &str| NOT_IMPLEMENTED.iter().any(|(name, _)| *name == mnemonic(text));
        let unlisted = outcome.unknown.iter().filter(|(text, _)| !listed(text));
        failures.extend(unlisted.map(|(text, why)| format!("{target} `{text}`: {why}")));
        missing.extend(outcome.unknown.iter().map(|(text, _)| mnemonic(text).to_owned()));
    }
    for (name, _) in NOT_IMPLEMENTED {
        assert!(missing.contains(*name), "{name} is implemented: take it off NOT_IMPLEMENTED");
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}
