//! Dequantization of every supported type against the `gguf` package, bit for bit: its numpy code
//! does the same f32 operations in the same order.

use std::path::Path;

use rocmforge::Error;
use rocmforge::gguf::{TensorType, dequant};

/// Blocks and the f32 they must become; `tests/data/dequant/make.py` says how the file is made.
fn golden(ty: TensorType) -> (Vec<u8>, Vec<f32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/dequant/{ty}.bin"));
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (n, rest) = file.split_first_chunk::<4>().unwrap();
    let n = u32::from_le_bytes(*n) as usize;
    let (blocks, floats) = rest.split_at(n * ty.block_bytes());
    let floats: Vec<f32> = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(floats.len(), n * ty.block_len(), "{ty}: size of the golden file");
    (blocks.to_vec(), floats)
}

#[test]
fn every_supported_type_is_as_the_gguf_package_has_it() {
    let mut checked = Vec::new();
    for ty in TensorType::all().filter(|&ty| dequant::is_supported(ty)) {
        let (blocks, wanted) = golden(ty);
        let mut found = vec![f32::NAN; wanted.len()];
        dequant::row(ty, &blocks, &mut found).unwrap();
        for (i, (f, w)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(f.to_bits(), w.to_bits(), "{ty} element {i}: {f} is not {w}");
        }
        checked.push(ty.name());
    }
    let wanted = "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K BF16";
    assert_eq!(checked.join(" "), wanted);
    assert_eq!(dequant::supported(), wanted.replace(' ', ", "));
}

/// The golden data cannot show it: every value of the 16-bit types, infinities and NaNs included.
#[test]
fn halves_are_exact() {
    for bits in 0..=u16::MAX {
        let mut out = [0.0f32];
        dequant::row(TensorType::BF16, &bits.to_le_bytes(), &mut out).unwrap();
        let wanted = f32::from_bits((bits as u32) << 16);
        assert!(out[0].to_bits() == wanted.to_bits() || out[0].is_nan() && wanted.is_nan(), "{bits:#06x}");

        dequant::row(TensorType::F16, &bits.to_le_bytes(), &mut out).unwrap();
        let (sign, exponent, fraction) = (bits >> 15, (bits >> 10 & 31) as i32, (bits & 1023) as f32);
        let wanted = match exponent {
            0 => fraction * 2f32.powi(-24),
            31 if fraction == 0.0 => f32::INFINITY,
            31 => f32::NAN,
            e => (1.0 + fraction / 1024.0) * 2f32.powi(e - 15),
        };
        let wanted = if sign == 1 { -wanted } else { wanted };
        assert!(out[0].to_bits() == wanted.to_bits() || out[0].is_nan() && wanted.is_nan(), "{bits:#06x}");
    }
}

#[test]
fn wrong_sizes_and_types_are_errors() {
    let mut out = [0.0; 64];
    for (bytes, len) in [(35, 64), (37, 64), (0, 32), (36, 33), (18, 0)] {
        let error = dequant::row(TensorType::Q4_0, &vec![0; bytes], &mut out[..len]).unwrap_err();
        assert!(matches!(error, Error::Param(_)), "{error}");
        assert!(error.to_string().contains("Q4_0"), "{error}");
    }
    dequant::row(TensorType::Q4_0, &[], &mut []).unwrap();

    assert!(!dequant::is_supported(TensorType::IQ2_XXS));
    let error = dequant::row(TensorType::IQ2_XXS, &[0; 66], &mut [0.0; 256]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("IQ2_XXS") && error.to_string().contains("Q4_K"), "{error}");
}
