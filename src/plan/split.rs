//! A model in parts: a plan cut between its layers, each part a plan of its own for a device of its own.

use super::fuse::Uses;
use super::op::Renumber;
use super::*;
use crate::Error;

/// What a part of a model holds, in the order of computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// What stands before the layers: the embedding.
    pub embed: bool,
    pub layers: Range<usize>,
    /// What stands behind them: the output's norm and matrix.
    pub head: bool,
}

impl Slice {
    pub fn whole(graph: &Graph) -> Slice {
        Slice { embed: true, layers: 0..graph.layers.len(), head: true }
    }

    /// The places of its ops in the graph.
    fn ops(&self, plan: &Graph) -> Result<Range<usize>> {
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
pub fn room(graph: &Graph) -> usize {
    graph.ops.len() * (size_of::<NamedOp>() + 128)
        + graph.weights.len() * (size_of::<Weight>() + 256)
        + graph.values.len() * (size_of::<Value>() + 64)
        + graph.windows.len() * size_of::<Window>()
}

/// The graph of a part of `graph`: its ops with what they need and nothing else, numbered anew. `inputs` and `outputs`
/// are what crosses the cuts.
///
/// # Errors
/// `Error::Model` where a value crosses a cut that has no row for each token, or a cache or a state would be needed on both
/// sides of one.
pub fn part(graph: &Graph, slice: &Slice) -> Result<Graph> {
    let range = slice.ops(graph)?;
    let inputs = match range.start {
        0 => graph.inputs.clone(),
        at => crossing(graph, at)?,
    };
    let outputs = match range.end {
        end if end == graph.ops.len() => graph.outputs.clone(),
        at => crossing(graph, at)?,
    };
    let mut kept = Kept::new(graph);
    let inputs: Vec<ValueId> = inputs.into_iter().map(|id| kept.value(id)).collect();
    let mut ops = graph.ops[range.clone()].to_vec();
    ops.iter_mut().for_each(|named| named.op.renumber(&mut kept));
    let outputs = outputs.into_iter().map(|id| kept.value(id)).collect();

    for named in graph.ops[..range.start].iter().chain(&graph.ops[range.end..]) {
        let mut shared = false;
        named.op.each(&mut |role| {
            shared |= match role {
                Role::Cache(id) => kept.caches.has(id.0 as usize),
                Role::State(id) => kept.states.has(id.0 as usize),
                _ => false,
            }
        });
        if shared {
            return Err(Error::model(format!(
                "the model cannot be cut into {slice:?}: the cache that {} uses is needed on both sides",
                named.name
            )));
        }
    }
    let layers = graph.layers[slice.layers.clone()].iter();
    Ok(Graph {
        weights: kept.weights.pick(&graph.weights),
        values: kept.values.pick(&graph.values),
        ropes: kept.ropes.pick(&graph.ropes),
        caches: kept.caches.pick(&graph.caches),
        windows: graph.windows.clone(),
        states: kept.states.pick(&graph.states),
        ops,
        layers: layers.map(|l| l.start - range.start..l.end - range.start).collect(),
        inputs,
        outputs,
        ignored: Vec::new(),
    })
}

/// The values that op `at` and those behind it read from those before it, in the order of the plan.
fn crossing(graph: &Graph, at: usize) -> Result<Vec<ValueId>> {
    let uses = Uses::of(graph);
    let before = graph.ops[..at].iter().flat_map(|named| named.op.outputs());
    let crossing: Vec<ValueId> = graph
        .inputs
        .iter()
        .copied()
        .chain(before)
        .filter(|id| uses.last(*id).is_some_and(|last| last >= at))
        .collect();
    match crossing.iter().find(|id| graph.value(**id).rows != Rows::Tokens) {
        None if !crossing.is_empty() => Ok(crossing),
        wrong => Err(Error::model(format!(
            "the model cannot be cut before {}: values with a row per token would have to cross, not {}",
            graph.ops[at].name,
            wrong.map_or("none", |id| graph.value(*id).name)
        ))),
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

    fn take(&mut self, old: u32) -> u32 {
        *self.new[old as usize].get_or_insert_with(|| {
            self.order.push(old as usize);
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
    values: Numbers,
    ropes: Numbers,
    caches: Numbers,
    states: Numbers,
}

impl Kept {
    fn new(graph: &Graph) -> Self {
        Kept {
            weights: Numbers::new(graph.weights.len()),
            values: Numbers::new(graph.values.len()),
            ropes: Numbers::new(graph.ropes.len()),
            caches: Numbers::new(graph.caches.len()),
            states: Numbers::new(graph.states.len()),
        }
    }
}

impl Renumber for Kept {
    fn value(&mut self, id: ValueId) -> ValueId {
        ValueId(self.values.take(id.0))
    }

    fn weight(&mut self, id: WeightId) -> WeightId {
        WeightId(self.weights.take(id.0))
    }

    fn cache(&mut self, id: CacheId) -> CacheId {
        CacheId(self.caches.take(id.0))
    }

    fn state(&mut self, id: StateId) -> StateId {
        StateId(self.states.take(id.0))
    }

    fn rope(&mut self, id: RopeId) -> RopeId {
        RopeId(self.ropes.take(id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Embedding, `n` layers of attention without projections, and the choice of rows.
    fn graph(n: usize) -> Graph {
        let mut graph = Graph::default();
        let value = |graph: &mut Graph, name, rows| {
            graph.values.push(Value { name, width: 64, rows });
            ValueId(graph.values.len() as u32 - 1)
        };
        let weight = |graph: &mut Graph, name: String, rows| {
            graph.weights.push(Weight::whole(name, TensorType::F32, 64, rows));
            WeightId(graph.weights.len() as u32 - 1)
        };
        let op = |graph: &mut Graph, name: String, op| graph.ops.push(NamedOp { name, op });
        let mut x = value(&mut graph, "x", Rows::Tokens);
        let embd = Lookup(weight(&mut graph, "embd".into(), 100));
        op(&mut graph, "embd".into(), Op::Embed { weight: embd, by: LookupBy::Token, out: Out(x) });
        for layer in 0..n {
            let first = graph.ops.len();
            let [normed, q, heads, sum] =
                ["normed", "q", "heads", "sum"].map(|name| value(&mut graph, name, Rows::Tokens));
            let vector = Vector(weight(&mut graph, format!("norm {layer}"), 1));
            let norm = Norm { kind: NormKind::Rms, weight: Some(vector), bias: None, eps: 0.0 };
            let name = |op: &str| format!("{op} {layer}");
            op(&mut graph, name("norm"), Op::Norm { x: Over(x), norm, group: 64, out: Out(normed) });
            let (pairs, inv_freq) = (RopePairs::Halves, [1.0].into());
            graph.ropes.push(Rope { pairs, inv_freq, magnitude: 1.0, long: None });
            graph.caches.push(Cache { n_head_kv: 1, k: 64, values: Values::Own(64), window: None });
            let (rope, cache) = (RopeId(layer as u32), CacheId(layer as u32));
            op(
                &mut graph,
                name("rope"),
                Op::Rope { x: Over(normed), head_dim: 64, first: 0, rope, out: Out(q) },
            );
            op(&mut graph, name("append"), Op::Append { cache, k: In(q), v: Some(In(q)) });
            let scores = Scores::scaled(1.0);
            let attention = Op::Attention { cache, q: In(q), scores, sinks: None, out: Out(heads) };
            op(&mut graph, name("attend"), attention);
            op(
                &mut graph,
                name("add"),
                Op::Binary { a: Over(x), b: Over(heads), f: Binary::Add, out: Out(sum) },
            );
            graph.layers.push(first..graph.ops.len());
            x = sum;
        }
        let out = value(&mut graph, "out", Rows::Outputs);
        op(&mut graph, "select".into(), Op::SelectRows { x: In(x), out: Out(out) });
        graph.outputs.push(out);
        graph
    }

    fn names(graph: &Graph) -> Vec<&str> {
        graph.ops.iter().map(|named| named.name.as_str()).collect()
    }

    #[test]
    fn a_part_inside_is_numbered_anew() {
        let middle = part(&graph(4), &Slice { embed: false, layers: 2..3, head: false }).unwrap();
        assert_eq!(names(&middle), ["norm 2", "rope 2", "append 2", "attend 2", "add 2"]);
        assert_eq!(middle.weights.len(), 1);
        assert_eq!(middle.weights[0].name, "norm 2");
        assert_eq!((middle.ropes.len(), middle.caches.len()), (1, 1));
        assert_eq!((middle.layers.len(), &middle.layers[0]), (1, &(0..5)));
        assert!(matches!(middle.ops[1].op, Op::Rope { rope: RopeId(0), .. }));
        assert!(matches!(middle.ops[2].op, Op::Append { cache: CacheId(0), .. }));
        assert_eq!(middle.inputs, [ValueId(0)]);
        assert_eq!((middle.value(middle.outputs[0]).name, middle.values.len()), ("sum", 5));
    }

    #[test]
    fn parts_without_layers_hold_what_stands_before_or_behind() {
        let graph = graph(2);
        let embed = part(&graph, &Slice { embed: true, layers: 0..0, head: false }).unwrap();
        assert_eq!((names(&embed), embed.inputs.len(), embed.values.len()), (vec!["embd"], 0, 1));
        assert_eq!((embed.caches.len(), embed.ropes.len(), embed.layers.len()), (0, 0, 0));
        let head = part(&graph, &Slice { embed: false, layers: 2..2, head: true }).unwrap();
        assert_eq!((names(&head), head.weights.len()), (vec!["select"], 0));
        assert_eq!(head.value(head.inputs[0]).name, "sum");
        assert_eq!(head.value(head.outputs[0]).name, "out");
        for nothing in [0, 1, 2] {
            assert!(part(&graph, &Slice { embed: false, layers: nothing..nothing, head: false }).is_err());
        }
        assert!(part(&graph, &Slice { embed: true, layers: 1..2, head: true }).is_err());
        assert!(part(&graph, &Slice { embed: false, layers: 0..3, head: false }).is_err());
    }

    #[test]
    fn the_whole_is_a_part() {
        let graph = graph(2);
        let whole = part(&graph, &Slice::whole(&graph)).unwrap();
        assert_eq!(names(&whole), names(&graph));
        assert_eq!((whole.layers, whole.caches, whole.outputs.len()), (graph.layers, graph.caches, 1));
    }

    #[test]
    fn several_values_cross_where_several_are_read() {
        let mut two = graph(2);
        // the second layer adds what the first left of its heads, too
        let Op::Attention { out: heads, .. } = two.ops[4].op else { panic!("{:?}", two.ops[4]) };
        let Op::Binary { a, .. } = &mut two.ops[10].op else { panic!("{:?}", two.ops[10]) };
        *a = Over(heads.0);
        let first = part(&two, &Slice { embed: true, layers: 0..1, head: false }).unwrap();
        let names =
            |graph: &Graph, ids: &[ValueId]| ids.iter().map(|id| graph.value(*id).name).collect::<Vec<_>>();
        assert_eq!(names(&first, &first.outputs), ["heads", "sum"]);
        let second = part(&two, &Slice { embed: false, layers: 1..2, head: true }).unwrap();
        assert_eq!(names(&second, &second.inputs), ["heads", "sum"]);
    }

    #[test]
    fn what_cannot_cross_is_said() {
        let mut shared = graph(2);
        let Op::Attention { cache, .. } = &mut shared.ops[9].op else { panic!("{:?}", shared.ops[9]) };
        *cache = CacheId(0);
        let error = part(&shared, &Slice { embed: true, layers: 0..1, head: false }).unwrap_err().to_string();
        assert!(error.contains("the cache that attend 1 uses"), "{error}");
        assert!(part(&shared, &Slice::whole(&shared)).is_ok());
    }
}
