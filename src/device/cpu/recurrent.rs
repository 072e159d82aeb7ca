//! Ops with a recurrent state: causal convolution and the gated delta rule. A sequence's tokens are taken in order, its
//! channels or heads side by side; so a token's result does not depend on the step that it is in.

use super::elementwise as ew;
use super::memory::{Matrix, Zeroed};
use super::simd::{Kernel, Simd};
use super::step::{Done, Running, Tile};
use super::team::Worker;
use crate::plan::{DeltaShape, State, StateId, Unary, ValueId};
use crate::{Result, memory};

/// Recurrent states, f32: `[slot][state][elements]`.
pub struct StateStore {
    memory: Zeroed<f32>,
    /// Where each state begins in a slot, and how long a slot is.
    starts: Vec<usize>,
    n_slots: usize,
}

impl StateStore {
    pub fn new(states: &[State], n_slots: usize) -> Result<Self> {
        let memory = Zeroed::new(Self::len(states, n_slots), "recurrent state")?;
        let mut starts = memory::vec(states.len() + 1, "recurrent state")?;
        let mut start = 0;
        for state in states {
            starts.push(start);
            start += padded(state).unwrap_or(0);
        }
        starts.push(start);
        Ok(StateStore { memory, starts, n_slots })
    }

    fn len(states: &[State], n_slots: usize) -> Option<usize> {
        let slot = states.iter().try_fold(0usize, |sum, state| sum.checked_add(padded(state)?));
        slot.and_then(|slot| slot.checked_mul(n_slots))
    }

    /// Bytes that such states take.
    pub fn bytes_of(states: &[State], n_slots: usize) -> u64 {
        Zeroed::<f32>::bytes_of(Self::len(states, n_slots))
    }

    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The state in a slot, `elements` long.
    fn at(&self, id: StateId, slot: u32) -> *mut f32 {
        let (slot, at) = (slot as usize, id.0 as usize);
        assert!(slot < self.n_slots && at + 1 < self.starts.len());
        let stride = self.starts[self.starts.len() - 1];
        // SAFETY: inside the allocation of `n_slots` times the stride, as just checked.
        unsafe { self.memory.ptr().add(slot * stride + self.starts[at]) }
    }
}

/// Elements of a state's place: whole cache lines.
fn padded(state: &State) -> Option<usize> {
    state.elements.checked_next_multiple_of(16)
}

/// An `Op::Conv`: the weight has a row a channel.
pub struct Convolution<'a> {
    pub x: ValueId,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub silu: bool,
    pub state: StateId,
    pub out: ValueId,
}

/// Channels that a chunk convolves.
const CHANNELS: usize = 64;

/// An `Op::DeltaNet` of q, k, v, g, beta.
pub struct Delta {
    pub inputs: [ValueId; 5],
    pub shape: DeltaShape,
    pub scale: f32,
    pub state: StateId,
    pub out: ValueId,
}

/// Columns of a head's matrix that a chunk takes: a strip of them stays in the first-level cache from token to token.
const COLUMNS: usize = 64;

