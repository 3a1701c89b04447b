//! The tail file of a saved state: the unsealed keys and values of each layer in the window's format, then the states
//! of layers that have none, back to back.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TailPart;
use super::manifest::Manifest;
use crate::disk::{AtomicFile, Disk};
use crate::file::read_full;
use crate::{Geometry, KvError};

/// The unsealed tokens and the states of a saved context.
#[derive(Debug)]
#[non_exhaustive]
pub struct SavedTail {
    file: File,
    path: PathBuf,
    first_token: usize,
    n_tokens: usize,
    layout: TailLayout,
    checksums: Vec<u32>,
}

/// Layout of a tail file.
#[derive(Debug)]
pub(super) struct TailLayout {
    n_layers: usize,
    layer_bytes: usize,
    state_bytes: Vec<usize>,
}

impl TailLayout {
    pub(super) fn new(geometry: &Geometry, n_tokens: usize, state_bytes: &[usize]) -> Self {
        let row_bytes = geometry.window_layout().row_bytes();
        let layer_bytes = geometry.parts.count() * geometry.kv_heads as usize * n_tokens * row_bytes;
        Self { n_layers: geometry.n_layers as usize, layer_bytes, state_bytes: state_bytes.to_vec() }
    }

    fn all(&self) -> impl Iterator<Item = TailPart> + use<> {
        let layers = (0..self.n_layers as u32).map(TailPart::Layer);
        layers.chain((0..self.state_bytes.len() as u32).map(TailPart::State))
    }

    /// Returns the index of a part and its byte range in the file.
    fn locate(&self, part: TailPart) -> (usize, Range<usize>) {
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
    /// Opens a tail and verifies all its parts.
    pub(super) fn open(path: PathBuf, manifest: &Manifest, geometry: &Geometry) -> Result<Self, KvError> {
        let file = File::open(&path).map_err(KvError::io(&path, "open"))?;
        let n_tokens = manifest.token_ids.len() - manifest.first_token;
        let tail = Self {
            file,
            path,
            first_token: manifest.first_token,
            n_tokens,
            layout: TailLayout::new(geometry, n_tokens, &manifest.state_bytes),
            checksums: manifest.tail_crc32c.clone(),
        };
        let mut bytes = Vec::new();
        for part in tail.layout.all() {
            bytes.resize(tail.layout.locate(part).1.len(), 0);
            tail.read(part, &mut bytes)?;
        }
        Ok(tail)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the position of its first token in the context.
    pub fn first_token(&self) -> usize {
        self.first_token
    }

    /// Returns the number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Returns the bytes of one layer's tokens.
    pub fn layer_bytes(&self) -> usize {
        self.layout.layer_bytes
    }

    /// Returns the size in bytes of each state.
    pub fn state_bytes(&self) -> &[usize] {
        &self.layout.state_bytes
    }

    /// Checks that the states have the sizes that the model expects.
    ///
    /// # Errors
    /// [`KvError::StatesMismatch`] if they differ.
    pub fn expect_states(&self, wanted_bytes: &[usize]) -> Result<(), KvError> {
        let got_bytes = self.state_bytes();
        if got_bytes == wanted_bytes {
            return Ok(());
        }
        let [wanted_bytes, got_bytes] = [wanted_bytes, got_bytes].map(<[usize]>::to_vec);
        Err(KvError::StatesMismatch { path: self.path.clone(), wanted_bytes, got_bytes })
    }

    /// Reads and verifies a part, as written by [`Session::save`](crate::Session::save).
    ///
    /// # Errors
    /// [`KvError::TailDamaged`]; [`KvError::Io`].
    ///
    /// # Panics
    /// If the part does not exist, or `bytes` does not have its length.
    pub fn read(&self, part: TailPart, bytes: &mut [u8]) -> Result<(), KvError> {
        let (part_idx, range) = self.layout.locate(part);
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

/// Writes a tail and returns the checksum of each part.
pub(super) fn write(
    disk: &Arc<dyn Disk>,
    path: PathBuf,
    layout: &TailLayout,
    mut fill: impl FnMut(TailPart, &mut [u8]),
) -> Result<Vec<u32>, KvError> {
    let mut file = AtomicFile::new(disk, path)?;
    let (mut bytes, mut checksums) = (Vec::new(), Vec::new());
    for part in layout.all() {
        bytes.clear();
        bytes.resize(layout.locate(part).1.len(), 0);
        fill(part, &mut bytes);
        file.write(&bytes)?;
        checksums.push(crc32c::crc32c(&bytes));
    }
    file.finish()?;
    Ok(checksums)
}
