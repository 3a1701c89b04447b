//! HTTP for all dialects: bodies, errors, streams, guards.

pub(crate) mod app;
pub(crate) mod body;
pub(crate) mod choices;
pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod reply;
pub(crate) mod routes;
pub(crate) mod stream;
pub(crate) mod whole;
