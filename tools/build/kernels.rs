//! Compiles each file of kernels/*.hip for every target, and embeds the results.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, fs, io, thread};

use lzma_rust2::{LzmaOptions, LzmaWriter};

use super::cards;
use super::compiler::{self, Compiler, Search};
use super::targets::{self, Built, PTX_TARGETS, TARGETS};

/// Name the targets; the first that is set counts.
const ARCH_VARIABLES: [&str; 2] = ["ROCm_ARCH", "ROCM_ARCH"];

/// What a build of cargo's dev profile is for, if no variable says otherwise: the targets that the tests execute on the
/// emulator, and the cards in this machine. Other profiles make all.
const DEVELOPED: &str = "gfx1100 gfx1103 gfx1201 gfx90a gfx942 native";

/// Leaves in OUT_DIR each code object, compressed, and code_objects.rs, the table of them.
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
    // For tests that compare with what the same compiler says.
    println!("cargo::rustc-env=ROCMFORGE_CLANG={}", compilers[0].path.display());
    let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|value| (name, value));
    let by_profile = || match env::var("PROFILE").as_deref() {
        Ok("debug") => ("the dev profile", DEVELOPED.to_owned()),
        _ => ("the release profile", "all".to_owned()),
    };
    let (variable, value) = ARCH_VARIABLES.into_iter().find_map(set).unwrap_or_else(by_profile);
    let cards = || cards::in_machine(Path::new("/"), OsStr::new("nvidia-smi"));
    let jobs = jobs(&compilers, &wanted_targets(variable, &value, cards)?)?;
    let objects = build(&folder, &jobs, &Cache::of(&out)?)?;

    let mut table = BTreeMap::<usize, String>::new();
    let mut warned = HashSet::new();
    for Object { target, unit, kernels, size, packed, warnings } in objects {
        for line in warnings.lines() {
            if warned.insert(line.to_owned()) {
                println!("cargo::warning={line}");
            }
        }
        let file = format!("{unit}-{target}.z");
        write_atomically(&out.join(&file), &packed)?;
        let place = jobs.iter().position(|job| job.target == target).expect("an object of a job");
        table.entry(place).or_default().push_str(&format!(
            "        EmbeddedUnit {{ name: \"{unit}\", kernels: &{kernels:?}, size: {size}, \
             packed: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")) }},\n"
        ));
    }
    let targets = table.iter().map(|(place, units)| {
        format!("    Embedded {{ arch: \"{}\", units: &[\n{units}    ] }},\n", jobs[*place].target)
    });
    write_atomically(
        &out.join("code_objects.rs"),
        format!("[\n{}]\n", targets.collect::<String>()).as_bytes(),
    )
}

pub struct Job<'a> {
    pub target: &'static str,
    compiler: &'a Compiler,
}

/// What to compile, in the tables' order, each by the first compiler that knows the target. What none knows is an
/// error if it is asked for by name, or every clang for AMD's GPUs knows it.
pub fn jobs<'a>(compilers: &'a [Compiler], wanted: &Option<BTreeSet<&str>>) -> Result<Vec<Job<'a>>, String> {
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

/// The code object of a kernel file for a target.
pub struct Object {
    pub target: &'static str,
    /// The file's name, without its extension.
    pub unit: String,
    /// Names of its kernels.
    pub kernels: Vec<String>,
    /// Bytes when unpacked.
    pub size: usize,
    /// By LZMA, whose window spans the kernels of a file: they are much alike.
    pub packed: Vec<u8>,
    pub warnings: String,
}

/// A kernel file to be compiled once, for targets of the same code.
struct Work<'a> {
    file: &'a Path,
    unit: &'a str,
    source: &'static str,
    targets: Vec<&'static str>,
    compiler: &'a Compiler,
    /// The first one of `source` is numbered for the progress.
    number: Option<usize>,
}

/// Every kernel file of the folder for every target of the jobs, from the cache or compiled.
pub fn build(folder: &Path, jobs: &[Job], cache: &Cache) -> Result<Vec<Object>, String> {
    let files = kernel_files(folder)?;
    let mut codes: Vec<(&'static str, &Compiler, Vec<&'static str>)> = Vec::new();
    for Job { target, compiler } in jobs {
        let source = targets::compiled_as(target);
        let source = if compiler.knows(source) { source } else { target };
        match codes.iter_mut().find(|(s, c, _)| *s == source && c.path == compiler.path) {
            Some((.., targets)) => targets.push(target),
            None => codes.push((source, compiler, vec![target])),
        }
    }
    let work: Vec<_> = codes
        .iter()
        .enumerate()
        .flat_map(|(i, (source, compiler, targets))| {
            files.iter().enumerate().map(move |(j, (unit, file))| Work {
                file,
                unit,
                source,
                targets: targets.clone(),
                compiler,
                number: (j == 0).then_some(i + 1),
            })
        })
        .collect();
    let progress = Progress::of_environment();
    let _locked = cache.lock()?;
    let objects = in_parallel(&work, |work| {
        cache.get_or_compile(work, || {
            if let Some(number) = work.number {
                progress.say(&format!("{} ({number} of {})", work.source, codes.len()));
            }
        })
    })?;
    Ok(objects.into_iter().flatten().collect())
}

