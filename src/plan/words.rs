//! A model in words, from its graph: for people who ask what a file holds.

use super::{Cache, Graph, Op, Values, Window};

impl Graph {
    /// What layers compute: a line for each kind, "layers 0-4, 6-10: ...".
    pub fn layers_in_words(&self) -> Vec<String> {
        let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
        for (layer, ops) in self.layers.iter().enumerate() {
            let parts: Vec<String> =
                self.ops[ops.clone()].iter().filter_map(|named| self.word(&named.op)).collect();
            let words = if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") };
            match kinds.iter_mut().find(|(known, _)| *known == words) {
                Some((_, layers)) => layers.push(layer),
                None => kinds.push((words, vec![layer])),
            }
        }
        kinds.iter().map(|(words, layers)| format!("{}: {words}", ranges(layers))).collect()
    }

    /// Tensors of the file that the model does not use, each kind once: "blk.*.attn_q.scale: why".
    pub fn ignored_in_words(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (name, why) in &self.ignored {
            let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let line = match layer {
                Some((_, part)) => format!("blk.*.{part}: {why}"),
                None => format!("{name}: {why}"),
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// What is worth saying of an op.
    fn word(&self, op: &Op) -> Option<String> {
        match *op {
            Op::Attention { cache, q, scores, sinks, .. } => {
                let Cache { n_head_kv, k, values, window } = self.cache(cache);
                let mut words = format!("attention of {} heads of {k}", self.n_head(q, cache));
                match values {
                    Values::Own(v) if v == k => words += &format!(" over {n_head_kv}"),
                    Values::Own(v) => words += &format!(" over {n_head_kv}, values of {v}"),
                    Values::InKeys(v) => {
                        words += &format!(" over rows whose first {v} elements are the values")
                    }
                }
                if let Some(window) = window {
                    words += &match window {
                        Window::Sliding(n) => format!(", window of {n}"),
                        Window::Chunks(n) => format!(", chunks of {n}"),
                    };
                }
                if scores.cap != 0.0 {
                    words += &format!(", scores capped at {}", scores.cap);
                }
                if sinks.is_some() {
                    words += ", sinks";
                }
                Some(words)
            }
            Op::DeltaNet { q, v, g, beta, n_k, heads, .. } => {
                let shape = self.delta_shape([q, v, g, beta], n_k, heads);
                Some(format!("delta net of {} heads of {} over {n_k} of {}", shape.n_v, shape.v, shape.k))
            }
            Op::Conv { weight, .. } => Some(format!("convolution of {} positions", self.weight(weight).cols)),
            Op::MatMul { weight, .. } => {
                let weight = self.weight(weight);
                let part = weight.name.rsplit('.').nth(1)?;
                match part {
                    "ffn_down" => Some(format!("feed-forward of {}", weight.cols)),
                    "ffn_down_shexp" => Some(format!("an expert of {} for all tokens", weight.cols)),
                    _ => None,
                }
            }
            Op::MatMulExperts { ids, weight, out, .. } => {
                let shape = self.expert_shape(ids, weight, out);
                let is_down = self.weight(weight).name.contains("ffn_down");
                is_down.then(|| format!("{} of {} experts of {}", shape.n_used, shape.n_experts, shape.cols))
            }
            Op::Embed { .. }
            | Op::Fill { .. }
            | Op::Norm { .. }
            | Op::Affine { .. }
            | Op::Rope { .. }
            | Op::Temper { .. }
            | Op::MatMulHeads { .. }
            | Op::Append { .. }
            | Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Route { .. }
            | Op::Spread { .. }
            | Op::Combine { .. }
            | Op::Columns { .. }
            | Op::Join { .. }
            | Op::SelectRows { .. } => None,
        }
    }
}

/// "layer 3", "layers 0-4, 6".
fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    let runs: Vec<_> = runs.collect();
    format!("{} {}", if layers.len() == 1 { "layer" } else { "layers" }, runs.join(", "))
}
