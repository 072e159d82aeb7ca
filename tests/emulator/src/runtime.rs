//! All that is behind the API: devices, what handles stand for, failures on order, reports.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::card::Card;
use crate::code::{self, Code};
use crate::code_object::CodeObject;
use crate::config::Config;
use crate::counters::{Class, Counters};
use crate::isa::{Arch, Disassembly, Program};
use crate::launch::{Function, Launch};
use crate::memory::Memory;
use crate::stop::{Fault, Stop};
use crate::stream::{Event, Graph, Stream};

pub type Result<T> = std::result::Result<T, Code>;

pub struct Device {
    pub card: Card,
    pub memory: Memory,
    /// Handle of the stream that a null handle means.
    pub null_stream: usize,
    /// A kernel was stopped here: no more work is done.
    pub lost: Option<Code>,
    /// A synchronizing call has told so: from now on every call on the device tells it.
    pub told: bool,
}

/// What is known of a code object wherever it is loaded.
pub struct MachineCode {
    pub disassembly: Disassembly,
    /// Functions asked for so far, by name.
    pub programs: Mutex<HashMap<String, Program>>,
}

pub struct Module {
    pub device: usize,
    pub code: CodeObject,
    pub text: Arc<MachineCode>,
    pub arch: Arch,
    /// Where virtual address 0 lies.
    pub base: u64,
    /// Handles of the functions asked for so far.
    pub functions: HashMap<String, usize>,
}

pub struct Runtime {
    pub config: Config,
    pub devices: Vec<Device>,
    pub streams: HashMap<usize, Stream>,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, Module>,
    /// With the device each is loaded on.
    pub functions: HashMap<usize, (usize, Arc<Function>)>,
    pub graphs: HashMap<usize, Graph>,
    /// Graphs made ready for a launch.
    pub executables: HashMap<usize, Graph>,
    last_handle: usize,
    calls: u64,
    calls_of: HashMap<&'static str, u64>,
    /// What the last stopped kernel was stopped for, and the last launch's line of counters.
    pub last_stop: String,
    pub last_launch: String,
}

impl Runtime {
    pub fn new(config: Config) -> Self {
        let mut runtime = Runtime {
            devices: Vec::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            last_handle: 0x1000,
            calls: 0,
            calls_of: HashMap::new(),
            last_stop: String::new(),
            last_launch: String::new(),
            config,
        };
        for card in runtime.config.cards.clone() {
            let null_stream = runtime.handle();
            runtime.streams.insert(null_stream, Stream::new(runtime.devices.len(), true));
            let memory = Memory::default();
            runtime.devices.push(Device { card, memory, null_stream, lost: None, told: false });
        }
        runtime
    }

    /// A number that no object had before.
    pub fn handle(&mut self) -> usize {
        self.last_handle += 16;
        self.last_handle
    }

    /// Counts a call. Err: it is ordered to fail.
    pub fn count_call(&mut self, name: &'static str) -> Result<()> {
        self.calls += 1;
        let of_it = self.calls_of.entry(name).or_default();
        *of_it += 1;
        match self.config.fail.iter().find(|order| order.hits(name, self.calls, *of_it)) {
            Some(order) if order.code != code::SUCCESS => Err(order.code),
            _ => Ok(()),
        }
    }

    /// Calls so far, of one function or of all.
    pub fn calls(&self, name: &str) -> u64 {
        if name.is_empty() { self.calls } else { self.calls_of.get(name).copied().unwrap_or(0) }
    }

    /// From now on calls are counted anew.
    pub fn reset_calls(&mut self) {
        self.calls = 0;
        self.calls_of.clear();
    }

    /// Err: the device is lost and that was told.
    pub fn alive(&self, device: usize) -> Result<()> {
        match self.devices[device].lost {
            Some(code) if self.devices[device].told => Err(code),
            _ => Ok(()),
        }
    }

    /// After work was waited for. Err: it did not succeed.
    pub fn tell(&mut self, device: usize) -> Result<()> {
        let device = &mut self.devices[device];
        device.told = device.lost.is_some();
        device.lost.map_or(Ok(()), Err)
    }

