//! The kernels' code objects, one for each file of kernels/ (a unit): those that build.rs embedded, or those of
//! ROCMFORGE_KERNEL_DIR, found by the GPU's name and held to the kernels' table before use.

pub mod metadata;
pub mod occupancy;
mod ptx;
pub mod targets;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use lzma_rust2::LzmaReader;

use super::kernels::{ArgKind, SIGNATURES, Signature};
use crate::error::{Error, Result};
use crate::memory;
use metadata::{ArgInfo, KernelInfo};

/// Names a folder whose files `<arch>/*.hsaco` and `sm_NN/*.ptx` are used instead of the embedded code objects.
pub const KERNEL_DIR: &str = "ROCMFORGE_KERNEL_DIR";

/// One target's code objects, compressed, in the library's own bytes.
#[derive(Debug)]
pub struct Embedded {
    /// "gfx1100", "gfx11-generic", "sm_80".
    pub arch: &'static str,
    pub units: &'static [EmbeddedUnit],
}

/// A code object of a target.
#[derive(Debug)]
pub struct EmbeddedUnit {
    /// The file of kernels/, without its extension.
    pub name: &'static str,
    /// Names of its kernels.
    kernels: &'static [&'static str],
    /// Bytes when unpacked.
    size: usize,
    packed: &'static [u8],
}

/// Memory that a decoder takes: its window of 1 MiB, which build.rs states, and its model.
const DECODER_BYTES: usize = 2 << 20;

static EMBEDDED: &[Embedded] = &include!(concat!(env!("OUT_DIR"), "/code_objects.rs"));

/// Every target that this library carries kernels for.
pub fn carried() -> &'static [Embedded] {
    EMBEDDED
}

impl Embedded {
    /// Bytes in the library.
    pub fn packed_size(&self) -> usize {
        self.units.iter().map(|unit| unit.packed.len()).sum()
    }
}

impl EmbeddedUnit {
    fn unpack(&self, arch: &str) -> Result<CodeObject> {
        let mut bytes = memory::filled(0, self.size, "kernels")?;
        let unpacked = memory::with_room(DECODER_BYTES, "unpacking kernels", || {
            LzmaReader::new_mem_limit(self.packed, DECODER_BYTES as u32 / 1024, None)?.read_exact(&mut bytes)
        })?;
        unpacked
            .map_err(|e| Error::Internal(format!("embedded code object {} of {arch}: {e}", self.name)))?;
        CodeObject::read(arch, self.name, bytes)
            .map_err(|why| Error::Kernels(format!("embedded {} of {arch}: {why}", self.name)))
    }
}

/// The code objects for one GPU. They hold every kernel of [`SIGNATURES`].
#[derive(Debug)]
pub struct CodeObjects {
    /// The target that they were compiled for; in a folder, the GPU's name.
    pub arch: String,
    /// Where they come from, if not from the library itself.
    pub folder: Option<PathBuf>,
    units: Vec<Unit>,
}

#[derive(Debug)]
enum Unit {
    Embedded(&'static EmbeddedUnit),
    /// From the folder.
    Read(CodeObject),
}

/// The code objects for a GPU that calls itself `name`: a gcnArchName like "gfx90a:sramecc+:xnack-", or "sm_86" for
/// compute capability 8.6. Its own, else those of its generic target; of PTX the newest that the GPU takes.
///
/// # Errors
/// [`Error::NoKernels`] if nothing carried fits; with ROCMFORGE_KERNEL_DIR set [`Error::Io`] if its files cannot be
/// read; [`Error::Kernels`] if one of them is damaged, or a kernel is missing or is not what the host expects.
pub fn for_arch(device: i32, name: &str) -> Result<CodeObjects> {
    let folder = std::env::var_os(KERNEL_DIR).filter(|folder| !folder.is_empty());
    let arch = name.split(':').next().unwrap_or(name);
    let targets = targets::served_by(arch);
    let objects = match folder {
        Some(folder) => CodeObjects::of_folder(Path::new(&folder), arch, &targets)?,
        None => {
            let embedded = targets.iter().find_map(|target| EMBEDDED.iter().find(|e| e.arch == *target));
            let carried = || EMBEDDED.iter().map(|e| e.arch).collect::<Vec<_>>().join(", ");
            CodeObjects::embedded(embedded.ok_or_else(|| Error::NoKernels {
                device,
                arch: arch.to_owned(),
                carried: carried(),
            })?)
        }
    };
    SIGNATURES.iter().try_for_each(|signature| objects.unit_of(signature.name).map(drop))?;
    Ok(objects)
}

impl CodeObjects {
    /// Those of a target that the library carries.
    pub fn embedded(embedded: &'static Embedded) -> Self {
        let units = embedded.units.iter().map(Unit::Embedded).collect();
        CodeObjects { arch: embedded.arch.to_owned(), folder: None, units }
    }

