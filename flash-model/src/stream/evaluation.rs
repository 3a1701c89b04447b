//! When MLX is told to evaluate the outputs of layers: early enough that the processors are busy, and seldom enough that telling
//! costs little.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::async_eval;

use crate::compute::Value;

/// The outputs of a pass that are not computed yet.
#[derive(Debug, Default)]
pub(super) struct Evaluation {
    /// The latest output that was not submitted.
    lazy: Option<Value>,
    /// Layers run since the last submission, and layers that it covered.
    n_lazy: usize,
    n_submitted: usize,
    /// The output that is computing, or was computed last.
    in_flight: Option<Array>,
}

impl Evaluation {
    /// Forgets what an earlier pass has left to be computed.
    pub(super) fn begin_pass(&mut self) {
        self.lazy = None;
        (self.n_lazy, self.n_submitted) = (0, 0);
    }

    /// Adds the output of a layer, and submits it unless the layer is pinned.
    ///
    /// Outputs of pinned layers are submitted together: with that of the next streamed layer, when that has to be waited for, or
    /// when they are twice as many as those submitted before. So the processors have something to do while more layers are
    /// prepared, and there are few submissions. If the model does not stream at all, the last output is submitted by whoever
    /// evaluates the logits.
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

    /// Submits the next chunk of a prompt, and the arrays `beside` it, and waits for the chunk before.
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

    /// Begins to compute `output` without waiting: the next layer is prepared meanwhile. Slots that it computes with come back
    /// when it is done, if nobody else holds their arrays.
    fn submit(&mut self, output: &Array) -> Result<(), Exception> {
        async_eval([output])?;
        self.lazy = None;
        (self.n_submitted, self.n_lazy) = (self.n_lazy, 0);
        self.in_flight = Some(output.clone());
        Ok(())
    }
}
