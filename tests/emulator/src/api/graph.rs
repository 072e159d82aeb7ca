//! Capture of a stream's work into a graph, and its replay.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};

use super::{Handle, current, hip, put};
use crate::code;
use crate::runtime::{Result, Runtime};
use crate::stream::{Capture, Graph, Mode};

/// hipStreamIsCapturing's answers.
const CAPTURE_NONE: c_int = 0;
const CAPTURE_ACTIVE: c_int = 1;
const CAPTURE_INVALID: c_int = 2;

hip! {
    fn hipStreamBeginCapture(runtime, stream: Handle, mode: c_int) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(code::INVALID_VALUE),
        };
        if stream == runtime.devices[device].null_stream {
            return Err(code::CAPTURE_UNSUPPORTED);
        }
        let stream = runtime.stream_mut(stream);
        if stream.capture.is_some() {
            return Err(code::ILLEGAL_STATE);
        }
        let thread = std::thread::current().id();
        stream.capture = Some(Capture { mode, thread, ops: Vec::new(), invalid: false });
        Ok(())
    }

    /// Ends it also where it fails; `graph` is then null.
    fn hipStreamEndCapture(runtime, stream: Handle, graph: *mut Handle) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        if graph.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let of_another = |capture: &Capture| {
            capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id()
        };
        let slot = &mut runtime.stream_mut(stream).capture;
        if slot.as_ref().is_some_and(of_another) {
            return Err(code::WRONG_THREAD);
        }
        let capture = slot.take().ok_or(code::ILLEGAL_STATE)?;
        if capture.invalid {
            // SAFETY: the caller's.
            unsafe { put(graph, std::ptr::null_mut()) }?;
            return Err(code::CAPTURE_INVALIDATED);
        }
        let handle = runtime.handle();
        runtime.graphs.insert(handle, Graph { device, ops: capture.ops.into() });
        // SAFETY: the caller's.
        unsafe { put(graph, handle as Handle) }
    }

    fn hipStreamIsCapturing(runtime, stream: Handle, status: *mut c_int) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        let answer = match &runtime.stream_mut(stream).capture {
            None => CAPTURE_NONE,
            Some(capture) if capture.invalid => CAPTURE_INVALID,
            Some(_) => CAPTURE_ACTIVE,
        };
        // SAFETY: the caller's.
        unsafe { put(status, answer) }
    }

    fn hipGraphInstantiateWithFlags(runtime, executable: *mut Handle, graph: Handle, flags: c_ulonglong) {
        /// Free on launch, upload, device launch, node priority.
        const KNOWN: c_ulonglong = 1 | 2 | 4 | 8;
        if flags & !KNOWN != 0 {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller's.
        unsafe { instantiate(runtime, executable, graph) }
    }

    fn hipGraphInstantiate(
        runtime,
        executable: *mut Handle,
        graph: Handle,
        _node: *mut *mut c_void,
        _log: *mut c_char,
        _log_bytes: usize,
    ) {
        // SAFETY: the caller's.
        unsafe { instantiate(runtime, executable, graph) }
    }

    fn hipGraphLaunch(runtime, executable: Handle, stream: Handle) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        let graph = runtime.executables.get(&(executable as usize)).ok_or(code::INVALID_HANDLE)?.clone();
        if graph.device != device {
            return Err(code::INVALID_HANDLE);
        }
        graph.ops.iter().try_for_each(|op| runtime.enqueue(stream, op.clone()))
    }

    fn hipGraphExecDestroy(runtime, executable: Handle) {
        current(runtime)?;
        runtime.executables.remove(&(executable as usize)).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn hipGraphDestroy(runtime, graph: Handle) {
        current(runtime)?;
        runtime.graphs.remove(&(graph as usize)).map(drop).ok_or(code::INVALID_HANDLE)
    }

    /// The number of nodes; nodes themselves have no handles here.
    fn hipGraphGetNodes(runtime, graph: Handle, nodes: *mut Handle, n: *mut usize) {
        current(runtime)?;
        let graph = runtime.graphs.get(&(graph as usize)).ok_or(code::INVALID_HANDLE)?;
        if !nodes.is_null() {
            return Err(code::NOT_SUPPORTED);
        }
        // SAFETY: the caller's.
        unsafe { put(n, graph.ops.len()) }
    }

    fn hipGraphUpload(runtime, executable: Handle, stream: Handle) {
        let device = current(runtime)?;
        runtime.stream(device, stream as usize)?;
        runtime.executables.get(&(executable as usize)).map(drop).ok_or(code::INVALID_HANDLE)
    }
}

/// # Safety
/// `executable` is null or points to writable memory for a handle.
unsafe fn instantiate(runtime: &mut Runtime, executable: *mut Handle, graph: Handle) -> Result<()> {
    current(runtime)?;
    let graph = runtime.graphs.get(&(graph as usize)).ok_or(code::INVALID_HANDLE)?.clone();
    if executable.is_null() {
        return Err(code::INVALID_VALUE);
    }
    let handle = runtime.handle();
    runtime.executables.insert(handle, graph);
    // SAFETY: the caller's.
    unsafe { put(executable, handle as Handle) }
}
