//! Stopping a server in two steps.

use tokio::sync::watch;

/// The steps of a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Running,
    Draining,
    Stopped,
}

/// Stops a server.
#[derive(Debug, Clone)]
pub struct ShutdownHandle {
    step: watch::Sender<Step>,
}

/// The server's end of a [`ShutdownHandle`]. A server runs for ever if all its handles are dropped.
#[derive(Debug, Clone)]
pub struct Shutdown {
    step: watch::Receiver<Step>,
}

impl Shutdown {
    /// Creates a shutdown and its handle.
    pub fn new() -> (ShutdownHandle, Self) {
        let (sender, receiver) = watch::channel(Step::Running);
        (ShutdownHandle { step: sender }, Self { step: receiver })
    }

    /// Waits for [`ShutdownHandle::drain`] or [`ShutdownHandle::stop`].
    pub(crate) async fn draining(&self) {
        self.reached(Step::Draining).await;
    }

    /// Waits for [`ShutdownHandle::stop`].
    pub(crate) async fn stopped(&self) {
        self.reached(Step::Stopped).await;
    }

    async fn reached(&self, step: Step) {
        let mut receiver = self.step.clone();
        if receiver.wait_for(|current| *current >= step).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl ShutdownHandle {
    /// Accepts no more connections and requests, and lets the server end when all requests are answered.
    pub fn drain(&self) {
        self.advance(Step::Draining);
    }

    /// Ends the server without waiting. Requests are cancelled.
    pub fn stop(&self) {
        self.advance(Step::Stopped);
    }

    fn advance(&self, step: Step) {
        self.step.send_if_modified(|current| {
            let advances = *current < step;
            *current = (*current).max(step);
            advances
        });
    }
}
