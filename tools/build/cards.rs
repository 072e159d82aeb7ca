//! The GPUs in this machine, as targets are named. Neither ROCm nor CUDA is needed to see them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Targets of the cards that the drivers show under `root` (/) and that `nvidia_smi` lists.
pub fn in_machine(root: &Path, nvidia_smi: &OsStr) -> Vec<String> {
    let mut cards = amd(&root.join("sys/class/kfd/kfd/topology/nodes"));
    cards.extend(nvidia(&root.join("proc/driver/nvidia/gpus"), nvidia_smi));
    cards.sort();
    cards.dedup();
    cards
}

/// A node's `gfx_target_version` is major * 10000 + minor * 100 + stepping; a processor's is 0.
fn amd(nodes: &Path) -> Vec<String> {
    let mut cards = Vec::new();
    for node in fs::read_dir(nodes).into_iter().flatten().flatten() {
        let properties = fs::read_to_string(node.path().join("properties")).unwrap_or_default();
        let version = properties.lines().find_map(|line| line.strip_prefix("gfx_target_version "));
        let version: u32 = version.and_then(|version| version.trim().parse().ok()).unwrap_or(0);
        if version != 0 {
            cards.push(format!("gfx{}{:x}{:x}", version / 10000, version / 100 % 100, version % 100));
        }
    }
    cards
}

/// By compute capability; without nvidia-smi the driver tells only that there are cards: the oldest target serves all.
fn nvidia(gpus: &Path, nvidia_smi: &OsStr) -> Vec<String> {
    let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
    let asked = Command::new(nvidia_smi).args(query).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
    let capabilities = text.lines().filter_map(|line| line.trim().split_once('.'));
    let cards: Vec<_> = capabilities.map(|(major, minor)| format!("sm_{major}{minor}")).collect();
    let some = fs::read_dir(gpus).is_ok_and(|mut folder| folder.next().is_some());
    if cards.is_empty() && some { vec!["sm_75".to_owned()] } else { cards }
}
