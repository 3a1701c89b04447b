//! Repacking of resident codes into interleaved rows, [strips](flash_kernels::Matrix::in_strips), which kernels read in
//! order.
//!
//! An array of strips has one row per strip, which distinguishes it from an array of rows.

use std::rc::Rc;

use flash_io::{Dtype, Slot};
use flash_kernels::Strips;

use crate::checkpoint::Checkpoint;
use crate::compute::Backend;
use crate::compute::arrays::float_type;
use crate::mlx::View;
use crate::stream::bundle::Part;

/// Returns the indices of a bundle's `parts` that `backend` reads faster in strips, and the strips: codes, and their
/// scales and biases. `keys` are the names of the parts in their layer, since several parts may
/// be rows of one tensor.
pub(crate) fn preferred(
    backend: &Backend,
    checkpoint: &Checkpoint,
    keys: &[Rc<str>],
    parts: &[Part],
) -> Vec<(usize, Strips)> {
    let mut preferred = Vec::new();
    for (key, part) in keys.iter().zip(parts) {
        let Some(matrix) = key.strip_suffix("weight") else { continue };
        let Some(strips) = strips_of(backend, checkpoint, part) else { continue };
        let is_in_strips =
            |&idx: &usize| matches!(keys[idx].strip_prefix(matrix), Some("weight" | "scales" | "biases"));
        let found: Vec<usize> = (0..parts.len()).filter(is_in_strips).collect();
        if found.iter().all(|&idx| parts[idx].shape.len() == 2 && parts[idx].shape[0] == part.shape[0]) {
            preferred.extend(found.into_iter().map(|idx| (idx, strips)));
        }
    }
    preferred
}

/// Returns the strips for `part`, if it is the codes of a matrix of whole strips.
fn strips_of(backend: &Backend, checkpoint: &Checkpoint, part: &Part) -> Option<Strips> {
    let format = checkpoint.known_format(part.name.strip_suffix(".weight")?)?;
    let strips = backend.strips(format)?;
    let is_codes = part.dtype == Dtype::U32 && part.shape.len() == 2;
    (is_codes && (part.shape[0] as usize).is_multiple_of(strips.rows())).then_some(strips)
}

/// Repacks the tensor of this `view` of the slot, codes or floating-point numbers, into strips.
pub(crate) fn rearrange(slot: &mut Slot, view: &mut View, strips: Strips) {
    let bytes = &mut slot.as_mut_slice()[view.offset..][..view.bytes()];
    let row_bytes = bytes.len() / view.shape[0] as usize;
    match float_type(view.dtype) {
        Some(float) => strips.interleave_floats(float, bytes, row_bytes),
        None => strips.interleave(bytes, row_bytes),
    }
    let strip_rows = strips.rows() as i32;
    view.shape = vec![view.shape[0] / strip_rows, view.shape[1] * strip_rows];
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use flash_io::{Budget, SlotPool};
    use flash_kernels::FloatType;
    use mlx_rs::{Array, Dtype as MlxDtype};

    use super::*;
    use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
    use crate::compute::{Compute, Matrix, Quantized};

    const FORMAT: QuantizedFormat = QuantizedFormat { group_size: 64, bits: 4, mode: QuantizedMode::Affine };
    /// Rows have 512 B.
    const N: i32 = 32;
    const K: i32 = 1024;

    fn numbers(shape: &[i32]) -> Array {
        let len = shape.iter().product::<i32>() as usize;
        let values: Vec<f32> = (0..len).map(|idx| (idx * 29 % 31) as f32 / 31.0 - 0.5).collect();
        Array::from_slice(&values, shape)
    }

    fn codes(bytes: &[u8], shape: &[i32]) -> Array {
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        Array::from_slice(&words, shape)
    }

    /// Returns numbers of float32 in strips.
    fn interleaved(rows: &Array, strips: Strips) -> Array {
        let (shape, mut values) = (rows.shape(), rows.as_slice::<f32>().to_vec());
        let row_bytes = size_of::<f32>() * shape[1] as usize;
        strips.interleave_floats(FloatType::F32, bytemuck::cast_slice_mut(&mut values), row_bytes);
        let strip_rows = strips.rows() as i32;
        Array::from_slice(&values, &[shape[0] / strip_rows, shape[1] * strip_rows])
    }

    #[test]
    fn rearranged_codes_give_the_same_bits_and_nothing_else_moves() {
        let backend = Backend::new(Compute::Native.into()).unwrap();
        // Without strips for this instruction set, kernels read rows only.
        let Some(strips) = backend.strips(FORMAT) else { return };
        let pool = SlotPool::new(&Budget::new(1 << 20), 32 << 10, 1).unwrap();
        let mut slot = pool.try_acquire().unwrap();
        let bytes: Vec<u8> = (0..slot.len()).map(|idx| (idx * 31 % 251) as u8).collect();
        slot.as_mut_slice().copy_from_slice(&bytes);
        let mut view = View { offset: 6, shape: vec![N, FORMAT.row_words(K)], dtype: MlxDtype::Uint32 };
        let (codes_at, rows) = (view.offset..view.offset + view.bytes(), view.clone());
        rearrange(&mut slot, &mut view, strips);
        let strip_rows = strips.rows() as i32;
        assert_eq!(view.shape, [N / strip_rows, strip_rows * FORMAT.row_words(K)]);
        assert_eq!(slot.as_mut_slice()[..codes_at.start], bytes[..codes_at.start]);
        assert_eq!(slot.as_mut_slice()[codes_at.end..], bytes[codes_at.end..]);
        assert_ne!(slot.as_mut_slice()[codes_at.clone()], bytes[codes_at.clone()]);

        let in_rows = numbers(&[N, K / 64]);
        let in_strips = interleaved(&in_rows, strips);
        let product = |weight: &Array, floats: &Array, n_tokens: i32| {
            let quantized = Some(Quantized { format: FORMAT, scales: floats, biases: Some(floats) });
            let matrix = Matrix { weight, quantized, bias: None, is_wide: false };
            let y = backend.product(&numbers(&[1, n_tokens, K]).into(), matrix).unwrap().array().unwrap();
            y.eval().unwrap();
            assert_eq!(y.shape(), [1, n_tokens, N]);
            y.as_slice::<f32>().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let rows = codes(&bytes[codes_at.clone()], &rows.shape);
        let strips = codes(&slot.as_mut_slice()[codes_at], &view.shape);
        for n_tokens in [1, 3, 40] {
            assert_eq!(product(&strips, &in_strips, n_tokens), product(&rows, &in_rows, n_tokens));
        }
    }
}
