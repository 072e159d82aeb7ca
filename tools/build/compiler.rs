//! Finding clang, and calling it and its linker for one target.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use super::targets;

const OLDEST: u32 = 19;

/// A clang that compiles for some GPUs.
#[derive(Debug)]
pub struct Compiler {
    pub path: PathBuf,
    /// All that it says of itself.
    pub version: String,
    lld: PathBuf,
    /// Names as --offload-arch takes them.
    cpus: BTreeSet<String>,
}

/// Where to look.
pub struct Search {
    pub hipcc: Option<OsString>,
    pub rocm_path: Option<OsString>,
    /// The folders of PATH.
    pub path: Vec<PathBuf>,
}

impl Search {
    pub const VARIABLES: [&str; 2] = ["HIPCC", "ROCM_PATH"];

    pub fn of_environment() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let [hipcc, rocm_path] = Self::VARIABLES.map(set);
        let path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        Self { hipcc, rocm_path, path }
    }

    /// Every clang that will do, in the order of preference: HIPCC, ROCM_PATH's, clang-NN on PATH from the newest
    /// down, clang. A HIPCC that will not do is an error: somebody wants it.
    pub fn find_all(&self) -> Result<Vec<Compiler>, String> {
        let mut found: Vec<Compiler> = Vec::new();
        let mut refused = Vec::new();
        if let Some(hipcc) = &self.hipcc {
            let compiler = match self.program(hipcc) {
                Some(path) => self.compiler(behind_hipcc(path)),
                None => Err("no such program".to_owned()),
            };
            found.push(compiler.map_err(|why| format!("HIPCC={}: {why}", hipcc.display()))?);
        }
        let mut candidates = Vec::new();
        if let Some(rocm) = &self.rocm_path {
            let clang = ["llvm/bin/clang", "lib/llvm/bin/clang"].map(|sub| Path::new(rocm).join(sub));
            match clang.into_iter().find(|path| path.is_file()) {
                Some(path) => candidates.push(path),
                None => refused.push(format!("ROCM_PATH={}: no llvm/bin/clang in it", rocm.display())),
            }
        }
        candidates.extend(self.numbered_clangs());
        candidates.extend(self.program(OsStr::new("clang")));
        for path in candidates {
            match self.compiler(path.clone()) {
                Ok(compiler) if found.iter().any(|c| c.version == compiler.version) => {}
                Ok(compiler) => found.push(compiler),
                Err(why) => refused.push(format!("{}: {why}", path.display())),
            }
        }
        if found.is_empty() { Err(nothing_found(&refused)) } else { Ok(found) }
    }

    /// A program's file, looked for as a shell does.
    fn program(&self, name: &OsStr) -> Option<PathBuf> {
        let path = Path::new(name);
        if path.components().count() > 1 {
            return path.is_file().then(|| path.to_owned());
        }
        self.path.iter().map(|folder| folder.join(path)).find(|file| file.is_file())
    }

    /// clang-NN of every folder on PATH, from the newest down; of one number the first on PATH.
    fn numbered_clangs(&self) -> Vec<PathBuf> {
        let mut found: Vec<(u32, PathBuf)> = Vec::new();
        for folder in &self.path {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let number =
                    name.to_str().and_then(|n| n.strip_prefix("clang-")).and_then(|n| n.parse().ok());
                if let Some(number) = number
                    && !found.iter().any(|(other, _)| *other == number)
                {
                    found.push((number, entry.path()));
                }
            }
        }
        found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// The compiler at `path`, if it will do.
    fn compiler(&self, path: PathBuf) -> Result<Compiler, String> {
        let version = run(Command::new(&path).arg("--version"))?;
        let number = version.split_once("clang version ").map_or("", |(_, rest)| rest);
        let major: Option<u32> = number.split('.').next().and_then(|major| major.parse().ok());
        let major = major.ok_or("not a clang, by its --version")?;
        if major < OLDEST {
            return Err(format!("clang {major}; {OLDEST} or newer is needed"));
        }
        let lld = run(Command::new(&path).arg("-print-prog-name=lld"))?;
        let Some(lld) = self.program(OsStr::new(lld.trim())) else {
            return Err(format!("clang {major} without its linker: install lld-{major}, or lld"));
        };
        // The one on PATH may be another clang's.
        let said = run(Command::new(&lld).args(["-flavor", "gnu", "--version"]))?;
        let number =
            said.split_once("LLD ").and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
        if number.is_none_or(|number| number < OLDEST) {
            let said = said.lines().next().unwrap_or_default();
            return Err(format!(
                "clang {major} with the linker {} ({said}): install lld-{major}",
                lld.display()
            ));
        }
        let mut cpus = BTreeSet::new();
        for target in ["amdgcn-amd-amdhsa", "nvptx64-nvidia-cuda"] {
            let arguments = [&format!("--target={target}"), "-nogpulib", "--print-supported-cpus"];
            // A clang built without the target fails here.
            let list = run(Command::new(&path).args(arguments)).unwrap_or_default();
            cpus.extend(list.lines().filter_map(|l| l.strip_prefix('\t')).map(|l| l.trim().to_owned()));
        }
        if !cpus.iter().any(|cpu| cpu.starts_with("gfx")) {
            return Err(format!("clang {major}, built without AMD's GPUs"));
        }
        Ok(Compiler { path, version, lld, cpus })
    }
}

