//! `devices --kernels`: the GPU code that the library carries.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use rocmforge::device::hip::code_object::{
    self, CodeObject, CodeObjects, Embedded, metadata::KernelInfo, occupancy, targets,
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

/// A target's code objects, and their bytes in the library if they are from there.
struct Row {
    arch: String,
    folder: Option<std::path::PathBuf>,
    objects: Vec<CodeObject>,
    packed: Option<usize>,
}

impl Row {
    fn new(of: CodeObjects, packed: Option<usize>) -> rocmforge::Result<Self> {
        let objects = of.open_all()?;
        Ok(Row { arch: of.arch, folder: of.folder, objects, packed })
    }

    fn bytes(&self) -> usize {
        self.objects.iter().map(|object| object.bytes.len()).sum()
    }

    fn kernels(&self) -> impl Iterator<Item = (&CodeObject, &KernelInfo)> {
        self.objects.iter().flat_map(|object| object.kernels.iter().map(move |kernel| (object, kernel)))
    }
}

pub fn run(args: &KernelArgs, as_json: bool, out: &mut impl Write) -> Result<()> {
    let packed =
        |arch: &str| code_object::carried().iter().find(|e| e.arch == arch).map(Embedded::packed_size);
    let rows: Vec<Row> = match &args.arch {
        Some(name) => {
            let objects = code_object::for_arch(0, name)?;
            let packed = if objects.folder.is_none() { packed(&objects.arch) } else { None };
            vec![Row::new(objects, packed)?]
        }
        None => {
            let all = code_object::carried().iter();
            all.map(|e| Ok(Row::new(CodeObjects::embedded(e), Some(e.packed_size()))?))
                .collect::<Result<_>>()?
        }
    };
    if let Some(folder) = &args.extract {
        rows.iter().try_for_each(|row| extract(row, folder))?;
    }
    if as_json {
        let list: Vec<_> = rows.iter().map(describe).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    print(&rows, out)
}

fn extract(row: &Row, folder: &Path) -> Result<()> {
    let folder = folder.join(&row.arch);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    row.objects.iter().try_for_each(|object| {
        let file = folder.join(format!("{}.{}", object.unit, code_object::extension(&object.arch)));
        std::fs::write(&file, &object.bytes).with_context(|| format!("cannot write {}", file.display()))
    })
}

/// Waves of a SIMD, by the block that the host launches.
fn waves(object: &CodeObject, kernel: &KernelInfo) -> Option<u32> {
    let target = targets::find(&object.arch)?;
    let signature = SIGNATURES.iter().find(|s| s.name == kernel.name)?;
    Some(occupancy::waves(target, kernel, signature.block.iter().product()))
}

fn describe(row: &Row) -> serde_json::Value {
    let kernels = row.kernels().map(|(object, k)| {
        let used = k.resources;
        json!({
            "name": k.name,
            "file": object.unit,
            "vgprs": used.map(|r| r.vgprs),
            "agprs": used.map(|r| r.agprs),
            "sgprs": used.map(|r| r.sgprs),
            "lds_bytes": k.lds_bytes,
            "scratch_bytes": used.map(|r| r.scratch_bytes),
            "wave_size": used.map(|r| r.wave_size),
            "max_threads": k.max_threads,
            "waves_per_simd": waves(object, k),
        })
    });
    json!({
        "arch": row.arch,
        "path": row.folder,
        "bytes": row.bytes(),
        "embedded_bytes": row.packed,
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

fn print(rows: &[Row], out: &mut impl Write) -> Result<()> {
    let width = SIGNATURES.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for row in rows {
        let Row { arch, folder, objects, packed } = row;
        let (kernels, bytes) = (row.kernels().count(), terminal::bytes(row.bytes() as u64));
        write!(out, "{arch}: {kernels} kernels in {} code objects, {bytes}", objects.len())?;
        if let Some(packed) = packed {
            write!(out, ", {} in the library", terminal::bytes(*packed as u64))?;
        }
        if let Some(folder) = folder {
            write!(out, ", from {}", folder.display())?;
        }
        writeln!(out)?;
        let heads = ["VGPRs", "AGPRs", "SGPRs", "LDS", "scratch", "waves/SIMD"];
        let [vgprs, agprs, sgprs, lds, scratch, waves_head] = heads;
        writeln!(
            out,
            "  {:width$} {vgprs:>6} {agprs:>6} {sgprs:>6} {lds:>6} {scratch:>8} {waves_head:>11}",
            "kernel"
        )?;
        for (object, k) in row.kernels() {
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
    let plain: usize = rows.iter().map(Row::bytes).sum();
    let packed: usize = rows.iter().filter_map(|row| row.packed).sum();
    let (plain, packed) = (terminal::bytes(plain as u64), terminal::bytes(packed as u64));
    writeln!(out, "{} targets, {plain}, {packed} in the library", rows.len())?;
    Ok(())
}
