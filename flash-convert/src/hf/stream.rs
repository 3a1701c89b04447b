//! One parameter from a checkpoint to MLX, a chunk of values at a time.

use flash_io::Catalog;
use flash_kernels::{Affine, FloatType};

use super::checkpoint;
use super::fp8::Scales;
use super::gather::gather;
use super::parameter::{Content, Piece, Stored};
use super::plan::Planned;
use crate::error::ConvertError;
use crate::scratch::{Beyond, Scratch, Sink};
use crate::target::float_name;

/// Writes a parameter into `sink`: quantised, rounded to its type, or as it is.
pub(super) fn write(
    scratch: &mut Scratch,
    catalog: &Catalog,
    planned: &Planned<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    match &planned.parameter.content {
        Content::Floats { float, pieces } => {
            pieces.iter().try_for_each(|piece| floats(scratch, catalog, piece, *float, planned.affine, sink))
        }
        Content::Mxfp4(parts) => parts
            .iter()
            .enumerate()
            .try_for_each(|(part_idx, piece)| copy(scratch, catalog, piece, part_idx, sink)),
    }
}

/// Bytes as they are.
fn copy(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    part_idx: usize,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        sink(part_idx, &scratch.stored[..len * piece.stored.size_bytes()])?;
        first += len as u64;
    }
    Ok(())
}

/// Numbers, rounded to `float` and then quantised if they are to be.
fn floats(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    float: FloatType,
    affine: Option<Affine>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    if affine.is_none() && matches!(piece.stored, Stored::Float(stored) if stored == float) {
        return copy(scratch, catalog, piece, 0, sink);
    }
    let scales = Scales::read(catalog, piece)?;
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        let stored = &scratch.stored[..len * piece.stored.size_bytes()];
        let values = &mut scratch.values[..len];
        match (&piece.stored, &scales) {
            (Stored::Float(stored_as), _) => {
                stored_as.decode_into(stored, values).expect("a slice of the values' length");
            }
            (Stored::Fp8 { .. }, Some(scales)) => scales.decode(piece.rows, first, stored, values),
            (Stored::Fp8 { .. } | Stored::Bytes, _) => unreachable!("bytes are copied, and scales were read"),
        }
        let beyond = |beyond: Beyond| ConvertError::NotFinite {
            path: checkpoint::path_of(catalog, &piece.tensor),
            tensor: piece.tensor.name.clone(),
            value_idx: first + beyond.value_idx as u64,
            float: float_name(beyond.float),
        };
        scratch.round(len, float).map_err(beyond)?;
        match affine {
            Some(affine) => {
                scratch.quantize(len, affine, float).map_err(beyond)?;
                scratch.put_affine(len, affine, float, sink)?;
            }
            None => {
                let bytes = scratch.encode(len, float);
                sink(0, &scratch.out[..bytes])?;
            }
        }
        first += len as u64;
    }
    Ok(())
}
