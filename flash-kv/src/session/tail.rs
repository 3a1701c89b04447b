//! The tokens of a session that are not sealed, as the window held them: keys and values of each layer, one after the other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::Manifest;
use crate::disk::{Disk, Replacement};
use crate::file::read_full;
use crate::{Geometry, KvError};

/// The last tokens of a saved state.
#[derive(Debug)]
pub struct SavedTail {
    file: File,
    path: PathBuf,
    first_token: usize,
    n_tokens: usize,
    layer_bytes: usize,
    checksums: Vec<u32>,
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
            layer_bytes: layer_bytes(geometry, n_tokens),
            checksums: manifest.tail_crc32c.clone(),
        };
        let mut layer = vec![0; tail.layer_bytes];
        for layer_idx in 0..geometry.n_layers {
            tail.read_layer(layer_idx, &mut layer)?;
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

    /// Bytes of one layer.
    pub fn layer_bytes(&self) -> usize {
        self.layer_bytes
    }

    /// Reads a layer as it was given to [`Session::save`](crate::Session::save): keys and then values (if those are kept), each row-major
    /// `[kv_heads, n_tokens, head_dim]`.
    ///
    /// # Errors
    /// [`KvError::TailDamaged`]; [`KvError::Io`].
    ///
    /// # Panics
    /// If there is no such layer, or `rows` is not [`layer_bytes`](Self::layer_bytes) long.
    pub fn read_layer(&self, layer_idx: u32, rows: &mut [u8]) -> Result<(), KvError> {
        assert_eq!(rows.len(), self.layer_bytes, "length of a layer");
        let wanted = self.checksums[layer_idx as usize];
        let offset = u64::from(layer_idx) * self.layer_bytes as u64;
        let len = read_full(&self.file, offset, rows).map_err(KvError::io(&self.path, "read"))?;
        let got = crc32c::crc32c(&rows[..len]);
        match len == rows.len() && got == wanted {
            true => Ok(()),
            false => Err(KvError::TailDamaged { path: self.path.clone(), layer_idx, wanted, got }),
        }
    }
}

/// Writes a tail, and returns a checksum for each layer.
pub(super) fn write(
    disk: &Arc<dyn Disk>,
    path: PathBuf,
    geometry: &Geometry,
    n_tokens: usize,
    mut fill: impl FnMut(u32, &mut [u8]),
) -> Result<Vec<u32>, KvError> {
    let mut file = Replacement::new(disk, path)?;
    let mut layer = vec![0; layer_bytes(geometry, n_tokens)];
    let mut checksums = Vec::new();
    for layer_idx in 0..geometry.n_layers {
        layer.fill(0);
        fill(layer_idx, &mut layer);
        file.write(&layer)?;
        checksums.push(crc32c::crc32c(&layer));
    }
    file.finish()?;
    Ok(checksums)
}

/// Bytes of the keys and values of a layer.
fn layer_bytes(geometry: &Geometry, n_tokens: usize) -> usize {
    let rows = geometry.halves.count() * geometry.kv_heads as usize * n_tokens;
    rows * geometry.window_layout().row_bytes()
}
