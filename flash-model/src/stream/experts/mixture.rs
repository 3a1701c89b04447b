//! The experts of a layer before any is loaded: the location and format of their tensors.

mod layout;

use std::collections::HashMap;
use std::rc::Rc;

use flash_io::{DIRECT_ALIGN, Dtype, Slot};
use mlx_rs::Array;
use mlx_rs::module::{ModuleParameters as _, update_parameters};

use crate::ModelError;
use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
use crate::checkpoint::{TensorKind, packed_name};
use crate::compute::Activation;
use crate::mlx;
use crate::nn::expert::Expert;
use crate::nn::moe_gate::MoeGateArgs;
use crate::nn::router::Router;
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::{Bundle, Part};

use layout::{ExpertLayout, Placement, Tensors};

/// The names of experts' tensors in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Path of stacked tensors, as in mlx-lm.
    pub stacked: &'static str,
    /// Names of gate, up and down in stacked tensors.
    pub stacked_matrices: [&'static str; 3],
    /// Path of separate tensors per expert, followed by the expert's index, as in the original checkpoint.
    pub each: &'static str,
    /// Names of gate, up and down in separate tensors.
    pub each_matrices: [&'static str; 3],
}

/// Names of an expert's matrices in this crate and in most checkpoints.
pub(crate) const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

impl Names {
    /// The names in most checkpoints.
    pub(crate) const USUAL: Self =
        Self { stacked: "switch_mlp", stacked_matrices: MATRICES, each: "experts", each_matrices: MATRICES };
}

/// Index of the up projection in [`MATRICES`].
const UP: usize = 1;

/// Splits a parameter's key into the index of its matrix and the name of the parameter.
fn matrix_of(key: &str) -> (usize, &str) {
    let (matrix, parameter) = key.split_once('.').expect("a parameter of a matrix");
    let idx = MATRICES.iter().position(|name| *name == matrix).expect("a matrix of an expert");
    (idx, parameter)
}

/// Format of mxfp4 blocks: 16 bytes of codes for 32 columns, and a scale.
const BLOCKS: QuantizedFormat = QuantizedFormat { group_size: 32, bits: 4, mode: QuantizedMode::Mxfp4 };
const BLOCK_BYTES: u64 = 16;

/// Number and dimensions of a layer's experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertDims {
    pub n_experts: usize,
    pub hidden: i32,
    pub intermediate: i32,
}

/// Configuration of a layer's experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertArgs {
    pub dims: ExpertDims,
    /// Whether the matrices have biases.
    pub bias: bool,
    /// Activation of the gate. `None` for experts without a gate, which compute `relu(up(x))²`.
    pub activation: Option<Activation>,
}

/// Configuration of a mixture of experts.
#[derive(Debug, Clone)]
pub(crate) struct MixtureArgs {
    pub experts: ExpertArgs,
    pub gate: MoeGateArgs,
    pub router: Router,
}

/// The mixture of experts of a layer.
#[derive(Debug)]
pub(crate) struct Mixture {
    pub router: Router,
    pub dims: ExpertDims,
    path: String,
    /// An expert without weights, cloned for each loaded expert.
    template: Expert,
    /// Placement of each parameter, in the order of their keys.
    parameters: Vec<(String, Placement)>,
}

impl ExpertArgs {
    /// Creates an expert without weights, whose gate, up and down are called `matrices` below the path of `weights`.
    fn template(self, weights: &VarBuilder<'_>, matrices: [&str; 3]) -> Result<Expert, ModelError> {
        let Self { dims: ExpertDims { hidden, intermediate, .. }, bias, activation } = self;
        let linear = |idx: usize, input, output| weights.at(matrices[idx]).linear(input, output, bias);
        Ok(Expert {
            activation,
            gate_proj: activation.map(|_| linear(0, hidden, intermediate)).transpose()?,
            up_proj: linear(1, hidden, intermediate)?,
            down_proj: linear(2, intermediate, hidden)?,
        })
    }
}

/// The experts of a layer, to be packed as rows of one tensor (a `flash_convert::PackedLayer`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertRows {
    /// Name of the packed tensor.
    pub name: String,
    /// Tensors of each expert.
    pub experts: Vec<Vec<ExpertTensor>>,
}

