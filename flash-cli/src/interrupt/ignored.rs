//! Checks whether a signal is ignored, for which there is no safe interface.
#![expect(unsafe_code, reason = "sigaction has no safe wrapper")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

/// Whether the disposition of `signal` is to ignore it.
pub(super) fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call changes nothing, and `action` is valid for a write of its type.
    let status = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: a call that succeeds has written the action.
    status == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
