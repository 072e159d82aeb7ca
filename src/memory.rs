//! Memory that runs out is an error: nothing aborts because an allocation fails.
//!
//! What a file or a caller sizes is asked for ([`vec()`], [`reserve`], [`text`], ...), and a refusal is
//! [`Error::OutOfMemory`]. Rust's own small allocations (an error's message, an `Arc`, the caches of a crate) cannot be
//! refused: stable Rust ends the process. The global allocator, [`Reserve`], serves them from memory set aside when the
//! system has none. Loops that make many of them call [`check`], which fails once this call had to touch the reserve;
//! crates whose memory grows with their input run in [`with_room`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Error, Result};

/// Rust programs that set a `#[global_allocator]` of their own build this library with the feature `host-allocator`, and
/// may wrap theirs: `static ALLOCATOR: Reserve<Mine> = Reserve(Mine)`.
#[cfg(not(feature = "host-allocator"))]
#[global_allocator]
static ALLOCATOR: Reserve<System> = Reserve(System);

/// Bytes set aside. They are part of the program's zeroed memory: untouched they cost address space only.
const RESERVE_BYTES: usize = 16 << 20;
/// A call begins, and [`with_room`] does without a loan, while no more than this is in use.
const WHOLE_ENOUGH: usize = RESERVE_BYTES / 4;
/// Blocks are multiples of this, in size and place.
const GRANULE: usize = 64;
const GRANULES: usize = RESERVE_BYTES / GRANULE;
const PAGE: usize = 4096;
/// Most calls at once that [`with_room`] has lent memory to.
const LOANS: usize = 256;

#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; RESERVE_BYTES]>);
struct ArenaMap(UnsafeCell<[u64; GRANULES / 64]>);

// SAFETY: blocks are handed out under the lock, each to one owner; the bytes themselves are the owners' affair.
unsafe impl Sync for Arena {}
// SAFETY: read and written under the lock only.
unsafe impl Sync for ArenaMap {}

static ARENA: Arena = Arena(UnsafeCell::new([0; RESERVE_BYTES]));
static ARENA_MAP: ArenaMap = ArenaMap(UnsafeCell::new([0; GRANULES / 64]));
static REGIONS: Regions = Regions::new();
/// Bytes of the arena that are in use.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Of a thread that is in no call.
const OUTSIDE: usize = usize::MAX;

thread_local! {
    /// The thread can take a refusal. (None of these has a destructor: registering one takes memory.)
    static ASKING: Cell<bool> = const { Cell::new(false) };
    /// Allocations of the thread that the reserve has served, and how many those were when its call began.
    static SERVED: Cell<usize> = const { Cell::new(0) };
    static START: Cell<usize> = const { Cell::new(OUTSIDE) };
}

/// An allocator that falls back on the reserve where `A` has no memory, unless the thread is [asking].
pub struct Reserve<A>(pub A);

