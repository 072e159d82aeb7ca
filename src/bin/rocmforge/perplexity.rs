//! `perplexity`: how well the model predicts a text, by llama-perplexity's rules: chunks of the context's length,
//! each from an empty cache, its first token replaced by BOS where the model wants one, the second half scored.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use rocmforge::engine::{Batch, Context, Model};
use serde_json::json;

use crate::args::{self, ModelArgs, batch_size};
use crate::kl::{self, Base, Divergence};
use crate::prompt::EscapeArgs;
use crate::stats::Sums;
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: Source,
    /// Tokens per chunk [default: 512, or what the --kl-base file has]
    #[arg(short, long, value_parser = chunk_size)]
    ctx_size: Option<usize>,
    /// Most chunks to evaluate; -1: all
    #[arg(long, default_value = "-1", value_parser = chunks)]
    chunks: i64,
    /// Most tokens computed in one step
    #[arg(short, long, default_value = "512", value_parser = batch_size)]
    batch_size: usize,
    #[command(flatten)]
    escapes: EscapeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// File that holds the text; - is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// The text
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Log-probabilities that llama-perplexity stored with --kl-divergence-base: print the divergence from them
    #[arg(long, value_name = "FILE")]
    kl_base: Option<PathBuf>,
}

fn chunk_size(text: &str) -> Result<usize, String> {
    match args::positions(text)? {
        0..4 => Err("must be at least 4: the second half, but for its last token, is scored".into()),
        n => Ok(n),
    }
}

fn chunks(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(n @ (-1 | 1..)) => Ok(n),
        _ => Err("must be a number of chunks from 1 on, or -1 for all".into()),
    }
}

pub fn run(args: Args) -> Result<()> {
    if let Some(path) = &args.source.kl_base {
        let base = Base::open(path)?;
        return divergence(&args, &load(&args)?, base);
    }
    let text = args.escapes.text(args.source.prompt.as_deref(), args.source.file.as_deref())?;
    perplexity(&args, &load(&args)?, &text.unwrap_or_default())
}

fn load(args: &Args) -> Result<Model> {
    args.model.load(args.ctx_size.unwrap_or(512), args.batch_size)
}

fn limit(chunks: i64, there_are: usize) -> usize {
    usize::try_from(chunks).unwrap_or(usize::MAX).min(there_are)
}

fn perplexity(args: &Args, model: &Model, text: &str) -> Result<()> {
    let n_ctx = args.ctx_size.unwrap_or(512);
    let tokens = model.vocab().tokenize_to_continue(text, false)?;
    if tokens.len() < 2 * n_ctx {
        bail!("the text is {} tokens; two chunks of {n_ctx} (--ctx-size) are needed", tokens.len());
    }
    let n_chunk = limit(args.chunks, tokens.len() / n_ctx);
    let mut scorer = Scorer::new(model, n_ctx, args.batch_size)?;
    let mut nll = Sums::default();
    for (i, chunk) in tokens.chunks_exact(n_ctx).take(n_chunk).enumerate() {
        let mut scores = Vec::new();
        scorer.chunk(chunk, &mut |rows| {
            scores.extend(in_parallel(&rows, |_, (logits, token)| {
                kl::log_sum_exp(logits).0 - f64::from(logits[*token])
            }));
            Ok(())
        })?;
        scores.into_iter().for_each(|v| nll.add(v));
        terminal::note(format_args!("[{}/{n_chunk}] PPL {:.4}", i + 1, nll.mean().exp()));
    }
    if !nll.mean().is_finite() {
        bail!("the model gives logits that are not finite");
    }
    let ppl = nll.mean().exp();
    let error = ppl * nll.error();
    let mut out = io::stdout().lock();
    if args.json {
        let result = json!({
            "model_filename": args.model.model.to_string_lossy(),
            "n_ctx": n_ctx, "n_chunk": n_chunk, "count": nll.count,
            "ppl": { "value": ppl, "error": error },
            "nll": { "value": nll.mean(), "error": nll.error() },
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&result)?)?;
    } else {
        writeln!(out, "Final estimate: PPL = {ppl:.4} +/- {error:.5}")?;
    }
    Ok(())
}

