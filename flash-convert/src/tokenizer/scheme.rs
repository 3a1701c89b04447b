//! The components of tokenizer.json that differ between kinds of tokenizers.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::gguf::Strings;

/// Components and settings of a tokenizer.
pub(super) struct Scheme<'a> {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
    pub(super) merges: Merges<'a>,
    pub(super) unk_token: Option<&'a str>,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    pub(super) add_prefix_space: bool,
    pub(super) add_bos_default: bool,
}

/// BPE merges, highest priority first.
pub(super) enum Merges<'a> {
    /// Merges stored in the GGUF file.
    Stored(&'a Strings),
    /// Merges derived from the scores of the tokens.
    Derived(Vec<(&'a str, &'a str)>),
}

impl Serialize for Merges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stored(merges) => serializer.collect_seq(merges.iter()),
            Self::Derived(merges) => {
                let mut seq = serializer.serialize_seq(Some(merges.len()))?;
                for (left, right) in merges {
                    seq.serialize_element(&format_args!("{left} {right}"))?;
                }
                seq.end()
            }
        }
    }
}
