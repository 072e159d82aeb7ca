//! GPUs through the C interface: on the emulated gfx1100, or with ROCMFORGE_TEST_GPU=1 on this machine's first GPU.
#![cfg(feature = "hip")]

use crate::common::archs::Fixture;
use crate::common::emulated;

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::zeroed;
use std::ptr;

use emulated::{Emulator, in_process, on_emulator};
use rocmforge::ffi::*;

fn is_real() -> bool {
    std::env::var_os("ROCMFORGE_TEST_GPU").is_some_and(|value| value == "1")
}

/// The test on the emulated card, or on the real one.
fn on_gpu(name: &str, body: impl FnOnce()) {
    if is_real() { body() } else { on_emulator(name, &[("CARD", "gfx1100")], body) }
}

fn text(p: *const c_char) -> String {
    assert!(!p.is_null());
    // SAFETY: the library's texts are NUL-terminated and live until the next failure.
    unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned()
}

fn array_text(array: &[c_char]) -> String {
    text(array.as_ptr())
}

fn last_error() -> String {
    text(rf_last_error())
}

fn details() -> rf_device_details {
    // SAFETY: integers and arrays of them.
    rf_device_details { size: size_of::<rf_device_details>(), ..unsafe { zeroed() } }
}

fn create(kind: i32, index: i32) -> Result<*mut rf_backend, rf_status> {
    // SAFETY: plain data; pointers to this frame.
    unsafe {
        let mut params: rf_backend_params = zeroed();
        assert_eq!(rf_backend_params_init(&mut params, size_of::<rf_backend_params>()), RF_OK);
        assert_eq!(params.device_index, -1);
        (params.kind, params.device_index) = (kind, index);
        let mut backend = ptr::null_mut();
        match rf_backend_create(&params, &mut backend) {
            RF_OK => Ok(backend),
            status => Err(status),
        }
    }
}

fn transpose(backend: *mut rf_backend, src: &[f32], rows: usize, cols: usize) -> Result<Vec<f32>, rf_status> {
    let mut dst = vec![0f32; rows * cols];
    // SAFETY: a live handle, and `rows * cols` floats each.
    match unsafe { rf_op_transpose(backend, src.as_ptr(), dst.as_mut_ptr(), rows, cols) } {
        RF_OK => Ok(dst),
        status => Err(status),
    }
}

/// Different bits in every element, NaNs among them.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) ^ 0x7fc0_0000)).collect()
}

fn equals_the_cpus(rows: usize, cols: usize) {
    let src = values(rows * cols);
    let (gpu, cpu) = (create(RF_DEVICE_HIP, -1).unwrap(), create(RF_DEVICE_CPU, -1).unwrap());
    let got = transpose(gpu, &src, rows, cols).unwrap_or_else(|status| panic!("{status}: {}", last_error()));
    let want = transpose(cpu, &src, rows, cols).unwrap();
    let differs = want.iter().zip(&got).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "of {rows} x {cols}");
    // SAFETY: released once.
    unsafe {
        rf_backend_release(gpu);
        rf_backend_release(cpu);
    }
}

#[test]
fn transposes_of_any_shape_equal_the_cpus() {
    on_gpu("transposes_of_any_shape_equal_the_cpus", || {
        for (rows, cols) in [(1, 1), (1, 77), (77, 1), (32, 32), (31, 33), (65, 96), (300, 7)] {
            equals_the_cpus(rows, cols);
        }
    });
}

/// A slice of the columns of [896, 151936]; all of its rows of tiles.
#[test]
fn the_transpose_that_failed_once_in_part() {
    on_gpu("the_transpose_that_failed_once_in_part", || equals_the_cpus(896, 1536));
}

#[test]
#[ignore = "takes minutes on the emulator; `cargo test --test ffi -- --ignored` runs it"]
fn the_transpose_that_failed_once_in_full() {
    on_gpu("the_transpose_that_failed_once_in_full", || equals_the_cpus(896, 151_936));
}

