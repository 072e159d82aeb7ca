//! A model in parts, each a plan of its own for a device of its own. Parts are made of what stands before the layers,
//! of layers, of their experts alone, and of what stands behind them; a step goes from one to another and back.

use super::op::Renumber;
use super::*;
use crate::Error;

/// What a part of a model computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// What stands before the layers: the embedding.
    pub embed: bool,
    /// All of these layers but their experts.
    pub layers: Range<usize>,
    /// The experts of these layers: their matrices, and what is computed between these up to the weighted sum.
    pub experts: Range<usize>,
    /// What stands behind the layers: the output's norm and matrix.
    pub head: bool,
}

impl Slice {
    pub fn whole(graph: &Graph) -> Slice {
        Slice { embed: true, head: true, ..Slice::of(0..graph.layers.len()) }
    }

    /// Layers with their experts, and nothing else.
    pub fn of(layers: Range<usize>) -> Slice {
        Slice { embed: false, experts: layers.clone(), layers, head: false }
    }
}

/// Per op whether it is of a layer's experts: a product of theirs, or made of such a product up to the weighted sum.
fn experts(graph: &Graph) -> Vec<bool> {
    let mut of_experts = vec![false; graph.values.len()];
    let mut found = vec![false; graph.ops.len()];
    for layer in &graph.layers {
        for at in layer.clone() {
            let op = &graph.ops[at].op;
            let is_product = matches!(op, Op::MatMulExperts { .. });
            if !is_product && !op.inputs().any(|id| of_experts[id.0 as usize]) {
                continue;
            }
            found[at] = true;
            if !matches!(op, Op::Combine { .. }) {
                op.outputs().for_each(|id| of_experts[id.0 as usize] = true);
            }
        }
    }
    found
}

/// The layers that have experts, in order.
pub fn layers_with_experts(graph: &Graph) -> Vec<usize> {
    let experts = experts(graph);
    (0..graph.layers.len()).filter(|layer| experts[graph.layers[*layer].clone()].contains(&true)).collect()
}

/// Ops of the whole that one part computes before another goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Index among the parts; their number where no part has the ops.
    pub part: usize,
    pub ops: Range<usize>,
    /// Values that others have computed and the part has not had before, in the order in which it reads them.
    pub inputs: Vec<ValueId>,
    /// Values that others take before the part goes on; of the last leg what the step leaves.
    pub outputs: Vec<ValueId>,
}

/// The way of a step through the parts.
///
/// # Errors
/// `Error::Model` where a value would cross that has no row for each token.
pub fn legs(graph: &Graph, parts: &[Slice]) -> Result<Vec<Leg>> {
    let mut legs: Vec<Leg> = Vec::new();
    for (at, part) in owners(graph, parts)?.into_iter().enumerate() {
        match legs.last_mut() {
            Some(leg) if leg.part == part => leg.ops.end = at + 1,
            Some(_) | None => {
                legs.push(Leg { part, ops: at..at + 1, inputs: Vec::new(), outputs: Vec::new() })
            }
        }
    }
    let (Some(first), Some(last)) = (legs.first().map(|leg| leg.part), legs.len().checked_sub(1)) else {
        return Err(Error::Internal("a plan without ops".into()));
    };
    legs[0].inputs.clone_from(&graph.inputs);
    // per value the parts that have it: first the one that computes it
    let mut holders: Vec<Vec<usize>> = vec![Vec::new(); graph.values.len()];
    graph.inputs.iter().for_each(|id| holders[id.0 as usize].push(first));
    for i in 0..legs.len() {
        let Leg { part, ops, .. } = legs[i].clone();
        let left = if i == last { graph.outputs.as_slice() } else { &[] };
        for at in ops {
            let op = &graph.ops[at].op;
            for id in op.inputs() {
                take(graph, &mut legs, &mut holders, i, id)?;
            }
            op.outputs().for_each(|id| holders[id.0 as usize].push(part));
        }
        for id in left {
            take(graph, &mut legs, &mut holders, i, *id)?;
        }
    }
    legs[last].outputs.clone_from(&graph.outputs);
    Ok(legs)
}

