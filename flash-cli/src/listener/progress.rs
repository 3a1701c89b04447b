//! A progress bar for long prompts.

use std::time::Duration;

use flash_model::{Event, EventKind};
use indicatif::{ProgressBar, ProgressStyle};

/// Time after which the bar of a prompt is shown.
const SHOW_AFTER: Duration = Duration::from_secs(1);
const TEMPLATE: &str = "prompt {bar:30} {pos}/{len} tokens, {msg} read, {eta} left";

/// The progress bar of the current prompt, shown if the prompt takes long.
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
                if self.bar.is_none() && event.end.saturating_sub(event.start) > SHOW_AFTER {
                    // An invalid template is a bug, but no reason to fail: fall back to the default style.
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
