//! An open model: one or more mapped files, their metadata and their tensors.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::reader::{Header, Short, format_error};
use super::{Metadata, TensorType};
use crate::{Error, Result, memory};

/// One tensor of the directory. `dims[0]` is the length of a row (the fastest dimension).
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    pub ty: TensorType,
    /// 1 to 4 dimensions as the file lists them; missing ones are 1. Their product does not overflow.
    pub dims: [u64; 4],
    pub n_dims: usize,
    /// Which file of a split holds it, and the byte offset from the start of that file.
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// Elements per row.
    pub fn row_len(&self) -> usize {
        self.dims[0] as usize
    }
    /// Rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        (self.dims[1] * self.dims[2] * self.dims[3]) as usize
    }
}

/// A GGUF model file (with its split parts), mapped read-only. Immutable, shared freely.
///
/// The files must stay as they are while this lives. Where another process cuts a mapped file short,
/// the system ends this process (SIGBUS) at the first touch of a page that is gone; where it writes
/// into one, the weights change under way. Replacing a file by renaming another over it is safe: the
/// old one stays mapped.
pub struct Gguf {
    parts: Vec<Part>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Place in `tensors` by name.
    index: HashMap<String, usize>,
}

struct Part {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Opens `path`; a split model is opened from its first part, and the others are looked for
    /// beside it. Reads the headers only: tensor data is read when touched.
    ///
    /// # Errors
    /// `Error::Io` where a file (named) cannot be opened or mapped, `Error::Format` for anything in
    /// it that is not as the format has it, with field and byte offset.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (part, header) = Part::open(path, "open")?;
        let Some(split) = Split::of(path, &header)? else { return Self::assemble(vec![part], vec![header]) };
        let prefix = split.check_first(path)?;

        let (mut parts, mut headers) = (vec![part], vec![header]);
        for no in 1..split.count {
            let path = split_path(path, prefix, no, split.count);
            let (part, header) = Part::open(&path, "open a part of the split model:")?;
            split.check_part(&path, &header, no)?;
            memory::push(&mut parts, part, "the model's files")?;
            memory::push(&mut headers, header, "the model's files")?;
            memory::check()?;
        }
        let file = Self::assemble(parts, headers)?;
        split.check_total(path, file.tensors.len())?;
        Ok(file)
    }

    /// The same checks over bytes in memory; `name` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`]; one part of a split model is refused.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        let path = PathBuf::from(name);
        let header = Header::read(&bytes, &path)?;
        if let Some(split) = Split::of(&path, &header)? {
            let why = format!("one of {} parts: open the model from its files", split.count);
            return Err(format_error(&path, format_args!("metadata value {COUNT}"), split.count_at, why));
        }
        Self::assemble(vec![Part { path, bytes: Bytes::Owned(bytes) }], vec![header])
    }

    fn assemble(parts: Vec<Part>, headers: Vec<Header>) -> Result<Self> {
        const WHAT: &str = "the file's tensors";
        let (mut version, mut metadata, mut tensors) = (0, Metadata::default(), Vec::new());
        let mut index = HashMap::new();
        for (file, header) in headers.into_iter().enumerate() {
            if file == 0 {
                (version, metadata) = (header.version, header.metadata);
                tensors = memory::vec(header.tensors.len(), WHAT)?;
            }
            memory::reserve_map(&mut index, header.tensors.len(), WHAT)?;
            memory::reserve(&mut tensors, header.tensors.len(), WHAT)?;
            for mut info in header.tensors {
                info.file = file;
                if let Some(first) = index.insert(memory::text(&info.name, WHAT)?, tensors.len()) {
                    let first: &TensorInfo = &tensors[first];
                    let field = format_args!("tensor {}: data", Short(&info.name));
                    let why = format!("a tensor of this name is in {} too", parts[first.file].path.display());
                    return Err(format_error(&parts[file].path, field, info.offset, why));
                }
                tensors.push(info);
            }
        }
        tracing::debug!(
            path = %parts[0].path.display(), version, parts = parts.len(), pairs = metadata.len(),
            tensors = tensors.len(), "opened a GGUF file"
        );
        Ok(Self { parts, version, metadata, tensors, index })
    }

    /// The first part's path.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// The first part's version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// The first part's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// In file order, over all parts.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor with a row for each token: the embedding, or the matrix of logits where that serves as one.
    pub fn embedding(&self) -> Option<&TensorInfo> {
        self.tensor("token_embd.weight").or_else(|| self.tensor("output.weight"))
    }

    /// The tensor's bytes in the map. Panics if `info` is not one of this file's.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        &self.parts[info.file].bytes[info.offset as usize..][..info.bytes as usize]
    }

    /// Tells the system that the tensor's pages are needed soon: it starts to read them. A hint:
    /// errors are ignored, and bytes in memory are left alone.
    pub fn prefetch(&self, info: &TensorInfo) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.parts[info.file].bytes {
            let _ = map.advise_range(memmap2::Advice::WillNeed, info.offset as usize, info.bytes as usize);
        }
        #[cfg(not(unix))]
        let _ = info;
    }

    /// Tells the system that the tensor's pages are not needed soon (they are read again from the
    /// file, or from its cache, if touched). Pages shared with a neighbour's first or last bytes go too.
    pub fn forget_pages(&self, info: &TensorInfo) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.parts[info.file].bytes {
            let (start, len) = (info.offset as usize, info.bytes as usize);
            // SAFETY: the map is read-only and backed by the file, so that a dropped page comes back
            // with the bytes of the file, which are the bytes it had.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        }
        #[cfg(not(unix))]
        let _ = info;
    }
}