fn nothing_found(refused: &[String]) -> String {
    let mut text = format!(
        "no compiler for the GPU kernels: clang {OLDEST} or newer and its lld are needed (ROCm is not). Install them:\n\
         \x20   Debian, Ubuntu:  apt-get install clang-19 lld-19   (any newer number does; if your release has none, \
         https://apt.llvm.org has)\n\
         \x20   Fedora:          dnf install clang lld\n\
         \x20   Arch:            pacman -S clang lld\n\
         or name one in HIPCC, or a ROCm 6.4 or newer in ROCM_PATH; or build for the CPU alone with\n\
         \x20   cargo build --no-default-features --features cli"
    );
    for line in refused {
        text.push_str("\nnot usable: ");
        text.push_str(line);
    }
    text
}

/// hipcc only wraps a clang, which its version names; the wrapper's own options are not wanted.
fn behind_hipcc(path: PathBuf) -> PathBuf {
    let is_hipcc = path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("hipcc"));
    if !is_hipcc {
        return path;
    }
    let version = run(Command::new(&path).arg("--version")).unwrap_or_default();
    let folder = version.lines().find_map(|line| line.strip_prefix("InstalledDir: "));
    folder.map(|folder| Path::new(folder).join("clang")).filter(|clang| clang.is_file()).unwrap_or(path)
}

/// Standard output and error of a command that succeeds.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot be started: {e}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{}: {}", output.status, text.trim_end())) }
}

impl Compiler {
    pub fn knows(&self, target: &str) -> bool {
        self.cpus.contains(target)
    }

    /// What the compiler reads when it compiles the file, without comments.
    pub fn preprocess(&self, target: &str, file: &Path) -> Result<Vec<u8>, String> {
        self.clang(target, file, &["-E", "-P", "-o", "-"]).map(|(text, _)| text)
    }

    /// The file as text for the assembler (NVIDIA: the driver), and the warnings.
    pub fn compile(&self, target: &str, file: &Path) -> Result<(String, String), String> {
        let (text, warnings) = self.clang(target, file, &["-S", "-o", "-"])?;
        let text = String::from_utf8(text).map_err(|e| format!("{} for {target}: {e}", file.display()))?;
        Ok((text, warnings))
    }

    /// Runs in the folder above the file's, so that texts do not tell where the tree lies.
    fn clang(&self, target: &str, file: &Path, more: &[&str]) -> Result<(Vec<u8>, String), String> {
        let folder = file.parent().expect("a file in a folder");
        let root = folder.parent().expect("a folder of the crate");
        let mut command = Command::new(&self.path);
        command.args(arguments(target)).args(more).arg(file.strip_prefix(root).expect("a file below it"));
        // Only what is in the tree and the compiler's own headers.
        command.current_dir(root).env_remove("CPATH").env_remove("CPLUS_INCLUDE_PATH");
        finish(&mut command, target)
    }

