//! What a PTX text says of itself: its target, its entries, their parameters and shared memory. Reads the text as
//! LLVM writes it, one directive a line.

use super::metadata::{ArgInfo, ArgType, KernelInfo};
use super::targets;

/// The target's name and the kernels. The error says what is wrong with the text.
pub(super) fn read(bytes: &[u8]) -> Result<(String, Vec<KernelInfo>), String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not PTX: {e}"))?;
    let mut target = None;
    let mut kernels: Vec<KernelInfo> = Vec::new();
    let mut in_header = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or(line);
        let words: Vec<&str> =
            line.split([' ', '\t', '(', ')', ',', ';']).filter(|word| !word.is_empty()).collect();
        match (&words[..], kernels.last_mut()) {
            ([".target", name, ..], _) => target = Some(*name),
            ([".visible", ".entry", name, ..], _) => {
                kernels.push(entry(name));
                in_header = true;
            }
            (["{"], _) => in_header = false,
            ([".param", rest @ .., name], Some(kernel)) if in_header => {
                let arg = parameter(rest, name, &kernel.args).ok_or_else(|| {
                    format!("not PTX: parameter {} of {}: {}", kernel.args.len(), kernel.name, line.trim())
                })?;
                kernel.args.push(arg);
            }
            ([".maxntid" | ".reqntid", sizes @ ..], Some(kernel)) => {
                let threads = sizes.iter().try_fold(1u32, |all, n| all.checked_mul(n.parse().ok()?));
                kernel.max_threads = Some(threads.ok_or_else(|| format!("not PTX: {}", line.trim()))?);
            }
            // LLVM moves what one kernel uses into its body.
            ([".shared", rest @ .., name], Some(kernel)) => {
                let (_, bytes) = declared(rest, name).ok_or_else(|| format!("not PTX: {}", line.trim()))?;
                kernel.lds_bytes = kernel.lds_bytes.saturating_add(bytes);
            }
            _ => {}
        }
    }
    let target = target.ok_or("not PTX: no .target")?;
    targets::compute_capability(target).ok_or_else(|| format!("PTX for an unknown target '{target}'"))?;
    Ok((target.to_owned(), kernels))
}

fn entry(name: &str) -> KernelInfo {
    KernelInfo { name: name.to_owned(), args: Vec::new(), lds_bytes: 0, max_threads: None, resources: None }
}

/// The next parameter: aligned after those before it, as the driver packs them.
fn parameter(words: &[&str], name: &str, before: &[ArgInfo]) -> Option<ArgInfo> {
    let (align, size) = declared(words, name)?;
    let end = before.last().map_or(Some(0), |arg| arg.offset.checked_add(arg.size))?;
    let offset = end.checked_next_multiple_of(align)?;
    let kind = match words {
        [_, ".ptr", ..] => ArgType::Pointer,
        [".u64" | ".b64"] => ArgType::PointerOrValue,
        _ => ArgType::Value,
    };
    Some(ArgInfo { offset, size, kind })
}

/// Alignment and bytes of `.align 8 .b8 name[32]`, `.u64 name`, `.u64 .ptr .align 1 name`.
fn declared(words: &[&str], name: &str) -> Option<(u64, u64)> {
    let element = |word: &&&str| {
        let bits = word
            .strip_prefix(['.'])
            .and_then(|w| w.strip_prefix(['b', 'u', 's', 'f']))?
            .parse::<u64>()
            .ok()?;
        (8..=64).contains(&bits).then_some(bits / 8)
    };
    let size = words.iter().find_map(|word| element(&word))?;
    let Some((_, count)) = name.split_once('[') else { return Some((size, size)) };
    let count: u64 = count.strip_suffix(']')?.parse().ok()?;
    let align = match words {
        [".align", align, ..] => align.parse().ok().filter(|a: &u64| a.is_power_of_two())?,
        _ => size,
    };
    Some((align, size.checked_mul(count)?))
}
