//! A code object: an ELF file's segments as they lie in memory, its kernels' descriptors and metadata. The
//! formats are those of LLVM's "User Guide for AMDGPU Backend".

use std::collections::BTreeMap;

use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Rela, SectionHeader};
use object::{LittleEndian, Object, ObjectSymbol};
use serde::Deserialize;

const LE: LittleEndian = LittleEndian;
/// Type of the note that holds the metadata, and its owner.
const NT_AMDGPU_METADATA: u32 = 32;
const OWNER: &[u8] = b"AMDGPU";
const R_AMDGPU_ABS64: u32 = 3;
const R_AMDGPU_RELATIVE64: u32 = 13;

/// EF_AMDGPU_MACH: the low byte of e_flags.
const MACHINES: [(u32, &str); 37] = [
    (0x02a, "gfx803"),
    (0x02c, "gfx900"),
    (0x02d, "gfx902"),
    (0x02e, "gfx904"),
    (0x02f, "gfx906"),
    (0x030, "gfx908"),
    (0x031, "gfx909"),
    (0x032, "gfx90c"),
    (0x033, "gfx1010"),
    (0x034, "gfx1011"),
    (0x035, "gfx1012"),
    (0x036, "gfx1030"),
    (0x037, "gfx1031"),
    (0x038, "gfx1032"),
    (0x039, "gfx1033"),
    (0x03d, "gfx1035"),
    (0x03e, "gfx1034"),
    (0x03f, "gfx90a"),
    (0x041, "gfx1100"),
    (0x042, "gfx1013"),
    (0x043, "gfx1150"),
    (0x044, "gfx1103"),
    (0x045, "gfx1036"),
    (0x046, "gfx1101"),
    (0x047, "gfx1102"),
    (0x048, "gfx1200"),
    (0x04a, "gfx1151"),
    (0x04c, "gfx942"),
    (0x04e, "gfx1201"),
    (0x04f, "gfx950"),
    (0x051, "gfx9-generic"),
    (0x052, "gfx10-1-generic"),
    (0x053, "gfx10-3-generic"),
    (0x054, "gfx11-generic"),
    (0x055, "gfx1152"),
    (0x059, "gfx12-generic"),
    (0x05f, "gfx9-4-generic"),
];

/// The generic targets and the prefixes of the targets that run their code. gfx908 and gfx90a have instructions
/// of gfx9-generic in other encodings.
const GENERICS: [(&str, &[&str]); 6] = [
    ("gfx9-generic", &["gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"]),
    ("gfx9-4-generic", &["gfx942", "gfx950"]),
    ("gfx10-1-generic", &["gfx101"]),
    ("gfx10-3-generic", &["gfx103"]),
    ("gfx11-generic", &["gfx110", "gfx115"]),
    ("gfx12-generic", &["gfx120"]),
];

/// Whether a card of target `card` runs code made for target `code`.
pub fn runs(card: &str, code: &str) -> bool {
    card == code
        || GENERICS
            .iter()
            .any(|(name, family)| *name == code && family.iter().any(|prefix| card.starts_with(prefix)))
}

/// Why bytes are no code object.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not an ELF file for AMD's GPUs.
    NotOne,
    /// One, but broken, or with what this emulator does not take.
    Broken(String),
}

impl From<object::Error> for Malformed {
    fn from(error: object::Error) -> Self {
        Malformed::Broken(error.to_string())
    }
}

#[derive(Debug)]
pub struct CodeObject {
    /// The target that e_flags name: "gfx1100".
    pub target: &'static str,
    /// Memory from virtual address 0 on.
    pub image: Vec<u8>,
    relocations: Vec<Relocation>,
    pub kernels: BTreeMap<String, Kernel>,
}

/// The 64-bit word at `at` becomes load address + `value`.
#[derive(Debug)]
struct Relocation {
    at: usize,
    value: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: String,
    /// Virtual address of the first instruction.
    pub entry: u64,
    pub descriptor: Descriptor,
    pub metadata: Metadata,
}

/// What the command processor reads of a kernel: `amd_kernel_code`'s 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub lds: u32,
    pub scratch: u32,
    pub kernarg: u32,
    /// Offset of the first instruction from the descriptor.
    pub entry_offset: i64,
    pub rsrc1: u32,
    pub rsrc2: u32,
    pub properties: u16,
}

/// What the scalar registers hold at the start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSgpr {
    PrivateSegmentBuffer,
    DispatchPtr,
    QueuePtr,
    KernargSegmentPtr,
    DispatchId,
    FlatScratchInit,
    PrivateSegmentSize,
}

impl UserSgpr {
    pub fn registers(self) -> u32 {
        match self {
            UserSgpr::PrivateSegmentBuffer => 4,
            UserSgpr::PrivateSegmentSize => 1,
            _ => 2,
        }
    }
}

impl Descriptor {
    fn parse(bytes: &[u8; 64]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Descriptor {
            lds: u32_at(0),
            scratch: u32_at(4),
            kernarg: u32_at(8),
            entry_offset: i64::from_le_bytes(std::array::from_fn(|i| bytes[16 + i])),
            rsrc1: u32_at(48),
            rsrc2: u32_at(52),
            properties: u16::from_le_bytes([bytes[56], bytes[57]]),
        }
    }

