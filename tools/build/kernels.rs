//! Compiles kernels/*.hip, as one translation unit per target, and embeds the results.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, fs, io, thread};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::cards;
use super::compiler::{self, Compiler, Search};
use super::targets::{self, Built, PTX_TARGETS, TARGETS};

/// Narrow the targets; the first that is set counts.
const ARCH_VARIABLES: [&str; 2] = ["ROCm_ARCH", "ROCM_ARCH"];

/// Leaves in OUT_DIR each target's code object, compressed, and code_objects.rs, the table of them.
pub fn embed(root: &Path) -> Result<(), String> {
    let folder = root.join("kernels");
    println!("cargo:rerun-if-changed={}", folder.display());
    for name in Search::VARIABLES.into_iter().chain(ARCH_VARIABLES) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compilers = Search::of_environment().find_all()?;
    for compiler in &compilers {
        println!("cargo:rerun-if-changed={}", compiler.path.display());
    }
    let unit = Unit::read(&folder)?;
    let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|value| (name, value));
    let wanted = match ARCH_VARIABLES.into_iter().find_map(set) {
        Some((variable, value)) => {
            wanted_targets(variable, &value, || cards::in_machine(Path::new("/"), OsStr::new("nvidia-smi")))?
        }
        None => None,
    };
    let jobs = jobs(&compilers, &wanted)?;
    // For tests that compare with what the same compiler says.
    println!("cargo::rustc-env=ROCMFORGE_CLANG={}", compilers[0].path.display());
    let cache = Cache::of(&out)?;
    let progress = Progress::of_environment();
    let packed = in_parallel(&jobs, |i, job| {
        cache.get_or_compile(&unit, job, || {
            progress.say(&format!("{} ({} of {})", job.target, i + 1, jobs.len()))
        })
    })?;

    let mut table = String::from("[\n");
    let mut warned = HashSet::new();
    for (job, Packed { bytes, size, warnings }) in jobs.iter().zip(packed) {
        for line in warnings.lines() {
            if warned.insert(line.to_owned()) {
                println!("cargo::warning={line}");
            }
        }
        let file = format!("{}.z", job.target);
        write_atomically(&out.join(&file), &bytes)?;
        table.push_str(&format!(
            "    Embedded {{ arch: \"{}\", size: {size}, packed: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")) }},\n",
            job.target
        ));
    }
    table.push_str("]\n");
    write_atomically(&out.join("code_objects.rs"), table.as_bytes())
}

/// All kernels as one source.
struct Unit {
    folder: PathBuf,
    /// Includes every kernels/*.hip, by name.
    source: String,
    /// Of every file in the folder.
    contents: Vec<(String, Vec<u8>)>,
}

impl Unit {
    fn read(folder: &Path) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{}: {e}", folder.display());
        let mut contents = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                contents.push((name, fs::read(entry.path()).map_err(failed)?));
            }
        }
        contents.sort();
        let names = contents.iter().map(|(name, _)| name).filter(|name| name.ends_with(".hip"));
        let source: String = names.map(|name| format!("#include \"{name}\"\n")).collect();
        if source.is_empty() {
            return Err(format!("{}: no .hip file", folder.display()));
        }
        Ok(Self { folder: folder.to_owned(), source, contents })
    }
}

struct Job<'a> {
    target: &'static str,
    compiler: &'a Compiler,
}

/// What to compile, in the tables' order, each by the first compiler that knows the target. What none knows is an
/// error if it is asked for by name, or every clang for AMD's GPUs knows it.
fn jobs<'a>(compilers: &'a [Compiler], wanted: &Option<BTreeSet<&str>>) -> Result<Vec<Job<'a>>, String> {
    let amd = TARGETS.iter().filter(|t| t.built != Built::AsGeneric).map(|t| (t.name, t.built));
    let all = amd.chain(PTX_TARGETS.iter().map(|&name| (name, Built::IfKnown)));
    let mut jobs = Vec::new();
    let mut without = Vec::new();
    for (target, built) in
        all.filter(|(target, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(target)))
    {
        match compilers.iter().find(|compiler| compiler.knows(target)) {
            Some(compiler) => jobs.push(Job { target, compiler }),
            None if built == Built::IfKnown && wanted.is_none() => {}
            None => without.push(target),
        }
    }
    let names: Vec<_> = compilers.iter().map(|c| c.path.display().to_string()).collect();
    let names = names.join(", ");
    if !without.is_empty() {
        let without = without.join(", ");
        return Err(format!(
            "{names} cannot compile for {without}; a newer clang may, or one built for all GPUs"
        ));
    }
    if wanted.is_none() && !jobs.iter().any(|job| PTX_TARGETS.contains(&job.target)) {
        println!("cargo::warning=without kernels for NVIDIA's GPUs: {names} cannot compile for them");
    }
    Ok(jobs)
}

/// Where no card is found for ROCm_ARCH=native.
const WITHOUT_CARDS: &str = "gfx1100";

