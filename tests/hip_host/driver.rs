//! The ground under GPU code: runtimes found and refused, limits, launches checked before and after, lost devices.
//! On the emulator, and on AMD's own runtime without a GPU.

use crate::common::emulated;

use std::path::PathBuf;
use std::sync::Arc;

use emulated::{Emulator, in_process, library, library_without, on_emulator};
use rocmforge::Error;
use rocmforge::device::hip::card::Card;
use rocmforge::device::hip::code_object;
use rocmforge::device::hip::driver::Driver;
use rocmforge::device::hip::kernels::{Ptr, TRANSPOSE_F32, TransposeArgs};
use rocmforge::device::hip::limits::Limits;
use rocmforge::device::hip::stream::Stream;
use rocmforge::engine::{Backend, BackendParams, DeviceChoice, DeviceKind};

fn open() -> Result<Arc<Card>, Error> {
    Card::open(&DeviceChoice::Best)
}

fn gpu() -> Result<Backend, Error> {
    Backend::new(&BackendParams { device: DeviceKind::Hip, ..BackendParams::default() })
}

/// Whatever became of the GPU: the CPU transposes in this process.
fn the_cpu_still_works() {
    let cpu = BackendParams { device: DeviceKind::Cpu, ..BackendParams::default() };
    transposes(&Backend::new(&cpu).unwrap(), 5, 7).unwrap();
}

/// What the default, DeviceKind::Auto, comes to.
fn auto() -> Backend {
    let backend = Backend::new(&BackendParams::default()).unwrap();
    let [Ok(listed)] = &Backend::devices(DeviceKind::Auto).unwrap()[..] else { panic!("one device") };
    assert_eq!(listed.name, backend.info().name);
    transposes(&backend, 3, 5).unwrap();
    backend
}

/// A transpose compared with its definition, bit for bit.
fn transposes(backend: &Backend, rows: usize, cols: usize) -> Result<(), Error> {
    let src: Vec<f32> = (0..rows * cols)
        .map(|i| f32::from_bits(0x7f80_0001 ^ (i as u32).wrapping_mul(0x9e37_79b9)))
        .collect();
    let mut dst = vec![0f32; src.len()];
    backend.device().transpose(&src, &mut dst, rows, cols)?;
    for r in 0..rows {
        for c in 0..cols {
            assert_eq!(dst[c * rows + r].to_bits(), src[r * cols + c].to_bits(), "row {r}, column {c}");
        }
    }
    Ok(())
}

