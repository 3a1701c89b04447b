//! loom's mutex and condition variable behind the part of `parking_lot`'s interface that this crate uses.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use loom::sync;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// A locked [`Mutex`].
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a sync::Mutex<T>,
    /// `None` only while waiting for a condition.
    guard: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let mut guard = MutexGuard { mutex: &self.0, guard: None };
        guard.lock();
        guard
    }
}

impl<T> MutexGuard<'_, T> {
    fn lock(&mut self) {
        self.guard = Some(self.mutex.lock().expect("a panic ends the model"));
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_deref().expect("the guard holds the lock except while waiting")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_deref_mut().expect("the guard holds the lock except while waiting")
    }
}

/// Condition variable without time, which a model does not have.
///
/// A wait with a limit ends after other threads ran, as many as the model tries, none in one of its runs. A wait
/// limited to `Duration::MAX` ends only when notified.
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let locked = guard.guard.take().expect("the guard holds the lock except while waiting");
        guard.guard = Some(self.0.wait(locked).expect("a panic ends the model"));
    }

    pub(crate) fn wait_while<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) {
        while condition(guard) {
            self.wait(guard);
        }
    }

    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Duration,
    ) -> WaitTimeoutResult {
        if limit == Duration::MAX {
            self.wait_while(guard, &mut condition);
        } else if condition(guard) {
            time_out(guard);
        }
        WaitTimeoutResult(condition(guard))
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> WaitTimeoutResult {
        time_out(guard);
        WaitTimeoutResult(true)
    }
}

fn time_out<T>(guard: &mut MutexGuard<'_, T>) {
    guard.guard = None;
    guard.lock();
}
