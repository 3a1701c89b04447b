//! Scheduling of MLX evaluation: early enough to keep the processors busy, and seldom enough that submitting costs
//! little.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::async_eval;

use crate::compute::Value;

/// The outputs of a pass that are not computed yet.
#[derive(Debug, Default)]
pub(super) struct Evaluation {
    /// Latest output that was not submitted.
    lazy: Option<Value>,
    /// Layers run since the last submission, and layers covered by it.
    n_lazy: usize,
    n_submitted: usize,
    /// The output submitted last.
    in_flight: Option<Array>,
}

impl Evaluation {
    /// Discards unevaluated outputs of an earlier pass.
    pub(super) fn begin_pass(&mut self) {
        self.lazy = None;
        (self.n_lazy, self.n_submitted) = (0, 0);
    }

    /// Adds the output of a layer, and submits it unless the layer is pinned.
    ///
    /// Outputs of pinned layers are submitted in groups: with the output of the next streamed layer, when that layer
    /// has to be waited for, or when the group is twice as large as the last one. The processors thus have work while
    /// more layers are prepared, with few submissions. In a fully pinned model, the last output is evaluated with the
    /// logits.
    pub(super) fn add(&mut self, output: &Value, is_pinned: bool, streams: bool) -> Result<(), Exception> {
        self.n_lazy += 1;
        if !is_pinned || self.n_lazy > 2 * self.n_submitted {
            return self.submit(&output.array()?);
        }
        if streams {
            self.lazy = Some(output.clone());
        }
        Ok(())
    }

    /// Submits the next chunk of a prompt and the arrays `beside` it, then waits for the chunk before.
    pub(super) fn submit_chunk<'a>(
        &mut self,
        output: &'a Array,
        beside: impl Iterator<Item = &'a Array>,
    ) -> Result<(), Exception> {
        let before = self.in_flight.take();
        async_eval(beside)?;
        self.submit(output)?;
        before.map_or(Ok(()), |before| before.eval())
    }

    /// Waits until all outputs are computed.
    pub(super) fn finish(&mut self) -> Result<(), Exception> {
        if let Some(lazy) = self.lazy.take() {
            self.submit(&lazy.array()?)?;
        }
        self.in_flight.take().map_or(Ok(()), |output| output.eval())
    }

    /// Submits `output` without waiting, so that the next layer is prepared meanwhile. Slots return when their kernels
    /// are done, if nothing else holds their arrays.
    fn submit(&mut self, output: &Array) -> Result<(), Exception> {
        async_eval([output])?;
        self.lazy = None;
        (self.n_submitted, self.n_lazy) = (self.n_lazy, 0);
        self.in_flight = Some(output.clone());
        Ok(())
    }
}
