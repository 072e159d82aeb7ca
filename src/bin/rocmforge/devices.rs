//! `devices`: what there is to compute on here.

use std::io::{self, Write};

use anyhow::Result;
use rocmforge::engine::{Backend, DeviceInfo, DeviceKind, GpuInfo};
use serde_json::{Value as Json, json};

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

const KINDS: [(&str, DeviceKind); 3] =
    [("cpu", DeviceKind::Cpu), ("reference", DeviceKind::Reference), ("hip", DeviceKind::Hip)];

/// A device as `--device` takes it, and what is known of it or why nothing is.
type Row = (String, rocmforge::Result<DeviceInfo>);

pub fn run(args: Args) -> Result<()> {
    let mut out = io::stdout().lock();
    #[cfg(feature = "hip")]
    if args.kernels.kernels {
        return crate::kernels::run(&args.kernels, args.json, &mut out);
    }
    let rows: Vec<Row> = KINDS.iter().flat_map(|&(flag, kind)| rows(flag, kind)).collect();
    if args.json {
        let json: Vec<_> = rows.iter().map(to_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    for (flag, info) in &rows {
        match info {
            Ok(info) => print(&mut out, flag, info)?,
            Err(error) => writeln!(out, "{flag:<10} {error}")?,
        }
    }
    Ok(())
}

fn rows(flag: &str, kind: DeviceKind) -> Vec<Row> {
    match Backend::devices(kind) {
        Ok(devices) if kind == DeviceKind::Hip => {
            devices.into_iter().enumerate().map(|(index, info)| (format!("{flag}:{index}"), info)).collect()
        }
        Ok(devices) => devices.into_iter().map(|info| (flag.to_owned(), info)).collect(),
        Err(error) => vec![(flag.to_owned(), Err(error))],
    }
}

fn print(out: &mut impl Write, flag: &str, d: &DeviceInfo) -> io::Result<()> {
    let units = if d.gpu.is_some() { "compute units" } else { "threads" };
    write!(out, "{flag:<10} {} ({}), {} {units}", d.name, d.arch, d.compute_units)?;
    if d.memory_total > 0 {
        let (total, free) = (terminal::bytes(d.memory_total), terminal::bytes(d.memory_free));
        write!(out, ", {total} memory, {free} free")?;
    }
    writeln!(out)?;
    let Some(gpu) = &d.gpu else { return Ok(()) };
    let GpuInfo { max_block: [bx, by, bz], max_grid: [gx, gy, gz], .. } = gpu;
    let margin = "";
    writeln!(
        out,
        "{margin:<10} blocks of up to {} threads ({bx}, {by}, {bz}), grids of up to ({gx}, {gy}, {gz}) blocks",
        gpu.max_threads_per_block
    )?;
    writeln!(
        out,
        "{margin:<10} {} threads in lockstep, {} bytes of shared memory per block, {}",
        gpu.warp_size,
        gpu.shared_bytes_per_block,
        if gpu.integrated { "integrated" } else { "discrete" }
    )?;
    let kernels = if gpu.has_kernels { "kernels included" } else { "no kernels for it in this build" };
    writeln!(out, "{margin:<10} {kernels}; runtime {}", gpu.runtime)
}

fn to_json((flag, info): &Row) -> Json {
    let d = match info {
        Ok(info) => info,
        Err(error) => return json!({ "device": flag, "error": error.to_string() }),
    };
    let mut json = json!({
        "device": flag, "name": d.name, "arch": d.arch, "compute_units": d.compute_units,
        "memory_total": d.memory_total, "memory_free": d.memory_free,
    });
    if let (Some(gpu), Some(fields)) = (&d.gpu, json.as_object_mut()) {
        fields.extend([
            ("max_threads_per_block".into(), gpu.max_threads_per_block.into()),
            ("max_block".into(), json!(gpu.max_block)),
            ("max_grid".into(), json!(gpu.max_grid)),
            ("warp_size".into(), gpu.warp_size.into()),
            ("shared_bytes_per_block".into(), gpu.shared_bytes_per_block.into()),
            ("integrated".into(), gpu.integrated.into()),
            ("has_kernels".into(), gpu.has_kernels.into()),
            ("runtime".into(), gpu.runtime.as_str().into()),
        ]);
    }
    json
}
