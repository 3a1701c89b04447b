//! Creation of io_uring instances.

use std::io;
use std::sync::OnceLock;

use io_uring::IoUring;
use rustix::io::Errno;

/// Checks whether this process can create an io_uring; the result is cached.
///
/// # Errors
/// The operating system's error.
pub(crate) fn availability() -> io::Result<()> {
    static REFUSED: OnceLock<Option<io::Error>> = OnceLock::new();
    match REFUSED.get_or_init(|| build(1).err()) {
        None => Ok(()),
        Some(error) => match error.raw_os_error() {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(error.kind().into()),
        },
    }
}

/// Creates an io_uring with room for `entries` submissions.
///
/// # Errors
/// The operating system's error; [`io::ErrorKind::Unsupported`] before Linux 5.11.
pub(crate) fn build(entries: u32) -> io::Result<IoUring> {
    // With these flags the kernel completes reads when this thread enters it, instead of interrupting it (Linux 6.1).
    let deferred =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_clamp().build(entries);
    let ring = match deferred {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().setup_clamp().build(entries)
        }
        other => other,
    }?;
    // Waiting with a timeout needs this feature (Linux 5.11).
    if ring.params().is_feature_ext_arg() { Ok(ring) } else { Err(io::ErrorKind::Unsupported.into()) }
}
