//! The kernels' code objects for every target, held to the kernels' table: arguments, registers, LDS, and the
//! instructions that each target's kernels are written for. LLVM's own tools are the second opinion.

use crate::{built, cli_common};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cli_common::{Scratch, command, stderr, stdout};
use object::LittleEndian;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use proptest::prelude::*;
use rocmforge::Error;
use rocmforge::device::hip::code_object::{self, CodeObject, occupancy, targets};
use rocmforge::device::hip::kernels::SIGNATURES;
use targets::{Built, PTX_TARGETS, TARGETS, Target};

/// Bytes of LDS at most, by the kernels' names: their first match.
const LDS: &[(&str, u64)] = &[
    ("transpose_", 32 * 33 * 4),
    ("norm_f32", 8 * 4),
    ("norm_q8", 32 * 4),
    ("read_bytes", 8 * 4),
    // of each of 4 teams: the sums of 2 rows and 8 tokens, or of 4 and 4
    ("matvec_", 4 * 16 * 4),
    // of two rows
    ("qkv_", 4 * 2 * 4),
    ("glu_", 4 * 2 * 4),
    // a head and the two waves' sums
    ("prepare_heads", 512 * 4 + 2 * 4),
    // of each wave and query head: the columns, largest score and sum; the ticket
    ("attend_d32_h1", attend_lds(32, 1)),
    ("attend_d32_h4", attend_lds(32, 4)),
    ("attend_d32_h8", attend_lds(32, 8)),
    ("attend_d64_h1", attend_lds(64, 1)),
    ("attend_d64_h4", attend_lds(64, 4)),
    ("attend_d64_h8", attend_lds(64, 8)),
    ("attend_d128_h1", attend_lds(128, 1)),
    ("attend_d128_h4", attend_lds(128, 4)),
    ("attend_d128_h8", attend_lds(128, 8)),
    ("attend_d256_h1", attend_lds(256, 1)),
    ("attend_d256_h4", attend_lds(256, 4)),
    ("attend_d512_h1", attend_lds(512, 1)),
    ("attend_d512_h2", attend_lds(512, 2)),
    ("attend_latent_h1", attend_lds(512, 1)),
    ("attend_latent_h4", attend_lds(512, 4)),
    // a chunk, and of each of 8 waves a rank and an id
    ("sample_scan", 2048 * 4 + 8 * (8 + 4)),
    ("sample_total", 8 * 8),
    // ranks, segments, two counts; of each of 32 waves a rank, an id and sums of both kinds; what was found of both
    ("sample_pick", 2048 * (8 + 4) + 2 * 4 + 32 * (8 + 4 + 8 + 4) + 16 + 8),
    ("sample_count", 2048 * 8),
    ("sample_descend", 32 * 8 + 16),
    // two reductions of f32 a wave, for each of two ways to load
    ("half_rows", 2 * 2 * 8 * 4),
    // tiles of 128 rows and 128 tokens (or two of 64), 32 deep and padded by 8, twice
    ("matmul_", 2 * 2 * 128 * 40 * 2),
    // keys, values and queries of up to 64 rows, f16, padded by 8; what is known of a query is in its padding, or behind
    // them. Where there are no matrix instructions the weights too. Latent: 32 queries of 576
    ("prefill_attention_latent", 57344),
    ("prefill_attention_", 53760),
    // values, what they are chosen by, and the chosen, of each of 1,024 experts; a number a wave
    ("route", 3 * 1024 * 4 + 4 * 2 * 8),
    // a count, and three sums, of each of 1,024 experts
    ("sort_pairs", 1024 * (4 + 16)),
    ("", 0),
];

/// With waves of 32 lanes, of which a group has 4.
const fn attend_lds(head_pad: u64, heads: u64) -> u64 {
    4 * heads * (head_pad + 2) * 4 + 4
}

/// A tool of the LLVM that compiled the kernels, or of a newer one.
fn llvm_tool(name: &str) -> PathBuf {
    let ask = |argument: &str| {
        let asked = Command::new(env!("ROCMFORGE_CLANG")).arg(argument).output();
        stdout(asked.expect("the compiler still starts"))
    };
    let release = ask("-dumpversion").split('.').next().unwrap().parse().expect("a number");
    let beside = PathBuf::from(ask(&format!("-print-prog-name={name}")).trim());
    amdhip64::isa::llvm_tool(name, release, &[beside]).unwrap_or_else(|why| panic!("{why}"))
}

