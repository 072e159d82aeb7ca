//! Where values are stored: slots that values take one after the other, each while it is needed.

use super::fuse::{self, Placed, Uses};
use super::{Graph, Rows, Segment, ValueId};

/// Index into a plan's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(pub u32);

/// Room for `rows x width` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Of the widest value that it holds.
    pub width: usize,
    pub rows: Rows,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Storage {
    pub slots: Vec<Slot>,
    /// One per value.
    pub of: Vec<SlotId>,
}

/// Bytes that a storage takes while it is assigned.
pub(super) fn room(graph: &Graph) -> usize {
    graph.values.len() * (size_of::<SlotId>() + size_of::<Slot>() + 64) + graph.ops.len() * 64
}

/// Of an op before the first.
const BEFORE: usize = 0;

impl Storage {
    /// A value holds its slot from the first op that runs together with the one that computes it to the last that runs
    /// together with one that reads it: however much of that a device runs at once, nothing is overwritten that is still
    /// read. A result takes the slot of an operand that allows it and is read no more.
    pub fn assign(graph: &Graph, fused: &[Placed]) -> Storage {
        let uses = Uses::of(graph);
        let mut ranges = vec![(0, 0); graph.ops.len()];
        for range in fuse::together(graph, fused) {
            for place in &mut ranges[range.clone()] {
                *place = (range.start + 1, range.end);
            }
        }
        // in numbers of ops from 1 on, so that what a step brings is there before
        let needed_until = |id: ValueId, since: usize| match uses.last(id) {
            Some(at) => ranges.get(at).map_or(usize::MAX, |(_, end)| *end),
            None => since,
        };

        let mut slots: Vec<(Slot, usize)> = Vec::new();
        let mut place = |id: ValueId, over: Option<SlotId>, since: usize, until: usize| {
            let value = graph.value(id);
            let at = over.map(|slot| slot.0 as usize).unwrap_or_else(|| {
                let free = slots
                    .iter()
                    .enumerate()
                    .filter(|(_, (slot, busy))| slot.rows == value.rows && *busy < since);
                // the narrowest that is wide enough, else the widest
                let best = free.min_by_key(|(_, (slot, _))| match slot.width >= value.width {
                    true => (0, slot.width),
                    false => (1, usize::MAX - slot.width),
                });
                let best = best.map(|(at, _)| at);
                best.unwrap_or_else(|| {
                    slots.push((Slot { width: 0, rows: value.rows }, BEFORE));
                    slots.len() - 1
                })
            });
            let (slot, busy) = &mut slots[at];
            slot.width = slot.width.max(value.width);
            *busy = (*busy).max(until);
            SlotId(at as u32)
        };

        let mut of: Vec<Option<SlotId>> = vec![None; graph.values.len()];
        for Segment { ops, inputs, .. } in graph.segments() {
            // what a step brings is stored beside everything else that is needed by then
            for id in inputs {
                let since = if ops.start == 0 { BEFORE } else { ops.start + 1 };
                of[id.0 as usize] = Some(place(*id, None, since, needed_until(*id, usize::MAX)));
            }
            for at in ops {
                let op = &graph.ops[at].op;
                let (since, end) = ranges[at];
                let mut over = op.overwritable().filter(|id| uses.last(*id) == Some(at));
                for out in op.outputs() {
                    let same = |id: &ValueId| {
                        let (a, b) = (graph.value(*id), graph.value(out));
                        (a.width, a.rows) == (b.width, b.rows)
                    };
                    let taken = over.find(same).and_then(|id| of[id.0 as usize]);
                    of[out.0 as usize] = Some(place(out, taken, since, needed_until(out, end)));
                }
            }
        }
        // a value that nobody computes is read by nobody
        let of = of.into_iter().map(|slot| slot.unwrap_or(SlotId(0))).collect();
        Storage { slots: slots.into_iter().map(|(slot, _)| slot).collect(), of }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::gguf::TensorType;

    struct Build(Graph);

    impl Build {
        fn value(&mut self, width: usize) -> ValueId {
            self.0.values.push(Value { name: "v", width, rows: Rows::Tokens });
            ValueId(self.0.values.len() as u32 - 1)
        }

        fn op(&mut self, op: Op) {
            self.0.ops.push(NamedOp { name: self.0.ops.len().to_string(), op });
        }

        fn mat_mul(&mut self, x: ValueId, width: usize) -> ValueId {
            let cols = self.0.width(x);
            self.0.weights.push(Weight::whole("w", TensorType::F32, cols, width));
            let (weight, out) = (Matrix(WeightId(self.0.weights.len() as u32 - 1)), self.value(width));
            self.op(Op::MatMul { x: In(x), weight, bias: None, out: Out(out) });
            out
        }

        fn norm(&mut self, x: ValueId) -> ValueId {
            let (group, out) = (self.0.width(x), self.value(self.0.width(x)));
            let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 0.0 };
            self.op(Op::Norm { x: Over(x), norm, group, out: Out(out) });
            out
        }

        fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> ValueId {
            let out = self.value(self.0.width(a));
            self.op(Op::Binary { a: Over(a), b: Over(b), f, out: Out(out) });
            out
        }
    }

