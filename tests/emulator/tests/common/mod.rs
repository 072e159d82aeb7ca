//! A host program's view of the emulator: kernels compiled at test time, memory, launches.

#![allow(dead_code)]

use std::ffi::{CString, OsStr, c_void};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use amdhip64::api::*;

/// Put before every kernel's source.
const PRELUDE: &str = r#"
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define KERNEL extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(1, 1024)))
#define tid __builtin_amdgcn_workitem_id_x()
#define gid __builtin_amdgcn_workgroup_id_x()
static inline __attribute__((device)) void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
}
"#;

/// The newest clang of 19 and later on PATH.
fn clang() -> String {
    let found = (19..40).rev().map(|n| format!("clang-{n}")).find(|name| {
        let run = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    });
    found.expect(
        "no clang-19 or newer on PATH: these tests compile kernels; apt install clang-19 lld-19 llvm-19",
    )
}

fn run_clang(arguments: &[impl AsRef<OsStr>], source: &str, kind: &str) -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{n}.hsaco", std::process::id()));
    let mut child = Command::new(clang())
        .args(arguments)
        .args(["-x", kind, "-", "-o"])
        .arg(&output)
        .stdin(Stdio::piped())
        .spawn()
        .expect("clang starts");
    child.stdin.take().unwrap().write_all(source.as_bytes()).expect("clang reads");
    assert!(child.wait().expect("clang ends").success(), "clang failed on:\n{source}");
    let bytes = std::fs::read(&output).expect("clang's output");
    std::fs::remove_file(&output).ok();
    bytes
}

/// Compiles HIP source for a target.
pub fn compile(target: &str, source: &str) -> Vec<u8> {
    run_clang(&hip_arguments(target, &[]), &format!("{PRELUDE}{source}"), "hip")
}

/// The same as assembly, where the compiler states what it writes into the descriptor.
pub fn assembly(target: &str, source: &str) -> String {
    let text = run_clang(&hip_arguments(target, &["-S"]), &format!("{PRELUDE}{source}"), "hip");
    String::from_utf8(text).expect("assembly is text")
}

fn hip_arguments(target: &str, more: &[&str]) -> Vec<String> {
    // Generic targets need version 6, of which clang 19 warns.
    let version = if target.contains("generic") { "6" } else { "5" };
    let [arch, version] = [format!("--offload-arch={target}"), format!("-mcode-object-version={version}")];
    let fixed = [
        "--cuda-device-only",
        "-nogpuinc",
        "-nogpulib",
        "--no-gpu-bundle-output",
        "-fuse-cuid=none",
        "-O2",
        "-w",
    ];
    fixed.iter().chain(more).map(|&a| a.to_owned()).chain([arch, version]).collect()
}

/// Assembles a kernel `k` of two pointers (s[0:1] is the argument segment), without LDS; `next_vgpr` registers.
pub fn assemble(target: &str, body: &str) -> Vec<u8> {
    let wave32 = !target.starts_with("gfx9");
    let accum = if ["gfx90a", "gfx942"].contains(&target) { ".amdhsa_accum_offset 16\n" } else { "" };
    let source = format!(
        r#"
.amdgcn_target "amdgcn-amd-amdhsa--{target}"
.text
.globl k
.p2align 8
.type k,@function
k:
{body}
s_endpgm
.Lend:
.size k, .Lend-k
.rodata
.p2align 6
.amdhsa_kernel k
.amdhsa_user_sgpr_kernarg_segment_ptr 1
.amdhsa_next_free_vgpr 16
.amdhsa_next_free_sgpr 32
.amdhsa_group_segment_fixed_size 1024
{accum}{wave}
.end_amdhsa_kernel
.amdgpu_metadata
amdhsa.version: [1, 2]
amdhsa.target: amdgcn-amd-amdhsa--{target}
amdhsa.kernels:
  - .name: k
    .symbol: k.kd
    .kernarg_segment_size: 16
    .group_segment_fixed_size: 1024
    .private_segment_fixed_size: 0
    .kernarg_segment_align: 8
    .wavefront_size: {lanes}
    .sgpr_count: 32
    .vgpr_count: 16
    .max_flat_workgroup_size: 1024
    .args:
      - {{ .offset: 0, .size: 8, .value_kind: global_buffer, .address_space: global }}
      - {{ .offset: 8, .size: 8, .value_kind: global_buffer, .address_space: global }}
.end_amdgpu_metadata
"#,
        wave = if wave32 { ".amdhsa_wavefront_size32 1" } else { "" },
        lanes = if wave32 { 32 } else { 64 },
    );
    run_clang(
        &["-target", "amdgcn-amd-amdhsa", "-mcode-object-version=5", &format!("-mcpu={target}")],
        &source,
        "assembler",
    )
}