/// A tensor of one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertTensor {
    /// Name of the tensor in a row.
    pub name: String,
    /// Name of the model's tensor.
    pub tensor: String,
    /// Index of the expert in a stacked tensor; `None` for a separate tensor.
    pub idx: Option<u64>,
}

impl Mixture {
    /// Finds the experts below the path of `weights`, stacked or separate.
    pub(crate) fn new(
        weights: &VarBuilder<'_>,
        names: Names,
        args: ExpertArgs,
        router: Router,
    ) -> Result<Self, ModelError> {
        let stacked = weights.at(names.stacked);
        if ExpertLayout::of_stacked(&stacked, &format!("{}.weight", names.stacked_matrices[UP])).is_some() {
            return Self::stacked(&stacked, names.stacked_matrices, args, router);
        }
        let each = weights.at(names.each);
        let layout = ExpertLayout::of_each(&each);
        let template = args.template(&each.at("0"), names.each_matrices)?;
        Self::placed(&each, template, args, router, |key, shape, kind| {
            let (idx, parameter) = matrix_of(key);
            let name = format!("{}.{parameter}", names.each_matrices[idx]);
            Ok(layout.tensors(&each, &name, args.dims.n_experts, shape, kind)?.into())
        })
    }

    /// Finds experts whose tensors are stacked per matrix at the path of `weights`, as in mlx-lm, or were packed from
    /// such.
    pub(crate) fn stacked(
        weights: &VarBuilder<'_>,
        matrices: [&str; 3],
        args: ExpertArgs,
        router: Router,
    ) -> Result<Self, ModelError> {
        let layout = ExpertLayout::of_stacked(weights, &format!("{}.weight", matrices[UP]))
            .unwrap_or(ExpertLayout::Stacked);
        let template = match layout {
            ExpertLayout::Rows => {
                args.template(&weights.stored_at(format!("{}.0", weights.path())), matrices)?
            }
            _ => args.template(weights, matrices)?,
        };
        Self::placed(weights, template, args, router, |key, shape, kind| {
            let (idx, parameter) = matrix_of(key);
            let name = format!("{}.{parameter}", matrices[idx]);
            Ok(layout.tensors(weights, &name, args.dims.n_experts, shape, kind)?.into())
        })
    }

    /// Finds the experts of original `qwen3_5_moe` checkpoints: floats, an expert's gate rows above its up rows, no
    /// biases. Returns `None` if there are no such tensors.
    pub(crate) fn joined(
        weights: &VarBuilder<'_>,
        args: ExpertArgs,
        router: Router,
    ) -> Result<Option<Self>, ModelError> {
        const JOINED: &str = "gate_up_proj";
        let Some(layout) = ExpertLayout::of_stacked(weights, JOINED) else { return Ok(None) };
        let ExpertArgs { dims: ExpertDims { n_experts, hidden, intermediate }, activation, .. } = args;
        let linear = |input, output| weights.linear_with_format(None, input, output, false);
        let template = Expert {
            activation,
            gate_proj: Some(linear(hidden, intermediate)?),
            up_proj: linear(hidden, intermediate)?,
            down_proj: linear(intermediate, hidden)?,
        };
        let mixture = Self::placed(weights, template, args, router, |key, shape, kind| {
            let &[n_rows, n_columns] = shape else { unreachable!("a matrix of floats") };
            let (matrix, _) = matrix_of(key);
            if MATRICES[matrix] == "down_proj" {
                return Ok(layout.tensors(weights, MATRICES[matrix], n_experts, shape, kind)?.into());
            }
            let tensors = layout.tensors(weights, JOINED, n_experts, &[2 * n_rows, n_columns], kind)?;
            Ok(Placement { tensors, chunk_idx: u64::from(matrix == UP), n_chunks: 2 })
        })?;
        Ok(Some(mixture))
    }

