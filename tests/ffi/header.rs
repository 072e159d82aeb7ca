//! The committed header is what cbindgen makes of src/ffi, and the library exports what it declares.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

static FRESH: LazyLock<String> =
    LazyLock::new(|| rocmforge_header::generate(Path::new(env!("CARGO_MANIFEST_DIR"))));

#[test]
fn the_committed_header_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/rocmforge.h");
    let committed = std::fs::read_to_string(&path).expect("include/rocmforge.h is there");
    assert!(committed == *FRESH, "include/rocmforge.h is stale; `make header` writes it anew");
}

/// Functions that the header declares: cbindgen begins each declaration, and nothing else with a parenthesis but
/// typedefs and comments, at the start of a line.
fn declared() -> BTreeSet<String> {
    let declarations = FRESH
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()) && !line.starts_with("typedef"));
    let names = declarations.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        before.rsplit([' ', '*']).next().map(str::to_owned)
    });
    names.collect()
}

#[test]
fn the_header_declares_what_the_sources_export() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let mut exported = BTreeSet::new();
    for file in std::fs::read_dir(sources).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (_, rest) in source
            .split("#[unsafe(no_mangle)]\n")
            .skip(1)
            .filter_map(|item| item.split_once("extern \"C\" fn "))
        {
            exported.insert(rest.split('(').next().unwrap().to_owned());
        }
    }
    assert!(exported.len() > 50, "{exported:?}");
    assert_eq!(declared(), exported);
}

/// Every line of the shared library's dynamic symbol table that defines something is one of them.
#[test]
fn the_shared_library_exports_exactly_the_header() {
    // Integration tests lie in target/PROFILE/deps, beside the libraries that cargo has built for them.
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("librocmforge.so");
    assert!(library.exists(), "{} is missing: cargo builds it with every test", library.display());
    let nm = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output();
    let nm = nm.expect("nm is needed: apt-get install binutils");
    assert!(nm.status.success(), "nm {}", library.display());
    let exported: BTreeSet<String> = String::from_utf8(nm.stdout)
        .unwrap()
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(exported, declared());
}

/// Importers (bindgen, cffi, ctypesgen, Zig) evaluate plain integers, and nothing that takes a preprocessor's macro.
#[test]
fn constants_are_plain_integers() {
    let constants: Vec<_> = FRESH.lines().filter_map(|line| line.strip_prefix("#define RF_")).collect();
    assert!(constants.len() > 40);
    for constant in constants {
        let (_, value) = constant.split_once(' ').expect(constant);
        let digits = value.strip_prefix('-').unwrap_or(value).trim_end_matches("ull");
        assert!(digits.parse::<u64>().is_ok(), "{constant}");
    }
}

/// Whatever can fail and has no rf_context to keep its error has a twin that gives the error to the caller: the same
/// parameters and then `rf_error *error`.
#[test]
fn calls_without_a_context_have_a_twin_with_an_error() {
    let plain: String = FRESH.split_whitespace().collect::<Vec<_>>().join(" ");
    let parameters = |name: &str| {
        let (_, rest) = plain.split_once(&format!("rf_status {name}("))?;
        Some(rest.split_once(')').expect("a declaration ends").0.to_owned())
    };
    let mut twins = BTreeSet::new();
    let mut contexts = 0;
    for name in declared() {
        let Some(own) = parameters(&name).filter(|_| !name.ends_with("_e")) else { continue };
        // They fail for a NULL or a size that is a constant of the program's.
        if name.ends_with("_params_init") || name == "rf_last_error_info" {
            continue;
        }
        if own.split(", ").any(|one| one == "struct rf_context *ctx") {
            contexts += 1;
            continue;
        }
        let twin = format!("{name}_e");
        let wanted = format!("{own}, struct rf_error *error");
        assert_eq!(parameters(&twin).as_deref(), Some(wanted.as_str()), "{twin}");
        twins.insert(twin);
    }
    assert!(twins.len() >= 28 && contexts >= 12, "{} twins, {contexts} functions of contexts", twins.len());
    let named: BTreeSet<String> = declared().into_iter().filter(|name| name.ends_with("_e")).collect();
    assert_eq!(named, twins);
}
