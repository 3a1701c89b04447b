use crate::error::KernelError;
use crate::matrix::Matrix;

/// One weight matrix for each expert of a layer, all of one shape and format: `[n_experts, n, k]`.
#[derive(Debug, Clone)]
pub struct MatrixStack<'a> {
    n: usize,
    k: usize,
    experts: Vec<Matrix<'a>>,
}

impl<'a> MatrixStack<'a> {
    /// Stacks expert matrices in the order of their indices; they may be anywhere in memory.
    ///
    /// # Errors
    /// [`KernelError::ExpertMismatch`] if an expert has another shape or format than expert 0.
    pub fn new(experts: Vec<Matrix<'a>>) -> Result<Self, KernelError> {
        let Some(first) = experts.first() else {
            return Ok(Self { n: 0, k: 0, experts });
        };
        let (n, k) = (first.n(), first.k());
        if let Some(expert_idx) = experts.iter().position(|expert| !expert.is_like(first)) {
            let shape = [experts[expert_idx].n(), experts[expert_idx].k()];
            return Err(KernelError::ExpertMismatch { expert_idx, shape, wanted: [n, k] });
        }
        Ok(Self { n, k, experts })
    }

    /// Splits one tensor `[n_experts, n, k]`, viewed as `[n_experts · n, k]`, into experts.
    ///
    /// # Errors
    /// [`KernelError::UnevenExperts`] if the rows do not divide evenly.
    pub fn split(all: &Matrix<'a>, n_experts: usize) -> Result<Self, KernelError> {
        if !all.n().is_multiple_of(n_experts) {
            return Err(KernelError::UnevenExperts { n_rows: all.n(), n_experts });
        }
        let n = all.n().checked_div(n_experts).unwrap_or(0);
        let experts = (0..n_experts).map(|idx| all.rows(idx * n..(idx + 1) * n)).collect();
        Ok(Self { n, k: all.k(), experts })
    }

    /// Returns the number of experts.
    pub fn n_experts(&self) -> usize {
        self.experts.len()
    }

    /// Returns the number of rows of each matrix: the length of an output row.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the number of columns of each matrix: the length of an input row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Returns the matrix of one expert, `[n, k]`; `None` if there is no such expert.
    pub fn expert(&self, expert_idx: usize) -> Option<&Matrix<'a>> {
        self.experts.get(expert_idx)
    }

    /// Matrices of all experts.
    pub(crate) fn experts(&self) -> &[Matrix<'a>] {
        &self.experts
    }
}