#[test]
fn gpus_are_listed_with_their_limits() {
    on_emulator("gpus_are_listed_with_their_limits", &[("CARD", "gfx1103,gfx1100")], || {
        let mut count = 0;
        let mut info = details();
        // SAFETY: pointers to this frame.
        unsafe {
            assert_eq!(rf_device_count(RF_DEVICE_HIP, &mut count), RF_OK);
            assert_eq!(rf_device_info(RF_DEVICE_HIP, 1, &mut info), RF_OK);
        }
        assert_eq!(count, 2);
        assert_eq!((info.kind, array_text(&info.arch)), (RF_DEVICE_HIP, "gfx1100".into()));
        assert_eq!(array_text(&info.name), "AMD Radeon RX 7900 XTX");
        assert_eq!((info.max_threads_per_block, info.max_block), (1024, [1024; 3]));
        assert_eq!(info.max_grid, [i32::MAX as u32, 65_536, 65_536]);
        assert_eq!((info.warp_size, info.shared_bytes_per_block), (32, 65_536));
        assert_eq!((info.integrated, info.has_kernels), (0, 1));
        assert!(array_text(&info.runtime).ends_with("libamdhip64.so 6.3.42131"));
        assert!(info.memory_total >= info.memory_free && info.memory_free > 1 << 30);
        // SAFETY: pointers to this frame.
        unsafe {
            assert_eq!(rf_device_info(RF_DEVICE_HIP, 0, &mut info), RF_OK);
            assert_eq!((array_text(&info.arch), info.integrated), ("gfx1103".into(), 1));
            assert_eq!(rf_device_info(RF_DEVICE_HIP, 2, &mut info), RF_ERROR_PARAM);
            // no GPU, no limits
            assert_eq!(rf_device_info(RF_DEVICE_CPU, 0, &mut info), RF_OK);
        }
        assert_eq!((info.warp_size, info.max_grid, info.has_kernels, info.runtime[0]), (0, [0; 3], 0, 0));

        // -1 takes the discrete one, an index the one it says
        for (index, arch) in [(-1, "gfx1100"), (1, "gfx1100")] {
            let backend =
                create(RF_DEVICE_HIP, index).unwrap_or_else(|status| panic!("{status}: {}", last_error()));
            // SAFETY: a live handle; pointers to this frame.
            unsafe {
                assert_eq!(rf_backend_info(backend, &mut info), RF_OK);
                assert_eq!(array_text(&info.arch), arch);
                rf_backend_release(backend);
            }
        }
        assert_eq!(create(RF_DEVICE_HIP, 2), Err(RF_ERROR_NO_DEVICE));
        assert_eq!(create(RF_DEVICE_HIP, -2), Err(RF_ERROR_PARAM));
        assert_eq!(create(RF_DEVICE_CPU, 1), Err(RF_ERROR_PARAM));
    });
}

#[test]
fn several_gpus_by_mask() {
    on_emulator("several_gpus_by_mask", &[("CARD", "gfx1103,gfx1201,gfx1100")], || {
        // SAFETY: plain data; pointers to this frame; handles released once.
        let first = |mask: u64| unsafe {
            let mut params: rf_backend_params = zeroed();
            assert_eq!(rf_backend_params_init(&mut params, size_of::<rf_backend_params>()), RF_OK);
            (params.kind, params.device_mask) = (RF_DEVICE_HIP, mask);
            let mut backend = ptr::null_mut();
            let status = rf_backend_create(&params, &mut backend);
            if status != RF_OK {
                return Err(status);
            }
            let mut info = details();
            assert_eq!(rf_backend_info(backend, &mut info), RF_OK);
            rf_backend_release(backend);
            Ok(array_text(&info.arch))
        };
        assert_eq!(first(0), Ok("gfx1100".into()), "the best");
        assert_eq!(first(0b110), Ok("gfx1201".into()));
        assert_eq!(first(0b101), Ok("gfx1103".into()));
        assert_eq!(first(RF_DEVICES_ALL), Ok("gfx1201".into()), "without the integrated one");
        assert_eq!(first(0b1010), Err(RF_ERROR_NO_DEVICE));
        // and what the default becomes
        let mut info = details();
        // SAFETY: a pointer to this frame.
        assert_eq!(unsafe { rf_device_info(RF_DEVICE_AUTO, 0, &mut info) }, RF_OK);
        assert_eq!((info.kind, array_text(&info.arch)), (RF_DEVICE_HIP, "gfx1100".into()));
    });
}

