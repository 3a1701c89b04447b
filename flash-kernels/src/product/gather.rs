//! Products with one weight matrix per row, for mixtures of experts.

use std::sync::Arc;

use super::input::{FixedFormat, FixedInput, Input, compute_residuals};
use super::job::{ROWS_BLOCK, part_width};
use super::sums::{Product, Task};
use crate::activations::{FixedRows, FixedVector, convert};
use crate::buffer::Buffer;
use crate::error::{KernelError, check_len};
use crate::isa::FloatInput;
use crate::matrix::{AffineStorage, Floats, Matrix, Storage};
use crate::pool::{Band, Pool};
use crate::stack::MatrixStack;

/// Rows whose activations are converted before their products are computed: enough to keep all threads busy for
/// milliseconds, and few enough for the converted rows (16 MiB for `k` = 8192) to stay in a cache.
const ROWS_WAVE: usize = 2 * ROWS_BLOCK;

/// Computes `y[i] = x[lhs[i]] · W[rhs[i]]ᵀ + bias[rhs[i]]` for each row `i` of `y`.
///
/// `x`: `[m_in, k]`, `w`: `[n_experts, n, k]`, `bias`: `[n_experts, n]`, `lhs` (row indices of `x`) and `rhs` (expert
/// indices): `[m]`, `y`: `[m, n]`, all row-major; `m_in` is `x.len() / k`.
///
/// Rows of the same expert are computed together, whatever the order of the indices, so weights are read once (once per
/// 512 rows), and those of experts without rows never. Each row of `y` has the bits of a separate
/// [`matmul`](super::matmul).
///
/// # Errors
/// [`KernelError::SliceLen`] if the lengths of slices do not fit; [`KernelError::Index`] if an index is out of range;
/// `y` is then unchanged. With `k` = 0, the number of rows of `x` is unknown and `lhs` is not checked.
///
/// # Panics
/// See [`matmul`](super::matmul).
pub fn gather_matmul(
    pool: &Pool,
    x: &[f32],
    w: &MatrixStack<'_>,
    bias: Option<Floats<'_>>,
    lhs: &[u32],
    rhs: &[u32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    let (n, k, m) = (w.n(), w.k(), lhs.len());
    let m_in = x.len().checked_div(k).unwrap_or(0);
    check_len("rhs", size_of_val(lhs), size_of_val(rhs))?;
    // A saturated product exceeds the length of any slice.
    check_len("y", m.saturating_mul(n).saturating_mul(size_of::<f32>()), size_of_val(y))?;
    check_len("x", size_of::<f32>() * m_in * k, size_of_val(x))?;
    if let Some(bias) = bias {
        let wanted_bytes = w.n_experts().saturating_mul(n).saturating_mul(bias.float.size_bytes());
        check_len("bias", wanted_bytes, bias.bytes.len())?;
    }
    check_indices("rhs", rhs, w.n_experts())?;
    if k > 0 {
        check_indices("lhs", lhs, m_in)?;
    }
    if n == 0 {
        return Ok(());
    }
    let mut residual = Buffer::new(0);
    if let Some(Storage::Affine(w)) = w.experts().first().map(|expert| &expert.storage)
        && w.is_wide
    {
        residual = Buffer::new(x.len());
        compute_residuals(pool, x, k, w.group, &mut residual);
    }
    let gather = Gather { pool, x, residual: &residual, w, bias, lhs, rhs };
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by_key(|row| rhs[*row]);
    let experts = order.chunk_by(|a, b| rhs[*a] == rhs[*b]);
    let bands: Vec<&[usize]> = experts.flat_map(|rows| rows.chunks(ROWS_BLOCK)).collect();
    let mut bands = bands.as_slice();
    while !bands.is_empty() {
        let mut n_rows = 0;
        let fits = |rows: &&&[usize]| {
            n_rows += rows.len();
            n_rows <= ROWS_WAVE
        };
        let (wave, later) = bands.split_at(bands.iter().take_while(fits).count());
        gather.wave(wave, y);
        bands = later;
    }
    Ok(())
}

fn check_indices(indices: &'static str, values: &[u32], limit: usize) -> Result<(), KernelError> {
    match values.iter().position(|index| *index as usize >= limit) {
        None => Ok(()),
        Some(at) => Err(KernelError::Index { indices, at, index: values[at], limit }),
    }
}

/// The validated arguments of [`gather_matmul`].
struct Gather<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    /// Residuals of the fixed-point representation of `x`, empty unless the weights are wide.
    residual: &'a [f32],
    w: &'a MatrixStack<'a>,
    bias: Option<Floats<'a>>,
    lhs: &'a [u32],
    rhs: &'a [u32],
}

/// Prepared activations of one band.
enum BandInput {
    Fixed(FixedInput),
    /// `[rows, k]`.
    Float(Vec<f32>),
}

