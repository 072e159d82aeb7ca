//! Allocations, copies, fills.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::{Handle, current, hip, put};
use crate::code;
use crate::memory::{Kind, PAGE};
use crate::runtime::{Result, Runtime};
use crate::stream::Op;

hip! {
    fn hipMalloc(runtime, address: *mut u64, bytes: usize) {
        let device = current(runtime)?;
        runtime.not_while_capturing()?;
        if bytes == 0 {
            // SAFETY: the caller's.
            return unsafe { put(address, 0) };
        }
        let room = runtime.devices[device].card.memory - used(runtime, device);
        let taken = (bytes as u64).checked_next_multiple_of(PAGE).filter(|&taken| taken <= room);
        taken.ok_or(code::OUT_OF_MEMORY)?;
        let memory = &mut runtime.devices[device].memory;
        let base = memory.allocate(bytes as u64, Kind::Device).ok_or(code::OUT_OF_MEMORY)?;
        // SAFETY: the caller's.
        unsafe { put(address, base) }
    }

    /// Waits for all work first.
    fn hipFree(runtime, address: u64) {
        let device = current(runtime)?;
        runtime.not_while_capturing()?;
        if address == 0 {
            return Ok(());
        }
        runtime.synchronize_device(device)?;
        let freed = runtime.devices[device].memory.free(address, Kind::Device);
        if freed { Ok(()) } else { Err(code::INVALID_VALUE) }
    }

    fn hipMemGetInfo(runtime, free: *mut usize, total: *mut usize) {
        let device = current(runtime)?;
        let all = runtime.devices[device].card.memory;
        let rest = all - used(runtime, device);
        // SAFETY: the caller's.
        unsafe { put(free, rest as usize).and(put(total, all as usize)) }
    }

    fn hipHostMalloc(runtime, pointer: *mut *mut c_void, bytes: usize, flags: c_uint) {
        let device = current(runtime)?;
        runtime.not_while_capturing()?;
        /// Portable, mapped, write-combined, NUMA-user, coherent, non-coherent.
        const KNOWN: c_uint = 0x1 | 0x2 | 0x4 | 0x2000_0000 | 0x4000_0000 | 0x8000_0000;
        if flags & !KNOWN != 0 {
            return Err(code::INVALID_VALUE);
        }
        let base = match bytes {
            0 => 0,
            _ => runtime.devices[device].memory.allocate(bytes as u64, Kind::Host).ok_or(code::OUT_OF_MEMORY)?,
        };
        // SAFETY: the caller's.
        unsafe { put(pointer, base as usize as *mut c_void) }
    }

    /// Waits for all work first.
    fn hipHostFree(runtime, pointer: *mut c_void) {
        let device = current(runtime)?;
        runtime.not_while_capturing()?;
        if pointer.is_null() {
            return Ok(());
        }
        runtime.synchronize_device(device)?;
        let freed = runtime.devices[device].memory.free(pointer as u64, Kind::Host);
        if freed { Ok(()) } else { Err(code::INVALID_VALUE) }
    }

    fn hipMemcpyHtoD(runtime, dst: u64, src: *const c_void, bytes: usize) {
        // SAFETY: the caller's.
        unsafe { copy_and_wait(runtime, Ends::ToDevice(dst, src), bytes) }
    }

    fn hipMemcpyDtoH(runtime, dst: *mut c_void, src: u64, bytes: usize) {
        // SAFETY: the caller's.
        unsafe { copy_and_wait(runtime, Ends::ToHost(dst, src), bytes) }
    }

    fn hipMemcpyDtoD(runtime, dst: u64, src: u64, bytes: usize) {
        // SAFETY: the caller's.
        unsafe { copy_and_wait(runtime, Ends::OnDevice(dst, src), bytes) }
    }

    fn hipMemcpyHtoDAsync(runtime, dst: u64, src: *const c_void, bytes: usize, stream: Handle) {
        // SAFETY: the caller's.
        unsafe { copy(runtime, Ends::ToDevice(dst, src), bytes, stream) }
    }

    fn hipMemcpyDtoHAsync(runtime, dst: *mut c_void, src: u64, bytes: usize, stream: Handle) {
        // SAFETY: the caller's.
        unsafe { copy(runtime, Ends::ToHost(dst, src), bytes, stream) }
    }

    fn hipMemcpyDtoDAsync(runtime, dst: u64, src: u64, bytes: usize, stream: Handle) {
        // SAFETY: the caller's.
        unsafe { copy(runtime, Ends::OnDevice(dst, src), bytes, stream) }
    }

    fn hipMemcpy(runtime, dst: *mut c_void, src: *const c_void, bytes: usize, kind: c_int) {
        let ends = Ends::of(runtime, dst, src, kind)?;
        // SAFETY: the caller's.
        unsafe { copy_and_wait(runtime, ends, bytes) }
    }

    fn hipMemcpyAsync(runtime, dst: *mut c_void, src: *const c_void, bytes: usize, kind: c_int, stream: Handle) {
        let ends = Ends::of(runtime, dst, src, kind)?;
        // SAFETY: the caller's.
        unsafe { copy(runtime, ends, bytes, stream) }
    }

    fn hipMemset(runtime, dst: u64, value: c_int, bytes: usize) {
        fill(runtime, dst, &[value as u8], bytes, std::ptr::null_mut())
    }

    fn hipMemsetAsync(runtime, dst: u64, value: c_int, bytes: usize, stream: Handle) {
        fill(runtime, dst, &[value as u8], bytes, stream)
    }

    fn hipMemsetD8(runtime, dst: u64, value: u8, n: usize) {
        fill(runtime, dst, &[value], n, std::ptr::null_mut())
    }

    fn hipMemsetD8Async(runtime, dst: u64, value: u8, n: usize, stream: Handle) {
        fill(runtime, dst, &[value], n, stream)
    }

    fn hipMemsetD32(runtime, dst: u64, value: c_int, n: usize) {
        fill(runtime, dst, &value.to_le_bytes(), n, std::ptr::null_mut())
    }

    fn hipMemsetD32Async(runtime, dst: u64, value: c_int, n: usize, stream: Handle) {
        fill(runtime, dst, &value.to_le_bytes(), n, stream)
    }
}

