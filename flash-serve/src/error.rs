//! Errors of starting a server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A reason why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Other machines could use the server without a key.
    #[error("{address} can be reached from other machines; that needs API keys, or to be allowed without")]
    NoKeys {
        /// The address.
        address: SocketAddr,
    },
    /// The file of keys cannot be read.
    #[error("{path}: {source}")]
    ReadKeys {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of keys has none.
    #[error("{path}: has no key")]
    EmptyKeys {
        /// The file.
        path: PathBuf,
    },
    /// A key cannot be sent in a header.
    #[error("{path}:{line}: a key consists of visible ASCII characters")]
    InvalidKey {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
    },
    /// An origin is not of the form `scheme://host[:port]`.
    #[error("'{origin}' is not an origin such as http://localhost:3000")]
    InvalidOrigin {
        /// The origin.
        origin: String,
    },
}