    /// The device as new; its handles are gone.
    pub fn reset_device(&mut self, device: usize) {
        let null_stream = self.devices[device].null_stream;
        self.streams.retain(|_, stream| stream.device != device);
        self.streams.insert(null_stream, Stream::new(device, true));
        self.modules.retain(|_, module| module.device != device);
        self.functions.retain(|_, (of, _)| *of != device);
        self.graphs.retain(|_, graph| graph.device != device);
        self.executables.retain(|_, graph| graph.device != device);
        let fresh = Memory::default();
        let device = &mut self.devices[device];
        (device.memory, device.lost, device.told) = (fresh, None, false);
    }

    /// Runs a kernel; a stop is kept for the next call that waits.
    pub fn launch(&mut self, device: usize, launch: &Launch) {
        let options = self.config.options;
        match launch.run(&mut self.devices[device].memory, &options) {
            Ok(counters) => {
                self.last_launch = line(launch, &counters, &self.devices[device].memory);
                if let Some(path) = &self.config.counters {
                    append(path, &self.last_launch);
                }
            }
            Err(stop) => self.lose(device, &stop),
        }
    }

    fn lose(&mut self, device: usize, stop: &Stop) {
        let code = match stop.fault {
            Fault::OutOfBounds { .. } => code::ILLEGAL_ADDRESS,
            _ => code::LAUNCH_FAILURE,
        };
        self.devices[device].lost = Some(code);
        self.last_stop = stop.to_string();
        self.report(&self.last_stop);
    }

    /// A copy inside a queue whose memory is gone.
    pub fn lose_by_copy(&mut self, device: usize, what: &str, fault: &Fault) {
        self.devices[device].lost = Some(code::ILLEGAL_ADDRESS);
        self.last_stop = format!("{what}: {fault}");
        self.report(&self.last_stop);
    }

    /// Tells a person: in the log file, else on stderr.
    pub fn report(&self, text: &str) {
        match &self.config.log {
            Some(path) => append(path, text),
            None => eprintln!("rocmforge-emulator: {text}"),
        }
    }
}

fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{text}")) {
        eprintln!("rocmforge-emulator: {}: {error}", path.display());
    }
}

/// One launch as a line of JSON.
fn line(launch: &Launch, counters: &Counters, memory: &Memory) -> String {
    let instructions: serde_json::Map<_, _> = Class::ALL
        .map(|class| (class.name().to_owned(), counters.waves[class as usize].into()))
        .into_iter()
        .collect();
    let mut line = serde_json::json!({
        "kernel": launch.function.kernel.name,
        "grid": launch.grid,
        "block": launch.block,
        "lds": launch.lds(),
        "groups": counters.groups,
        "instructions": instructions,
        "lanes": counters.lanes,
        "bytes_read": counters.bytes_read,
        "bytes_written": counters.bytes_written,
        "lines_read": counters.lines_read,
        "lines_written": counters.lines_written,
        "bank_conflicts": counters.bank_conflicts,
    });
    if let Some(reads) = &counters.reads {
        // what is gone by now were the launch's arguments
        let mut allocations = BTreeMap::<u64, [u64; 4]>::new();
        for (addr, line) in reads.lines() {
            if let Some(found) = memory.find(addr) {
                let of_line = [line.bytes.count_ones().into(), line.bytes_by_groups, 1, line.groups];
                let sums = allocations.entry(found.base).or_default();
                sums.iter_mut().zip(of_line).for_each(|(sum, of_line)| *sum += of_line);
            }
        }
        let reads =
            allocations.into_iter().map(|(base, [bytes, bytes_by_groups, lines, lines_by_groups])| {
                serde_json::json!({
                    "allocation": base,
                    "bytes": bytes,
                    "bytes_by_groups": bytes_by_groups,
                    "lines": lines,
                    "lines_by_groups": lines_by_groups,
                })
            });
        line["reads"] = reads.collect();
    }
    line.to_string()
}
