//! Which device computes which part of a model: decided from sizes alone, before anything is allocated.
//!
//! The layers that GPUs take are the last ones, so that a step goes from the processor to the GPUs and at most its
//! output comes back. What GPUs do not take the processor computes, with the weights and the cache that belong to it in
//! its own memory. The experts of a mixture are most of its bytes, and a token reads few of them: the processor may have
//! those of the first of the GPUs' layers, too, and computes them between what the GPUs do.

use std::ops::{Range, RangeInclusive};

use crate::device::{BLOCK_LEN, Memory, Needs, SessionLimits};
use crate::plan::split::Slice;
use crate::{Error, Result};

/// How much of a model goes on the backend's GPUs; means nothing to a backend without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As much as their free memory holds, with a margin.
    #[default]
    Auto,
    /// All layers and the output, or Error::OutOfMemory. The embedding too, where it fits.
    All,
    /// The last so many layers, or Error::OutOfMemory; 0: nothing; more than there are: as All.
    Last(usize),
}

/// Of how many layers on GPUs the processor computes the experts; means nothing to a backend without GPUs or a model
/// without experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuExperts {
    /// With GpuLayers::Auto: of as few as there must be for GPUs to hold the rest, where that leaves the processor fewer
    /// bytes a token to read than whole layers would. Else of none.
    #[default]
    Auto,
    /// Of the model's first so many layers that have experts, those that the processor has anyway included; more than
    /// there are: of all.
    First(usize),
}

/// Where a part is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Index among the backend's GPUs.
    Gpu(usize),
    /// The processor; of a backend without GPUs its one device.
    Host,
}

/// A part of the model at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPart {
    pub target: Target,
    pub part: Slice,
    pub needs: Needs,
}

/// What GPUs would hold at a smaller context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternative {
    pub n_ctx: usize,
    /// Layers on GPUs, and whether the output is there too.
    pub gpu_layers: usize,
    pub head: bool,
    /// Of these layers so many whose experts the processor has.
    pub cpu_experts: usize,
}

/// Where a model's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// One for each device that has something: the processor's first where it begins a step, else last.
    pub parts: Vec<PlacedPart>,
    pub n_layers: usize,
    /// Layers on GPUs whose experts the processor has.
    pub cpu_experts: usize,
    /// Positions of cache, and tokens of a step, that it was made for.
    pub n_ctx: usize,
    pub n_batch: usize,
    /// Memory of the backend's GPUs, and of the host where it has a part, when it was made.
    pub gpus: Vec<Memory>,
    pub host: Memory,
    /// Contexts at which more of the model would be on GPUs, the largest first.
    pub smaller: Vec<Alternative>,
}

/// What Auto leaves free of a GPU's memory: a twentieth, at least and at most so much. For blocks on their way there
/// during the load, the runtime's own needs (graphs, printf buffers, code), and what other programs take meanwhile.
const MARGIN: RangeInclusive<u64> = 32 << 20..=512 << 20;

/// Bytes of a GPU that may be planned with; as much as it takes where its memory is not known.
fn usable(memory: Memory, margin: bool) -> u64 {
    match memory {
        Memory { total: 0, .. } => u64::MAX - 1,
        Memory { free, .. } if margin => {
            free.saturating_sub((free / 20).clamp(*MARGIN.start(), *MARGIN.end()))
        }
        Memory { free, .. } => free,
    }
}

impl Placement {
    /// Layers on GPUs.
    pub fn gpu_layers(&self) -> usize {
        count_layers(&self.parts)
    }

    /// The same as a request counts them: one more than there are where the output is there too.
    pub fn n_gpu_layers(&self) -> usize {
        let layers = self.gpu_layers();
        layers + usize::from(layers == self.n_layers && self.head_on_gpu())
    }

    /// Whether a GPU computes the output.
    pub fn head_on_gpu(&self) -> bool {
        has_head(&self.parts)
    }

    /// What a device holds of it.
    pub fn needs(&self, target: Target) -> Needs {
        self.parts.iter().filter(|placed| placed.target == target).map(|placed| placed.needs).sum()
    }

    /// Devices that hold something.
    pub fn targets(&self) -> Vec<Target> {
        self.parts.iter().map(|placed| placed.target).collect()
    }
}

fn on_gpus(parts: &[PlacedPart]) -> impl Iterator<Item = &PlacedPart> {
    parts.iter().filter(|placed| placed.target != Target::Host)
}

fn count_layers(parts: &[PlacedPart]) -> usize {
    on_gpus(parts).map(|placed| placed.part.layers.len()).sum()
}

fn has_head(parts: &[PlacedPart]) -> bool {
    on_gpus(parts).any(|placed| placed.part.head)
}

/// Of the layers on GPUs those whose experts are not there.
fn count_experts(parts: &[PlacedPart], with_experts: &[usize]) -> usize {
    let count = |of: &Range<usize>| with_experts.iter().filter(|layer| of.contains(layer)).count();
    on_gpus(parts).map(|placed| count(&placed.part.layers) - count(&placed.part.experts)).sum()
}

/// What is to be placed.
pub struct Question<'a> {
    pub n_layers: usize,
    /// Those with experts, in order.
    pub with_experts: &'a [usize],
    pub gpus: &'a [Memory],
    pub gpu_layers: GpuLayers,
    pub cpu_experts: CpuExperts,
    /// Positions of cache to plan for.
    pub n_ctx: usize,
    /// A session's limits for so many positions.
    pub limits: &'a dyn Fn(usize) -> Result<SessionLimits>,
    /// What a part needs on a device; more layers need no less.
    pub needs: &'a dyn Fn(Target, &Slice, SessionLimits) -> Result<Needs>,
    /// Bytes of a part that a token reads.
    pub reads: &'a dyn Fn(&Slice) -> Result<u64>,
}

/// Smallest context that is looked at.
const LEAST_CONTEXT: usize = 4 * BLOCK_LEN;

