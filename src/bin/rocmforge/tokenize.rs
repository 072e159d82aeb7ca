//! `tokenize`: the tokens of a text, with the vocabulary alone.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rocmforge::gguf::Gguf;
use rocmforge::text::Vocab;

use crate::prompt::{self, EscapeArgs};
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    /// Model file (GGUF; a split model by its first part)
    #[arg(short, long)]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Print the ids alone, as a list: [1, 2, 3]
    #[arg(long)]
    ids: bool,
    /// Do not put the beginning-of-text token in front
    #[arg(long)]
    no_bos: bool,
    /// Take control tokens written out in the text as text
    #[arg(long)]
    no_parse_special: bool,
    /// Print the number of tokens too
    #[arg(long)]
    show_count: bool,
    #[command(flatten)]
    escapes: EscapeArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The text
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File that holds the text, to the byte; - is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Read the text from standard input, to the byte
    #[arg(long)]
    stdin: bool,
}

pub fn run(args: Args) -> Result<()> {
    let file = Gguf::open(&args.model)?;
    let vocab = Vocab::from_file(&file)?;
    let text = match (args.source.prompt, args.source.file) {
        (Some(text), _) => args.escapes.of_argument(text),
        (None, Some(path)) => args.escapes.of_input(prompt::read(&path)?),
        (None, None) => args.escapes.of_input(prompt::read(Path::new("-"))?),
    };
    let add_bos = vocab.add_bos() && !args.no_bos;
    let tokens = vocab.tokenize(&text, add_bos, !args.no_parse_special)?;

    let mut out = BufWriter::new(io::stdout().lock());
    let is_terminal = out.get_ref().is_terminal();
    if args.ids {
        let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
        writeln!(out, "[{}]", ids.join(", "))?;
    } else {
        for &id in &tokens {
            write!(out, "{id:>6} -> '")?;
            let bytes = vocab.token_bytes(id, true).unwrap_or_default();
            if is_terminal {
                write!(out, "{}", terminal::visible(&String::from_utf8_lossy(bytes)))?;
            } else {
                out.write_all(bytes)?;
            }
            writeln!(out, "'")?;
        }
    }
    if args.show_count {
        writeln!(out, "Total number of tokens: {}", tokens.len())?;
    }
    out.flush()?;
    Ok(())
}
