use std::ops::Range;

use crate::error::{KernelError, check_len};
use crate::float::FloatType;
use crate::mx::{self, Mx};
use crate::strips::Strips;
use crate::tile::{CodeBits, Layout};
use crate::widen::NarrowFormat;

/// Stored floating-point numbers: little-endian bytes at any address.
#[derive(Debug, Clone, Copy)]
pub struct Floats<'a> {
    /// Type of the stored numbers.
    pub float: FloatType,
    /// The numbers, contiguous.
    pub bytes: &'a [u8],
}

/// A view of a stored weight matrix `[n, k]`, row-major: the `W` of `y = x · Wᵀ`.
///
/// Slices are little-endian bytes at any alignment. Constructors check their lengths, so kernels do not.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    n: usize,
    k: usize,
    pub(crate) storage: Storage<'a>,
}

/// Storage of a [`Matrix`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage<'a> {
    Affine(AffineStorage<'a>),
    Float(Floats<'a>),
    Decoded(DecodedStorage<'a>),
}

/// Codes with a scale and a bias per `group`, `value = scale · code + bias`, or a format that widens to this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AffineStorage<'a> {
    pub(crate) coding: Coding,
    pub(crate) bits: u32,
    pub(crate) group: usize,
    pub(crate) codes: &'a [u8],
    pub(crate) layout: Layout,
    /// Type of scales and biases, as stored or after widening.
    pub(crate) float: FloatType,
    pub(crate) scales: &'a [u8],
    pub(crate) biases: &'a [u8],
    /// Whether activations are quantized to 30 bits instead of 15.
    pub(crate) is_wide: bool,
}

/// Encoding of the slices of an [`AffineStorage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Affine codes, scales and biases.
    Affine,
    /// mxfp4 codes and scales, without biases.
    Mxfp4,
}

/// Codes with a scale per group, decoded to `f32` before the multiplication.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodedStorage<'a> {
    /// mxfp8 or nvfp4.
    pub(crate) format: Mx,
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [u8],
}

impl AffineStorage<'_> {
    /// Code width that kernels read.
    pub(crate) const fn code_bits(&self) -> CodeBits {
        match (self.coding, self.bits) {
            (Coding::Affine, 4) => CodeBits::Four,
            _ => CodeBits::Eight,
        }
    }

    /// Format from which the codes are widened, or `None` if kernels read them as stored.
    pub(crate) const fn narrow(&self) -> Option<NarrowFormat<'static>> {
        match (self.coding, self.bits) {
            (Coding::Affine, 4 | 8) => None,
            (Coding::Affine, bits) => Some(NarrowFormat::Bits(bits)),
            (Coding::Mxfp4, _) => Some(NarrowFormat::E2m1),
        }
    }
}

