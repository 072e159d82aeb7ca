//! `devices --kernels`: the GPU code that the library carries.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use rocmforge::device::hip::code_object::{
    self, CodeObject, Embedded, metadata::KernelInfo, occupancy, targets,
};
use rocmforge::device::hip::kernels::SIGNATURES;
use serde_json::json;

use crate::terminal;

#[derive(clap::Args)]
pub struct KernelArgs {
    /// List the GPU code objects that the library carries, and the registers and memory of their kernels
    #[arg(long)]
    pub kernels: bool,
    /// Only what a GPU of this name runs: gfx1100, gfx1036, sm_86 (ROCMFORGE_KERNEL_DIR is heeded)
    #[arg(long, requires = "kernels", value_name = "NAME")]
    arch: Option<String>,
    /// Also write the code objects to this folder, as ROCMFORGE_KERNEL_DIR takes them
    #[arg(long, requires = "kernels", value_name = "DIR")]
    extract: Option<std::path::PathBuf>,
}

/// A code object, and its bytes in the library if it is from there.
struct Row {
    object: CodeObject,
    packed: Option<usize>,
}

pub fn run(args: &KernelArgs, as_json: bool, out: &mut impl Write) -> Result<()> {
    let packed =
        |arch: &str| code_object::carried().iter().find(|e| e.arch == arch).map(Embedded::packed_size);
    let rows: Vec<Row> = match &args.arch {
        Some(name) => {
            let object = code_object::for_arch(0, name)?;
            let packed = if object.path.is_none() { packed(&object.arch) } else { None };
            vec![Row { object, packed }]
        }
        None => {
            let all = code_object::carried().iter();
            all.map(|e| Ok(Row { object: e.unpack()?, packed: Some(e.packed_size()) }))
                .collect::<Result<_>>()?
        }
    };
    if let Some(folder) = &args.extract {
        rows.iter().try_for_each(|row| extract(&row.object, folder))?;
    }
    if as_json {
        let list: Vec<_> = rows.iter().map(describe).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    print(&rows, out)
}

fn extract(object: &CodeObject, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let extension = if targets::compute_capability(&object.arch).is_some() { "ptx" } else { "hsaco" };
    let file = folder.join(format!("{}.{extension}", object.arch));
    std::fs::write(&file, &object.bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// Waves of a SIMD, by the block that the host launches.
fn waves(object: &CodeObject, kernel: &KernelInfo) -> Option<u32> {
    let target = targets::find(&object.arch)?;
    let signature = SIGNATURES.iter().find(|s| s.name == kernel.name)?;
    Some(occupancy::waves(target, kernel, signature.block.iter().product()))
}

fn describe(row: &Row) -> serde_json::Value {
    let kernels = row.object.kernels.iter().map(|k| {
        let used = k.resources;
        json!({
            "name": k.name,
            "vgprs": used.map(|r| r.vgprs),
            "agprs": used.map(|r| r.agprs),
            "sgprs": used.map(|r| r.sgprs),
            "lds_bytes": k.lds_bytes,
            "scratch_bytes": used.map(|r| r.scratch_bytes),
            "wave_size": used.map(|r| r.wave_size),
            "max_threads": k.max_threads,
            "waves_per_simd": waves(&row.object, k),
        })
    });
    json!({
        "arch": row.object.arch,
        "path": row.object.path,
        "bytes": row.object.bytes.len(),
        "embedded_bytes": row.packed,
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

fn print(rows: &[Row], out: &mut impl Write) -> Result<()> {
    let width = SIGNATURES.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for row in rows {
        let Row { object, packed } = row;
        let CodeObject { arch, bytes, kernels, path } = object;
        write!(out, "{arch}: {} kernels, {}", kernels.len(), terminal::bytes(bytes.len() as u64))?;
        if let Some(packed) = packed {
            write!(out, ", {} in the library", terminal::bytes(*packed as u64))?;
        }
        if let Some(path) = path {
            write!(out, ", from {}", path.display())?;
        }
        writeln!(out)?;
        let heads = ["VGPRs", "AGPRs", "SGPRs", "LDS", "scratch", "waves/SIMD"];
        let [vgprs, agprs, sgprs, lds, scratch, waves_head] = heads;
        writeln!(
            out,
            "  {:width$} {vgprs:>6} {agprs:>6} {sgprs:>6} {lds:>6} {scratch:>8} {waves_head:>11}",
            "kernel"
        )?;
        for k in kernels {
            let used = |value: Option<u64>| value.map_or("-".to_owned(), |v| v.to_string());
            let of = |f: fn(&code_object::metadata::Resources) -> u64| used(k.resources.as_ref().map(f));
            writeln!(
                out,
                "  {:width$} {:>6} {:>6} {:>6} {:>6} {:>8} {:>11}",
                k.name,
                of(|r| r.vgprs.into()),
                of(|r| r.agprs.into()),
                of(|r| r.sgprs.into()),
                k.lds_bytes,
                of(|r| r.scratch_bytes),
                used(waves(object, k).map(u64::from)),
            )?;
        }
    }
    let plain: usize = rows.iter().map(|row| row.object.bytes.len()).sum();
    let packed: usize = rows.iter().filter_map(|row| row.packed).sum();
    let (plain, packed) = (terminal::bytes(plain as u64), terminal::bytes(packed as u64));
    writeln!(out, "{} code objects, {plain}, {packed} in the library", rows.len())?;
    Ok(())
}