/// Makes a value that leg `i` reads cross, where its part does not have it yet.
fn take(graph: &Graph, legs: &mut [Leg], holders: &mut [Vec<usize>], i: usize, id: ValueId) -> Result<()> {
    let (part, holders) = (legs[i].part, &mut holders[id.0 as usize]);
    if holders.contains(&part) {
        return Ok(());
    }
    let name = graph.value(id).name;
    let from = holders.first().copied();
    let giver = legs[..i].iter_mut().rev().find(|leg| Some(leg.part) == from);
    let giver = giver.ok_or_else(|| Error::Internal(format!("{name} is read before it is computed")))?;
    if graph.value(id).rows != Rows::Tokens {
        return Err(Error::model(format!(
            "the model cannot be cut before {}: values with a row per token would have to cross, not {name}",
            graph.ops[legs[i].ops.start].name
        )));
    }
    if !giver.outputs.contains(&id) {
        giver.outputs.push(id);
    }
    legs[i].inputs.push(id);
    holders.push(part);
    Ok(())
}

/// Per op the part that computes it; the number of parts for what none does.
fn owners(graph: &Graph, parts: &[Slice]) -> Result<Vec<usize>> {
    let (n, experts) = (graph.layers.len(), experts(graph));
    let mut owners = vec![parts.len(); graph.ops.len()];
    for (part, slice) in parts.iter().enumerate() {
        let sensible = |layers: &Range<usize>| layers.start <= layers.end && layers.end <= n;
        if !sensible(&slice.layers) || !sensible(&slice.experts) {
            return Err(Error::Internal(format!("{slice:?} of a plan of {n} layers")));
        }
        let mut holds_something = false;
        for (at, owner) in owners.iter_mut().enumerate() {
            let has = match graph.layers.partition_point(|layer| layer.start <= at).checked_sub(1) {
                _ if graph.layers.last().is_none_or(|last| at >= last.end) => slice.head,
                None => slice.embed,
                Some(layer) if experts[at] => slice.experts.contains(&layer),
                Some(layer) => slice.layers.contains(&layer),
            };
            if has && std::mem::replace(owner, part) != parts.len() {
                return Err(Error::Internal(format!("{} in two parts", graph.ops[at].name)));
            }
            holds_something |= has;
        }
        if !holds_something {
            return Err(Error::Internal(format!("{slice:?} holds nothing")));
        }
    }
    Ok(owners)
}

/// Bytes that a part of the plan takes at most, while it is made.
pub fn room(graph: &Graph) -> usize {
    graph.ops.len() * (size_of::<NamedOp>() + 2 * size_of::<Leg>() + 256)
        + graph.weights.len() * (size_of::<Weight>() + 256)
        + graph.values.len() * (size_of::<Value>() + 128)
        + graph.windows.len() * size_of::<Window>()
}

