//! Launches recorded once and replayed as one.

use std::sync::Arc;

use hip_sys::hiprt::{hipGraph_t, hipGraphExec_t};

use super::card::Card;
use super::stream::Stream;
use crate::{Error, Result};

/// Set to 0, it makes [`Graph::capture`] record nothing, so that every kernel is launched by itself.
pub const SWITCH: &str = "ROCMFORGE_HIP_GRAPH";

/// Recorded work, ready to be replayed on any stream of its device, one replay at a time. It keeps the addresses it
/// was recorded with: the buffers must live as long as it does, and what changes between replays is read from them
/// (replays with changed kernel arguments have been seen stale, ROCm/hip issue 3887).
#[derive(Debug)]
pub struct Graph {
    card: Arc<Card>,
    exec: hipGraphExec_t,
}

// SAFETY: handles may be used from any thread; replays on streams are ordered by the runtime.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

/// Capture concerns the capturing thread alone: others allocate and synchronize as they like.
const THREAD_LOCAL: i32 = 1;

impl Graph {
    /// Records what `work` gives to the stream; nothing of it runs. None where graphs are switched off, by
    /// [`SWITCH`] or because launches are to be synchronous (HIP_LAUNCH_BLOCKING): the caller then does the work
    /// itself. `work` must not wait for the device, copy through staging, use another stream, or be the first to launch a
    /// kernel (see [`Card::load`]).
    ///
    /// # Errors
    /// Those of `work` or of the runtime; the stream is then as before.
    pub fn capture(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        if is_switched_off(std::env::var_os(SWITCH).as_deref()) || stream.card().launches_are_blocking() {
            return Ok(None);
        }
        let card = stream.card();
        card.enter()?;
        // SAFETY: a live stream of the thread's device.
        card.check(unsafe { card.api().stream_begin_capture(stream.raw(), THREAD_LOCAL) })?;
        let mut capture = Capture { stream, is_open: true };
        work()?;
        let recorded = capture.end()?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: a live graph; the address of a handle to fill.
        card.check(unsafe { card.api().graph_instantiate(&mut exec, recorded.graph, 0) })?;
        Ok(Some(Graph { card: Arc::clone(card), exec }))
    }

    /// Replays the work behind all that was given to the stream.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        self.card.enter()?;
        // SAFETY: live handles of the thread's device.
        self.card.check(unsafe { self.card.api().graph_launch(self.exec, stream.raw()) })?;
        self.card.note_graph(stream.raw());
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`, destroyed once.
        self.card.release(|api| unsafe { api.graph_exec_destroy(self.exec) });
    }
}

fn is_switched_off(value: Option<&std::ffi::OsStr>) -> bool {
    value.is_some_and(|value| value == "0")
}

/// Ends the stream's capture on every way out.
struct Capture<'a> {
    stream: &'a Stream,
    is_open: bool,
}

impl<'a> Capture<'a> {
    fn end(&mut self) -> Result<Recorded<'a>> {
        let card = self.stream.card();
        self.is_open = false;
        let entered = card.enter();
        let mut recorded = Recorded { card, graph: std::ptr::null_mut() };
        // On a lost card too: while a capture is open, the runtime refuses the thread memory of any other card.
        // SAFETY: the stream is being captured; the address of a handle to fill.
        let outcome = unsafe { card.api().stream_end_capture(self.stream.raw(), &mut recorded.graph) };
        if !outcome.is_ok() {
            // What failed before it began leaves the capture open, and the stream takes no other work; what did not
            // is refused the second time.
            // SAFETY: as above.
            let _ = unsafe { card.api().stream_end_capture(self.stream.raw(), &mut recorded.graph) };
        }
        entered?;
        card.check(outcome)?;
        if recorded.graph.is_null() {
            return Err(Error::Internal("a capture gave no graph".into()));
        }
        Ok(recorded)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // the error that ended the work is the one to report
            let _ = self.end();
        }
    }
}

/// A graph before it is made ready to run.
struct Recorded<'a> {
    card: &'a Card,
    graph: hipGraph_t,
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: from stream_end_capture, destroyed once.
            self.card.release(|api| unsafe { api.graph_destroy(self.graph) });
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn zero_alone_switches_graphs_off() {
        for (value, off) in [(None, false), (Some("0"), true), (Some("1"), false), (Some(""), false)] {
            assert_eq!(super::is_switched_off(value.map(std::ffi::OsStr::new)), off, "{value:?}");
        }
    }
}
