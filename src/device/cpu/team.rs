//! The thread team: persistent workers that run one parallel region at a time.
//!
//! A region runs one function on every thread, which divides itself into *phases* of chunks; all
//! threads meet the same phases in the same order. A phase ends when its chunks are done, not when
//! all threads have arrived: a thread that the system has taken off its core holds up nobody
//! unless it holds a chunk, and skips the phases it has missed.

use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use super::turns::Turns;
use crate::device::Cancel;
use crate::fork::{self, Epoch};
use crate::worker::{self, Thread};
use crate::{Error, Result, memory, panics};

/// How long an idle worker spins before it sleeps: longer than a sampler takes between two steps.
const IDLE_SPIN: Duration = Duration::from_micros(200);

/// Spins (some 10 to 40 ns each) inside a region before a waiting thread offers its core to others.
const SPINS_BEFORE_YIELD: u32 = 1000;

/// The region was stopped before its end; leave it.
#[derive(Debug)]
pub struct Stopped;

type Job<'a> = dyn Fn(&Worker<'_>) -> Result<(), Stopped> + Sync + 'a;

/// A value alone on its cache lines (two: processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Lone<T>(T);

struct Shared {
    /// Counts regions: odd while one is open.
    epoch: Lone<AtomicU64>,
    /// The open region's function. Written only while the region is closed and no worker active.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Workers, the leader apart, that may be using `job`.
    active: Lone<AtomicUsize>,
    /// (phase << 32) | next chunk to be taken.
    ticket: Lone<AtomicU64>,
    /// Chunks done in the phase.
    done: Lone<AtomicU32>,
    stopped: AtomicBool,
    /// What the first thread that panicked in the region said.
    panicked: Mutex<Option<String>>,
    shutdown: AtomicBool,
    /// Workers asleep; changed under `sleep`.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written by the leader, whose turn of
// `Team::regions` it is, while the region is closed and `active` is 0, and read by a worker that has made
// itself active and has then seen the region open.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used only between those two events.
unsafe impl Send for Shared {}

/// Persistent threads; the calling thread of [`Team::run`] is one of them. Dropping joins them.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    regions: Turns,
    made: Epoch,
}

/// One thread's view of the open region.
pub struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    n_workers: usize,
    /// Phases of this region that this thread has met.
    phase: Cell<u32>,
}

