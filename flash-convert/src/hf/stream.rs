//! Converts the parameters of a checkpoint, a chunk of values at a time.

use flash_io::Catalog;
use flash_kernels::{Affine, FloatType};

use super::fp8::Scales;
use super::gather::gather;
use super::parameter::{Content, Encoding, Piece};
use super::{int4, tensors};
use crate::error::ConvertError;
use crate::scratch::{OutOfRange, Scratch, Sink};
use crate::target::float_name;

/// Writes a parameter to `sink`: quantized if `affine` is given, or else rounded or copied.
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
            .try_for_each(|(tensor_idx, piece)| copy(scratch, catalog, piece, tensor_idx, sink)),
        Content::Int4 { float, pieces } => pieces.iter().try_for_each(|piece| {
            copy(scratch, catalog, piece, 0, sink)?;
            let Encoding::Int4 { scales } = &piece.encoding else { unreachable!("codes with their scales") };
            let scales = Piece::whole(scales, Encoding::Float(tensors::float_type(catalog, scales)?));
            multiplied(scratch, catalog, &scales, 1.0, *float, 1, sink)?;
            multiplied(scratch, catalog, &scales, int4::BIAS, *float, 2, sink)
        }),
    }
}

/// Copies the stored bytes of a piece.
fn copy(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    tensor_idx: usize,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        sink(tensor_idx, &scratch.stored[..len * piece.encoding.size_bytes()])?;
        first += len as u64;
    }
    Ok(())
}

/// Writes values rounded to `float`, and then quantized if `affine` is given.
fn floats(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    float: FloatType,
    affine: Option<Affine>,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    if affine.is_none() && matches!(piece.encoding, Encoding::Float(stored) if stored == float) {
        return copy(scratch, catalog, piece, 0, sink);
    }
    let scales = Scales::read(catalog, piece)?;
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        decode(scratch, piece, scales.as_ref(), first, len);
        let out_of_range = |error| not_finite(catalog, piece, first, &error);
        scratch.round(len, float).map_err(out_of_range)?;
        match affine {
            Some(affine) => {
                scratch.quantize(len, affine, float).map_err(out_of_range)?;
                scratch.write_affine(len, affine, float, sink)?;
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

/// Writes values multiplied by `factor`, whose products must be exact, and rounded to `float`.
fn multiplied(
    scratch: &mut Scratch,
    catalog: &Catalog,
    piece: &Piece,
    factor: f32,
    float: FloatType,
    tensor_idx: usize,
    sink: &mut Sink<'_>,
) -> Result<(), ConvertError> {
    let mut first = 0;
    while first < piece.n_values() {
        let len = gather(scratch, catalog, piece, first)?;
        decode(scratch, piece, None, first, len);
        scratch.values[..len].iter_mut().for_each(|value| *value *= factor);
        scratch.round(len, float).map_err(|error| not_finite(catalog, piece, first, &error))?;
        let bytes = scratch.encode(len, float);
        sink(tensor_idx, &scratch.out[..bytes])?;
        first += len as u64;
    }
    Ok(())
}

/// Decodes `len` gathered values, which start at value `first` of the piece, into `scratch.values`.
fn decode(scratch: &mut Scratch, piece: &Piece, scales: Option<&Scales>, first: u64, len: usize) {
    let stored = &scratch.stored[..len * piece.encoding.size_bytes()];
    let values = &mut scratch.values[..len];
    match (&piece.encoding, scales) {
        (Encoding::Float(float), _) => {
            float.decode_into(stored, values).expect("a slice of the values' length");
        }
        (Encoding::ZeroCentered(float), _) => {
            float.decode_into(stored, values).expect("a slice of the values' length");
            values.iter_mut().for_each(|value| *value = float.round(*value + 1.0));
        }
        (Encoding::Fp8 { .. }, Some(scales)) => scales.decode(piece.rows, first, stored, values),
        (Encoding::Fp8 { .. } | Encoding::Int4 { .. } | Encoding::Bytes, _) => {
            unreachable!("bytes are copied, and scales were read")
        }
    }
}

fn not_finite(catalog: &Catalog, piece: &Piece, first: u64, error: &OutOfRange) -> ConvertError {
    ConvertError::NotFinite {
        path: tensors::shard_path(catalog, &piece.tensor),
        tensor: piece.tensor.name.clone(),
        value_idx: first + error.value_idx as u64,
        float: float_name(error.float),
    }
}
