//! A layer's experts before any of them is loaded: where they lie, and what they will be.

mod layout;

use std::collections::HashMap;
use std::rc::Rc;

use flash_io::{DIRECT_ALIGN, Dtype, Slot};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::{ModuleParameters as _, update_parameters};

use crate::ModelError;
use crate::checkpoint::config::{QuantizedFormat, QuantizedMode};
use crate::checkpoint::{TensorKind, rows_name};
use crate::compute::Activation;
use crate::mlx;
use crate::nn::expert::Expert;
use crate::nn::gate::GateArgs;
use crate::nn::router::Router;
use crate::nn::weights::Weights;
use crate::stream::bundle::{Bundle, Part};

use layout::{ExpertLayout, Placement, Tensors};

/// What a checkpoint calls the parts of an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Where the tensors of all experts are, as mlx-lm stacks them.
    pub stacked: &'static str,
    /// What gate, up and down are called there.
    pub stacked_matrices: [&'static str; 3],
    /// Where those of each are, below its index, as they were trained.
    pub each: &'static str,
    /// And there.
    pub each_matrices: [&'static str; 3],
}

/// What the matrices of an expert are called here, and in most checkpoints.
pub(crate) const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

impl Names {
    /// In most checkpoints.
    pub(crate) const USUAL: Self =
        Self { stacked: "switch_mlp", stacked_matrices: MATRICES, each: "experts", each_matrices: MATRICES };
}

/// The place of up among them.
const UP: usize = 1;

/// Which matrix a parameter is of, and what it is called there.
fn matrix_of(key: &str) -> (usize, &str) {
    let (matrix, parameter) = key.split_once('.').expect("a parameter of a matrix");
    let idx = MATRICES.iter().position(|name| *name == matrix).expect("a matrix of an expert");
    (idx, parameter)
}

/// How blocks are stored: 16 bytes with the codes of 32 columns, and a scale.
const BLOCKS: QuantizedFormat = QuantizedFormat { group_size: 32, bits: 4, mode: QuantizedMode::Mxfp4 };
const BLOCK_BYTES: u64 = 16;

/// The lengths of an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertDims {
    pub n_experts: usize,
    pub hidden: i32,
    pub intermediate: i32,
}

/// What there is to say of experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertArgs {
    pub dims: ExpertDims,
    /// Whether their matrices have biases.
    pub bias: bool,
    /// How a gate lets numbers through; none if there is none: then it is `relu(up(x))²` that passes.
    pub activation: Option<Activation>,
}

/// What there is to say of a mixture.
#[derive(Debug, Clone)]
pub(crate) struct MixtureArgs {
    pub experts: ExpertArgs,
    pub gate: GateArgs,
    pub router: Router,
}

/// The experts of a layer.
#[derive(Debug)]
pub(crate) struct Mixture {
    pub router: Router,
    pub dims: ExpertDims,
    path: String,
    /// An expert without weights.
    template: Expert,
    /// By parameter, in the order of their keys.
    parameters: Vec<(String, Placement)>,
}

impl ExpertArgs {
    /// An expert whose gate, up and down are called `matrices` below the path of `weights`.
    fn template(self, weights: &Weights<'_>, matrices: [&str; 3]) -> Result<Expert, ModelError> {
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

/// The experts of a layer, to be stored as rows of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertRows {
    /// What it is called then.
    pub name: String,
    /// The tensors of each.
    pub experts: Vec<Vec<ExpertTensor>>,
}

/// A tensor of one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertTensor {
    /// What it is called in a row.
    pub name: String,
    /// The tensor of the model that has it.
    pub tensor: String,
    /// Which of those stacked there it is; all of the tensor, if none.
    pub idx: Option<u64>,
}