fn scratch(name: &str) -> PathBuf {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hip-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

// Runtimes.

#[test]
fn no_runtime() {
    in_process("no_runtime", &[("ROCMFORGE_HIP_LIBRARY", "/nonexistent/libamdhip64.so")], || {
        let error = gpu().err().unwrap();
        assert!(matches!(error, Error::NoRuntime { .. }), "{error:?}");
        assert_eq!(error.to_string(), "no GPU runtime: /nonexistent/libamdhip64.so: not found");
        the_cpu_still_works();
        assert_eq!(auto().kind(), DeviceKind::Cpu);
    });
}

#[test]
fn a_library_that_is_no_runtime() {
    in_process("a_library_that_is_no_runtime", &[("ROCMFORGE_HIP_LIBRARY", "libm.so.6")], || {
        let error = gpu().err().unwrap();
        assert!(matches!(error, Error::NoRuntime { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "no GPU runtime: libm.so.6: no GPU runtime (neither hipInit nor cuInit)"
        );
        the_cpu_still_works();
    });
}

#[test]
fn a_runtime_that_lacks_a_function() {
    let path = scratch("lacking.so");
    if !path.exists() {
        library_without("hipGraphInstantiateWithFlags", &path);
    }
    in_process("a_runtime_that_lacks_a_function", &[("ROCMFORGE_HIP_LIBRARY", &path)], || {
        let error = gpu().err().unwrap().to_string();
        assert!(error.contains("lacking.so is too old: it lacks hipGraphInstantiateWithFlags"), "{error}");
        the_cpu_still_works();
    });
}

#[test]
fn a_runtime_of_an_old_version() {
    on_emulator("a_runtime_of_an_old_version", &[("VERSION", "50221153")], || {
        let error = gpu().err().unwrap();
        assert!(matches!(error, Error::RuntimeTooOld { .. }), "{error:?}");
        let text = format!("{} is too old: it is version 5.2.21153; HIP 5.3 is needed", library().display());
        assert_eq!(error.to_string(), text);
        the_cpu_still_works();
    });
}

#[test]
fn a_runtime_without_a_gpu() {
    on_emulator("a_runtime_without_a_gpu", &[("CARD", "none")], || {
        let error = gpu().err().unwrap();
        assert!(matches!(error, Error::NoGpu(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with("no GPU: ") && text.contains("hipInit: hipErrorInvalidDevice (101)"),
            "{text}"
        );
        assert!(matches!(Backend::devices(DeviceKind::Hip), Err(Error::NoGpu(_))));
        the_cpu_still_works();
        assert_eq!(auto().kind(), DeviceKind::Cpu);
    });
}

/// Debian's libamdhip64-5 on a machine without an AMD GPU, found by its name.
#[test]
fn amds_own_runtime_without_a_gpu() {
    let unset: [(&str, &str); 0] = [];
    in_process("amds_own_runtime_without_a_gpu", &unset, || {
        // SAFETY: nothing else runs in this process yet.
        unsafe { std::env::remove_var("ROCMFORGE_HIP_LIBRARY") };
        if std::path::Path::new("/dev/kfd").exists() {
            panic!("this machine has an AMD GPU: the test is for one without");
        }
        let found = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"]
            .iter()
            // SAFETY: AMD's runtime is made to be opened so.
            .any(|name| unsafe { libloading::Library::new(*name) }.map(std::mem::forget).is_ok());
        assert!(found, "AMD's runtime is missing: apt-get install libamdhip64-5, or tools/setup.sh test");
        let error = gpu().err().unwrap();
        let text = error.to_string();
        // where NVIDIA's driver serves instead there is a GPU, and this test has nothing to look at
        assert!(matches!(error, Error::NoGpu(_)), "{error:?}");
        assert!(
            text.contains("libamdhip64.so.") && text.contains("no AMD GPU that this process may open"),
            "{text}"
        );
        assert!(text.contains("libcuda.so.1"), "{text}");
        the_cpu_still_works();
    });
}

// Limits.

/// What a gfx1100 with 24 GB is to the engine, whichever struct its runtime fills.
fn check_limits_of_gfx1100() {
    let limits = Limits::read(Driver::get().unwrap(), 0).unwrap();
    assert_eq!((limits.arch.as_str(), limits.arch_full.as_str()), ("gfx1100", "gfx1100"));
    assert_eq!(limits.name, "AMD Radeon RX 7900 XTX");
    assert_eq!((limits.max_threads_per_block, limits.max_block), (1024, [1024; 3]));
    assert_eq!(limits.max_grid, [i32::MAX as u64, 65_536, 65_536]);
    assert_eq!((limits.warp_size, limits.shared_bytes_per_block), (32, 65_536));
    assert_eq!((limits.compute_units, limits.integrated), (48, false));
    assert!(limits.memory_total > 23 << 30, "{}", limits.memory_total);
}

#[test]
fn limits_by_the_layout_of_rocm_6() {
    on_emulator("limits_by_the_layout_of_rocm_6", &[("CARD", "gfx1100")], check_limits_of_gfx1100);
}

#[test]
fn limits_by_the_layout_before_rocm_6() {
    let path = scratch("old.so");
    if !path.exists() {
        amdhip64::old::write_old_runtime(&library(), &path).unwrap();
    }
    let env = [
        ("ROCMFORGE_HIP_LIBRARY", path.to_str().unwrap()),
        ("ROCMFORGE_EMULATOR_CARD", "gfx1100"),
        ("ROCMFORGE_EMULATOR_VERSION", "50722804"),
    ];
    in_process("limits_by_the_layout_before_rocm_6", &env, || {
        check_limits_of_gfx1100();
        assert_eq!(Driver::get().unwrap().version_text(), "5.7.22804");
    });
}

#[test]
fn a_cdna_card() {
    on_emulator("a_cdna_card", &[("CARD", "gfx90a")], || {
        let limits = Limits::read(Driver::get().unwrap(), 0).unwrap();
        assert_eq!((limits.arch.as_str(), limits.warp_size), ("gfx90a", 64));
        assert!(limits.arch_full.starts_with("gfx90a:"), "{}", limits.arch_full);
    });
}

// Which GPU.

#[test]
fn cards_are_chosen_by_number_and_by_name() {
    let cards = [("CARD", "gfx1103,gfx1100,gfx1201")];
    on_emulator("cards_are_chosen_by_number_and_by_name", &cards, || {
        let driver = Driver::get().unwrap();
        let find = |choice: DeviceChoice| rocmforge::device::hip::card::find(driver, &choice);
        let named = |name: &str| find(DeviceChoice::Name(name.into()));
        assert_eq!(find(DeviceChoice::Best).unwrap(), 1, "the discrete one with the most memory");
        assert_eq!(find(DeviceChoice::Index(2)).unwrap(), 2);
        assert_eq!(named("gfx1103").unwrap(), 0);
        assert_eq!(named("7900 xtx").unwrap(), 1);
        let error = find(DeviceChoice::Index(3)).unwrap_err().to_string();
        assert!(error.contains("number 3 asked for") && error.ends_with("shows 3, from 0 on"), "{error}");
        let error = named("MI300X").unwrap_err().to_string();
        assert!(error.contains("MI300X") && error.contains("0: AMD Radeon 780M (gfx1103)"), "{error}");

        let all = |choice: DeviceChoice| rocmforge::device::hip::card::find_all(driver, &choice);
        assert_eq!(all(DeviceChoice::All).unwrap(), [1, 2], "no integrated one where there are others");
        assert_eq!(all(DeviceChoice::Indices(vec![2, 0])).unwrap(), [2, 0]);
        assert_eq!(all(DeviceChoice::Best).unwrap(), [1]);
        for wrong in [vec![], vec![1, 1]] {
            assert!(matches!(all(DeviceChoice::Indices(wrong)), Err(Error::Param(_))));
        }
        assert!(matches!(all(DeviceChoice::Indices(vec![0, 3])), Err(Error::NoGpu(_))));
    });
}

#[test]
fn a_backend_takes_one_gpu_or_several() {
    let cards = [("CARD", "gfx803,gfx1103,gfx1201,gfx1100")];
    on_emulator("a_backend_takes_one_gpu_or_several", &cards, || {
        let best = auto();
        assert_eq!((best.kind(), best.gpus().len()), (DeviceKind::Hip, 1));
        assert_eq!(
            best.info().gpu.unwrap().index,
            3,
            "of those with kernels the discrete one with the most memory"
        );
        let of = |choice| Backend::new(&BackendParams { device: DeviceKind::Hip, choice, threads: 1 });
        let indices = |backend: &Backend| {
            backend.gpus().iter().map(|gpu| gpu.info().gpu.unwrap().index).collect::<Vec<_>>()
        };
        assert_eq!(indices(&of(DeviceChoice::All).unwrap()), [2, 3]);
        let two = of(DeviceChoice::Indices(vec![3, 1])).unwrap();
        assert_eq!(indices(&two), [3, 1]);
        assert_eq!(two.info().gpu.unwrap().index, 3);
        transposes(&two, 33, 7).unwrap();
        // what the GPUs leave, the CPU computes
        assert!(two.host().unwrap().info().gpu.is_none());
        assert_eq!(two.host().unwrap().info().compute_units, 1);
        assert!(matches!(
            of(DeviceChoice::Indices(vec![3, 0])).err(),
            Some(Error::NoKernels { device: 0, .. })
        ));
        let auto_of_two = BackendParams { choice: DeviceChoice::All, ..BackendParams::default() };
        assert!(matches!(Backend::new(&auto_of_two).err(), Some(Error::Param(_))));
    });
}

#[test]
fn a_card_without_kernels_is_listed_and_refused() {
    on_emulator("a_card_without_kernels_is_listed_and_refused", &[("CARD", "gfx803")], || {
        let listed = Backend::devices(DeviceKind::Hip).unwrap().remove(0).unwrap();
        assert!(!listed.gpu.unwrap().has_kernels);
        let error = gpu().err().unwrap();
        assert!(matches!(error, Error::NoKernels { device: 0, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("no kernels for gfx803 (device 0); this library carries "), "{text}");
        for target in code_object::carried() {
            assert!(text.contains(target.arch), "{} is not in: {text}", target.arch);
        }
        assert!(text.contains("ROCm_ARCH=gfx803") && text.contains("ROCMFORGE_KERNEL_DIR"), "{text}");
        the_cpu_still_works();
        assert_eq!(auto().kind(), DeviceKind::Cpu);
    });
}

#[test]
fn a_kernel_folder_without_the_file() {
    on_emulator("a_kernel_folder_without_the_file", &[], || {
        // SAFETY: nothing else runs in this process yet.
        unsafe { std::env::set_var("ROCMFORGE_KERNEL_DIR", "/nonexistent/kernels") };
        let error = gpu().err().unwrap().to_string();
        assert!(error.starts_with("cannot open /nonexistent/kernels/gfx1100: "), "{error}");
    });
}

// Launches.

fn transpose_args(rows: u32, cols: u32) -> TransposeArgs {
    TransposeArgs { src: Ptr(0), dst: Ptr(0), rows, cols }
}

fn static_shared_bytes() -> u64 {
    let object = code_object::for_arch(0, "gfx1100").unwrap().open("transpose_f32").unwrap();
    object.kernel("transpose_f32").unwrap().lds_bytes
}

#[test]
fn a_launch_beyond_the_limits_never_reaches_the_driver() {
    on_emulator("a_launch_beyond_the_limits_never_reaches_the_driver", &[], || {
        let card = open().unwrap();
        let stream = Stream::new(&card).unwrap();
        let emulator = Emulator::open();
        emulator.fail("");
        let args = transpose_args(896, 151_936);
        let launch = |grid, block, shared| {
            // SAFETY: refused: no kernel runs.
            unsafe { card.launch_shape(stream.raw(), TRANSPOSE_F32, grid, block, shared, &args) }.unwrap_err()
        };
        let error = launch([4748, 28, 1], [64, 64, 1], 0);
        let shared = static_shared_bytes();
        assert_eq!(
            error.to_string(),
            format!(
                "hipModuleLaunchKernel not called; kernel transpose_f32, grid (4748,28,1), block (64,64,1), \
                 {shared} shared bytes; device 0 (gfx1100); the block has 4096 threads, the device allows 1024"
            )
        );
        let Error::Gpu(failure) = error else { panic!("{error:?}") };
        assert_eq!((failure.code, failure.device), (0, 0));
        for (grid, block, extra, why) in [
            ([0, 1, 1], [32, 32, 1], 0, "grid.x is 0"),
            ([1, 65_537, 1], [32, 32, 1], 0, "grid.y is 65537, must be 1 to 65536"),
            ([1 << 31, 1, 1], [32, 32, 1], 0, "grid.x is 2147483648, must be 1 to 2147483647"),
            ([1 << 28, 1, 1], [32, 32, 1], 0, "must be below 2^32"),
            ([1 << 33, 1, 1], [32, 32, 1], 0, "grid.x is 8589934592"),
            ([1; 3], [0, 32, 1], 0, "block.x is 0"),
            ([1; 3], [32, 32, 1], 65_536, "bytes of shared memory, the device allows 65536"),
            ([1; 3], [32, 32, 1], u64::MAX, "18446744073709551615 bytes of shared memory"),
        ] {
            let text = launch(grid, block, extra).to_string();
            assert!(text.contains(why), "'{why}' is not in: {text}");
        }
        assert_eq!(emulator.calls("hipModuleLaunchKernel"), 0);
        // and the card is as good as before
        transposes(&gpu().unwrap(), 33, 65).unwrap();
        assert_eq!(emulator.calls("hipModuleLaunchKernel"), 1);
    });
}

#[test]
fn a_launch_that_the_runtime_refuses_is_told_in_full() {
    on_emulator("a_launch_that_the_runtime_refuses_is_told_in_full", &[], || {
        let backend = gpu().unwrap();
        Emulator::open().fail("hipModuleLaunchKernel:1:1");
        let error = transposes(&backend, 40, 100).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "hipModuleLaunchKernel: hipErrorInvalidValue (1); kernel transpose_f32, grid (4,2,1), \
                 block (32,32,1), {} shared bytes; device 0 (gfx1100)",
                static_shared_bytes()
            )
        );
        // refused is not lost
        transposes(&backend, 40, 100).unwrap();
    });
}

/// Transposes from an address that nobody allocated: the launch itself goes well.
fn fault(card: &Arc<Card>, stream: &Stream) -> Result<(), Error> {
    let args = TransposeArgs { src: Ptr(0x1000), dst: Ptr(0x1000), rows: 32, cols: 32 };
    card.enter()?;
    // SAFETY: not kept, on purpose: the emulator notices the kernel's first access and runs no further.
    unsafe { card.launch(stream.raw(), TRANSPOSE_F32, [1; 3], 0, &args) }
}

#[test]
fn an_asynchronous_fault_names_the_launches_since_the_last_good_synchronization() {
    let name = "an_asynchronous_fault_names_the_launches_since_the_last_good_synchronization";
    on_emulator(name, &[("LOG", "/dev/null")], || {
        let card = open().unwrap();
        let stream = Stream::new(&card).unwrap();
        for _ in 0..2 {
            fault(&card, &stream).unwrap();
        }
        let error = stream.synchronize().unwrap_err();
        let Error::DeviceLost { device: 0, failure } = &error else { panic!("{error:?}") };
        assert_eq!((failure.call, failure.code), ("hipStreamSynchronize", 700));
        assert_eq!(failure.launch.as_ref().map(|launch| launch.kernel.as_str()), Some("transpose_f32"));
        let text = error.to_string();
        assert!(
            text.starts_with("device 0 is lost: hipStreamSynchronize: hipErrorIllegalAddress (700);"),
            "{text}"
        );
        assert!(text.contains("since the last good synchronization, in order: transpose_f32 x2;"), "{text}");

        // From here on nothing reaches the runtime, and every call says why.
        let emulator = Emulator::open();
        emulator.fail("");
        let again = fault(&card, &stream).unwrap_err().to_string();
        assert_eq!(again, text);
        assert!(matches!(card.memory(), Err(Error::DeviceLost { .. })));
        drop(stream);
        drop(card);
        assert_eq!(emulator.calls(""), 0);
        the_cpu_still_works();
    });
}

#[test]
fn with_blocking_launches_the_fault_is_the_launchs_own() {
    let name = "with_blocking_launches_the_fault_is_the_launchs_own";
    on_emulator(name, &[("LOG", "/dev/null")], || {
        // SAFETY: nothing else runs in this process yet.
        unsafe { std::env::set_var("HIP_LAUNCH_BLOCKING", "1") };
        let card = open().unwrap();
        assert!(card.launches_are_blocking());
        let stream = Stream::new(&card).unwrap();
        let error = fault(&card, &stream).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "device 0 is lost: hipStreamSynchronize: hipErrorIllegalAddress (700); kernel transpose_f32, \
                 grid (1,1,1), block (32,32,1), {} shared bytes; device 0 (gfx1100); this launch, \
                 HIP_LAUNCH_BLOCKING is set",
                static_shared_bytes()
            )
        );
    });
}

/// The runtime's calls of a card's life, each failed once, in each way that calls fail: the error names the call and
/// the code, nothing panics, and the next attempt finds all as it was.
#[test]
fn every_call_may_fail() {
    on_emulator("every_call_may_fail", &[], || {
        let emulator = Emulator::open();
        // The runtime is opened by the first success: until then its own calls are made anew each time.
        for call in ["hipInit", "hipGetDeviceCount", "hipRuntimeGetVersion"] {
            emulator.fail(&format!("{call}:1:999"));
            let error = gpu().err().unwrap();
            assert!(matches!(error, Error::NoGpu(_)), "{error:?}");
            assert!(error.to_string().contains(&format!("{call}: hipErrorUnknown (999)")), "{error}");
        }
        emulator.fail("hipInit:1:35");
        assert!(matches!(gpu().err().unwrap(), Error::RuntimeTooOld { .. }));

        let life = || transposes(&gpu()?, 3, 5);
        let calls = [
            "hipDeviceGet",
            "hipDeviceGetAttribute",
            "hipGetDevicePropertiesR0600",
            "hipDeviceGetName",
            "hipDeviceTotalMem",
            "hipSetDevice",
            "hipModuleLoadData",
            "hipModuleGetFunction",
            "hipStreamCreateWithFlags",
            "hipMemcpyHtoDAsync",
            "hipModuleLaunchKernel",
            "hipMemcpyDtoHAsync",
        ];
        for call in calls {
            emulator.fail(&format!("{call}:1:999"));
            let error = life().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("{call}: hipErrorUnknown (999)")), "{call}: {text}");
            emulator.fail(&format!("{call}:1:100"));
            assert!(life().is_err(), "{call}");
            emulator.fail("");
            life().unwrap();
        }
        emulator.fail("hipMalloc:1+:2");
        let error = life().unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { wanted: 1.., total: 1.., .. }), "{error:?}");
        emulator.fail("");
        life().unwrap();
    });
}

