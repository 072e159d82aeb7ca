//! Which libraries are tried, in which order, and what their refusals come to.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;

use libloading::Library;

use super::table::Api;
use super::{Driver, Platform};
use crate::{Error, Result};

/// The newest first: an older one may lie beside it.
const HIP_NAMES: [&str; 3] = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"];
const CUDA_NAME: &str = "libcuda.so.1";

/// Where a GPU runtime may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// This library and no other.
    Only(PathBuf),
    /// AMD's runtime where the loader finds it or in one of these folders, then NVIDIA's driver.
    Standard { folders: Vec<PathBuf> },
}

impl Search {
    /// What ROCMFORGE_HIP_LIBRARY names, and nothing else; without it the standard places: $ROCM_PATH/lib, the
    /// loader's own, /opt/rocm/lib.
    pub fn from_environment() -> Search {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match path("ROCMFORGE_HIP_LIBRARY") {
            Some(path) => Search::Only(path),
            None => Search::Standard {
                folders: path("ROCM_PATH")
                    .into_iter()
                    .chain([PathBuf::from("/opt/rocm")])
                    .map(|root| root.join("lib"))
                    .collect(),
            },
        }
    }

    /// False where no GPU can be found, whatever is installed: the kernel shows none to this process. Costs a few
    /// looks at files; opening a runtime costs milliseconds and threads.
    pub fn is_promising(&self) -> bool {
        /// The drivers of AMD and NVIDIA, NVIDIA's on Tegra, and that of either in a virtual machine of Windows.
        const NODES: [&str; 4] = ["/dev/kfd", "/dev/nvidiactl", "/dev/nvmap", "/dev/dxg"];
        matches!(self, Search::Only(_))
            || !cfg!(target_os = "linux")
            || NODES.iter().any(|node| std::path::Path::new(node).exists())
    }

    /// AMD's libraries, in order; files that are not there are left out, names that the loader resolves are not.
    fn hip_libraries(folders: &[PathBuf]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in HIP_NAMES {
            let mut paths = folders.iter().map(|folder| folder.join(name)).filter(|path| path.exists());
            found.extend(paths.next());
            found.push(PathBuf::from(name));
            found.extend(paths);
        }
        found
    }
}

/// Why a library is not the one.
enum Refusal {
    /// There is no such file.
    Absent,
    /// It cannot be loaded, or is no GPU runtime.
    Unusable(String),
    /// It is a runtime that cannot be used: NoGpu or RuntimeTooOld.
    Runtime(Error),
}

pub(super) fn open(search: &Search) -> Result<Driver> {
    let mut refusals: Vec<(PathBuf, Refusal)> = Vec::new();
    let mut attempt = |path: PathBuf, platform| match open_one(path.as_os_str(), platform) {
        Ok(driver) => Ok(driver),
        Err(refusal) => {
            let is_runtime = matches!(refusal, Refusal::Runtime(_));
            refusals.push((path, refusal));
            Err(is_runtime)
        }
    };
    match search {
        Search::Only(path) => {
            if let Ok(driver) = attempt(path.clone(), None) {
                return Ok(driver);
            }
        }
        Search::Standard { folders } => {
            for path in Search::hip_libraries(folders) {
                match attempt(path, Some(Platform::Hip)) {
                    Ok(driver) => return Ok(driver),
                    // Two of AMD's runtimes in one process would get in each other's way.
                    Err(is_runtime) if is_runtime => break,
                    Err(_) => {}
                }
            }
            if let Ok(driver) = attempt(CUDA_NAME.into(), Some(Platform::Cuda)) {
                return Ok(driver);
            }
        }
    }
    Err(summary(refusals))
}

