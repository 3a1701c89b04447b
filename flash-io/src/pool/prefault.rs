//! Background prefaulting: memory is touched before it is needed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread;

use super::free_list::FreeList;
use crate::pages::PageBuf;
use crate::sync::Mutex;

/// Minimum bytes of a pool that are worth a thread.
pub(super) const BYTES_MIN: u64 = 256 << 20;

/// Prefaults slots in a background thread, and adds each to the free list.
///
/// If the thread cannot be started, all slots are added as they are.
pub(super) fn start(free_list: &Arc<FreeList>, unfaulted: VecDeque<PageBuf>) {
    // Shared, because a failure to start the thread drops what its closure owns.
    let unfaulted = Arc::new(Mutex::new(unfaulted));
    let (weak, thread_unfaulted) = (Arc::downgrade(free_list), Arc::clone(&unfaulted));
    let body = move || {
        lower_priority();
        while let Some(pages) = prefault_next(&thread_unfaulted)
            && add(&weak, pages)
        {}
    };
    if let Err(error) = thread::Builder::new().name("flash-warm".to_owned()).spawn(body) {
        tracing::debug!(%error, "slots are not prefaulted");
        while let Some(pages) = unfaulted.lock().pop_front() {
            free_list.add_prefaulted(pages);
        }
    }
}

fn prefault_next(unfaulted: &Mutex<VecDeque<PageBuf>>) -> Option<PageBuf> {
    let mut pages = unfaulted.lock().pop_front()?;
    pages.prefault();
    Some(pages)
}

/// Adds a slot to the free list; `false` if the pool is gone or closed.
fn add(free_list: &Weak<FreeList>, pages: PageBuf) -> bool {
    let Some(free_list) = free_list.upgrade() else { return false };
    free_list.add_prefaulted(pages)
}

/// Gives the calling thread the lowest priority, so that threads that compute or read run first.
fn lower_priority() {
    // Linux only: elsewhere the call changes the priority of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
        tracing::debug!(%error, "memory is prefaulted at normal priority");
    }
}

/// Lowest priority, as a `nice` value.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;
