//! Whether a signal is ignored, which no safe library tells.
#![expect(unsafe_code, reason = "sigaction has no safe wrapper")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

/// Whether the program was started with `signal` ignored.
pub(super) fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call changes nothing, and `action` is valid for a write of its type.
    let status = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: a call that succeeds has written the action.
    status == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
