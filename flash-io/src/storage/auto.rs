//! Fallback to the first I/O mode that works.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::IoError;
use crate::mode::IoMode;

/// Modes tried by [`IoMode::Auto`], best first.
#[cfg(target_os = "linux")]
pub(crate) const ORDER: &[IoMode] = &[IoMode::Uring, IoMode::Direct, IoMode::Pread];
/// Modes tried by [`IoMode::Auto`], best first.
#[cfg(not(target_os = "linux"))]
pub(crate) const ORDER: &[IoMode] = &[IoMode::Direct, IoMode::Pread];

/// Returns the first mode of `order` in which `open` succeeds, with its result.
///
/// Warns about an unsupported mode once per process.
///
/// # Errors
/// The error of the last mode, or the first error that does not say that a mode is unsupported.
pub(crate) fn first_that_works<T>(
    order: &[IoMode],
    mut open: impl FnMut(IoMode) -> Result<T, IoError>,
) -> Result<(IoMode, T), IoError> {
    let (last, others) = order.split_last().expect("there is a mode to fall back to");
    for &mode in others {
        match open(mode) {
            Ok(opened) => return Ok((mode, opened)),
            Err(error) if is_unsupported_mode(&error) => report(mode, &error),
            Err(error) => return Err(error),
        }
    }
    open(*last).map(|opened| (*last, opened))
}

fn is_unsupported_mode(error: &IoError) -> bool {
    matches!(
        error,
        IoError::UringUnsupported { .. }
            | IoError::DirectUnsupported { .. }
            | IoError::DirectAlignment { .. }
    )
}

fn report(mode: IoMode, error: &IoError) {
    static REPORTED: AtomicU8 = AtomicU8::new(0);
    let bit = 1 << mode as u8;
    if REPORTED.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        tracing::warn!(%error, "{mode} reads are not used");
    } else {
        tracing::debug!(%error, "{mode} reads are not used");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsupported(mode: IoMode) -> IoError {
        let path = "shard".into();
        match mode {
            IoMode::Uring => IoError::UringUnsupported {
                path,
                error: std::io::ErrorKind::PermissionDenied.into(),
                alternative: IoMode::Direct,
            },
            _ => IoError::DirectUnsupported { path, alternative: IoMode::Pread },
        }
    }

    #[test]
    fn uring_falls_back_to_direct_and_that_to_pread() {
        let order = [IoMode::Uring, IoMode::Direct, IoMode::Pread];
        for n_broken in 0..order.len() {
            let mut asked = Vec::new();
            let (found, ()) = first_that_works(&order, |mode| {
                asked.push(mode);
                if order[..n_broken].contains(&mode) { Err(unsupported(mode)) } else { Ok(()) }
            })
            .unwrap();
            assert_eq!(found, order[n_broken]);
            assert_eq!(asked, order[..=n_broken]);
        }
    }

    #[test]
    fn file_that_is_not_there_is_looked_for_once() {
        let mut n_asked = 0;
        let error = first_that_works(ORDER, |_| -> Result<(), _> {
            n_asked += 1;
            Err(IoError::Open { path: "shard".into(), error: std::io::ErrorKind::NotFound.into() })
        });
        assert!(matches!(error, Err(IoError::Open { .. })));
        assert_eq!(n_asked, 1);
    }
}
