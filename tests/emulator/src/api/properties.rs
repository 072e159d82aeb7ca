//! hipDeviceProp_t, in both layouts.

use std::ffi::c_int;
use std::mem::offset_of;

use super::device::ordinal;
use super::{hip, put};
use crate::card::{self, Card};

hip! {
    /// The layout from before ROCm 6, to this day.
    fn hipGetDeviceProperties(runtime, properties: *mut Old, device: c_int) {
        let filled = Old::of(&runtime.devices[ordinal(runtime, device)?].card);
        // SAFETY: the caller's.
        unsafe { put(properties, filled) }
    }

    /// What ROCm 6's header calls hipGetDeviceProperties.
    fn hipGetDevicePropertiesR0600(runtime, properties: *mut R0600, device: c_int) {
        let filled = R0600::of(&runtime.devices[ordinal(runtime, device)?].card);
        // SAFETY: the caller's.
        unsafe { put(properties, filled) }
    }
}

/// hipDeviceProp_t of HIP 5; fields that nothing here sets are summed up.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Old {
    name: [u8; 256],
    total_global_mem: u64,
    shared_mem_per_block: u64,
    regs_per_block: c_int,
    warp_size: c_int,
    max_threads_per_block: c_int,
    max_threads_dim: [c_int; 3],
    max_grid_size: [c_int; 3],
    clock_rate: c_int,
    memory_clock_rate: c_int,
    memory_bus_width: c_int,
    total_const_mem: u64,
    major: c_int,
    minor: c_int,
    multi_processor_count: c_int,
    l2_cache_size: c_int,
    max_threads_per_multi_processor: c_int,
    compute_mode: c_int,
    clock_instruction_rate: c_int,
    arch: u32,
    concurrent_kernels: c_int,
    pci: [c_int; 3],
    max_shared_memory_per_multi_processor: u64,
    is_multi_gpu_board: c_int,
    can_map_host_memory: c_int,
    gcn_arch: c_int,
    gcn_arch_name: [u8; 256],
    integrated: c_int,
    rest: [c_int; 34],
}

/// hipDeviceProp_tR0600 of HIP 6 and 7.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct R0600 {
    name: [u8; 256],
    uuid: [u8; 16],
    luid: [u8; 8],
    luid_device_node_mask: u32,
    total_global_mem: u64,
    shared_mem_per_block: u64,
    regs_per_block: c_int,
    warp_size: c_int,
    mem_pitch: u64,
    max_threads_per_block: c_int,
    max_threads_dim: [c_int; 3],
    max_grid_size: [c_int; 3],
    clock_rate: c_int,
    total_const_mem: u64,
    major: c_int,
    minor: c_int,
    texture_alignment: u64,
    texture_pitch_alignment: u64,
    device_overlap: c_int,
    multi_processor_count: c_int,
    kernel_exec_timeout_enabled: c_int,
    integrated: c_int,
    can_map_host_memory: c_int,
    compute_mode: c_int,
    textures: [c_int; 26],
    surfaces: [c_int; 14],
    surface_alignment: u64,
    concurrent_kernels: c_int,
    ecc_enabled: c_int,
    pci: [c_int; 3],
    tcc_driver: c_int,
    async_engine_count: c_int,
    unified_addressing: c_int,
    memory_clock_rate: c_int,
    memory_bus_width: c_int,
    l2_cache_size: c_int,
    persisting_l2_cache_max_size: c_int,
    max_threads_per_multi_processor: c_int,
    stream_priorities_supported: c_int,
    l1_caches: [c_int; 2],
    shared_mem_per_multiprocessor: u64,
    regs_per_multiprocessor: c_int,
    various: [c_int; 11],
    shared_mem_per_block_optin: u64,
    more: [c_int; 4],
    reserved_shared_mem_per_block: u64,
    supported: [c_int; 13],
    reserved: [c_int; 95],
    gcn_arch_name: [u8; 256],
    max_shared_memory_per_multi_processor: u64,
    clock_instruction_rate: c_int,
    arch: u32,
    hdp: [u64; 2],
    unmatched: [c_int; 4],
    is_large_bar: c_int,
    asic_revision: c_int,
}

