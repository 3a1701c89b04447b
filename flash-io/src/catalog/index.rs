//! Index file of a sharded model, which maps tensors to shards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::IoError;
use crate::lfs::LfsPointer;

/// Maximum length of an index file in bytes. Real ones have about 100 bytes a tensor.
pub const MAX_INDEX_BYTES: u64 = 100_000_000;

/// Tensor names of each shard, keyed by shard name.
pub(super) type TensorsByShard = BTreeMap<String, BTreeSet<String>>;

#[derive(serde::Deserialize)]
struct IndexFile {
    weight_map: Option<WeightMap>,
}

/// Pairs of tensor and shard in file order, including duplicates.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to shard names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = entries.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// Reads and validates an index file.
pub(super) fn read(path: &Path) -> Result<TensorsByShard, IoError> {
    let mut file = File::open(path).map_err(IoError::cannot_open(path))?;
    let index_bytes = file.metadata().map_err(IoError::cannot_open(path))?.len();
    if index_bytes > MAX_INDEX_BYTES {
        return Err(IoError::IndexTooLong { path: path.to_owned(), index_bytes, max_bytes: MAX_INDEX_BYTES });
    }
    let mut json = Vec::with_capacity(index_bytes as usize);
    file.by_ref().take(MAX_INDEX_BYTES).read_to_end(&mut json).map_err(IoError::cannot_open(path))?;
    parse(path, &json)
}

fn parse(path: &Path, json: &[u8]) -> Result<TensorsByShard, IoError> {
    if let Some(pointer) = LfsPointer::detect(json) {
        return Err(IoError::LfsPointer { path: path.to_owned(), pointer });
    }
    let index: IndexFile = serde_json::from_slice(json)
        .map_err(|error| IoError::IndexSyntax { path: path.to_owned(), error })?;
    let Some(WeightMap(mut pairs)) = index.weight_map else {
        return Err(IoError::IndexWithoutWeightMap { path: path.to_owned() });
    };
    pairs.sort();
    if let Some([first, _]) = pairs.array_windows().find(|[a, b]| a.0 == b.0) {
        return Err(IoError::IndexDuplicate { path: path.to_owned(), tensor: first.0.clone() });
    }
    let mut by_shard = TensorsByShard::new();
    for (tensor, shard) in pairs {
        if !is_plain_file_name(&shard) {
            return Err(IoError::IndexShardName { path: path.to_owned(), tensor, shard });
        }
        by_shard.entry(shard).or_default().insert(tensor);
    }
    Ok(by_shard)
}

/// Returns whether a name joined to a directory stays in it.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    components.next().is_none() && matches!(first, Some(Component::Normal(only)) if only == name)
}