/// # Errors
/// Error::OutOfMemory where GPUs do not hold what they are asked to; what `needs` fails with.
pub fn place(question: &Question<'_>) -> Result<Placement> {
    let search = Search::new(question, question.n_ctx)?;
    let (parts, is_auto) = match question.gpu_layers {
        // a model without layers is not worth a GPU
        _ if question.gpus.is_empty() || question.n_layers == 0 => (search.around(Vec::new())?, false),
        GpuLayers::Auto => (search.most()?, true),
        GpuLayers::Last(n) if n <= question.n_layers => (search.last(n)?, false),
        GpuLayers::All | GpuLayers::Last(_) => (search.all()?, false),
    };
    let limits = search.limits;
    let mut placement = Placement {
        n_layers: question.n_layers,
        cpu_experts: count_experts(&parts, question.with_experts),
        parts,
        n_ctx: limits.n_blocks * BLOCK_LEN,
        n_batch: limits.max_tokens,
        gpus: question.gpus.to_vec(),
        host: Memory::default(),
        smaller: Vec::new(),
    };
    if is_auto {
        placement.smaller = alternatives(question, &placement)?;
    }
    Ok(placement)
}

/// Halves the context as long as that brings more of the model onto GPUs.
fn alternatives(question: &Question<'_>, placement: &Placement) -> Result<Vec<Alternative>> {
    let more = |a: &Alternative, b: &Alternative| {
        (a.gpu_layers, a.head, b.cpu_experts) > (b.gpu_layers, b.head, a.cpu_experts)
    };
    let told = |n_ctx, parts: &[PlacedPart]| Alternative {
        n_ctx,
        gpu_layers: count_layers(parts),
        head: has_head(parts),
        cpu_experts: count_experts(parts, question.with_experts),
    };
    let is_whole = |of: &Alternative| {
        let experts = of.cpu_experts == 0 || question.cpu_experts != CpuExperts::Auto;
        of.gpu_layers == question.n_layers && of.head && experts
    };
    let mut best = told(question.n_ctx, &placement.parts);
    let mut found = Vec::new();
    let mut n_ctx = question.n_ctx / 2;
    while !is_whole(&best) && n_ctx >= LEAST_CONTEXT {
        let here = told(n_ctx, &Search::new(question, n_ctx)?.most()?);
        if more(&here, &best) {
            best = here;
            found.push(here);
        }
        n_ctx /= 2;
    }
    Ok(found)
}

/// The question at one size of context.
#[derive(Clone)]
struct Search<'a> {
    question: &'a Question<'a>,
    n_ctx: usize,
    limits: SessionLimits,
    /// The processor has the experts of the layers before this one.
    experts_from: usize,
    /// Bytes of weights and cache of each layer, with its experts and without; empty where nothing is to be divided.
    layer_bytes: Vec<[u64; 2]>,
}

impl<'a> Search<'a> {
    /// With the experts where they are asked to be.
    fn new(question: &'a Question<'a>, n_ctx: usize) -> Result<Self> {
        let limits = (question.limits)(n_ctx)?;
        let mut layer_bytes = Vec::new();
        if question.gpus.len() > 1 {
            for layer in 0..question.n_layers {
                let bytes = |experts: Range<usize>| {
                    let part = Slice { experts, ..Slice::of(layer..layer + 1) };
                    let needs = (question.needs)(Target::Gpu(0), &part, limits)?;
                    Ok(needs.weights.saturating_add(needs.cache))
                };
                let whole = bytes(layer..layer + 1)?;
                let has_experts = question.with_experts.contains(&layer);
                layer_bytes.push([whole, if has_experts { bytes(layer..layer)? } else { whole }]);
            }
        }
        let search = Search { question, n_ctx, limits, experts_from: 0, layer_bytes };
        Ok(match question.cpu_experts {
            CpuExperts::First(n) => search.without_experts(n),
            CpuExperts::Auto => search,
        })
    }

    /// With the experts of the first `n` layers that have some on the processor.
    fn without_experts(&self, n: usize) -> Self {
        let of = &self.question.with_experts;
        let last = n.min(of.len()).checked_sub(1);
        Search { experts_from: last.map_or(0, |last| of[last] + 1), ..self.clone() }
    }

    /// Bytes that each GPU has to give.
    fn room(&self, margin: bool) -> Vec<u64> {
        self.question.gpus.iter().map(|memory| usable(*memory, margin)).collect()
    }

    /// Of layers what GPUs have.
    fn slice(&self, layers: Range<usize>) -> Slice {
        let experts = layers.start.max(self.experts_from)..layers.end.max(self.experts_from);
        Slice { experts, ..Slice::of(layers) }
    }

    /// The same from a layer on.
    fn slice_from(&self, from: usize) -> Slice {
        self.slice(from..self.question.n_layers)
    }

    fn needs(&self, target: Target, part: &Slice) -> Result<Needs> {
        (self.question.needs)(target, part, self.limits)
    }

    /// The whole on GPUs, in the worst case without the embedding; None: it does not fit.
    fn whole(&self, room: &[u64]) -> Result<Option<Vec<PlacedPart>>> {
        let whole = Slice { embed: true, head: true, ..self.slice_from(0) };
        match self.spread(&whole, room)? {
            Some(parts) => Ok(Some(parts)),
            None => self.spread(&Slice { embed: false, ..whole }, room),
        }
    }

