//! The API without kernels: what is answered to right and to wrong calls.

mod common;

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{null, null_mut};

use amdhip64::api::*;
use amdhip64::code;
use common::{Emulator, compile};

const INVALID_VALUE: i32 = code::INVALID_VALUE;

#[test]
fn without_a_card_each_call_says_so() {
    let _emulator = Emulator::new("CARD=none");
    let (mut n, mut address) = (7, 0);
    // SAFETY: writes where it is told.
    unsafe {
        assert_eq!(hipInit(0), 101, "as libamdhip64.so.5 answers");
        assert_eq!(hipGetDeviceCount(&mut n), 100);
        assert_eq!(n, 0);
        assert_eq!(hipSetDevice(0), 100);
        assert_eq!(hipMalloc(&mut address, 4), 100);
        assert_eq!(hipDeviceSynchronize(), 100);
    }
}

#[test]
fn devices_by_number_with_their_limits() {
    let _emulator = Emulator::new("CARD=gfx1100,gfx1103\nMEMORY=64M");
    let (mut n, mut major, mut minor) = (0, 0, 0);
    let mut name = [0x55i8; 16];
    let mut bytes = 0;
    // SAFETY: writes where it is told.
    unsafe {
        assert_eq!(hipInit(0), 0);
        assert_eq!(hipGetDeviceCount(&mut n), 0);
        assert_eq!(n, 2);
        assert_eq!(hipSetDevice(2), code::INVALID_DEVICE);
        assert_eq!(hipSetDevice(-1), code::INVALID_DEVICE);
        assert_eq!(hipDeviceTotalMem(&mut bytes, 1), 0);
        assert_eq!(bytes, 64 << 20);
        assert_eq!(hipDeviceGetName(name.as_mut_ptr(), 11, 0), 0);
        assert_eq!(CStr::from_ptr(name.as_ptr()).to_str(), Ok("AMD Radeon"), "shortened, and ended");
        assert_eq!(name[11], 0x55);
        assert_eq!(hipDeviceComputeCapability(&mut major, &mut minor, 0), 0);
        assert_eq!((major, minor), (11, 0));
    }
    let attribute = |number, device| {
        let mut value = -1;
        // SAFETY: writes an int.
        assert_eq!(unsafe { hipDeviceGetAttribute(&mut value, number, device) }, 0, "{number}");
        value
    };
    // Numbers of hip_runtime_api.h.
    assert_eq!(attribute(56, 0), 1024, "threads of a block");
    assert_eq!([26, 27, 28].map(|n| attribute(n, 0)), [1024; 3]);
    assert_eq!([29, 30, 31].map(|n| attribute(n, 0)), [i32::MAX, 65536, 65536]);
    assert_eq!(attribute(74, 0), 65536, "LDS");
    assert_eq!(attribute(87, 0), 32, "lanes");
    assert_eq!([0, 1].map(|device| attribute(16, device)), [0, 1], "the second one is integrated");
    let mut value = 0;
    // SAFETY: writes an int.
    unsafe {
        assert_eq!(hipDeviceGetAttribute(&mut value, 9998, 0), INVALID_VALUE);
        assert_eq!(hipDeviceGetAttribute(null_mut(), 56, 0), INVALID_VALUE);
    }
}

/// Offsets as the headers of HIP 5.2.3 and 7.1 compile.
#[test]
fn properties_in_both_layouts() {
    let _emulator = Emulator::card("gfx90a");
    type Get = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
    // SAFETY: a struct is plain memory to its caller.
    let (old, new): (Get, Get) = unsafe {
        (
            std::mem::transmute::<*const (), Get>(hipGetDeviceProperties as *const ()),
            std::mem::transmute::<*const (), Get>(hipGetDevicePropertiesR0600 as *const ()),
        )
    };
    for (get, size, memory, warp, units, arch) in
        [(old, 792, 256, 276, 336, 396), (new, 1472, 288, 308, 388, 1160)]
    {
        let mut bytes = vec![0xa5u8; 2048];
        // SAFETY: the buffer is larger than either layout.
        assert_eq!(unsafe { get(bytes.as_mut_ptr().cast(), 0) }, 0);
        let int = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from_le_bytes(bytes[memory..memory + 8].try_into().unwrap()), 64 << 30);
        assert_eq!((int(warp), int(units)), (64, 110));
        assert!(bytes[arch..].starts_with(b"gfx90a:sramecc+:xnack-\0"));
        assert!(bytes[size..].iter().all(|&b| b == 0xa5), "written past its {size} bytes");
        // SAFETY: as above.
        unsafe {
            assert_eq!(get(bytes.as_mut_ptr().cast(), 1), code::INVALID_DEVICE);
            assert_eq!(get(null_mut(), 0), INVALID_VALUE);
        }
    }
}

