//! Runs the built command line.
#![allow(dead_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

#[cfg(feature = "hip")]
use crate::common::emulated;
use crate::common::models;

pub mod bigram;

/// A command with two threads, and what it prints kept.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rocmforge"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The command line on the emulated card, without what would choose another runtime.
#[cfg(feature = "hip")]
pub fn on_emulator(args: &[&str]) -> Command {
    let mut command = command(args);
    for cleared in emulated::CLEARED {
        command.env_remove(cleared);
    }
    command.env("ROCMFORGE_HIP_LIBRARY", emulated::library()).env("ROCMFORGE_EMULATOR_CARD", "gfx1100");
    command
}

pub fn rocmforge(args: &[&str]) -> Output {
    command(args).output().expect("the command line starts")
}

pub fn with_stdin(args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("the command line starts");
    // a command that fails early reads nothing
    let _ = child.stdin.take().expect("stdin is piped").write_all(input);
    child.wait_with_output().expect("the command line ends")
}

/// Standard output of a command that must succeed.
pub fn stdout(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "stderr: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("standard output is UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn smollm2() -> String {
    models::path(models::SMOLLM2).to_str().expect("a UTF-8 path").to_owned()
}

/// A folder of this test's own, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the scratch folder can be made");
        Scratch(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("the scratch folder is writable");
        path.to_str().expect("a UTF-8 path").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a command did in a terminal of its own.
pub struct Dialogue {
    /// All that the terminal was sent, as it was sent.
    pub text: String,
    pub status: i64,
    /// The terminal was left in the mode that it was found in.
    pub is_cooked: bool,
}

/// The editor's empty prompt.
pub const PROMPT: &str = "> \r\x1b[2C";

/// Talks with a command in a terminal: each step is a text to wait for and what to type then ("signal:SIGTERM" sends that
/// signal, "bytes:FF" that byte).
/// Standard output may go to a file. `tests/cli_common/terminal.py` does it.
pub fn in_terminal(args: &[&str], steps: &[(&str, &str)], stdout: Option<&str>) -> Dialogue {
    let argv = [&[env!("CARGO_BIN_EXE_rocmforge")], args].concat();
    let spec = serde_json::json!({ "argv": argv, "steps": steps, "stdout": stdout });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli_common/terminal.py");
    let mut python = Command::new("python3");
    python.arg(script).env_remove("RUST_LOG").env_remove("NO_COLOR");
    let mut child = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(spec.to_string().as_bytes()).expect("python3 reads");
    drop(stdin);
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "{}", stderr(&output));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    Dialogue {
        text: result["text"].as_str().expect("a text").to_owned(),
        status: result["status"].as_i64().expect("a status"),
        is_cooked: result["is_cooked"].as_bool().expect("true or false"),
    }
}

/// Sends the child what Ctrl-C sends.
pub fn interrupt(child: &Child) {
    let done = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .expect("a shell sends the signal");
    assert!(done.success());
}
