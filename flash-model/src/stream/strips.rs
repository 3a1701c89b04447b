//! Repacking of resident codes into interleaved rows, [strips](flash_kernels::Matrix::in_strips), which kernels read in
//! order.
//!
//! An array of strips has one row per strip, which distinguishes it from an array of rows.

use flash_io::{Dtype, Slot};
use flash_kernels::Strips;

use crate::checkpoint::Checkpoint;
use crate::compute::Backend;
use crate::mlx::View;
use crate::stream::bundle::Part;

/// Returns the indices of a bundle's `parts` that `backend` reads faster in strips, and the strips.
pub(crate) fn preferred(backend: &Backend, checkpoint: &Checkpoint, parts: &[Part]) -> Vec<(usize, Strips)> {
    let preferred = |(idx, part): (usize, &Part)| {
        let format = part.name.strip_suffix(".weight").and_then(|path| checkpoint.known_format(path))?;
        let strips = backend.strips(format)?;
        let is_codes = part.dtype == Dtype::U32 && part.shape.len() == 2;
        let is_whole = (part.shape[0] as usize).is_multiple_of(strips.rows());
        (is_codes && is_whole).then_some((idx, strips))
    };
    parts.iter().enumerate().filter_map(preferred).collect()
}

/// Repacks the tensor of this `view` of the slot into strips.
pub(crate) fn rearrange(slot: &mut Slot, view: &mut View, strips: Strips) {
    let codes = &mut slot.as_mut_slice()[view.offset..][..view.bytes()];
    let row_bytes = codes.len() / view.shape[0] as usize;
    strips.interleave(codes, row_bytes);
    let strip_rows = strips.rows() as i32;
    view.shape = vec![view.shape[0] / strip_rows, view.shape[1] * strip_rows];
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use flash_io::{Budget, SlotPool};
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

        let (scales, biases) = (numbers(&[N, K / 64]), numbers(&[N, K / 64]));
        let quantized = Some(Quantized { format: FORMAT, scales: &scales, biases: Some(&biases) });
        let product = |weight: &Array, n_tokens: i32| {
            let matrix = Matrix { weight, quantized, bias: None, is_wide: false };
            let y = backend.product(&numbers(&[1, n_tokens, K]).into(), matrix).unwrap().array().unwrap();
            y.eval().unwrap();
            assert_eq!(y.shape(), [1, n_tokens, N]);
            y.as_slice::<f32>().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let rows = codes(&bytes[codes_at.clone()], &rows.shape);
        let strips = codes(&slot.as_mut_slice()[codes_at], &view.shape);
        for n_tokens in [1, 3, 40] {
            assert_eq!(product(&strips, n_tokens), product(&rows, n_tokens));
        }
    }
}
