//! What an AMD code object says of itself: the target in the ELF header, the kernels in a note of MessagePack
//! (LLVM's AMDGPUUsage, "Code Object V3 and above Metadata").

use std::fmt;

use object::read::elf::{FileHeader as _, ProgramHeader as _};
use serde::Deserialize;

use super::targets::TARGETS;

/// A kernel of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    pub name: String,
    pub args: Vec<ArgInfo>,
    /// Bytes of shared memory that it always has.
    pub lds_bytes: u64,
    /// The largest block it may be launched with, where the object says.
    pub max_threads: Option<u32>,
    /// Known for AMD; PTX gets its registers from the driver.
    pub resources: Option<Resources>,
}

/// What a wave of an AMD kernel occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Bytes per lane outside the registers.
    pub scratch_bytes: u64,
    /// Vector registers, accumulators among them where the two share a file.
    pub vgprs: u32,
    pub agprs: u32,
    pub sgprs: u32,
    pub vgpr_spills: u32,
    pub sgpr_spills: u32,
    pub wave_size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgInfo {
    pub offset: u64,
    pub size: u64,
    pub kind: ArgType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgType {
    Pointer,
    Value,
    /// PTX: pointers and numbers of 8 bytes look alike.
    PointerOrValue,
    /// What the compiler adds and the host would have to fill, as the metadata names it.
    Hidden(String),
}

impl ArgType {
    pub(super) fn may_be_pointer(&self, is_pointer: bool) -> bool {
        match self {
            ArgType::Pointer => is_pointer,
            ArgType::Value => !is_pointer,
            ArgType::PointerOrValue => true,
            ArgType::Hidden(_) => false,
        }
    }
}

impl fmt::Display for ArgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArgType::Pointer => "pointer",
            ArgType::Value => "value",
            ArgType::PointerOrValue => "pointer or value",
            ArgType::Hidden(kind) => kind,
        })
    }
}

const NT_AMDGPU_METADATA: u32 = 32;

#[derive(Deserialize)]
struct Note {
    #[serde(rename = "amdhsa.kernels")]
    kernels: Vec<NoteKernel>,
}

#[derive(Deserialize)]
struct NoteKernel {
    #[serde(rename = ".name")]
    name: String,
    #[serde(rename = ".args", default)]
    args: Vec<NoteArg>,
    #[serde(rename = ".group_segment_fixed_size")]
    lds_bytes: u64,
    #[serde(rename = ".private_segment_fixed_size")]
    scratch_bytes: u64,
    #[serde(rename = ".vgpr_count")]
    vgprs: u32,
    #[serde(rename = ".agpr_count", default)]
    agprs: u32,
    #[serde(rename = ".sgpr_count")]
    sgprs: u32,
    #[serde(rename = ".vgpr_spill_count", default)]
    vgpr_spills: u32,
    #[serde(rename = ".sgpr_spill_count", default)]
    sgpr_spills: u32,
    #[serde(rename = ".wavefront_size")]
    wave_size: u32,
    #[serde(rename = ".max_flat_workgroup_size")]
    max_threads: u32,
}

#[derive(Deserialize)]
struct NoteArg {
    #[serde(rename = ".offset")]
    offset: u64,
    #[serde(rename = ".size")]
    size: u64,
    #[serde(rename = ".value_kind")]
    value_kind: String,
}

/// The target's name and the kernels. The error says what is wrong with the bytes.
pub(super) fn read(bytes: &[u8]) -> Result<(String, Vec<KernelInfo>), String> {
    let damaged = |e: object::read::Error| format!("not a code object: {e}");
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let machine = header.e_machine(endian);
    if machine != object::elf::EM_AMDGPU {
        return Err(format!("not a code object: an ELF file for machine {}", machine.0));
    }
    let mach = header.e_flags(endian).0 & 0xff;
    let target = TARGETS.iter().find(|t| t.mach == mach);
    let target = target.ok_or_else(|| format!("compiled for an unknown target, number {mach:#x}"))?;
    for segment in header.program_headers(endian, bytes).map_err(damaged)? {
        let Some(mut notes) = segment.notes(endian, bytes).map_err(damaged)? else { continue };
        while let Some(note) = notes.next().map_err(damaged)? {
            if note.n_type(endian).0 == NT_AMDGPU_METADATA && note.name() == b"AMDGPU" {
                let note: Note = rmp_serde::from_slice(note.desc())
                    .map_err(|e| format!("not a code object: metadata: {e}"))?;
                return Ok((target.name.to_owned(), note.kernels.into_iter().map(kernel).collect()));
            }
        }
    }
    Err("not a code object: no metadata".to_owned())
}

fn kernel(note: NoteKernel) -> KernelInfo {
    let kind = |value_kind: String| match value_kind.as_str() {
        "global_buffer" => ArgType::Pointer,
        "by_value" => ArgType::Value,
        _ => ArgType::Hidden(value_kind),
    };
    let arg = |arg: NoteArg| ArgInfo { offset: arg.offset, size: arg.size, kind: kind(arg.value_kind) };
    KernelInfo {
        name: note.name,
        args: note.args.into_iter().map(arg).collect(),
        lds_bytes: note.lds_bytes,
        max_threads: Some(note.max_threads),
        resources: Some(Resources {
            scratch_bytes: note.scratch_bytes,
            vgprs: note.vgprs,
            agprs: note.agprs,
            sgprs: note.sgprs,
            vgpr_spills: note.vgpr_spills,
            sgpr_spills: note.sgpr_spills,
            wave_size: note.wave_size,
        }),
    }
}
