//! Cards to test on. Where ROCMFORGE_TEST_GPU=1 is set: the machine's best GPU, in this process, one test at a time;
//! ROCMFORGE_TEST_GPU=small: the same at the emulator's small shapes, for compute-sanitizer.
//! Otherwise: every emulated card, each test in a process of its own, since a process opens one runtime.
//!
//! The emulator, libamdhip64.so, is a dev-dependency: cargo builds it beside the test binaries. A test binary in
//! GPU mode needs no file but itself.

use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use rocmforge::device::DeviceChoice;
use rocmforge::device::hip::card::Card;
use rocmforge::device::hip::memory::{Buffer, Pool, Span, Staging};
use rocmforge::device::hip::stream::Stream;

use super::emulated;
pub use super::logits::nmse;

/// Cards that the emulator executes.
pub const EMULATED: [&str; 4] = ["gfx1100", "gfx1201", "gfx942", "gfx90a"];

/// Set for the child that runs one test: GROUP::TEST.
const CHILD: &str = "ROCMFORGE_TEST_NAME";
const REAL: &str = "ROCMFORGE_TEST_GPU";

#[derive(Clone, Copy)]
pub struct Test {
    name: &'static str,
    run: fn(&Gpu),
    /// Too slow for the emulator: run there by `--ignored` alone.
    slow: bool,
    /// Of emulated cards only.
    emulated_only: bool,
    /// Variables of the test's process.
    env: &'static [(&'static str, &'static str)],
}

impl Test {
    pub const fn new(name: &'static str, run: fn(&Gpu)) -> Self {
        Test { name, run, slow: false, emulated_only: false, env: &[] }
    }

    pub const fn slow(name: &'static str, run: fn(&Gpu)) -> Self {
        Test { slow: true, ..Test::new(name, run) }
    }

    pub const fn emulated_only(self) -> Self {
        Test { emulated_only: true, ..self }
    }

    pub const fn env(self, env: &'static [(&'static str, &'static str)]) -> Self {
        Test { env, ..self }
    }
}

/// A file's tests.
pub struct Group {
    pub name: &'static str,
    pub tests: &'static [Test],
    /// The emulated cards that they run on.
    pub cards: &'static [&'static str],
}

/// Runs the tests as libtest would (names to filter by, --list, --ignored, --exact), on the real GPU or on each of
/// their emulated cards. They are called GROUP::CARD::TEST.
pub fn main(groups: &'static [Group]) -> ExitCode {
    if let Ok(name) = std::env::var(CHILD) {
        let mut tests = groups.iter().flat_map(|group| group.tests.iter().map(|test| (group.name, test)));
        let test = tests.find(|(group, test)| name == format!("{group}::{}", test.name));
        (test.expect("a test of this program").1.run)(&Gpu::open());
        return ExitCode::SUCCESS;
    }
    let mut args = Arguments::from_args();
    let mut trials = Vec::new();
    for Group { name: group, tests, cards } in groups {
        if is_real() {
            args.test_threads = Some(1);
            for test in tests.iter().filter(|test| !test.emulated_only) {
                let trial = move || match test.env {
                    [] => {
                        (test.run)(&Gpu::open());
                        Ok(())
                    }
                    _ => in_child(group, test, &mut Command::new(std::env::current_exe()?)),
                };
                let is_slow = test.slow && std::env::var_os(REAL).is_some_and(|value| value == "small");
                let name = format!("{group}::gpu::{}", test.name);
                trials.push(Trial::test(name, trial).with_ignored_flag(is_slow));
            }
            continue;
        }
        for (arch, test) in cards.iter().flat_map(|arch| tests.iter().map(move |test| (arch, test))) {
            let trial = move || {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .env("ROCMFORGE_HIP_LIBRARY", emulated::library())
                    .env("ROCMFORGE_EMULATOR_CARD", arch);
                in_child(group, test, &mut command)
            };
            let name = format!("{group}::{arch}::{}", test.name);
            trials.push(Trial::test(name, trial).with_ignored_flag(test.slow));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// The test in a process of its own.
fn in_child(group: &str, test: &Test, command: &mut Command) -> Result<(), Failed> {
    command.env(CHILD, format!("{group}::{}", test.name)).envs(test.env.iter().copied());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)).into())
}

pub fn is_real() -> bool {
    std::env::var_os(REAL).is_some_and(|value| value == "1" || value == "small")
}

