//! What architectures are composed of: embedding, norms, layers, feed-forward and head, as functions over the builder.
//! Attention and mixtures of experts have files of their own. An option is a fact about an architecture, never about a
//! file: what a file may leave out, the functions look up.

use super::Model;
use super::attention::{Attention, attention};
use super::mixture::{Mixture, mixture};
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Part, Presence, ScaleOrder};
use crate::plan::{Binary, Norm, NormKind, Unary, ValueId};
use crate::{Result, memory};

/// A norm of an architecture, over whole rows or heads.
#[derive(Clone, Copy, Debug)]
pub struct NormOf {
    pub kind: NormKind,
    pub weight: Presence,
    pub bias: Presence,
    pub eps: f32,
}

impl NormOf {
    /// An RMS norm with a weight, as `attention.layer_norm_rms_epsilon` says.
    pub fn rms(hyper: &Hyper<'_>) -> Result<NormOf> {
        let eps = hyper.keys.epsilon("attention.layer_norm_rms_epsilon")?;
        Ok(NormOf { kind: NormKind::Rms, weight: Presence::Required, bias: Presence::Never, eps })
    }

    /// A LayerNorm with weight and bias, as `attention.layer_norm_epsilon` says.
    pub fn layer(hyper: &Hyper<'_>) -> Result<NormOf> {
        let eps = hyper.keys.epsilon("attention.layer_norm_epsilon")?;
        Ok(NormOf { kind: NormKind::Layer, weight: Presence::Required, bias: Presence::Required, eps })
    }

    /// The same without weight and bias.
    pub fn bare(self) -> NormOf {
        NormOf { weight: Presence::Never, bias: Presence::Never, ..self }
    }

    /// `{name}.weight` over each `group` of elements of x.
    pub fn over(&self, b: &mut Builder<'_>, name: &'static str, x: ValueId, group: usize) -> Result<ValueId> {
        // some files' names are without the suffix
        let tensor = if b.has(name) { name.to_owned() } else { format!("{name}.weight") };
        let weight = b.vector_if(&tensor, Part::all(group), self.weight)?;
        let bias = b.vector_if(&format!("{name}.bias"), Part::all(group), self.bias)?;
        Ok(b.norm(name, x, Norm { kind: self.kind, weight, bias, eps: self.eps }, group))
    }

    /// Over the whole row.
    pub fn row(&self, b: &mut Builder<'_>, name: &'static str, x: ValueId) -> Result<ValueId> {
        let width = b.width(x);
        self.over(b, name, x, width)
    }

    /// Over each of `n` heads, with a row of `{name}.weight` for each.
    pub fn each(&self, b: &mut Builder<'_>, name: &'static str, x: ValueId, n: usize) -> Result<ValueId> {
        let group = b.width(x) / n;
        let normed =
            b.norm(name, x, Norm { kind: self.kind, weight: None, bias: None, eps: self.eps }, group);
        let weight = b.row_vectors(&format!("{name}.weight"), group, Part::all(n))?;
        Ok(b.affine("attn_norm_heads", normed, Some(weight), None))
    }
}

/// A plan that begins with the rows of the step's tokens.
pub fn embed<'a>(hyper: &Hyper<'_>, file: &'a Gguf) -> Result<(Builder<'a>, ValueId)> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    Ok((b, x))
}

/// The same without the last blocks, `nextn_predict_layers` of them, and the hyper-parameters of what is left.
pub fn embed_without_nextn<'h, 'f>(
    hyper: &Hyper<'h>,
    file: &'f Gguf,
) -> Result<(Hyper<'h>, Builder<'f>, ValueId)> {
    let kept = hyper.without_nextn()?;
    let (mut b, x) = embed(&kept, file)?;
    b.ignore_layers(kept.n_layer..hyper.n_layer, "they predict tokens behind the next")?;
    Ok((kept, b, x))
}

/// The norms of a layer, by their tensors. None: there is none there.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    /// Of what the attention takes, and of what it leaves.
    pub attention: [Option<&'static str>; 2],
    /// The same of the feed-forward.
    pub feed: [Option<&'static str>; 2],
}

/// How a layer's two halves stand.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// In front of the halves, and behind them.
    pub norm: NormOf,
    pub behind: NormOf,
    pub norms: Norms,
    /// Both halves take the layer's input: x += attention(norm(x)) + feed(norm(x)). A feed-forward without a norm of its
    /// own takes what the attention takes.
    pub parallel: bool,
    /// On what each half adds.
    pub residual: f32,
}

impl Block {
    /// x += attention(norm(x)), x += feed(norm(x))
    pub fn pre(norm: NormOf) -> Block {
        let norms = Norms { attention: [Some("attn_norm"), None], feed: [Some("ffn_norm"), None] };
        Block { norm, behind: norm, norms, parallel: false, residual: 1.0 }
    }

    /// x += norm(attention(x)), x += norm(feed(x))
    pub fn post(norm: NormOf) -> Block {
        let norms =
            Norms { attention: [None, Some("post_attention_norm")], feed: [None, Some("post_ffw_norm")] };
        Block { norms, ..Block::pre(norm) }
    }

