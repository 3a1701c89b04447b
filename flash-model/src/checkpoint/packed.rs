//! Packed experts: all tensors of an expert in one row, as written by `flash-cli pack`.
//!
//! The tensor named [`packed_name`] is bytes, `[n_experts, row_bytes]`. Under its name, the metadata of its shard has the
//! layout of a row: the header of a safetensors file whose data is the row.

use std::collections::BTreeMap;
use std::path::Path;

use flash_io::{Catalog, Header, Span, Tensor, TensorInfo};

use crate::ModelError;

/// Suffix of the names of packed tensors.
const SUFFIX: &str = ".packed";

/// Bytes of the length field before a safetensors header; it counts towards offsets although it is absent here.
const LENGTH_BYTES: u64 = 8;

/// Returns the name of the tensor that holds the packed experts below `path`.
pub(crate) fn packed_name(path: &str) -> String {
    format!("{path}{SUFFIX}")
}

/// Returns the name of tensor `rest` of one expert below `path`, in checkpoints with separate tensors for each expert.
pub(crate) fn expert_tensor_name(path: &str, expert_idx: usize, rest: &str) -> String {
    format!("{path}.{expert_idx}.{rest}")
}

/// The packed experts of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct PackedExperts {
    /// Packed tensors by the path of their experts.
    rows: BTreeMap<String, Tensor>,
    /// Tensors of the first row of each, by name.
    firsts: BTreeMap<String, Tensor>,
}

impl PackedExperts {
    /// Finds the packed experts of a catalog.
    pub(super) fn of(catalog: &Catalog) -> Result<Self, ModelError> {
        let mut packed = Self::default();
        for (name, header) in catalog.metadata() {
            let Some(path) = name.strip_suffix(SUFFIX) else { continue };
            let Some(rows) = catalog.get(name) else { continue };
            let shard = &catalog.shards()[rows.shard.0].path;
            for TensorInfo { name, dtype, shape, span, .. } in first_row(shard, rows, header)? {
                let name = expert_tensor_name(path, 0, &name);
                let tensor = Tensor { name: name.clone(), dtype, shape, shard: rows.shard, span };
                packed.firsts.insert(name, tensor);
            }
            packed.rows.insert(path.to_owned(), rows.clone());
        }
        Ok(packed)
    }

    /// Returns the tensor that holds the experts below `path`, if they are packed.
    pub(super) fn rows(&self, path: &str) -> Option<&Tensor> {
        self.rows.get(path)
    }

    /// Returns the names of the tensors of first experts.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.firsts.keys().map(String::as_str)
    }

    /// Returns a tensor of a first expert.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.firsts.get(name)
    }
}

/// Parses the layout of a row, and returns the tensors of the first row.
fn first_row(shard: &Path, rows: &Tensor, header: &str) -> Result<Vec<TensorInfo>, ModelError> {
    let n_rows = rows.shape.first().copied().unwrap_or(1).max(1);
    let data_start = LENGTH_BYTES + header.len() as u64;
    let row_bytes = rows.span.len_bytes() / n_rows;
    let parsed = Header::parse(shard, header.as_bytes(), data_start + row_bytes);
    let refused = |error| ModelError::Rows { tensor: rows.name.clone(), error: Box::new(error) };
    let mut parsed = parsed.map_err(refused)?.tensors;
    for TensorInfo { span, .. } in &mut parsed {
        let start = rows.span.start + (span.start - data_start);
        *span = Span::new(start, start + span.len_bytes());
    }
    Ok(parsed)
}
