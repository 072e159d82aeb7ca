//! From logits to a token: penalties, top-k, top-p, min-p, temperature, and a seeded draw, in this order
//! (the default order of llama.cpp's chain).
//!
//! What is drawn is a function of the seed, the number of draws before and the logits alone, the same on every
//! device: [`crate::device::sampling`] has the definition. The uniform number of draw `n` is the top 53 bits of
//! `splitmix64(seed + (n + 1) * 0x9E3779B97F4A7C15)`, divided by 2^53.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::device::sampling::{self, Draw, Penalty, WHOLE};
use crate::{Error, Result, memory};

#[derive(Clone, Debug)]
pub struct SamplerParams {
    /// 0 (or below): greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches p; 1: all.
    pub top_p: f32,
    /// Drop tokens less likely than min_p times the most likely; 0: none.
    pub min_p: f32,
    /// Last tokens the penalties look at; 0: none.
    pub penalty_last_n: usize,
    /// Divides positive, multiplies negative logits of seen tokens; 1: off.
    pub repeat_penalty: f32,
    /// Subtracted once per occurrence; 0: off.
    pub frequency_penalty: f32,
    /// Subtracted once if seen at all; 0: off.
    pub presence_penalty: f32,
    /// Same seed, same logits: same tokens.
    pub seed: u64,
}

impl Default for SamplerParams {
    /// llama.cpp's defaults, with seed 0.
    fn default() -> Self {
        SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            penalty_last_n: 64,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplerParams {
    fn check(&self) -> Result<()> {
        let unit = 0.0..=1.0;
        let checks = [
            ("temperature", self.temperature, self.temperature.is_finite(), "a number"),
            ("top_p", self.top_p, unit.contains(&self.top_p), "0 to 1"),
            ("min_p", self.min_p, unit.contains(&self.min_p), "0 to 1"),
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0,
                "above 0",
            ),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a number"),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a number"),
        ];
        match checks.into_iter().find(|(_, _, good, _)| !good) {
            Some((name, value, _, range)) => {
                Err(Error::param(format!("{name} is {value}; it must be {range}")))
            }
            None => Ok(()),
        }
    }

    fn has_penalties(&self) -> bool {
        self.penalty_last_n > 0
            && (self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0)
    }
}

/// What memory is for, in errors.
const RECENT: &str = "the tokens that penalties look back at";
const LOGITS: &str = "the sampler's logits";

/// One stream's sampling state. One thread at a time.
#[derive(Clone, Debug)]
pub struct Sampler {
    history: History,
    chooser: Chooser,
}

/// What decides the next draw.
#[derive(Clone, Debug)]
struct History {
    params: SamplerParams,
    /// The last `penalty_last_n` accepted tokens, oldest first.
    recent: VecDeque<u32>,
    draws: u64,
    /// The rest is scratch memory, kept so that a token allocates nothing.
    seen: Vec<u32>,
    penalties: Vec<Penalty>,
}

impl Sampler {
    /// Out-of-range parameters (NaN, top_p outside 0..=1, ...) are Error::Param.
    pub fn new(params: SamplerParams) -> Result<Self> {
        params.check()?;
        let window = if params.has_penalties() { params.penalty_last_n.min(1 << 16) } else { 0 };
        let history = History {
            params,
            recent: VecDeque::from(memory::vec(window, RECENT)?),
            draws: 0,
            seen: memory::vec(window, RECENT)?,
            penalties: memory::vec(window, RECENT)?,
        };
        Ok(Sampler { history, chooser: Chooser::default() })
    }

    pub fn params(&self) -> &SamplerParams {
        &self.history.params
    }

