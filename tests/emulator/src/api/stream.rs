//! Streams and events.

use std::ffi::c_uint;

use super::{Handle, current, hip, put};
use crate::code;
use crate::runtime::{Result, Runtime};
use crate::stream::{Event, Stream};

const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;

hip! {
    fn hipStreamCreate(runtime, stream: *mut Handle) {
        // SAFETY: the caller's.
        unsafe { create_stream(runtime, stream, 0) }
    }

    fn hipStreamCreateWithFlags(runtime, stream: *mut Handle, flags: c_uint) {
        // SAFETY: the caller's.
        unsafe { create_stream(runtime, stream, flags) }
    }

    /// Its work is done first.
    fn hipStreamDestroy(runtime, stream: Handle) {
        let device = current(runtime)?;
        let handle = own(runtime, device, stream)?;
        let result = runtime.synchronize(handle);
        runtime.streams.remove(&handle);
        result
    }

    fn hipStreamSynchronize(runtime, stream: Handle) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        runtime.synchronize(stream)
    }

    fn hipStreamQuery(runtime, stream: Handle) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        runtime.query(stream)
    }

    fn hipStreamWaitEvent(runtime, stream: Handle, event: Handle, flags: c_uint) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        runtime.wait_event(stream, event as usize)
    }

    fn hipEventCreate(runtime, event: *mut Handle) {
        // SAFETY: the caller's.
        unsafe { create_event(runtime, event, 0) }
    }

    fn hipEventCreateWithFlags(runtime, event: *mut Handle, flags: c_uint) {
        // SAFETY: the caller's.
        unsafe { create_event(runtime, event, flags) }
    }

    fn hipEventDestroy(runtime, event: Handle) {
        current(runtime)?;
        runtime.events.remove(&(event as usize)).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn hipEventRecord(runtime, event: Handle, stream: Handle) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        runtime.record(event as usize, stream)
    }

    fn hipEventSynchronize(runtime, event: Handle) {
        current(runtime)?;
        runtime.synchronize_event(event as usize).map(drop)
    }

    /// hipErrorNotReady once where there was work to do before it, which is then done.
    fn hipEventQuery(runtime, event: Handle) {
        current(runtime)?;
        let pending = runtime.synchronize_event(event as usize)?;
        if pending { Err(code::NOT_READY) } else { Ok(()) }
    }

    fn hipEventElapsedTime(runtime, milliseconds: *mut f32, start: Handle, end: Handle) {
        current(runtime)?;
        let elapsed = runtime.elapsed(start as usize, end as usize)?;
        // SAFETY: the caller's.
        unsafe { put(milliseconds, elapsed) }
    }
}

/// The handle of a stream that hipStreamCreate made.
fn own(runtime: &Runtime, device: usize, stream: Handle) -> Result<usize> {
    let handle = runtime.stream(device, stream as usize)?;
    if handle == runtime.devices[device].null_stream { Err(code::INVALID_HANDLE) } else { Ok(handle) }
}

/// # Safety
/// `stream` is null or points to writable memory for a handle.
unsafe fn create_stream(runtime: &mut Runtime, stream: *mut Handle, flags: c_uint) -> Result<()> {
    let device = current(runtime)?;
    if stream.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(code::INVALID_VALUE);
    }
    let handle = runtime.handle();
    runtime.streams.insert(handle, Stream::new(device, flags & NON_BLOCKING == 0));
    // SAFETY: the caller's.
    unsafe { put(stream, handle as Handle) }
}

/// # Safety
/// `event` is null or points to writable memory for a handle.
unsafe fn create_event(runtime: &mut Runtime, event: *mut Handle, flags: c_uint) -> Result<()> {
    current(runtime)?;
    /// Blocking wait, no timing, fences of the release.
    const KNOWN: c_uint = 1 | DISABLE_TIMING | 0x2000_0000 | 0x4000_0000 | 0x8000_0000;
    if event.is_null() || flags & !KNOWN != 0 {
        return Err(code::INVALID_VALUE);
    }
    let handle = runtime.handle();
    runtime.events.insert(handle, Event::new(flags & DISABLE_TIMING == 0));
    // SAFETY: the caller's.
    unsafe { put(event, handle as Handle) }
}
