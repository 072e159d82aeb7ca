//! How build.rs finds a compiler and reads the list of targets: its own modules, with programs that only answer as
//! compilers do.
use crate::built::{cards, compiler, kernels};
use crate::cli_common;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cli_common::Scratch;
use compiler::Search;

const AMD: &[&str] = &["gfx900", "gfx1100", "gfx11-generic"];
const NVIDIA: &[&str] = &["sm_75", "sm_80"];
const LLD: &str =
    "[ \"$*\" = '-flavor gnu --version' ] && echo 'Debian LLD 19.1.7 (compatible with GNU linkers)'";

/// Folders with programs that answer as compilers do.
struct Machine {
    scratch: Scratch,
    search: Search,
}

impl Machine {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let path = vec![scratch.path("bin"), scratch.path("usr")];
        Self { scratch, search: Search { hipcc: None, rocm_path: None, path } }
    }

    fn program(&self, file: &str, script: &str) -> PathBuf {
        let path = self.scratch.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A clang of this version, with a linker unless `lld` is empty.
    fn clang(&self, file: &str, version: &str, lld: &str, cpus: [&[&str]; 2]) -> PathBuf {
        let list = |cpus: &[&str]| {
            if cpus.is_empty() {
                "exit 1".to_owned()
            } else {
                format!("printf '\\t%s\\n' {} >&2", cpus.join(" "))
            }
        };
        let script = format!(
            "case \"$*\" in\n--version) echo 'Debian clang version {version} (x)';;\n\
             -print-prog-name=lld) echo {lld};;\n*amdgcn*print-supported-cpus) {};;\n\
             *nvptx64*print-supported-cpus) {};;\n*) exit 9;; esac",
            list(cpus[0]),
            list(cpus[1]),
        );
        self.program(file, &script)
    }

    fn found(&self) -> Vec<PathBuf> {
        self.search.find_all().unwrap().into_iter().map(|c| c.path).collect()
    }
}

#[test]
fn compilers_come_in_the_stated_order() {
    let mut machine = Machine::new("compiler-order");
    let lld = machine.program("usr/lld", LLD);
    let lld = lld.to_str().unwrap();
    let old = machine.clang("usr/clang-18", "18.1.8", lld, [AMD, NVIDIA]);
    let c19 = machine.clang("usr/clang-19", "19.1.7", lld, [AMD, NVIDIA]);
    let c22 = machine.clang("bin/clang-22", "22.1.0", lld, [AMD, NVIDIA]);
    machine.clang("usr/clang-22", "22.0.9", lld, [AMD, NVIDIA]);
    let plain = machine.clang("usr/clang", "20.1.0-rocm", lld, [AMD, NVIDIA]);
    assert_eq!(machine.found(), [&c22, &c19, &plain].map(Clone::clone), "{}", old.display());

    let rocm = machine.clang("rocm/llvm/bin/clang", "21.0.0git", lld, [AMD, &[]]);
    machine.search.rocm_path = Some(machine.scratch.path("rocm").into());
    assert_eq!(machine.found()[..2], [rocm.clone(), c22.clone()]);

    let mine = machine.clang("mine/cc", "19.1.0", lld, [AMD, NVIDIA]);
    machine.search.hipcc = Some(mine.clone().into());
    assert_eq!(machine.found()[..3], [mine, rocm.clone(), c22]);

    // hipcc is a wrapper: the clang that its version names is called
    let folder = rocm.parent().unwrap().display().to_string();
    let hipcc =
        machine.program("rocm/bin/hipcc", &format!("echo HIP version: 7.1\necho InstalledDir: {folder}"));
    machine.search.hipcc = Some(hipcc.into());
    assert_eq!(machine.found()[0], rocm);
}

