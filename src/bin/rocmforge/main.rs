//! The command line: a client of the crate's Rust API and nothing more. One file per command.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bandwidth;
mod bench;
mod chat;
mod conversation;
mod devices;
mod flags;
mod generate;
#[cfg(feature = "hip")]
mod gpu_bench;
mod input;
mod inspect;
mod interrupt;
#[cfg(feature = "hip")]
mod kernels;
mod kl;
mod load;
mod logits;
mod per_op;
mod perplexity;
mod prompt;
mod sampling;
mod stats;
mod terminal;
mod tokenize;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// What a caller may rely on; docs/cli.md and `--help` list them.
mod exit {
    pub const OK: u8 = 0;
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const INTERRUPTED: u8 = 130;
}

#[derive(Parser)]
#[command(
    name = "rocmforge",
    version,
    about = "Run GGUF language models",
    after_help = "Text and results go to standard output, everything else to standard error.\n\n\
        Exit codes: 0 success (also when the reader of standard output went away), 1 failure, \
        2 wrong usage, 130 interrupted (Ctrl-C once: stop and keep what there is; twice: at once)."
)]
struct Cli {
    /// Log to standard error: -v info, -vv debug, -vvv trace (without it: warnings, or what RUST_LOG says)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the devices that models can run on
    Devices(devices::Args),
    /// Load a model, time each phase, and check its tensors
    Load(load::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Talk with a model, through the chat template of its file
    Chat(chat::Args),
    /// Show the metadata and the tensors of a file
    Inspect(inspect::Args),
    /// Show the tokens of a text
    Tokenize(tokenize::Args),
    /// Measure prompt processing (pp) and token generation (tg)
    Bench(bench::Args),
    /// Write the logits at every position of a token sequence
    Logits(logits::Args),
    /// Measure perplexity on a text, or the KL divergence to stored logits
    Perplexity(perplexity::Args),
}

fn main() -> ExitCode {
    let command = flags::with_habits(Cli::command());
    let args = flags::spell_out(&command, std::env::args_os());
    let cli = Cli::from_arg_matches(&command.get_matches_from(args)).unwrap_or_else(|error| error.exit());
    init_log(cli.verbose);
    let result = interrupt::install().and_then(|()| match cli.command {
        Command::Devices(args) => devices::run(args),
        Command::Load(args) => load::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
    });
    ExitCode::from(match result {
        Ok(()) => exit::OK,
        Err(error) if terminal::is_closed_pipe(&error) => exit::OK,
        Err(error) if interrupt::is_interruption(&error) => {
            terminal::note(format_args!("interrupted"));
            exit::INTERRUPTED
        }
        Err(error) => {
            terminal::note(format_args!("rocmforge: {}", one_line(&error)));
            if error.is::<Usage>() { exit::USAGE } else { exit::FAILURE }
        }
    })
}

fn init_log(verbose: u8) {
    let filter = match verbose {
        0 => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        1 => EnvFilter::new("info"),
        // the line editor logs each key
        2 => EnvFilter::new("debug,rustyline=warn"),
        _ => EnvFilter::new("trace,rustyline=warn"),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(terminal::has_colors()).init();
}

/// Wrong usage that shows only once several values are put together.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; see --help", self.0)
    }
}

impl std::error::Error for Usage {}

/// The error and its causes, each said once: the library's messages already contain their sources.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    if let Some(rocmforge::Error::CacheFull { .. }) = error.downcast_ref() {
        line.push_str(" (--ctx-size)");
    }
    line.replace('\n', " ")
}