/// Bytes of the device's memory that are taken.
fn used(runtime: &Runtime, device: usize) -> u64 {
    runtime.devices[device].memory.used()
}

#[derive(Clone, Copy)]
enum Ends {
    ToDevice(u64, *const c_void),
    ToHost(*mut c_void, u64),
    OnDevice(u64, u64),
    OnHost(*mut c_void, *const c_void),
}

impl Ends {
    /// By hipMemcpyKind; 4 leaves it to the addresses.
    fn of(runtime: &Runtime, dst: *mut c_void, src: *const c_void, kind: c_int) -> Result<Ends> {
        let memory = &runtime.devices[current(runtime)?].memory;
        let on_device = |addr: u64| memory.find(addr).is_some_and(|found| found.kind == Kind::Device);
        let kind = match kind {
            4 => match (on_device(dst as u64), on_device(src as u64)) {
                (false, false) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (true, true) => 3,
            },
            kind => kind,
        };
        match kind {
            0 => Ok(Ends::OnHost(dst, src)),
            1 => Ok(Ends::ToDevice(dst as u64, src)),
            2 => Ok(Ends::ToHost(dst, src as u64)),
            3 => Ok(Ends::OnDevice(dst as u64, src as u64)),
            _ => Err(code::INVALID_DIRECTION),
        }
    }
}

/// What a host address is to the card.
enum Place {
    Pinned,
    Pageable,
}

/// Err: it is a device address, or runs past the end of pinned memory.
fn place(runtime: &Runtime, device: usize, pointer: *const c_void, bytes: usize) -> Result<Place> {
    let addr = pointer as u64;
    match runtime.devices[device].memory.find(addr) {
        None if pointer.is_null() => Err(code::INVALID_VALUE),
        None => Ok(Place::Pageable),
        Some(found) if found.kind == Kind::Host && bytes as u64 <= found.base + found.bytes - addr => {
            Ok(Place::Pinned)
        }
        Some(_) => Err(code::INVALID_VALUE),
    }
}

