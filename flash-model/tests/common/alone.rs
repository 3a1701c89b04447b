//! The logits of contexts that run alone, for tests.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use flash_model::{Compute, KvFormat, KvPolicy};

use super::contexts::{Memory, engine};
use super::family::family;
use super::tokens::{bits, sequence};

/// Contexts of a script.
pub(crate) const CONTEXTS: usize = 6;

/// Tokens of a context that are compared: enough for pages to be sealed.
pub(crate) const TOKENS: usize = 330;

/// The bits of the logits of each token.
pub(crate) type Rows = Vec<Vec<u32>>;

/// Returns the logits of each token of each context, alone in an engine and token by token.
pub(crate) fn alone(name: &'static str, format: KvFormat) -> Arc<Vec<Rows>> {
    type ByModel = HashMap<(&'static str, KvFormat), Arc<Vec<Rows>>>;
    static COMPUTED: LazyLock<Mutex<ByModel>> = LazyLock::new(Mutex::default);
    let mut computed = COMPUTED.lock().unwrap();
    let compute = || {
        let (dir, vocab) = family(name);
        let mut engine = engine(&dir, Compute::Auto, Memory::Plenty, KvPolicy::new(format), 1);
        let context = |idx: usize| {
            engine.truncate(0).unwrap();
            let logits =
                sequence(idx, TOKENS, vocab).into_iter().map(|token| engine.forward(&[token]).unwrap());
            logits.flat_map(|logits| bits([logits.as_slice()])).collect()
        };
        Arc::new((0..CONTEXTS).map(context).collect())
    };
    Arc::clone(computed.entry((name, format)).or_insert_with(compute))
}