    /// What fits of that which leaves the processor the fewest bytes a token to read.
    fn most(&self) -> Result<Vec<PlacedPart>> {
        let room = self.room(true);
        if let Some(parts) = self.whole(&room)? {
            return self.around(parts);
        }
        let mut found: Vec<_> = self.most_layers(&room)?.into_iter().map(|(_, parts)| parts).collect();
        let n_experts = self.question.with_experts.len();
        if self.question.cpu_experts == CpuExperts::Auto && n_experts > 0 {
            let bare = self.without_experts(n_experts);
            if bare.whole(&room)?.is_some() {
                found.extend(self.fewest_experts(|search| search.whole(&room))?);
            } else {
                for (part, _) in bare.most_layers(&room)? {
                    let parts = self.fewest_experts(|search| {
                        let part = Slice { head: part.head, ..search.slice_from(part.layers.start) };
                        search.spread(&part, &room)
                    })?;
                    found.extend(parts);
                }
            }
        }
        let mut best: Option<(u64, Vec<PlacedPart>)> = None;
        for parts in found {
            let parts = self.around(parts)?;
            let mut reads = 0u64;
            for placed in parts.iter().filter(|placed| placed.target == Target::Host) {
                reads = reads.saturating_add((self.question.reads)(&placed.part)?);
            }
            if best.as_ref().is_none_or(|(fewest, _)| reads < *fewest) {
                best = Some((reads, parts));
            }
        }
        best.map_or_else(|| self.around(Vec::new()), |(_, parts)| Ok(parts))
    }

    /// As many layers as fit with the output, and without.
    fn most_layers(&self, room: &[u64]) -> Result<Vec<(Slice, Vec<PlacedPart>)>> {
        let mut most = Vec::new();
        for head in [true, false] {
            // the output alone is a part, no layers and no output are none
            let (mut none, mut all) = (0, self.question.n_layers + usize::from(head));
            let mut found = None;
            // starts from `all` on fit (or are beyond the end), starts below `none` do not
            while none < all {
                let from = none.midpoint(all);
                let part = Slice { head, ..self.slice_from(from) };
                match self.spread(&part, room)? {
                    Some(parts) => (all, found) = (from, Some((part, parts))),
                    None => none = from + 1,
                }
            }
            most.extend(found);
        }
        Ok(most)
    }

    /// What fits with the experts of as few layers as can be on the processor.
    fn fewest_experts(
        &self,
        fits: impl Fn(&Self) -> Result<Option<Vec<PlacedPart>>>,
    ) -> Result<Option<Vec<PlacedPart>>> {
        let (mut too_few, mut enough) = (0, self.question.with_experts.len() + 1);
        let mut found = None;
        while too_few < enough {
            let n = too_few.midpoint(enough);
            match fits(&self.without_experts(n))? {
                Some(parts) => (enough, found) = (n, Some(parts)),
                None => too_few = n + 1,
            }
        }
        Ok(found)
    }

    /// Everything but perhaps the embedding and the experts that are to stay, or an error.
    fn all(&self) -> Result<Vec<PlacedPart>> {
        match self.whole(&self.room(false))? {
            Some(parts) => self.around(parts),
            None => Err(self.exhausted(&Slice { head: true, ..self.slice_from(0) })),
        }
    }

    /// The last `n` layers, at most all, or an error.
    fn last(&self, n: usize) -> Result<Vec<PlacedPart>> {
        if n == 0 {
            return self.around(Vec::new());
        }
        let part = self.slice_from(self.question.n_layers.saturating_sub(n));
        match self.spread(&part, &self.room(false))? {
            Some(parts) => self.around(parts),
            None => Err(self.exhausted(&part)),
        }
    }

    /// Completes what GPUs have with what is left for the processor.
    fn around(&self, gpu: Vec<PlacedPart>) -> Result<Vec<PlacedPart>> {
        let n = self.question.n_layers;
        let part = match (gpu.first(), gpu.last()) {
            (Some(PlacedPart { part: first, .. }), Some(PlacedPart { part: last, .. })) => Slice {
                embed: !first.embed,
                layers: 0..first.layers.start,
                experts: 0..first.experts.start,
                head: !last.head,
            },
            _ => Slice { embed: true, head: true, ..Slice::of(0..n) },
        };
        let mut parts = gpu;
        if part.embed || !part.experts.is_empty() || part.head {
            let at = if part.embed { 0 } else { parts.len() };
            let needs = self.needs(Target::Host, &part)?;
            parts.insert(at, PlacedPart { target: Target::Host, needs, part });
        }
        Ok(parts)
    }

    /// Divides `part` among the GPUs, in their order and in proportion to what each has left for layers; None: it
    /// does not fit.
    fn spread(&self, part: &Slice, room: &[u64]) -> Result<Option<Vec<PlacedPart>>> {
        let mut gpus: Vec<usize> = Vec::new();
        for (gpu, usable) in room.iter().enumerate() {
            // one that has no room for a single layer is of no use where there are others
            let first = self.slice(part.layers.start..part.layers.start + 1);
            if room.len() == 1
                || part.layers.is_empty()
                || fits(self.needs(Target::Gpu(gpu), &first)?, *usable)
            {
                gpus.push(gpu);
            }
        }
        let mut found: Option<Vec<PlacedPart>> = None;
        while !gpus.is_empty() {
            let share = Share { search: self, part, room, gpus: &gpus };
            let dropped = match share.boundaries()? {
                Divided::Into(bounds) => {
                    found = Some(share.parts(&bounds)?);
                    // without a GPU that gets no layer a step crosses once less
                    bounds.windows(2).position(|pair| pair[0] == pair[1]).filter(|_| gpus.len() > 1)
                }
                Divided::TooSmall(at) if found.is_none() => Some(at),
                Divided::TooSmall(_) | Divided::Impossible => None,
            };
            match dropped {
                Some(at) => gpus.remove(at),
                None => break,
            };
        }
        Ok(found)
    }