impl Running<'_> {
    /// Where a run of tokens finds a state, null for zeros, and where it leaves it.
    fn state(&self, run: Tile, id: StateId) -> (*const f32, *mut f32) {
        let slots = self.step.states[self.step.sequences[run.first] as usize];
        let of = &self.session.states;
        (slots.read.map_or(std::ptr::null(), |slot| of.at(id, slot).cast_const()), of.at(id, slots.write))
    }

    pub fn conv(&self, worker: &Worker<'_>, of: &Convolution<'_>) -> Done {
        let [x, out] = [of.x, of.out].map(|id| self.session.buffer(id));
        let (runs, chunks) = (&self.session.runs, x.width.div_ceil(CHANNELS));
        worker.for_each(runs.len() * chunks, |chunk| {
            let (run, first) = (runs[chunk / chunks], chunk % chunks * CHANNELS);
            let len = CHANNELS.min(x.width - first);
            // SAFETY: x is not written in this phase, nor is the slot that is read; the channels' columns of `out` and of
            // the slot that is written are the chunk's own.
            unsafe { self.conv_channels(of, [x, out], run, first, len) };
        })
    }

    /// # Safety
    /// Nobody writes x or the state that the run reads, or uses the channels' columns of `out` and of the state that it
    /// writes.
    unsafe fn conv_channels(
        &self,
        of: &Convolution<'_>,
        [x, out]: [Matrix; 2],
        run: Tile,
        first: usize,
        len: usize,
    ) {
        let (width, k) = (x.width, of.weight.len() / x.width);
        let (read, write) = self.state(run, of.state);
        // row `at` of the inputs, of which the first k - 1 stand in the state
        let row = |at: usize| -> Option<&[f32]> {
            match at.checked_sub(k - 1) {
                // SAFETY: a row of the run; the caller's promise.
                Some(t) => Some(unsafe { x.part(run.first + t, first, len) }),
                None if read.is_null() => None,
                // SAFETY: the state has k - 1 rows as wide as x; the caller's promise.
                None => Some(unsafe { std::slice::from_raw_parts(read.add(at * width + first), len) }),
            }
        };
        // SAFETY: the caller's promise.
        let result = |t: usize| unsafe { out.part_mut(run.first + t, first, len) };
        for i in 0..k {
            let mut weight = [0.0f32; CHANNELS];
            for (weight, channel) in weight.iter_mut().zip(first..first + len) {
                *weight = of.weight[channel * k + i];
            }
            for t in 0..run.n {
                let to = result(t);
                if i == 0 {
                    to.fill(0.0);
                }
                for ((to, x), weight) in to.iter_mut().zip(row(t + i).unwrap_or_default()).zip(&weight) {
                    *to += weight * x;
                }
            }
        }
        for t in 0..run.n {
            let to = result(t);
            if let Some(bias) = of.bias {
                to.iter_mut().zip(&bias[first..]).for_each(|(to, bias)| *to += bias);
            }
            if of.silu {
                let to = to.as_mut_ptr();
                // SAFETY: `to` is `len` elements long, and may be overwritten by its own function.
                unsafe { ew::unary(self.isa(), Unary::Silu, to, to, len) };
            }
        }
        for i in 0..k - 1 {
            // SAFETY: as `row`, of the slot that is written, which is not the one that is read.
            let to = unsafe { std::slice::from_raw_parts_mut(write.add(i * width + first), len) };
            match row(run.n + i) {
                Some(x) => to.copy_from_slice(x),
                None => to.fill(0.0),
            }
        }
    }

    pub fn delta_net(&self, worker: &Worker<'_>, of: &Delta) -> Done {
        let inputs = of.inputs.map(|id| self.session.buffer(id));
        let (out, shape) = (self.session.buffer(of.out), of.shape);
        let DeltaShape { n_k, n_v, k, v, .. } = shape;
        let widths = [n_k * k, n_k * k, n_v * v, if shape.g_by_row { n_v * k } else { n_v }, n_v];
        let state = self.plan().state(of.state).elements;
        assert!(inputs.map(|x| x.width) == widths && out.width == n_v * v && state == n_v * k * v);
        let (runs, strips) = (&self.session.runs, v.div_ceil(COLUMNS));
        worker.for_each(runs.len() * n_v * strips, |chunk| {
            let (run, head, strip) =
                (runs[chunk / (n_v * strips)], chunk / strips % n_v, chunk % strips * COLUMNS);
            let (read, write) = self.state(run, of.state);
            let at = head * k * v + strip;
            let read = if read.is_null() { read } else { read.wrapping_add(at) };
            let strip = Strip {
                inputs,
                out,
                run,
                shape,
                head,
                first: strip,
                len: COLUMNS.min(v - strip),
                scale: of.scale,
                read,
                write: write.wrapping_add(at),
            };
            // SAFETY: the path is available. The inputs and the slot that is read are not written in this phase; the
            // head's columns of `out` and of the slot that is written are the chunk's own. All lie inside by the
            // widths just compared.
            unsafe { self.isa().run(strip) };
        })
    }
}

