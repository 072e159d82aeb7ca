//! The transcendental instructions give the nearest value, on inputs where an error far below one unit in the last
//! place shows (oracle/nearest.py says how they were chosen); and f16 sums of products are rounded once.

use amdhip64::counters::Counters;
use amdhip64::group::Group;
use amdhip64::isa::{Arch, Inst, floats};
use amdhip64::lds::Lds;
use amdhip64::memory::Memory;
use amdhip64::wave::Wave;
use half::f16;
use serde_json::Value;

const GOLDEN: &str = include_str!("data/nearest.jsonl");

/// Numbers of so many hex digits.
fn numbers(text: &Value, digits: usize) -> Vec<u64> {
    let text = text.as_str().unwrap();
    assert_eq!(text.len() % digits, 0);
    (0..text.len())
        .step_by(digits)
        .map(|at| u64::from_str_radix(&text[at..at + digits], 16).unwrap())
        .collect()
}

/// Executes `text` with v[0:1] or s[0:1] as its source, and returns what v[2:3] or s[2:3] hold, of so many bits.
fn execute(text: &str, arch: &Arch, inputs: &[u64], bits: usize) -> Vec<u64> {
    let inst = Inst::parse(text, arch).unwrap_or_else(|why| panic!("{text}: {why}"));
    let memory = Memory::default();
    let scalar = text.starts_with("v_s_");
    let mut results = Vec::new();
    for chunk in inputs.chunks(if scalar { 1 } else { arch.lanes() }) {
        let mut wave = Wave::new(arch.lanes());
        for (n, shift) in [(0, 0), (1, 32), (2, 0), (3, 0)] {
            let word = |lane: usize| chunk.get(lane).map_or(0, |value| (value >> shift) as u32);
            wave.set_vgpr(n, u64::MAX, &std::array::from_fn(word));
            wave.set_sgpr(n as u8, word(0));
        }
        let mut group = Group { memory: &memory, lds: Lds::new(0), counters: Counters::default() };
        inst.execute(&mut wave, &mut group).unwrap();
        for lane in 0..chunk.len() {
            let [low, high] =
                if scalar { [wave.sgpr[2], wave.sgpr[3]] } else { [wave.vgpr[2][lane], wave.vgpr[3][lane]] };
            results.push((low as u64 | (high as u64) << 32) & (u64::MAX >> (64 - bits)));
        }
    }
    results
}

#[test]
fn every_golden_value() {
    let mut executed = 0;
    for line in GOLDEN.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let function = line["function"].as_str().unwrap();
        let (bits, registers) = match &function[function.len() - 3..] {
            "f16" => (16, "v2, v0"),
            "f32" => (32, "v2, v0"),
            _ => (64, "v[2:3], v[0:1]"),
        };
        let (inputs, want) = (numbers(&line["in"], bits / 4), numbers(&line["out"], bits / 4));
        assert_eq!(inputs.len(), 256);
        for target in ["gfx1100", "gfx1201", "gfx942", "gfx90a"] {
            let arch = Arch::parse(target).unwrap();
            let mut texts = vec![format!("v_{function}_e32 {registers}")];
            if target == "gfx1201"
                && bits < 64
                && !function.starts_with("sin")
                && !function.starts_with("cos")
            {
                texts.push(format!("v_s_{function} s2, s0"));
            }
            for text in texts {
                executed += 1;
                let got = execute(&text, &arch, &inputs, bits);
                let wrong: Vec<_> = (0..inputs.len()).filter(|&i| got[i] != want[i]).collect();
                let shown =
                    wrong.first().map(|&i| format!("{:x} gives {:x}, not {:x}", inputs[i], got[i], want[i]));
                assert!(
                    wrong.is_empty(),
                    "{target} `{text}`: {} of 256 differ: {}",
                    wrong.len(),
                    shown.unwrap()
                );
            }
        }
    }
    assert_eq!(executed, 17 * 4 + 10);
}

#[test]
fn sines_of_whole_quarters_are_exact() {
    let quarters: Vec<u64> = (-8..8).map(|n| (n as f32 / 4.0).to_bits() as u64).collect();
    for (text, ahead) in [("v_sin_f32_e32 v2, v0", 0), ("v_cos_f32_e32 v2, v0", 1)] {
        let results = execute(text, &Arch::parse("gfx1100").unwrap(), &quarters, 32);
        let exact =
            (-8i32..8).map(|n| [0f32, 1.0, 0.0, -1.0][(n + ahead).rem_euclid(4) as usize].to_bits() as u64);
        assert_eq!(results, exact.collect::<Vec<_>>(), "{text}");
    }
    assert!(floats::sin_turns(-0.0).is_sign_negative() && floats::sin_turns(f64::INFINITY).is_nan());
}

#[test]
fn special_operands_of_roots_in_double_precision() {
    let infinity = f64::INFINITY;
    for (x, y) in [(f64::MAX, 2f64.powi(-512)), (0.0, infinity), (-0.0, -infinity), (infinity, 0.0)] {
        assert_eq!(floats::rsq64(x), y, "{x:e}");
    }
    assert_eq!(floats::rsq64(5e-324), 2f64.powi(537));
    assert!(floats::rsq64(-1.0).is_nan() && floats::rsq64(f64::NAN).is_nan());
}

/// A sum just beside the middle of two halves, which f32 would round onto it.
#[test]
fn halves_are_rounded_once() {
    let half = |x: f64| f16::from_f32(x as f32);
    let ulp = 2f64.powi(-10);
    // 1 + ulp / 2 * (1 +- 2^-20) as products: (1 + 2^-10) (1 - 2^-10) = 1 - 2^-20
    let (a, b) = (half(1.0 + ulp), half((1.0 - ulp) * ulp / 2.0));
    assert_eq!(floats::fma16(a, b, half(1.0)), half(1.0));
    // 1 + ulp and a product just below half an ulp: down to the odd neighbour, not up to the even one.
    assert_eq!(floats::fma16(a, b, half(1.0 + ulp)), half(1.0 + ulp));
    for (x, want) in [
        (1.0 + ulp / 2.0 + 2f64.powi(-40), 1.0 + ulp),
        (1.0 + ulp / 2.0, 1.0),
        (1.0 + 1.5 * ulp - 2f64.powi(-40), 1.0 + ulp),
        (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
        (65520.0 - 2f64.powi(-30), 65504.0),
        (65520.0, f64::INFINITY),
        (2f64.powi(-25), 0.0),
        (2f64.powi(-25) + 2f64.powi(-70), 2f64.powi(-24)),
        (1e300, f64::INFINITY),
        (1e-300, 0.0),
    ] {
        assert_eq!(floats::f16_from_f64(x).to_f64(), want, "{x:e}");
        assert_eq!(floats::f16_from_f64(-x).to_f64(), -want, "-{x:e}");
    }
    assert!(floats::f16_from_f64(f64::NAN).is_nan());
    for bits in (0..=u16::MAX).map(f16::from_bits).filter(|x| !x.is_nan()) {
        assert_eq!(floats::f16_from_f64(bits.to_f64()), bits);
    }
}