/// Opens one library; without a platform, its symbols tell whose it is.
fn open_one(path: &OsStr, platform: Option<Platform>) -> Result<Driver, Refusal> {
    let name = path.to_string_lossy().into_owned();
    // SAFETY: GPU runtimes are made to be opened so; their initializers start no work of their own.
    let library = unsafe { Library::new(path) }.map_err(|error| {
        // the loader's own words
        let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let no_file = format!("{name}: cannot open shared object file: No such file or directory");
        match text {
            _ if text.contains(&no_file) => Refusal::Absent,
            _ if text.starts_with(&name) => Refusal::Unusable(text),
            _ => Refusal::Unusable(format!("{name}: {text}")),
        }
    })?;
    let has = |symbol: &str| {
        // SAFETY: the address is looked at, not called.
        unsafe { library.get::<*const ()>(symbol) }.is_ok()
    };
    let platform = match platform {
        Some(platform) => platform,
        None if has("hipInit") => Platform::Hip,
        None if has("cuInit") => Platform::Cuda,
        None => {
            return Err(Refusal::Unusable(format!("{name}: no GPU runtime (neither hipInit nor cuInit)")));
        }
    };
    let api = Api::load(&library, platform);
    // Whether it serves or not, it has been started: see Driver.
    std::mem::forget(library);
    let api = api.map_err(|symbol| {
        Refusal::Runtime(Error::RuntimeTooOld { library: name.clone(), why: format!("it lacks {symbol}") })
    })?;
    Driver::start(api, name).map_err(Refusal::Runtime)
}

/// One error of all refusals: a runtime that is too old outranks one without a GPU, which outranks none.
fn summary(refusals: Vec<(PathBuf, Refusal)>) -> Error {
    let mut absent = Vec::new();
    let mut others = Vec::new();
    let mut too_old = None;
    let mut found = false;
    for (path, refusal) in refusals {
        match refusal {
            Refusal::Absent => absent.push(path.to_string_lossy().into_owned()),
            Refusal::Unusable(why) => others.push(why),
            Refusal::Runtime(Error::RuntimeTooOld { library, why }) if too_old.is_none() => {
                too_old = Some((library, why));
            }
            Refusal::Runtime(Error::NoGpu(why)) => {
                found = true;
                others.push(why);
            }
            Refusal::Runtime(error) => others.push(error.to_string()),
        }
    }
    if !absent.is_empty() {
        others.push(format!("{}: not found", absent.join(", ")));
    }
    let tried = others.join("; ");
    match too_old {
        Some((library, why)) if tried.is_empty() => Error::RuntimeTooOld { library, why },
        Some((library, why)) => Error::RuntimeTooOld { library, why: format!("{why} ({tried})") },
        None if found => Error::NoGpu(tried),
        None => Error::NoRuntime { tried },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(list: Vec<(&str, Refusal)>) -> String {
        summary(list.into_iter().map(|(path, refusal)| (path.into(), refusal)).collect()).to_string()
    }

    #[test]
    fn the_error_tells_what_every_library_said() {
        let no_gpu =
            || Refusal::Runtime(Error::NoGpu("libamdhip64.so.5: hipInit: hipErrorNoDevice (100)".into()));
        let old = Refusal::Runtime(Error::RuntimeTooOld {
            library: "libcuda.so.1".into(),
            why: "it lacks cuGraphInstantiateWithFlags".into(),
        });
        assert_eq!(
            refusals(vec![("libamdhip64.so.7", Refusal::Absent), ("libcuda.so.1", Refusal::Absent)]),
            "no GPU runtime: libamdhip64.so.7, libcuda.so.1: not found"
        );
        assert_eq!(
            refusals(vec![
                ("libamdhip64.so.6", Refusal::Absent),
                ("libamdhip64.so.5", no_gpu()),
                ("libcuda.so.1", Refusal::Absent)
            ]),
            "no GPU: libamdhip64.so.5: hipInit: hipErrorNoDevice (100); libamdhip64.so.6, libcuda.so.1: not found"
        );
        assert_eq!(
            refusals(vec![("libamdhip64.so.5", no_gpu()), ("libcuda.so.1", old)]),
            "libcuda.so.1 is too old: it lacks cuGraphInstantiateWithFlags \
             (libamdhip64.so.5: hipInit: hipErrorNoDevice (100))"
        );
    }

    #[test]
    fn newer_libraries_come_first_and_folders_must_have_the_file() {
        let folder = env::temp_dir().join(format!("rocmforge-search-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let six = folder.join("libamdhip64.so.6");
        std::fs::write(&six, "").unwrap();
        let found = Search::hip_libraries(&[folder.clone(), "/nowhere".into()]);
        std::fs::remove_dir_all(&folder).unwrap();
        let names = ["libamdhip64.so.7", six.to_str().unwrap(), "libamdhip64.so.6", "libamdhip64.so.5"];
        assert_eq!(found, names.map(PathBuf::from));
    }
}