#[test]
fn a_failed_launch_is_told_field_by_field() {
    on_emulator("a_failed_launch_is_told_field_by_field", &[], || {
        let backend = create(RF_DEVICE_HIP, -1).unwrap();
        Emulator::open().fail("hipModuleLaunchKernel:1:1");
        let (rows, cols) = (40, 100);
        assert_eq!(transpose(backend, &values(rows * cols), rows, cols), Err(RF_ERROR_GPU));
        // SAFETY: pointers and integers; a pointer to this frame.
        let mut info = rf_error_info { size: size_of::<rf_error_info>(), ..unsafe { zeroed() } };
        // SAFETY: a pointer to this frame.
        assert_eq!(unsafe { rf_last_error_info(&mut info) }, RF_OK);
        assert_eq!((info.status, info.hip_code, info.device), (RF_ERROR_GPU, 1, 0));
        assert_eq!(text(info.hip_name), "hipErrorInvalidValue");
        assert_eq!(text(info.hip_call), "hipModuleLaunchKernel");
        assert_eq!(text(info.kernel), "transpose_f32");
        assert_eq!((info.grid, info.block), ([4, 2, 1], [32, 32, 1]));
        assert!((4096..=65_536).contains(&info.shared_bytes), "{}", info.shared_bytes);
        let message = text(info.message);
        for part in
            ["hipErrorInvalidValue (1)", "transpose_f32", "(4,2,1)", "(32,32,1)", "device 0 (gfx1100)"]
        {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        // the same for a caller whose threads move
        Emulator::open().fail("hipModuleLaunchKernel:1:1");
        let (src, mut dst) = (values(rows * cols), vec![0f32; rows * cols]);
        // SAFETY: integers and arrays of them.
        let mut error = rf_error { size: size_of::<rf_error>(), ..unsafe { zeroed() } };
        // SAFETY: a live handle, `rows * cols` floats each, a pointer to this frame.
        let status =
            unsafe { rf_op_transpose_e(backend, src.as_ptr(), dst.as_mut_ptr(), rows, cols, &mut error) };
        assert_eq!((status, error.status, error.hip_code, error.device), (RF_ERROR_GPU, RF_ERROR_GPU, 1, 0));
        assert_eq!((error.grid, error.block, error.shared_bytes), (info.grid, info.block, info.shared_bytes));
        assert_eq!(array_text(&error.message), message);
        assert_eq!(error.message_len as usize, message.len());
        assert_eq!(array_text(&error.kernel), "transpose_f32");
        assert_eq!(array_text(&error.hip_name), "hipErrorInvalidValue");
        assert_eq!(array_text(&error.hip_call), "hipModuleLaunchKernel");
        // SAFETY: released once.
        unsafe { rf_backend_release(backend) };
    });
}

/// A runtime that the parent has opened is a status in the child, not a hang; the CPU serves there.
#[test]
fn a_fork_leaves_the_gpu_to_the_parent() {
    on_gpu("a_fork_leaves_the_gpu_to_the_parent", || {
        let backend = create(RF_DEVICE_HIP, -1).unwrap();
        // SAFETY: the child calls what is tried here, and ends without the harness's clean-up.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let in_child = || {
                let mut count = 0;
                assert_eq!(transpose(backend, &[1., 2.], 1, 2), Err(RF_ERROR_FORKED));
                assert_eq!(create(RF_DEVICE_HIP, -1), Err(RF_ERROR_FORKED));
                assert!(last_error().contains("GPU runtime"), "{}", last_error());
                // SAFETY: a pointer to this frame; handles released once.
                unsafe {
                    assert_eq!(rf_device_count(RF_DEVICE_HIP, &mut count), RF_ERROR_FORKED);
                    rf_backend_release(backend);
                    let cpu = create(RF_DEVICE_AUTO, -1).unwrap();
                    let mut info = details();
                    assert_eq!(rf_backend_info(cpu, &mut info), RF_OK);
                    assert_eq!(info.kind, RF_DEVICE_CPU);
                    assert_eq!(transpose(cpu, &[1., 2., 3., 4.], 2, 2).unwrap(), [1., 3., 2., 4.]);
                    rf_backend_release(cpu);
                }
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(in_child));
            // SAFETY: ends this process.
            unsafe { libc::_exit(i32::from(outcome.is_err())) };
        }
        let mut status = 0;
        // SAFETY: a child of this process; a pointer to this frame.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child's assertions failed");
        assert_eq!(transpose(backend, &[1., 2.], 1, 2).unwrap(), [1., 2.]);
        // SAFETY: released once.
        unsafe { rf_backend_release(backend) };
    });
}

