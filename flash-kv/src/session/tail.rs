//! What of a saved state is not sealed: of each layer the last keys and values, as the window held them, then the states of
//! layers that have none; one after the other.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TailPart;
use super::manifest::Manifest;
use crate::disk::{Disk, Replacement};
use crate::file::read_full;
use crate::{Geometry, KvError};

/// The last tokens of a saved context, and its states.
#[derive(Debug)]
#[non_exhaustive]
pub struct SavedTail {
    file: File,
    path: PathBuf,
    first_token: usize,
    n_tokens: usize,
    parts: Parts,
    checksums: Vec<u32>,
}

/// How long the parts of a tail are.
#[derive(Debug)]
pub(super) struct Parts {
    n_layers: usize,
    layer_bytes: usize,
    state_bytes: Vec<usize>,
}

impl Parts {
    pub(super) fn new(geometry: &Geometry, n_tokens: usize, state_bytes: &[usize]) -> Self {
        let row_bytes = geometry.window_layout().row_bytes();
        let layer_bytes = geometry.halves.count() * geometry.kv_heads as usize * n_tokens * row_bytes;
        Self { n_layers: geometry.n_layers as usize, layer_bytes, state_bytes: state_bytes.to_vec() }
    }

    fn all(&self) -> impl Iterator<Item = TailPart> + use<> {
        let layers = (0..self.n_layers as u32).map(TailPart::Layer);
        layers.chain((0..self.state_bytes.len() as u32).map(TailPart::State))
    }

    /// Its place among all, and the bytes that it takes of the file.
    fn place(&self, part: TailPart) -> (usize, Range<usize>) {
        let Self { n_layers, layer_bytes, ref state_bytes } = *self;
        match part {
            TailPart::Layer(layer_idx) => {
                let idx = layer_idx as usize;
                assert!(idx < n_layers, "layer {idx} of {n_layers}");
                (idx, idx * layer_bytes..(idx + 1) * layer_bytes)
            }
            TailPart::State(state_idx) => {
                let idx = state_idx as usize;
                let start = n_layers * layer_bytes + state_bytes[..idx].iter().sum::<usize>();
                (n_layers + idx, start..start + state_bytes[idx])
            }
        }
    }
}

impl SavedTail {
    /// Opens a tail and checks all of it.
    pub(super) fn open(path: PathBuf, manifest: &Manifest, geometry: &Geometry) -> Result<Self, KvError> {
        let file = File::open(&path).map_err(KvError::io(&path, "open"))?;
        let n_tokens = manifest.token_ids.len() - manifest.first_token;
        let tail = Self {
            file,
            path,
            first_token: manifest.first_token,
            n_tokens,
            parts: Parts::new(geometry, n_tokens, &manifest.state_bytes),
            checksums: manifest.tail_crc32c.clone(),
        };
        let mut bytes = Vec::new();
        for part in tail.parts.all() {
            bytes.resize(tail.parts.place(part).1.len(), 0);
            tail.read(part, &mut bytes)?;
        }
        Ok(tail)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Position of its first token in the context.
    pub fn first_token(&self) -> usize {
        self.first_token
    }

    /// How many tokens it holds.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes of the tokens of one layer.
    pub fn layer_bytes(&self) -> usize {
        self.parts.layer_bytes
    }

    /// Bytes of each state.
    pub fn state_bytes(&self) -> &[usize] {
        &self.parts.state_bytes
    }

    /// Whether the states are as long as they have to be.
    ///
    /// # Errors
    /// [`KvError::OtherStates`] if they are others.
    pub fn expect_states(&self, wanted_bytes: &[usize]) -> Result<(), KvError> {
        let got_bytes = self.state_bytes();
        if got_bytes == wanted_bytes {
            return Ok(());
        }
        let [wanted_bytes, got_bytes] = [wanted_bytes, got_bytes].map(<[usize]>::to_vec);
        Err(KvError::OtherStates { path: self.path.clone(), wanted_bytes, got_bytes })
    }

    /// Reads a part as it was given to [`Session::save`](crate::Session::save).
    ///
    /// # Errors
    /// [`KvError::TailDamaged`]; [`KvError::Io`].
    ///
    /// # Panics
    /// If there is no such part, or `bytes` is not as long as it is.
    pub fn read(&self, part: TailPart, bytes: &mut [u8]) -> Result<(), KvError> {
        let (part_idx, range) = self.parts.place(part);
        assert_eq!(bytes.len(), range.len(), "length of {part:?}");
        let wanted = self.checksums[part_idx];
        let len =
            read_full(&self.file, range.start as u64, bytes).map_err(KvError::io(&self.path, "read"))?;
        let got = crc32c::crc32c(&bytes[..len]);
        match len == bytes.len() && got == wanted {
            true => Ok(()),
            false => Err(KvError::TailDamaged { path: self.path.clone(), part, wanted, got }),
        }
    }
}

/// Writes a tail, and returns a checksum for each of its parts.
pub(super) fn write(
    disk: &Arc<dyn Disk>,
    path: PathBuf,
    parts: &Parts,
    mut fill: impl FnMut(TailPart, &mut [u8]),
) -> Result<Vec<u32>, KvError> {
    let mut file = Replacement::new(disk, path)?;
    let (mut bytes, mut checksums) = (Vec::new(), Vec::new());
    for part in parts.all() {
        bytes.clear();
        bytes.resize(parts.place(part).1.len(), 0);
        fill(part, &mut bytes);
        file.write(&bytes)?;
        checksums.push(crc32c::crc32c(&bytes));
    }
    file.finish()?;
    Ok(checksums)
}