impl Mixture {
    /// The experts below the path of `weights`.
    pub(crate) fn new(
        weights: &Weights<'_>,
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

    /// Those whose tensors at the path of `weights` have a matrix of all experts each, as mlx-lm stacks them, or were such
    /// before they were packed.
    pub(crate) fn stacked(
        weights: &Weights<'_>,
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

    /// Those that `qwen3_5_moe` is trained with: floats, the rows of an expert's gate above those of up, and no biases. Where there
    /// are none, the tensors are not so called.
    pub(crate) fn joined(
        weights: &Weights<'_>,
        args: ExpertArgs,
        router: Router,
    ) -> Result<Option<Self>, ModelError> {
        const JOINED: &str = "gate_up_proj";
        let Some(layout) = ExpertLayout::of_stacked(weights, JOINED) else { return Ok(None) };
        let ExpertArgs { dims: ExpertDims { n_experts, hidden, intermediate }, activation, .. } = args;
        let linear = |input, output| weights.linear_in(None, input, output, false);
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

    /// Those that `gpt_oss` is published with: codes in blocks of mxfp4, and the rows of gate and up take turns. Where there are
    /// none, the tensors are not so called.
    pub(crate) fn in_blocks(
        weights: &Weights<'_>,
        args: ExpertArgs,
        router: Router,
    ) -> Result<Option<Self>, ModelError> {
        let Some(layout) = ExpertLayout::of_stacked(weights, "gate_up_proj_blocks") else { return Ok(None) };
        let ExpertArgs { dims: ExpertDims { n_experts, hidden, intermediate }, bias, activation } = args;
        let linear = |input, output| weights.linear_in(Some(BLOCKS), input, output, bias);
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
            // The same bytes, four in a word.
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

    /// Experts like `template` at the path of `weights`, whose parameters lie where `place` says: of each it gets key, shape
    /// and kind.
    fn placed(
        weights: &Weights<'_>,
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

    /// Bytes of one expert.
    pub(crate) fn expert_bytes(&self) -> u64 {
        let n_experts = self.dims.n_experts as u64;
        let bytes = |tensors: &Tensors| match tensors {
            Tensors::Stacked(tensor) => tensor.span.len_bytes() / n_experts.max(1),
            Tensors::Each(tensors) => tensors.first().map_or(0, |tensor| tensor.span.len_bytes()),
            Tensors::Rows { first, .. } => first.span.len_bytes(),
        };
        self.parameters.iter().map(|(_, place)| bytes(&place.tensors) / place.n_chunks).sum()
    }

    /// What is to be read beside one of so many experts that are.
    pub(crate) fn queued_bytes(&self, n_experts: usize) -> u64 {
        self.expert_bytes() * n_experts.saturating_sub(1) as u64
    }

    /// A slot that any of them fits: each extent may be widened to whole blocks at both of its ends.
    pub(crate) fn slot_bytes(&self) -> usize {
        let blocks_bytes = 2 * DIRECT_ALIGN * self.parameters.len();
        (self.expert_bytes() as usize + blocks_bytes).next_multiple_of(DIRECT_ALIGN)
    }

    /// Numbers that passing `n_tokens` through it takes beside hidden states: what is sent and what comes back for all of
    /// them, their scores, and two waves of rows.
    pub(crate) fn activation_values(&self, n_tokens: u64) -> u64 {
        let [hidden, intermediate] = [self.dims.hidden, self.dims.intermediate].map(|extent| extent as u64);
        let rows = (super::prompt::WAVE_ROWS as u64).min(n_tokens * self.router.top_k as u64);
        let sent = n_tokens * (4 * hidden + 2 * self.dims.n_experts as u64);
        // Gate, up and what passes; where gate and up come as one, MLX takes them apart first.
        let n_inner = if self.template.gate_proj.is_some() { 3 } else { 5 };
        sent + 2 * rows * (2 * hidden + n_inner * intermediate)
    }

    /// What MLX may take beside an expert to widen its half-precision numbers.
    pub(crate) fn widened_bytes(&self) -> u64 {
        self.bundle(0).widened_bytes()
    }

    /// What is read for an expert.
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

    /// The experts as rows of one tensor; none if they are that already.
    pub(crate) fn as_rows(&self) -> Option<ExpertRows> {
        let experts = (0..self.dims.n_experts).map(|expert_idx| self.tensors_of(expert_idx));
        Some(ExpertRows { name: rows_name(&self.path), experts: experts.collect::<Option<_>>()? })
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
        // What has several of them is one.
        let first = self.parameters.iter().filter(|(_, place)| place.chunk_idx == 0);
        first.map(|(_, place)| tensor(&place.tensors)).collect()
    }

    /// An expert that was read into a slot, which goes back when nobody has the expert, or computes with it, any more.
    pub(crate) fn bind(&self, bundle: &Bundle, slot: Slot) -> Result<Expert, Exception> {
        let arrays = mlx::views(slot, (), &bundle.views())?;
        let mut expert = self.template.clone();
        let keys = self.parameters.iter().map(|(key, _)| Rc::from(key.as_str()));
        update_parameters(&mut expert, keys.zip(arrays).collect::<HashMap<Rc<str>, Array>>());
        Ok(expert)
    }
}