    /// No two values that are needed at once share a slot, unless one is made from the other in place.
    fn check(plan: &Plan) {
        let uses = Uses::of(plan);
        let mut span = vec![None; plan.values.len()];
        for range in fuse::together(plan, plan.fused()) {
            for at in range.clone() {
                for id in plan.ops[at].op.outputs() {
                    let last = uses.last(id).unwrap_or(at);
                    let end = fuse::together(plan, plan.fused()).into_iter().find(|r| r.contains(&last));
                    span[id.0 as usize] = Some((range.start, end.map_or(usize::MAX, |r| r.end), at, last));
                }
            }
        }
        for (i, a) in span.iter().enumerate() {
            for (j, b) in span.iter().enumerate().skip(i + 1) {
                let (Some((s0, e0, def0, last0)), Some((s1, e1, def1, last1))) = (*a, *b) else { continue };
                let (first, second) = (ValueId(i as u32), ValueId(j as u32));
                let apart = e0 <= s1 || e1 <= s0;
                let chained = last0 <= def1 || last1 <= def0;
                assert!(apart || chained || plan.slot(first) != plan.slot(second), "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn layers_share_their_storage_and_the_residual_stays_in_place() {
        let mut b = Build(Graph::default());
        let mut x = b.value(64);
        b.0.inputs.push(x);
        for _ in 0..5 {
            let normed = b.norm(x);
            let gate = b.mat_mul(normed, 256);
            let up = b.mat_mul(normed, 256);
            let unit = b.binary(Binary::Glu(Unary::Silu), gate, up);
            let down = b.mat_mul(unit, 64);
            x = b.binary(Binary::Add, x, down);
        }
        b.0.outputs.push(x);
        let plan = Plan::new(b.0).unwrap();
        check(&plan);
        // x, normed and then down, gate and then the unit, up
        assert_eq!(plan.slots().len(), 4, "{:?}", plan.slots());
        assert_eq!(plan.slot(x), plan.slot(plan.inputs[0]));
        assert_eq!(plan.slots().iter().map(|slot| slot.width).sum::<usize>(), 2 * 64 + 2 * 256);
    }

    #[test]
    fn what_is_read_later_is_not_overwritten() {
        let mut b = Build(Graph::default());
        let x = b.value(64);
        b.0.inputs.push(x);
        let normed = b.norm(x);
        let product = b.mat_mul(normed, 64);
        let sum = b.binary(Binary::Add, x, product);
        // x once more: the sum cannot take its place
        let again = b.binary(Binary::Mul, sum, x);
        b.0.outputs.push(again);
        let plan = Plan::new(b.0).unwrap();
        check(&plan);
        assert_ne!(plan.slot(sum), plan.slot(x));
        let fused: Vec<_> = plan.fused().iter().map(|placed| placed.at).collect();
        assert_eq!(fused, [1, 2, 3], "the sum stands by itself");
    }

    #[test]
    fn a_fused_product_does_not_write_what_it_still_reads() {
        let mut b = Build(Graph::default());
        let x = b.value(64);
        b.0.inputs.push(x);
        // norm and product run as one: x is read while the product is written
        let normed = b.norm(x);
        let y = b.mat_mul(normed, 64);
        b.0.outputs.push(y);
        let plan = Plan::new(b.0).unwrap();
        check(&plan);
        assert_eq!(plan.fused().len(), 1);
        assert_ne!(plan.slot(y), plan.slot(x));
    }
}