    /// x += norm(attention(norm(x))), x += norm(feed(norm(x)))
    pub fn sandwich(norm: NormOf) -> Block {
        let norms = Norms {
            attention: [Some("attn_norm"), Some("post_attention_norm")],
            feed: [Some("ffn_norm"), Some("post_ffw_norm")],
        };
        Block { norms, ..Block::pre(norm) }
    }

    /// x += attention(n) + feed(n), n = norm(x)
    pub fn parallel(norm: NormOf) -> Block {
        let norms = Norms { attention: [Some("attn_norm"), None], feed: [None, None] };
        Block { norms, parallel: true, ..Block::pre(norm) }
    }

    /// The norm before the feed-forward by another name.
    pub fn feed_norm(self, name: &'static str) -> Block {
        let norms = Norms { feed: [Some(name), self.norms.feed[1]], ..self.norms };
        Block { norms, ..self }
    }

    /// A layer over x, of what its halves compute.
    pub fn over(
        &self,
        b: &mut Builder<'_>,
        x: ValueId,
        attend: impl FnOnce(&mut Builder<'_>, ValueId) -> Result<ValueId>,
        feed: impl FnOnce(&mut Builder<'_>, ValueId) -> Result<ValueId>,
    ) -> Result<ValueId> {
        let normed_by = |b: &mut Builder<'_>, norm: NormOf, name: Option<&'static str>, x| match name {
            Some(name) => norm.row(b, name, x),
            None => Ok(x),
        };
        let add = |b: &mut Builder<'_>, name, x, half| {
            let half = if self.residual == 1.0 {
                half
            } else {
                b.unary("residual_scale", Unary::Scale(self.residual), half)
            };
            b.binary(name, Binary::Add, x, half)
        };
        let normed = normed_by(b, self.norm, self.norms.attention[0], x)?;
        let attended = attend(b, normed)?;
        let attended = normed_by(b, self.behind, self.norms.attention[1], attended)?;
        if self.parallel {
            let own = self.norms.feed[0];
            let normed = normed_by(b, self.norm, own, if own.is_some() { x } else { normed })?;
            let fed = feed(b, normed)?;
            let both = b.binary("parallel", Binary::Add, attended, fed);
            return Ok(add(b, "residual", x, both));
        }
        let x = add(b, "attn_residual", x, attended);
        let normed = normed_by(b, self.norm, self.norms.feed[0], x)?;
        let fed = feed(b, normed)?;
        let fed = normed_by(b, self.behind, self.norms.feed[1], fed)?;
        Ok(add(b, "ffn_residual", x, fed))
    }
}

/// All that stands behind the embedding, where layers differ in options alone.
pub fn decoder(
    mut b: Builder<'_>,
    hyper: &Hyper<'_>,
    mut x: ValueId,
    block: Block,
    end: Head,
    options: impl Fn(usize) -> (Attention, Feed),
) -> Result<Model> {
    for layer in 0..hyper.n_layer {
        let (heads, unit) = options(layer);
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, x| attention(b, hyper, layer, x, heads);
            block.over(b, x, attend, |b, x| unit.over(b, hyper, layer, x))
        })?;
    }
    head(b, hyper, x, end)
}

/// A layer's second half.
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    Dense(FeedForward),
    Mixture(Mixture),
}

impl Feed {
    pub fn over(&self, b: &mut Builder<'_>, hyper: &Hyper<'_>, layer: usize, x: ValueId) -> Result<ValueId> {
        match *self {
            Feed::Dense(unit) => feed_forward(b, hyper, layer, x, unit),
            Feed::Mixture(experts) => mixture(b, hyper, x, experts),
        }
    }
}

/// A feed-forward of two or three matrices.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    pub unit: Unit,
    pub gate: UnitGate,
    /// `ffn.act.scales`, which divide what f makes.
    pub divisors: Presence,
    pub bias: Presence,
    /// Whether the products' `.scale` apply.
    pub scales: bool,
}

/// What a feed-forward or an expert computes between its matrices.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Of gate and up.
    Gated(Binary),
    /// Of up alone.
    Plain(Unary),
}

/// Where a gated feed-forward has its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitGate {
    /// `ffn_gate`
    Own,
    /// The first half of what `ffn_up` makes.
    InUp,
}

impl FeedForward {
    /// f(gate) * up, without biases and scales.
    pub const fn gated(f: Unary) -> FeedForward {
        let unit = Unit::Gated(Binary::Glu(f));
        let (divisors, bias) = (Presence::Never, Presence::Never);
        FeedForward { unit, gate: UnitGate::Own, divisors, bias, scales: false }
    }

    /// f(up) with biases.
    pub fn plain(f: Unary) -> FeedForward {
        FeedForward { unit: Unit::Plain(f), bias: Presence::Required, ..FeedForward::gated(f) }
    }
}

/// The feed-forward of layer `layer` over x.
pub fn feed_forward(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    layer: usize,
    x: ValueId,
    of: FeedForward,
) -> Result<ValueId> {
    feed_forward_of(b, hyper, DENSE, hyper.n_ff[layer], x, of)
}