    /// Chooses a token; does not remember it (see `accept`). Logits of minus infinity are never chosen; NaN,
    /// plus infinity, or nothing to choose from is Error::Model.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let token = self.choose(logits)?;
        self.history.count_draw();
        Ok(token)
    }

    /// [`sample`](Self::sample) that is still to be counted with [`count_draw`](Self::count_draw).
    pub(super) fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        self.chooser.choose(&self.history.draw(logits.len())?, logits)
    }

    /// The next draw, from `n_logits` logits: for a device that makes it. Once a token has come of it, it is to be
    /// counted with [`count_draw`](Self::count_draw).
    pub fn draw(&mut self, n_logits: usize) -> Result<Draw<'_>> {
        self.history.draw(n_logits)
    }

    /// Goes on to the next number of the seed's sequence; greedy choices take none.
    pub fn count_draw(&mut self) {
        self.history.count_draw();
    }

    /// Remembers a token for the penalties (prompt tokens too, if they shall count).
    ///
    /// # Errors
    /// Error::OutOfMemory: nothing was changed. Room for the first 2^16 tokens of `penalty_last_n` is there from the
    /// beginning.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let History { params, recent, .. } = &mut self.history;
        if params.has_penalties() {
            if recent.len() == params.penalty_last_n {
                recent.pop_front();
            }
            memory::asking(|| recent.try_reserve(1))
                .map_err(|_| memory::exhausted(RECENT, recent.len() * size_of::<u32>()))?;
            recent.push_back(token);
        }
        Ok(())
    }

    /// Forgets accepted tokens and starts the seed's sequence anew.
    pub fn reset(&mut self) {
        self.history.recent.clear();
        self.history.draws = 0;
    }
}

impl History {
    fn draw(&mut self, n_logits: usize) -> Result<Draw<'_>> {
        self.find_penalties(n_logits)?;
        let SamplerParams { temperature, top_k, top_p, min_p, repeat_penalty, seed, .. } = self.params;
        let is_greedy = temperature <= 0.0;
        Ok(Draw {
            top_k: if is_greedy { 1 } else { top_k },
            // products with a power of two are exact
            top_p: if top_p < 1.0 { (f64::from(top_p) * WHOLE as f64) as u64 } else { WHOLE },
            min_p: if min_p > 0.0 { min_p.ln() } else { f32::NEG_INFINITY },
            inverse_temperature: if is_greedy { 1.0 } else { (1.0 / temperature).min(f32::MAX) },
            uniform: uniform(seed, self.draws + 1),
            repeat_penalty,
            penalties: &self.penalties,
        })
    }

    fn count_draw(&mut self) {
        self.draws += u64::from(self.params.temperature > 0.0);
    }

    fn find_penalties(&mut self, n_logits: usize) -> Result<()> {
        let SamplerParams { frequency_penalty, presence_penalty, .. } = self.params;
        self.seen.clear();
        self.penalties.clear();
        memory::reserve(&mut self.seen, self.recent.len(), RECENT)?;
        memory::reserve(&mut self.penalties, self.recent.len(), RECENT)?;
        self.seen.extend(self.recent.iter().filter(|t| (**t as usize) < n_logits));
        self.seen.sort_unstable();
        self.penalties.extend(self.seen.chunk_by(|a, b| a == b).map(|same| Penalty {
            token: same[0],
            subtract: same.len() as f32 * frequency_penalty + presence_penalty,
        }));
        Ok(())
    }
}

/// Uniform below 2^53 from a seed and the number of the draw, counted from 1: Vigna's splitmix64.
fn uniform(seed: u64, draw: u64) -> u64 {
    let mut z = seed.wrapping_add(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    z >> 11
}

/// Makes draws on the processor.
#[derive(Clone, Debug, Default)]
struct Chooser {
    /// Both are scratch memory.
    candidates: Ranked,
    penalized: Vec<f32>,
}

impl Chooser {
    fn choose(&mut self, draw: &Draw<'_>, logits: &[f32]) -> Result<u32> {
        let logits = if draw.penalties.is_empty() {
            logits
        } else {
            self.penalized.clear();
            memory::extend(&mut self.penalized, logits, LOGITS)?;
            for penalty in draw.penalties {
                let logit = &mut self.penalized[penalty.token as usize];
                *logit = penalty.apply(*logit, draw.repeat_penalty);
            }
            &self.penalized
        };
        if let Some(id) = logits.iter().position(|l| sampling::is_bad(*l)) {
            return Err(sampling::bad_logit(id as u32, logits[id]));
        }
        if logits.len() > sampling::MAX_LOGITS {
            return Err(Error::param(format!("{} logits; the most is 2^24", logits.len())));
        }
        let candidates = &mut self.candidates;
        candidates.fill(logits, draw.top_k as usize)?;
        let Some(best) = candidates.best() else { return Err(sampling::no_candidate()) };
        if draw.top_k == 1 {
            return Ok(best.id);
        }
        if draw.top_p < WHOLE {
            // at least the share: more than one less than it
            let n = candidates.reach(1.0, |sum| sampling::share(draw.top_p, sum).saturating_sub(1));
            candidates.truncate(n);
        }
        if draw.min_p > f32::NEG_INFINITY {
            candidates.drop_below(best.logit + draw.min_p);
        }
        let n = candidates.reach(draw.inverse_temperature, |sum| sampling::share(draw.uniform, sum));
        Ok(candidates.at(n - 1).id)
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    id: u32,
}

impl Candidate {
    /// Highest logit first, lowest id first among equals. (0.0 and -0.0 are equal; no logit is NaN.)
    fn rank(&self, other: &Candidate) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.id.cmp(&other.id))
    }
}

