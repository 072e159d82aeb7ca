//! A grid of groups: arguments, the registers waves start with, barriers, and threads that run the groups.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::code_object::{Kernel, UserSgpr};
use crate::counters::{Counters, Reads};
use crate::group::Group;
use crate::isa::{Arch, Generation, Program};
use crate::lds::Lds;
use crate::memory::{Kind, Memory};
use crate::stop::{Fault, LaneFault, Stop};
use crate::wave::{Denormals, Pause, TTMP, Wave};

/// A kernel of a loaded code object.
pub struct Function {
    pub kernel: Kernel,
    pub arch: Arch,
    pub program: Program,
}

impl Function {
    /// Lanes of its waves.
    pub fn lanes(&self) -> usize {
        if self.arch.generation.is_gfx9() || !self.kernel.descriptor.wave32() { 64 } else { 32 }
    }
}

/// How the emulator runs launches.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Groups that run at once.
    pub threads: usize,
    /// Instructions of one wave that are taken for an endless loop.
    pub limit: u64,
    /// Whether to keep [`Counters::reads`].
    pub reads: bool,
}

/// A kernel on its way to the card.
pub struct Launch {
    pub function: Arc<Function>,
    /// Groups, and work-items of one.
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of LDS that the launch adds to the kernel's own.
    pub dynamic_lds: u32,
    /// The kernel's arguments in their segment.
    pub kernarg: Vec<u8>,
}

impl Launch {
    /// Packs the arguments as the metadata lays them out; hidden ones are left for `fill_hidden`.
    ///
    /// # Safety
    /// `args` holds an address for each explicit argument, of as many readable bytes as the metadata says; it may
    /// be null if there is none. None: it is null although there are arguments.
    pub unsafe fn pack(function: &Function, args: *const *const u8) -> Option<Vec<u8>> {
        let metadata = &function.kernel.metadata;
        let mut segment = vec![0; metadata.kernarg as usize];
        for (i, arg) in metadata.args.iter().filter(|a| !a.hidden()).enumerate() {
            if args.is_null() {
                return None;
            }
            // SAFETY: the caller's: as many addresses as explicit arguments, each of arg.size bytes.
            let bytes = unsafe { std::slice::from_raw_parts(*args.add(i), arg.size as usize) };
            segment[arg.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Some(segment)
    }

    /// Fills what the compiler itself asks of the runtime; buffers of printf, of malloc and of host calls are none.
    fn fill_hidden(&self, segment: &mut [u8]) {
        for arg in self.function.kernel.metadata.args.iter().filter(|a| a.hidden()) {
            let axis = |prefix: &str, of: [u32; 3]| {
                let axis = ["x", "y", "z"].iter().position(|a| arg.kind.strip_prefix(prefix) == Some(a));
                axis.map(|axis| u64::from(of[axis]))
            };
            let value = axis("hidden_block_count_", self.grid)
                .or_else(|| axis("hidden_group_size_", self.block))
                .or_else(|| (arg.kind == "hidden_grid_dims").then_some(3))
                .or_else(|| (arg.kind == "hidden_dynamic_lds_size").then_some(self.dynamic_lds.into()))
                .unwrap_or(0);
            let bytes = &value.to_le_bytes()[..arg.size.min(8) as usize];
            segment[arg.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The dispatch packet of the queue, which some kernels read: `hsa_kernel_dispatch_packet_t`.
    fn packet(&self, kernarg: u64) -> [u8; 64] {
        let mut packet = [0; 64];
        let mut put = |at: usize, bytes: &[u8]| packet[at..at + bytes.len()].copy_from_slice(bytes);
        put(2, &3u16.to_le_bytes());
        for axis in 0..3 {
            put(4 + axis * 2, &(self.block[axis] as u16).to_le_bytes());
            put(12 + axis * 4, &self.grid[axis].wrapping_mul(self.block[axis]).to_le_bytes());
        }
        put(28, &self.lds().to_le_bytes());
        put(40, &kernarg.to_le_bytes());
        packet
    }

    /// Bytes of LDS of a group.
    pub fn lds(&self) -> u32 {
        self.function.kernel.descriptor.lds.saturating_add(self.dynamic_lds)
    }

    fn work_items(&self) -> usize {
        self.block.iter().map(|&n| n as usize).product()
    }

    /// Runs all groups. Err: what the first group (by number) was stopped for.
    pub fn run(&self, memory: &mut Memory, options: &Options) -> Result<Counters, Box<Stop>> {
        let mut segment = self.kernarg.clone();
        self.fill_hidden(&mut segment);
        // The segment's alignment is at least 16 and loads may be as wide: what follows it up to 64 is readable.
        segment.resize(segment.len().next_multiple_of(64).max(64), 0);
        let full = || self.stop_at_start(Fault::Launch("the host has no memory for the arguments".into()));
        let kernarg = memory.allocate(segment.len() as u64, Kind::Constant).ok_or_else(full)?;
        let packet = memory.allocate(64, Kind::Constant).ok_or_else(full)?;
        let written =
            memory.write(kernarg, &segment).and_then(|()| memory.write(packet, &self.packet(kernarg)));
        let result = match written {
            Ok(()) => self.run_groups(memory, kernarg, packet, options),
            Err(fault) => Err(self.stop_at_start(fault)),
        };
        memory.free(kernarg, Kind::Constant);
        memory.free(packet, Kind::Constant);
        result
    }

    fn run_groups(
        &self,
        memory: &Memory,
        kernarg: u64,
        packet: u64,
        options: &Options,
    ) -> Result<Counters, Box<Stop>> {
        if self.function.kernel.descriptor.scratch > 0 {
            let why = "it uses scratch memory, which the emulator does not have".to_owned();
            return Err(self.stop_at_start(Fault::Launch(why)));
        }
        let groups: u64 = self.grid.iter().map(|&n| u64::from(n)).product();
        let queue = Queue {
            next: AtomicU64::new(0),
            groups,
            failed: AtomicBool::new(false),
            outcome: Mutex::new((Counters::default(), None)),
        };
        let threads = options.threads.min(usize::try_from(groups).unwrap_or(usize::MAX)).max(1);
        let work = || {
            let mut runner = Runner::new(self, memory, kernarg, packet, options);
            runner.work(&queue);
        };
        if threads == 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(work);
                }
            });
        }
        let (counters, stop) = queue.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        match stop {
            Some((_, stop)) => Err(stop),
            None => Ok(counters),
        }
    }

    fn stop_at_start(&self, fault: Fault) -> Box<Stop> {
        Box::new(Stop {
            kernel: self.function.kernel.name.clone(),
            offset: 0,
            instruction: self.function.program.insts.first().map_or(String::new(), |i| i.text.to_string()),
            group: [0; 3],
            wave: 0,
            lane: None,
            fault,
        })
    }
}

/// A group's number and what it was stopped for.
type Stopped = (u64, Box<Stop>);

/// Groups still to run, and what came of those that have.
struct Queue {
    next: AtomicU64,
    groups: u64,
    failed: AtomicBool,
    /// The stopped group of the smallest number: those before it were all taken, so it is the same each time.
    outcome: Mutex<(Counters, Option<Stopped>)>,
}

/// Runs groups one after another on one thread.
struct Runner<'a> {
    launch: &'a Launch,
    group: Group<'a>,
    waves: Vec<Wave>,
    /// What each wave's lanes are, the same in every group.
    items: Vec<Items>,
    kernarg: u64,
    packet: u64,
}