/// Names of a feed-forward's ops: gate, up, gated unit, down.
pub type FeedForwardNames = [&'static str; 4];

pub const DENSE: FeedForwardNames = ["ffn_gate", "ffn_up", "ffn_glu", "ffn_down"];
pub const SHARED: FeedForwardNames = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_glu_shexp", "ffn_down_shexp"];

/// A feed-forward of other tensors, with `n_ff` elements between its matrices.
pub fn feed_forward_of(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    [gate, up, glu, down]: FeedForwardNames,
    n_ff: usize,
    x: ValueId,
    of: FeedForward,
) -> Result<ValueId> {
    let linear =
        Linear { bias: of.bias, scale: if of.scales { ScaleOrder::AfterBias } else { ScaleOrder::Ignored } };
    let unit = match (of.unit, of.gate) {
        (Unit::Plain(f), _) => {
            let up = b.linear(up, x, n_ff, linear)?;
            let unit = b.unary("ffn_act", f, up);
            match b.vector_if("ffn.act.scales", Part::all(n_ff), of.divisors)? {
                Some(divisors) => b.divide("ffn_act_scaled", unit, divisors),
                None => unit,
            }
        }
        (Unit::Gated(f), UnitGate::Own) => {
            let gate = b.linear(gate, x, n_ff, linear)?;
            let up = b.linear(up, x, n_ff, linear)?;
            b.binary(glu, f, gate, up)
        }
        (Unit::Gated(f), UnitGate::InUp) => {
            let half = |first| Part { first, len: n_ff, of: 2 * n_ff };
            let first = b.linear_part(gate, up, x, half(0), linear)?;
            let second = b.linear_part(up, up, x, half(n_ff), linear)?;
            b.binary(glu, f, first, second)
        }
    };
    b.linear(down, unit, hyper.n_embd, linear)
}

/// What each layer has: the mixture where the file has a router, else the feed-forward. A feed-forward beside a mixture is
/// not computed.
pub fn mixtures_where_routed(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    dense: FeedForward,
    experts: Mixture,
) -> Result<Vec<Feed>> {
    let [gate, up, _, down] = DENSE;
    let feeds = (0..hyper.n_layer).map(|layer| {
        if !b.has(&format!("blk.{layer}.ffn_gate_inp.weight")) {
            return Ok(Feed::Dense(dense));
        }
        for name in [gate, up, down] {
            for part in ["weight", "scale"] {
                b.ignore(&format!("blk.{layer}.{name}.{part}"), "the layer has a mixture")?;
            }
        }
        Ok(Feed::Mixture(experts))
    });
    memory::try_collect(feeds, "the plan")
}

/// The matrix that makes logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// `output`
    Own,
    /// `output`, or the embedding in a file without it.
    OwnOrEmbedding,
    Embedding,
}

/// What follows the layers.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub norm: Option<NormOf>,
    pub output: Output,
    /// Rows of an `output` that makes logits of so many last tokens; those of all before are -infinity.
    pub last: Option<usize>,
    pub bias: Presence,
    /// Factor on the logits.
    pub scale: f32,
    /// Then their soft cap; 0: none.
    pub cap: f32,
}

impl Head {
    /// A norm, and a matrix that may be the embedding.
    pub fn of(norm: NormOf) -> Head {
        let output = Output::OwnOrEmbedding;
        Head { norm: Some(norm), output, last: None, bias: Presence::Never, scale: 1.0, cap: 0.0 }
    }
}

/// Norm and logits of the wanted rows of x, and the end of the plan.
pub fn head(mut b: Builder<'_>, hyper: &Hyper<'_>, x: ValueId, of: Head) -> Result<Model> {
    let mut wanted = b.select(x);
    if let Some(norm) = of.norm {
        wanted = norm.row(&mut b, "output_norm", wanted)?;
    }
    let tied = match of.output {
        Output::Own => false,
        Output::OwnOrEmbedding => !b.has("output.weight"),
        Output::Embedding => true,
    };
    let tensor = if tied { "token_embd.weight" } else { "output.weight" };
    let n_made = of.last.filter(|n| !tied && *n < hyper.n_vocab).unwrap_or(hyper.n_vocab);
    let all = Part::all(n_made);
    let bias = b.vector_if("output.bias", all, of.bias)?;
    let mut logits = b.product("output", tensor, wanted, all, bias)?;
    if of.scale != 1.0 {
        logits = b.unary("logit_scale", Unary::Scale(of.scale), logits);
    }
    if of.cap != 0.0 {
        logits = b.unary("logit_cap", Unary::SoftCap(of.cap), logits);
    }
    if n_made < hyper.n_vocab {
        let before = b.fill("no_logits", wanted, hyper.n_vocab - n_made, f32::NEG_INFINITY);
        logits = b.join("all_logits", [before, logits], 1, hyper.n_vocab);
    }
    Ok((hyper.config()?, b.finish(logits)?))
}