impl<'a> Gather<'a> {
    /// Computes some bands of `y`, each the rows of one expert.
    fn wave(&self, bands: &[&[usize]], y: &mut [f32]) {
        let (n, k) = (self.w.n(), self.w.k());
        let width = |rows: &[usize]| {
            let bytes = self.expert(rows[0]).size_bytes();
            part_width(self.pool, [n, k], rows.len(), bytes, bytes * bands.len())
        };
        let cut: Vec<_> = bands.iter().map(|rows| Band { rows, width: width(rows) }).collect();
        let inputs = self.inputs(bands);
        self.pool.for_bands(y, n, &cut, |band_idx, part| {
            let row = bands[band_idx][0];
            let x = match &inputs[band_idx] {
                BandInput::Fixed(x) => Input::Fixed(x),
                BandInput::Float(values) => Input::Float(FloatInput { values, k }),
            };
            let bias = self.bias_of(self.rhs[row] as usize);
            let product = Product::of(&self.expert(row).storage, bands[band_idx].len(), k, x, bias);
            Task::Product(product).compute(self.pool.kernels(), part);
        });
    }

    fn inputs(&self, bands: &[&[usize]]) -> Vec<BandInput> {
        match &self.expert(bands[0][0]).storage {
            Storage::Affine(w) => self.fixed_inputs(w, bands),
            Storage::Float(_) | Storage::Decoded(_) => self.pool.map(bands.len(), |band_idx| {
                let rows = bands[band_idx].iter().map(|row| self.input_row(self.lhs[*row]));
                BandInput::Float(rows.collect::<Vec<_>>().concat())
            }),
        }
    }

    /// Converts activations for affine weights: each row of `x` once for all bands of few rows, and once for each
    /// larger band, where it is packed with other rows.
    fn fixed_inputs(&self, w: &AffineStorage<'_>, bands: &[&[usize]]) -> Vec<BandInput> {
        let format = FixedFormat::of(w);
        let FixedFormat { group, bits, .. } = format;
        let is_few = |rows: &[usize]| format.rows(rows.len()) <= self.pool.kernels().rows_direct;

        let few = bands.iter().copied().filter(|rows| is_few(rows)).flatten();
        let mut few: Vec<u32> = few.map(|row| self.lhs[*row]).collect();
        few.sort_unstable();
        few.dedup();
        // First the rows of `x`, then their residuals.
        let n_few = few.len();
        let vectors = self.pool.map(format.rows(n_few), |idx| {
            let row =
                if idx < n_few { self.input_row(few[idx]) } else { self.residual_row(few[idx - n_few]) };
            Arc::new(FixedVector::new(self.pool.kernels(), row, group, bits))
        });
        let vector = |at: usize| {
            let idx = few.partition_point(|lhs| *lhs < self.lhs[at]);
            (Arc::clone(&vectors[idx]), format.is_wide.then(|| Arc::clone(&vectors[n_few + idx])))
        };

        let many = bands.iter().filter(|rows| !is_few(rows));
        let batch = |rows: &&[usize]| -> Vec<&[f32]> {
            let rounded = rows.iter().map(|row| self.input_row(self.lhs[*row]));
            let residuals =
                rows.iter().filter(|_| format.is_wide).map(|row| self.residual_row(self.lhs[*row]));
            rounded.chain(residuals).collect()
        };
        let many: Vec<Vec<&[f32]>> = many.map(batch).collect();
        let n_groups = self.w.k() / group;
        let kernels = self.pool.kernels();
        let allocate = |idx: usize| FixedRows::allocate(kernels, many[idx].len(), n_groups, group, bits);
        let mut batches = self.pool.map(many.len(), allocate);
        convert(self.pool, &mut batches, &many);

        let mut batches = batches.into_iter();
        let input = |rows: &&[usize]| {
            if is_few(rows) {
                let (rounded, residuals): (Vec<_>, Vec<_>) = rows.iter().map(|row| vector(*row)).unzip();
                Some(FixedInput::Few(rounded.into_iter().chain(residuals.into_iter().flatten()).collect()))
            } else {
                batches.next().map(FixedInput::Many)
            }
        };
        bands.iter().filter_map(input).map(BandInput::Fixed).collect()
    }

    /// Residual of a row of `x`.
    fn residual_row(&self, lhs: u32) -> &'a [f32] {
        let k = self.w.k();
        &self.residual[lhs as usize * k..][..k]
    }

    /// A row of `x`.
    fn input_row(&self, lhs: u32) -> &'a [f32] {
        let k = self.w.k();
        &self.x[lhs as usize * k..][..k]
    }

    /// Expert of a row of `y`.
    fn expert(&self, row: usize) -> &'a Matrix<'a> {
        &self.w.experts()[self.rhs[row] as usize]
    }

    fn bias_of(&self, expert_idx: usize) -> Option<Floats<'a>> {
        self.bias.map(|all| {
            let bytes_each = self.w.n() * all.float.size_bytes();
            Floats { bytes: &all.bytes[expert_idx * bytes_each..][..bytes_each], ..all }
        })
    }
}