/// From some call on, the card is gone: whatever was under way ends with that error.
#[test]
fn a_card_that_vanishes() {
    on_emulator("a_card_that_vanishes", &[], || {
        let backend = gpu().unwrap();
        let emulator = Emulator::open();
        emulator.fail("");
        transposes(&backend, 3, 5).unwrap();
        let calls = emulator.calls("");
        let mut failed = 0;
        for n in 1..=calls {
            let backend = gpu().unwrap();
            emulator.fail(&format!("{n}+:100"));
            // once the result is there, the calls that are left free things
            if let Err(error) = transposes(&backend, 3, 5) {
                assert_eq!(failed + 1, n, "an earlier call failed, and nobody noticed");
                failed = n;
                assert!(matches!(error, Error::DeviceLost { device: 0, .. }), "call {n}: {error:?}");
                assert!(error.to_string().contains("hipErrorNoDevice (100)"), "{error}");
                let so_far = emulator.calls("");
                let again = transposes(&backend, 3, 5).unwrap_err();
                assert_eq!(again.to_string(), error.to_string());
                assert_eq!(emulator.calls(""), so_far, "call {n}: a lost card was called");
            }
            emulator.fail("");
        }
        assert!(failed > calls / 2, "{failed} of {calls} calls");
        the_cpu_still_works();
    });
}
