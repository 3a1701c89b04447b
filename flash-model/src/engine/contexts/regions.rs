//! Regions of the page file that the contexts of an engine share.

use std::sync::Arc;

use parking_lot::Mutex;

/// Hands out regions.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Regions(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Regions that were given back.
    free: Vec<usize>,
    /// Regions in use or free.
    n_regions: usize,
}

/// A region of a page file, given back when it is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Region {
    pub(super) idx: usize,
    regions: Regions,
}

impl Regions {
    /// Takes a free region.
    pub(in crate::engine) fn take(&self) -> Region {
        let State { free, n_regions } = &mut *self.0.lock();
        let idx = free.pop().unwrap_or_else(|| {
            *n_regions += 1;
            *n_regions - 1
        });
        Region { idx, regions: self.clone() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.regions.0.lock().free.push(self.idx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_used_again() {
        let regions = Regions::default();
        let [a, b] = [(); 2].map(|()| regions.take());
        assert_eq!([a.idx, b.idx], [0, 1]);
        drop(a);
        let [c, d] = [(); 2].map(|()| regions.take());
        assert_eq!([c.idx, d.idx], [0, 2]);
    }
}