    /// The code object of `assembly`, a text that [`compile`](Self::compile) made for this target or one of the same
    /// code; `scratch` is a name for temporary files. A text of PTX is what the driver takes, as it is.
    pub fn assemble(&self, target: &str, assembly: &str, scratch: &Path) -> Result<Vec<u8>, String> {
        if !target.starts_with("gfx") {
            return Ok(assembly.as_bytes().to_owned());
        }
        let [text, object, linked] = ["s", "o", "so"].map(|extension| scratch.with_extension(extension));
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |e| format!("{path}: {e}")
        };
        fs::write(&text, retarget(assembly, target)).map_err(failed(&text))?;
        let mut clang = Command::new(&self.path);
        clang.args(["--target=amdgcn-amd-amdhsa", "-x", "assembler", "-c"]);
        clang.arg(format!("-mcpu={target}"));
        clang.arg(format!("-mcode-object-version={}", targets::code_object_version(target)));
        finish(clang.arg(&text).arg("-o").arg(&object), target)?;
        let mut lld = Command::new(&self.lld);
        lld.args(["-flavor", "gnu", "-m", "elf64_amdgpu", "--no-undefined", "-shared"]);
        finish(lld.arg(&object).arg("-o").arg(&linked), target)?;
        let bytes = fs::read(&linked).map_err(failed(&linked))?;
        for file in [text, object, linked] {
            let _ = fs::remove_file(file);
        }
        Ok(bytes)
    }
}

/// Standard output and error of a command that succeeds.
fn finish(command: &mut Command, target: &str) -> Result<(Vec<u8>, String), String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program} cannot be started: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Clang 19 says so of the generic targets; what it makes is version 6 as it came to be.
    let said: String =
        said.split_inclusive('\n').filter(|line| !line.contains("code object v6 is still")).collect();
    match output.status.success() {
        true => Ok((output.stdout, said)),
        false => Err(format!("{program} for {target}: {}\n{said}", output.status)),
    }
}

/// An assembly text, for another target of the same code: it names its target and the code object's version. Whether
/// registers are reserved for XNACK, the assembler knows of each target.
fn retarget(assembly: &str, target: &str) -> String {
    const TRIPLE: &str = "amdgcn-amd-amdhsa--";
    let mut text = String::with_capacity(assembly.len());
    for line in assembly.split_inclusive('\n') {
        if line.starts_with("\t.amdgcn_target") {
            text.push_str(&format!("\t.amdgcn_target \"{TRIPLE}{target}\"\n"));
        } else if line.starts_with("\t.amdhsa_code_object_version") {
            let version = targets::code_object_version(target);
            text.push_str(&format!("\t.amdhsa_code_object_version {version}\n"));
        } else if line.starts_with("amdhsa.target:") {
            text.push_str(&format!("amdhsa.target:   {TRIPLE}{target}\n"));
        } else if !line.starts_with("\t\t.amdhsa_reserve_xnack_mask") {
            text.push_str(line);
        }
    }
    text
}

/// Names of the kernels in a text that [`Compiler::compile`] made.
pub fn kernels(assembly: &str) -> Vec<String> {
    let name = |line: &str| {
        let amd = line.strip_prefix("\t.amdhsa_kernel ");
        let nvidia = line.strip_prefix(".visible .entry ").map(|rest| rest.trim_end_matches(['(', ')']));
        amd.or(nvidia).map(|name| name.trim().to_owned())
    };
    assembly.lines().filter_map(name).collect()
}

/// Options for a target, without the names of files.
pub fn arguments(target: &str) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--cuda-device-only",
        "-O3",
        "-std=c++20",
        // A product and a sum are rounded each, unless fma() is written: the same bits as on the CPU.
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        // Nothing of the machine gets in: neither its C headers nor an installed ROCm or CUDA.
        "-nostdlibinc",
        "-nogpuinc",
        "-nogpulib",
        "-fno-color-diagnostics",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--offload-arch={target}"));
    if target.starts_with("sm_") {
        // The oldest PTX that has what the kernels use (L1::no_allocate: 7.4): older drivers accept it.
        arguments.extend(["-x", "cuda", "--cuda-feature=+ptx74"].map(str::to_owned));
    } else {
        arguments.extend(["-x", "hip", "--no-gpu-bundle-output", "-fuse-cuid=none"].map(str::to_owned));
        arguments.push(format!("-mcode-object-version={}", targets::code_object_version(target)));
    }
    arguments
}