    #[cold]
    fn exhausted(&self, part: &Slice) -> Error {
        let needs = self.needs(Target::Gpu(0), part).unwrap_or_default();
        let sum = |f: fn(&Memory) -> u64| self.question.gpus.iter().map(f).fold(0, u64::saturating_add);
        let n_gpus = self.question.gpus.len();
        let output = if part.head { " and the output" } else { "" };
        let experts = self
            .question
            .with_experts
            .iter()
            .filter(|layer| part.layers.contains(layer) && !part.experts.contains(layer));
        let but = match experts.count() {
            0 => String::new(),
            n => format!(", but for the experts of {n},"),
        };
        let mut what = format!(
            "{} layers{output}{but} on {n_gpus} GPU{} with a context of {}",
            part.layers.len(),
            if n_gpus == 1 { "" } else { "s" },
            self.n_ctx
        );
        if let Some(n_ctx) = self.context_that_fits(part) {
            what.push_str(&format!(" (one of {n_ctx} would fit)"));
        }
        Error::OutOfMemory { what, wanted: needs.total(), free: sum(|m| m.free), total: sum(|m| m.total) }
    }

    /// The context, halved as often as it takes.
    fn context_that_fits(&self, part: &Slice) -> Option<usize> {
        let mut n_ctx = self.n_ctx / 2;
        while n_ctx >= LEAST_CONTEXT {
            let search = Search::new(self.question, n_ctx).ok()?;
            if search.spread(part, &search.room(false)).ok()?.is_some() {
                return Some(n_ctx);
            }
            n_ctx /= 2;
        }
        None
    }
}

fn fits(needs: Needs, usable: u64) -> bool {
    let total = needs.total();
    total < u64::MAX && total <= usable
}

/// A division of a part among some GPUs.
struct Share<'a> {
    search: &'a Search<'a>,
    part: &'a Slice,
    room: &'a [u64],
    gpus: &'a [usize],
}

enum Divided {
    /// Where each GPU's layers begin, and where the last one's end.
    Into(Vec<usize>),
    /// This one, by place in the list, has no room for the embedding or the output that would be its own.
    TooSmall(usize),
    Impossible,
}

