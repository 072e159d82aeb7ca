//! Tests that need a GPU runtime of their own: each runs in a child process with the environment that it asks for,
//! since a process opens one runtime, once.
#![allow(dead_code)]

use std::ffi::{CString, OsStr, c_char, c_int};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the test for which a process was started.
const CHILD: &str = "ROCMFORGE_TEST_CHILD";

/// What decides which runtime is found, or how it behaves: nothing of it comes from outside.
pub const CLEARED: [&str; 6] = [
    "ROCM_PATH",
    "ROCMFORGE_KERNEL_DIR",
    "ROCMFORGE_HIP_GRAPH",
    "HIP_LAUNCH_BLOCKING",
    "HIP_VISIBLE_DEVICES",
    "ROCMFORGE_EMULATOR_FAIL",
];

/// Whether this process was started for one test.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs `body` in a process with these variables. `name` is the calling test's in its file.
#[track_caller]
pub fn in_process<V: AsRef<OsStr>>(name: &str, env: &[(&str, V)], body: impl FnOnce()) {
    let name = &full_name(name, Location::caller().file());
    if std::env::var(CHILD).is_ok_and(|child| child == *name) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
    command.args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"]);
    for cleared in CLEARED {
        command.env_remove(cleared);
    }
    let output = command.env(CHILD, name).envs(env.iter().map(|(k, v)| (k, v))).output();
    let output = output.expect("the test can start itself");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success() && text(&output.stdout).contains("1 passed"),
        "in a process of its own: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    print!("{}", text(&output.stdout));
}

/// A test of tests/LAYER/FILE.rs is called FILE::NAME, one of tests/FILE.rs NAME.
fn full_name(name: &str, file: &str) -> String {
    let file = Path::new(file);
    if file.parent().is_some_and(|folder| folder.ends_with("tests")) {
        return name.to_owned();
    }
    format!("{}::{name}", file.file_stem().and_then(OsStr::to_str).expect("a test file's name"))
}

/// The same on the emulator, with variables named without ROCMFORGE_EMULATOR_.
#[track_caller]
pub fn on_emulator(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    let mut env = vec![("ROCMFORGE_HIP_LIBRARY".to_owned(), library().into_os_string())];
    env.extend(settings.iter().map(|(key, value)| (format!("ROCMFORGE_EMULATOR_{key}"), value.into())));
    let env: Vec<_> = env.iter().map(|(key, value)| (key.as_str(), value)).collect();
    in_process(name, &env, body);
}

/// The emulator as cargo built it for this test run.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let library = test.parent().expect("it lies in a folder").join("libamdhip64.so");
    assert!(library.is_file(), "{} is missing: `cargo test` builds it", library.display());
    library
}

/// A copy of the emulator without that symbol.
pub fn library_without(symbol: &str, to: &Path) {
    let mut bytes = std::fs::read(library()).expect("the emulator can be read");
    let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let places: Vec<_> = memchr::memmem::find_iter(&bytes, &name).collect();
    assert!(!places.is_empty(), "the emulator has no {symbol}");
    for at in places {
        bytes[at + 1] = b'x';
    }
    std::fs::write(to, bytes).expect("the copy can be written");
}

/// The emulator's own functions, in the library that this process's runtime is.
pub struct Emulator(libloading::Library);

impl Emulator {
    pub fn open() -> Self {
        let path = std::env::var_os("ROCMFORGE_HIP_LIBRARY").expect("a test on the emulator");
        // SAFETY: the emulator's initializers do nothing.
        Emulator(unsafe { libloading::Library::new(path) }.expect("the emulator can be opened"))
    }

    /// Orders to fail, `[NAME:]N[+]:CODE` with commas between; calls count from here on.
    pub fn fail(&self, orders: &str) {
        type Fail = unsafe extern "C" fn(*const c_char) -> c_int;
        let orders = CString::new(orders).unwrap();
        // SAFETY: the emulator's own signature.
        let code = unsafe { self.0.get::<Fail>("rocmforge_emulator_fail").unwrap()(orders.as_ptr()) };
        assert_eq!(code, 0, "{orders:?}");
    }

    /// Starts anew with lines KEY=VALUE, named as in `on_emulator`: every handle and address from before is gone.
    pub fn configure(&self, settings: &str) {
        type Configure = unsafe extern "C" fn(*const c_char) -> c_int;
        let settings = CString::new(settings).unwrap();
        // SAFETY: the emulator's own signature.
        let code =
            unsafe { self.0.get::<Configure>("rocmforge_emulator_configure").unwrap()(settings.as_ptr()) };
        assert_eq!(code, 0, "{settings:?}");
    }

    /// The calling thread's device as new: every handle and address of it from before is gone.
    pub fn reset_device(&self) {
        // SAFETY: HIP's signature.
        let code = unsafe { self.0.get::<unsafe extern "C" fn() -> c_int>("hipDeviceReset").unwrap()() };
        assert_eq!(code, 0);
    }

    /// The last launch's counters (docs/emulator.md, "Counters").
    pub fn last_launch(&self) -> serde_json::Value {
        type LastLaunch = unsafe extern "C" fn(*mut c_char, usize) -> usize;
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: the emulator's own signature; it writes no more than it is told there is room for.
        let len = unsafe {
            let last = self.0.get::<LastLaunch>("rocmforge_emulator_last_launch").unwrap();
            last(text.as_mut_ptr().cast(), text.len())
        };
        serde_json::from_slice(&text[..len]).expect("counters in JSON")
    }

    /// Calls of a function since `fail`, or of all ("").
    pub fn calls(&self, name: &str) -> u64 {
        type Calls = unsafe extern "C" fn(*const c_char) -> u64;
        let name = CString::new(name).unwrap();
        // SAFETY: the emulator's own signature.
        unsafe { self.0.get::<Calls>("rocmforge_emulator_calls").unwrap()(name.as_ptr()) }
    }
}