/// Of every target; fails if the compiler does not know one.
fn objects() -> &'static [CodeObject] {
    let objects = built::objects();
    let has: BTreeSet<_> = objects.iter().map(|o| o.arch.as_str()).collect();
    let always = TARGETS.iter().filter(|t| t.built == Built::Always).map(|t| t.name);
    let missing: Vec<_> = always.chain(PTX_TARGETS.iter().copied()).filter(|t| !has.contains(t)).collect();
    assert!(missing.is_empty(), "the compiler does not know {}", missing.join(", "));
    objects
}

fn amd_objects() -> impl Iterator<Item = (&'static Target, &'static CodeObject)> {
    objects().iter().filter_map(|o| Some((targets::find(&o.arch)?, o)))
}

#[test]
fn a_gpu_gets_its_own_object_else_its_generic_one() {
    let built: BTreeSet<_> = objects().iter().map(|object| object.arch.as_str()).collect();
    for (name, arch) in [
        ("gfx1100", "gfx1100"),
        ("gfx90a", "gfx90a"),
        ("gfx1036", "gfx10-3-generic"),
        ("gfx1012", "gfx10-1-generic"),
        ("gfx90c", "gfx9-generic"),
        ("gfx1152", "gfx11-generic"),
        ("sm_75", "sm_75"),
        ("sm_86", "sm_80"),
        ("sm_120", "sm_80"),
    ] {
        let served_by = targets::served_by(name);
        assert_eq!(served_by.iter().find(|target| built.contains(*target)), Some(&arch), "{name}");
    }
    for (name, arch) in [("gfx1100", "gfx1100"), ("gfx90a:sramecc+:xnack-", "gfx90a")] {
        assert_eq!(code_object::for_arch(3, name).unwrap().arch, arch, "{name}");
    }
    for name in ["gfx803", "gfx9999", "sm_70", "", "gfx1100x"] {
        let error = code_object::for_arch(3, name).unwrap_err();
        let Error::NoKernels { device: 3, arch, carried } = &error else { panic!("{error}") };
        assert_eq!(arch, name);
        assert!(carried.contains("gfx1100, ") && carried.contains("gfx1201"), "{carried}");
    }
}

#[test]
fn arguments_lie_where_the_host_writes_them() {
    let mut has: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for object in objects() {
        object.check().unwrap();
        let names = object.kernels.iter().map(|kernel| kernel.name.as_str());
        has.entry(&object.arch).or_default().extend(names);
    }
    let mut stated: Vec<_> = SIGNATURES.iter().map(|signature| signature.name).collect();
    stated.sort_unstable();
    for (arch, mut names) in has {
        names.sort_unstable();
        assert_eq!(names, stated, "{arch}");
    }
}

/// Bytes of a section of an ELF file.
fn section<'a>(elf: &'a [u8], name: &str) -> &'a [u8] {
    let file = ElfFile64::<LittleEndian>::parse(elf).unwrap();
    file.section_by_name(name).unwrap().data().unwrap()
}

/// The section of the kernels' descriptors. Where SGPRs limit nothing, the field for their number is reserved: the compiler
/// leaves it anything, its assembler 0, as LLVM's AMDGPUUsage asks.
fn descriptors(elf: &[u8], target: &Target) -> Vec<u8> {
    let file = ElfFile64::<LittleEndian>::parse(elf).unwrap();
    let first = file.section_by_name(".rodata").unwrap().address();
    let mut bytes = section(elf, ".rodata").to_owned();
    let places = file.dynamic_symbols().filter(|symbol| symbol.name().unwrap().ends_with(".kd"));
    for at in places.map(|symbol| (symbol.address() - first) as usize) {
        if !target.limited_by_sgprs {
            // COMPUTE_PGM_RSRC1, bits 6 to 9
            bytes[at + 48] &= 0x3f;
            bytes[at + 49] &= 0xfc;
        }
    }
    bytes
}