/// A card with what tests need of it. Each buffer is an allocation of its own, so that the emulator and NVIDIA's
/// memcheck notice an access beyond it.
pub struct Gpu {
    pub card: Arc<Card>,
    pub pool: Arc<Pool>,
    pub stream: Stream,
    staging: Mutex<Staging>,
}

/// Bytes before and behind an output that no kernel may write.
const GUARD: u64 = 256;
const GUARD_BYTE: u8 = 0xA5;
/// What an output holds before: a NaN as f32 and f16, so that an element left out fails any comparison.
const POISON: u8 = 0xFF;

impl Gpu {
    pub fn open() -> Self {
        let card =
            Card::open(&DeviceChoice::Best).unwrap_or_else(|error| panic!("no card to test on: {error}"));
        let pool = Pool::with_chunks(Arc::clone(&card), 1);
        let stream = Stream::new(&card).unwrap();
        let staging = Mutex::new(Staging::with_halves(&card, 1 << 20).unwrap());
        Gpu { card, pool, stream, staging }
    }

    /// Whether large shapes are for it.
    pub fn is_fast(&self) -> bool {
        std::env::var_os(REAL).is_some_and(|value| value == "1")
    }

    pub fn pick<T>(&self, fast: T, slow: T) -> T {
        if self.is_fast() { fast } else { slow }
    }

    /// Elements at the end of an allocation, at a multiple of 16 bytes.
    pub fn input<T: Element>(&self, values: &[T]) -> Input {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_bytes()).collect();
        self.pool.trim().unwrap();
        let size = (bytes.len() as u64).next_multiple_of(256).max(256);
        let input = Input {
            first: (size - bytes.len() as u64) / 16 * 16,
            bytes: bytes.len() as u64,
            buffer: self.alloc(size),
        };
        self.write(input.span(), &bytes);
        input
    }

    /// Room for `len` elements, poisoned, between guard zones.
    pub fn output<T: Element>(&self, len: usize) -> Output {
        self.pool.trim().unwrap();
        let bytes = (len * size_of::<T>()) as u64;
        let buffer = self.alloc(bytes + 2 * GUARD);
        self.stream.fill(buffer.span(), GUARD_BYTE).unwrap();
        let output = Output { buffer, bytes };
        self.stream.fill(output.span(), POISON).unwrap();
        output
    }

    /// What the output holds, once all queued work is done; its guard zones are whole.
    pub fn read<T: Element>(&self, output: &Output) -> Vec<T> {
        let bytes = self.bytes(output.buffer.span());
        let (before, rest) = bytes.split_at(GUARD as usize);
        let (inside, behind) = rest.split_at(output.bytes as usize);
        for (name, guard) in [("before", before), ("behind", behind)] {
            let touched = guard.iter().position(|byte| *byte != GUARD_BYTE);
            assert_eq!(touched, None, "a kernel wrote {name} its output of {} bytes", output.bytes);
        }
        inside.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
    }

    pub fn bytes(&self, span: Span<'_>) -> Vec<u8> {
        let mut bytes = vec![0; span.bytes() as usize];
        self.staging.lock().unwrap().download(&self.stream, span, &mut bytes).unwrap();
        bytes
    }

    pub fn write(&self, span: Span<'_>, bytes: &[u8]) {
        self.staging.lock().unwrap().upload(&self.stream, bytes, span).unwrap();
    }

    fn alloc(&self, bytes: u64) -> Buffer {
        self.pool.alloc(bytes, "a test's buffer").unwrap()
    }
}

pub struct Input {
    buffer: Buffer,
    first: u64,
    bytes: u64,
}

impl Input {
    pub fn span(&self) -> Span<'_> {
        self.buffer.span().part(self.first..self.first + self.bytes).unwrap()
    }
}

pub struct Output {
    buffer: Buffer,
    bytes: u64,
}

impl Output {
    pub fn span(&self) -> Span<'_> {
        self.buffer.span().part(GUARD..GUARD + self.bytes).unwrap()
    }
}

pub trait Element: Copy {
    fn to_bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($ty:ty),*) => { $(impl Element for $ty {
        fn to_bytes(self) -> Vec<u8> {
            self.to_le_bytes().to_vec()
        }
        fn from_bytes(bytes: &[u8]) -> Self {
            Self::from_le_bytes(bytes.try_into().unwrap())
        }
    })* };
}
elements!(u8, i8, u16, u32, f32);