// SAFETY: what `A` gives goes back to `A`; what the reserve gives is known by its address and goes back there. Blocks of
// the reserve are disjoint, as long and as aligned as asked, and stay in place until given back.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Reserve<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let start = unsafe { self.0.alloc(layout) };
        if start.is_null() { refused(layout) } else { start }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let start = unsafe { self.0.alloc_zeroed(layout) };
        if !start.is_null() {
            return start;
        }
        let start = refused(layout);
        if !start.is_null() {
            // SAFETY: a block of the reserve, of this size.
            unsafe { start.write_bytes(0, layout.size()) };
        }
        start
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if is_reserves(start) && REGIONS.give_back(start, layout) {
            return;
        }
        // SAFETY: not the reserve's, so it came from `A`; the rest is the caller's promise.
        unsafe { self.0.dealloc(start, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_reserves(start) {
            // SAFETY: not the reserve's, so it came from `A`; the rest is the caller's promise.
            let moved = unsafe { self.0.realloc(start, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller's promise: `size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `new` has a size above zero, by the caller's promise.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks hold as many bytes, and are two; the old one is not used any more.
            unsafe {
                ptr::copy_nonoverlapping(start, moved, layout.size().min(size));
                self.dealloc(start, layout);
            }
        }
        moved
    }
}

#[cold]
fn refused(layout: Layout) -> *mut u8 {
    if ASKING.get() { ptr::null_mut() } else { REGIONS.take(layout) }
}

/// Whether the block may be the reserve's; certain where the answer is no.
#[inline]
fn is_reserves(start: *mut u8) -> bool {
    (start as usize).wrapping_sub(ARENA.0.get() as usize) < RESERVE_BYTES
        || (REGIONS.n_loans.load(Ordering::Relaxed) > 0 && REGIONS.is_in_loan(start as usize))
}

/// Memory cut into granules, and a bit for each that is in use.
#[derive(Clone, Copy)]
struct Region {
    start: *mut u8,
    map: *mut u64,
    granules: usize,
    /// Where the next search begins.
    next: usize,
    used: usize,
    /// Of a loan: all of it, as the system gave it. It goes back when nothing is in use and its call has ended.
    layout: Option<Layout>,
    ended: bool,
}

impl Region {
    const NONE: Region = Region {
        start: ptr::null_mut(),
        map: ptr::null_mut(),
        granules: 0,
        next: 0,
        used: 0,
        layout: None,
        ended: false,
    };

    /// # Safety
    /// The region's map is `granules` bits long and no one else's during the call; `word` is within it.
    unsafe fn word(&self, word: usize) -> *mut u64 {
        debug_assert!(word * 64 < self.granules);
        // SAFETY: the caller's promise.
        unsafe { self.map.add(word) }
    }

    /// The last granule in use of `n` from `at` on.
    fn last_used(&self, at: usize, n: usize) -> Option<usize> {
        let (first, last) = (at / 64, (at + n - 1) / 64);
        (first..=last).rev().find_map(|word| {
            // SAFETY: at + n is within the region, and the regions' lock is held.
            let mut bits = unsafe { *self.word(word) };
            if word == last {
                bits &= u64::MAX >> (63 - (at + n - 1) % 64);
            }
            if word == first {
                bits &= u64::MAX << (at % 64);
            }
            (bits != 0).then(|| word * 64 + 63 - bits.leading_zeros() as usize)
        })
    }

    fn mark(&mut self, at: usize, n: usize, used: bool) {
        for granule in at..at + n {
            // SAFETY: at + n is within the region, and the regions' lock is held.
            let word = unsafe { &mut *self.word(granule / 64) };
            let bit = 1 << (granule % 64);
            if used { *word |= bit } else { *word &= !bit }
        }
    }

    fn find(&self, from: usize, to: usize, n: usize, align: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let address = self.start as usize + at * GRANULE;
            at += (address.checked_next_multiple_of(align)? - address) / GRANULE;
            if at.checked_add(n)? > to {
                return None;
            }
            match self.last_used(at, n) {
                None => return Some(at),
                Some(used) => at = used + 1,
            }
        }
    }

    fn take(&mut self, n: usize, align: usize) -> Option<*mut u8> {
        if self.ended || n > self.granules {
            return None;
        }
        let found = self.find(self.next, self.granules, n, align);
        let at = match found {
            Some(at) => at,
            None => self.find(0, self.granules.min(self.next + n), n, align)?,
        };
        self.mark(at, n, true);
        self.next = at + n;
        self.used += n;
        Some(self.start.wrapping_add(at * GRANULE))
    }

    fn holds(&self, address: usize) -> bool {
        address.wrapping_sub(self.start as usize) < self.granules * GRANULE
    }
}

/// The arena, which comes first, and loans.
struct Regions {
    locked: AtomicBool,
    regions: UnsafeCell<[Region; 1 + LOANS]>,
    n_loans: AtomicUsize,
    /// Of `bounds` those that a loan has ever had are the first; never less than before.
    n_bounds: AtomicUsize,
    /// Where each loan starts and ends. Whoever holds a block of a loan sees that loan's: it came before the block, and
    /// stays until the block is given back. For all others it may be any mixture of old and new.
    bounds: [(AtomicUsize, AtomicUsize); LOANS],
}

// SAFETY: `regions` is used under the lock.
unsafe impl Sync for Regions {}

impl Regions {
    const fn new() -> Self {
        Regions {
            locked: AtomicBool::new(false),
            regions: UnsafeCell::new([Region::NONE; 1 + LOANS]),
            n_loans: AtomicUsize::new(0),
            n_bounds: AtomicUsize::new(0),
            bounds: [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; LOANS],
        }
    }

    fn lock(&self) {
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// `f` must neither allocate nor panic.
    fn locked<T>(&self, f: impl FnOnce(&mut [Region; 1 + LOANS]) -> T) -> T {
        self.lock();
        // SAFETY: the lock is held.
        let regions = unsafe { &mut *self.regions.get() };
        if regions[0].granules == 0 {
            regions[0] = Region {
                start: ARENA.0.get().cast(),
                map: ARENA_MAP.0.get().cast(),
                granules: GRANULES,
                ..Region::NONE
            };
        }
        let value = f(regions);
        self.locked.store(false, Ordering::Release);
        value
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let n = layout.size().div_ceil(GRANULE).max(1);
        let taken = self.locked(|regions| {
            // loans first: they are for this
            let take = |region: &mut Region| region.take(n, layout.align());
            regions.iter_mut().enumerate().rev().find_map(|(i, region)| Some((i, take(region)?)))
        });
        let Some((index, start)) = taken else { return ptr::null_mut() };
        if index == 0 {
            USED.fetch_add(n * GRANULE, Ordering::Relaxed);
        }
        SERVED.set(SERVED.get().wrapping_add(1));
        start
    }

    /// False: it is none of ours.
    fn give_back(&self, start: *mut u8, layout: Layout) -> bool {
        let n = layout.size().div_ceil(GRANULE).max(1);
        let found = self.locked(|regions| {
            let index = regions.iter().position(|region| region.holds(start as usize))?;
            let region = &mut regions[index];
            region.mark((start as usize - region.start as usize) / GRANULE, n, false);
            region.used -= n;
            if index == 0 {
                USED.fetch_sub(n * GRANULE, Ordering::Relaxed);
            }
            Some(self.close(index, region))
        });
        let Some(closed) = found else { return false };
        Self::return_loan(closed);
        true
    }

    fn is_in_loan(&self, address: usize) -> bool {
        self.bounds[..self.n_bounds.load(Ordering::Relaxed)].iter().any(|(start, end)| {
            (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&address)
        })
    }

    /// Takes the loan at `index` off the list if it has ended and nothing of it is in use; it is to be returned.
    fn close(&self, index: usize, region: &mut Region) -> Option<(*mut u8, Layout)> {
        let layout = region.layout.filter(|_| region.ended && region.used == 0)?;
        let whole = region.map.cast::<u8>();
        *region = Region::NONE;
        let (start, end) = &self.bounds[index - 1];
        end.store(0, Ordering::Relaxed);
        start.store(0, Ordering::Relaxed);
        self.n_loans.fetch_sub(1, Ordering::Relaxed);
        Some((whole, layout))
    }

    fn return_loan(closed: Option<(*mut u8, Layout)>) {
        if let Some((whole, layout)) = closed {
            // SAFETY: `lend` had it from the system with this layout, and nothing refers to it any more.
            unsafe { System.dealloc(whole, layout) };
        }
    }

    /// Lends `bytes` of the system's to whoever is refused memory from now on; the loan's number.
    fn lend(&self, bytes: usize) -> Option<usize> {
        // a map, then the granules; some more, for alignment and pieces
        let granules = bytes.div_ceil(GRANULE).checked_add(bytes / GRANULE / 4 + PAGE / GRANULE)?;
        let map_bytes = granules.div_ceil(64).checked_mul(8)?.checked_next_multiple_of(PAGE)?;
        let layout =
            Layout::from_size_align(granules.checked_mul(GRANULE)?.checked_add(map_bytes)?, PAGE).ok()?;
        // not zeroed, so that it is address space until it is used
        // SAFETY: the size is above zero.
        let whole = NonNull::new(unsafe { System.alloc(layout) })?.as_ptr();
        // SAFETY: the map comes first.
        unsafe { whole.write_bytes(0, map_bytes) };
        let start = whole.wrapping_add(map_bytes);
        let loan = self.locked(|regions| {
            let index = (1..regions.len()).find(|index| regions[*index].granules == 0)?;
            regions[index] =
                Region { start, map: whole.cast(), granules, layout: Some(layout), ..Region::NONE };
            let (first, end) = &self.bounds[index - 1];
            first.store(start as usize, Ordering::Relaxed);
            end.store(start as usize + granules * GRANULE, Ordering::Relaxed);
            self.n_bounds.fetch_max(index, Ordering::Relaxed);
            self.n_loans.fetch_add(1, Ordering::Relaxed);
            Some(index)
        });
        if loan.is_none() {
            Self::return_loan(Some((whole, layout)));
        }
        loan
    }

    fn end_loan(&self, index: usize) {
        let closed = self.locked(|regions| {
            regions[index].ended = true;
            self.close(index, &mut regions[index])
        });
        Self::return_loan(closed);
    }
}

/// Keeps the reserve as it is until [`let_go`], for a fork.
pub(crate) extern "C" fn hold() {
    REGIONS.lock();
}

pub(crate) extern "C" fn let_go() {
    REGIONS.locked.store(false, Ordering::Release);
}

/// A thread's call of the library, until dropped: [`check`] looks back to its beginning.
pub struct Call {
    before: usize,
}

impl Call {
    /// Error::OutOfMemory where so much of the reserve is in use that a call might run out of it.
    pub fn begin() -> Result<Self> {
        match USED.load(Ordering::Relaxed) {
            used if used > WHOLE_ENOUGH => Err(exhausted("the call", 0)),
            _ => Ok(Self::begin_anyway()),
        }
    }

    /// For what must be done whatever there is: releases, errors.
    pub fn begin_anyway() -> Self {
        Call { before: START.replace(SERVED.get()) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        START.set(self.before);
    }
}

/// Error::OutOfMemory once the reserve had to serve the thread since its [`Call`] began, or much of it is in use. For loops of many small allocations, and before something is made that lasts.
#[inline]
pub fn check() -> Result<()> {
    let start = START.get();
    let touched = start != OUTSIDE && SERVED.get() != start;
    if touched || USED.load(Ordering::Relaxed) > WHOLE_ENOUGH {
        return Err(exhausted("small things", 0));
    }
    Ok(())
}

/// Runs `f`, which allocates up to `bytes` in all, in whatever pieces, and cannot be refused any; then checks whether
/// it went without the reserve. What it leaves may live on.
pub fn with_room<T>(bytes: usize, what: &str, f: impl FnOnce() -> T) -> Result<T> {
    struct Loan(usize);
    impl Drop for Loan {
        fn drop(&mut self) {
            REGIONS.end_loan(self.0);
        }
    }
    // a quarter is left for other threads
    let enough = USED.load(Ordering::Relaxed).saturating_add(bytes) <= RESERVE_BYTES - WHOLE_ENOUGH;
    let loan =
        if enough { None } else { Some(Loan(REGIONS.lend(bytes).ok_or_else(|| exhausted(what, bytes))?)) };
    let value = f();
    drop(loan);
    check()?;
    Ok(value)
}

/// Runs `f` in which a refused allocation is a refusal: for allocations that can fail.
#[inline]
pub fn asking<T>(f: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ASKING.set(self.0);
        }
    }
    let _before = Before(ASKING.replace(true));
    f()
}

/// The error of `wanted` bytes (0: unknown) for `what` that could not be had.
#[cold]
pub fn exhausted(what: &str, wanted: usize) -> Error {
    Error::OutOfMemory { what: what.to_owned(), wanted: wanted as u64, free: 0, total: 0 }
}

fn refusal<T>(n: usize, what: &str) -> Error {
    exhausted(what, n.saturating_mul(size_of::<T>()))
}

/// An empty vector with room for exactly `n`.
pub fn vec<T>(n: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    asking(|| vec.try_reserve_exact(n)).map_err(|_| refusal::<T>(n, what))?;
    Ok(vec)
}

/// Makes room for `more`, growing as vectors grow.
#[inline]
pub fn reserve<T>(vec: &mut Vec<T>, more: usize, what: &str) -> Result<()> {
    if vec.capacity() - vec.len() >= more {
        return Ok(());
    }
    asking(|| vec.try_reserve(more)).map_err(|_| refusal::<T>(vec.len().saturating_add(more), what))
}

#[inline]
pub fn push<T>(vec: &mut Vec<T>, value: T, what: &str) -> Result<()> {
    reserve(vec, 1, what)?;
    vec.push(value);
    Ok(())
}

/// Appends the values.
pub fn extend<T: Copy>(vec: &mut Vec<T>, values: &[T], what: &str) -> Result<()> {
    reserve(vec, values.len(), what)?;
    vec.extend_from_slice(values);
    Ok(())
}

/// `n` times the value.
pub fn filled<T: Clone>(value: T, n: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = vec(n, what)?;
    vec.resize(n, value);
    Ok(vec)
}

/// What the iterator gives.
pub fn collect<T>(values: impl IntoIterator<Item = T>, what: &str) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut all = vec(values.size_hint().0, what)?;
    for value in values {
        push(&mut all, value, what)?;
    }
    Ok(all)
}