/// Names and paths, the longest files first: they take longest to compile.
fn kernel_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let failed = |e: io::Error| format!("{}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "hip") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((entry.metadata().map_err(failed)?.len(), name, path));
        }
    }
    if files.is_empty() {
        return Err(format!("{}: no .hip file", folder.display()));
    }
    files.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    Ok(files.into_iter().map(|(_, name, path)| (name, path)).collect())
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

/// The results in the order of the items, or the first failure in that order. As many threads as cargo grants, or (in
/// tests) as there are processors.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let granted = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
    let threads = granted.unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| n.get()));
    let threads = threads.clamp(1, items.len().max(1));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R, String>>>> = Mutex::new(items.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = work(item);
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
pub struct Cache {
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
        Cache::at(target.join("kernels"))
    }

    pub fn at(folder: PathBuf) -> Result<Self, String> {
        let cache = Self { folder };
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

    /// Waits for others that compile, so that nothing is compiled twice.
    fn lock(&self) -> Result<fs::File, String> {
        let locked = fs::File::open(&self.folder).and_then(|folder| folder.lock().map(|()| folder));
        locked.map_err(|e| format!("{}: {e}", self.folder.display()))
    }

    /// The file's object for each of the targets.
    fn get_or_compile(&self, work: &Work, begins: impl Fn()) -> Result<Vec<Object>, String> {
        let Work { file, unit, source, targets, compiler, .. } = work;
        let text = compiler.preprocess(source, file)?;
        let mut assembly = None;
        let mut objects = Vec::new();
        for target in targets {
            let mut hash = DefaultHasher::new();
            (PACKED_BY, &compiler.path, &compiler.version, compiler::arguments(source)).hash(&mut hash);
            (target, &text).hash(&mut hash);
            let cached = self.folder.join(format!("{unit}-{target}-{:016x}", hash.finish()));
            if let Some((kernels, size, packed)) = read_cached(&cached) {
                let (unit, warnings) = (unit.to_string(), String::new());
                objects.push(Object { target, unit, kernels, size, packed, warnings });
                continue;
            }
            if assembly.is_none() {
                begins();
                assembly = Some(compiler.compile(source, file)?);
            }
            let (text, warnings) = assembly.as_ref().expect("compiled above");
            let kernels = compiler::kernels(text);
            let scratch = self.folder.join(format!("{unit}-{target}-{}.tmp", std::process::id()));
            let plain = compiler.assemble(target, text, &scratch)?;
            let packed = pack(&plain).expect("memory takes all bytes");
            // Warnings come back with every build until they are mended.
            if warnings.is_empty() {
                let head = format!("{} {}\n", plain.len(), kernels.join(" "));
                write_atomically(&cached, &[head.as_bytes(), &packed].concat())?;
            }
            let (unit, warnings) = (unit.to_string(), warnings.clone());
            objects.push(Object { target, unit, kernels, size: plain.len(), packed, warnings });
        }
        Ok(objects)
    }
}

/// Of what is kept in the cache.
const PACKED_BY: &str = "lzma";

/// `.lzma`, with the size in its header. Instructions are whole words of 4 bytes.
fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = LzmaOptions::with_preset(6);
    (options.dict_size, options.lc, options.lp, options.pb) = (1 << 20, 0, 2, 2);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, Some(bytes.len() as u64))?;
    writer.write_all(bytes)?;
    writer.finish()
}

/// Kernels, size, and the packed bytes: the first two are words of the file's first line.
fn read_cached(file: &Path) -> Option<(Vec<String>, usize, Vec<u8>)> {
    let mut bytes = fs::read(file).ok()?;
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let packed = bytes.split_off(line + 1);
    let mut words = std::str::from_utf8(&bytes).ok()?.split_whitespace().map(str::to_owned);
    let size = words.next()?.parse().ok()?;
    if let Ok(opened) = fs::File::options().append(true).open(file) {
        let _ = opened.set_modified(SystemTime::now());
    }
    Some((words.collect(), size, packed))
}

fn write_atomically(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let partial = file.with_extension(format!("{}.part", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, file))
        .map_err(|e| format!("{}: {e}", file.display()))
}
