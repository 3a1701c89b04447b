//! The layouts of experts' tensors in checkpoints.

use flash_io::Tensor;

use crate::ModelError;
use crate::checkpoint::{TensorKind, expert_tensor_name};
use crate::nn::var_builder::VarBuilder;

/// The tensors that hold a parameter of the experts, and the chunk of rows that it has in them.
#[derive(Debug)]
pub(super) struct Placement {
    pub tensors: Tensors,
    /// The parameter is chunk `chunk_idx` of `n_chunks` equal chunks of an expert's rows.
    pub chunk_idx: u64,
    pub n_chunks: u64,
}

/// The tensors that hold a parameter of all experts.
#[derive(Debug)]
pub(super) enum Tensors {
    /// One tensor, `[n_experts, …]`.
    Stacked(Tensor),
    /// A tensor for each expert.
    Each(Vec<Tensor>),
    /// Packed tensors: the first expert's tensor, and the distance to the next expert's.
    Rows { first: Tensor, row_bytes: u64 },
}

impl From<Tensors> for Placement {
    fn from(tensors: Tensors) -> Self {
        Self { tensors, chunk_idx: 0, n_chunks: 1 }
    }
}

/// The layout of a layer's expert tensors in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum ExpertLayout {
    /// Stacked: one tensor for all experts.
    Stacked,
    /// A tensor for each expert.
    Each,
    /// Packed: a row for each expert, which holds all of its tensors.
    Rows,
}

impl ExpertLayout {
    /// Finds the layout of stacked or packed tensors called `rest` below the path of `weights`; `None` if there are
    /// none.
    pub(super) fn of_stacked(weights: &VarBuilder<'_>, rest: &str) -> Option<Self> {
        let checkpoint = weights.checkpoint();
        if checkpoint.has(&format!("{}.{rest}", weights.path())) {
            return Some(Self::Stacked);
        }
        let in_rows = checkpoint.rows(weights.path()).is_some()
            && checkpoint.has(&expert_tensor_name(weights.path(), 0, rest));
        in_rows.then_some(Self::Rows)
    }

    /// Returns the layout of unstacked tensors at the path of `weights`.
    pub(super) fn of_each(weights: &VarBuilder<'_>) -> Self {
        if weights.checkpoint().rows(weights.path()).is_some() { Self::Rows } else { Self::Each }
    }

    /// Finds the tensors called `rest`, which have `shape` in an expert.
    pub(super) fn tensors(
        self,
        weights: &VarBuilder<'_>,
        rest: &str,
        n_experts: usize,
        shape: &[u64],
        kind: TensorKind,
    ) -> Result<Tensors, ModelError> {
        let (checkpoint, path) = (weights.checkpoint(), weights.path());
        let member =
            |expert_idx| checkpoint.tensor(&expert_tensor_name(path, expert_idx, rest), shape, kind).cloned();
        match self {
            Self::Stacked => {
                let shape = [&[n_experts as u64], shape].concat();
                Ok(Tensors::Stacked(checkpoint.tensor(&format!("{path}.{rest}"), &shape, kind)?.clone()))
            }
            Self::Each => Ok(Tensors::Each((0..n_experts).map(member).collect::<Result<_, _>>()?)),
            Self::Rows => {
                let first = member(0)?;
                let rows = checkpoint.rows(path).expect("packed experts have rows");
                let row_bytes = rows.span.len_bytes() / n_experts.max(1) as u64;
                checkpoint.tensor(&rows.name, &[n_experts as u64, row_bytes], TensorKind::Bytes)?;
                Ok(Tensors::Rows { first, row_bytes })
            }
        }
    }
}
