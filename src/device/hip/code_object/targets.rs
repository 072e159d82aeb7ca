//! The GPU targets: what a code object is compiled for, what it runs on, how many registers a SIMD has. build.rs
//! includes this file too. Sources: LLVM's AMDGPUUsage (machine numbers, generic targets) and what clang's
//! kernel-resource-usage remarks say (registers; tests/hip_code_objects.rs compares).

/// When build.rs compiles for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Built {
    Always,
    /// Only by compilers that know it.
    IfKnown,
    /// Never: its generic target serves it.
    AsGeneric,
}

/// Vector registers of a SIMD, in lanes of a wave: `total` shared by at most `waves`, each getting a multiple of
/// `granule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub total: u32,
    pub granule: u32,
    pub waves: u32,
}

/// An AMD target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// EF_AMDGPU_MACH: the low byte of the ELF header's e_flags.
    pub mach: u32,
    /// The generic target whose code this one runs too.
    pub generic: Option<&'static str>,
    pub built: Built,
    pub registers: Registers,
    /// SGPRs limit the waves too, up to GCN 5.
    pub limited_by_sgprs: bool,
    /// Bytes of LDS that four SIMDs share: those of a GCN or CDNA compute unit, of an RDNA work-group processor.
    pub lds: u32,
}

impl Target {
    /// Generic targets are compiled once for several GPUs.
    pub fn is_generic(&self) -> bool {
        self.name.ends_with("-generic")
    }
}

const fn registers(total: u32, granule: u32, waves: u32) -> Registers {
    Registers { total, granule, waves }
}

const GCN: Registers = registers(256, 4, 10);
const CDNA2: Registers = registers(512, 8, 8);
const RDNA1: Registers = registers(1024, 8, 20);
const RDNA2: Registers = registers(1024, 16, 16);
/// RDNA3 and 4 where the chip has the larger register file.
const RDNA3_LARGE: Registers = registers(1536, 24, 16);

const fn target(
    name: &'static str,
    mach: u32,
    generic: &'static str,
    built: Built,
    registers: Registers,
) -> Target {
    let wave64 = registers.total <= 512;
    Target {
        name,
        mach,
        generic: if generic.is_empty() { None } else { Some(generic) },
        built,
        registers,
        limited_by_sgprs: wave64,
        lds: if wave64 { 64 << 10 } else { 128 << 10 },
    }
}

use Built::{Always, AsGeneric, IfKnown};

pub const TARGETS: &[Target] = &[
    target("gfx900", 0x2c, "gfx9-generic", Always, GCN),
    target("gfx902", 0x2d, "gfx9-generic", AsGeneric, GCN),
    target("gfx904", 0x2e, "gfx9-generic", AsGeneric, GCN),
    target("gfx906", 0x2f, "gfx9-generic", Always, GCN),
    target("gfx908", 0x30, "", Always, GCN),
    target("gfx909", 0x31, "gfx9-generic", AsGeneric, GCN),
    target("gfx90a", 0x3f, "", Always, CDNA2),
    target("gfx90c", 0x32, "gfx9-generic", AsGeneric, GCN),
    target("gfx942", 0x4c, "gfx9-4-generic", Always, CDNA2),
    Target { lds: 160 << 10, ..target("gfx950", 0x4f, "gfx9-4-generic", IfKnown, CDNA2) },
    target("gfx1010", 0x33, "gfx10-1-generic", Always, RDNA1),
    target("gfx1011", 0x34, "gfx10-1-generic", AsGeneric, RDNA1),
    target("gfx1012", 0x35, "gfx10-1-generic", AsGeneric, RDNA1),
    target("gfx1013", 0x42, "gfx10-1-generic", AsGeneric, RDNA1),
    target("gfx1030", 0x36, "gfx10-3-generic", Always, RDNA2),
    target("gfx1031", 0x37, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1032", 0x38, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1033", 0x39, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1034", 0x3e, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1035", 0x3d, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1036", 0x45, "gfx10-3-generic", AsGeneric, RDNA2),
    target("gfx1100", 0x41, "gfx11-generic", Always, RDNA3_LARGE),
    target("gfx1101", 0x46, "gfx11-generic", Always, RDNA3_LARGE),
    target("gfx1102", 0x47, "gfx11-generic", Always, RDNA2),
    target("gfx1103", 0x44, "gfx11-generic", Always, RDNA2),
    target("gfx1150", 0x43, "gfx11-generic", Always, RDNA2),
    target("gfx1151", 0x4a, "gfx11-generic", Always, RDNA3_LARGE),
    target("gfx1152", 0x55, "gfx11-generic", AsGeneric, RDNA2),
    target("gfx1153", 0x58, "gfx11-generic", AsGeneric, RDNA2),
    target("gfx1200", 0x48, "gfx12-generic", Always, RDNA3_LARGE),
    target("gfx1201", 0x4e, "gfx12-generic", Always, RDNA3_LARGE),
    target("gfx9-generic", 0x51, "", Always, GCN),
    target("gfx9-4-generic", 0x5f, "", IfKnown, CDNA2),
    target("gfx10-1-generic", 0x52, "", Always, RDNA1),
    target("gfx10-3-generic", 0x53, "", Always, RDNA2),
    target("gfx11-generic", 0x54, "", Always, RDNA2),
    target("gfx12-generic", 0x59, "", Always, RDNA3_LARGE),
];

/// NVIDIA's: PTX of one is translated by the driver for every GPU whose compute capability is not lower.
pub const PTX_TARGETS: &[&str] = &["sm_75", "sm_80"];

/// Targets for which clang makes the same machine code of kernels/: it compiles for the first, and its assembler makes
/// the code object of each (tests/hip_host/code_objects.rs compares).
pub const SAME_CODE: &[&[&str]] = &[
    &["gfx900", "gfx9-generic"],
    &["gfx1010", "gfx10-1-generic"],
    &["gfx1030", "gfx10-3-generic"],
    &["gfx1102", "gfx11-generic"],
    &["gfx1201", "gfx1200", "gfx12-generic"],
];

/// The target whose machine code this one gets.
pub fn compiled_as(name: &'static str) -> &'static str {
    SAME_CODE.iter().find(|same| same.contains(&name)).map_or(name, |same| same[0])
}

/// Of code objects for an AMD target. Generic targets came with version 6, which needs ROCm 6.3; 5 is read by all since
/// 5.3.
pub fn code_object_version(name: &str) -> u32 {
    if name.ends_with("-generic") { 6 } else { 5 }
}

/// The AMD target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// `sm_86` -> 86.
pub fn compute_capability(name: &str) -> Option<u32> {
    name.strip_prefix("sm_")?.parse().ok()
}

/// Whose code objects run on a GPU of this name, best first: its own, then its generic target's; of PTX the newest
/// that is not newer than the GPU. Nothing if the name is unknown.
pub fn served_by(arch: &str) -> Vec<&'static str> {
    if let Some(capability) = compute_capability(arch) {
        let older = |name: &&&str| compute_capability(name).is_some_and(|c| c <= capability);
        return PTX_TARGETS.iter().rev().filter(older).copied().collect();
    }
    find(arch).map(|t| std::iter::once(t.name).chain(t.generic).collect()).unwrap_or_default()
}