#[test]
fn what_will_not_do_is_named_with_the_reason() {
    let mut machine = Machine::new("compiler-reasons");
    let lld = machine.program("tools/lld", LLD);
    let lld = lld.to_str().unwrap();
    let none = machine.search.find_all().unwrap_err();
    for part in ["apt-get install clang-19 lld-19", "dnf install", "pacman -S", "--no-default-features"] {
        assert!(none.contains(part), "{none}");
    }
    machine.clang("usr/clang-14", "14.0.6", lld, [AMD, NVIDIA]);
    machine.clang("usr/clang-20", "20.1.0", "lld", [AMD, NVIDIA]);
    machine.clang("usr/clang-21", "21.1.0", lld, [&[], NVIDIA]);
    let older = machine.program("old/lld", &LLD.replace("19.1.7", "14.0.6"));
    machine.clang("usr/clang-22", "22.1.0", older.to_str().unwrap(), [AMD, NVIDIA]);
    machine.program("usr/clang", "exit 3");
    machine.search.rocm_path = Some("/nowhere/rocm".into());
    let text = machine.search.find_all().unwrap_err();
    for part in [
        "clang-14: clang 14; 19 or newer is needed",
        "clang-20: clang 20 without its linker",
        "clang-21: clang 21, built without AMD's GPUs",
        "old/lld (Debian LLD 14.0.6 (compatible with GNU linkers)): install lld-22",
        "clang: exit status: 3",
        "ROCM_PATH=/nowhere/rocm: no llvm/bin/clang in it",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // a linker on PATH will do
    machine.program("usr/lld", LLD);
    assert_eq!(machine.found(), [machine.scratch.path("usr/clang-20")]);
    // who names a compiler gets that one or an error
    for (hipcc, why) in [("/nowhere/hipcc", "no such program"), ("clang-14", "clang 14; 19 or newer")] {
        machine.search.hipcc = Some(OsString::from(hipcc));
        let text = machine.search.find_all().unwrap_err();
        assert!(text.starts_with(&format!("HIPCC={hipcc}: ")) && text.contains(why), "{text}");
    }
}

#[test]
fn the_list_of_targets_is_read_as_people_write_it() {
    let wanted =
        |value: &str| kernels::wanted_targets("ROCM_ARCH", value, || panic!("nobody asks for the cards"));
    let names = |value: &str| wanted(value).unwrap().unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(names("gfx1100"), ["gfx1100"]);
    assert_eq!(names(" gfx1100;gfx906:sramecc-:xnack-,, sm_80\n"), ["gfx1100", "gfx906", "sm_80"]);
    // served by another's code
    assert_eq!(names("gfx1036 gfx90c sm_86 sm_120"), ["gfx10-3-generic", "gfx9-generic", "sm_80"]);
    assert!(wanted("all").unwrap().is_none());
    assert!(wanted("gfx1100,all").unwrap().is_none());
    for bad in ["gfx1099", "gfx", "sm_70", "1100", "gfx1100 navi31"] {
        let text = wanted(bad).unwrap_err();
        assert!(
            text.starts_with("ROCM_ARCH: unknown target '") && text.contains("known: all, native, gfx900, "),
            "{text}"
        );
    }
}

#[test]
fn native_means_the_cards_of_the_machine() {
    let machine = Machine::new("cards");
    let root = machine.scratch.path("root");
    let smi = machine.scratch.path("bin/nvidia-smi");
    let cards = || cards::in_machine(&root, smi.as_os_str());
    let native = |value: &str| {
        let wanted = kernels::wanted_targets("ROCm_ARCH", value, cards).unwrap().unwrap();
        wanted.into_iter().collect::<Vec<_>>()
    };
    // no driver at all
    assert!(cards().is_empty());
    assert_eq!(native("native"), ["gfx1100"]);

    // as Linux shows a processor, an MI250, an MI300, a card from before Vega and one served by its generic target
    for (node, version) in [(0, 0), (1, 90010), (2, 90402), (3, 80003), (4, 100306)] {
        let folder = root.join(format!("sys/class/kfd/kfd/topology/nodes/{node}"));
        std::fs::create_dir_all(&folder).unwrap();
        let properties =
            format!("cpu_cores_count 0\nsimd_count 304\ngfx_target_version {version}\nvendor_id 4098\n");
        std::fs::write(folder.join("properties"), properties).unwrap();
    }
    assert_eq!(cards(), ["gfx1036", "gfx803", "gfx90a", "gfx942"]);
    assert_eq!(native("native"), ["gfx10-3-generic", "gfx90a", "gfx942"]);
    assert_eq!(native("native,gfx1201"), ["gfx10-3-generic", "gfx1201", "gfx90a", "gfx942"]);

    // NVIDIA's driver alone, then with its program
    std::fs::remove_dir_all(root.join("sys")).unwrap();
    std::fs::create_dir_all(root.join("proc/driver/nvidia/gpus/0000:01:00.0")).unwrap();
    assert_eq!(native("native"), ["sm_75"]);
    machine.program("bin/nvidia-smi", "[ \"$1\" = --query-gpu=compute_cap ] && printf '9.0\\n12.0\\n8.6\\n'");
    assert_eq!(cards(), ["sm_120", "sm_86", "sm_90"]);
    assert_eq!(native("native"), ["sm_80"]);
}