/// The targets that the variable names, or None for all. A GPU whose code is its generic target's stands for that
/// one; `native` for those of the cards in this machine that there are kernels for, else for one target.
pub fn wanted_targets(
    variable: &str,
    value: &str,
    cards: impl Fn() -> Vec<String>,
) -> Result<Option<BTreeSet<&'static str>>, String> {
    let mut words = Vec::new();
    for word in value.split([',', ';', ' ', '\t', '\n']).filter(|word| !word.is_empty()) {
        match word {
            "all" => return Ok(None),
            "native" => {
                let mut cards = cards();
                cards.retain(|card| !targets::served_by(card).is_empty());
                if cards.is_empty() {
                    cards.push(WITHOUT_CARDS.to_owned());
                }
                words.extend(cards);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut wanted = BTreeSet::new();
    for word in &words {
        // gfx90a:sramecc+:xnack-
        let name = word.split(':').next().unwrap_or(word);
        let served_by = targets::served_by(name);
        let built = |target: &&str| targets::find(target).is_none_or(|t| t.built != Built::AsGeneric);
        wanted.insert(*served_by.iter().find(|t| built(t)).ok_or_else(|| unknown_target(variable, name))?);
    }
    Ok(Some(wanted))
}

fn unknown_target(variable: &str, name: &str) -> String {
    let known: Vec<_> = TARGETS.iter().map(|t| t.name).chain(PTX_TARGETS.iter().copied()).collect();
    format!("{variable}: unknown target '{name}'; known: all, native, {}", known.join(", "))
}

/// The results in the order of the items, or the first failure in that order. As many threads as cargo grants.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(usize, &T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let threads =
        env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, items.len().max(1));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R, String>>>> = Mutex::new(items.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = work(i, item);
                    if result.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    results.lock().expect("no thread panics while it holds the lock")[i] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panics while it holds the lock");
    // After a failure some items were never begun; the failure itself is there.
    if results.iter().flatten().any(Result::is_err) {
        return results.into_iter().flatten().collect();
    }
    Ok(results.into_iter().flatten().flatten().collect())
}

struct Packed {
    bytes: Vec<u8>,
    /// Uncompressed.
    size: usize,
    warnings: String,
}

/// Tells a person what takes so long: cargo shows nothing of what a build script prints.
struct Progress(Option<Mutex<fs::File>>);

impl Progress {
    /// Number of a descriptor that `make` opens, the terminal or the log of the whole build.
    const VARIABLE: &str = "ROCMFORGE_PROGRESS_FD";

    fn of_environment() -> Self {
        let fd = env::var(Self::VARIABLE).ok().and_then(|fd| fd.parse().ok());
        let fd = fd.filter(|fd| Path::new(&format!("/proc/self/fd/{fd}")).exists());
        // SAFETY: the descriptor is open, inherited for this use, and nothing else in this process owns it; nothing
        // has opened a file by that number, as the first free one is taken and this runs before any other thread.
        Self(fd.map(|fd| Mutex::new(unsafe { fs::File::from_raw_fd(fd) })))
    }

    fn say(&self, text: &str) {
        let Some(file) = &self.0 else { return };
        let mut file = file.lock().expect("no thread panics while it holds the lock");
        // cargo's own progress bar stands on the line.
        let clear = if file.is_terminal() { "\r\x1b[K" } else { "" };
        let _ = writeln!(file, "{clear}     Kernels {text}");
    }
}

/// Compressed objects by what they were made from, in a folder that all profiles and commands share.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

    /// In cargo's target folder: OUT_DIR is TARGET/PROFILE/build/... or, with --target, TARGET/TRIPLE/PROFILE/build/...
    fn of(out: &Path) -> Result<Self, String> {
        let build = out.ancestors().find(|folder| folder.ends_with("build"));
        let mut target = build.and_then(|build| build.parent()?.parent()).unwrap_or(out);
        if env::var_os("TARGET").is_some_and(|triple| target.ends_with(Path::new(&triple))) {
            target = target.parent().unwrap_or(target);
        }
        let cache = Self { folder: target.join("kernels") };
        fs::create_dir_all(&cache.folder).map_err(|e| format!("{}: {e}", cache.folder.display()))?;
        cache.drop_old();
        Ok(cache)
    }

    /// What no build has used for a week.
    fn drop_old(&self) {
        let Some(oldest) = SystemTime::now().checked_sub(Self::KEPT) else { return };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.metadata().and_then(|m| m.modified()).is_ok_and(|modified| modified < oldest) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// With its size in front, little-endian.
    fn get_or_compile(&self, unit: &Unit, job: &Job, begins: impl Fn()) -> Result<Packed, String> {
        let Job { target, compiler } = job;
        let mut hash = DefaultHasher::new();
        (&compiler.path, &compiler.version, compiler::arguments(target)).hash(&mut hash);
        (&unit.source, &unit.contents).hash(&mut hash);
        let file = self.folder.join(format!("{target}-{:016x}", hash.finish()));
        if let Ok(cached) = fs::read(&file)
            && let Some((size, bytes)) = cached.split_first_chunk()
        {
            if let Ok(opened) = fs::File::options().append(true).open(&file) {
                let _ = opened.set_modified(SystemTime::now());
            }
            let size = u64::from_le_bytes(*size) as usize;
            return Ok(Packed { bytes: bytes.to_owned(), size, warnings: String::new() });
        }
        begins();
        let object = file.with_extension(format!("{}.tmp", std::process::id()));
        let warnings = compiler.compile(target, &unit.source, &unit.folder, &object)?;
        let plain = fs::read(&object).map_err(|e| format!("{}: {e}", object.display()))?;
        let _ = fs::remove_file(&object);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let bytes =
            encoder.write_all(&plain).and_then(|()| encoder.finish()).expect("memory takes all bytes");
        // Warnings shall come back with every build until they are mended.
        if warnings.is_empty() {
            write_atomically(&file, &[&(plain.len() as u64).to_le_bytes(), &bytes[..]].concat())?;
        }
        Ok(Packed { bytes, size: plain.len(), warnings })
    }
}

fn write_atomically(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let partial = file.with_extension(format!("{}.part", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, file))
        .map_err(|e| format!("{}: {e}", file.display()))
}