/// A wave's lanes at the start.
struct Items {
    active: u64,
    /// The first vector registers.
    ids: Vec<[u32; 64]>,
}

impl Items {
    /// Those of wave `n` of a group.
    fn new(launch: &Launch, n: usize) -> Self {
        let function = &launch.function;
        let lanes = function.lanes();
        let [x, y, _] = launch.block.map(|n| n as usize);
        let first = n * lanes;
        let here = (launch.work_items() - first).min(lanes);
        let dims = function.kernel.descriptor.workitem_ids();
        let ids: [[u32; 64]; 3] = std::array::from_fn(|axis| {
            std::array::from_fn(|lane| {
                let item = first + lane;
                let id = [item % x, item / x % y, item / x / y][axis] as u32;
                if axis < dims { id } else { 0 }
            })
        });
        let packed = !matches!(function.arch.generation, Generation::Gfx9 | Generation::Gfx10);
        let ids = if packed {
            vec![std::array::from_fn(|lane| ids[0][lane] | ids[1][lane] << 10 | ids[2][lane] << 20)]
        } else {
            ids[..dims].to_vec()
        };
        Items { active: u64::MAX >> (64 - here), ids }
    }
}

impl<'a> Runner<'a> {
    fn new(launch: &'a Launch, memory: &'a Memory, kernarg: u64, packet: u64, options: &Options) -> Self {
        let function = &launch.function;
        let lanes = function.lanes();
        let [f32_mode, other_mode] = function.kernel.descriptor.denormals();
        let waves = (0..launch.work_items().div_ceil(lanes)).map(|_| {
            let mut wave = Wave::new(lanes);
            wave.limit = options.limit;
            wave.denormals = Denormals::from_mode(f32_mode);
            wave.denormals_16_64 = Denormals::from_mode(other_mode);
            wave
        });
        let counters = Counters { reads: options.reads.then(Reads::default), ..Counters::default() };
        Runner {
            launch,
            items: (0..waves.len()).map(|n| Items::new(launch, n)).collect(),
            waves: waves.collect(),
            group: Group { memory, lds: Lds::new(launch.lds()), counters },
            kernarg,
            packet,
        }
    }

