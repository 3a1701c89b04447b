//! Settings of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::error::ServeError;
use crate::keys::ApiKeys;

/// Port that `flash-cli serve` listens on; Ollama's is 11434.
pub const DEFAULT_PORT: u16 = 11435;

/// Settings of a server. Create with [`default`](Self::default), then set fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address to listen on: `127.0.0.1:11435` by default. Port 0 takes a free one.
    pub address: SocketAddr,
    /// Keys, one of which a request must have; none by default.
    pub keys: ApiKeys,
    /// Listen on an address that other machines reach although there are no keys.
    pub allow_without_keys: bool,
    /// Names of hosts that requests may be addressed to, besides `localhost` and IP addresses. A page of another site can
    /// only reach the server under a name of that site (DNS rebinding).
    pub allowed_hosts: Vec<String>,
    /// Origins of pages that may call the server, such as `http://localhost:3000`.
    pub cors_origins: Vec<String>,
    /// Longest silence in a stream before a sign of life is sent: 10 s by default.
    pub keep_alive_interval: Duration,
    /// Bounds on requests.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            keys: ApiKeys::default(),
            allow_without_keys: false,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            keep_alive_interval: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

impl ServerConfig {
    /// Checks that settings fit together.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        let is_open = self.keys.is_empty() && !self.allow_without_keys;
        if is_open && !self.address.ip().is_loopback() {
            return Err(ServeError::NoKeys { address: self.address });
        }
        Ok(())
    }
}

/// Bounds on requests. Each is answered with a status of 400 to 499 if exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time: 512. Others wait.
    pub connections: usize,
    /// Number of headers: 100.
    pub headers: usize,
    /// Bytes of the request line and all headers: 64 KiB.
    pub header_bytes: usize,
    /// Time in which all headers must arrive, and after which an idle connection is closed: 30 s.
    pub header_timeout: Duration,
    /// Bytes of a body: 16 MiB.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being received or parsed: 64 MiB.
    pub all_bodies_bytes: usize,
    /// Time in which the body must arrive: 60 s.
    pub body_timeout: Duration,
    /// Time in which a client must take what was sent before its connection is closed: 300 s.
    pub write_timeout: Duration,
    /// JSON values in a body: 100,000.
    pub json_values: usize,
    /// Messages of a conversation: 10,000.
    pub messages: usize,
    /// Tools: 512.
    pub tools: usize,
    /// Stop strings: 16.
    pub stops: usize,
    /// Answers to one request: 16.
    pub choices: usize,
    /// Generated tokens: 2^20.
    pub max_tokens: usize,
    /// Texts in one request for embeddings: 2,048.
    pub inputs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            headers: 100,
            header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(30),
            body_bytes: 16 << 20,
            all_bodies_bytes: 64 << 20,
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(300),
            json_values: 100_000,
            messages: 10_000,
            tools: 512,
            stops: 16,
            choices: 16,
            max_tokens: 1 << 20,
            inputs: 2048,
        }
    }
}
