//! Record of the tensors and formats that layers have requested from a checkpoint.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::checkpoint::config::QuantizedFormat;

/// Tensors and formats that layers have requested. A tensor that is not recorded is unused.
#[derive(Debug, Default)]
pub(super) struct Usage {
    tensors: Mutex<HashSet<String>>,
    /// Formats of quantized matrices, by the path of their tensors.
    formats: Mutex<HashMap<String, QuantizedFormat>>,
}

impl Usage {
    pub(super) fn add_tensor(&self, name: &str) {
        let mut tensors = self.tensors.lock();
        if !tensors.contains(name) {
            tensors.insert(name.to_owned());
        }
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.lock().contains(name)
    }

    pub(super) fn add_format(&self, path: &str, format: QuantizedFormat) {
        self.formats.lock().insert(path.to_owned(), format);
    }

    pub(super) fn format(&self, path: &str) -> Option<QuantizedFormat> {
        self.formats.lock().get(path).copied()
    }
}
