//! Experts that lie in rows, as `flash-cli pack` leaves them.
//!
//! A tensor that is called [`rows_name`] is bytes, `[n_experts, row_bytes]`. The metadata of its shard has under its name what
//! a row holds: the header of a safetensors file whose data the row would be.

use std::collections::BTreeMap;
use std::path::Path;

use flash_io::{Catalog, Header, Span, Tensor, TensorInfo};

use crate::ModelError;

/// How the names of such tensors end.
const SUFFIX: &str = ".packed";

/// Bytes of a header's length, which counts as if it were there.
const LENGTH_BYTES: u64 = 8;

/// What the tensor is called that has the experts below `path` in its rows.
pub(crate) fn rows_name(path: &str) -> String {
    format!("{path}{SUFFIX}")
}

/// What `rest` of the experts below `path` is called in one of them, if each has its own.
pub(crate) fn member_name(path: &str, expert_idx: usize, rest: &str) -> String {
    format!("{path}.{expert_idx}.{rest}")
}

/// The experts of a checkpoint that lie in rows.
#[derive(Debug, Default)]
pub(super) struct PackedExperts {
    /// By path.
    rows: BTreeMap<String, Tensor>,
    /// The tensors of the first row of each, by name.
    firsts: BTreeMap<String, Tensor>,
}

impl PackedExperts {
    /// Those of a catalog.
    pub(super) fn of(catalog: &Catalog) -> Result<Self, ModelError> {
        let mut packed = Self::default();
        for (name, header) in catalog.metadata() {
            let Some(path) = name.strip_suffix(SUFFIX) else { continue };
            let Some(rows) = catalog.get(name) else { continue };
            let shard = &catalog.shards()[rows.shard.0].path;
            for TensorInfo { name, dtype, shape, span, .. } in first_row(shard, rows, header)? {
                let name = member_name(path, 0, &name);
                let tensor = Tensor { name: name.clone(), dtype, shape, shard: rows.shard, span };
                packed.firsts.insert(name, tensor);
            }
            packed.rows.insert(path.to_owned(), rows.clone());
        }
        Ok(packed)
    }

    /// The tensor that has the experts below `path`, if one has.
    pub(super) fn rows(&self, path: &str) -> Option<&Tensor> {
        self.rows.get(path)
    }

    /// What the tensors of first experts are called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.firsts.keys().map(String::as_str)
    }

    /// A tensor of a first expert.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.firsts.get(name)
    }
}

/// What lies in the first of the rows, and where.
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