/// Some columns of a head's matrix S (k x v, rows v apart) and a run's tokens.
struct Strip {
    inputs: [Matrix; 5],
    out: Matrix,
    run: Tile,
    shape: DeltaShape,
    head: usize,
    /// Of the head's columns.
    first: usize,
    len: usize,
    scale: f32,
    /// Null: zeros. Not `write`.
    read: *const f32,
    write: *mut f32,
}

impl Kernel for Strip {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: by the fields' contract.
        unsafe {
            if self.read.is_null() {
                for i in 0..self.shape.k {
                    self.write.add(i * self.shape.v).write_bytes(0, self.len);
                }
            }
            for t in 0..self.run.n {
                let from = if t == 0 && !self.read.is_null() { self.read } else { self.write.cast_const() };
                self.token::<S>(self.run.first + t, from);
            }
        }
    }
}

impl Strip {
    /// # Safety
    /// As of the kernel.
    #[inline(always)]
    unsafe fn token<S: Simd>(&self, t: usize, from: *const f32) {
        let mut at = 0;
        // SAFETY: at + P * LANES <= len but for the last part.
        unsafe {
            while self.len - at >= 4 * S::LANES {
                self.columns::<S, 4>(t, from, at, S::LANES);
                at += 4 * S::LANES;
            }
            while at < self.len {
                let lanes = S::LANES.min(self.len - at);
                self.columns::<S, 1>(t, from, at, lanes);
                at += lanes;
            }
        }
    }

    /// P vectors of columns, each of the first `lanes` elements.
    ///
    /// # Safety
    /// As of the kernel; there are so many columns from `at` on.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // p counts registers
    unsafe fn columns<S: Simd, const P: usize>(&self, t: usize, from: *const f32, at: usize, lanes: usize) {
        let DeltaShape { n_k, n_v, k: n, v: stride, heads, g_by_row } = self.shape;
        let key_head = heads.of(self.head, n_v, n_k) * n;
        let column = self.head * stride + self.first + at;
        // SAFETY: rows and columns inside the inputs, the state and the output, by the contract of the kernel.
        unsafe {
            let load = |p: *const f32| if lanes == S::LANES { S::load(p) } else { S::load_part(p, lanes) };
            let store = |p: *mut f32, v| {
                if lanes == S::LANES { S::store(p, v) } else { S::store_part(p, v, lanes) }
            };
            let [q, k, v, g, beta] = self.inputs;
            let (q, k) = (q.part(t, key_head, n), k.part(t, key_head, n));
            let (v, beta) = (v.start(t).add(column), S::splat(beta.row(t)[self.head]));
            let g = if g_by_row { g.part(t, self.head * n, n) } else { g.part(t, self.head, 1) };
            let decay = |i: usize| S::splat(g[if g_by_row { i } else { 0 }].exp());
            // S^T k and S^T q of the decayed matrix, and k.q: the token's own share of the output is (k.q) delta
            let mut seen = [S::splat(0.0); P];
            let mut products = [S::splat(0.0); P];
            let mut overlap = 0.0f32;
            let one = decay(0);
            for i in 0..n {
                let by = if g_by_row { decay(i) } else { one };
                let (ki, qi) = (S::splat(k[i]), S::splat(q[i]));
                overlap += k[i] * q[i];
                for p in 0..P {
                    let s = S::mul(load(from.add(i * stride + at + p * S::LANES)), by);
                    seen[p] = S::mul_add(ki, s, seen[p]);
                    products[p] = S::mul_add(qi, s, products[p]);
                }
            }
            let mut delta = [S::splat(0.0); P];
            let out = self.out.start(t).add(column);
            for p in 0..P {
                delta[p] = S::mul(beta, S::sub(load(v.add(p * S::LANES)), seen[p]));
                let product = S::mul_add(S::splat(overlap), delta[p], products[p]);
                store(out.add(p * S::LANES), S::mul(product, S::splat(self.scale)));
            }
            for i in 0..n {
                let by = if g_by_row { decay(i) } else { one };
                let ki = S::splat(k[i]);
                for p in 0..P {
                    let place = i * stride + at + p * S::LANES;
                    let s = S::mul(load(from.add(place)), by);
                    store(self.write.add(place), S::mul_add(ki, delta[p], s));
                }
            }
        }
    }
}