#[test]
fn an_old_runtime_lacks_the_new_symbol() {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = folder.join("libamdhip64.so");
    let copy = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libamdhip64-old.so");
    amdhip64::old::write_old_runtime(&library, &copy).unwrap();
    // SAFETY: the emulator does nothing when it is loaded.
    let (new, old) =
        unsafe { (libloading::Library::new(&library).unwrap(), libloading::Library::new(&copy).unwrap()) };
    let has = |library: &libloading::Library, symbol: &str| {
        // SAFETY: only looked up.
        unsafe { library.get::<*const c_void>(symbol) }.is_ok()
    };
    assert!(has(&new, "hipGetDevicePropertiesR0600") && has(&new, "hipGetDeviceProperties"));
    assert!(!has(&old, "hipGetDevicePropertiesR0600") && has(&old, "hipGetDeviceProperties"));
}

#[test]
fn exhausted_memory_stays_usable() {
    let emulator = Emulator::new("MEMORY=1M");
    let info = || {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        assert_eq!(unsafe { hipMemGetInfo(&mut free, &mut total) }, 0);
        (free, total)
    };
    assert_eq!(info(), (1 << 20, 1 << 20));
    let most = emulator.malloc((1 << 20) - 4096);
    assert_eq!(info(), (4096, 1 << 20));
    let mut address = 1;
    // SAFETY: writes an address; frees what was allocated.
    unsafe {
        assert_eq!(hipMalloc(&mut address, 4097), code::OUT_OF_MEMORY);
        assert_eq!(hipMalloc(&mut address, usize::MAX), code::OUT_OF_MEMORY);
        let last = emulator.malloc(1);
        assert_eq!(info().0, 0, "a byte takes a page");
        assert_eq!(hipMalloc(&mut address, 1), code::OUT_OF_MEMORY);
        assert_eq!(hipFree(most), 0);
        assert_eq!(info().0, (1 << 20) - 4096);
        assert_eq!(hipFree(last), 0);
        assert_eq!(hipMalloc(&mut address, 0), 0);
        assert_eq!(address, 0);
        assert_eq!(hipFree(0), 0);
    }
}

