//! The streaming proxy: a layer whose weights are loaded when it runs and released afterwards.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use flash_kernels::Strips;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::{Module, ModuleParameters, update_parameters};

use crate::ModelError;
use crate::checkpoint::{Checkpoint, TensorKind};
use crate::compute::{Backend, Value};
use crate::mlx;
use crate::nn::fused::{Fused, Place};
use crate::stream::bundle::{Bundle, BundleIdx, Bundles, Part};
use crate::stream::residency::Residency;
use crate::stream::strips;

/// A streamed layer: wraps any `mlx-rs` [`Module`].
///
/// [`forward`](Self::forward) waits for the layer's bundle, binds it as zero-copy views, runs the layer's own forward,
/// submits the output for evaluation, and unbinds the weights. The slot is free when the last kernel that reads it has
/// run. A pinned layer is bound once; from then on the proxy adds nothing, and its output
/// is as lazy as the layer makes it.
#[derive(Debug)]
pub struct StreamingProxy<M: ?Sized> {
    bundle: BundleIdx,
    /// The parameters, in the order of the bundle's parts, with the placeholders for when they are not loaded.
    parameters: Vec<(Rc<str>, Array)>,
    /// Parameters that the layer derives from the others while they are loaded, with their placeholders.
    derived: Vec<(Rc<str>, Array)>,
    /// The bundle's parts that are repacked once the layer is pinned, by index, and the strips they are repacked into.
    strips: Vec<(usize, Strips)>,
    is_bound: bool,
    module: Box<M>,
}

impl<M: ModuleParameters + ?Sized> StreamingProxy<M> {
    /// Creates a proxy around `module`, whose parameters are the checkpoint's tensors below `path`, and adds its bundle
    /// to `bundles`. Proxies must be created in execution order.
    ///
    /// The module's initial parameters define the expected shapes and dtypes, and serve as placeholders while it has no
    /// weights: `mlx_rs::ops::zeros` takes no memory until it is evaluated. A parameter without elements is derived by
    /// the layer from the others when it runs: it has no tensor, and is reset to its placeholder when the others are
    /// released.
    ///
    /// # Errors
    /// [`ModelError`] for a tensor that is missing or has another shape or dtype than its parameter.
    pub fn new(
        module: Box<M>,
        path: &str,
        checkpoint: &Checkpoint,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        Self::with_fused(module, path, &[], checkpoint, bundles)
    }

    /// Creates a proxy around `module`, some of whose tensors are rows of fused tensors of the checkpoint.
    pub(crate) fn with_fused(
        module: Box<M>,
        path: &str,
        fused: &[Fused],
        checkpoint: &Checkpoint,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let place = |name: &str| Fused::place(fused, name);
        Self::build(module, path, path.to_owned(), place, checkpoint, bundles)
    }

    /// Creates a proxy around a layer that has only some rows of each tensor below `path`, out of `n_rows` along the
    /// first axis.
    pub(crate) fn with_rows(
        module: Box<M>,
        (path, rows, n_rows): (&str, Range<u64>, u64),
        fused: &[Fused],
        checkpoint: &Checkpoint,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let name = format!("{path}[{}..{}]", rows.start, rows.end);
        let place = |name: &str| Fused::place(fused, name).rows(&rows, n_rows);
        Self::build(module, path, name, place, checkpoint, bundles)
    }

    fn build(
        mut module: Box<M>,
        path: &str,
        name: String,
        place: impl Fn(&str) -> Place,
        checkpoint: &Checkpoint,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let mut parameters: Vec<(Rc<str>, Array)> = module
            .parameters_mut()
            .flatten()
            .into_iter()
            .map(|(key, parameter)| (key, parameter.clone()))
            .collect();
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let (derived, parameters): (Vec<_>, Vec<_>) =
            parameters.into_iter().partition(|(_, placeholder)| placeholder.size() == 0);
        let mut parts = Vec::with_capacity(parameters.len());
        for (key, placeholder) in &parameters {
            let kind = TensorKind::of(placeholder.dtype());
            let mut shape: Vec<u64> = placeholder.shape().iter().map(|&extent| extent as u64).collect();
            let Place { name, rows } = place(&tensor_name(path, key));
            let (rows, n_rows) = rows.unwrap_or_else(|| (0..shape[0], shape[0]));
            shape[0] = n_rows;
            parts.push(Part::rows(checkpoint.tensor(&name, &shape, kind)?, &rows));
        }
        let bundle = bundles.push(Bundle::new(name, parts));
        Ok(Self { bundle, parameters, derived, strips: Vec::new(), is_bound: false, module })
    }

