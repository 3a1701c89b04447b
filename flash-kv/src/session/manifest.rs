//! `session.json`, the manifest of a saved state.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SessionState;
use crate::{FORMAT_VERSION, Identity, KvError};

/// The manifest. Format names are informational: the identity decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) version: u32,
    /// Checksum of this object as this crate writes it, with this field 0.
    crc32c: u32,
    identity: String,
    page_format: String,
    window_format: String,
    window_tokens: u32,
    /// Number of the save, which names the tail file.
    pub(super) save: u64,
    pub(super) first_token: usize,
    /// Whether the cache has the same bits as in an uninterrupted run.
    pub(super) is_exact: bool,
    /// Size in bytes of each state in the tail.
    pub(super) state_bytes: Vec<usize>,
    /// Checksum of each part of the tail: layers, then states.
    pub(super) tail_crc32c: Vec<u32>,
    pub(super) token_ids: Vec<u32>,
}

/// The field common to all versions of a manifest.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Manifest {
    pub(super) fn new(
        identity: &Identity,
        save: u64,
        state: &SessionState<'_>,
        tail_crc32c: Vec<u32>,
    ) -> Self {
        let geometry = &identity.geometry;
        let SessionState { token_ids, first_token, is_exact, state_bytes } = *state;
        let mut manifest = Self {
            version: FORMAT_VERSION,
            crc32c: 0,
            identity: identity.digest().to_string(),
            page_format: geometry.format.to_string(),
            window_format: geometry.window_format.to_string(),
            window_tokens: geometry.window_tokens,
            save,
            first_token,
            is_exact,
            state_bytes: state_bytes.to_vec(),
            tail_crc32c,
            token_ids: token_ids.to_vec(),
        };
        manifest.crc32c = manifest.checksum();
        manifest
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings are JSON")
    }

    /// Returns the checksum of the canonical encoding, which does not depend on the formatting of the file.
    fn checksum(&self) -> u32 {
        crc32c::crc32c(&Self { crc32c: 0, ..self.clone() }.encode())
    }

    /// Reads a manifest; `None` if the file does not exist.
    pub(super) fn read(path: &Path, identity: &Identity) -> Result<Option<Self>, KvError> {
        let json = match fs::read(path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(KvError::io(path, "read")(error)),
        };
        let syntax = |error| KvError::SessionSyntax { path: path.to_owned(), error };
        let Versioned { version } = serde_json::from_slice(&json).map_err(syntax)?;
        if version != FORMAT_VERSION {
            return Err(KvError::VersionMismatch { path: path.to_owned(), got: version });
        }
        let manifest: Self = serde_json::from_slice(&json).map_err(syntax)?;
        let (wanted, got) = (manifest.crc32c, manifest.checksum());
        // The page file's header has been checked before, so a differing identity here is corruption.
        let whole = wanted == got
            && manifest.identity == identity.digest().to_string()
            && manifest.first_token <= manifest.token_ids.len()
            && manifest.tail_crc32c.len() == identity.geometry.n_layers as usize + manifest.state_bytes.len();
        match whole {
            true => Ok(Some(manifest)),
            false => Err(KvError::SessionDamaged { path: path.to_owned(), wanted, got }),
        }
    }
}