/// The emulator, which this process has one of: tests of one binary take turns.
pub struct Emulator(MutexGuard<'static, ()>);

impl Emulator {
    /// Starts it anew; reports go to no terminal.
    pub fn new(settings: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = CString::new(format!("LOG=/dev/null\n{settings}")).unwrap();
        // SAFETY: a C string; each test has its own handles.
        assert_eq!(unsafe { rocmforge_emulator_configure(settings.as_ptr()) }, 0, "{settings:?}");
        // SAFETY: 0 is a device; a card less has none.
        unsafe { hipSetDevice(0) };
        hipGetLastError();
        Emulator(turn)
    }

    pub fn card(target: &str) -> Self {
        Self::new(&format!("CARD={target}"))
    }

    pub fn malloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        // SAFETY: writes an address.
        assert_eq!(unsafe { hipMalloc(&mut address, bytes) }, 0);
        address
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let address = self.malloc(size_of_val(data));
        // SAFETY: as many bytes as data has.
        assert_eq!(unsafe { hipMemcpyHtoD(address, data.as_ptr().cast(), size_of_val(data)) }, 0);
        address
    }

    pub fn download<T: Copy + Default>(&self, address: u64, n: usize) -> Vec<T> {
        let mut data = vec![T::default(); n];
        // SAFETY: as many bytes as data has.
        assert_eq!(unsafe { hipMemcpyDtoH(data.as_mut_ptr().cast(), address, n * size_of::<T>()) }, 0);
        data
    }

    pub fn load(&self, code: &[u8]) -> Result<*mut c_void, i32> {
        let mut module = null_mut();
        // SAFETY: a whole code object.
        match unsafe { hipModuleLoadData(&mut module, code.as_ptr().cast()) } {
            0 => Ok(module),
            code => Err(code),
        }
    }

    pub fn function(&self, code: &[u8], name: &str) -> *mut c_void {
        let module = self.load(code).expect("the code object loads");
        let (mut function, name) = (null_mut(), CString::new(name).unwrap());
        // SAFETY: a C string and a living module.
        assert_eq!(unsafe { hipModuleGetFunction(&mut function, module, name.as_ptr()) }, 0);
        function
    }

    /// hipModuleLaunchKernel's answer; `args` are 8 bytes each.
    pub fn launch(
        &self,
        function: *mut c_void,
        grid: u32,
        block: u32,
        args: &[u64],
        stream: *mut c_void,
    ) -> i32 {
        let mut pointers: Vec<*mut c_void> =
            args.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
        let args = pointers.as_mut_ptr();
        // SAFETY: an address for each argument.
        unsafe { hipModuleLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, stream, args, null_mut()) }
    }

    /// Runs a kernel in the null stream and waits for it.
    pub fn run(&self, function: *mut c_void, grid: u32, block: u32, args: &[u64]) -> Result<(), i32> {
        assert_eq!(self.launch(function, grid, block, args, null_mut()), 0, "the launch itself succeeds");
        // SAFETY: takes nothing.
        match unsafe { hipDeviceSynchronize() } {
            0 => Ok(()),
            code => Err(code),
        }
    }

    pub fn last_stop(&self) -> String {
        text(rocmforge_emulator_last_stop)
    }

    pub fn last_launch(&self) -> serde_json::Value {
        serde_json::from_str(&text(rocmforge_emulator_last_launch)).expect("a line of JSON")
    }
}

fn text(get: unsafe extern "C" fn(*mut std::ffi::c_char, usize) -> usize) -> String {
    let mut buffer = vec![0u8; 4096];
    // SAFETY: the buffer's size.
    let n = unsafe { get(buffer.as_mut_ptr().cast(), buffer.len()) };
    assert!(n < buffer.len());
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}
