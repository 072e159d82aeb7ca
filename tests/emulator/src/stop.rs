//! Why an emulated kernel was stopped, and where.

use std::fmt;

/// What an instruction did that no correct kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The emulator does not know the instruction, or this form of it.
    UnknownOpcode,
    /// Outside every allocation; `near` describes the nearest one.
    OutOfBounds {
        addr: u64,
        bytes: u32,
        near: String,
    },
    Misaligned {
        addr: u64,
        bytes: u32,
    },
    /// A register ("v12", "s[4]", "vcc", "scc") that nothing has written.
    UnwrittenRegister {
        register: String,
    },
    /// An LDS byte address that nothing has written.
    UnwrittenLds {
        addr: u32,
    },
    /// Two waves touch one LDS word between two barriers, one of them writing.
    LdsRace {
        addr: u32,
        other_wave: u32,
        other_writes: bool,
    },
    /// Waves of a group wait at different barriers, or some ended while others wait.
    DivergentBarrier {
        waiting: u32,
        elsewhere: u32,
    },
    /// More instructions than any kernel here takes: an endless loop.
    Endless {
        executed: u64,
    },
    /// The code object or the launch is not what hardware would take.
    Launch(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::UnknownOpcode => write!(f, "unknown instruction"),
            Fault::OutOfBounds { addr, bytes, near } => {
                write!(f, "{bytes} bytes at {addr:#x} lie outside every allocation; {near}")
            }
            Fault::Misaligned { addr, bytes } => write!(f, "{bytes} bytes at {addr:#x} are misaligned"),
            Fault::UnwrittenRegister { register } => write!(f, "{register} is read, and nothing wrote it"),
            Fault::UnwrittenLds { addr } => write!(f, "LDS byte {addr} is read, and nothing wrote it"),
            Fault::LdsRace { addr, other_wave, other_writes } => write!(
                f,
                "LDS byte {addr} was {} by wave {other_wave} since the last barrier",
                if *other_writes { "written" } else { "read" }
            ),
            Fault::DivergentBarrier { waiting, elsewhere } => {
                write!(f, "{waiting} waves wait at a barrier that {elsewhere} others do not reach")
            }
            Fault::Endless { executed } => write!(f, "still running after {executed} instructions"),
            Fault::Launch(why) => write!(f, "{why}"),
        }
    }
}

/// A fault and the lane it happened in (None: the whole wave).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFault {
    pub lane: Option<u32>,
    pub fault: Fault,
}

impl From<Fault> for LaneFault {
    fn from(fault: Fault) -> Self {
        LaneFault { lane: None, fault }
    }
}

/// A fault and all there is to know of where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub kernel: String,
    /// Byte offset of the instruction in the kernel, and its text.
    pub offset: u64,
    pub instruction: String,
    pub group: [u32; 3],
    pub wave: u32,
    pub lane: Option<u32>,
    pub fault: Fault,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.group;
        write!(
            f,
            "kernel {}+{:#x} `{}`, group ({x},{y},{z}), wave {}",
            self.kernel, self.offset, self.instruction, self.wave
        )?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        write!(f, ": {}", self.fault)
    }
}