#[test]
fn frees_and_copies_are_checked() {
    let emulator = Emulator::new("");
    let a = emulator.upload(&[1u8, 2, 3, 4, 5, 6, 7, 8]);
    let mut host = [0u8; 16];
    // SAFETY: host memory as large as stated.
    unsafe {
        assert_eq!(hipMemcpyDtoH(host.as_mut_ptr().cast(), a + 2, 3), 0);
        assert_eq!(host[..4], [3, 4, 5, 0], "any sub-range");
        assert_eq!(hipMemcpyDtoH(host.as_mut_ptr().cast(), a + 2, 7), INVALID_VALUE, "past the end");
        assert_eq!(hipMemcpyHtoD(a, host.as_ptr().cast(), 9), INVALID_VALUE);
        assert_eq!(hipMemcpyHtoD(a, null(), 8), INVALID_VALUE);
        assert_eq!(hipMemcpyHtoD(0x1000, host.as_ptr().cast(), 8), INVALID_VALUE);
        assert_eq!(hipMemcpyHtoD(a, a as *const c_void, 8), INVALID_VALUE, "a device address as the host's");
        assert_eq!(hipMemcpy(host.as_mut_ptr().cast(), a as *const c_void, 8, 9), code::INVALID_DIRECTION);
        assert_eq!(hipMemcpy(host.as_mut_ptr().cast(), a as *const c_void, 8, 4), 0, "by the addresses");
        assert_eq!(host[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(hipMemcpyDtoD(a + 1, a, 7), 0);
        assert_eq!(emulator.download::<u8>(a, 8), [1, 1, 2, 3, 4, 5, 6, 7], "overlapping");
        assert_eq!(hipMemsetD8(a + 1, 9, 2), 0);
        assert_eq!(hipMemsetD32(a + 4, 0x0102_0304, 1), 0);
        assert_eq!(emulator.download::<u8>(a, 8), [1, 9, 9, 3, 4, 3, 2, 1]);
        assert_eq!(hipMemsetD32(a + 4, 0, 2), INVALID_VALUE);
        assert_eq!(hipFree(a + 1), INVALID_VALUE);
        assert_eq!(hipFree(a), 0);
        assert_eq!(hipFree(a), INVALID_VALUE, "twice");
        assert_eq!(hipMemcpyDtoH(host.as_mut_ptr().cast(), a, 1), INVALID_VALUE, "after it was freed");
        assert_eq!(hipHostFree(host.as_mut_ptr().cast()), INVALID_VALUE);
    }
}

fn pinned(bytes: usize) -> *mut u8 {
    let mut pointer = null_mut();
    // SAFETY: writes a pointer.
    assert_eq!(unsafe { hipHostMalloc(&mut pointer, bytes, 0) }, 0);
    pointer.cast()
}

fn stream() -> *mut c_void {
    let mut stream = null_mut();
    // SAFETY: writes a handle.
    assert_eq!(unsafe { hipStreamCreateWithFlags(&mut stream, 1) }, 0);
    stream
}

fn event() -> *mut c_void {
    let mut event = null_mut();
    // SAFETY: writes a handle.
    assert_eq!(unsafe { hipEventCreate(&mut event) }, 0);
    event
}

#[test]
fn asynchronous_work_waits_for_someone_who_waits() {
    for (schedule, at_once) in [("lazy", false), ("eager", true)] {
        let emulator = Emulator::new(&format!("SCHEDULE={schedule}"));
        let (device, host, s) = (emulator.upload(&[1u8, 2, 3, 4]), pinned(4), stream());
        // SAFETY: pinned memory of 4 bytes.
        unsafe {
            host.copy_from_nonoverlapping([9u8; 4].as_ptr(), 4);
            assert_eq!(hipMemcpyDtoHAsync(host.cast(), device, 4, s), 0);
            assert_eq!(host.read() == 1, at_once, "{schedule}");
            assert_eq!(hipStreamQuery(s), if at_once { 0 } else { code::NOT_READY });
            assert_eq!(hipPeekAtLastError(), 0, "not ready is no error");
            assert_eq!(hipStreamQuery(s), 0);
            assert_eq!(host.read(), 1);
        }
    }
}

#[test]
fn a_pinned_buffer_used_again_too_early_shows() {
    let emulator = Emulator::new("");
    let (device, host, s) = (emulator.malloc(4), pinned(4), stream());
    // SAFETY: memory of 4 bytes each.
    unsafe {
        host.write_bytes(1, 4);
        assert_eq!(hipMemcpyHtoDAsync(device, host.cast(), 4, s), 0);
        host.write_bytes(2, 4);
        assert_eq!(hipStreamSynchronize(s), 0);
        assert_eq!(emulator.download::<u8>(device, 4), [2; 4], "the copy had not been made");
        let mut pageable = [3u8; 4];
        assert_eq!(hipMemcpyHtoDAsync(device, pageable.as_ptr().cast(), 4, s), 0);
        pageable.fill(4);
        assert_eq!(hipStreamSynchronize(s), 0);
        assert_eq!(emulator.download::<u8>(device, 4), [3; 4], "pageable memory is read by the call");
        let end = host.add(3).cast();
        assert_eq!(hipMemcpyHtoDAsync(device, end, 2, s), INVALID_VALUE, "past the pinned buffer");
    }
}

#[test]
fn streams_meet_at_events_only() {
    let emulator = Emulator::new("");
    let (x, y, a, b) = (emulator.upload(&[1u8]), emulator.upload(&[2u8]), stream(), stream());
    let done = event();
    // SAFETY: memory of a byte each, living handles.
    unsafe {
        assert_eq!(hipMemsetD8Async(x, 7, 1, a), 0);
        assert_eq!(hipEventRecord(done, a), 0);
        assert_eq!(hipMemsetD8Async(x, 8, 1, a), 0);
        assert_eq!(hipStreamWaitEvent(b, done, 0), 0);
        assert_eq!(hipMemcpyDtoDAsync(y, x, 1, b), 0);
        assert_eq!(hipStreamSynchronize(b), 0);
        assert_eq!(emulator.download::<u8>(y, 1), [7], "what was before the event, not what came after it");
        assert_eq!(hipEventQuery(done), 0);
        assert_eq!(hipStreamSynchronize(a), 0);
        assert_eq!(emulator.download::<u8>(x, 1), [8]);
    }
}

#[test]
fn the_null_stream_waits_for_blocking_streams() {
    let emulator = Emulator::new("");
    let (x, y) = (emulator.upload(&[1u8]), emulator.upload(&[1u8]));
    let mut blocking = null_mut();
    let free = stream();
    // SAFETY: memory of a byte, living handles.
    unsafe {
        assert_eq!(hipStreamCreate(&mut blocking), 0);
        assert_eq!(hipMemsetD8Async(x, 5, 1, blocking), 0);
        assert_eq!(hipMemsetD8Async(y, 5, 1, free), 0);
        assert_eq!(emulator.download::<u8>(x, 1), [5]);
        assert_eq!(emulator.download::<u8>(y, 1), [1], "a non-blocking stream has its own time");
        assert_eq!(hipMemsetD8Async(x, 6, 1, null_mut()), 0);
        assert_eq!(hipMemcpyDtoDAsync(y, x, 1, blocking), 0);
        assert_eq!(hipStreamSynchronize(blocking), 0);
        assert_eq!(hipStreamSynchronize(free), 0);
        assert_eq!(emulator.download::<u8>(x, 1), [6]);
    }
}

#[test]
fn events_measure_and_handles_are_checked() {
    let emulator = Emulator::new("");
    let (x, s, start, end) = (emulator.malloc(1 << 20), stream(), event(), event());
    let mut ms = -1.0;
    let nothing = 0x10 as *mut c_void;
    // SAFETY: memory of 1 MiB; wrong handles are numbers to the emulator.
    unsafe {
        assert_eq!(hipEventElapsedTime(&mut ms, start, end), code::INVALID_HANDLE, "never recorded");
        assert_eq!(hipEventRecord(start, s), 0);
        assert_eq!(hipMemsetD8Async(x, 1, 1 << 20, s), 0);
        assert_eq!(hipEventRecord(end, s), 0);
        assert_eq!(hipEventElapsedTime(&mut ms, start, end), code::NOT_READY);
        assert_eq!(hipEventQuery(end), code::NOT_READY);
        assert_eq!(hipEventSynchronize(end), 0);
        assert_eq!(hipEventElapsedTime(&mut ms, start, end), 0);
        assert!(ms > 0.0 && ms < 10_000.0, "{ms}");
        assert_eq!(hipEventDestroy(end), 0);
        assert_eq!(hipEventDestroy(end), code::INVALID_HANDLE);
        assert_eq!(hipEventRecord(nothing, s), code::INVALID_HANDLE);
        assert_eq!(hipStreamDestroy(s), 0);
        assert_eq!(hipStreamSynchronize(s), code::CONTEXT_DESTROYED);
        assert_eq!(hipMemsetD8Async(x, 1, 1, nothing), code::CONTEXT_DESTROYED);
        assert_eq!(hipModuleUnload(nothing), code::INVALID_HANDLE);
        assert_eq!(hipGraphLaunch(nothing, null_mut()), code::INVALID_HANDLE);
        assert_eq!(hipStreamCreateWithFlags(null_mut(), 0), INVALID_VALUE);
        assert_eq!(hipMalloc(null_mut(), 4), INVALID_VALUE);
        assert_eq!(hipGetDeviceCount(null_mut()), INVALID_VALUE);
    }
}

#[test]
fn orders_to_fail_and_the_last_error() {
    let emulator = Emulator::new("");
    let order = |text: &str| {
        let text = CString::new(text).unwrap();
        // SAFETY: a C string.
        unsafe { rocmforge_emulator_fail(text.as_ptr()) }
    };
    let mut address = 0;
    // SAFETY: writes an address.
    unsafe {
        assert_eq!(order("hipMalloc:2:2"), 0);
        assert_eq!([0; 3].map(|_| hipMalloc(&mut address, 4)), [0, 2, 0]);
        assert_eq!(hipPeekAtLastError(), 2);
        assert_eq!(hipGetLastError(), 2);
        assert_eq!(hipGetLastError(), 0);
        assert_eq!(order("3+:100"), 0);
        assert_eq!([0; 4].map(|_| hipMalloc(&mut address, 4)), [0, 0, 100, 100], "the card vanished");
        assert_eq!(rocmforge_emulator_calls(c"hipMalloc".as_ptr()), 4);
        assert_eq!(
            std::thread::spawn(|| hipPeekAtLastError()).join().unwrap(),
            0,
            "errors are a thread's own"
        );
        assert_eq!(order("nonsense"), INVALID_VALUE);
        assert_eq!(order("hipGetLastError:1:719"), 0);
        assert_eq!(hipGetLastError(), 719);
        assert_eq!(order(""), 0);
        let name = CStr::from_ptr(hipGetErrorName(209));
        assert_eq!(name.to_str(), Ok("hipErrorNoBinaryForGpu"));
        assert_eq!(CStr::from_ptr(hipGetErrorName(12345)).to_str(), Ok("hipErrorUnknown"));
        assert!(!CStr::from_ptr(hipGetErrorString(1)).to_bytes().is_empty());
    }
    drop(emulator);
}

#[test]
fn graphs_replay_what_was_captured() {
    let emulator = Emulator::new("");
    let (device, host, s) = (emulator.upload(&[0u8; 4]), pinned(4), stream());
    let (mut graph, mut executable, mut capturing) = (null_mut(), null_mut(), -1);
    // SAFETY: memory of 4 bytes each, living handles.
    unsafe {
        host.write_bytes(1, 4);
        assert_eq!(hipStreamBeginCapture(s, 1), 0);
        assert_eq!(hipStreamBeginCapture(s, 1), code::ILLEGAL_STATE);
        assert_eq!(hipMemcpyHtoDAsync(device, host.cast(), 4, s), 0);
        assert_eq!(hipMemsetD8Async(device + 3, 9, 1, s), 0);
        assert_eq!(hipStreamIsCapturing(s, &mut capturing), 0);
        assert_eq!(capturing, 1);
        assert_eq!(hipStreamEndCapture(s, &mut graph), 0);
        assert_eq!(emulator.download::<u8>(device, 4), [0; 4], "captured, not done");
        assert_eq!(hipGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
        assert_eq!(hipGraphDestroy(graph), 0, "the executable lives on");
        for value in [5, 6] {
            host.write_bytes(value, 4);
            assert_eq!(hipGraphLaunch(executable, s), 0);
            assert_eq!(hipStreamSynchronize(s), 0);
            assert_eq!(emulator.download::<u8>(device, 4), [value, value, value, 9]);
        }
        assert_eq!(hipGraphExecDestroy(executable), 0);
        assert_eq!(hipGraphLaunch(executable, s), code::INVALID_HANDLE);
    }
}

#[test]
fn what_must_not_be_called_spoils_a_capture() {
    let emulator = Emulator::new("");
    let (device, s) = (emulator.malloc(4), stream());
    let mut address = 0;
    let capture = |mode, spoil: &mut dyn FnMut() -> i32, want: i32, end: i32| {
        let mut graph = std::ptr::dangling_mut::<c_void>();
        // SAFETY: living handles.
        unsafe {
            assert_eq!(hipStreamBeginCapture(s, mode), 0);
            assert_eq!(spoil(), want);
            assert_eq!(hipStreamEndCapture(s, &mut graph), end);
            assert_eq!(graph.is_null(), end != 0);
            assert_eq!(hipStreamEndCapture(s, &mut graph), code::ILLEGAL_STATE, "it has ended");
        }
    };
    // SAFETY: as above.
    unsafe {
        capture(2, &mut || hipStreamSynchronize(s), code::CAPTURE_UNSUPPORTED, code::CAPTURE_INVALIDATED);
        capture(1, &mut || hipMalloc(&mut address, 4), code::CAPTURE_UNSUPPORTED, code::CAPTURE_INVALIDATED);
        capture(2, &mut || hipMalloc(&mut address, 4), 0, 0);
        let mut other = || std::thread::spawn(move || hipFree(0)).join().unwrap();
        capture(1, &mut other, 0, 0);
        capture(0, &mut other, code::CAPTURE_UNSUPPORTED, code::CAPTURE_INVALIDATED);
        let pageable = [0u8; 4];
        let mut copy = || hipMemcpyHtoDAsync(device, pageable.as_ptr().cast(), 4, s);
        capture(2, &mut copy, code::CAPTURE_UNSUPPORTED, code::CAPTURE_INVALIDATED);
        assert_eq!(hipStreamBeginCapture(null_mut(), 0), code::CAPTURE_UNSUPPORTED);
    }
}

#[test]
fn code_objects_of_other_targets_and_no_code_objects() {
    let emulator = Emulator::card("gfx1100");
    const EMPTY: &str = "KERNEL void empty() {}";
    let mut garbage = vec![0u8; 4096];
    assert_eq!(emulator.load(&garbage), Err(code::INVALID_IMAGE));
    garbage[..4].copy_from_slice(b"\x7fELF");
    assert_eq!(emulator.load(&garbage), Err(code::INVALID_IMAGE));
    assert_eq!(emulator.load(&compile("gfx1101", EMPTY)), Err(code::NO_BINARY));
    assert_eq!(emulator.load(&compile("gfx12-generic", EMPTY)), Err(code::NO_BINARY));
    emulator.load(&compile("gfx11-generic", EMPTY)).expect("a generic target's");
    let module = emulator.load(&compile("gfx1100", EMPTY)).expect("the card's own");
    let mut function = null_mut();
    // SAFETY: living handles, C strings.
    unsafe {
        assert_eq!(hipModuleGetFunction(&mut function, module, c"absent".as_ptr()), code::NOT_FOUND);
        assert_eq!(hipModuleGetFunction(&mut function, module, null()), INVALID_VALUE);
        assert_eq!(hipModuleGetFunction(&mut function, module, c"empty".as_ptr()), 0);
        assert_eq!(hipModuleUnload(module), 0);
        let none = null_mut();
        let launch = hipModuleLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, none, none.cast(), none.cast());
        assert_eq!(launch, code::INVALID_HANDLE, "it was unloaded");
    }
    drop(emulator);
    let emulator = Emulator::card("gfx803");
    assert_eq!(emulator.load(&compile("gfx900", EMPTY)), Err(code::NO_BINARY));
}

#[test]
fn launches_beyond_the_cards_limits_are_refused() {
    let emulator = Emulator::card("gfx1100");
    const SOURCE: &str = r#"
        KERNEL void any(int *p) {}
        extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(64, 64))) void bound() {}
        KERNEL void lds(int *p) { __shared__ int t[15000]; t[tid] = 1; barrier(); p[tid] = t[tid ^ 1]; }"#;
    let code = compile("gfx1100", SOURCE);
    let (any, bound, lds) =
        (emulator.function(&code, "any"), emulator.function(&code, "bound"), emulator.function(&code, "lds"));
    let p = emulator.malloc(4);
    let mut arg = std::ptr::from_ref(&p).cast_mut().cast::<c_void>();
    let mut launch = |f, g: [u32; 3], b: [u32; 3], shared| {
        // SAFETY: one argument's address.
        unsafe {
            hipModuleLaunchKernel(
                f,
                g[0],
                g[1],
                g[2],
                b[0],
                b[1],
                b[2],
                shared,
                null_mut(),
                &mut arg,
                null_mut(),
            )
        }
    };
    assert_eq!(launch(any, [1, 1, 1], [32, 32, 1], 0), 0);
    assert_eq!(launch(any, [1, 1, 1], [64, 64, 1], 0), INVALID_VALUE);
    assert_eq!(launch(any, [1, 1, 1], [1025, 1, 1], 0), INVALID_VALUE);
    assert_eq!(launch(any, [1, 65537, 1], [1, 1, 1], 0), INVALID_VALUE);
    assert_eq!(launch(any, [1 << 31, 1, 1], [1, 1, 1], 0), INVALID_VALUE);
    assert_eq!(launch(any, [1 << 23, 1, 1], [1024, 1, 1], 0), INVALID_VALUE, "2^33 work-items");
    for axis in 0..3 {
        let mut zero = [1; 3];
        zero[axis] = 0;
        assert_eq!(launch(any, zero, [1, 1, 1], 0), INVALID_VALUE);
        assert_eq!(launch(any, [1, 1, 1], zero, 0), INVALID_VALUE);
    }
    assert_eq!(launch(any, [1, 1, 1], [1, 1, 1], 65537), INVALID_VALUE);
    assert_eq!(launch(lds, [1, 1, 1], [32, 1, 1], 8192), INVALID_VALUE, "with the kernel's own 60,000 bytes");
    assert_eq!(launch(bound, [1, 1, 1], [65, 1, 1], 0), code::LAUNCH_FAILURE, "compiled for 64");
    assert_eq!(launch(null_mut(), [1, 1, 1], [1, 1, 1], 0), code::INVALID_HANDLE);
    // SAFETY: refused before an argument is read.
    let without =
        unsafe { hipModuleLaunchKernel(any, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut()) };
    assert_eq!(without, INVALID_VALUE, "no arguments");
}
