//! The kernels' code objects: those that build.rs embedded, or those of ROCMFORGE_KERNEL_DIR, found by the GPU's
//! name and held to the kernels' table before use.

pub mod metadata;
pub mod occupancy;
mod ptx;
pub mod targets;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::kernels::{ArgKind, SIGNATURES, Signature};
use crate::error::{Error, Result};
use crate::memory;
use metadata::{ArgInfo, KernelInfo};

/// Names a folder whose files `<arch>.hsaco` and `sm_NN.ptx` are used instead of the embedded code objects.
pub const KERNEL_DIR: &str = "ROCMFORGE_KERNEL_DIR";

/// One target's code object, compressed, in the library's own bytes.
#[derive(Debug)]
pub struct Embedded {
    /// "gfx1100", "gfx11-generic", "sm_80".
    pub arch: &'static str,
    /// Bytes when unpacked.
    pub size: usize,
    packed: &'static [u8],
}

static EMBEDDED: &[Embedded] = &include!(concat!(env!("OUT_DIR"), "/code_objects.rs"));

/// Every code object that this library carries.
pub fn carried() -> &'static [Embedded] {
    EMBEDDED
}

impl Embedded {
    /// Bytes in the library.
    pub fn packed_size(&self) -> usize {
        self.packed.len()
    }

    /// Unpacks it and reads its metadata.
    pub fn unpack(&self) -> Result<CodeObject> {
        let mut bytes = memory::vec(self.size, "kernels")?;
        flate2::read::ZlibDecoder::new(self.packed)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::Internal(format!("embedded code object {}: {e}", self.arch)))?;
        CodeObject::read(self.arch, bytes)
            .map_err(|why| Error::Kernels(format!("embedded {}: {why}", self.arch)))
    }
}

/// A target's kernels, as the GPU's runtime takes them.
#[derive(Debug)]
pub struct CodeObject {
    /// The target it was compiled for: "gfx1100", "gfx11-generic", "sm_80".
    pub arch: String,
    /// An ELF file (AMD), or PTX text with its terminating 0.
    pub bytes: Vec<u8>,
    /// In the order of the file.
    pub kernels: Vec<KernelInfo>,
    /// The file it came from, if not from the library itself.
    pub path: Option<PathBuf>,
}

/// The code object for a GPU that calls itself `name`: a gcnArchName like "gfx90a:sramecc+:xnack-", or "sm_86" for
/// compute capability 8.6. Its own, else that of its generic target; of PTX the newest that the GPU takes.
///
/// Every kernel of [`SIGNATURES`] is in it, with the arguments stated there.
///
/// # Errors
/// [`Error::NoKernels`] if nothing carried fits; with ROCMFORGE_KERNEL_DIR set [`Error::Io`] if the file is not
/// there; [`Error::Kernels`] if an object is damaged or is not what the host expects.
pub fn for_arch(device: i32, name: &str) -> Result<CodeObject> {
    let folder = std::env::var_os(KERNEL_DIR).filter(|folder| !folder.is_empty());
    find(device, name, folder.as_deref().map(Path::new))
}

fn find(device: i32, name: &str, folder: Option<&Path>) -> Result<CodeObject> {
    let arch = name.split(':').next().unwrap_or(name);
    let targets = targets::served_by(arch);
    let object = if let Some(folder) = folder {
        from_folder(folder, arch, &targets)?
    } else {
        let embedded = targets.iter().find_map(|target| EMBEDDED.iter().find(|e| e.arch == *target));
        let carried = || EMBEDDED.iter().map(|e| e.arch).collect::<Vec<_>>().join(", ");
        embedded
            .ok_or_else(|| Error::NoKernels { device, arch: arch.to_owned(), carried: carried() })?
            .unpack()?
    };
    object.check()?;
    Ok(object)
}

fn from_folder(folder: &Path, arch: &str, targets: &[&str]) -> Result<CodeObject> {
    let extension = if targets::compute_capability(arch).is_some() { "ptx" } else { "hsaco" };
    let path = folder.join(format!("{arch}.{extension}"));
    let path = std::path::absolute(&path).unwrap_or(path);
    let bytes =
        std::fs::read(&path).map_err(|source| Error::Io { what: "open", path: path.clone(), source })?;
    let fail = |why| Error::Kernels(format!("{}: {why}", path.display()));
    let mut object = CodeObject::read(arch, bytes).map_err(fail)?;
    if object.arch != arch && !targets.contains(&object.arch.as_str()) {
        return Err(fail(format!("compiled for {}, which {arch} does not run", object.arch)));
    }
    object.path = Some(path);
    Ok(object)
}

impl CodeObject {
    /// Reads what the bytes say of themselves; `name` only tells ELF from PTX. The error is a text without the
    /// object's name.
    pub fn read(name: &str, mut bytes: Vec<u8>) -> Result<Self, String> {
        let (arch, kernels) = if targets::compute_capability(name).is_some() {
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            let (arch, kernels) = ptx::read(&bytes)?;
            bytes.push(0);
            (arch, kernels)
        } else {
            metadata::read(&bytes)?
        };
        Ok(Self { arch, bytes, kernels, path: None })
    }

    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// Holds the object to the kernels' table: each kernel is there, its arguments lie where the host writes them,
    /// its block is allowed.
    pub fn check(&self) -> Result<()> {
        for signature in SIGNATURES {
            self.check_kernel(signature).map_err(|why| {
                let place = self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default();
                Error::Kernels(format!("{place}kernel {} of {}: {why}", signature.name, self.arch))
            })?;
        }
        Ok(())
    }

    fn check_kernel(&self, signature: &Signature) -> Result<(), String> {
        let kernel = self.kernel(signature.name).ok_or("missing")?;
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
            if (*offset, *has_size) != (stated.offset as u64, size as u64) || !kind.may_be_pointer(is_pointer)
            {
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
}
