//! `logits`: what the model answers at every position, raw, for comparisons with other programs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use rocmforge::engine::Batch;

use crate::args::{self, ModelArgs, batch_size};
use crate::prompt::EscapeArgs;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: Source,
    /// Where to write: little-endian f32, n_tokens x n_vocab
    #[arg(short, long)]
    out: PathBuf,
    /// Most tokens computed in one step
    #[arg(short, long, default_value = "512", value_parser = batch_size)]
    batch_size: usize,
    #[command(flatten)]
    escapes: EscapeArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Token ids, comma-separated, evaluated as they stand
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,...")]
    tokens: Vec<u32>,
    /// Text to tokenize
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let model = args.model.load(args.source.tokens.len(), args.batch_size)?;
    let tokens = match args.source.prompt {
        Some(text) => model.vocab().tokenize_to_continue(&args.escapes.of_argument(text), true)?,
        None => args.source.tokens,
    };
    if tokens.is_empty() {
        bail!("no tokens");
    }
    let n_batch = args.batch_size.min(tokens.len());
    let mut context = args::context(&model, tokens.len(), n_batch)?;
    let name = args.out.display().to_string();
    let mut file = None; // made with the first logits: a refused request leaves no file behind
    let want = vec![true; n_batch];
    for part in tokens.chunks(n_batch) {
        context.decode(&Batch {
            tokens: part,
            positions: None,
            sequences: None,
            want: Some(&want[..part.len()]),
        })?;
        let file = match &mut file {
            Some(file) => file,
            none => {
                let created = File::create(&args.out).with_context(|| format!("cannot create {name}"))?;
                none.insert(BufWriter::new(created))
            }
        };
        for row in 0..context.n_logits() {
            for v in context.logits(row)? {
                file.write_all(&v.to_le_bytes()).with_context(|| format!("cannot write {name}"))?;
            }
        }
    }
    if let Some(file) = &mut file {
        file.flush().with_context(|| format!("cannot write {name}"))?;
    }
    writeln!(io::stdout(), "{} {}", tokens.len(), model.info().n_vocab)?;
    Ok(())
}
