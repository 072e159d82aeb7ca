//! A model in parts: a plan cut between its layers, each part a plan of its own for a device of its own.

use std::ops::Range;

use super::plan::*;
use crate::{Error, Result};

/// What a part of a model holds, in the order of computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What stands before the layers: the embedding.
    pub embed: bool,
    pub layers: Range<usize>,
    /// What stands behind them: the output's norm and matrix.
    pub head: bool,
}

impl Part {
    pub fn whole(plan: &Plan) -> Part {
        Part { embed: true, layers: 0..plan.layers.len(), head: true }
    }

    /// The places of its ops in the plan.
    fn ops(&self, plan: &Plan) -> Result<Range<usize>> {
        let n = plan.layers.len();
        let Range { start, end } = self.layers;
        let sensible = start <= end && end <= n && (!self.embed || start == 0) && (!self.head || end == n);
        if !sensible {
            return Err(Error::Internal(format!("{self:?} of a plan of {n} layers")));
        }
        // what stands before layer `cut`, all earlier layers included, ends here
        let boundary = |cut: usize| match plan.layers.get(cut) {
            Some(layer) => layer.start,
            None => plan.layers.last().map_or(0, |last| last.end),
        };
        let first = if self.embed { 0 } else { boundary(start) };
        let last = if self.head { plan.ops.len() } else { boundary(end) };
        if first >= last {
            return Err(Error::Internal(format!("{self:?} holds nothing")));
        }
        Ok(first..last)
    }
}

/// Bytes that a part of the plan takes at most, while it is made.
pub fn room(plan: &Plan) -> usize {
    plan.ops.len() * (size_of::<NamedOp>() + 128) + plan.weights.len() * (size_of::<Weight>() + 256)
}

/// The plan of a part of `plan`: its ops with what they need and nothing else, numbered anew. `input` and `output`
/// are what crosses the cuts.
///
/// # Errors
/// `Error::Model` where other than one buffer of a row per token crosses a cut, or a layer's cache would be needed on
/// both sides of one.
pub fn part(plan: &Plan, part: &Part) -> Result<Plan> {
    let range = part.ops(plan)?;
    let input = match range.start {
        0 => plan.input,
        at => Some(crossing(plan, at)?),
    };
    let output = match range.end {
        end if end == plan.ops.len() => plan.output,
        at => crossing(plan, at)?,
    };
    let mut kept = Kept::new(plan);
    let input = input.map(|id| kept.buffer(id));
    let ops: Vec<NamedOp> = plan.ops[range.clone()]
        .iter()
        .map(|named| NamedOp { name: named.name.clone(), op: kept.op(&named.op) })
        .collect();
    let output = kept.buffer(output);

    let others = plan.ops[..range.start].iter().chain(&plan.ops[range.end..]);
    if let Some(layer) = others.filter_map(|named| cached_layer(&named.op)).find(|l| kept.layers.has(*l)) {
        return Err(Error::model(format!(
            "the model cannot be cut into {part:?}: the cache of layer {layer} is used on both sides"
        )));
    }
    let layers = plan.layers[part.layers.clone()].iter();
    Ok(Plan {
        weights: kept.weights.pick(&plan.weights),
        buffers: kept.buffers.pick(&plan.buffers),
        ropes: kept.ropes.pick(&plan.ropes),
        ops,
        layers: layers.map(|l| l.start - range.start..l.end - range.start).collect(),
        cache: CacheShape { n_layers: kept.layers.order.len(), ..plan.cache },
        input,
        output,
    })
}

/// The buffer that op `at` and those behind it read from those before it.
fn crossing(plan: &Plan, at: usize) -> Result<BufferId> {
    let mut live: Vec<BufferId> = vec![plan.output];
    for named in plan.ops[at..].iter().rev() {
        // an op in place reads what it writes
        live.retain(|id| named.op.output() != Some(*id));
        for read in named.op.inputs().into_iter().flatten() {
            if !live.contains(&read) {
                live.push(read);
            }
        }
    }
    match live.as_slice() {
        &[id] if plan.buffer(id).rows == Rows::Tokens => Ok(id),
        _ => {
            let names: Vec<_> = live.iter().map(|id| plan.buffer(*id).name).collect();
            Err(Error::model(format!(
                "the model cannot be cut before {}: one buffer of a row per token would have to cross, not {}",
                plan.ops[at].name,
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )))
        }
    }
}

