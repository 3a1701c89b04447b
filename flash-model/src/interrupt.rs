//! Interrupting a pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ModelError;

/// A flag that ends a pass with [`ModelError::Interrupted`].
///
/// A pass checks it between the chunks of a layer, between experts and between tiles of the head: each of these takes
/// little time, whatever the length of the prompt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    #[cfg(test)]
    countdown: Arc<countdown::Countdown>,
}

impl Interrupt {
    /// Returns the flag, which any thread may set.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Checks the flag.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] if the flag is set.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        #[cfg(test)]
        if self.countdown.has_ended() {
            return Err(ModelError::Interrupted);
        }
        if self.flag.load(Ordering::Relaxed) { Err(ModelError::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod countdown {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Interrupts a pass at its nth check.
    #[derive(Debug)]
    pub(super) struct Countdown(AtomicUsize);

    impl Default for Countdown {
        fn default() -> Self {
            Self(AtomicUsize::new(usize::MAX))
        }
    }

    impl Countdown {
        pub(super) fn has_ended(&self) -> bool {
            let left = self.0.load(Ordering::Relaxed);
            if left != usize::MAX {
                self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            }
            left == 0
        }
    }

    impl super::Interrupt {
        /// Fails every check after the next `checks` ones.
        pub(crate) fn after(&self, checks: usize) {
            self.countdown.0.store(checks, Ordering::Relaxed);
        }

        /// Lets all checks pass, and returns how many remain of those that [`after`](Self::after) allowed.
        pub(crate) fn never(&self) -> usize {
            self.countdown.0.swap(usize::MAX, Ordering::Relaxed)
        }
    }
}
