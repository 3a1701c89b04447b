//! How far a long prompt is, on a terminal.

use std::time::Duration;

use flash_model::{Event, EventKind};
use indicatif::{ProgressBar, ProgressStyle};

/// A prompt that takes no longer is not worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
const TEMPLATE: &str = "prompt {bar:30} {pos}/{len} tokens, {msg} read, {eta} left";

/// The bar of the prompt that is under way, if it takes long.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    read_bytes: u64,
}

impl Progress {
    pub(super) fn add(&mut self, event: &Event) {
        match event.kind {
            EventKind::Read { bytes, .. } => self.read_bytes += bytes,
            EventKind::Prompt { tokens_done, tokens } => {
                if self.bar.is_none() && event.end.saturating_sub(event.start) > PATIENCE {
                    // A template of ours: if it is wrong, the bar of the library does.
                    let style = ProgressStyle::with_template(TEMPLATE)
                        .unwrap_or_else(|_| ProgressStyle::default_bar());
                    let elapsed = event.end - event.start;
                    self.bar = Some(ProgressBar::new(tokens as u64).with_style(style).with_elapsed(elapsed));
                }
                if let Some(bar) = &self.bar {
                    bar.set_message(crate::size::Bytes(self.read_bytes).to_string());
                    bar.set_position(tokens_done as u64);
                }
            }
            EventKind::Pass { .. } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                self.read_bytes = 0;
            }
            _ => {}
        }
    }
}
