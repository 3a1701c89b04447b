//! Writing a model directory: beside its place, and moved there when it is whole.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::error::ConvertError;
use crate::layout::{Layout, Part};

/// To what multiple the data section of a shard is aligned: a cache line, so that kernels may use wide loads.
const DATA_ALIGN: usize = 64;

/// Bytes of the header's length.
const LEN_BYTES: usize = 8;

/// What a new directory may be used for, before the process's mask.
const DIR_MODE: u32 = 0o777;

/// A directory that does not exist yet.
#[derive(Debug)]
pub(crate) struct OutDir {
    path: PathBuf,
    temp: TempDir,
    wanted_bytes: u64,
}

impl OutDir {
    /// Makes a temporary directory beside `path`, which must not exist or be empty. Dropped before
    /// [`finish`](Self::finish), it takes everything with it.
    pub(crate) fn new(path: &Path, wanted_bytes: u64) -> Result<Self, ConvertError> {
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(source) if source.kind() == ErrorKind::NotFound => true,
            Err(source) if source.kind() == ErrorKind::NotADirectory => false,
            Err(source) => return Err(ConvertError::write(path, wanted_bytes, source)),
        };
        if !is_free {
            return Err(ConvertError::OutputExists { path: path.to_owned() });
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let temp = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(DIR_MODE))
            .tempdir_in(parent)
            .map_err(|source| ConvertError::write(parent, wanted_bytes, source))?;
        Ok(Self { path: path.to_owned(), temp, wanted_bytes })
    }

    /// Starts a file of the directory.
    pub(crate) fn create(&self, name: &str) -> Result<OutFile, ConvertError> {
        let path = self.temp.path().join(name);
        match File::create_new(&path) {
            Ok(file) => Ok(OutFile {
                // Messages name the file by where it was to be, not by where it was for a while.
                path: self.path.join(name),
                file,
                wanted_bytes: self.wanted_bytes,
            }),
            Err(source) => Err(self.error(name, source)),
        }
    }

    /// Writes a JSON file, indented for people or, where they are tables, not.
    pub(crate) fn write_json(
        &self,
        name: &str,
        value: &impl Serialize,
        indented: bool,
    ) -> Result<(), ConvertError> {
        let text = if indented { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        let text = text.map_err(|error| self.error(name, error.into()))?;
        let mut file = self.create(name)?;
        let written = file.file.write_all(&text);
        written.map_err(|source| self.error(name, source))?;
        file.finish()
    }

    /// Makes everything durable and moves the directory to its place.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        let error = |source| ConvertError::write(&self.path, self.wanted_bytes, source);
        sync_dir(self.temp.path()).map_err(error)?;
        // Replaces an empty directory and fails on any other, should one have appeared meanwhile.
        fs::rename(self.temp.path(), &self.path).map_err(error)?;
        let parent = self.temp.path().parent().map(Path::to_owned);
        let _moved = self.temp.keep();
        if let Some(parent) = parent {
            sync_dir(&parent).map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))?;
        }
        Ok(())
    }

    fn error(&self, name: &str, source: std::io::Error) -> ConvertError {
        ConvertError::write(&self.path.join(name), self.wanted_bytes, source)
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A file of a directory that does not exist yet.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    file: File,
    wanted_bytes: u64,
}

impl OutFile {
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))
    }

    /// Makes the file durable.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        self.file.sync_all().map_err(|source| ConvertError::write(&self.path, self.wanted_bytes, source))
    }
}

/// A safetensors file whose header is written and whose tensors follow in any order.
#[derive(Debug)]
pub(crate) struct Shard {
    file: OutFile,
    data_offset: u64,
}

impl Shard {
    /// Starts shard `shard_idx` of the layout.
    pub(crate) fn create(dir: &OutDir, layout: &Layout, shard_idx: usize) -> Result<Self, ConvertError> {
        let header = header(parts_of(layout, shard_idx));
        let file = dir.create(&layout.shard_name(shard_idx))?;
        file.write_at(0, &header)?;
        Ok(Self { file, data_offset: header.len() as u64 })
    }

    /// Writes bytes of a part, `at` bytes after its start.
    pub(crate) fn write(&self, part: &Part, at: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let end = at + bytes.len() as u64;
        assert!(end <= part.bytes, "{}: more bytes than planned", part.name);
        self.file.write_at(self.data_offset + part.offset + at, bytes)
    }

    /// Makes the shard durable.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        self.file.finish()
    }
}

fn parts_of(layout: &Layout, shard_idx: usize) -> impl Iterator<Item = &Part> {
    let parameters = layout.parameters.iter();
    let of_shard = parameters.filter(move |parameter| parameter.shard_idx == shard_idx);
    of_shard.flat_map(|parameter| &parameter.parts)
}

/// A safetensors header with its length, padded so that the data after it is aligned.
fn header<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "mlx"}));
    for part in parts {
        let entry = json!({
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": [part.offset, part.offset + part.bytes],
        });
        entries.insert(part.name.clone(), entry);
    }
    let json = Value::Object(entries).to_string();
    let len = (LEN_BYTES + json.len()).next_multiple_of(DATA_ALIGN) - LEN_BYTES;
    let mut header = (len as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(LEN_BYTES + len, b' ');
    header
}

/// `model.safetensors.index.json`: which shard holds which tensor.
pub(crate) fn index(layout: &Layout) -> Value {
    let weight_map: Map<String, Value> = (0..layout.n_shards)
        .flat_map(|shard_idx| {
            let name = layout.shard_name(shard_idx);
            parts_of(layout, shard_idx).map(move |part| (part.name.clone(), json!(name)))
        })
        .collect();
    json!({
        "metadata": {"total_size": layout.total_bytes()},
        "weight_map": weight_map,
    })
}
