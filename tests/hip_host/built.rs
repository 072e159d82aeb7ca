//! Every kernel file compiled for every target, whatever the library under test was built for: by the build script's
//! modules, with its cache.
#![allow(dead_code)]

#[path = "../../tools/build/cards.rs"]
pub mod cards;
#[path = "../../tools/build/compiler.rs"]
pub mod compiler;
#[path = "../../tools/build/kernels.rs"]
pub mod kernels;
#[path = "../../src/device/hip/code_object/targets.rs"]
pub mod targets;

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use lzma_rust2::LzmaReader;
use rocmforge::device::hip::code_object::CodeObject;

/// By target, in the tables' order; minutes where nothing is cached.
pub fn objects() -> &'static [CodeObject] {
    static OBJECTS: OnceLock<Vec<CodeObject>> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let compilers = compiler::Search::of_environment().find_all().unwrap();
        let jobs = kernels::jobs(&compilers, &None).unwrap();
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../kernels");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut built = kernels::build(&folder, &jobs, &kernels::Cache::at(cache).unwrap()).unwrap();
        built.sort_by_key(|object| jobs.iter().position(|job| job.target == object.target));
        let read = |object: &kernels::Object| {
            assert_eq!(object.warnings, "", "{} for {}", object.unit, object.target);
            let mut bytes = Vec::new();
            let mut unpacked = LzmaReader::new_mem_limit(&object.packed[..], u32::MAX, None).unwrap();
            unpacked.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), object.size);
            let read = CodeObject::read(object.target, &object.unit, bytes).unwrap();
            assert_eq!(read.arch, object.target);
            let names: Vec<_> = read.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            assert_eq!(names, object.kernels, "{} for {}", object.unit, object.target);
            read
        };
        built.iter().map(read).collect()
    })
}