    /// Finds the experts of original `gpt_oss` checkpoints: mxfp4 blocks, with alternating rows of gate and up. Returns
    /// `None` if there are no such tensors.
    pub(crate) fn in_blocks(
        weights: &VarBuilder<'_>,
        args: ExpertArgs,
        router: Router,
    ) -> Result<Option<Self>, ModelError> {
        let Some(layout) = ExpertLayout::of_stacked(weights, "gate_up_proj_blocks") else { return Ok(None) };
        let ExpertArgs { dims: ExpertDims { n_experts, hidden, intermediate }, bias, activation } = args;
        let linear = |input, output| weights.linear_with_format(Some(BLOCKS), input, output, bias);
        let both = intermediate.checked_mul(2).ok_or_else(|| {
            weights.config().field_error(
                "intermediate_size",
                &intermediate,
                "no tensor has twice as many rows",
            )
        })?;
        let template = Expert {
            activation,
            gate_proj: None,
            up_proj: linear(hidden, both)?,
            down_proj: linear(intermediate, hidden)?,
        };
        let mixture = Self::placed(weights, template, args, router, |key, shape, kind| {
            let (matrix, parameter) = key.split_once('.').expect("a parameter of a matrix");
            let matrix = if matrix == "up_proj" { "gate_up_proj" } else { matrix };
            let suffix = if parameter == "weight" { "blocks" } else { parameter };
            let name = format!("{matrix}_{suffix}");
            if parameter != "weight" {
                return Ok(layout.tensors(weights, &name, n_experts, shape, kind)?.into());
            }
            let &[rows, words] = shape else { unreachable!("a matrix of codes") };
            let blocks = [rows, 4 * words / BLOCK_BYTES, BLOCK_BYTES];
            let mut codes = layout.tensors(weights, &name, n_experts, &blocks, TensorKind::Bytes)?;
            // Blocks of bytes are the same bytes as words of four.
            match &mut codes {
                Tensors::Stacked(all) => {
                    (all.dtype, all.shape) = (Dtype::U32, vec![n_experts as u64, rows, words]);
                }
                Tensors::Each(tensors) => {
                    for tensor in tensors {
                        (tensor.dtype, tensor.shape) = (Dtype::U32, shape.to_vec());
                    }
                }
                Tensors::Rows { first, .. } => {
                    (first.dtype, first.shape) = (Dtype::U32, shape.to_vec());
                }
            }
            Ok(codes.into())
        })?;
        Ok(Some(mixture))
    }

    /// Creates a mixture of experts like `template`. `place` returns the placement of a parameter from its key, shape
    /// and kind.
    fn placed(
        weights: &VarBuilder<'_>,
        mut template: Expert,
        args: ExpertArgs,
        router: Router,
        place: impl Fn(&str, &[u64], TensorKind) -> Result<Placement, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut placeholders: Vec<_> = template.parameters_mut().flatten().into_iter().collect();
        placeholders.sort_by(|a, b| a.0.cmp(&b.0));
        let mut parameters = Vec::new();
        for (key, placeholder) in placeholders {
            let kind = TensorKind::of(placeholder.dtype());
            let shape: Vec<u64> = placeholder.shape().iter().map(|&extent| extent as u64).collect();
            parameters.push((key.to_string(), place(&key, &shape, kind)?));
        }
        Ok(Self { router, dims: args.dims, path: weights.path().to_owned(), template, parameters })
    }

    /// Returns the bytes of one expert.
    pub(crate) fn expert_bytes(&self) -> u64 {
        let n_experts = self.dims.n_experts as u64;
        let bytes = |tensors: &Tensors| match tensors {
            Tensors::Stacked(tensor) => tensor.span.len_bytes() / n_experts.max(1),
            Tensors::Each(tensors) => tensors.first().map_or(0, |tensor| tensor.span.len_bytes()),
            Tensors::Rows { first, .. } => first.span.len_bytes(),
        };
        self.parameters.iter().map(|(_, place)| bytes(&place.tensors) / place.n_chunks).sum()
    }

    /// Returns the bytes queued beside one expert when `n_experts` are to be read.
    pub(crate) fn queued_bytes(&self, n_experts: usize) -> u64 {
        self.expert_bytes() * n_experts.saturating_sub(1) as u64
    }