    /// Reads and checks every file in the folder's part for `arch`, or for the first target there that serves it.
    fn of_folder(folder: &Path, arch: &str, targets: &[&str]) -> Result<Self> {
        let extension = extension(arch);
        let parts = std::iter::once(&arch).chain(targets).map(|target| folder.join(target));
        let folder = parts.clone().find(|part| part.is_dir()).unwrap_or_else(|| folder.join(arch));
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let cannot = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { what, path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(cannot("open", &folder))? {
            let path = entry.map_err(cannot("read", &folder))?.path();
            if path.extension().is_some_and(|e| e == extension) {
                paths.push(path);
            }
        }
        paths.sort();
        let mut units = Vec::new();
        for path in paths {
            let bytes = std::fs::read(&path).map_err(cannot("open", &path))?;
            let fail = |why| Error::Kernels(format!("{}: {why}", path.display()));
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut object = CodeObject::read(arch, &name, bytes).map_err(fail)?;
            if object.arch != arch && !targets.contains(&object.arch.as_str()) {
                return Err(fail(format!("compiled for {}, which {arch} does not run", object.arch)));
            }
            object.path = Some(path);
            object.check()?;
            units.push(Unit::Read(object));
        }
        Ok(CodeObjects { arch: arch.to_owned(), folder: Some(folder), units })
    }

    fn unit_of(&self, kernel: &str) -> Result<&Unit> {
        let holds = |unit: &&Unit| match unit {
            Unit::Embedded(unit) => unit.kernels.contains(&kernel),
            Unit::Read(object) => object.kernel(kernel).is_some(),
        };
        self.units.iter().find(holds).ok_or_else(|| {
            let place = self.folder.as_ref().map(|f| format!("{}: ", f.display())).unwrap_or_default();
            Error::Kernels(format!("{place}kernel {kernel} of {}: missing", self.arch))
        })
    }

    fn open_unit(&self, unit: &Unit) -> Result<CodeObject> {
        match unit {
            Unit::Embedded(unit) => unit.unpack(&self.arch),
            Unit::Read(object) => Ok(object.clone()),
        }
    }

    /// The one that holds the kernel, held to the kernels' table.
    ///
    /// # Errors
    /// [`Error::Kernels`] if none does, or it is damaged or not what the host expects.
    pub fn open(&self, kernel: &str) -> Result<CodeObject> {
        let object = self.open_unit(self.unit_of(kernel)?)?;
        object.check()?;
        Ok(object)
    }

    /// Each of them, unchecked. Errors: one is damaged.
    pub fn open_all(&self) -> Result<Vec<CodeObject>> {
        self.units.iter().map(|unit| self.open_unit(unit)).collect()
    }
}

/// Of a target's files.
pub fn extension(arch: &str) -> &'static str {
    if targets::compute_capability(arch).is_some() { "ptx" } else { "hsaco" }
}

/// Kernels, as the GPU's runtime takes them.
#[derive(Clone, Debug)]
pub struct CodeObject {
    /// The target it was compiled for: "gfx1100", "gfx11-generic", "sm_80".
    pub arch: String,
    /// The file of kernels/ it was made of, without its extension; of a file in a folder, that one's.
    pub unit: String,
    /// An ELF file (AMD), or PTX text with its terminating 0.
    pub bytes: Vec<u8>,
    /// In the order of the file.
    pub kernels: Vec<KernelInfo>,
    /// The file it came from, if not from the library itself.
    pub path: Option<PathBuf>,
}

impl CodeObject {
    /// Reads what the bytes say of themselves; `arch` only tells ELF from PTX. The error is a text without the
    /// object's name.
    pub fn read(arch: &str, unit: &str, mut bytes: Vec<u8>) -> Result<Self, String> {
        let (arch, kernels) = if targets::compute_capability(arch).is_some() {
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            let (arch, kernels) = ptx::read(&bytes)?;
            bytes.push(0);
            (arch, kernels)
        } else {
            metadata::read(&bytes)?
        };
        Ok(Self { arch, unit: unit.to_owned(), bytes, kernels, path: None })
    }

    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// Holds the object to the kernels' table: the arguments of its kernels lie where the host writes them, and their
    /// blocks are allowed. A kernel that the table does not name is nobody's.
    pub fn check(&self) -> Result<()> {
        for kernel in &self.kernels {
            let Some(signature) = SIGNATURES.iter().find(|s| s.name == kernel.name) else { continue };
            check_kernel(kernel, signature).map_err(|why| {
                let place = self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default();
                Error::Kernels(format!("{place}kernel {} of {}: {why}", kernel.name, self.arch))
            })?;
        }
        Ok(())
    }
}

fn check_kernel(kernel: &KernelInfo, signature: &Signature) -> Result<(), String> {
    if kernel.args.len() != signature.args.len() {
        let (has, passes) = (kernel.args.len(), signature.args.len());
        return Err(format!("takes {has} arguments (hidden ones included), the host passes {passes}"));
    }
    for (arg, stated) in kernel.args.iter().zip(signature.args) {
        let (size, is_pointer) = match stated.kind {
            ArgKind::Pointer => (8, true),
            ArgKind::Value(size) => (size, false),
        };
        let ArgInfo { offset, size: has_size, kind } = arg;
        // PTX does not always tell a pointer from a number of its size.
        if (*offset, *has_size) != (stated.offset as u64, size as u64) || !kind.may_be_pointer(is_pointer) {
            return Err(format!(
                "argument '{}': {kind} of {has_size} bytes at {offset}, the host passes {} of {size} bytes at {}",
                stated.name,
                if is_pointer { "pointer" } else { "value" },
                stated.offset
            ));
        }
    }
    let threads: u32 = signature.block.iter().product();
    match kernel.max_threads {
        Some(most) if most < threads => {
            Err(format!("compiled for {most} threads of a block, launched with {threads}"))
        }
        _ => Ok(()),
    }
}
