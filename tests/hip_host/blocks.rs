//! kernels/types.hpp, as a C++ compiler sees it, against the table of tensor types (which the `gguf` package checks) and
//! the planes that the host reserves.

use std::io::Write;
use std::process::{Command, Stdio};

use rocmforge::device::hip::planes;
use rocmforge::gguf::TensorType;

#[test]
fn blocks_lie_as_in_the_file() {
    let mut source = "#include \"kernels/types.hpp\"\nusing namespace blocks;\n".to_owned();
    for ty in TensorType::supported().filter(|ty| !ty.is_float()) {
        let (name, len, bytes) = (ty.name(), ty.block_len(), ty.block_bytes());
        source += &format!("static_assert({name}::BYTES == {bytes} && {name}::ELEMENTS == {len});\n");
        let fields = planes::fields(ty).unwrap();
        source += &format!("static_assert(N_PLANES<{name}> == {});\n", fields.len());
        for (plane, bytes) in fields.iter().enumerate() {
            source += &format!("static_assert({name}::PLANES[{plane}].bytes == {bytes});\n");
        }
        source += &format!("static_assert(unit_cols<{name}>() == {});\n", planes::unit_cols(ty));
    }
    // no type here that the table does not have
    source += "#define ONE(Type, name) + 1\n";
    source += &format!("static_assert((TYPES(ONE)) == {});\n", TensorType::N_SUPPORTED);
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
