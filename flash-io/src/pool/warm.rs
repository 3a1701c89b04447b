//! Memory that is touched before it is needed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread;

use super::Shelf;
use crate::pages::PageBuf;

/// Fewer bytes are not worth a thread.
pub(super) const BYTES_MIN: u64 = 256 << 20;

/// Touches slots, one by one, and puts each on the shelf. Without a thread for that they are there as they are.
pub(super) fn begin(shelf: &Arc<Shelf>, cold: VecDeque<PageBuf>) {
    // Shared: a thread that cannot be started would take what it owns with it.
    let cold = Arc::new(crate::sync::Mutex::new(cold));
    let (weak, theirs) = (Arc::downgrade(shelf), Arc::clone(&cold));
    let body = move || {
        yield_to_all_others();
        while let Some(pages) = next(&theirs)
            && put(&weak, pages)
        {}
    };
    if let Err(error) = thread::Builder::new().name("flash-warm".to_owned()).spawn(body) {
        tracing::debug!(%error, "slots are not touched before they are used");
        while let Some(pages) = cold.lock().pop_front() {
            shelf.add(pages);
        }
    }
}

/// The next slot, touched.
fn next(cold: &crate::sync::Mutex<VecDeque<PageBuf>>) -> Option<PageBuf> {
    let mut pages = cold.lock().pop_front()?;
    pages.touch();
    Some(pages)
}

/// Whether there still is a shelf for it.
fn put(shelf: &Weak<Shelf>, pages: PageBuf) -> bool {
    let Some(shelf) = shelf.upgrade() else { return false };
    shelf.add(pages)
}

impl Shelf {
    /// Adds a slot that has become ready; whether the pool is still open.
    fn add(&self, pages: PageBuf) -> bool {
        let mut stock = self.stock.lock();
        if stock.is_closed {
            return false;
        }
        stock.n_cold -= 1;
        // Those that are in use are better known to caches.
        stock.free.push_front(pages);
        drop(stock);
        self.changed.notify_one();
        true
    }
}

/// What computes or reads comes first.
fn yield_to_all_others() {
    // Elsewhere this would be the priority of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
        tracing::debug!(%error, "memory is touched at the usual priority");
    }
}

/// As `nice` counts.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;
