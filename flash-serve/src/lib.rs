//! An HTTP server for language models that speaks the OpenAI, Anthropic and Ollama APIs.
//!
//! Every API is a translation to one [`GenerateRequest`] and from one stream of [`Event`]s. The engine behind them is a
//! [`Backend`]; the server knows nothing of models, and an engine nothing of HTTP.
//!
//! | API | routes |
//! |---|---|
//! | OpenAI | `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/models` |
//! | Anthropic | `/v1/messages`, `/v1/messages/count_tokens` |
//! | Ollama | `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/ps`, `/api/version`, `/api/embed`, `/api/pull` |
//! | others | `/health`, `/metrics`, `/state`, `/state/events` |
//!
//! ```no_run
//! use std::sync::Arc;
//! use flash_serve::{Backend, Server, ServerConfig, Shutdown};
//!
//! # async fn serve(backend: Arc<dyn Backend>) -> Result<(), flash_serve::ServeError> {
//! let (handle, shutdown) = Shutdown::new();
//! let server = Server::bind(&ServerConfig::default(), backend, shutdown).await?;
//! println!("http://{}", server.local_addr());
//! // `handle.drain()` answers the requests that are there and ends; `handle.stop()` cancels them.
//! server.run().await;
//! # drop(handle);
//! # Ok(())
//! # }
//! ```

mod config;
mod dialect;
mod engine;
mod error;
mod http;
mod ids;
mod json;
mod keys;
mod metrics;
mod monitor;
mod request;
mod server;
mod shutdown;
mod time;

pub use config::{DEFAULT_PORT, Limits, ServerConfig};
pub use engine::{
    Backend, BudgetState, CallStart, Capabilities, Counters, Done, Embeddings, EngineError, EngineState,
    Event, EventSender, FinishReason, Generation, LayerState, Loaded, ModelInfo, Phase, PullProgress,
    Refusal, RequestState, ResidentState, SendError, Started, Text, Timings, TokenLogprob, Usage,
};
pub use error::ServeError;
pub use json::Json;
pub use keys::ApiKeys;
pub use request::{
    Conversation, Effort, EmbedRequest, GenerateRequest, KeepAlive, Message, Part, Prompt, Reasoning,
    ResponseFormat, Role, Sampling, Tool, ToolCall, ToolChoice,
};
pub use server::Server;
pub use shutdown::{Shutdown, ShutdownHandle};