fn cached_layer(op: &Op) -> Option<usize> {
    match *op {
        Op::KvAppend { layer, .. } | Op::Attention { layer, .. } => Some(layer),
        _ => None,
    }
}

/// Numbers of the whole that a part uses, renumbered by first use.
struct Numbers {
    new: Vec<Option<u32>>,
    order: Vec<usize>,
}

impl Numbers {
    fn new(n: usize) -> Self {
        Numbers { new: vec![None; n], order: Vec::new() }
    }

    fn take(&mut self, old: usize) -> u32 {
        *self.new[old].get_or_insert_with(|| {
            self.order.push(old);
            self.order.len() as u32 - 1
        })
    }

    fn has(&self, old: usize) -> bool {
        self.new[old].is_some()
    }

    fn pick<T: Clone>(&self, all: &[T]) -> Vec<T> {
        self.order.iter().map(|old| all[*old].clone()).collect()
    }
}

struct Kept {
    weights: Numbers,
    buffers: Numbers,
    ropes: Numbers,
    /// Of the cache.
    layers: Numbers,
}

impl Kept {
    fn new(plan: &Plan) -> Self {
        Kept {
            weights: Numbers::new(plan.weights.len()),
            buffers: Numbers::new(plan.buffers.len()),
            ropes: Numbers::new(plan.ropes.len()),
            layers: Numbers::new(plan.cache.n_layers),
        }
    }

    fn weight(&mut self, id: WeightId) -> WeightId {
        WeightId(self.weights.take(id.0 as usize))
    }

    fn buffer(&mut self, id: BufferId) -> BufferId {
        BufferId(self.buffers.take(id.0 as usize))
    }

    fn layer(&mut self, layer: usize) -> usize {
        self.layers.take(layer) as usize
    }