/// The same, up to the first error.
pub fn try_collect<T>(values: impl IntoIterator<Item = Result<T>>, what: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for value in values {
        push(&mut all, value?, what)?;
    }
    Ok(all)
}

/// Makes room for `more` entries.
pub fn reserve_map<K: Eq + Hash, V, S: BuildHasher>(
    map: &mut HashMap<K, V, S>,
    more: usize,
    what: &str,
) -> Result<()> {
    asking(|| map.try_reserve(more)).map_err(|_| refusal::<(K, V)>(map.len().saturating_add(more), what))
}

/// The same.
pub fn reserve_set<K: Eq + Hash, S: BuildHasher>(
    set: &mut HashSet<K, S>,
    more: usize,
    what: &str,
) -> Result<()> {
    asking(|| set.try_reserve(more)).map_err(|_| refusal::<K>(set.len().saturating_add(more), what))
}

/// The same.
#[inline]
pub fn reserve_heap<T: Ord>(heap: &mut BinaryHeap<T>, more: usize, what: &str) -> Result<()> {
    if heap.capacity() - heap.len() >= more {
        return Ok(());
    }
    asking(|| heap.try_reserve(more)).map_err(|_| refusal::<T>(heap.len().saturating_add(more), what))
}

/// A copy of the text.
pub fn text(text: &str, what: &str) -> Result<String> {
    let mut copy = String::new();
    append(&mut copy, text, what)?;
    Ok(copy)
}

