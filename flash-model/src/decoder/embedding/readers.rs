//! A small thread pool that reads rows in parallel. It is created once, because starting a thread takes as long as a
//! read and a decoded token reads only a few rows.

use std::cell::OnceCell;

use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A lazily started pool of reader threads.
#[derive(Debug)]
pub(super) struct Readers {
    n_threads: usize,
    /// All threads but the calling one, started by the first call with more than one item; `None` if the system gives
    /// no threads.
    others: OnceCell<Option<ThreadPool>>,
}

impl Readers {
    /// Creates a pool of `n_threads` threads, including the calling one.
    pub(super) fn new(n_threads: usize) -> Self {
        Self { n_threads, others: OnceCell::new() }
    }

    /// Calls `read` on each item and returns the first error once no call is running. If no threads could be started,
    /// the calling thread reads everything.
    pub(super) fn for_each<T: Send, E: Send>(
        &self,
        items: Vec<T>,
        read: impl Fn(T) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let n_others = self.n_threads.min(items.len()).saturating_sub(1);
        let items = Mutex::new(items.into_iter());
        let failure = Mutex::new(None);
        let work = || {
            while failure.lock().is_none()
                && let Some(item) = next(&items)
            {
                if let Err(error) = read(item) {
                    failure.lock().get_or_insert(error);
                }
            }
        };
        match (n_others > 0).then(|| self.others()).flatten() {
            Some(others) => others.in_place_scope(|scope| {
                for _ in 0..n_others {
                    scope.spawn(|_| work());
                }
                work();
            }),
            None => work(),
        }
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn others(&self) -> Option<&ThreadPool> {
        let start = || {
            let builder = ThreadPoolBuilder::new().num_threads(self.n_threads.saturating_sub(1).max(1));
            let pool = builder.thread_name(|idx| format!("flash-rows-{idx}")).build();
            pool.inspect_err(
                |error| tracing::warn!(%error, "no threads: embedding rows are read one at a time"),
            )
            .ok()
        };
        self.others.get_or_init(start).as_ref()
    }
}

/// A function, so that the lock is released before the item is used.
fn next<T>(items: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    items.lock().next()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn all_items_are_read_once_on_any_number_of_threads() {
        for (n_items, n_threads) in [(0, 8), (1, 8), (3, 8), (100, 8), (100, 1)] {
            let mut found = vec![0; n_items];
            let items = found.iter_mut().enumerate().collect();
            let read = |(idx, place): (usize, &mut usize)| {
                *place += idx + 1;
                Ok::<_, ()>(())
            };
            Readers::new(n_threads).for_each(items, read).unwrap();
            assert_eq!(found, (1..=n_items).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_read_starts_after_an_error() {
        let n_read = AtomicUsize::new(0);
        let read = |item: usize| {
            n_read.fetch_add(1, Ordering::SeqCst);
            if item == 5 { Err(item) } else { Ok(()) }
        };
        assert_eq!(Readers::new(1).for_each((0..1000).collect(), read), Err(5));
        assert_eq!(n_read.load(Ordering::SeqCst), 6);
        assert_eq!(Readers::new(4).for_each((0..1000).collect(), read), Err(5));
    }

    #[test]
    fn threads_are_reused() {
        let (readers, seen) = (Readers::new(3), Mutex::new(HashSet::new()));
        for _ in 0..200 {
            let read = |_| {
                // Thread ids are never reused.
                seen.lock().insert(thread::current().id());
                Ok::<_, ()>(())
            };
            readers.for_each((0..3).collect(), read).unwrap();
        }
        assert!(seen.lock().len() <= 3, "{seen:?}");
    }
}
