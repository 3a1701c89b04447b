//! The server over real sockets, with an engine that answers from a script.

mod anthropic;
mod any_body;
mod attacks;
mod cancel;
mod clients;
mod completions;
mod keep_alive;
mod load;
mod mock;
mod monitor;
mod ollama;
mod openai;
mod responses;
mod safety;
mod shutdown;
mod support;
