//! Locks and atomics of shared state: `parking_lot`'s and the standard library's, or loom's under model checking.
//!
//! `Arc` is the standard library's in both cases, because reference counts are not model-checked.

#[cfg(loom)]
mod checked;

#[cfg(loom)]
pub(crate) use checked::{Condvar, Mutex};
#[cfg(loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(loom))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic;
