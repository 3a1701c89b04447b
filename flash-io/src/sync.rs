//! Locks and atomics of what threads share: the usual ones, or loom's when the state machine is model-checked.
//!
//! `Arc` is the standard library's in both: who counts references is not in question.

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