/// Candidates that are put in order only as far as anybody looks: a vocabulary has 150,000, a draw
/// rarely needs more than the first few.
#[derive(Clone, Debug, Default)]
struct Ranked {
    candidates: Vec<Candidate>,
    /// The first `sorted` are the best, in order.
    sorted: usize,
}

impl Ranked {
    /// The `k` best of `logits` (0: all) that are above minus infinity.
    fn fill(&mut self, logits: &[f32], k: usize) -> Result<()> {
        let all = &mut self.candidates;
        all.clear();
        self.sorted = 0;
        let k = if k == 0 { logits.len() } else { k.min(logits.len()) };
        // collects up to `room` candidates, keeps the k best of them, and then takes only better ones
        let room = if k < logits.len() / 2 { (2 * k).max(64) } else { logits.len() };
        memory::reserve(all, room, LOGITS)?;
        let mut bar = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            // ids ascend: one that equals the bar ranks behind those already there
            if logit > bar {
                all.push(Candidate { logit, id: id as u32 });
                if all.len() == room && k < room {
                    all.select_nth_unstable_by(k - 1, Candidate::rank);
                    all.truncate(k);
                    bar = all[k - 1].logit;
                }
            }
        }
        if k < all.len() {
            all.select_nth_unstable_by(k - 1, Candidate::rank);
            all.truncate(k);
        }
        Ok(())
    }

    fn best(&mut self) -> Option<Candidate> {
        (!self.candidates.is_empty()).then(|| self.at(0))
    }

    /// The candidate of rank `i`.
    fn at(&mut self, i: usize) -> Candidate {
        if i >= self.sorted {
            let n = (8 * self.sorted).max(64).max(i + 1).min(self.candidates.len());
            let rest = &mut self.candidates[self.sorted..];
            let wanted = n - self.sorted;
            if wanted < rest.len() {
                rest.select_nth_unstable_by(wanted - 1, Candidate::rank);
            }
            rest[..wanted].sort_unstable_by(Candidate::rank);
            self.sorted = n;
        }
        self.candidates[i]
    }

    /// How many of the best it takes until the sum of their weights exceeds `limit(the sum of all)`, which is below
    /// the latter.
    fn reach(&mut self, inverse_temperature: f32, limit: impl Fn(u64) -> u64) -> usize {
        let best = self.at(0).logit;
        let weight = |c: &Candidate| sampling::weight(c.logit, best, inverse_temperature);
        let limit = limit(self.candidates.iter().map(weight).sum());
        let mut running = 0;
        for i in 0..self.candidates.len() {
            running += weight(&self.at(i));
            if running > limit {
                return i + 1;
            }
        }
        self.candidates.len()
    }

    fn truncate(&mut self, n: usize) {
        self.candidates.truncate(n);
        self.sorted = self.sorted.min(n);
    }

    /// Drops candidates with logits below `bar`, which the best one reaches.
    fn drop_below(&mut self, bar: f32) {
        // those in order stay in order: what is dropped of them is their tail
        self.candidates.retain(|c| c.logit >= bar);
        let sorted = self.sorted.min(self.candidates.len());
        self.sorted = self.candidates[..sorted].partition_point(|c| c.logit >= bar);
    }
}
