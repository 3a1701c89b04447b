//! Log messages of the libraries, on standard error.

use anstream::{AutoStream, ColorChoice};
use tracing::Level;

/// Installs the subscriber: warnings and errors, or everything down to debug messages.
pub(crate) fn init(debug: bool) {
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_max_level(if debug { Level::DEBUG } else { Level::WARN })
        .with_ansi(AutoStream::choice(&stderr()) != ColorChoice::Never)
        .without_time()
        .with_writer(stderr)
        .init();
}
