use crate::error::KernelError;
use crate::matrix::Matrix;

/// Weight matrices of one shape and format, one for each expert: `[n_experts, n, k]`.
#[derive(Debug, Clone)]
pub struct MatrixStack<'a> {
    n: usize,
    k: usize,
    experts: Vec<Matrix<'a>>,
}

impl<'a> MatrixStack<'a> {
    /// Experts wherever they lie, in the order of their indices.
    ///
    /// # Errors
    /// [`KernelError::UnlikeExpert`] if one has another shape or format than the first.
    pub fn new(experts: Vec<Matrix<'a>>) -> Result<Self, KernelError> {
        let Some(first) = experts.first() else {
            return Ok(Self { n: 0, k: 0, experts });
        };
        let (n, k) = (first.n(), first.k());
        if let Some(expert_idx) = experts.iter().position(|expert| !expert.is_like(first)) {
            let shape = [experts[expert_idx].n(), experts[expert_idx].k()];
            return Err(KernelError::UnlikeExpert { expert_idx, shape, wanted: [n, k] });
        }
        Ok(Self { n, k, experts })
    }

    /// The experts of one tensor `[n_experts, n, k]`, of which `all` is a view as `[n_experts · n, k]`.
    ///
    /// # Errors
    /// [`KernelError::PartialExpert`] if the rows are not as many for each.
    pub fn split(all: &Matrix<'a>, n_experts: usize) -> Result<Self, KernelError> {
        if !all.n().is_multiple_of(n_experts) {
            return Err(KernelError::PartialExpert { n_rows: all.n(), n_experts });
        }
        let n = all.n().checked_div(n_experts).unwrap_or(0);
        let experts = (0..n_experts).map(|idx| all.rows(idx * n..(idx + 1) * n)).collect();
        Ok(Self { n, k: all.k(), experts })
    }

    /// Matrices.
    pub fn n_experts(&self) -> usize {
        self.experts.len()
    }

    /// Rows of each matrix: the length of an output row.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of each matrix: the length of an input row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The matrix of one expert: `[n, k]`.
    pub fn expert(&self, expert_idx: usize) -> Option<&Matrix<'a>> {
        self.experts.get(expert_idx)
    }

    /// All matrices.
    pub(crate) fn experts(&self) -> &[Matrix<'a>] {
        &self.experts
    }
}
