//! Streams: queues of work that is done when something waits for it, as late as the API allows, so that a host
//! that forgot to wait sees it. Events, and graphs of captured work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use crate::code;
use crate::launch::Launch;
use crate::runtime::{Result, Runtime};

/// One piece of work.
#[derive(Clone)]
pub enum Op {
    Launch(Arc<Launch>),
    /// Both in the device's memory or pinned.
    Copy {
        dst: u64,
        src: u64,
        bytes: u64,
    },
    /// From pageable memory, which was read when the call was made.
    Upload {
        dst: u64,
        data: Arc<[u8]>,
    },
    Fill {
        dst: u64,
        pattern: Arc<[u8]>,
        bytes: u64,
    },
    /// The event's time, if it was not recorded again since.
    Record {
        event: usize,
        number: u64,
    },
    /// Until that stream has done so many pieces of work.
    Wait {
        stream: usize,
        position: u64,
    },
}

pub struct Stream {
    pub device: usize,
    /// Waits for the null stream and is waited for by it.
    pub blocking: bool,
    queue: VecDeque<Op>,
    /// Pieces of work ever put into the queue, and done.
    enqueued: u64,
    done: u64,
    pub capture: Option<Capture>,
}

/// A stream's work on its way into a graph.
pub struct Capture {
    pub mode: Mode,
    pub thread: ThreadId,
    pub ops: Vec<Op>,
    /// A call that is not allowed during capture was made.
    pub invalid: bool,
}

/// Whose unsafe calls end a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

#[derive(Clone)]
pub struct Graph {
    pub device: usize,
    pub ops: Arc<[Op]>,
}

pub struct Event {
    pub timing: bool,
    /// How often it was recorded.
    number: u64,
    /// Where in which stream it was recorded last.
    place: Option<Place>,
    time: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Place {
    Queue { stream: usize, position: u64 },
    Capture { stream: usize },
}

impl Stream {
    pub fn new(device: usize, blocking: bool) -> Self {
        Stream { device, blocking, queue: VecDeque::new(), enqueued: 0, done: 0, capture: None }
    }

    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Event {
    pub fn new(timing: bool) -> Self {
        Event { timing, number: 0, place: None, time: None }
    }
}

impl Runtime {
    /// The stream that a handle of the API means on that device.
    pub fn stream(&self, device: usize, handle: usize) -> Result<usize> {
        /// hipStreamLegacy; 2, hipStreamPerThread, is not offered.
        const LEGACY: usize = 1;
        match handle {
            0 | LEGACY => Ok(self.devices[device].null_stream),
            2 => Err(code::NOT_SUPPORTED),
            _ => match self.streams.get(&handle) {
                Some(stream) if self.devices[stream.device].null_stream == handle => {
                    Err(code::CONTEXT_DESTROYED)
                }
                Some(stream) if stream.device == device => Ok(handle),
                Some(_) => Err(code::INVALID_HANDLE),
                None => Err(code::CONTEXT_DESTROYED),
            },
        }
    }

    /// Puts work into a stream, or into the graph that it captures.
    pub fn enqueue(&mut self, stream: usize, op: Op) -> Result<()> {
        if let Some(capture) = &mut self.stream_mut(stream).capture {
            if capture.invalid {
                return Err(code::CAPTURE_INVALIDATED);
            }
            capture.ops.push(op);
            return Ok(());
        }
        self.order_with_null_stream(stream);
        self.push(stream, op);
        if !self.config.lazy {
            let position = self.stream_mut(stream).enqueued;
            self.run_to(stream, position);
        }
        Ok(())
    }

    fn push(&mut self, stream: usize, op: Op) {
        let stream = self.stream_mut(stream);
        stream.queue.push_back(op);
        stream.enqueued += 1;
    }

    /// The null stream waits for all blocking streams of its device, and they for it.
    fn order_with_null_stream(&mut self, stream: usize) {
        let device = self.streams[&stream].device;
        let null = self.devices[device].null_stream;
        let before: Vec<_> = if stream == null {
            let others = self.streams.iter().filter(|(handle, s)| **handle != null && s.device == device);
            others.filter(|(_, s)| s.blocking && !s.idle()).map(|(handle, s)| (*handle, s.enqueued)).collect()
        } else if self.streams[&stream].blocking && !self.streams[&null].idle() {
            vec![(null, self.streams[&null].enqueued)]
        } else {
            Vec::new()
        };
        for (stream_before, position) in before {
            self.push(stream, Op::Wait { stream: stream_before, position });
        }
    }

    /// Does a stream's work up to a position. What fails is kept in the device.
    fn run_to(&mut self, stream: usize, position: u64) {
        while let Some(s) = self.streams.get_mut(&stream) {
            if s.done >= position {
                break;
            }
            let device = s.device;
            let Some(op) = s.queue.pop_front() else { break };
            if self.devices[device].lost.is_none() || matches!(op, Op::Record { .. }) {
                self.perform(device, op);
            }
            self.stream_mut(stream).done += 1;
        }
    }