    fn work(&mut self, queue: &Queue) {
        let mut stopped = None;
        while !queue.failed.load(Relaxed) {
            let number = queue.next.fetch_add(1, Relaxed);
            if number >= queue.groups {
                break;
            }
            if let Err(stop) = self.run(number) {
                queue.failed.store(true, Relaxed);
                stopped = Some((number, stop));
            }
            if let Some(reads) = &mut self.group.counters.reads {
                reads.end_group();
            }
        }
        let mut outcome = queue.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.0.add(&self.group.counters);
        if let Some(stopped) = stopped
            && outcome.1.as_ref().is_none_or(|first| stopped.0 < first.0)
        {
            outcome.1 = Some(stopped);
        }
    }

    /// One group: its waves in turn, each up to the next barrier or its end.
    fn run(&mut self, number: u64) -> Result<(), Box<Stop>> {
        let [x, y, _] = self.launch.grid.map(u64::from);
        let id = [number % x, number / x % y, number / x / y].map(|n| n as u32);
        self.group.lds.reset();
        self.group.counters.groups += 1;
        for n in 0..self.waves.len() {
            self.start(n, id);
        }
        loop {
            let mut waiting = Vec::new();
            for (n, wave) in self.waves.iter_mut().enumerate() {
                match self.launch.function.program.run(wave, &mut self.group) {
                    Ok(Pause::Barrier) => waiting.push(n),
                    Ok(Pause::End) => {}
                    Err((pc, fault)) => return Err(self.stop(id, n, pc, fault)),
                }
            }
            let Some(&first) = waiting.first() else { return Ok(()) };
            let pc = self.waves[first].pc;
            let together = waiting.iter().filter(|&&n| self.waves[n].pc == pc).count();
            if together < self.waves.len() {
                let elsewhere = (self.waves.len() - together) as u32;
                let fault = Fault::DivergentBarrier { waiting: together as u32, elsewhere };
                return Err(self.stop(id, first, pc - 1, fault.into()));
            }
            self.group.lds.barrier();
        }
    }

    /// Registers as the command processor leaves them.
    fn start(&mut self, n: usize, group: [u32; 3]) {
        let function = &self.launch.function;
        let descriptor = &function.kernel.descriptor;
        let generation = function.arch.generation;
        let wave = &mut self.waves[n];
        wave.reset(n as u32);

        let mut register = 0;
        for user in descriptor.user_sgprs() {
            match user {
                UserSgpr::DispatchPtr => wave.set_sgpr64(register, self.packet),
                UserSgpr::KernargSegmentPtr => wave.set_sgpr64(register, self.kernarg),
                UserSgpr::DispatchId => wave.set_sgpr64(register, 0),
                // Of scratch memory and of queues, which the emulator does not have: they stay unwritten.
                _ => {}
            }
            register += user.registers() as u8;
        }
        if generation >= Generation::Gfx12 {
            wave.set_sgpr(TTMP + 9, group[0]);
            wave.set_sgpr(TTMP + 7, group[1] & 0xffff | group[2] << 16);
        } else {
            let mut register = descriptor.user_sgpr_count() as u8;
            for (enabled, id) in descriptor.workgroup_ids().into_iter().zip(group) {
                if enabled {
                    wave.set_sgpr(register, id);
                    register += 1;
                }
            }
        }

        let items = &self.items[n];
        wave.set_exec(items.active);
        for (register, ids) in items.ids.iter().enumerate() {
            wave.set_vgpr(register as u16, items.active, ids);
        }
    }

    fn stop(&self, group: [u32; 3], wave: usize, pc: usize, fault: LaneFault) -> Box<Stop> {
        let function = &self.launch.function;
        let inst = function.program.insts.get(pc);
        Box::new(Stop {
            kernel: function.kernel.name.clone(),
            offset: inst.map_or(0, |inst| inst.offset.saturating_sub(function.kernel.entry)),
            instruction: inst.map_or(String::new(), |inst| inst.text.to_string()),
            group,
            wave: wave as u32,
            lane: fault.lane,
            fault: fault.fault,
        })
    }
}
