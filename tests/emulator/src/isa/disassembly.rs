//! A code object's machine code as text, by LLVM's disassembler.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs, thread};

use crate::isa::Arch;

/// Each function's lines, by its name: `v_mov_b32_e32 v0, 0   // 000000003F08: 7E000280`.
#[derive(Clone, Debug, Default)]
pub struct Disassembly {
    functions: HashMap<String, Vec<String>>,
}

impl Disassembly {
    /// Disassembles an ELF code object.
    ///
    /// # Errors
    ///
    /// No disassembler, or it fails: said in words.
    pub fn of(elf: &[u8], arch: &Arch) -> Result<Self, String> {
        let tool = tool()?;
        let kept = kept(elf, arch, tool);
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(Self::parse(&text));
        }
        let text = disassemble(elf, arch, tool)?;
        // a reader never sees half of it; where it cannot be kept, the next process asks the tool again
        let unfinished = kept.with_extension(std::process::id().to_string());
        let _ = fs::create_dir_all(kept.with_file_name(""))
            .and_then(|()| fs::write(&unfinished, &text))
            .and_then(|()| fs::rename(&unfinished, &kept));
        Ok(Self::parse(&text))
    }

    /// From the disassembler's output.
    pub fn parse(text: &str) -> Self {
        let mut functions = HashMap::<String, Vec<String>>::new();
        let mut current = None;
        for line in text.lines() {
            if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once('<')).map(|(_, name)| name)
            {
                current = Some(functions.entry(name.to_owned()).or_default());
            } else if line.starts_with(['\t', ' '])
                && let Some(lines) = &mut current
            {
                lines.push(line.trim().to_owned());
            }
        }
        Disassembly { functions }
    }

    pub fn function(&self, name: &str) -> Option<&[String]> {
        self.functions.get(name).map(Vec::as_slice)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }
}

/// Where the text of a code object is kept: a process for each of hundreds of tests wants the same few.
fn kept(elf: &[u8], arch: &Arch, tool: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (elf, &arch.name, tool).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/disassembly");
    folder.join(format!("{}-{:016x}.s", arch.name, hasher.finish()))
}

fn disassemble(elf: &[u8], arch: &Arch, tool: &Path) -> Result<String, String> {
    let shown = tool.display().to_string();
    let mut child = Command::new(tool)
        .args(["-d", "-"])
        .arg(format!("--mcpu={}", arch.name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let mut stdin = child.stdin.take().ok_or("no pipe to the disassembler")?;
    let output = thread::scope(|scope| {
        // A tool that stops reading early says why on stderr.
        scope.spawn(move || drop(stdin.write_all(elf)));
        child.wait_with_output()
    })
    .map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tool() -> Result<&'static PathBuf, String> {
    static TOOL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = TOOL.get_or_init(|| match env::var_os("ROCMFORGE_LLVM_OBJDUMP") {
        Some(tool) => Ok(tool.into()),
        None => llvm_tool("llvm-objdump", OLDEST, &[])
            .map_err(|why| format!("{why}, or name one in ROCMFORGE_LLVM_OBJDUMP")),
    });
    found.as_ref().map_err(String::clone)
}

/// The oldest LLVM whose tools know all of the emulated targets.
pub const OLDEST: u32 = 19;

/// A tool of LLVM of a release that is not older: of `first`, NAME-NN of every folder on PATH from the newest down and
/// NAME, the first one that says it is. tools/find.sh looks in the same order.
pub fn llvm_tool(name: &str, oldest: u32, first: &[PathBuf]) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path).collect();
    let named = |name: String| folders.iter().map(move |folder| folder.join(&name));
    let numbered = (oldest..100).rev().flat_map(|number| named(format!("{name}-{number}")));
    let mut refused = String::new();
    for tool in first.iter().cloned().chain(numbered).chain(named(name.to_owned())).filter(|t| t.is_file()) {
        match release(&tool) {
            Some(release) if release >= oldest => return Ok(tool),
            Some(release) => refused += &format!(" ({} is of release {release})", tool.display()),
            None => refused += &format!(" ({} does not tell its release)", tool.display()),
        }
    }
    Err(format!("no {name} of LLVM {oldest} or newer on PATH{refused}: install llvm-{oldest} or a newer one"))
}

/// The number behind "LLVM version".
fn release(tool: &Path) -> Option<u32> {
    let output = Command::new(tool).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_once("LLVM version ")?.1.split('.').next()?.parse().ok()
}