    /// Marks the parts whose codes `backend` reads fastest in strips. They are repacked once the layer is pinned;
    /// repacking a streamed layer would cost time at every load.
    pub(crate) fn with_strips(
        mut self,
        backend: &Backend,
        checkpoint: &Checkpoint,
        bundles: &Bundles,
    ) -> Self {
        // MLX reads the matrices of a layer that derives others from them, and MLX only knows rows.
        if self.derived.is_empty() {
            let parts = &bundles.as_slice()[self.bundle.0].parts;
            let keys: Vec<_> = self.parameters.iter().map(|(key, _)| Rc::clone(key)).collect();
            self.strips = strips::preferred(backend, checkpoint, &keys, parts);
        }
        self
    }

    /// Runs the layer on one input. Unless the layer is pinned, the output is being computed when this returns.
    ///
    /// # Errors
    /// Errors of reading the bundle and of the layer's own forward; the layer is then without weights, as before.
    pub fn forward<In>(&mut self, residency: &mut Residency, input: In) -> Result<Array, ModelError>
    where
        M: Module<In, Output = Array, Error = Exception>,
    {
        let output = self.run(residency, |module| Ok(module.forward(input)?.into()))?;
        Ok(output.array()?)
    }

    /// Runs `body` on the layer and schedules the evaluation of its output.
    pub(crate) fn run(
        &mut self,
        residency: &mut Residency,
        body: impl FnOnce(&mut M) -> Result<Value, Exception>,
    ) -> Result<Value, ModelError> {
        let output = self.scope(residency, |module, _, _| Ok(body(module)?))?;
        residency.schedule_output(self.bundle, &output)?;
        Ok(output)
    }

    /// Runs `body` on the layer while its weights are loaded. The last argument of `body` says whether they stay
    /// loaded. If they do not, the result of `body` should be evaluated or submitted: the slot is free again only when
    /// no kernel reads it.
    ///
    /// # Errors
    /// Errors of reading the bundle, and those of `body`.
    pub fn scope<T>(
        &mut self,
        residency: &mut Residency,
        body: impl FnOnce(&mut M, &mut Residency, bool) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        self.bind(residency)?;
        let stays = residency.is_pinned(self.bundle);
        if stays {
            residency.record_pinned(self.bundle);
        }
        let outcome = body(&mut self.module, residency, stays);
        // `body` may have changed the plan.
        if !stays || !residency.is_pinned(self.bundle) {
            self.unbind();
        }
        outcome
    }

    /// Returns the layer, if its weights are loaded.
    pub(crate) fn bound(&mut self) -> Option<&mut M> {
        self.is_bound.then_some(&mut *self.module)
    }

    fn bind(&mut self, residency: &mut Residency) -> Result<(), ModelError> {
        if self.is_bound {
            return Ok(());
        }
        let (mut slot, release_timer) = residency.acquire(self.bundle)?;
        let mut views = residency.bundle(self.bundle).views();
        if residency.is_pinned(self.bundle) {
            for &(idx, strips) in &self.strips {
                strips::rearrange(&mut slot, &mut views[idx], strips);
            }
        }
        let arrays = mlx::views(slot, release_timer, &views)
            .map_err(|error| residency.bundle(self.bundle).view_error(error))?;
        let keys = self.parameters.iter().map(|(key, _)| Rc::clone(key));
        set_parameters(&mut *self.module, keys.zip(arrays));
        self.is_bound = true;
        Ok(())
    }

    fn unbind(&mut self) {
        set_parameters(&mut *self.module, self.parameters.iter().chain(&self.derived).cloned());
        self.is_bound = false;
    }
}

/// An owner of weights that can be released.
pub(crate) trait WeightOwner {
    /// Returns the bundle of the weights.
    fn bundle(&self) -> BundleIdx;
    /// Returns whether the weights are loaded.
    fn is_bound(&self) -> bool;
    /// Releases the weights, if they are loaded. No kernel may be reading them.
    fn release(&mut self);
}

impl<M: ModuleParameters + ?Sized> WeightOwner for StreamingProxy<M> {
    fn bundle(&self) -> BundleIdx {
        self.bundle
    }

    fn is_bound(&self) -> bool {
        self.is_bound
    }

    fn release(&mut self) {
        if self.is_bound {
            self.unbind();
        }
    }
}

fn set_parameters<M: ModuleParameters + ?Sized>(
    module: &mut M,
    values: impl Iterator<Item = (Rc<str>, Array)>,
) {
    update_parameters(module, values.collect::<HashMap<_, _>>());
}

/// Returns the name of a parameter's tensor. mlx-rs nests the inner parameters of a quantized layer; checkpoints do
/// not.
fn tensor_name(path: &str, key: &str) -> String {
    let key = key.strip_prefix("inner.").unwrap_or(key).replace(".inner.", ".");
    format!("{path}.{key}")
}