    /// Returns the bytes of a slot for any of the experts. Direct reads may widen each extent to whole blocks at both
    /// ends.
    pub(crate) fn slot_bytes(&self) -> usize {
        let blocks_bytes = 2 * DIRECT_ALIGN * self.parameters.len();
        (self.expert_bytes() as usize + blocks_bytes).next_multiple_of(DIRECT_ALIGN)
    }

    /// Returns the number of activation values of a pass of `n_tokens`, beside hidden states: the experts' inputs and
    /// outputs for all tokens, router scores, and two waves of rows.
    pub(crate) fn activation_values(&self, n_tokens: u64) -> u64 {
        let [hidden, intermediate] = [self.dims.hidden, self.dims.intermediate].map(|extent| extent as u64);
        let rows = (super::prompt::WAVE_ROWS as u64).min(n_tokens * self.router.top_k as u64);
        let routed = n_tokens * (4 * hidden + 2 * self.dims.n_experts as u64);
        // Gate, up and their product; MLX first splits gate and up if they are one matrix.
        let n_inner = if self.template.gate_proj.is_some() { 3 } else { 5 };
        routed + 2 * rows * (2 * hidden + n_inner * intermediate)
    }

    /// Returns the bytes that MLX may take to widen an expert's half-precision weights.
    pub(crate) fn widened_bytes(&self) -> u64 {
        self.bundle(0).widened_bytes()
    }

    /// Returns the bundle of an expert.
    pub(crate) fn bundle(&self, expert_idx: usize) -> Bundle {
        let all = |tensors: &Tensors| match tensors {
            Tensors::Stacked(tensor) => {
                let idx = expert_idx as u64;
                let mut part = Part::rows(tensor, &(idx..idx + 1));
                part.shape.remove(0);
                part
            }
            Tensors::Each(tensors) => Part::whole(&tensors[expert_idx]),
            Tensors::Rows { first, row_bytes } => Part::whole(first).shifted(expert_idx as u64 * row_bytes),
        };
        let part =
            |(_, place): &(String, Placement)| all(&place.tensors).row_chunk(place.chunk_idx, place.n_chunks);
        Bundle::new(format!("{}[{expert_idx}]", self.path), self.parameters.iter().map(part).collect())
    }

    /// Returns the tensors to pack into rows; `None` if the experts are already packed.
    pub(crate) fn as_rows(&self) -> Option<ExpertRows> {
        let experts = (0..self.dims.n_experts).map(|expert_idx| self.tensors_of(expert_idx));
        Some(ExpertRows { name: packed_name(&self.path), experts: experts.collect::<Option<_>>()? })
    }

    fn tensors_of(&self, expert_idx: usize) -> Option<Vec<ExpertTensor>> {
        let tensor = |tensors: &Tensors| {
            let (tensor, path, idx) = match tensors {
                Tensors::Stacked(tensor) => (tensor, self.path.clone(), Some(expert_idx as u64)),
                Tensors::Each(tensors) => (&tensors[expert_idx], format!("{}.{expert_idx}", self.path), None),
                Tensors::Rows { .. } => return None,
            };
            let rest = tensor.name.strip_prefix(&path).and_then(|rest| rest.strip_prefix('.'));
            let name = rest.expect("a tensor below the path of the experts").to_owned();
            Some(ExpertTensor { name, tensor: tensor.name.clone(), idx })
        };
        // A tensor that holds several parameters counts once.
        let first = self.parameters.iter().filter(|(_, place)| place.chunk_idx == 0);
        first.map(|(_, place)| tensor(&place.tensors)).collect()
    }

    /// Binds an expert to the slot it was read into. The slot is released when the expert is dropped and no kernel
    /// reads it.
    pub(crate) fn bind(&self, bundle: &Bundle, slot: Slot) -> Result<Expert, ModelError> {
        let arrays = mlx::views(slot, (), &bundle.views()).map_err(|error| bundle.view_error(error))?;
        let mut expert = self.template.clone();
        let keys = self.parameters.iter().map(|(key, _)| Rc::from(key.as_str()));
        update_parameters(&mut expert, keys.zip(arrays).collect::<HashMap<Rc<str>, Array>>());
        Ok(expert)
    }
}