    fn op(&mut self, op: &Op) -> Op {
        match *op {
            Op::Embed { weight, out } => Op::Embed { weight: self.weight(weight), out: self.buffer(out) },
            Op::RmsNorm { x, weight, eps, out } => {
                Op::RmsNorm { x: self.buffer(x), weight: self.weight(weight), eps, out: self.buffer(out) }
            }
            Op::MatMul { x, weight, bias, out } => Op::MatMul {
                x: self.buffer(x),
                weight: self.weight(weight),
                bias: bias.map(|bias| self.weight(bias)),
                out: self.buffer(out),
            },
            Op::Rope { x, head_dim, rope } => {
                Op::Rope { x: self.buffer(x), head_dim, rope: RopeId(self.ropes.take(rope.0 as usize)) }
            }
            Op::KvAppend { layer, k, v } => {
                Op::KvAppend { layer: self.layer(layer), k: self.buffer(k), v: self.buffer(v) }
            }
            Op::Attention { layer, q, scale, out } => {
                Op::Attention { layer: self.layer(layer), q: self.buffer(q), scale, out: self.buffer(out) }
            }
            Op::Glu { gate, up, activation, out } => {
                Op::Glu { gate: self.buffer(gate), up: self.buffer(up), activation, out: self.buffer(out) }
            }
            Op::Add { a, b, out } => Op::Add { a: self.buffer(a), b: self.buffer(b), out: self.buffer(out) },
            Op::SelectRows { x, out } => Op::SelectRows { x: self.buffer(x), out: self.buffer(out) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;

    /// Embedding, `n` layers of attention without projections, and the choice of rows.
    fn plan(n: usize) -> Plan {
        let buffer = |name, rows| Buffer { name, width: 64, rows };
        let weight = |name: &str, rows| Weight { name: name.into(), ty: TensorType::F32, cols: 64, rows };
        let [x, q, heads, out] = [0, 1, 2, 3].map(BufferId);
        let rope = |_| Rope { pairs: RopePairs::Halves, inv_freq: [1.0].into(), magnitude: 1.0 };
        let mut plan = Plan {
            weights: vec![weight("embd", 100)],
            buffers: vec![
                buffer("x", Rows::Tokens),
                buffer("q", Rows::Tokens),
                buffer("heads", Rows::Tokens),
                buffer("out", Rows::Outputs),
            ],
            ropes: (0..n).map(rope).collect(),
            ops: Vec::new(),
            layers: Vec::new(),
            cache: CacheShape { n_layers: n, n_head: 1, n_head_kv: 1, head_dim: 64 },
            input: None,
            output: out,
        };
        let add = |plan: &mut Plan, name: String, op| plan.ops.push(NamedOp { name, op });
        add(&mut plan, "embd".into(), Op::Embed { weight: WeightId(0), out: x });
        for layer in 0..n {
            let first = plan.ops.len();
            let norm = WeightId(plan.weights.len() as u32);
            plan.weights.push(weight(&format!("norm {layer}"), 1));
            add(&mut plan, format!("norm {layer}"), Op::RmsNorm { x, weight: norm, eps: 0.0, out: q });
            let rope = RopeId(layer as u32);
            add(&mut plan, format!("rope {layer}"), Op::Rope { x: q, head_dim: 64, rope });
            add(&mut plan, format!("append {layer}"), Op::KvAppend { layer, k: q, v: q });
            add(&mut plan, format!("attend {layer}"), Op::Attention { layer, q, scale: 1.0, out: heads });
            add(&mut plan, format!("add {layer}"), Op::Add { a: x, b: heads, out: x });
            plan.layers.push(first..plan.ops.len());
        }
        add(&mut plan, "select".into(), Op::SelectRows { x, out });
        plan
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.ops.iter().map(|named| named.name.as_str()).collect()
    }

    #[test]
    fn a_part_inside_is_numbered_anew() {
        let middle = part(&plan(4), &Part { embed: false, layers: 2..3, head: false }).unwrap();
        assert_eq!(names(&middle), ["norm 2", "rope 2", "append 2", "attend 2", "add 2"]);
        assert_eq!(middle.weights.len(), 1);
        assert_eq!(middle.weights[0].name, "norm 2");
        assert_eq!((middle.ropes.len(), middle.cache.n_layers), (1, 1));
        assert_eq!((middle.layers.len(), &middle.layers[0]), (1, &(0..5)));
        assert!(matches!(middle.ops[1].op, Op::Rope { rope: RopeId(0), .. }));
        assert!(matches!(middle.ops[2].op, Op::KvAppend { layer: 0, .. }));
        assert_eq!(middle.input, Some(middle.output));
        assert_eq!((middle.buffer(middle.output).name, middle.buffers.len()), ("x", 3));
    }

    #[test]
    fn parts_without_layers_hold_what_stands_before_or_behind() {
        let plan = plan(2);
        let embed = part(&plan, &Part { embed: true, layers: 0..0, head: false }).unwrap();
        assert_eq!((names(&embed), embed.input, embed.buffers.len()), (vec!["embd"], None, 1));
        assert_eq!((embed.cache.n_layers, embed.ropes.len(), embed.layers.len()), (0, 0, 0));
        let head = part(&plan, &Part { embed: false, layers: 2..2, head: true }).unwrap();
        assert_eq!((names(&head), head.weights.len()), (vec!["select"], 0));
        assert_eq!(head.buffer(head.input.unwrap()).name, "x");
        assert_eq!(head.buffer(head.output).name, "out");
        for nothing in [0, 1, 2] {
            assert!(part(&plan, &Part { embed: false, layers: nothing..nothing, head: false }).is_err());
        }
        assert!(part(&plan, &Part { embed: true, layers: 1..2, head: true }).is_err());
        assert!(part(&plan, &Part { embed: false, layers: 0..3, head: false }).is_err());
    }

    #[test]
    fn the_whole_is_a_part() {
        let plan = plan(2);
        let whole = part(&plan, &Part::whole(&plan)).unwrap();
        assert_eq!(format!("{:?}", whole.ops), format!("{:?}", plan.ops));
        assert_eq!((whole.layers, whole.cache, whole.output), (plan.layers, plan.cache, plan.output));
    }

    #[test]
    fn what_cannot_cross_is_said() {
        let mut two = plan(2);
        // the second layer also reads what the first left in `heads`
        let heads = BufferId(2);
        two.ops[6].op = Op::Add { a: BufferId(0), b: heads, out: BufferId(0) };
        let error = part(&two, &Part { embed: true, layers: 0..1, head: false }).unwrap_err().to_string();
        assert!(error.contains("cut before norm 1") && error.contains("heads"), "{error}");
        assert!(part(&two, &Part::whole(&two)).is_ok());

        let mut shared = plan(2);
        shared.ops[9].op = Op::Attention { layer: 0, q: BufferId(1), scale: 1.0, out: heads };
        let error = part(&shared, &Part { embed: true, layers: 0..1, head: false }).unwrap_err().to_string();
        assert!(error.contains("the cache of layer 0"), "{error}");
    }
}
