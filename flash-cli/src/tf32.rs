//! MLX's setting of the precision of f32 products on Apple's GPUs.
//!
//! GPUs with matrix units (M5, with macOS 26.2 or newer) multiply f32 as TF32 by default, with 10 bits of mantissa, and a
//! prompt rounds differently from the tokens after it. No Mac has run this yet.

use std::env;
use std::ffi::OsStr;

const VARIABLE: &str = "MLX_ENABLE_TF32";

/// Disables TF32, unless the user has set MLX's variable for it. To be called before anything else in `main`.
pub(crate) fn disable() {
    if let Some(value) = default_for(env::var_os(VARIABLE).as_deref()) {
        set(value);
    }
}

/// Logs the setting.
pub(crate) fn log() {
    if let Ok(value) = env::var(VARIABLE) {
        tracing::debug!("{VARIABLE}={value}");
    }
}

/// Returns the value to set, given the user's.
fn default_for(given: Option<&OsStr>) -> Option<&'static str> {
    (given.is_none() && cfg!(target_os = "macos")).then_some("0")
}

#[expect(unsafe_code, reason = "MLX reads the setting from the environment only")]
fn set(value: &str) {
    // SAFETY: `main` calls this before it does anything else, so this program has started no other thread.
    unsafe { env::set_var(VARIABLE, value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_is_disabled_on_macs_unless_the_user_decides() {
        assert_eq!(default_for(Some(OsStr::new("1"))), None);
        assert_eq!(default_for(None), cfg!(target_os = "macos").then_some("0"));
    }
}