/// The graph of a part of `graph`: its ops with what they need and nothing else, numbered anew.
///
/// # Errors
/// `Error::Model` where a cache or a state would be needed in another part, too.
pub fn part(graph: &Graph, legs: &[Leg], part: usize) -> Result<Graph> {
    let own = || legs.iter().filter(|leg| leg.part == part);
    let mut kept = Kept::new(graph);
    let mut made = Graph::default();
    for (i, leg) in own().enumerate() {
        let inputs = kept.all(&leg.inputs);
        match i {
            0 => made.inputs = inputs,
            _ => {
                let outputs = std::mem::take(&mut made.outputs);
                made.cuts.push(Cut { at: made.ops.len(), outputs, inputs });
            }
        }
        let first = made.ops.len();
        made.ops.extend_from_slice(&graph.ops[leg.ops.clone()]);
        made.ops[first..].iter_mut().for_each(|named| named.op.renumber(&mut kept));
        made.outputs = kept.all(&leg.outputs);
    }
    for named in legs.iter().filter(|leg| leg.part != part).flat_map(|leg| &graph.ops[leg.ops.clone()]) {
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
                "the model cannot be cut here: the cache that {} uses is needed on both sides",
                named.name
            )));
        }
    }
    // own ops before one of the whole
    let before =
        |at: usize| own().map(|leg| at.clamp(leg.ops.start, leg.ops.end) - leg.ops.start).sum::<usize>();
    let layers = graph.layers.iter().map(|layer| before(layer.start)..before(layer.end));
    Ok(Graph {
        weights: kept.weights.pick(&graph.weights),
        values: kept.values.pick(&graph.values),
        ropes: kept.ropes.pick(&graph.ropes),
        caches: kept.caches.pick(&graph.caches),
        windows: graph.windows.clone(),
        states: kept.states.pick(&graph.states),
        layers: layers.filter(|layer| !layer.is_empty()).collect(),
        ..made
    })
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

    fn all(&mut self, ids: &[ValueId]) -> Vec<ValueId> {
        ids.iter().map(|id| self.value(*id)).collect()
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

    /// One part, with all else in none.
    fn part(graph: &Graph, slice: &Slice) -> Result<Graph> {
        super::part(graph, &legs(graph, std::slice::from_ref(slice))?, 0)
    }

    #[test]
    fn a_part_inside_is_numbered_anew() {
        let middle = part(&graph(4), &Slice::of(2..3)).unwrap();
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
        let embed = part(&graph, &Slice { embed: true, ..Slice::of(0..0) }).unwrap();
        assert_eq!((names(&embed), embed.inputs.len(), embed.values.len()), (vec!["embd"], 0, 1));
        assert_eq!((embed.caches.len(), embed.ropes.len(), embed.layers.len()), (0, 0, 0));
        let head = part(&graph, &Slice { head: true, ..Slice::of(2..2) }).unwrap();
        assert_eq!((names(&head), head.weights.len()), (vec!["select"], 0));
        assert_eq!(head.value(head.inputs[0]).name, "sum");
        assert_eq!(head.value(head.outputs[0]).name, "out");
        for nothing in [0, 1, 2] {
            assert!(part(&graph, &Slice::of(nothing..nothing)).is_err());
        }
        assert!(part(&graph, &Slice::of(0..3)).is_err());
        assert!(legs(&graph, &[Slice::of(0..2), Slice::of(1..2)]).is_err(), "an op in two parts");
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
        let first = part(&two, &Slice { embed: true, ..Slice::of(0..1) }).unwrap();
        let names =
            |graph: &Graph, ids: &[ValueId]| ids.iter().map(|id| graph.value(*id).name).collect::<Vec<_>>();
        assert_eq!(names(&first, &first.outputs), ["sum", "heads"]);
        let second = part(&two, &Slice { head: true, ..Slice::of(1..2) }).unwrap();
        assert_eq!(names(&second, &second.inputs), ["sum", "heads"]);
    }

    /// `n` layers, each a mixture beside a norm; the result.
    fn mixture(n: usize) -> Graph {
        let mut graph = graph(0);
        graph.ops.truncate(1);
        graph.values.truncate(1);
        graph.outputs.clear();
        let mut x = ValueId(0);
        let weight = |graph: &mut Graph, name: String, cols, rows| {
            graph.weights.push(Weight::whole(name, TensorType::F32, cols, rows));
            WeightId(graph.weights.len() as u32 - 1)
        };
        for layer in 0..n {
            let first = graph.ops.len();
            let widths = [64, 4, 2, 2, 2 * 32, 2 * 32, 2 * 64, 64, 64];
            let names = ["normed", "logits", "ids", "weights", "up", "act", "down", "mixed", "sum"];
            let ids: Vec<_> = (graph.values.len() as u32..).map(ValueId).take(9).collect();
            let values = names.into_iter().zip(widths);
            graph.values.extend(values.map(|(name, width)| Value { name, width, rows: Rows::Tokens }));
            let [normed, logits, ids, weights, up, act, down, mixed, sum] = ids[..] else {
                panic!("{ids:?}")
            };
            let router = Matrix(weight(&mut graph, format!("router {layer}"), 64, 4));
            let experts = |graph: &mut Graph, x, cols, rows: usize, out| {
                let weight = Experts(weight(graph, format!("experts {layer}"), cols, 4 * rows));
                Op::MatMulExperts { x: In(x), ids: In(ids), weight, scale: None, bias: None, out: Out(out) }
            };
            let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 0.0 };
            let gating = Gating::Softmax;
            let routing = Routing {
                gating,
                n_used: 2,
                least_sum: 0.0,
                scale: 1.0,
                n_groups: 0,
                n_groups_used: 0,
                per_id: 1,
            };
            let route =
                Op::Route { logits: In(logits), bias: None, routing, ids: Out(ids), weights: Out(weights) };
            let ops = [
                ("norm", Op::Norm { x: Over(x), norm, group: 64, out: Out(normed) }),
                ("router", Op::MatMul { x: In(normed), weight: router, bias: None, out: Out(logits) }),
                ("route", route),
                ("up", experts(&mut graph, normed, 64, 32, up)),
                ("act", Op::Unary { x: Over(up), f: Unary::Relu, out: Out(act) }),
                ("down", experts(&mut graph, act, 32, 64, down)),
                ("combine", Op::Combine { x: In(down), weights: Some(In(weights)), out: Out(mixed) }),
                ("add", Op::Binary { a: Over(x), b: Over(mixed), f: Binary::Add, out: Out(sum) }),
            ];
            let named = |(name, op): (&str, Op)| NamedOp { name: format!("{name} {layer}"), op };
            graph.ops.extend(ops.map(named));
            graph.layers.push(first..graph.ops.len());
            x = sum;
        }
        graph.outputs.push(x);
        graph
    }

    #[test]
    fn experts_are_cut_out_of_their_layers() {
        let graph = mixture(3);
        assert_eq!(layers_with_experts(&graph), [0, 1, 2]);
        let card = Slice { embed: true, experts: 2..3, head: true, ..Slice::of(0..3) };
        let host = Slice { experts: 0..2, ..Slice::of(0..0) };
        let legs = legs(&graph, &[card, host]).unwrap();
        let way: Vec<_> = legs.iter().map(|leg| (leg.part, leg.ops.clone())).collect();
        assert_eq!(way, [(0, 0..4), (1, 4..8), (0, 8..12), (1, 12..16), (0, 16..25)]);
        let [card, host] = [0, 1].map(|i| super::part(&graph, &legs, i).unwrap());
        assert_eq!(names(&host)[..5], ["up 0", "act 0", "down 0", "combine 0", "up 1"]);
        assert_eq!((host.layers.clone(), host.weights.len()), (vec![0..4, 4..8], 4));
        assert_eq!((card.layers.clone(), card.weights.len()), (vec![1..5, 5..9, 9..17], 6));
        assert_eq!((card.cuts[0].at, card.cuts[1].at, host.cuts[0].at), (4, 8, 4));
        let named = |graph: &Graph, ids: &[ValueId]| {
            ids.iter().map(|id| graph.value(*id).name).collect::<Vec<_>>().join(" ")
        };
        for (graph, wanted) in [
            (&card, vec![("", "normed ids weights"), ("mixed", "normed ids weights"), ("mixed", "sum")]),
            (&host, vec![("normed ids weights", "mixed"); 2]),
        ] {
            let found = graph.segments().map(|part| [part.inputs, part.outputs].map(|ids| named(graph, ids)));
            let found: Vec<_> = found.collect();
            assert_eq!(found.iter().map(|[a, b]| (a.as_str(), b.as_str())).collect::<Vec<_>>(), wanted);
        }
        // nothing that is needed behind a cut is overwritten, and no op stands for others on both sides of one
        let plan = Plan::new(card).unwrap();
        let at: Vec<_> = plan.fused().iter().map(|placed| placed.at).collect();
        assert!(plan.cuts.iter().all(|cut| at.contains(&(cut.at - 1))), "{at:?}");
        let Op::Embed { out: Out(x), .. } = plan.ops[0].op else { panic!("{:?}", plan.ops[0]) };
        let Cut { outputs, inputs, .. } = &plan.cuts[0];
        let crossing = outputs.iter().chain(inputs).map(|id| plan.slot(*id));
        assert!(crossing.clone().all(|slot| slot != plan.slot(x)));
        assert_ne!(plan.slot(outputs[0]), plan.slot(outputs[1]));
        assert_ne!(plan.slot(outputs[1]), plan.slot(outputs[2]));
    }

    #[test]
    fn a_value_that_others_have_not_had_waits_for_them() {
        // the third layer adds to the embedding's rows, which the second does not read
        let mut graph = mixture(3);
        let last = graph.ops.len();
        let Op::Binary { a, .. } = &mut graph.ops[last - 1].op else { panic!("{last}") };
        *a = Over(ValueId(0));
        let (first, third) =
            (Slice { embed: true, ..Slice::of(0..1) }, Slice { head: true, ..Slice::of(2..3) });
        let legs = legs(&graph, &[first, Slice::of(1..2), third]).unwrap();
        assert_eq!(legs[0].outputs, [ValueId(9), ValueId(0)]);
        assert_eq!(legs[1].inputs, [ValueId(9)]);
        // the second layer's sum and, from the first device, the embedding
        assert_eq!(legs[2].inputs, [ValueId(18), ValueId(0)]);
        assert_eq!(legs[1].outputs, [ValueId(18)]);
    }

    #[test]
    fn what_cannot_cross_is_said() {
        let mut shared = graph(2);
        let Op::Attention { cache, .. } = &mut shared.ops[9].op else { panic!("{:?}", shared.ops[9]) };
        *cache = CacheId(0);
        let error = part(&shared, &Slice { embed: true, ..Slice::of(0..1) }).unwrap_err().to_string();
        assert!(error.contains("the cache that attend 1 uses"), "{error}");
        assert!(part(&shared, &Slice::whole(&shared)).is_ok());
    }
}