/// Makes room for `more` bytes.
#[inline]
pub fn reserve_text(text: &mut String, more: usize, what: &str) -> Result<()> {
    if text.capacity() - text.len() >= more {
        return Ok(());
    }
    asking(|| text.try_reserve(more)).map_err(|_| exhausted(what, text.len().saturating_add(more)))
}

/// Appends `more`.
pub fn append(text: &mut String, more: &str, what: &str) -> Result<()> {
    reserve_text(text, more.len(), what)?;
    text.push_str(more);
    Ok(())
}

/// As much of the text as `max` bytes hold, cut between characters.
pub fn beginning(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The text with each `from` replaced.
pub fn replaced(text: &str, from: char, to: &str, what: &str) -> Result<String> {
    let (n, longer) = (text.matches(from).count(), to.len().saturating_sub(from.len_utf8()));
    let bytes = text.len().saturating_add(n.saturating_mul(longer));
    let mut out = String::new();
    asking(|| out.try_reserve_exact(bytes)).map_err(|_| exhausted(what, bytes))?;
    for (i, part) in text.split(from).enumerate() {
        if i > 0 {
            out.push_str(to);
        }
        out.push_str(part);
    }
    Ok(out)
}

/// Text that is written to (`write!`) and cannot always grow: after an error of formatting, [`Writer::finish`] has the
/// reason.
pub struct Writer<'a> {
    pub text: String,
    what: &'a str,
    refused: Option<Error>,
}

