//! The scheduling class of reader threads on macOS.

/// Raises the calling thread to the user-initiated class, which keeps it on the performance cores and its reads out of
/// the throttled I/O class.
pub(super) fn user_initiated() {
    #[expect(unsafe_code, reason = "setting a thread's class needs a C call")]
    // SAFETY: the call takes two values, no memory, and changes only the calling thread.
    let status =
        unsafe { libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_USER_INITIATED, 0) };
    if status != 0 {
        tracing::debug!(status, "a reader thread stays in the default class");
    }
}