/// Holds what was assembled for a target to what clang makes when it compiles for that target.
fn compiles_alike(units: &[&str]) {
    let scratch = Scratch::new("same-code");
    let mut compared = 0;
    let mut faults = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for same in targets::SAME_CODE {
        let members = amd_objects().filter(|(target, object)| {
            same.contains(&target.name) && (units.is_empty() || units.contains(&object.unit.as_str()))
        });
        for (target, object) in members {
            let file = scratch.path(&format!("{}-{}", object.unit, target.name));
            let output = Command::new(env!("ROCMFORGE_CLANG"))
                .args(built::compiler::arguments(target.name))
                .arg(root.join(format!("kernels/{}.hip", object.unit)))
                .arg("-o")
                .arg(&file)
                .output();
            stdout(output.expect("the compiler starts"));
            let compiled = CodeObject::read(target.name, &object.unit, std::fs::read(file).unwrap()).unwrap();
            if section(&object.bytes, ".text") != section(&compiled.bytes, ".text") {
                faults.push(format!("the instructions of {} for {}", object.unit, target.name));
            }
            if descriptors(&object.bytes, target) != descriptors(&compiled.bytes, target) {
                faults.push(format!("the descriptors of {} for {}", object.unit, target.name));
            }
            if object.kernels != compiled.kernels {
                faults.push(format!("the metadata of {} for {}", object.unit, target.name));
            }
            let flags = |object: &CodeObject| (object.bytes[8], object.bytes[48..52].to_owned());
            if flags(object) != flags(&compiled) {
                faults.push(format!("the ELF header of {} for {}", object.unit, target.name));
            }
            compared += 1;
        }
    }
    assert!(faults.is_empty(), "assembled otherwise than compiled: {}", faults.join(", "));
    assert!(compared >= 11 * units.len().max(1), "only {compared} compared");
}

#[test]
fn targets_of_the_same_code_compile_alike() {
    // half_rows is what register files and hazards tell apart: gfx1100 from gfx1102
    compiles_alike(&["half_rows", "heads", "norm"]);
}

#[test]
#[ignore = "compiles 11 targets, minutes; `cargo test --test hip_host -- --ignored` runs it"]
fn targets_of_the_same_code_compile_alike_in_full() {
    compiles_alike(&[]);
}