/// Without the contents, which run to gigabytes.
impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path())
            .field("version", &self.version)
            .field("files", &self.parts.len())
            .field("bytes", &self.file_bytes())
            .field("pairs", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

impl Part {
    fn open(path: &Path, what: &'static str) -> Result<(Self, Header)> {
        let failed = |what| move |source| Error::Io { what, path: path.to_owned(), source };
        // Anything but a file (a pipe, a device) may block or never end.
        if !std::fs::metadata(path).map_err(failed(what))?.is_file() {
            return Err(failed(what)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(failed(what))?;
        // SAFETY: a map is sound as long as nobody changes the file under it, which the type's
        // documentation demands of whoever opens one; nothing in this process writes to it.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        let header = Header::read(&map, path)?;
        Ok((Self { path: path.to_owned(), bytes: Bytes::Mapped(map) }, header))
    }
}

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// What the first part of a split model says of the others.
struct Split {
    /// Of the part read.
    no: u64,
    no_at: u64,
    /// 2 or more.
    count: u64,
    count_at: u64,
    /// Tensors of all parts together.
    tensors: Option<u64>,
    tensors_at: u64,
}

impl Split {
    /// None for a model of one file.
    fn of(path: &Path, header: &Header) -> Result<Option<Self>> {
        let read = |key| split_key(path, header, key);
        let (count, count_at) = read(COUNT)?;
        let Some(count) = count.filter(|&count| count > 1) else { return Ok(None) };
        let ((no, no_at), (tensors, tensors_at)) = (read(NO)?, read(TENSORS)?);
        let Some(no) = no else {
            let why = format!("{COUNT} is {count}, but {NO} is missing");
            return Err(format_error(path, format_args!("metadata value {COUNT}"), count_at, why));
        };
        Ok(Some(Self { no, no_at, count, count_at, tensors, tensors_at }))
    }

    /// The part of the file name that all parts share.
    fn check_first<'a>(&self, path: &'a Path) -> Result<&'a str> {
        // No UTF-8, no match: the name is not one that a writer of splits gives.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let prefix = name.strip_suffix(&split_suffix(self.no, self.count));
        let first = split_suffix(0, self.count);
        if self.no != 0 {
            let first = match prefix {
                Some(prefix) => split_path(path, prefix, 0, self.count).display().to_string(),
                None => format!("the file whose name ends in {first}"),
            };
            let why = format!("part {} of {}: open {first} instead", self.no.saturating_add(1), self.count);
            return Err(format_error(path, format_args!("metadata value {NO}"), self.no_at, why));
        }
        prefix.ok_or_else(|| {
            let why = format!(
                "the first of {} parts: its name must end in {first} for the others to be found",
                self.count
            );
            format_error(path, format_args!("metadata value {COUNT}"), self.count_at, why)
        })
    }

    /// A later part's own word on its place.
    fn check_part(&self, path: &Path, header: &Header, expected: u64) -> Result<()> {
        let (no, no_at) = split_key(path, header, NO)?;
        if no != Some(expected) {
            let found = no.map_or("missing".to_owned(), |no| no.to_string());
            let why = format!("{found}, but the name says {expected}");
            return Err(format_error(path, format_args!("metadata value {NO}"), no_at, why));
        }
        let (count, count_at) = split_key(path, header, COUNT)?;
        if count.is_some_and(|count| count != self.count) {
            let why = format!("{}, but the first part says {}", count.unwrap_or(0), self.count);
            return Err(format_error(path, format_args!("metadata value {COUNT}"), count_at, why));
        }
        Ok(())
    }

    fn check_total(&self, path: &Path, found: usize) -> Result<()> {
        match self.tensors {
            Some(n) if n != found as u64 => {
                let why = format!("{n}, but the {} parts hold {found}", self.count);
                Err(format_error(path, format_args!("metadata value {TENSORS}"), self.tensors_at, why))
            }
            _ => Ok(()),
        }
    }
}

/// A non-negative integer and where it is in the file.
fn split_key(path: &Path, header: &Header, key: &str) -> Result<(Option<u64>, u64)> {
    let at = header.metadata.position(key).map_or(0, |i| header.value_offsets[i]);
    let value = header
        .metadata
        .u64(key)
        .map_err(|e| format_error(path, format_args!("metadata value {key}"), at, e))?;
    Ok((value, at))
}

/// `no` counts from 0; in names the parts count from 1.
fn split_suffix(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no.saturating_add(1))
}

/// Beside `first`.
fn split_path(first: &Path, prefix: &str, no: u64, count: u64) -> PathBuf {
    first.with_file_name(format!("{prefix}{}", split_suffix(no, count)))
}
