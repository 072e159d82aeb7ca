//! Code objects and launches.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Handle, current, hip, put, text};
use crate::card;
use crate::code;
use crate::code_object::{CodeObject, Malformed, runs};
use crate::isa::{Arch, Disassembly, Program};
use crate::launch::{Function, Launch};
use crate::memory::Kind;
use crate::runtime::{MachineCode, Module, Result, Runtime};
use crate::stream::Op;

hip! {
    /// `image`: an ELF code object; bundles of several are not taken.
    fn hipModuleLoadData(runtime, module: *mut Handle, image: *const c_void) {
        // SAFETY: the caller's.
        unsafe { load(runtime, module, image) }
    }

    fn hipModuleLoadDataEx(
        runtime,
        module: *mut Handle,
        image: *const c_void,
        _n: c_uint,
        _options: *mut c_int,
        _values: *mut *mut c_void,
    ) {
        // SAFETY: the caller's.
        unsafe { load(runtime, module, image) }
    }

    /// All work is done first.
    fn hipModuleUnload(runtime, module: Handle) {
        let device = current(runtime)?;
        let done = runtime.synchronize_device(device);
        let module = runtime.modules.remove(&(module as usize)).ok_or(code::INVALID_HANDLE)?;
        for function in module.functions.values() {
            runtime.functions.remove(function);
        }
        runtime.devices[module.device].memory.free(module.base, Kind::Constant);
        done
    }

    fn hipModuleGetFunction(runtime, function: *mut Handle, module: Handle, name: *const c_char) {
        current(runtime)?;
        // SAFETY: the caller's.
        let name = unsafe { text(name) }?;
        if function.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let handle = find_function(runtime, module as usize, name)?;
        // SAFETY: the caller's.
        unsafe { put(function, handle as Handle) }
    }

    fn hipModuleLaunchKernel(
        runtime,
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: Handle,
        args: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let device = current(runtime)?;
        let stream = runtime.stream(device, stream as usize)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        check_sizes(grid, block, shared_bytes)?;
        let (of, function) = runtime.functions.get(&(function as usize)).ok_or(code::INVALID_HANDLE)?.clone();
        if of != device {
            return Err(code::INVALID_DEVICE);
        }
        if !extra.is_null() {
            // Arguments in one buffer: the engine does not pass them so.
            return Err(if args.is_null() { code::NOT_SUPPORTED } else { code::INVALID_VALUE });
        }
        let threads: u32 = block.iter().product();
        if threads > function.kernel.metadata.max_block {
            return Err(code::LAUNCH_FAILURE);
        }
        if shared_bytes.saturating_add(function.kernel.descriptor.lds) > card::LDS {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller's: an address for each argument.
        let kernarg = unsafe { Launch::pack(&function, args.cast_const().cast()) };
        let kernarg = kernarg.ok_or(code::INVALID_VALUE)?;
        let launch = Launch { function, grid, block, dynamic_lds: shared_bytes, kernarg };
        runtime.enqueue(stream, Op::Launch(Arc::new(launch)))
    }

    fn hipFuncGetAttribute(runtime, value: *mut c_int, attribute: c_int, function: Handle) {
        current(runtime)?;
        let (_, function) = runtime.functions.get(&(function as usize)).ok_or(code::INVALID_HANDLE)?;
        let answer = match attribute {
            0 => function.kernel.metadata.max_block as c_int, // MAX_THREADS_PER_BLOCK
            1 => function.kernel.descriptor.lds as c_int,     // SHARED_SIZE_BYTES
            2 => 0,                                           // CONST_SIZE_BYTES
            3 => function.kernel.descriptor.scratch as c_int, // LOCAL_SIZE_BYTES
            _ => return Err(code::INVALID_VALUE),
        };
        // SAFETY: the caller's.
        unsafe { put(value, answer) }
    }
}

/// As hipModuleLaunchKernel of ROCm 7 checks: every refusal is hipErrorInvalidValue.
fn check_sizes(grid: [u32; 3], block: [u32; 3], shared_bytes: u32) -> Result<()> {
    let axes = (0..3).all(|axis| {
        let (groups, items) = (u64::from(grid[axis]), u64::from(block[axis]));
        let within = groups <= card::MAX_GRID[axis] as u64 && items <= card::MAX_BLOCK[axis] as u64;
        // Work-items of an axis are counted in 32 bits.
        groups > 0 && items > 0 && within && groups * items <= u32::MAX.into()
    });
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    let fits = axes && threads <= card::MAX_THREADS.into() && shared_bytes <= card::LDS;
    if fits { Ok(()) } else { Err(code::INVALID_VALUE) }
}

/// # Safety
/// `image` is null or points to an ELF file (or to 64 other bytes); `module` is null or writable for a handle.
unsafe fn load(runtime: &mut Runtime, module: *mut Handle, image: *const c_void) -> Result<()> {
    let device = current(runtime)?;
    if module.is_null() || image.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    let bytes = unsafe {
        let size = CodeObject::file_size(image.cast()).ok_or(code::INVALID_IMAGE)?;
        std::slice::from_raw_parts(image.cast::<u8>(), size)
    };
    let object = CodeObject::parse(bytes).map_err(|malformed| {
        if let Malformed::Broken(why) = malformed {
            runtime.report(&format!("code object: {why}"));
        }
        code::INVALID_IMAGE
    })?;
    let target = runtime.devices[device].card.target;
    if !runs(target, object.target) {
        runtime.report(&format!("a code object for {} does not run on {target}", object.target));
        return Err(code::NO_BINARY);
    }
    let Some(arch) = Arch::parse(object.target) else {
        runtime.report(&format!("the emulator does not execute {}", object.target));
        return Err(code::NO_BINARY);
    };
    let text = machine_code(bytes, &arch).map_err(|why| {
        runtime.report(&why);
        code::OPERATING_SYSTEM
    })?;
    let memory = &mut runtime.devices[device].memory;
    let base = memory.allocate(object.image.len() as u64, Kind::Constant).ok_or(code::OUT_OF_MEMORY)?;
    memory.write(base, &object.relocated(base)).map_err(|_| code::UNKNOWN)?;
    let handle = runtime.handle();
    let functions = HashMap::new();
    runtime.modules.insert(handle, Module { device, code: object, text, arch, base, functions });
    // SAFETY: the caller's.
    unsafe { put(module, handle as Handle) }
}

/// Most code objects that are remembered.
const REMEMBERED: usize = 64;

/// Reads an ELF code object's text; reading takes seconds, so the last few are remembered.
fn machine_code(elf: &[u8], arch: &Arch) -> std::result::Result<Arc<MachineCode>, String> {
    static KNOWN: Mutex<Vec<(Vec<u8>, Arc<MachineCode>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, code)) = known.iter().find(|(bytes, _)| bytes == elf) {
        return Ok(code.clone());
    }
    let code = Arc::new(MachineCode { disassembly: Disassembly::of(elf, arch)?, programs: Mutex::default() });
    known.truncate(REMEMBERED - 1);
    known.insert(0, (elf.to_vec(), code.clone()));
    Ok(code)
}

fn find_function(runtime: &mut Runtime, module: usize, name: &str) -> Result<usize> {
    let loaded = runtime.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
    if let Some(&handle) = loaded.functions.get(name) {
        return Ok(handle);
    }
    let kernel = loaded.code.kernels.get(name).ok_or(code::NOT_FOUND)?.clone();
    let mut programs = loaded.text.programs.lock().unwrap_or_else(PoisonError::into_inner);
    let known = programs.get(name).cloned().map(|program| program.at(loaded.base));
    let read = || Program::new(&loaded.text.disassembly, name, &loaded.arch, loaded.base);
    let program = match known.map_or_else(read, Ok) {
        Ok(program) => program,
        Err(why) => {
            runtime.report(&why);
            return Err(code::INVALID_KERNEL_FILE);
        }
    };
    programs.insert(name.to_owned(), program.clone());
    drop(programs);
    let (device, arch) = (loaded.device, loaded.arch.clone());
    let handle = runtime.handle();
    runtime.functions.insert(handle, (device, Arc::new(Function { kernel, arch, program })));
    if let Some(module) = runtime.modules.get_mut(&module) {
        module.functions.insert(name.to_owned(), handle);
    }
    Ok(handle)
}
