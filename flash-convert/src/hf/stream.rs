//! One parameter from a checkpoint to MLX, a chunk of values at a time.

use flash_io::Catalog;
use flash_kernels::{Affine, FloatType};

use super::fp8::Scales;
use super::gather::gather;
use super::parameter::{Content, Piece, Stored};
use super::{int4, tensors};
use crate::error::ConvertError;
use crate::scratch::{Beyond, Scratch, Sink};
use crate::target::float_name;

/// Writes a parameter into `sink`: quantised, rounded to its type, or as it is.
pub(super) fn write(
    scratch: &mut Scratch,
    catalog: &Catalog,
    content: &Content,
    affine: Option<Affine>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    match content {
        Content::Floats { float, pieces } => {
            pieces.iter().try_for_each(|piece| floats(scratch, catalog, piece, *float, affine, sink))
        }
        Content::Mxfp4(parts) => parts
            .iter()
            .enumerate()
            .try_for_each(|(part_idx, piece)| copy(scratch, catalog, piece, part_idx, sink)),
        Content::Int4 { float, pieces } => pieces.iter().try_for_each(|piece| {
            copy(scratch, catalog, piece, 0, sink)?;
            let Stored::Int4 { scales } = &piece.stored else { unreachable!("codes with their scales") };
            let scales = Piece::whole(scales, Stored::Float(tensors::float(catalog, scales)?));
            multiplied(scratch, catalog, &scales, 1.0, *float, 1, sink)?;
            multiplied(scratch, catalog, &scales, int4::BIAS, *float, 2, sink)
        }),
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
        decode(scratch, piece, scales.as_ref(), first, len);
        let beyond = |beyond| not_finite(catalog, piece, first, &beyond);
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

/// Numbers times one that leaves them exact, rounded to `float`.
fn multiplied(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    factor: f32,
    float: FloatType,
    part_idx: usize,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        decode(scratch, piece, None, first, len);
        scratch.values[..len].iter_mut().for_each(|value| *value *= factor);
        scratch.round(len, float).map_err(|beyond| not_finite(catalog, piece, first, &beyond))?;
        let bytes = scratch.encode(len, float);
        sink(part_idx, &scratch.out[..bytes])?;
        first += len as u64;
    }
    Ok(())
}

/// What `len` gathered numbers from `first` on are.
fn decode(scratch: &mut Scratch, piece: &Piece, scales: Option<&Scales>, first: u64, len: usize) {
    let stored = &scratch.stored[..len * piece.stored.size_bytes()];
    let values = &mut scratch.values[..len];
    match (&piece.stored, scales) {
        (Stored::Float(float), _) => {
            float.decode_into(stored, values).expect("a slice of the values' length");
        }
        (Stored::AroundZero(float), _) => {
            float.decode_into(stored, values).expect("a slice of the values' length");
            values.iter_mut().for_each(|value| *value = float.round(*value + 1.0));
        }
        (Stored::Fp8 { .. }, Some(scales)) => scales.decode(piece.rows, first, stored, values),
        (Stored::Fp8 { .. } | Stored::Int4 { .. } | Stored::Bytes, _) => {
            unreachable!("bytes are copied, and scales were read")
        }
    }
}

fn not_finite(catalog: &Catalog, piece: &Piece, first: u64, beyond: &Beyond) -> ConvertError {
    ConvertError::NotFinite {
        path: tensors::path_of(catalog, &piece.tensor),
        tensor: piece.tensor.name.clone(),
        value_idx: first + beyond.value_idx as u64,
        float: float_name(beyond.float),
    }
}
