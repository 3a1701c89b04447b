//! What the libraries say of themselves, on standard error.

use anstream::{AutoStream, ColorChoice};
use tracing::Level;

/// Shows warnings, or everything.
pub(crate) fn show(debug: bool) {
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_max_level(if debug { Level::DEBUG } else { Level::WARN })
        .with_ansi(AutoStream::choice(&stderr()) != ColorChoice::Never)
        .without_time()
        .with_writer(stderr)
        .init();
}