/// A callback forks: the call that it is in ends in the child too, and touches the GPU no more.
#[test]
fn a_fork_in_a_callback_leaves_the_gpu_to_the_parent() {
    unsafe extern "C-unwind" fn fork_once(
        child: *mut c_void,
        _: rf_token,
        _: *const c_char,
        _: usize,
    ) -> i32 {
        // SAFETY: the test's own number.
        unsafe {
            let child = child.cast::<i32>();
            if *child < 0 {
                *child = libc::fork();
            }
        }
        0
    }
    on_gpu("a_fork_in_a_callback_leaves_the_gpu_to_the_parent", || {
        let backend = create(RF_DEVICE_HIP, -1).unwrap();
        let (mut model, mut ctx, mut sampler) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let mut child = -1;
        // SAFETY: live handles; plain data; pointers to this frame; released once; the child ends without the
        // harness's clean-up.
        unsafe {
            let mut params: rf_model_params = zeroed();
            assert_eq!(rf_model_params_init(&mut params, size_of::<rf_model_params>()), RF_OK);
            params.gpu_layers = RF_GPU_LAYERS_ALL;
            assert_eq!(
                rf_model_load(backend, c"tests/data/tiny/tiny.gguf".as_ptr(), &params, &mut model),
                RF_OK
            );
            let mut params: rf_context_params = zeroed();
            assert_eq!(rf_context_params_init(&mut params, size_of::<rf_context_params>()), RF_OK);
            params.n_ctx = 64;
            assert_eq!(rf_context_create(model, &params, &mut ctx), RF_OK);
            let mut params: rf_sampler_params = zeroed();
            assert_eq!(rf_sampler_params_init(&mut params, size_of::<rf_sampler_params>()), RF_OK);
            assert_eq!(rf_sampler_create(&params, &mut sampler), RF_OK);
            let mut params: rf_generate_params = zeroed();
            assert_eq!(rf_generate_params_init(&mut params, size_of::<rf_generate_params>()), RF_OK);
            (params.max_tokens, params.ignore_eog) = (3, 1);
            let mut result = rf_generation { size: size_of::<rf_generation>(), ..zeroed() };
            let user = (&raw mut child).cast();
            let prompt = [259, 264];
            let status =
                rf_generate(ctx, sampler, prompt.as_ptr(), 2, &params, Some(fork_once), user, &mut result);
            if child == 0 {
                libc::_exit(i32::from(status != RF_ERROR_FORKED));
            }
            assert_eq!((status, result.n_tokens), (RF_OK, 3), "{}", last_error());
            let mut ended = 0;
            assert_eq!(libc::waitpid(child, &mut ended, 0), child);
            assert_eq!(ended, 0, "the child's call came to another status");
            rf_sampler_release(sampler);
            rf_context_release(ctx);
            rf_model_release(model);
            rf_backend_release(backend);
        }
    });
}

