//! `devices`: what models can run on here.

use std::io::{self, Write};

use anyhow::Result;
use clap::ValueEnum;
use rocmforge::engine::{Backend, BackendParams};

use crate::args::DeviceName;
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[cfg(feature = "hip")]
    #[command(flatten)]
    kernels: crate::kernels::KernelArgs,
}

pub fn run(args: Args) -> Result<()> {
    let mut out = io::stdout().lock();
    #[cfg(feature = "hip")]
    if args.kernels.kernels {
        return crate::kernels::run(&args.kernels, args.json, &mut out);
    }
    let mut rows = Vec::new();
    for &device in DeviceName::value_variants() {
        let backend = Backend::new(&BackendParams { device: device.into(), threads: 0 })?;
        let flag = device.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        rows.push((flag, backend.info()));
    }
    if args.json {
        let json: Vec<_> = rows
            .iter()
            .map(|(flag, d)| {
                serde_json::json!({
                    "device": flag, "name": d.name, "arch": d.arch, "compute_units": d.compute_units,
                    "memory_total": d.memory_total, "memory_free": d.memory_free,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    for (flag, d) in rows {
        write!(out, "{flag:<10} {} ({}), {} threads", d.name, d.arch, d.compute_units)?;
        if d.memory_total > 0 {
            write!(
                out,
                ", {} memory, {} free",
                terminal::bytes(d.memory_total),
                terminal::bytes(d.memory_free)
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}
