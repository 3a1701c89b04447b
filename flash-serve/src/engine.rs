//! The engine behind the server.

mod event;
mod generation;
mod model;
mod refusal;
mod state;

use crate::request::{EmbedRequest, GenerateRequest, KeepAlive};

pub use event::{CallStart, Done, Event, FinishReason, Started, Text, Timings, TokenLogprob, Usage};
pub use generation::{EventSender, Generation, SendError};
pub use model::{Capabilities, Loaded, ModelInfo};
pub use refusal::{EngineError, Refusal};
pub use state::{
    BudgetState, Counters, EngineState, LayerState, Phase, PullProgress, RequestState, ResidentState,
};

/// Vectors of an [`EmbedRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One vector an input, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all inputs.
    pub prompt_tokens: usize,
}

/// An engine that answers requests.
///
/// [`models`](Self::models) and [`state`](Self::state) are called on the server's threads and must return at once, from a
/// snapshot. The others are called on threads that may block, for rendering and tokenizing a prompt or reading a file.
/// All may be called from several threads at the same time.
pub trait Backend: Send + Sync + 'static {
    /// Lists the models that can be asked for, loaded or not.
    fn models(&self) -> Vec<ModelInfo>;

    /// Returns what the engine is doing.
    fn state(&self) -> EngineState;

    /// Admits a request. Its events may begin much later, as it may wait for others and for its model.
    ///
    /// A request is computed only as long as its [`Generation`] exists.
    ///
    /// # Errors
    /// [`Refusal`] if the request cannot be answered, or not now.
    fn submit(&self, request: GenerateRequest) -> Result<Generation, Refusal>;

    /// Returns the number of tokens of the request's prompt.
    ///
    /// # Errors
    /// [`Refusal`], as [`submit`](Self::submit) would for the same prompt.
    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, Refusal>;

    /// Loads a model and sets how long it stays after its last request; unloads it if that is no time at all.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such model or it does not fit.
    fn load(&self, model: &str, keep_alive: Option<KeepAlive>) -> Result<(), Refusal>;

    /// Computes embeddings. By default, no model can.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] if the model cannot, and others as in [`submit`](Self::submit).
    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Refusal> {
        Err(Refusal::Unsupported { model: request.model, what: "embeddings".to_owned() })
    }

    /// Downloads a model. `report` is called as it progresses, and returns whether anyone still listens; the download may
    /// end early if not. By default, no model can be downloaded.
    ///
    /// # Errors
    /// [`Refusal`] if the model cannot be downloaded.
    fn pull(&self, model: &str, report: &mut dyn FnMut(PullProgress) -> bool) -> Result<(), Refusal> {
        let _ = report;
        Err(Refusal::Unsupported { model: model.to_owned(), what: "download through the server".to_owned() })
    }
}
