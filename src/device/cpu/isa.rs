//! Which instructions the CPU device computes with, chosen at run time.

use crate::{Error, Result};

/// Widest first is best; every path gives results for every op and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, any processor.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
}

impl Isa {
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512Vnni];

    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512vnni",
        }
    }

    /// Whether this processor can run the path.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni => false,
        }
    }

    /// The widest path this processor has, or the one that `ROCMFORGE_CPU_ISA` names.
    pub fn choose() -> Result<Isa> {
        let widest = Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar);
        match std::env::var("ROCMFORGE_CPU_ISA") {
            Err(_) => Ok(widest),
            Ok(name) => match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
                None => Err(Error::param(format!(
                    "ROCMFORGE_CPU_ISA={name}: the paths are scalar, avx2, avx512vnni"
                ))),
                Some(isa) if isa.is_available() => Ok(isa),
                Some(isa) => Err(Error::param(format!(
                    "ROCMFORGE_CPU_ISA={}: this processor cannot run it; its widest is {}",
                    isa.name(),
                    widest.name()
                ))),
            },
        }
    }
}