impl Team {
    pub fn new(n_threads: usize) -> Result<Self> {
        fork::watch()?;
        let threads = memory::vec(n_threads.saturating_sub(1), "threads")?;
        let shared = Arc::new(Shared {
            epoch: Lone(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            active: Lone::default(),
            ticket: Lone::default(),
            done: Lone::default(),
            stopped: AtomicBool::new(false),
            panicked: Mutex::new(None),
            shutdown: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut team = Team { shared, threads, regions: Turns::default(), made: Epoch::now() };
        for index in 1..n_threads {
            let shared = Arc::clone(&team.shared);
            team.threads.push(worker::spawn(&index.to_string(), move || shared.work(index, n_threads))?);
        }
        Ok(team)
    }

    pub fn n_threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job` on every thread and returns when all have left it. Regions wanted by several threads follow one
    /// another, first come, first served. Not to be called from inside a region.
    ///
    /// # Errors
    /// Error::Internal: a thread panicked. Error::Forked: the threads stayed in the parent process.
    pub fn run(&self, job: &(dyn Fn(&Worker<'_>) -> Result<(), Stopped> + Sync)) -> Result<()> {
        self.run_unless(&Cancel::default(), job)
    }

    /// As [`run`](Self::run); Error::Cancelled when that is asked for while others have the threads. `job` sees to it
    /// from then on.
    pub fn run_unless(
        &self,
        cancel: &Cancel,
        job: &(dyn Fn(&Worker<'_>) -> Result<(), Stopped> + Sync),
    ) -> Result<()> {
        self.made.check("backend")?;
        let _region = self.regions.wait(|| cancel.is_requested()).ok_or(Error::Cancelled)?;
        let s = &*self.shared;
        s.ticket.0.store(0, Ordering::Relaxed);
        s.done.0.store(0, Ordering::Relaxed);
        s.stopped.store(false, Ordering::Relaxed);
        *lock(&s.panicked) = None;
        // SAFETY: only the lifetime changes: no worker uses the pointer after this function returns, which
        // waits below until the region is closed and no worker is active.
        let job_static = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the region is closed and no worker is active (see `Shared`).
        unsafe { *s.job.get() = Some(job_static) };
        s.epoch.0.fetch_add(1, Ordering::SeqCst);
        if s.sleepers.load(Ordering::SeqCst) > 0 {
            let _sleep = lock(&s.sleep);
            s.wake.notify_all();
        }

        s.run_job(job, 0, self.n_threads());

        // Closing comes before the look at `active`, a worker's `active` before its look at the epoch, all
        // SeqCst: a worker that has seen the region open is seen here.
        s.epoch.0.fetch_add(1, Ordering::SeqCst);
        let mut wait = Wait::new();
        while s.active.0.load(Ordering::SeqCst) != 0 {
            wait.pause();
        }
        match lock(&s.panicked).take() {
            Some(text) => Err(Error::Internal(format!("a compute thread panicked: {text}"))),
            None => Ok(()),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.made.is_past() {
            // threads of the parent: there is nobody to wake or to wait for, and locks may never be given back
            std::mem::take(&mut self.threads).into_iter().for_each(std::mem::forget);
            return;
        }
        self.shared.shutdown.store(true, Ordering::SeqCst);
        {
            let _sleep = lock(&self.shared.sleep);
            self.shared.wake.notify_all();
        }
        self.threads.clear(); // joins them
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize, n_workers: usize) {
        let mut last = 0;
        while let Some(epoch) = self.next_region(last) {
            last = epoch;
            self.active.0.fetch_add(1, Ordering::SeqCst);
            if self.epoch.0.load(Ordering::SeqCst) == epoch {
                // SAFETY: the region is open and this worker is active, so the leader has written the job and
                // keeps it alive until `active` is 0 (see `Team::run`).
                let job = unsafe { (*self.job.get()).map(|job| &*job) };
                if let Some(job) = job {
                    self.run_job(job, index, n_workers);
                }
            }
            self.active.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn run_job(&self, job: &Job<'_>, index: usize, n_workers: usize) {
        let worker = Worker { shared: self, index, n_workers, phase: Cell::new(0) };
        // the outcome of a panic is thrown away with the step's results: nothing half-done is looked at
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&worker))) {
            // of every panic: its place is taken too, and its payload's drop may not panic here
            let text = panics::text_of(panic);
            lock(&self.panicked).get_or_insert(text);
            self.stopped.store(true, Ordering::Release);
        }
    }

    /// Waits for an open region other than `last`; None at shutdown.
    fn next_region(&self, last: u64) -> Option<u64> {
        let news = || {
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            (epoch % 2 == 1 && epoch != last).then_some(epoch)
        };
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if self.shutdown.load(Ordering::Relaxed) {
                    return None;
                }
                if let Some(epoch) = news() {
                    return Some(epoch);
                }
                spin_loop();
            }
            if start.elapsed() > IDLE_SPIN {
                break;
            }
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // SeqCst on `sleepers` and the epoch: either this thread sees the new region or the leader, which
        // opens it first, sees a sleeper and then waits for the lock that this thread gives up in `wait`.
        let next = loop {
            if self.shutdown.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(epoch) = news() {
                break Some(epoch);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        next
    }
}

impl Worker<'_> {
    /// 0 is the thread that called [`Team::run`].
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn n_workers(&self) -> usize {
        self.n_workers
    }

    /// Ends the region early: every thread's next [`Phase::finish`] is Err.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
    }

    /// The next phase, of `n_chunks` chunks that any thread may take.
    pub fn phase(&self, n_chunks: usize) -> Phase<'_> {
        debug_assert!(n_chunks < u32::MAX as usize);
        let number = self.phase.get();
        self.phase.set(number + 1);
        Phase { shared: self.shared, number, n_chunks: n_chunks as u32, mine: 0 }
    }

    /// A phase that calls `f` once per chunk.
    pub fn for_each(&self, n_chunks: usize, mut f: impl FnMut(usize)) -> Result<(), Stopped> {
        let mut phase = self.phase(n_chunks);
        while let Some(chunk) = phase.take() {
            f(chunk);
        }
        phase.finish()
    }

    /// A phase that the leader alone works in, the others waiting.
    pub fn leader(&self, f: impl FnOnce()) -> Result<(), Stopped> {
        let mut phase = self.phase(1);
        if self.index == 0 && phase.take().is_some() {
            f();
        }
        phase.finish()
    }
}

/// A phase as one thread sees it. What a chunk reads may be touched only between `take` and the next
/// `take`: outside, the phase may be over already and a later one under way.
pub struct Phase<'a> {
    shared: &'a Shared,
    number: u32,
    n_chunks: u32,
    /// Chunks taken by this thread and not yet counted as done.
    mine: u32,
}

impl Phase<'_> {
    /// A chunk to do; None when all are taken.
    pub fn take(&mut self) -> Option<usize> {
        let s = self.shared;
        let mut ticket = s.ticket.0.load(Ordering::Acquire);
        loop {
            let over = (ticket >> 32) as u32 != self.number || ticket as u32 >= self.n_chunks;
            if over || s.stopped.load(Ordering::Relaxed) {
                return None;
            }
            match s.ticket.0.compare_exchange_weak(ticket, ticket + 1, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    self.mine += 1;
                    return Some(ticket as u32 as usize);
                }
                Err(now) => ticket = now,
            }
        }
    }

    /// Waits until all chunks are done.
    pub fn finish(self) -> Result<(), Stopped> {
        let s = self.shared;
        let number = self.number;
        if self.n_chunks == 0 {
            // nobody can finish the last chunk: the first to come ends the phase
            let (from, to) = (u64::from(number) << 32, u64::from(number + 1) << 32);
            let _ = s.ticket.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        } else if self.mine > 0 {
            let done = s.done.0.fetch_add(self.mine, Ordering::AcqRel) + self.mine;
            if done == self.n_chunks {
                s.done.0.store(0, Ordering::Relaxed);
                s.ticket.0.store(u64::from(number + 1) << 32, Ordering::Release);
            }
        }
        let mut wait = Wait::new();
        loop {
            if s.stopped.load(Ordering::Acquire) {
                return Err(Stopped);
            }
            if (s.ticket.0.load(Ordering::Acquire) >> 32) as u32 != number {
                return Ok(());
            }
            wait.pause();
        }
    }
}

/// Spins, and after a while lets others have the core at each turn.
struct Wait(u32);

impl Wait {
    fn new() -> Self {
        Wait(0)
    }
    fn pause(&mut self) {
        if self.0 < SPINS_BEFORE_YIELD {
            self.0 += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

/// What lies under these locks is whole at any moment: a panic elsewhere cannot have spoilt it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