/// Err unless device memory (or pinned memory, which the card reaches too) holds all of it.
fn reachable(runtime: &Runtime, device: usize, addr: u64, bytes: usize) -> Result<()> {
    match runtime.devices[device].memory.find(addr) {
        Some(found) if found.kind != Kind::Constant && bytes as u64 <= found.base + found.bytes - addr => {
            Ok(())
        }
        _ => Err(code::INVALID_VALUE),
    }
}

/// Pinned memory is copied when the stream gets there; pageable memory before the call returns.
///
/// # Safety
/// Pageable memory at either end is valid for `bytes` bytes.
unsafe fn copy(runtime: &mut Runtime, ends: Ends, bytes: usize, stream: Handle) -> Result<()> {
    let device = current(runtime)?;
    let stream = runtime.stream(device, stream as usize)?;
    if bytes == 0 {
        return Ok(());
    }
    let size = bytes as u64;
    let pageable_in_graph = |runtime: &mut Runtime| match &mut runtime.stream_mut(stream).capture {
        // A graph would have to read it at each replay; the engine's rule is that it reads pinned memory.
        Some(capture) => {
            capture.invalid = true;
            Err(code::CAPTURE_UNSUPPORTED)
        }
        None => Ok(()),
    };
    match ends {
        Ends::ToDevice(dst, src) => {
            reachable(runtime, device, dst, bytes)?;
            if let Place::Pinned = place(runtime, device, src, bytes)? {
                return runtime.enqueue(stream, Op::Copy { dst, src: src as u64, bytes: size });
            }
            pageable_in_graph(runtime)?;
            // SAFETY: the caller's.
            let data: Arc<[u8]> = unsafe { std::slice::from_raw_parts(src.cast(), bytes) }.into();
            runtime.enqueue(stream, Op::Upload { dst, data })
        }
        Ends::ToHost(dst, src) => {
            reachable(runtime, device, src, bytes)?;
            if let Place::Pinned = place(runtime, device, dst, bytes)? {
                return runtime.enqueue(stream, Op::Copy { dst: dst as u64, src, bytes: size });
            }
            pageable_in_graph(runtime)?;
            runtime.synchronize(stream)?;
            let from =
                runtime.devices[device].memory.host_pointer(src, size).map_err(|_| code::INVALID_VALUE)?;
            // SAFETY: the caller's for dst; host_pointer's for src, and no wave runs while the lock is held.
            unsafe { std::ptr::copy(from, dst.cast(), bytes) };
            Ok(())
        }
        Ends::OnDevice(dst, src) => {
            reachable(runtime, device, dst, bytes)?;
            reachable(runtime, device, src, bytes)?;
            runtime.enqueue(stream, Op::Copy { dst, src, bytes: size })
        }
        Ends::OnHost(dst, src) => {
            place(runtime, device, dst, bytes)?;
            place(runtime, device, src, bytes)?;
            pageable_in_graph(runtime)?;
            runtime.synchronize(stream)?;
            // SAFETY: the caller's.
            unsafe { std::ptr::copy(src.cast::<u8>(), dst.cast(), bytes) };
            Ok(())
        }
    }
}

/// In the null stream, done when it returns.
///
/// # Safety
/// As `copy`.
unsafe fn copy_and_wait(runtime: &mut Runtime, ends: Ends, bytes: usize) -> Result<()> {
    let device = current(runtime)?;
    runtime.not_while_capturing()?;
    // SAFETY: the caller's.
    unsafe { copy(runtime, ends, bytes, std::ptr::null_mut()) }?;
    let null = runtime.devices[device].null_stream;
    runtime.synchronize(null)
}

/// `n` times the pattern.
fn fill(runtime: &mut Runtime, dst: u64, pattern: &[u8], n: usize, stream: Handle) -> Result<()> {
    let device = current(runtime)?;
    let stream = runtime.stream(device, stream as usize)?;
    if n == 0 {
        return Ok(());
    }
    let bytes = n.checked_mul(pattern.len()).ok_or(code::INVALID_VALUE)?;
    reachable(runtime, device, dst, bytes)?;
    runtime.enqueue(stream, Op::Fill { dst, pattern: pattern.into(), bytes: bytes as u64 })
}