impl Share<'_> {
    /// What GPU number `at` of the list has with these layers.
    fn of(&self, at: usize, layers: Range<usize>) -> Slice {
        let embed = self.part.embed && at == 0;
        let head = self.part.head && at + 1 == self.gpus.len();
        Slice { embed, head, ..self.search.slice(layers) }
    }

    fn fits(&self, at: usize, layers: Range<usize>) -> Result<bool> {
        let part = self.of(at, layers);
        if part.layers.is_empty() && !part.embed && !part.head {
            return Ok(true);
        }
        let gpu = self.gpus[at];
        Ok(fits(self.search.needs(Target::Gpu(gpu), &part)?, self.room[gpu]))
    }

    /// The first layer from which on to `end` all fit on a GPU that is not the first; None: not even none.
    fn lowest(&self, at: usize, end: usize) -> Result<Option<usize>> {
        let start = self.part.layers.start;
        if !self.fits(at, end..end)? {
            return Ok(None);
        }
        let (mut no, mut yes) = (start, end);
        while no < yes {
            let middle = no.midpoint(yes);
            if self.fits(at, middle..end)? { yes = middle } else { no = middle + 1 }
        }
        Ok(Some(yes))
    }

    /// The layer before which all from `start` on fit on a GPU that is not the last; None: not even none.
    fn highest(&self, at: usize, start: usize) -> Result<Option<usize>> {
        if !self.fits(at, start..start)? {
            return Ok(None);
        }
        let (mut yes, mut no) = (start, self.part.layers.end + 1);
        while no - yes > 1 {
            let middle = yes.midpoint(no);
            if self.fits(at, start..middle)? { yes = middle } else { no = middle }
        }
        Ok(Some(yes))
    }

    fn boundaries(&self) -> Result<Divided> {
        let Range { start, end } = self.part.layers;
        let m = self.gpus.len();
        if m == 1 {
            let fits = self.fits(0, start..end)?;
            return Ok(if fits { Divided::Into(vec![start, end]) } else { Divided::Impossible });
        }
        // from behind: where each GPU must begin at the latest for those before it to have as little as possible
        let mut lowest = vec![end; m + 1];
        for at in (1..m).rev() {
            match self.lowest(at, lowest[at + 1])? {
                Some(from) => lowest[at] = from,
                None => return Ok(Divided::TooSmall(at)),
            }
        }
        match self.highest(0, start)? {
            None => return Ok(Divided::TooSmall(0)),
            Some(reached) if reached < lowest[1] => return Ok(Divided::Impossible),
            Some(_) => {}
        }
        // from the front: as near to the proportion as the rest allows
        let targets = self.targets()?;
        let mut bounds = vec![start];
        for at in 0..m - 1 {
            let from = bounds[at];
            let reached = self.highest(at, from)?.unwrap_or(from);
            let least = lowest[at + 1].max(from);
            bounds.push(targets[at].min(reached).max(least));
        }
        bounds.push(end);
        Ok(Divided::Into(bounds))
    }

    /// Where the layers of all GPUs but the last would end, were layers of any size.
    fn targets(&self) -> Result<Vec<usize>> {
        let Range { start, end } = self.part.layers;
        let bytes = |layers: Range<usize>| {
            let with_or_without = |layer: usize| usize::from(layer < self.search.experts_from);
            let each = layers.map(|layer| self.search.layer_bytes[layer][with_or_without(layer)]);
            each.map(u128::from).sum::<u128>()
        };
        let mut left = Vec::new();
        for (at, gpu) in self.gpus.iter().enumerate() {
            // beside its layers: scratch, and the embedding or the output
            let one = match () {
                () if start == end => start..end,
                () if at + 1 == self.gpus.len() => end - 1..end,
                () => start..start + 1,
            };
            let needs = self.search.needs(Target::Gpu(*gpu), &self.of(at, one.clone()))?;
            let fixed = u128::from(needs.total()).saturating_sub(bytes(one));
            left.push(u128::from(self.room[*gpu]).saturating_sub(fixed));
        }
        let all_left = left.iter().sum::<u128>().max(1);
        let all_bytes = bytes(start..end);
        let mut targets = Vec::new();
        let (mut layer, mut before, mut left_so_far) = (start, 0u128, 0u128);
        for left in &left[..left.len() - 1] {
            left_so_far += left;
            // compared as quotients of 64 bits: the products stay below 2^128
            let share = (left_so_far << 32) / all_left;
            // a layer is on this side if the greater part of it is
            while layer < end {
                let middle = before + bytes(layer..layer + 1) / 2;
                if (middle << 32) / all_bytes.max(1) > share {
                    break;
                }
                before += bytes(layer..layer + 1);
                layer += 1;
            }
            targets.push(layer);
        }
        Ok(targets)
    }

    fn parts(&self, bounds: &[usize]) -> Result<Vec<PlacedPart>> {
        let mut parts = Vec::new();
        for (at, gpu) in self.gpus.iter().enumerate() {
            let part = self.of(at, bounds[at]..bounds[at + 1]);
            if part.layers.is_empty() && !part.embed && !part.head {
                continue;
            }
            let target = Target::Gpu(*gpu);
            parts.push(PlacedPart { target, needs: self.search.needs(target, &part)?, part });
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A model of made-up sizes, in MB: each layer's weights and its cache per 1024 positions, its experts (0: none), of
    /// which a token has one in 8, the embedding, the output; `scratch` on each device.
    #[derive(Clone)]
    struct Sizes {
        layers: Vec<u64>,
        experts: Vec<u64>,
        cache: u64,
        embed: u64,
        head: u64,
        scratch: u64,
    }

    const CONTEXT: usize = 4096;

    impl Sizes {
        fn new(n_layers: usize) -> Self {
            let (layers, experts) = (vec![100; n_layers], vec![0; n_layers]);
            Sizes { layers, experts, cache: 1, embed: 50, head: 60, scratch: 10 }
        }

        /// As many layers, each with experts but the first.
        fn mixture(n_layers: usize) -> Self {
            let experts = (0..n_layers as u64).map(|layer| 400 * layer.min(1)).collect();
            Sizes { experts, ..Sizes::new(n_layers) }
        }

        fn needs(&self, target: Target, part: &Slice, limits: SessionLimits) -> Needs {
            let mb = |n: u64| n.saturating_mul(MB);
            let flag = |is: bool, n: u64| if is { mb(n) } else { 0 };
            let layers = self.layers[part.layers.clone()].iter().chain(&self.experts[part.experts.clone()]);
            let layers = layers.map(|n| mb(*n));
            // the processor reads rows of the embedding from the file
            let embed = flag(part.embed && target != Target::Host, self.embed);
            let weights = layers.fold(embed.saturating_add(flag(part.head, self.head)), u64::saturating_add);
            let blocks = mb(self.cache).saturating_mul(limits.n_blocks as u64) / 16;
            Needs {
                weights,
                cache: blocks.saturating_mul(part.layers.len() as u64),
                scratch: mb(self.scratch),
            }
        }

        fn reads(&self, part: &Slice) -> u64 {
            let layers = part.layers.clone().map(|layer| self.layers[layer].saturating_add(4 * self.cache));
            let experts = part.experts.clone().map(|layer| self.experts[layer] / 8);
            layers.chain(experts).fold(if part.head { self.head } else { 0 }, u64::saturating_add)
        }

        /// `gpus` in MB of free memory, margin not counted.
        fn place(&self, gpus: &[u64], gpu_layers: GpuLayers) -> Result<Placement> {
            self.place_experts(gpus, gpu_layers, CpuExperts::Auto)
        }

        fn place_experts(
            &self,
            gpus: &[u64],
            gpu_layers: GpuLayers,
            cpu_experts: CpuExperts,
        ) -> Result<Placement> {
            let gpus: Vec<_> = gpus.iter().map(|n| free(*n, gpu_layers)).collect();
            self.place_all(&gpus, gpu_layers, cpu_experts)
        }

        fn place_in(&self, gpus: &[Memory], gpu_layers: GpuLayers) -> Result<Placement> {
            self.place_all(gpus, gpu_layers, CpuExperts::Auto)
        }

        fn place_all(
            &self,
            gpus: &[Memory],
            gpu_layers: GpuLayers,
            cpu_experts: CpuExperts,
        ) -> Result<Placement> {
            let with_experts: Vec<_> = (0..self.layers.len()).filter(|i| self.experts[*i] > 0).collect();
            let placement = place(&Question {
                n_layers: self.layers.len(),
                with_experts: &with_experts,
                gpus,
                gpu_layers,
                cpu_experts,
                n_ctx: CONTEXT,
                limits: &|n_ctx| {
                    Ok(SessionLimits {
                        max_tokens: 512,
                        max_outputs: 8,
                        n_blocks: n_ctx.div_ceil(BLOCK_LEN),
                        n_sequences: 1,
                        n_states: 0,
                    })
                },
                needs: &|target, part, limits| Ok(self.needs(target, part, limits)),
                reads: &|part| Ok(self.reads(part)),
            })?;
            self.check(&placement, gpus);
            Ok(placement)
        }

        /// All of the model once, in order; a part for a device; no GPU holds more than it has.
        fn check(&self, placement: &Placement, gpus: &[Memory]) {
            let parts = &placement.parts;
            assert_eq!(parts.iter().filter(|placed| placed.part.embed).count(), 1);
            assert_eq!(parts.iter().filter(|placed| placed.part.head).count(), 1);
            let mut host_first = parts.clone();
            host_first.sort_by_key(|placed| placed.target != Target::Host);
            for layers in [|part: &Slice| part.layers.clone(), |part: &Slice| part.experts.clone()] {
                let all = host_first.iter().flat_map(|placed| layers(&placed.part));
                assert!(all.eq(0..self.layers.len()), "{parts:?}");
            }
            for (i, placed) in parts.iter().enumerate() {
                assert!(parts[..i].iter().all(|other| other.target != placed.target));
            }
            for (gpu, memory) in gpus.iter().enumerate() {
                assert!(placement.needs(Target::Gpu(gpu)).total() <= memory.free);
            }
        }
    }

    /// So much that is usable.
    fn free(mb: u64, gpu_layers: GpuLayers) -> Memory {
        let usable = mb * MB;
        let free = match gpu_layers {
            GpuLayers::Auto => usable + (usable / 19 + 1).clamp(*MARGIN.start(), *MARGIN.end()),
            _ => usable,
        };
        Memory { free, total: 1 << 40 }
    }

    /// "host:in+0-3+experts-5 gpu0:3-9+out": who has what.
    fn text(placement: &Placement) -> String {
        let parts = placement.parts.iter().map(|placed| {
            let Slice { embed, layers, experts, head } = &placed.part;
            let who = match placed.target {
                Target::Host => "host".to_owned(),
                Target::Gpu(i) => format!("gpu{i}"),
            };
            let (embed, head) = (if *embed { "in+" } else { "" }, if *head { "+out" } else { "" });
            let more = match placed.target {
                Target::Host if experts.end > layers.end => format!("+experts-{}", experts.end),
                Target::Host | Target::Gpu(_) => String::new(),
            };
            format!("{who}:{embed}{}-{}{more}{head}", layers.start, layers.end)
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    fn auto(sizes: &Sizes, gpus: &[u64]) -> String {
        text(&sizes.place(gpus, GpuLayers::Auto).unwrap())
    }

    #[test]
    fn what_fits_goes_on_the_gpu_whole() {
        let sizes = Sizes::new(10);
        // 10 layers of 104, 50 + 60 + 10
        assert_eq!(auto(&sizes, &[1160]), "gpu0:in+0-10+out");
        assert_eq!(auto(&sizes, &[1159]), "host:in+0-0 gpu0:0-10+out", "the embedding stays");
        assert_eq!(auto(&sizes, &[1110]), "host:in+0-0 gpu0:0-10+out");
        assert_eq!(auto(&sizes, &[1109]), "host:in+0-0+out gpu0:0-10", "the output is least to lose");
        assert_eq!(auto(&Sizes { head: 150, ..sizes.clone() }, &[1199]), "host:in+0-1 gpu0:1-10+out");
        assert_eq!(auto(&sizes, &[]), "host:in+0-10+out");
        let unknown = [Memory { free: 0, total: 0 }];
        let placement = sizes.place_in(&unknown[..0], GpuLayers::All).unwrap();
        assert_eq!(placement.gpu_layers(), 0, "no GPU to ask anything of");
        let big = Memory { free: u64::MAX, total: u64::MAX };
        assert_eq!(text(&sizes.place_in(&[big], GpuLayers::Auto).unwrap()), "gpu0:in+0-10+out");
    }

    #[test]
    fn what_does_not_fit_stays_on_the_host_from_the_front() {
        let sizes = Sizes::new(10);
        assert_eq!(auto(&sizes, &[10 + 60 + 3 * 104]), "host:in+0-7 gpu0:7-10+out");
        assert_eq!(auto(&sizes, &[10 + 60 + 3 * 104 - 1]), "host:in+0-7+out gpu0:7-10");
        assert_eq!(auto(&sizes, &[10 + 60]), "host:in+0-10 gpu0:10-10+out");
        assert_eq!(auto(&sizes, &[69]), "host:in+0-10+out");
        assert_eq!(auto(&sizes, &[0]), "host:in+0-10+out");
        // an output larger than all the rest would keep the layers off
        let wide = Sizes { head: 2000, ..sizes };
        assert_eq!(auto(&wide, &[1160]), "host:in+0-0+out gpu0:0-10");
    }

    #[test]
    fn a_margin_is_left_to_others() {
        let sizes = Sizes::new(10);
        let exact = Memory { free: 1180 * MB, total: 1 << 40 };
        assert_eq!(text(&sizes.place_in(&[exact], GpuLayers::All).unwrap()), "gpu0:in+0-10+out");
        assert_eq!(text(&sizes.place_in(&[exact], GpuLayers::Auto).unwrap()), "host:in+0-0 gpu0:0-10+out");
        let of = |free| usable(Memory { free, total: 1 << 40 }, true);
        assert_eq!((of(100), of(32 * MB + 7), of(1000 * MB)), (0, 7, 950 * MB));
        assert_eq!(of(100 << 30), (100 << 30) - 512 * MB);
        assert_eq!(usable(Memory { free: 100, total: 1 << 40 }, false), 100);
    }

    #[test]
    fn a_number_means_the_last_layers_and_one_more_the_output() {
        let sizes = Sizes::new(4);
        let last = |n| text(&sizes.place(&[4000], GpuLayers::Last(n)).unwrap());
        assert_eq!(last(0), "host:in+0-4+out");
        assert_eq!(last(1), "host:in+0-3+out gpu0:3-4");
        assert_eq!(last(4), "host:in+0-0+out gpu0:0-4");
        assert_eq!(last(5), "gpu0:in+0-4+out");
        assert_eq!(last(usize::MAX), "gpu0:in+0-4+out");
        assert_eq!(text(&sizes.place(&[4000], GpuLayers::All).unwrap()), "gpu0:in+0-4+out");
    }

    #[test]
    fn asked_for_more_than_there_is_says_how_much() {
        let sizes = Sizes { cache: 10, ..Sizes::new(10) };
        let error = sizes.place(&[1200], GpuLayers::All).unwrap_err();
        let Error::OutOfMemory { what, wanted, free, total } = error else { panic!("{error:?}") };
        // 10 layers of 140, 60 + 10; with 1024 positions 110 each
        assert_eq!((wanted, free, total), (1470 * MB, 1200 * MB, 1 << 40));
        assert_eq!(what, "10 layers and the output on 1 GPU with a context of 4096 (one of 1024 would fit)");
        let error = sizes.place(&[300, 115], GpuLayers::Last(3)).unwrap_err().to_string();
        assert!(
            error.contains("3 layers on 2 GPUs with a context of 4096 (one of 512 would fit)"),
            "{error}"
        );
        let error = sizes.place(&[10], GpuLayers::All).unwrap_err().to_string();
        assert!(error.contains("with a context of 4096: "), "{error}");
        assert!(sizes.place(&[10], GpuLayers::Auto).is_ok());
    }

    #[test]
    fn smaller_contexts_that_bring_more_onto_the_gpu_are_told() {
        let sizes = Sizes { cache: 25, ..Sizes::new(10) };
        // 200 a layer; 150 with half the context; 125; 112.5
        let placement = sizes.place(&[1200], GpuLayers::Auto).unwrap();
        assert_eq!(text(&placement), "host:in+0-5 gpu0:5-10+out");
        let told: Vec<_> = placement.smaller.iter().map(|a| (a.n_ctx, a.gpu_layers, a.head)).collect();
        assert_eq!(told, [(2048, 7, true), (1024, 9, true), (512, 10, true)]);
        assert!(sizes.place(&[4000], GpuLayers::Auto).unwrap().smaller.is_empty());
        assert!(sizes.place(&[4000], GpuLayers::Last(2)).unwrap().smaller.is_empty());
    }

    #[test]
    fn one_giant_layer() {
        let giant = Sizes { layers: vec![100, 100, 5000, 100], ..Sizes::new(4) };
        assert_eq!(auto(&giant, &[1000]), "host:in+0-3 gpu0:3-4+out");
        assert_eq!(auto(&giant, &[1000, 6000]), "gpu0:in+0-2 gpu1:2-4+out");
        assert_eq!(auto(&giant, &[6000, 1000]), "gpu0:in+0-3 gpu1:3-4+out");
        assert_eq!(auto(&giant, &[300, 5200, 300]), "gpu0:in+0-2 gpu1:2-3 gpu2:3-4+out");
        let alone = Sizes { layers: vec![5000], ..Sizes::new(1) };
        assert_eq!(auto(&alone, &[6000, 6000]), "gpu0:in+0-1+out", "the GPU left over is left out");
        assert_eq!(auto(&alone, &[1000, 1000]), "host:in+0-1 gpu1:1-1+out");
    }

    #[test]
    fn gpus_share_in_proportion_to_what_they_have_left() {
        let sizes = Sizes { scratch: 0, cache: 0, embed: 0, head: 0, ..Sizes::new(12) };
        assert_eq!(auto(&sizes, &[10_000, 10_000]), "gpu0:in+0-6 gpu1:6-12+out");
        assert_eq!(auto(&sizes, &[20_000, 10_000]), "gpu0:in+0-8 gpu1:8-12+out");
        assert_eq!(auto(&sizes, &[10_000, 30_000]), "gpu0:in+0-3 gpu1:3-12+out");
        assert_eq!(auto(&sizes, &[10_000, 20_000, 30_000]), "gpu0:in+0-2 gpu1:2-6 gpu2:6-12+out");
        // embedding and output count before the layers are divided
        let heavy = Sizes { embed: 600, head: 0, ..sizes.clone() };
        assert_eq!(auto(&heavy, &[1200, 1200]), "gpu0:in+0-4 gpu1:4-12+out");
        let heavy = Sizes { embed: 0, head: 600, ..sizes.clone() };
        assert_eq!(auto(&heavy, &[1200, 1200]), "gpu0:in+0-8 gpu1:8-12+out");
        // exactly enough: the proportion gives way
        let uneven = Sizes { layers: vec![300, 300, 300, 100, 100, 100], ..sizes.clone() };
        assert_eq!(auto(&uneven, &[600, 600]), "gpu0:in+0-2 gpu1:2-6+out");
        assert_eq!(
            text(&sizes.place(&[10_000, 10_000], GpuLayers::Last(4)).unwrap()),
            "host:in+0-8+out gpu0:8-10 gpu1:10-12"
        );
    }

    #[test]
    fn a_gpu_without_room_is_left_out() {
        let sizes = Sizes::new(10);
        assert_eq!(auto(&sizes, &[50, 2000]), "gpu1:in+0-10+out");
        assert_eq!(auto(&sizes, &[2000, 50]), "gpu0:in+0-10+out");
        assert_eq!(auto(&sizes, &[0, 700, 0, 700, 0]), "gpu1:in+0-5 gpu3:5-10+out");
        // room for a layer, but not for the output
        assert_eq!(auto(&Sizes { head: 500, ..sizes.clone() }, &[3000, 300]), "gpu0:in+0-10+out");
        assert_eq!(auto(&Sizes { embed: 500, ..sizes.clone() }, &[300, 3000]), "gpu1:in+0-10+out");
        // both together do not suffice
        assert_eq!(auto(&sizes, &[420, 420]), "host:in+0-4 gpu0:4-7 gpu1:7-10+out");
    }

    #[test]
    fn experts_stay_before_whole_layers_do() {
        let sizes = Sizes::mixture(10);
        // 10 layers of 104, 9 with 400 more, 50 + 60 + 10
        assert_eq!(auto(&sizes, &[4760]), "gpu0:in+0-10+out");
        // the first layer has none
        assert_eq!(auto(&sizes, &[4709]), "gpu0:in+0-10+out host:0-0+experts-2");
        assert_eq!(auto(&sizes, &[4359]), "host:in+0-0+experts-2 gpu0:0-10+out");
        assert_eq!(auto(&sizes, &[1160 + 4 * 400]), "gpu0:in+0-10+out host:0-0+experts-6");
        assert_eq!(auto(&sizes, &[1160]), "gpu0:in+0-10+out host:0-0+experts-10");
        // not even all layers without experts: these count as they are
        assert_eq!(auto(&sizes, &[1109]), "host:in+0-0+experts-10+out gpu0:0-10");
        assert_eq!(auto(&sizes, &[10 + 60 + 3 * 104]), "host:in+0-7+experts-10 gpu0:7-10+out");
        // experts smaller than what is read of them with a layer: whole layers
        let small = Sizes { experts: vec![1; 10], ..Sizes::new(10) };
        assert_eq!(auto(&small, &[10 + 60 + 3 * 105]), "host:in+0-7 gpu0:7-10+out");
        assert_eq!(auto(&sizes, &[1000, 1000]), "gpu0:in+0-7 gpu1:7-10+out host:0-0+experts-9");
        let told = |gpus: &[u64], asked| {
            let placement = sizes.place_experts(gpus, GpuLayers::All, CpuExperts::First(asked)).unwrap();
            (text(&placement), placement.cpu_experts)
        };
        assert_eq!(told(&[4760], 0), ("gpu0:in+0-10+out".into(), 0));
        assert_eq!(told(&[4360], 1), ("gpu0:in+0-10+out host:0-0+experts-2".into(), 1));
        assert_eq!(told(&[9999], 99), ("gpu0:in+0-10+out host:0-0+experts-10".into(), 9));
        let error = sizes.place_experts(&[4300], GpuLayers::All, CpuExperts::First(1)).unwrap_err();
        let text = "10 layers and the output, but for the experts of 1, on 1 GPU with a context of 4096";
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn a_number_of_experts_holds_with_any_number_of_layers() {
        let sizes = Sizes::mixture(4);
        let place = |gpu_layers, asked| {
            let placement = sizes.place_experts(&[4000], gpu_layers, CpuExperts::First(asked)).unwrap();
            (text(&placement), placement.cpu_experts)
        };
        assert_eq!(place(GpuLayers::Last(2), 2), ("host:in+0-2+experts-3+out gpu0:2-4".into(), 1));
        assert_eq!(place(GpuLayers::Last(2), 1), ("host:in+0-2+out gpu0:2-4".into(), 0));
        assert_eq!(place(GpuLayers::Last(0), 3), ("host:in+0-4+out".into(), 0));
        assert_eq!(place(GpuLayers::Auto, 2), ("gpu0:in+0-4+out host:0-0+experts-3".into(), 2));
        // a number of layers is of whole ones, where experts are not asked for
        let small = |gpu_layers| sizes.place(&[1000], gpu_layers);
        assert!(small(GpuLayers::All).is_err() && small(GpuLayers::Last(2)).is_err());
        assert_eq!(text(&small(GpuLayers::Auto).unwrap()), "gpu0:in+0-4+out host:0-0+experts-3");
        // without a GPU it means nothing
        let none = sizes.place_experts(&[], GpuLayers::Auto, CpuExperts::First(9)).unwrap();
        assert_eq!((text(&none), none.cpu_experts), ("host:in+0-4+out".into(), 0));
    }

    #[test]
    fn sizes_beyond_64_bits_do_not_fit() {
        let mut sizes = Sizes::new(3);
        sizes.layers[1] = u64::MAX;
        let big = Memory { free: u64::MAX, total: u64::MAX };
        assert_eq!(text(&sizes.place_in(&[big], GpuLayers::Auto).unwrap()), "host:in+0-2 gpu0:2-3+out");
        let both = sizes.place_in(&[big, big], GpuLayers::Auto).unwrap();
        assert_eq!(both.gpu_layers(), 1);
        assert!(matches!(
            sizes.place_in(&[big, big], GpuLayers::All),
            Err(Error::OutOfMemory { wanted: u64::MAX, free: u64::MAX, .. })
        ));
        sizes.layers = vec![u64::MAX; 3];
        assert_eq!(sizes.place_in(&[big, big], GpuLayers::Auto).unwrap().gpu_layers(), 0);
    }

    #[test]
    fn a_model_without_layers_stays_on_the_host() {
        assert_eq!(auto(&Sizes::new(0), &[1000, 1000]), "host:in+0-0+out");
        assert_eq!(text(&Sizes::new(0).place(&[1000], GpuLayers::All).unwrap()), "host:in+0-0+out");
    }

    proptest::proptest! {
        #[test]
        fn every_placement_is_whole_and_fits(
            both in proptest::collection::vec((1..500u64, 0..900u64), 1..20),
            gpus in proptest::collection::vec(0..4000u64, 0..5),
            (embed, head, cache, scratch) in (0..800u64, 0..800u64, 0..50u64, 0..100u64),
            (wanted, mixed) in (0..25usize, proptest::bool::ANY),
        ) {
            let (layers, experts) = both.into_iter().map(|(layer, experts)| (layer, experts * u64::from(mixed))).unzip();
            let sizes = Sizes { layers, experts, cache, embed, head, scratch };
            let placement = sizes.place(&gpus, GpuLayers::Auto).unwrap();
            // what auto found, a request finds; one more layer is refused or was worth less than the output
            let n = placement.gpu_layers();
            let usable: Vec<_> = placement.gpus.iter().map(|m| Memory { free: usable(*m, true), ..*m }).collect();
            if mixed && placement.gpu_layers() > 0 {
                let layers_alone = sizes.place_experts(&gpus, GpuLayers::Auto, CpuExperts::First(0)).unwrap();
                let reads = |placement: &Placement| {
                    let host = placement.parts.iter().filter(|placed| placed.target == Target::Host);
                    host.map(|placed| sizes.reads(&placed.part)).sum::<u64>()
                };
                proptest::prop_assert!(reads(&placement) <= reads(&layers_alone));
                return Ok(());
            }
            let same = sizes.place_in(&usable, GpuLayers::Last(n)).unwrap();
            proptest::prop_assert_eq!(same.gpu_layers(), n);
            if !placement.head_on_gpu() && n < sizes.layers.len() && !gpus.is_empty() {
                proptest::prop_assert!(sizes.place_in(&usable, GpuLayers::Last(n + 1)).is_err());
            }
            if let Ok(placement) = sizes.place(&gpus, GpuLayers::Last(wanted)) {
                let most = if gpus.is_empty() { 0 } else { wanted.min(sizes.layers.len()) };
                proptest::prop_assert_eq!(placement.gpu_layers(), most);
            }
        }
    }
}