impl<'a> Writer<'a> {
    pub fn new(what: &'a str) -> Self {
        Writer { text: String::new(), what, refused: None }
    }

    /// Appends, unless memory was refused already; [`finish`](Self::finish) tells.
    pub fn push(&mut self, more: &str) {
        if self.refused.is_none() {
            self.refused = append(&mut self.text, more, self.what).err();
        }
    }

    pub fn finish(self) -> Result<String> {
        match self.refused {
            None => Ok(self.text),
            Some(error) => Err(error),
        }
    }
}

impl std::fmt::Write for Writer<'_> {
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        self.push(more);
        if self.refused.is_some() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// For text in whole characters.
impl std::io::Write for Writer<'_> {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        let text = std::str::from_utf8(more).map_err(|_| std::io::ErrorKind::InvalidData)?;
        self.push(text);
        if self.refused.is_some() { Err(std::io::ErrorKind::OutOfMemory.into()) } else { Ok(more.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// For tests that lend, or take what is set aside: what one is refused another's loan must not serve, nor lie where it
    /// was.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// Has none.
    struct Nothing;
    // SAFETY: it gives nothing out.
    unsafe impl GlobalAlloc for Nothing {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
            panic!("a block of the reserve went to the system");
        }
    }

    proptest! {
        /// Blocks are disjoint, aligned, keep their bytes, and the arena is whole again after them.
        #[test]
        fn blocks_keep_to_themselves(
            steps in prop::collection::vec((0..4u8, 1..10_000usize, 0..13u32, 0..200usize), 1..200)
        ) {
            let _alone = alone();
            let memory = Reserve(Nothing);
            let mut blocks: BTreeMap<usize, (Layout, u8)> = BTreeMap::new();
            for (i, (op, size, align, which)) in steps.into_iter().enumerate() {
                let mark = i as u8;
                let chosen = blocks.keys().copied().nth(which % blocks.len().max(1));
                match (op, chosen) {
                    (0, Some(start)) => {
                        let (layout, mark) = blocks.remove(&start).unwrap();
                        // SAFETY: a live block with its layout.
                        unsafe {
                            let bytes = std::slice::from_raw_parts(start as *const u8, layout.size());
                            prop_assert!(bytes.iter().all(|b| *b == mark));
                            memory.dealloc(start as *mut u8, layout);
                        }
                    }
                    (1, Some(start)) => {
                        let (old, mark) = blocks.remove(&start).unwrap();
                        // SAFETY: a live block with its layout.
                        let moved = unsafe { memory.realloc(start as *mut u8, old, size) };
                        prop_assert!(!moved.is_null());
                        // SAFETY: it has `size` bytes, as many of them as it had before from there.
                        unsafe {
                            let kept = std::slice::from_raw_parts(moved, size.min(old.size()));
                            prop_assert!(kept.iter().all(|b| *b == mark));
                            moved.write_bytes(mark, size);
                        }
                        blocks.insert(moved as usize, (layout(size, old.align()), mark));
                    }
                    _ => {
                        let layout = layout(size, 1 << align);
                        // SAFETY: the size is above zero.
                        let start = unsafe { memory.alloc(layout) };
                        prop_assert!(!start.is_null());
                        prop_assert_eq!(start as usize % layout.align(), 0);
                        // SAFETY: it has that many bytes.
                        unsafe { start.write_bytes(mark, size) };
                        blocks.insert(start as usize, (layout, mark));
                    }
                }
                let mut end = 0;
                for (start, (layout, _)) in &blocks {
                    prop_assert!(*start >= end);
                    end = start + layout.size();
                }
            }
            for (start, (layout, _)) in blocks {
                // SAFETY: a live block with its layout.
                unsafe { memory.dealloc(start as *mut u8, layout) };
            }
        }
    }

    #[test]
    fn what_is_asked_for_is_refused_and_the_rest_served() {
        let _alone = alone();
        let memory = Reserve(Nothing);
        let small = layout(100, 8);
        // SAFETY: the sizes are above zero; the block is given back with its layout.
        unsafe {
            assert!(asking(|| memory.alloc(small)).is_null());
            assert!(memory.alloc(layout(RESERVE_BYTES + 1, 8)).is_null());
            let call = Call::begin().unwrap();
            check().unwrap();
            let start = memory.alloc_zeroed(small);
            assert!(!start.is_null());
            assert!(check().is_err(), "the reserve was touched");
            memory.dealloc(start, small);
            assert!(check().is_err(), "by this call");
            drop(call);
            let _call = Call::begin().unwrap();
            check().unwrap();
        }
        assert!(
            matches!(vec::<u64>(1 << 60, "much"), Err(Error::OutOfMemory { wanted, .. }) if wanted == 1 << 63)
        );
    }

    #[test]
    fn a_loan_serves_what_the_reserve_does_not_hold_and_goes_back() {
        let _alone = alone();
        let memory = Reserve(Nothing);
        let large = layout(3 * RESERVE_BYTES, PAGE);
        let _call = Call::begin().unwrap();
        let (mut a, mut b) = (ptr::null_mut(), ptr::null_mut());
        let outcome = with_room(2 * large.size(), "a test", || {
            // SAFETY: the sizes are above zero.
            unsafe { (a, b) = (memory.alloc(large), memory.alloc(large)) };
        });
        assert!(!a.is_null() && !b.is_null());
        assert!(outcome.is_err(), "it did not go without");
        // SAFETY: live blocks with their layout.
        unsafe {
            a.write_bytes(1, large.size());
            b.write_bytes(2, large.size());
            assert_eq!(*a, 1);
            memory.dealloc(a, large);
            assert!(REGIONS.is_in_loan(b as usize), "the other is in use");
            assert!(memory.alloc(large).is_null(), "the loan has ended");
            memory.dealloc(b, large);
        }
        assert!(!REGIONS.is_in_loan(b as usize));
        assert!(with_room(1 << 60, "too much", || ()).is_err());
    }

    /// As many conversations at once as a server may have.
    #[test]
    fn loans_go_to_many_calls_at_once() {
        let _alone = alone();
        fn nested(n: usize) -> Result<()> {
            if n == 0 { Ok(()) } else { with_room(RESERVE_BYTES, "a test", || nested(n - 1))? }
        }
        nested(100).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_loan_is_address_space_until_it_is_used() {
        let _alone = alone();
        let index = REGIONS.lend(1 << 28).unwrap();
        let (start, end) = &REGIONS.bounds[index - 1];
        let (start, end) = (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed));
        let mut there = vec![0; (end - start) / PAGE];
        // SAFETY: whole pages of the loan's, and a byte for each.
        let code = unsafe { libc::mincore(start as *mut _, there.len() * PAGE, there.as_mut_ptr()) };
        assert_eq!(code, 0);
        REGIONS.end_loan(index);
        assert!(there.iter().filter(|page| **page & 1 != 0).count() < there.len() / 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_fork_leaves_the_reserve_whole() {
        let _alone = alone();
        crate::fork::watch().unwrap();
        let held = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                REGIONS.locked(|_| {
                    held.store(true, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(200));
                });
            });
            while !held.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // SAFETY: the child borrows memory and ends, by a signal if that hangs.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: as above.
                unsafe {
                    libc::alarm(20);
                    libc::_exit(i32::from(with_room(RESERVE_BYTES, "a test", || ()).is_err()));
                }
            }
            let mut status = 0;
            // SAFETY: a child of this process; a pointer to this frame.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child hung");
        });
    }

    #[test]
    fn copies_are_equal() {
        assert_eq!(replaced("a b  ", ' ', "\u{2581}", "text").unwrap(), "a b  ".replace(' ', "\u{2581}"));
        assert_eq!(replaced("\u{2581}a", '\u{2581}', " ", "text").unwrap(), " a");
        assert_eq!(collect(1..4, "numbers").unwrap(), [1, 2, 3]);
        assert_eq!(filled(7, 2, "numbers").unwrap(), [7, 7]);
        assert_eq!(text("x", "text").unwrap(), "x");
        assert!(try_collect([Ok(1), Err(Error::Cancelled)], "numbers").is_err());
    }
}
