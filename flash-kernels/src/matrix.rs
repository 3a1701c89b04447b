use crate::error::{KernelError, check_len};
use crate::float::FloatType;
use crate::tile::CodeBits;

/// Stored floating-point numbers: little-endian bytes at any address.
#[derive(Debug, Clone, Copy)]
pub struct Floats<'a> {
    /// How each number is stored.
    pub float: FloatType,
    /// The numbers, one after the other.
    pub bytes: &'a [u8],
}

/// A view of a stored weight matrix `[n, k]`, row-major: the `W` of `y = x · Wᵀ`.
///
/// Every slice is little-endian bytes and may start at any address. Its lengths were checked when the view was
/// made, so that a kernel need not.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    n: usize,
    k: usize,
    pub(crate) storage: Storage<'a>,
}

/// How the numbers of a [`Matrix`] are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage<'a> {
    Affine(AffineStorage<'a>),
    Float(Floats<'a>),
}

/// Codes with a scale and a bias for each `group` of them: `value = scale · code + bias`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AffineStorage<'a> {
    pub(crate) bits: u32,
    pub(crate) group: usize,
    pub(crate) codes: &'a [u8],
    /// The type of both scales and biases.
    pub(crate) float: FloatType,
    pub(crate) scales: &'a [u8],
    pub(crate) biases: &'a [u8],
}

impl AffineStorage<'_> {
    /// The width of the codes as kernels read them.
    pub(crate) const fn code_bits(&self) -> CodeBits {
        if self.bits == 4 { CodeBits::Four } else { CodeBits::Eight }
    }

    /// Whether codes must be widened before kernels can read them.
    pub(crate) const fn is_narrow(&self) -> bool {
        !matches!(self.bits, 4 | 8)
    }
}

impl<'a> Matrix<'a> {
    /// Weights in MLX's affine format: `value = scale · code + bias`, by groups along `k`.
    ///
    /// `shape`: `[n, k]`. `bits`: 2, 3, 4, 6 or 8. `group_size`: 32, 64 or 128. `codes`: `[n, k · bits / 8]`
    /// bytes, packed as [`Affine`](crate::Affine) describes. `scales`, `biases`: `[n, k / group_size]` values of
    /// `float`.
    ///
    /// # Errors
    /// [`KernelError::Bits`], [`KernelError::GroupSize`], [`KernelError::PartialGroup`] if `k` is no whole groups,
    /// [`KernelError::SliceLen`] if a slice has another length than the shape wants.
    pub fn affine(
        shape: [usize; 2],
        bits: u32,
        group_size: usize,
        codes: &'a [u8],
        float: FloatType,
        scales: &'a [u8],
        biases: &'a [u8],
    ) -> Result<Self, KernelError> {
        let [n, k] = shape;
        if !matches!(bits, 2 | 3 | 4 | 6 | 8) {
            return Err(KernelError::Bits { bits });
        }
        if !matches!(group_size, 32 | 64 | 128) {
            return Err(KernelError::GroupSize { group_size });
        }
        if !k.is_multiple_of(group_size) {
            return Err(KernelError::PartialGroup { n_values: k, group_size });
        }
        // A product that saturates is longer than any slice.
        let floats_bytes = n.saturating_mul(k / group_size).saturating_mul(float.size_bytes());
        check_len("codes", n.saturating_mul(k / 8 * bits as usize), codes.len())?;
        check_len("scales", floats_bytes, scales.len())?;
        check_len("biases", floats_bytes, biases.len())?;
        let storage =
            Storage::Affine(AffineStorage { bits, group: group_size, codes, float, scales, biases });
        Ok(Self { n, k, storage })
    }

    /// Weights stored as floating-point numbers. `shape`: `[n, k]`; `floats`: `n · k` values.
    ///
    /// # Errors
    /// [`KernelError::SliceLen`] if `floats` has another length than the shape wants.
    pub fn float(shape: [usize; 2], floats: Floats<'a>) -> Result<Self, KernelError> {
        let [n, k] = shape;
        let wanted_bytes = n.saturating_mul(k).saturating_mul(floats.float.size_bytes());
        check_len("floats", wanted_bytes, floats.bytes.len())?;
        Ok(Self { n, k, storage: Storage::Float(floats) })
    }

    /// Rows: the length of an output row.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Columns: the length of an input row.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Bytes of the stored weights: what one pass over the matrix reads.
    pub const fn size_bytes(&self) -> usize {
        match self.storage {
            Storage::Affine(affine) => affine.codes.len() + affine.scales.len() + affine.biases.len(),
            Storage::Float(floats) => floats.bytes.len(),
        }
    }
}