#[test]
fn without_a_runtime_a_clear_status_and_the_cpu() {
    let nowhere = [("ROCMFORGE_HIP_LIBRARY", "/nonexistent/libamdhip64.so")];
    in_process("without_a_runtime_a_clear_status_and_the_cpu", &nowhere, || {
        let mut count = 77;
        let mut info = details();
        // SAFETY: pointers to this frame.
        unsafe {
            assert_eq!(rf_device_count(RF_DEVICE_HIP, &mut count), RF_ERROR_NO_RUNTIME);
            assert_eq!(last_error(), "no GPU runtime: /nonexistent/libamdhip64.so: not found");
            assert_eq!(rf_device_info(RF_DEVICE_HIP, 0, &mut info), RF_ERROR_NO_RUNTIME);
        }
        assert_eq!(count, 77);
        assert_eq!(create(RF_DEVICE_HIP, -1), Err(RF_ERROR_NO_RUNTIME));
        let cpu = create(RF_DEVICE_AUTO, -1).unwrap();
        assert_eq!(transpose(cpu, &[1., 2., 3., 4., 5., 6.], 2, 3).unwrap(), [1., 4., 2., 5., 3., 6.]);
        // SAFETY: released once.
        unsafe { rf_backend_release(cpu) };
    });
}

#[test]
fn a_model_goes_on_the_gpu_or_stays_off_it() {
    on_emulator("a_model_goes_on_the_gpu_or_stays_off_it", &[], || {
        let backend = create(RF_DEVICE_AUTO, -1).unwrap();
        let path = c"tests/data/tiny/tiny.gguf";
        for (asked, got) in [(RF_GPU_LAYERS_AUTO, 3), (RF_GPU_LAYERS_ALL, 3), (RF_GPU_LAYERS_NONE, 0), (1, 1)]
        {
            let mut model = ptr::null_mut();
            // SAFETY: a live handle; plain data; pointers to this frame; released once.
            unsafe {
                let mut params: rf_model_params = zeroed();
                assert_eq!(rf_model_params_init(&mut params, size_of::<rf_model_params>()), RF_OK);
                params.gpu_layers = asked;
                let status = rf_model_load(backend, path.as_ptr(), &params, &mut model);
                assert_eq!(status, RF_OK, "{asked}: {}", last_error());
                let mut info: rf_model_details = zeroed();
                info.size = size_of::<rf_model_details>();
                assert_eq!(rf_model_info(model, &mut info), RF_OK);
                assert_eq!((info.n_layer, info.n_gpu_layers), (2, got), "{asked}");
                rf_model_release(model);
            }
        }
        // SAFETY: released once.
        unsafe { rf_backend_release(backend) };
    });
}

#[test]
fn experts_stay_with_the_cpu_as_asked() {
    on_emulator("experts_stay_with_the_cpu_as_asked", &[], || {
        let fixture = Fixture::open("llama-moe");
        let path = std::env::temp_dir().join(format!("rocmforge-experts-{}.gguf", std::process::id()));
        std::fs::write(&path, fixture.bytes(1)).unwrap();
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let backend = create(RF_DEVICE_AUTO, -1).unwrap();
        let all =
            [(RF_CPU_EXPERTS_AUTO, 0), (RF_CPU_EXPERTS_NONE, 0), (1, 1), (RF_CPU_EXPERTS_ALL, 2), (9, 2)];
        for (asked, got) in all {
            let mut model = ptr::null_mut();
            // SAFETY: a live handle; plain data; pointers to this frame; released once.
            unsafe {
                let mut params: rf_model_params = zeroed();
                assert_eq!(rf_model_params_init(&mut params, size_of::<rf_model_params>()), RF_OK);
                params.cpu_experts = asked;
                let status = rf_model_load(backend, name.as_ptr(), &params, &mut model);
                assert_eq!(status, RF_OK, "{asked}: {}", last_error());
                let mut info: rf_model_details = zeroed();
                info.size = size_of::<rf_model_details>();
                assert_eq!(rf_model_info(model, &mut info), RF_OK);
                assert_eq!((info.n_layer, info.n_gpu_layers, info.n_cpu_experts), (2, 3, got), "{asked}");
                rf_model_release(model);
            }
        }
        std::fs::remove_file(&path).unwrap();
        // SAFETY: released once.
        unsafe { rf_backend_release(backend) };
    });
}
