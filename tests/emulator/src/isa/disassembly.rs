//! A code object's machine code as text, by LLVM's disassembler.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

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
        let shown = PathBuf::from(tool).display().to_string();
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
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
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

/// ROCMFORGE_LLVM_OBJDUMP, else the newest llvm-objdump-NN of 19 and later, else llvm-objdump.
fn tool() -> Result<&'static OsString, String> {
    static TOOL: OnceLock<Result<OsString, String>> = OnceLock::new();
    let found = TOOL.get_or_init(|| {
        if let Some(tool) = env::var_os("ROCMFORGE_LLVM_OBJDUMP") {
            return Ok(tool);
        }
        let versions = (19..40).rev().map(|n| format!("llvm-objdump-{n}"));
        versions.chain(["llvm-objdump".into()]).map(OsString::from).find(exists).ok_or_else(|| {
            "no llvm-objdump of LLVM 19 or newer on PATH: install llvm-19, or name one in ROCMFORGE_LLVM_OBJDUMP".into()
        })
    });
    found.as_ref().map_err(String::clone)
}

fn exists(tool: &OsString) -> bool {
    let run = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    !matches!(run, Err(error) if error.kind() == ErrorKind::NotFound)
}
