//! Finding clang, and calling it for one target.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

const OLDEST: u32 = 19;

/// A clang that compiles for some GPUs.
#[derive(Debug)]
pub struct Compiler {
    pub path: PathBuf,
    /// All that it says of itself.
    pub version: String,
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
        Ok(Compiler { path, version, cpus })
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

    /// Translates `source`, which includes files of `folder`; the object lands in `object`. Returns the warnings.
    pub fn compile(
        &self,
        target: &str,
        source: &str,
        folder: &Path,
        object: &Path,
    ) -> Result<String, String> {
        let mut command = Command::new(&self.path);
        command.args(arguments(target)).arg("-I").arg(folder.file_name().expect("a named folder"));
        command.arg("-o").arg(object).arg("-").current_dir(folder.parent().expect("a folder of the crate"));
        // Only what is in the tree and the compiler's own headers.
        command.env_remove("CPATH").env_remove("CPLUS_INCLUDE_PATH");
        let start = |e| format!("{} cannot be started: {e}", self.path.display());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        // A compiler that fails early closes its end: what it says tells more than the broken pipe.
        let _ = child.stdin.take().expect("stdin is piped").write_all(source.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().map_err(start)?;
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        // Clang 19 says so of the generic targets; what it makes is version 6 as it came to be.
        let said: String =
            said.split_inclusive('\n').filter(|l| !l.contains("code object v6 is still")).collect();
        if status.success() {
            Ok(said)
        } else {
            Err(format!("{} for {target}: {status}\n{said}", self.path.display()))
        }
    }
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
        let ptx = if target == "sm_90" { 80 } else { 74 };
        arguments.extend(["-x", "cuda", "-S"].map(str::to_owned));
        arguments.extend([format!("--cuda-feature=+ptx{ptx}")]);
    } else {
        // Generic targets came with version 6, which needs ROCm 6.3; 5 is read by all since 5.3.
        let version = if target.ends_with("-generic") { 6 } else { 5 };
        arguments.extend(["-x", "hip", "--no-gpu-bundle-output", "-fuse-cuid=none"].map(str::to_owned));
        arguments.push(format!("-mcode-object-version={version}"));
    }
    arguments
}