    fn perform(&mut self, device: usize, op: Op) {
        let memory = &mut self.devices[device].memory;
        let (what, result) = match op {
            Op::Launch(launch) => return self.launch(device, &launch),
            Op::Copy { dst, src, bytes } => ("copy", memory.copy(dst, src, bytes)),
            Op::Upload { dst, data } => ("copy to the device", memory.write(dst, &data)),
            Op::Fill { dst, pattern, bytes } => ("memset", memory.fill(dst, &pattern, bytes)),
            Op::Record { event, number } => {
                if let Some(event) = self.events.get_mut(&event).filter(|event| event.number == number) {
                    event.time = Some(Instant::now());
                }
                return;
            }
            Op::Wait { stream, position } => return self.run_to(stream, position),
        };
        if let Err(fault) = result {
            self.lose_by_copy(device, what, &fault);
        }
    }

    /// Does all of a stream's work. Err: the device's failure; the stream is being captured.
    pub fn synchronize(&mut self, stream: usize) -> Result<()> {
        let s = self.stream_mut(stream);
        if let Some(capture) = &mut s.capture {
            capture.invalid = true;
            return Err(code::CAPTURE_UNSUPPORTED);
        }
        self.order_with_null_stream(stream);
        let s = self.stream_mut(stream);
        let (device, position) = (s.device, s.enqueued);
        self.run_to(stream, position);
        self.tell(device)
    }

    /// Does all work of a device.
    pub fn synchronize_device(&mut self, device: usize) -> Result<()> {
        let mut streams: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| s.device == device)
            .map(|(&handle, s)| (handle, s.enqueued))
            .collect();
        streams.sort_unstable();
        for (stream, position) in streams {
            self.run_to(stream, position);
        }
        self.tell(device)
    }

    /// NOT_READY once where there was work to do, which is then done.
    pub fn query(&mut self, stream: usize) -> Result<()> {
        let ready = self.stream_mut(stream).idle();
        self.synchronize(stream)?;
        if ready { Ok(()) } else { Err(code::NOT_READY) }
    }

    /// A call that may not be made while work is captured, unless relaxed. Err: it spoilt a capture.
    pub fn not_while_capturing(&mut self) -> Result<()> {
        let me = std::thread::current().id();
        let mut spoilt = false;
        for capture in self.streams.values_mut().filter_map(|s| s.capture.as_mut()) {
            let concerned = match capture.mode {
                Mode::Global => true,
                Mode::ThreadLocal => capture.thread == me,
                Mode::Relaxed => false,
            };
            capture.invalid |= concerned;
            spoilt |= concerned;
        }
        if spoilt { Err(code::CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Result<()> {
        let capturing = self.stream_mut(stream).capture.is_some();
        let record = self.events.get_mut(&event).ok_or(code::INVALID_HANDLE)?;
        record.number += 1;
        record.time = None;
        if capturing {
            record.place = Some(Place::Capture { stream });
            return Ok(());
        }
        let number = record.number;
        self.enqueue(stream, Op::Record { event, number })?;
        let position = self.stream_mut(stream).enqueued;
        if let Some(record) = self.events.get_mut(&event) {
            record.place = Some(Place::Queue { stream, position });
        }
        Ok(())
    }

    /// `stream` goes on when the event, as it was recorded last, has happened.
    pub fn wait_event(&mut self, stream: usize, event: usize) -> Result<()> {
        let capturing = self.stream_mut(stream).capture.is_some();
        match (self.events.get(&event).ok_or(code::INVALID_HANDLE)?.place, capturing) {
            (None, _) => Ok(()),
            (Some(Place::Capture { stream: of }), true) if of == stream => Ok(()),
            // A second stream would join the capture: graphs here are of one stream.
            (Some(Place::Capture { .. }), _) => Err(code::NOT_SUPPORTED),
            (Some(Place::Queue { .. }), true) => {
                self.stream_mut(stream).capture.iter_mut().for_each(|capture| capture.invalid = true);
                Err(code::CAPTURE_ISOLATION)
            }
            (Some(Place::Queue { stream: of, position }), false) => {
                self.enqueue(stream, Op::Wait { stream: of, position })
            }
        }
    }

    /// Does the work before the event. True: there was some to do.
    pub fn synchronize_event(&mut self, event: usize) -> Result<bool> {
        match self.events.get(&event).ok_or(code::INVALID_HANDLE)?.place {
            None => Ok(false),
            Some(Place::Capture { .. }) => Err(code::CAPTURED_EVENT),
            Some(Place::Queue { stream, position }) => {
                let Some(s) = self.streams.get(&stream) else { return Ok(false) };
                let (device, pending) = (s.device, s.done < position);
                self.run_to(stream, position);
                self.tell(device)?;
                Ok(pending)
            }
        }
    }

    pub fn elapsed(&self, start: usize, end: usize) -> Result<f32> {
        let find = |event: usize| match self.events.get(&event) {
            Some(event) if event.timing && matches!(event.place, Some(Place::Queue { .. })) => Ok(event),
            _ => Err(code::INVALID_HANDLE),
        };
        let (start, end) = (find(start)?, find(end)?);
        let (Some(start), Some(end)) = (start.time, end.time) else { return Err(code::NOT_READY) };
        Ok(match end.checked_duration_since(start) {
            Some(time) => time.as_secs_f32() * 1e3,
            None => -start.duration_since(end).as_secs_f32() * 1e3,
        })
    }

    /// # Panics
    /// Where no such stream lives: handles are checked by `stream`.
    pub fn stream_mut(&mut self, stream: usize) -> &mut Stream {
        self.streams.get_mut(&stream).expect("a living stream")
    }
}