impl<'a> Matrix<'a> {
    /// Wraps weights in MLX's affine format: `value = scale · code + bias`, by groups along `k`.
    ///
    /// `shape`: `[n, k]`. `bits`: 2, 3, 4, 5, 6 or 8. `group_size`: 32, 64 or 128. `codes`: `[n, k · bits / 8]`
    /// bytes, packed as [`Affine`](crate::Affine) describes. `scales`, `biases`: `[n, k / group_size]` values of
    /// `float`.
    ///
    /// # Errors
    /// [`KernelError::Bits`], [`KernelError::GroupSize`], [`KernelError::PartialGroup`] if `k` is not whole groups,
    /// [`KernelError::SliceLen`] if the length of a slice does not fit the shape.
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
        if !matches!(bits, 2..=6 | 8) {
            return Err(KernelError::Bits { bits });
        }
        if !matches!(group_size, 32 | 64 | 128) {
            return Err(KernelError::GroupSize { group_size });
        }
        if !k.is_multiple_of(group_size) {
            return Err(KernelError::PartialGroup { n_values: k, group_size });
        }
        // A saturated product exceeds the length of any slice.
        let floats_bytes = n.saturating_mul(k / group_size).saturating_mul(float.size_bytes());
        check_len("codes", n.saturating_mul(k / 8 * bits as usize), codes.len())?;
        check_len("scales", floats_bytes, scales.len())?;
        check_len("biases", floats_bytes, biases.len())?;
        let (coding, group, layout) = (Coding::Affine, group_size, Layout::Rows);
        let storage = Storage::Affine(AffineStorage {
            coding,
            bits,
            group,
            codes,
            layout,
            float,
            scales,
            biases,
            is_wide: false,
        });
        Ok(Self { n, k, storage })
    }

    /// Wraps floating-point weights. `shape`: `[n, k]`; `floats`: `n · k` values.
    ///
    /// # Errors
    /// [`KernelError::SliceLen`] if the length of `floats` does not fit the shape.
    pub fn float(shape: [usize; 2], floats: Floats<'a>) -> Result<Self, KernelError> {
        let [n, k] = shape;
        let wanted_bytes = n.saturating_mul(k).saturating_mul(floats.float.size_bytes());
        check_len("floats", wanted_bytes, floats.bytes.len())?;
        Ok(Self { n, k, storage: Storage::Float(floats) })
    }

    /// Wraps weights in the microscaling format [mxfp4](Mx::Fp4).
    ///
    /// `shape`: `[n, k]`. `codes`: `[n, k / 2]` bytes. `scales`: `[n, k / 32]` bytes.
    ///
    /// # Errors
    /// [`KernelError::PartialGroup`] if `k` is not a multiple of 32, [`KernelError::SliceLen`] if the length of a slice
    /// does not fit the shape.
    pub fn mxfp4(shape: [usize; 2], codes: &'a [u8], scales: &'a [u8]) -> Result<Self, KernelError> {
        check_mx(Mx::Fp4, shape, codes, scales)?;
        let [n, k] = shape;
        let storage = Storage::Affine(AffineStorage {
            coding: Coding::Mxfp4,
            bits: Mx::Fp4.bits(),
            group: mx::GROUP,
            codes,
            layout: Layout::Rows,
            float: FloatType::BF16,
            scales,
            biases: &[],
            is_wide: false,
        });
        Ok(Self { n, k, storage })
    }

    /// Wraps weights in the microscaling format [mxfp8](Mx::Fp8).
    ///
    /// `shape`: `[n, k]`. `codes`: `[n, k]` bytes. `scales`: `[n, k / 32]` bytes.
    ///
    /// # Errors
    /// See [`mxfp4`](Self::mxfp4).
    pub fn mxfp8(shape: [usize; 2], codes: &'a [u8], scales: &'a [u8]) -> Result<Self, KernelError> {
        Self::decoded(Mx::Fp8, shape, codes, scales)
    }

    /// Wraps weights in the format [nvfp4](Mx::Nv4).
    ///
    /// `shape`: `[n, k]`. `codes`: `[n, k / 2]` bytes. `scales`: `[n, k / 16]` bytes.
    ///
    /// # Errors
    /// Same as [`mxfp4`](Self::mxfp4), for groups of 16.
    pub fn nvfp4(shape: [usize; 2], codes: &'a [u8], scales: &'a [u8]) -> Result<Self, KernelError> {
        Self::decoded(Mx::Nv4, shape, codes, scales)
    }

    fn decoded(
        format: Mx,
        shape: [usize; 2],
        codes: &'a [u8],
        scales: &'a [u8],
    ) -> Result<Self, KernelError> {
        check_mx(format, shape, codes, scales)?;
        let [n, k] = shape;
        Ok(Self { n, k, storage: Storage::Decoded(DecodedStorage { format, codes, scales }) })
    }

    /// Returns the matrix with activations quantized to 30 bits instead of 15, so that their rounding is below that of
    /// `f32` sums. Each row of activations is multiplied twice; weights are read once. No effect on formats that
    /// multiply `f32` activations.
    #[must_use]
    pub fn wide(self) -> Self {
        match self.storage {
            Storage::Affine(affine) => {
                Self { storage: Storage::Affine(AffineStorage { is_wide: true, ..affine }), ..self }
            }
            Storage::Float(_) | Storage::Decoded(_) => self,
        }
    }

    /// Returns the matrix, of 4- or 8-bit affine codes, marked as rearranged by [`Strips::interleave`], and its scales and
    /// biases by [`Strips::interleave_floats`]. Products have the same bits; with few rows they are faster if
    /// [`Pool::strips`](crate::Pool::strips) returns these strips.
    ///
    /// # Errors
    /// [`KernelError::Strips`] if the format is another, or the rows are not whole strips.
    pub fn in_strips(self, strips: Strips) -> Result<Self, KernelError> {
        let Self { n, k, storage } = self;
        match storage {
            Storage::Affine(affine) if affine.narrow().is_none() && n.is_multiple_of(strips.rows()) => {
                Ok(Self {
                    n,
                    k,
                    storage: Storage::Affine(AffineStorage { layout: Layout::Strips(strips), ..affine }),
                })
            }
            _ => Err(KernelError::Strips { n_rows: n, strip_rows: strips.rows() }),
        }
    }

    /// Returns a view of some of the rows.
    ///
    /// # Panics
    /// If the range is out of bounds or splits a strip.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.n, "rows {rows:?} of {}", self.n);
        if let Storage::Affine(AffineStorage { layout: Layout::Strips(strips), .. }) = self.storage {
            let is_whole = [rows.start, rows.end].iter().all(|row| row.is_multiple_of(strips.rows()));
            assert!(is_whole, "rows {rows:?} of strips");
        }
        let cut = |bytes: &'a [u8]| {
            let row_bytes = bytes.len().checked_div(self.n).unwrap_or(0);
            &bytes[row_bytes * rows.start..row_bytes * rows.end]
        };
        let storage = match self.storage {
            Storage::Affine(all) => Storage::Affine(AffineStorage {
                codes: cut(all.codes),
                scales: cut(all.scales),
                biases: cut(all.biases),
                ..all
            }),
            Storage::Float(all) => Storage::Float(Floats { bytes: cut(all.bytes), ..all }),
            Storage::Decoded(all) => {
                Storage::Decoded(DecodedStorage { codes: cut(all.codes), scales: cut(all.scales), ..all })
            }
        };
        Self { n: rows.len(), k: self.k, storage }
    }

    /// Whether both matrices have the same shape and storage format.
    pub(crate) fn is_like(&self, other: &Matrix<'_>) -> bool {
        let same_format = match (self.storage, other.storage) {
            (Storage::Affine(a), Storage::Affine(b)) => {
                (a.coding, a.bits, a.group, a.layout, a.float, a.is_wide)
                    == (b.coding, b.bits, b.group, b.layout, b.float, b.is_wide)
            }
            (Storage::Float(a), Storage::Float(b)) => a.float == b.float,
            (Storage::Decoded(a), Storage::Decoded(b)) => a.format == b.format,
            _ => false,
        };
        same_format && (self.n, self.k) == (other.n, other.k)
    }

    /// Returns the number of rows: the length of an output row.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Returns the number of columns: the length of an input row.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Returns the bytes of the stored weights: codes, scales and biases, or floats.
    pub const fn size_bytes(&self) -> usize {
        match self.storage {
            Storage::Affine(affine) => affine.codes.len() + affine.scales.len() + affine.biases.len(),
            Storage::Float(floats) => floats.bytes.len(),
            Storage::Decoded(decoded) => decoded.codes.len() + decoded.scales.len(),
        }
    }
}

fn check_mx(format: Mx, [n, k]: [usize; 2], codes: &[u8], scales: &[u8]) -> Result<(), KernelError> {
    let group_size = format.group_size();
    if !k.is_multiple_of(group_size) {
        return Err(KernelError::PartialGroup { n_values: k, group_size });
    }
    // A saturated product exceeds the length of any slice.
    check_len("codes", n.saturating_mul(format.codes_bytes(k)), codes.len())?;
    check_len("scales", n.saturating_mul(k / group_size), scales.len())
}
