//! kernels/blocks.hpp, as a C++ compiler lays it out, against the table of tensor types (which the `gguf` package
//! checks) and the planes that the host reserves.

use std::io::Write;
use std::process::{Command, Stdio};

use rocmforge::device::hip::planes::PlaneLayout;
use rocmforge::gguf::TensorType;

use TensorType::*;

/// Each type's first and last member in the file, with the last one's place (ggml-common.h).
const BLOCKS: [(TensorType, &str, &str, usize); 10] = [
    (Q4_0, "d", "qs", 2),
    (Q4_1, "d", "qs", 4),
    (Q5_0, "d", "qs", 6),
    (Q5_1, "d", "qs", 8),
    (Q8_0, "d", "qs", 2),
    (Q2_K, "scales", "dmin", 82),
    (Q3_K, "hmask", "d", 108),
    (Q4_K, "d", "qs", 16),
    (Q5_K, "d", "qs", 48),
    (Q6_K, "ql", "d", 208),
];

#[test]
fn blocks_lie_as_in_the_file() {
    let mut source =
        "#include \"kernels/blocks.hpp\"\n#include <cstddef>\nusing namespace blocks;\n".to_owned();
    for (ty, first, last, offset) in BLOCKS {
        let (name, len, bytes) = (ty.name(), ty.block_len(), ty.block_bytes());
        source += &format!(
            "static_assert(sizeof({name}) == {bytes} && {name}::ELEMENTS == {len});\n\
             static_assert(offsetof({name}, {first}) == 0 && offsetof({name}, {last}) == {offset});\n"
        );
        // 256 blocks: planes that need no padding between them
        let layout = PlaneLayout::new(ty, 1, len * 256).unwrap();
        let starts = layout.offsets.clone();
        source += &format!("static_assert({name}::N_PLANES == {});\n", starts.len());
        let ends = starts.iter().skip(1).chain([&layout.bytes]);
        for (plane, (start, end)) in starts.iter().zip(ends).enumerate() {
            source += &format!("static_assert({name}::PLANES[{plane}].bytes == {});\n", (end - start) / 256);
        }
    }
    let mut compiler = Command::new("c++")
        .args(["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I.", "-x", "c++", "-"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C++ compiler (tools/setup.sh test installs it)");
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let output = compiler.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{source}", String::from_utf8_lossy(&output.stderr));
}