// Sizes and offsets as the headers of HIP 5.2.3 and 7.1 compile.
const _: () = assert!(size_of::<Old>() == 792 && offset_of!(Old, total_global_mem) == 256);
const _: () = assert!(offset_of!(Old, warp_size) == 276 && offset_of!(Old, multi_processor_count) == 336);
const _: () = assert!(offset_of!(Old, gcn_arch_name) == 396);
const _: () = assert!(size_of::<R0600>() == 1472 && offset_of!(R0600, total_global_mem) == 288);
const _: () = assert!(offset_of!(R0600, warp_size) == 308 && offset_of!(R0600, multi_processor_count) == 388);
const _: () = assert!(offset_of!(R0600, gcn_arch_name) == 1160);

/// hipDeviceArch_t: all that a card of today has; only dynamic parallelism is missing.
const ARCH: u32 = 0xffff;
/// kHz of the counter behind clock().
const CLOCK_INSTRUCTION: c_int = 100_000;

fn chars(text: &str) -> [u8; 256] {
    std::array::from_fn(|i| text.as_bytes().get(i).copied().unwrap_or(0))
}

impl Old {
    fn of(card: &Card) -> Old {
        Old {
            name: chars(card.name),
            total_global_mem: card.memory,
            shared_mem_per_block: card::LDS.into(),
            regs_per_block: 65536,
            warp_size: card.warp,
            max_threads_per_block: card::MAX_THREADS as c_int,
            max_threads_dim: card::MAX_BLOCK,
            max_grid_size: card::MAX_GRID,
            clock_rate: card.clock_khz,
            memory_clock_rate: card.memory_clock_khz,
            memory_bus_width: card.bus_bits,
            total_const_mem: i32::MAX as u64,
            major: card.capability.0,
            minor: card.capability.1,
            multi_processor_count: card.units,
            l2_cache_size: card.l2_bytes,
            max_threads_per_multi_processor: card::MAX_THREADS_PER_UNIT,
            compute_mode: 0,
            clock_instruction_rate: CLOCK_INSTRUCTION,
            arch: ARCH,
            concurrent_kernels: 1,
            pci: [0, 3, 0],
            max_shared_memory_per_multi_processor: card::LDS.into(),
            is_multi_gpu_board: 0,
            can_map_host_memory: 1,
            gcn_arch: 0,
            gcn_arch_name: chars(&card.arch_name()),
            integrated: card.integrated.into(),
            rest: [0; 34],
        }
    }
}

impl R0600 {
    fn of(card: &Card) -> R0600 {
        R0600 {
            name: chars(card.name),
            uuid: *b"emulated-card-00",
            luid: [0; 8],
            luid_device_node_mask: 0,
            total_global_mem: card.memory,
            shared_mem_per_block: card::LDS.into(),
            regs_per_block: 65536,
            warp_size: card.warp,
            mem_pitch: i32::MAX as u64,
            max_threads_per_block: card::MAX_THREADS as c_int,
            max_threads_dim: card::MAX_BLOCK,
            max_grid_size: card::MAX_GRID,
            clock_rate: card.clock_khz,
            total_const_mem: i32::MAX as u64,
            major: card.capability.0,
            minor: card.capability.1,
            texture_alignment: 256,
            texture_pitch_alignment: 256,
            device_overlap: 1,
            multi_processor_count: card.units,
            kernel_exec_timeout_enabled: 0,
            integrated: card.integrated.into(),
            can_map_host_memory: 1,
            compute_mode: 0,
            textures: [0; 26],
            surfaces: [0; 14],
            surface_alignment: 256,
            concurrent_kernels: 1,
            ecc_enabled: 0,
            pci: [3, 0, 0],
            tcc_driver: 0,
            async_engine_count: 2,
            unified_addressing: 1,
            memory_clock_rate: card.memory_clock_khz,
            memory_bus_width: card.bus_bits,
            l2_cache_size: card.l2_bytes,
            persisting_l2_cache_max_size: 0,
            max_threads_per_multi_processor: card::MAX_THREADS_PER_UNIT,
            stream_priorities_supported: 0,
            l1_caches: [1, 1],
            shared_mem_per_multiprocessor: card::LDS.into(),
            regs_per_multiprocessor: 65536,
            various: [0; 11],
            shared_mem_per_block_optin: card::LDS.into(),
            more: [0; 4],
            reserved_shared_mem_per_block: 0,
            supported: [0; 13],
            reserved: [0; 95],
            gcn_arch_name: chars(&card.arch_name()),
            max_shared_memory_per_multi_processor: card::LDS.into(),
            clock_instruction_rate: CLOCK_INSTRUCTION,
            arch: ARCH,
            hdp: [0; 2],
            unmatched: [0; 4],
            is_large_bar: 0,
            asic_revision: 0,
        }
    }
}