    /// ENABLE_SGPR_*, in the order of the registers.
    pub fn user_sgprs(&self) -> impl Iterator<Item = UserSgpr> {
        const ALL: [UserSgpr; 7] = [
            UserSgpr::PrivateSegmentBuffer,
            UserSgpr::DispatchPtr,
            UserSgpr::QueuePtr,
            UserSgpr::KernargSegmentPtr,
            UserSgpr::DispatchId,
            UserSgpr::FlatScratchInit,
            UserSgpr::PrivateSegmentSize,
        ];
        let enabled = self.properties;
        ALL.into_iter().enumerate().filter(move |(bit, _)| enabled >> bit & 1 != 0).map(|(_, sgpr)| sgpr)
    }

    /// USER_SGPR_COUNT, with preloaded kernel arguments: where the workgroup's ids begin.
    pub fn user_sgpr_count(&self) -> u32 {
        self.rsrc2 >> 1 & 0x1f
    }

    /// ENABLE_SGPR_WORKGROUP_ID_{X,Y,Z}.
    pub fn workgroup_ids(&self) -> [bool; 3] {
        [7, 8, 9].map(|bit| self.rsrc2 >> bit & 1 != 0)
    }

    /// ENABLE_VGPR_WORKITEM_ID: dimensions of the ids that vector registers hold, 1..=3.
    pub fn workitem_ids(&self) -> usize {
        (self.rsrc2 >> 11 & 3).min(2) as usize + 1
    }

    /// ENABLE_WAVEFRONT_SIZE32 (gfx10 and later).
    pub fn wave32(&self) -> bool {
        self.properties >> 10 & 1 != 0
    }

    /// FLOAT_DENORM_MODE of f32, of f16 and f64.
    pub fn denormals(&self) -> [u32; 2] {
        [self.rsrc1 >> 16 & 3, self.rsrc1 >> 18 & 3]
    }
}

/// A kernel's entry in `amdhsa.kernels`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Metadata {
    #[serde(rename = ".name")]
    pub name: String,
    /// Of the descriptor: the kernel's name and ".kd".
    #[serde(rename = ".symbol")]
    pub symbol: String,
    #[serde(rename = ".kernarg_segment_size")]
    pub kernarg: u32,
    #[serde(rename = ".max_flat_workgroup_size")]
    pub max_block: u32,
    #[serde(rename = ".wavefront_size")]
    pub lanes: u32,
    #[serde(rename = ".args", default)]
    pub args: Vec<Arg>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Arg {
    #[serde(rename = ".offset")]
    pub offset: u32,
    #[serde(rename = ".size")]
    pub size: u32,
    /// by_value, global_buffer, dynamic_shared_pointer, hidden_*.
    #[serde(rename = ".value_kind")]
    pub kind: String,
}

impl Arg {
    /// The compiler's own, which the runtime fills.
    pub fn hidden(&self) -> bool {
        self.kind.starts_with("hidden_")
    }
}

#[derive(Deserialize)]
struct Root {
    #[serde(rename = "amdhsa.kernels", default)]
    kernels: Vec<Metadata>,
}

impl CodeObject {
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|_| Malformed::NotOne)?;
        if header.e_machine.get(LE) != elf::EM_AMDGPU {
            return Err(Malformed::NotOne);
        }
        let mach = header.e_flags.get(LE).0 & 0xff;
        let (_, target) = MACHINES
            .iter()
            .find(|(number, _)| *number == mach)
            .ok_or_else(|| Malformed::Broken(format!("unknown target {mach:#x} in e_flags")))?;
        let file = ElfFile64::<LittleEndian>::parse(bytes)?;
        let image = load(header, bytes)?;
        let relocations = relocations(&file, bytes, &image)?;
        let mut kernels = BTreeMap::new();
        for metadata in metadata(header, bytes)? {
            let kernel = Kernel::find(&file, &image, metadata)?;
            kernels.insert(kernel.name.clone(), kernel);
        }
        Ok(CodeObject { target, image, relocations, kernels })
    }

    /// The image as it lies at `base`.
    pub fn relocated(&self, base: u64) -> Vec<u8> {
        let mut image = self.image.clone();
        for relocation in &self.relocations {
            let word = base.wrapping_add(relocation.value).to_le_bytes();
            image[relocation.at..relocation.at + 8].copy_from_slice(&word);
        }
        image
    }

    /// Bytes of the ELF file that begins at `start`, from its own headers; None if it is no ELF file.
    ///
    /// # Safety
    /// `start` points to at least 64 readable bytes, and to a whole file if they are an ELF header.
    pub unsafe fn file_size(start: *const u8) -> Option<usize> {
        // SAFETY: the caller's.
        let head = unsafe { std::slice::from_raw_parts(start, 64) };
        let header = FileHeader64::<LittleEndian>::parse(head).ok()?;
        let table = |offset: u64, entry: u16, n: u16| offset.checked_add(u64::from(entry) * u64::from(n));
        let sections = table(header.e_shoff.get(LE), header.e_shentsize.get(LE), header.e_shnum.get(LE))?;
        let segments = table(header.e_phoff.get(LE), header.e_phentsize.get(LE), header.e_phnum.get(LE))?;
        let mut size = sections.max(segments);
        // SAFETY: the caller's: the file reaches at least over its tables.
        let tables = unsafe { std::slice::from_raw_parts(start, usize::try_from(size).ok()?) };
        for segment in header.program_headers(LE, tables).ok()? {
            size = size.max(segment.p_offset.get(LE).checked_add(segment.p_filesz.get(LE))?);
        }
        usize::try_from(size).ok()
    }
}

