//! What a step's kernels read of its tokens: words that one upload brings to the device.

use super::memory::Span;
use super::ops::attend::Chosen;
use super::ops::prefill::{self, Tiles};
use super::ops::project::MATVEC_MAX_N;
use super::ops::project::Tokens;
use super::ops::recurrent::{NO_SLOT, Runs};
use crate::device::{SessionLimits, Step};
use crate::plan::Plan;
use crate::{Result, memory};

/// Where in the words a step's parts lie: tokens, positions, lasts, sequences, outputs, short runs, tiles, runs, tables; of
/// each sequence one table for each pool.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub n: usize,
    pub n_outputs: usize,
    n_tables: usize,
    /// Words of a table, and from a sequence's tables to the next one's.
    table_len: usize,
    table_stride: usize,
    /// In steps of many tokens: those of short runs, which attend one by one, and tiles of [`prefill`] attention.
    n_short: usize,
    n_tiles: usize,
    /// Sequences with a recurrent state.
    pub n_runs: usize,
}

/// Tokens of a run at most that attend one by one in a step of many; of a longer run the cells are read once for a tile.
const SHORT_RUN: u32 = 4;

/// The words on the device.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// u32: a token each.
    pub ids: Span<'a>,
    /// u32: an index of a token each.
    pub outputs: Span<'a>,
    /// u32: of each token the last position of its sequence.
    pub lasts: Span<'a>,
    pub tokens: Tokens<'a>,
    /// Of a step of many tokens: those of short runs, and the others in tiles.
    pub short: Chosen<'a>,
    tiles: Tiles<'a>,
    pub runs: Runs<'a>,
    /// All tables, and words of one.
    tables: Span<'a>,
    table_len: usize,
}

impl<'a> Described<'a> {
    /// The tokens, with the tables of a pool.
    pub fn tokens_in(&self, pool: usize) -> Result<Tokens<'a>> {
        Ok(Tokens { table: self.table(pool)?, ..self.tokens })
    }

    /// The tiles, with the tables of a pool.
    pub fn tiles_in(&self, pool: usize) -> Result<Tiles<'a>> {
        Ok(Tiles { table: self.table(pool)?, ..self.tiles })
    }

    fn table(&self, pool: usize) -> Result<Span<'a>> {
        let Tokens { n_tables, table_stride, .. } = self.tokens;
        let start = pool * self.table_len;
        self.tables.part(4 * start as u64..4 * (start + n_tables * table_stride) as u64)
    }
}

impl Description {
    /// Words that a step takes at most. None: beyond usize.
    pub fn most_words(plan: &Plan, limits: SessionLimits) -> Option<usize> {
        let most = limits.max_tokens.max(limits.max_outputs);
        // its tables, and a run of 4 words; once more, for the last sequence's words from a table to one stride on
        let sequence = limits.n_blocks.checked_mul(plan.pools().len())?.checked_add(4)?;
        let tables = limits.max_tables().checked_add(1)?.checked_mul(sequence)?;
        // 4 lists of tokens, outputs, short runs, a tile of 4 words a token; each list begins at a multiple of 4 words
        most.checked_mul(10)?.checked_add(24)?.checked_add(tables)
    }

    /// Replaces `words` by the step's. `head_pad`: of the widest heads that attend.
    pub fn write(
        step: &Step<'_>,
        plan: &Plan,
        limits: SessionLimits,
        head_pad: usize,
        words: &mut Vec<u32>,
    ) -> Result<Description> {
        let n = step.tokens.len();
        let mut tiles = if n > MATVEC_MAX_N {
            let tokens = step.sequences.iter().copied().zip(step.positions.iter().copied());
            memory::with_room(n * size_of::<[u32; 4]>() * 5, "attention tiles", || {
                prefill::attention_tiles(tokens, head_pad)
            })?
        } else {
            Vec::new()
        };
        let mut short = memory::vec(if tiles.is_empty() { 0 } else { n }, "short runs of a step")?;
        tiles.retain(|&[first, count, ..]| {
            let is_long = count > SHORT_RUN;
            if !is_long {
                short.extend(first..first + count);
            }
            is_long
        });
        let mut lasts = memory::vec(n, "a step's last positions")?;
        for (_, run) in step.runs() {
            lasts.extend(std::iter::repeat_n(step.positions[run.end - 1], run.len()));
        }
        let (n_tables, n_pools, table_len) = (step.n_sequences(plan), plan.pools().len(), limits.n_blocks);
        let description = Description {
            n,
            n_outputs: step.outputs.len(),
            n_tables,
            table_len,
            table_stride: n_pools * table_len,
            n_short: short.len(),
            n_tiles: tiles.len(),
            n_runs: step.states.len(),
        };
        let starts @ [.., runs, tables] = description.starts();
        words.clear();
        memory::reserve(words, tables + step.tables.len() * table_len, "a step's description")?;
        let tiles = tiles.as_flattened();
        let lists = [step.tokens, step.positions, &lasts, step.sequences, step.outputs, &short, tiles];
        for (list, start) in lists.into_iter().zip(starts) {
            words.resize(start, 0);
            words.extend_from_slice(list);
        }
        words.resize(runs, 0);
        for slots in step.states {
            words.extend_from_slice(&[0, 0, slots.read.unwrap_or(NO_SLOT), slots.write]);
        }
        for (table, run) in step.runs() {
            if let Some([first, n, ..]) = words[runs..].get_mut(4 * table..) {
                (*first, *n) = (run.start as u32, run.len() as u32);
            }
        }
        for i in 0..step.tables.len() {
            let table = step.tables[i % n_pools * n_tables + i / n_pools];
            words.resize(tables + i * table_len, 0);
            words.extend_from_slice(&table[..table.len().min(table_len)]);
        }
        Ok(description)
    }

    /// First word of each part, each a multiple of 16 bytes.
    fn starts(&self) -> [usize; 9] {
        let [tokens, outputs, short] =
            [self.n, self.n_outputs, self.n_short].map(|words| words.next_multiple_of(4));
        let tiles = 4 * tokens + outputs + short;
        let runs = tiles + 4 * self.n_tiles;
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|n| n * tokens);
        [0, first, second, third, fourth, fourth + outputs, tiles, runs, runs + 4 * self.n_runs]
    }

    /// Its parts, where all the words lie at `words`.
    pub fn at<'a>(&self, words: Span<'a>) -> Result<Described<'a>> {
        let Description { n, n_outputs, n_tables, table_len, table_stride, n_short, n_tiles, n_runs } = *self;
        let [ids, positions, lasts, sequences, outputs, short, tiles, runs, tables] = self.starts();
        let part = |start: usize, len: usize| words.part(4 * start as u64..4 * (start + len) as u64);
        let table = part(tables, n_tables * table_stride)?;
        let tables = part(tables, (n_tables + 1) * table_stride)?;
        Ok(Described {
            ids: part(ids, n)?,
            outputs: part(outputs, n_outputs)?,
            lasts: part(lasts, n)?,
            tokens: Tokens {
                n,
                positions: part(positions, n)?,
                sequences: part(sequences, n)?,
                table,
                n_tables,
                table_stride,
            },
            short: Chosen { tokens: part(short, n_short)?, n: n_short },
            runs: Runs { n, n_runs, sequences: part(sequences, n)?, runs: part(runs, 4 * n_runs)? },
            tiles: Tiles { tiles: part(tiles, 4 * n_tiles)?, n_tiles, table, n_tables, table_stride },
            tables,
            table_len,
        })
    }
}
