//! Reads tensors and companion files of a model directory.

use std::fs;
use std::io;
use std::path::Path;

use flash_io::{IoError, LfsPointer, Shard, Tensor};

use crate::error::ConvertError;
use crate::writer::OutDir;

/// Reads bytes of a tensor from `offset` in its file.
pub(crate) fn read(
    shard: &Shard,
    tensor: &Tensor,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), ConvertError> {
    let wanted_bytes = bytes.len();
    let failed = |error| ConvertError::Read {
        path: shard.path.clone(),
        tensor: tensor.name.clone(),
        offset,
        wanted_bytes: wanted_bytes as u64,
        error,
    };
    let mut done_bytes = 0;
    while done_bytes < wanted_bytes {
        match shard.storage.read_at(offset + done_bytes as u64, &mut bytes[done_bytes..]) {
            Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(n_bytes) => done_bytes += n_bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Copies a file into the output directory.
pub(crate) fn copy(from: &Path, name: &str, out: &OutDir) -> Result<(), ConvertError> {
    let bytes = fs::read(from).map_err(|error| ConvertError::Open { path: from.to_owned(), error })?;
    reject_lfs_pointer(from, &bytes)?;
    out.write(name, &bytes)
}

/// Returns an error if `start` is the beginning of a Git LFS pointer.
pub(crate) fn reject_lfs_pointer(path: &Path, start: &[u8]) -> Result<(), ConvertError> {
    match LfsPointer::detect(start) {
        Some(pointer) => {
            Err(ConvertError::Checkpoint { error: IoError::LfsPointer { path: path.to_owned(), pointer } })
        }
        None => Ok(()),
    }
}