fn divergence(args: &Args, model: &Model, mut base: Base) -> Result<()> {
    let n_vocab = model.info().n_vocab;
    if base.n_vocab != n_vocab {
        bail!("the base file is over {} tokens, the model over {n_vocab}", base.n_vocab);
    }
    let n_ctx = base.n_ctx;
    if let Some(asked) = args.ctx_size.filter(|n| *n != n_ctx) {
        bail!("the base file has chunks of {n_ctx} tokens, not {asked} (--ctx-size)");
    }
    if base.scored() == 0 {
        bail!("the base file has chunks of {n_ctx} tokens: nothing is scored");
    }
    let n_chunk = limit(args.chunks, base.n_chunk);
    let tokens = std::mem::take(&mut base.tokens);
    let mut scorer = Scorer::new(model, n_ctx, args.batch_size)?;
    let mut divergence = Divergence::default();
    for (i, chunk) in tokens.chunks_exact(n_ctx).take(n_chunk).enumerate() {
        scorer.chunk(chunk, &mut |rows| {
            for rows in rows.chunks(ROWS_AT_ONCE) {
                let base_rows = rows.iter().map(|_| base.next_row()).collect::<Result<Vec<_>>>()?;
                in_parallel(rows, |i, (logits, token)| kl::score(logits, &base_rows[i], *token))
                    .into_iter()
                    .for_each(|s| divergence.add(s));
            }
            Ok(())
        })?;
        terminal::note(format_args!("[{}/{n_chunk}] mean KLD {:.9}", i + 1, divergence.mean_kld()));
    }
    if !divergence.mean_kld().is_finite() {
        bail!("the model gives logits that are not finite");
    }
    let summary = divergence.summary();
    let mut out = io::stdout().lock();
    if args.json {
        let mut result = summary.json();
        result["model_filename"] = json!(args.model.model.to_string_lossy());
        result["n_ctx"] = json!(n_ctx);
        result["n_chunk"] = json!(n_chunk);
        writeln!(out, "{}", serde_json::to_string_pretty(&result)?)?;
    } else {
        write!(out, "{summary}")?;
    }
    Ok(())
}

/// Rows of the base in memory at once.
const ROWS_AT_ONCE: usize = 32;

/// Logits at a position, and the token that came next.
type Row<'a> = (&'a [f32], usize);

/// Evaluates chunks and hands out the rows to score.
struct Scorer {
    context: Context,
    n_batch: usize,
    /// Replaces each chunk's first token.
    bos: Option<u32>,
}

impl Scorer {
    fn new(model: &Model, n_ctx: usize, n_batch: usize) -> Result<Self> {
        let n_batch = n_batch.min(n_ctx);
        let context = args::context(model, n_ctx, n_batch)?;
        let bos = model.vocab().bos().filter(|_| model.vocab().add_bos());
        Ok(Scorer { context, n_batch, bos })
    }

    /// Calls `score` with the rows of positions `n_ctx/2 .. n_ctx - 1`, in order, in one or several parts.
    fn chunk(&mut self, chunk: &[u32], score: &mut dyn FnMut(Vec<Row<'_>>) -> Result<()>) -> Result<()> {
        let mut evaluated = chunk.to_vec();
        if let (Some(bos), Some(first)) = (self.bos, evaluated.first_mut()) {
            *first = bos;
        }
        let scored = chunk.len() / 2..chunk.len() - 1;
        self.context.kv_clear();
        for start in (0..chunk.len()).step_by(self.n_batch) {
            let end = (start + self.n_batch).min(chunk.len());
            let want: Vec<bool> = (start..end).map(|i| scored.contains(&i)).collect();
            self.context.decode(&Batch {
                tokens: &evaluated[start..end],
                positions: None,
                sequences: None,
                want: Some(&want),
            })?;
            let rows = (start..end)
                .filter(|i| scored.contains(i))
                .enumerate()
                .map(|(row, i)| Ok((self.context.logits(row)?, chunk[i + 1] as usize)))
                .collect::<Result<Vec<_>>>()?;
            if !rows.is_empty() {
                score(rows)?;
            }
        }
        Ok(())
    }
}

/// `f` of each item, over all cores, in order.
fn in_parallel<I: Sync, T: Send>(items: &[I], f: impl Fn(usize, &I) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let part = items.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let f = &f;
        let workers: Vec<_> = items
            .chunks(part)
            .enumerate()
            .map(|(k, items)| {
                scope.spawn(move || {
                    items.iter().enumerate().map(|(i, x)| f(k * part + i, x)).collect::<Vec<T>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_keeps_order() {
        for n in [0, 1, 2, 3, 100] {
            let items: Vec<usize> = (0..n).collect();
            let out = in_parallel(&items, |i, x| i * 1000 + x);
            assert_eq!(out, items.iter().map(|x| x * 1001).collect::<Vec<_>>());
        }
    }
}