#[test]
fn registers_and_memory_stay_within_what_is_stated() {
    let mut faults = Vec::new();
    for object in objects() {
        let target = targets::find(&object.arch);
        for kernel in &object.kernels {
            let signature = SIGNATURES.iter().find(|s| s.name == kernel.name).unwrap();
            let threads: u32 = signature.block.iter().product();
            let mut expect = |holds: bool, what: String| {
                if !holds {
                    faults.push(format!("{} {}: {what}", object.arch, kernel.name));
                }
            };
            let (_, lds) = LDS.iter().find(|(name, _)| kernel.name.starts_with(name)).unwrap();
            expect(kernel.lds_bytes <= *lds, format!("{} bytes of LDS, {lds} expected", kernel.lds_bytes));
            // NVIDIA's cards give a kernel 48 KiB that does not ask for more
            let most = if target.is_some() { 64 << 10 } else { 48 << 10 };
            expect(kernel.lds_bytes <= most, format!("{} bytes of LDS of {most}", kernel.lds_bytes));
            let Some(most) = kernel.max_threads else { panic!("{}: no largest block", kernel.name) };
            // told of more threads than there are, the compiler gives each fewer registers
            expect(threads == most, format!("{threads} threads, compiled for {most}"));
            let Some(target) = target else { continue };
            let used = kernel.resources.unwrap();
            expect(used.scratch_bytes == 0, format!("{} bytes of scratch", used.scratch_bytes));
            expect(used.vgpr_spills + used.sgpr_spills == 0, format!("spills: {used:?}"));
            let wave = if target.limited_by_sgprs { 64 } else { 32 };
            expect(used.wave_size == wave, format!("waves of {}", used.wave_size));
            let waves = occupancy::waves_by_registers(target, &used);
            expect(waves >= signature.waves, format!("{waves} waves, {} stated ({used:?})", signature.waves));
            // the block itself must fit: its waves lie on four SIMDs
            let block_waves = threads.div_ceil(wave).div_ceil(4);
            expect(
                occupancy::waves(target, kernel, threads) >= block_waves,
                "no room for one block".to_owned(),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Text of each kernel's instructions.
fn disassembled(object: &CodeObject, scratch: &Scratch) -> BTreeMap<String, String> {
    let mut kernels = BTreeMap::new();
    if targets::compute_capability(&object.arch).is_some() {
        let text = String::from_utf8(object.bytes.clone()).unwrap();
        for part in text.split(".visible .entry ").skip(1) {
            let (name, body) = part.split_once('(').unwrap();
            kernels.insert(name.to_owned(), body.to_owned());
        }
        return kernels;
    }
    let file = scratch.write(&format!("{}.hsaco", object.arch), &object.bytes);
    let output = Command::new(llvm_tool("llvm-objdump")).args(["-d", "--no-show-raw-insn", &file]).output();
    let text = stdout(output.expect("llvm-objdump starts"));
    let mut body = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")).map(|(_, name)| name) {
            body = Some(kernels.entry(name.to_owned()).or_default());
        } else if let Some(body) = &mut body {
            let body: &mut String = body;
            body.push_str(line.split("//").next().unwrap_or(line));
            body.push('\n');
        }
    }
    kernels
}

/// What a target's kernels are written for.
struct Instructions {
    /// 4 x 8-bit dot product.
    dot: Option<&'static str>,
    f16_matrix: Option<&'static str>,
    load_16_bytes: &'static [&'static str],
}

fn instructions(arch: &str) -> Instructions {
    let dwordx4 = &["global_load_dwordx4"][..];
    let (dot, f16_matrix, load_16_bytes) = match arch {
        "gfx900" | "gfx9-generic" | "gfx1010" | "gfx10-1-generic" => (None, None, dwordx4),
        "gfx906" => (Some("v_dot4_i32_i8"), None, dwordx4),
        "gfx908" | "gfx90a" => (Some("v_dot4c_i32_i8"), Some("v_mfma_f32_16x16x16f16"), dwordx4),
        "gfx942" | "gfx950" | "gfx9-4-generic" => {
            (Some("v_dot4c_i32_i8"), Some("v_mfma_f32_16x16x16_f16"), dwordx4)
        }
        "gfx1030" | "gfx10-3-generic" => (Some("v_dot4c_i32_i8"), None, dwordx4),
        _ if arch.starts_with("gfx11") || arch.starts_with("gfx12") => {
            (Some("v_dot4_i32_iu8"), Some("v_wmma_f32_16x16x16_f16"), &["global_load_b128"][..])
        }
        "sm_75" => (Some("dp4a.s32.s32"), Some("mma.sync.aligned.m16n8k8"), PTX_LOADS),
        "sm_80" => (Some("dp4a.s32.s32"), Some("mma.sync.aligned.m16n8k16"), PTX_LOADS),
        other => panic!("say here what {other} has"),
    };
    Instructions { dot, f16_matrix, load_16_bytes }
}

const PTX_LOADS: &[&str] = &[".v4.u32", ".v4.b32", ".v4.f32", ".v2.u64", ".v2.b64"];

/// Kernels whose names go on with the type of their weights: products of bytes, but for these.
const PRODUCTS: [&str; 3] = ["matvec_", "qkv_", "glu_"];
const FLOATS: [&str; 3] = ["f32", "f16", "bf16"];
/// Others that read much.
const STREAMS: [&str; 3] = ["attend_", "norm_q8", "read_bytes"];

/// None of these where the target has none.
const MATRIX: [&str; 3] = ["v_wmma", "v_mfma", "mma.sync"];
const DOT: [&str; 2] = ["v_dot4", "dp4a"];

#[test]
fn kernels_use_the_instructions_that_the_target_has() {
    let scratch = Scratch::new("code-objects");
    let mut faults = Vec::new();
    for object in objects() {
        let Instructions { dot, f16_matrix, load_16_bytes } = instructions(&object.arch);
        let kernels = disassembled(object, &scratch);
        for signature in SIGNATURES.iter().filter(|s| object.kernel(s.name).is_some()) {
            let body = kernels
                .get(signature.name)
                .unwrap_or_else(|| panic!("{}: no {}", object.arch, signature.name));
            let mut expect = |holds: bool, what: &str| {
                if !holds {
                    faults.push(format!("{} {}: {what}", object.arch, signature.name));
                }
            };
            let has = |mnemonics: &[&str]| mnemonics.iter().any(|m| body.contains(m));
            expect(!has(&["scratch_load", "scratch_store"]), "scratch memory");
            let weight = PRODUCTS.iter().find_map(|start| signature.name.strip_prefix(start));
            let weight = weight.and_then(|rest| rest.split("_n").next());
            let weight = weight.filter(|ty| ty.starts_with('q') || FLOATS.contains(ty));
            match (weight, dot) {
                (Some(ty), Some(dot)) if ty.starts_with('q') => expect(has(&[dot]), dot),
                (None, Some(_)) => (), // tiles may be made of them
                (Some(_), _) | (None, None) => expect(!has(&DOT), "a dot product"),
            }
            if weight.is_some() || STREAMS.iter().any(|start| signature.name.starts_with(start)) {
                expect(has(load_16_bytes), "loads of 16 bytes");
            }
            if !["matmul_", "prefill_attention_"].iter().any(|start| signature.name.starts_with(start)) {
                continue;
            }
            expect(has(load_16_bytes), "loads of 16 bytes");
            match f16_matrix {
                Some(matrix) => expect(has(&[matrix]), matrix),
                None => expect(!has(&MATRIX), "matrix tiles that the target lacks"),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The metadata as LLVM prints it: kernel -> key -> number.
fn readelf_notes(file: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let output = Command::new(llvm_tool("llvm-readelf")).args(["--notes", file]).output();
    let text = stdout(output.expect("llvm-readelf starts"));
    let mut kernels = BTreeMap::new();
    // a kernel's keys stand four columns in, those of its arguments further
    for part in text.split("\n  - .").skip(1) {
        let part = format!("    .{part}");
        let keys: BTreeMap<_, _> = part
            .lines()
            .filter_map(|line| line.strip_prefix("    .")?.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let numbers = keys.iter().filter_map(|(key, value)| Some((key.clone(), value.parse().ok()?)));
        kernels.insert(keys["name"].clone(), numbers.collect());
    }
    kernels
}

#[test]
fn metadata_reads_as_llvm_reads_it() {
    let scratch = Scratch::new("code-object-notes");
    for (_, object) in amd_objects() {
        let notes = readelf_notes(&scratch.write(&format!("{}.hsaco", object.arch), &object.bytes));
        assert_eq!(notes.len(), object.kernels.len());
        for kernel in &object.kernels {
            let note = &notes[&kernel.name];
            let used = kernel.resources.unwrap();
            let read = [
                ("group_segment_fixed_size", kernel.lds_bytes),
                ("max_flat_workgroup_size", kernel.max_threads.unwrap().into()),
                ("private_segment_fixed_size", used.scratch_bytes),
                ("sgpr_count", used.sgprs.into()),
                ("sgpr_spill_count", used.sgpr_spills.into()),
                ("vgpr_count", used.vgprs.into()),
                ("vgpr_spill_count", used.vgpr_spills.into()),
                ("wavefront_size", used.wave_size.into()),
            ];
            for (key, value) in read {
                assert_eq!(note[key], value, "{} {} {key}", object.arch, kernel.name);
            }
            assert_eq!(
                note.get("agpr_count").copied().unwrap_or(0),
                u64::from(used.agprs),
                "{}",
                kernel.name
            );
        }
    }
}

/// Kernels that occupy given registers, by clobbering the last of them, in HIP.
fn register_hogs(target: &Target) -> String {
    let mut source =
        "#define KERNEL extern \"C\" __attribute__((global, amdgpu_flat_work_group_size(256, 256))) void\n"
            .to_owned();
    let mut hog = |kind: &str, last: u32| {
        source.push_str(&format!(
            "KERNEL {kind}{last}(float *p) {{ asm volatile(\"\" ::: \"{kind}{last}\"); *p = {last}; }}\n"
        ));
    };
    // around each step of either granule, and a few between
    let steps = (8..=256).step_by(8).chain((24..=256).step_by(24)).chain([28, 36, 84, 100]);
    let last: BTreeSet<u32> =
        steps.flat_map(|count| [count - 1, count]).filter(|last| (7..256).contains(last)).collect();
    last.into_iter().for_each(|last| hog("v", last));
    if target.limited_by_sgprs {
        [40, 72, 73, 74, 79, 80, 81, 82, 87, 88, 92, 95, 99].into_iter().for_each(|last| hog("s", last));
    }
    if target.registers.total == 512 {
        [0, 3, 4, 31, 100, 127, 128, 255].into_iter().for_each(|last| hog("a", last));
    }
    source
}

#[test]
fn occupancy_is_what_clang_says() {
    let scratch = Scratch::new("occupancy");
    let mut faults = Vec::new();
    let mut compared = 0;
    let amd: BTreeMap<_, _> = amd_objects().map(|(target, _)| (target.name, target)).collect();
    for target in amd.into_values() {
        let source = scratch.write(&format!("{}.hip", target.name), register_hogs(target).as_bytes());
        let object = scratch.path(&format!("{}.hsaco", target.name));
        let version = targets::code_object_version(target.name);
        let output = Command::new(env!("ROCMFORGE_CLANG"))
            .args([
                "-x",
                "hip",
                "--cuda-device-only",
                "--no-gpu-bundle-output",
                "-nogpuinc",
                "-nogpulib",
                "-O1",
            ])
            .args([format!("--offload-arch={}", target.name), format!("-mcode-object-version={version}")])
            .args(["-Rpass-analysis=kernel-resource-usage", &source, "-o"])
            .arg(&object)
            .output()
            .expect("the compiler starts");
        let remarks = stderr(&output);
        assert!(output.status.success(), "{remarks}");
        let object = CodeObject::read(target.name, "hogs", std::fs::read(&object).unwrap()).unwrap();
        let mut name = None;
        for line in remarks.lines() {
            let value = |key: &str| line.split_once(key).and_then(|(_, rest)| rest.split_whitespace().next());
            name = value("Function Name: ").or(name);
            let Some(waves) = value("Occupancy [waves/SIMD]: ") else { continue };
            let kernel = object.kernel(name.unwrap()).unwrap();
            let ours = occupancy::waves_by_registers(target, &kernel.resources.unwrap());
            if ours.to_string() != waves {
                faults.push(format!("{} {}: {ours}, clang {waves}", target.name, kernel.name));
            }
            compared += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(compared > 1000, "only {compared} compared");
}

#[test]
fn the_machine_numbers_are_llvms() {
    let scratch = Scratch::new("machine-numbers");
    let clang = Path::new(env!("ROCMFORGE_CLANG"));
    let list = Command::new(clang)
        .args(["--target=amdgcn-amd-amdhsa", "-nogpulib", "--print-supported-cpus"])
        .output();
    let list = stderr(&list.expect("the compiler starts"));
    let mut known = 0;
    for target in TARGETS.iter().filter(|t| list.lines().any(|line| line.trim() == t.name)) {
        let object = scratch.path(target.name);
        let version = targets::code_object_version(target.name);
        let made = Command::new(clang)
            .args(["--target=amdgcn-amd-amdhsa", "-nogpulib", "-c", "-x", "assembler", "/dev/null", "-o"])
            .arg(&object)
            .args([format!("-mcpu={}", target.name), format!("-mcode-object-version={version}")])
            .output()
            .expect("the compiler starts");
        stdout(made);
        let flags = u32::from_le_bytes(std::fs::read(&object).unwrap()[48..52].try_into().unwrap());
        assert_eq!(flags & 0xff, target.mach, "{}", target.name);
        known += 1;
    }
    assert!(known >= TARGETS.len() - 3, "{known} of {} compared", TARGETS.len());
}

#[test]
fn a_folder_of_code_objects_replaces_the_embedded_ones() {
    let scratch = Scratch::new("kernel-dir");
    let folder = scratch.path("kernels");
    let folder = folder.to_str().unwrap();
    let list = |arch: &str| {
        let args = ["devices", "--kernels", "--arch", arch];
        command(&args).env("ROCMFORGE_KERNEL_DIR", folder).output().unwrap()
    };
    for arch in ["gfx1100", "gfx1201"] {
        stdout(command(&["devices", "--kernels", "--arch", arch, "--extract", folder]).output().unwrap());
    }
    let file = |name: &str| Path::new(folder).join(name);
    std::fs::create_dir_all(file("sm_80")).unwrap();
    for object in objects().iter().filter(|object| object.arch == "sm_80") {
        std::fs::write(file(&format!("sm_80/{}.ptx", object.unit)), &object.bytes).unwrap();
    }
    for arch in ["gfx1100", "sm_80"] {
        let text = stdout(list(&format!("{arch}:xnack-")));
        let (start, from) =
            (format!("{arch}: {} kernels in ", SIGNATURES.len()), format!("from {folder}/{arch}\n"));
        assert!(text.starts_with(&start) && text.contains(&from), "{text}");
    }

    // a card that another's target serves
    let text = stdout(list("sm_86"));
    assert!(text.contains(&format!("from {folder}/sm_80\n")), "{text}");

    let fails = |arch: &str, why: &str| {
        let output = list(arch);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(why), "{why} is not in: {}", stderr(&output));
    };
    fails("gfx1101", &format!("cannot open {folder}/gfx1101: No such file"));
    fails("sm_75", &format!("cannot open {folder}/sm_75: No such file"));
    std::fs::create_dir_all(file("gfx1101")).unwrap();
    std::fs::copy(file("gfx1201/rope.hsaco"), file("gfx1101/rope.hsaco")).unwrap();
    fails("gfx1101", "gfx1101/rope.hsaco: compiled for gfx1201, which gfx1101 does not run");
    std::fs::write(file("gfx1201/rope.hsaco"), "#!/bin/sh\n").unwrap();
    fails("gfx1201", "gfx1201/rope.hsaco: not a code object");
    std::fs::remove_file(file("gfx1100/rope.hsaco")).unwrap();
    fails("gfx1100", &format!("{folder}/gfx1100: kernel rope_f32 of gfx1100: missing"));
    let ptx = std::fs::read_to_string(file("sm_80/transpose.ptx")).unwrap();
    std::fs::write(file("sm_80/transpose.ptx"), ptx.replace("transpose_f32", "transposed_f32")).unwrap();
    fails("sm_80", "kernel transpose_f32 of sm_80: missing");
    let wide = ptx.replacen(".param .u32 transpose_f32_param_2", ".param .u64 transpose_f32_param_2", 1);
    assert_ne!(wide, ptx);
    std::fs::write(file("sm_80/transpose.ptx"), wide).unwrap();
    fails(
        "sm_80",
        "kernel transpose_f32 of sm_80: argument 'rows': pointer or value of 8 bytes at 16, the host passes value of 4",
    );
}

#[test]
fn json_lists_the_same() {
    let text = stdout(command(&["devices", "--kernels", "--json"]).output().unwrap());
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let carried = code_object::carried();
    assert_eq!(list.len(), carried.len());
    for (row, embedded) in list.iter().zip(carried) {
        assert_eq!(row["arch"], embedded.arch);
        assert_eq!(row["embedded_bytes"], embedded.packed_size());
        let kernels = row["kernels"].as_array().unwrap();
        assert_eq!(kernels.len(), SIGNATURES.len());
        let transpose = kernels.iter().find(|k| k["name"] == "transpose_f32").unwrap();
        assert_eq!((&transpose["file"], &transpose["max_threads"]), (&"transpose".into(), &1024.into()));
        assert_eq!(transpose["lds_bytes"], 32 * 33 * 4);
        assert_eq!(transpose["vgprs"].is_u64(), embedded.arch.starts_with("gfx"), "{}", embedded.arch);
    }
}

/// A code object or PTX text, cut short or with bytes changed where they matter most.
fn damaged() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let some = |object: &&CodeObject| {
        ["gfx1100", "gfx942", "gfx11-generic", "sm_80"].contains(&object.arch.as_str())
            && object.bytes.len() < 100_000
    };
    let object = prop::sample::select(objects().iter().filter(some).collect::<Vec<_>>());
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (object, prop::collection::vec(change, 0..6), any::<bool>(), any::<Option<prop::sample::Index>>())
        .prop_map(|(object, changes, in_front, cut)| {
            let mut bytes = object.bytes.clone();
            // ELF header, program headers and the note lie in front
            let reach = if in_front { 512 } else { bytes.len() };
            for (index, value) in changes {
                let index = index.index(reach);
                bytes[index] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            (object.arch.as_str(), bytes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_crash((target, bytes) in damaged()) {
        if let Ok(object) = CodeObject::read(target, "damaged", bytes) {
            let _ = object.check();
        }
    }
}