/// Copies the loadable segments to their virtual addresses.
fn load(header: &FileHeader64<LittleEndian>, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    /// Far above any code object, so that a broken one does not ask for all memory.
    const LIMIT: u64 = 1 << 30;
    let mut image = Vec::new();
    for segment in header.program_headers(LE, bytes)? {
        if segment.p_type.get(LE) != elf::PT_LOAD {
            continue;
        }
        let start = segment.p_vaddr.get(LE);
        let end = start.checked_add(segment.p_memsz.get(LE)).filter(|&end| end <= LIMIT);
        let end = end.ok_or_else(|| Malformed::Broken("a segment beyond 1 GiB".into()))? as usize;
        let data =
            segment.data(LE, bytes).map_err(|()| Malformed::Broken("a segment past the file".into()))?;
        if image.len() < end {
            image.resize(end, 0);
        }
        let room = &mut image[start as usize..end];
        if data.len() > room.len() {
            return Err(Malformed::Broken("a segment larger in the file than in memory".into()));
        }
        room[..data.len()].copy_from_slice(data);
    }
    Ok(image)
}

fn relocations(
    file: &ElfFile64<'_, LittleEndian>,
    bytes: &[u8],
    image: &[u8],
) -> Result<Vec<Relocation>, Malformed> {
    let mut found = Vec::new();
    let symbols: Vec<u64> = file.elf_dynamic_symbol_table().iter().map(|s| s.st_value.get(LE)).collect();
    for section in file.elf_section_table().iter() {
        let Some((entries, _)) = section.rela(LE, bytes)? else { continue };
        for entry in entries {
            let addend = entry.r_addend(LE) as u64;
            let value = match entry.r_type(LE, false).0 {
                R_AMDGPU_RELATIVE64 => addend,
                R_AMDGPU_ABS64 => {
                    let symbol = symbols.get(entry.r_sym(LE, false) as usize);
                    let symbol =
                        symbol.ok_or_else(|| Malformed::Broken("a relocation without symbol".into()))?;
                    symbol.wrapping_add(addend)
                }
                other => return Err(Malformed::Broken(format!("relocation of type {other}"))),
            };
            let at = usize::try_from(entry.r_offset(LE)).ok().filter(|at| at + 8 <= image.len());
            let at = at.ok_or_else(|| Malformed::Broken("a relocation outside the image".into()))?;
            found.push(Relocation { at, value });
        }
    }
    Ok(found)
}

fn metadata(header: &FileHeader64<LittleEndian>, bytes: &[u8]) -> Result<Vec<Metadata>, Malformed> {
    for segment in header.program_headers(LE, bytes)? {
        let Some(mut notes) = segment.notes(LE, bytes)? else { continue };
        while let Some(note) = notes.next()? {
            if note.n_type(LE).0 == NT_AMDGPU_METADATA && note.name() == OWNER {
                let root: Root = rmp_serde::from_slice(note.desc())
                    .map_err(|error| Malformed::Broken(format!("metadata: {error}")))?;
                return Ok(root.kernels);
            }
        }
    }
    Err(Malformed::Broken("no metadata: older than code object version 3?".into()))
}

impl Kernel {
    fn find(file: &ElfFile64<'_, LittleEndian>, image: &[u8], metadata: Metadata) -> Result<Self, Malformed> {
        let broken = |what: &str| Malformed::Broken(format!("{}: {what}", metadata.symbol));
        let symbol = file.dynamic_symbols().find(|s| s.name() == Ok(&metadata.symbol));
        let address = symbol.ok_or_else(|| broken("no such symbol"))?.address();
        let bytes = usize::try_from(address).ok().and_then(|at| image.get(at..)?.first_chunk::<64>());
        let descriptor = Descriptor::parse(bytes.ok_or_else(|| broken("descriptor outside the image"))?);
        let entry = address
            .checked_add_signed(descriptor.entry_offset)
            .filter(|&entry| entry < image.len() as u64)
            .ok_or_else(|| broken("code outside the image"))?;
        if metadata.args.iter().any(|a| u64::from(a.offset) + u64::from(a.size) > metadata.kernarg.into()) {
            return Err(broken("an argument past the end of the argument segment"));
        }
        Ok(Kernel { name: metadata.name.clone(), entry, descriptor, metadata })
    }
}
