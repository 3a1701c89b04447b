//! Listening, serving connections, and stopping.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::connection::Connections;
use crate::config::{Limits, ServerConfig};
use crate::engine::Backend;
use crate::error::ServeError;
use crate::http::app::App;
use crate::http::routes;
use crate::shutdown::Shutdown;

/// Pause after a connection could not be accepted, usually because files ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
}

impl Server {
    /// Listens on the address of `config`. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// [`ServeError::Bind`], and others if settings are invalid or do not fit together.
    pub async fn bind(
        config: &ServerConfig,
        backend: Arc<dyn Backend>,
        shutdown: Shutdown,
    ) -> Result<Self, ServeError> {
        config.check()?;
        let app = Arc::new(App::new(config, backend, shutdown.clone()));
        let router = routes::router(config, app)?;
        let bind_error = |source| ServeError::Bind { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self { listener, address, router, limits: config.limits, shutdown })
    }

    /// Returns the address that the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is shut down: when it drains, all requests are answered first; when it stops, they are cancelled.
    pub async fn run(self) {
        let connections = Connections::new(self.router, self.limits, self.shutdown.clone());
        let free = Arc::new(Semaphore::new(self.limits.connections));
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = self.shutdown.draining() => break,
                (stream, permit) = accept(&self.listener, &free) => {
                    let connection = connections.serve(stream);
                    tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Some(_) = tasks.join_next() => {}
            }
        }
        drop(self.listener);
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = self.shutdown.stopped() => {}
        }
        // Waits until connections are dropped, and with them their generations.
        tasks.shutdown().await;
    }
}

/// Accepts a connection as soon as there are fewer than may be.
async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = Arc::clone(free).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!("cannot accept connections: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns whether the error is about a connection that its client closed before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
