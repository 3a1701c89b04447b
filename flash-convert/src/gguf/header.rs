//! Parser of GGUF headers: pure, bounded by the size of its input, and safe on hostile input.
//!
//! A header consists of `GGUF`, the version (u32), the counts of tensors and of metadata entries (u64 each), the
//! entries (key, type, value), and the tensor table (name, dimensions, type, offset). The data section follows at the
//! next multiple of `general.alignment`. Lengths are checked against the remaining bytes before anything is allocated.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use super::error::{GgufError, Place};
use super::kind::GgmlType;
use super::metadata::{Array, Metadata, NumberType, Numbers, Strings, Value};
use super::window::Window;

const MAGIC: [u8; 4] = *b"GGUF";

/// Maximum size of a header in bytes; vocabularies of 260 000 tokens take about 15 MB.
const HEADER_BYTES_MAX: u64 = 128 << 20;

/// Maximum nesting depth of arrays. No known writer nests them at all.
const ARRAY_DEPTH_MAX: u32 = 2;

/// Maximum number of dimensions of a tensor (`GGML_MAX_DIMS`).
const DIMS_MAX: u32 = 4;

/// Alignment of a file without `general.alignment`, in bytes.
const ALIGNMENT_DEFAULT: u64 = 32;

/// Minimum size of a metadata entry in bytes: an empty key, a type and a one-byte value.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;

/// Minimum size of a tensor entry in bytes: an empty name, the number of dimensions, one dimension, type and offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// Minimum size of a nested array in bytes: its type and length.
const ARRAY_BYTES_MIN: u64 = 4 + 8;

/// Minimum size of a string in an array in bytes: its length.
const STRING_BYTES_MIN: u64 = 8;

/// Header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Key-value metadata.
    pub metadata: Metadata,
    /// Tensor table, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of the data section and of each tensor in it, in bytes.
    pub alignment: u64,
}

/// An entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// 1 to 4 dimensions, **fastest-varying first** as in ggml: a matrix is `[columns, rows]`.
    pub dims: Vec<u64>,
    /// Type of the values.
    pub kind: GgmlType,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl Header {
    /// Parses the header at the start of a source of `source_bytes` bytes.
    ///
    /// Memory: a small multiple of the header's length, which is at most 128 MiB.
    ///
    /// # Errors
    /// A [`GgufError`] that names the invalid field.
    pub fn parse(source: impl Read, source_bytes: u64) -> Result<Self, GgufError> {
        let mut window = Window::new(source, source_bytes.min(HEADER_BYTES_MAX));
        let place = Place::Preamble;
        let found = window.array(&place, "magic")?;
        if found != MAGIC {
            return Err(GgufError::Magic { found });
        }
        let version = window.u32(&place, "version")?;
        if version & 0xFFFF == 0 {
            let version = version.swap_bytes();
            return Err(GgufError::BigEndian { version });
        }
        if !matches!(version, 2 | 3) {
            return Err(GgufError::Version { version });
        }
        let n_tensors = window.u64(&place, "tensor count")?;
        let n_entries = window.u64(&place, "metadata count")?;
        window.expect(n_entries, ENTRY_BYTES_MIN, &place, "metadata count")?;
        let metadata = metadata(&mut window, n_entries)?;
        let alignment = metadata.unsigned("general.alignment")?.unwrap_or(ALIGNMENT_DEFAULT);
        if !alignment.is_power_of_two() || alignment > u64::from(u32::MAX) {
            return Err(GgufError::Alignment { alignment });
        }
        window.expect(n_tensors, TENSOR_BYTES_MIN, &place, "tensor count")?;
        let mut tensors =
            (0..n_tensors).map(|idx| tensor(&mut window, idx)).collect::<Result<Vec<_>, _>>()?;
        let data_offset = window.offset().next_multiple_of(alignment);
        place_tensors(&mut tensors, alignment, data_offset, source_bytes)?;
        Ok(Self { version, metadata, tensors, alignment })
    }
}

/// Parses `n_entries` key-value pairs.
fn metadata<R: Read>(window: &mut Window<R>, n_entries: u64) -> Result<Metadata, GgufError> {
    let mut entries = BTreeMap::new();
    for idx in 0..n_entries {
        let key = window.string(&Place::Entry(idx), "key")?;
        let place = Place::Key(key.clone());
        let type_id = window.u32(&place, "value type")?;
        let value = value(window, type_id, &key, &place)?;
        if entries.insert(key.clone(), value).is_some() {
            return Err(GgufError::DuplicateKey { key });
        }
    }
    Ok(Metadata(entries))
}

/// Parses a value of the type `type_id`.
fn value<R: Read>(
    window: &mut Window<R>,
    type_id: u32,
    key: &str,
    place: &Place,
) -> Result<Value, GgufError> {
    const FIELD: &str = "value";
    Ok(match type_id {
        0 => Value::Unsigned(u8::from_le_bytes(window.array(place, FIELD)?).into()),
        1 => Value::Signed(i8::from_le_bytes(window.array(place, FIELD)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(window.array(place, FIELD)?).into()),
        3 => Value::Signed(i16::from_le_bytes(window.array(place, FIELD)?).into()),
        4 => Value::Unsigned(window.u32(place, FIELD)?.into()),
        5 => Value::Signed(i32::from_le_bytes(window.array(place, FIELD)?).into()),
        6 => Value::F32(f32::from_le_bytes(window.array(place, FIELD)?)),
        7 => match window.array(place, FIELD)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [found] => {
                return Err(GgufError::NotBool { key: key.to_owned(), found });
            }
        },
        8 => Value::String(window.string(place, FIELD)?),
        9 => Value::Array(array(window, key, place, ARRAY_DEPTH_MAX)?),
        10 => Value::Unsigned(window.u64(place, FIELD)?),
        11 => Value::Signed(i64::from_le_bytes(window.array(place, FIELD)?)),
        12 => Value::F64(f64::from_le_bytes(window.array(place, FIELD)?)),
        type_id => {
            return Err(GgufError::ValueType { key: key.to_owned(), type_id });
        }
    })
}

/// Parses an array that may contain arrays nested `depth_left - 1` deep.
fn array<R: Read>(
    window: &mut Window<R>,
    key: &str,
    place: &Place,
    depth_left: u32,
) -> Result<Array, GgufError> {
    if depth_left == 0 {
        return Err(GgufError::ArrayDepth { key: key.to_owned(), depth_max: ARRAY_DEPTH_MAX });
    }
    let type_id = window.u32(place, "array type")?;
    let count = window.u64(place, "array length")?;
    let kind = match type_id {
        0 => NumberType::U8,
        1 => NumberType::I8,
        2 => NumberType::U16,
        3 => NumberType::I16,
        4 => NumberType::U32,
        5 => NumberType::I32,
        6 => NumberType::F32,
        7 => NumberType::Bool,
        8 => {
            window.expect(count, STRING_BYTES_MIN, place, "array of strings")?;
            let mut strings = Strings::default();
            for _ in 0..count {
                strings.push(&window.string(place, "array of strings")?);
            }
            return Ok(Array::Strings(strings));
        }
        9 => {
            window.expect(count, ARRAY_BYTES_MIN, place, "array of arrays")?;
            let nested = (0..count).map(|_| array(window, key, place, depth_left - 1));
            return Ok(Array::Nested(nested.collect::<Result<_, _>>()?));
        }
        10 => NumberType::U64,
        11 => NumberType::I64,
        12 => NumberType::F64,
        type_id => {
            return Err(GgufError::ValueType { key: key.to_owned(), type_id });
        }
    };
    let each_bytes = kind.size_bytes() as u64;
    window.expect(count, each_bytes, place, "array of numbers")?;
    let bytes = window.bytes(count * each_bytes, place, "array of numbers")?;
    Ok(Array::Numbers(Numbers { kind, bytes }))
}

/// Parses an entry of the tensor table; its offset is still relative to the data section.
fn tensor<R: Read>(window: &mut Window<R>, idx: u64) -> Result<TensorInfo, GgufError> {
    let tensor = window.string(&Place::TensorEntry(idx), "name")?;
    let place = Place::Tensor(tensor.clone());
    let n_dims = window.u32(&place, "dimension count")?;
    if !(1..=DIMS_MAX).contains(&n_dims) {
        return Err(GgufError::Dimensions { tensor, n_dims });
    }
    let dims = (0..n_dims).map(|_| window.u64(&place, "dimensions")).collect::<Result<Vec<_>, _>>()?;
    if let Some(dim_idx) = dims.iter().position(|dim| *dim == 0) {
        return Err(GgufError::EmptyDimension { tensor, dim_idx });
    }
    let type_id = window.u32(&place, "type")?;
    let offset = window.u64(&place, "offset")?;
    let Some(kind) = GgmlType::from_id(type_id) else {
        return Err(GgufError::TensorType { tensor, type_id });
    };
    let row_len = dims[0];
    if !row_len.is_multiple_of(kind.block_len()) {
        return Err(GgufError::PartialBlock { tensor, row_len, kind });
    }
    // Neither the size in bytes nor the number of values may overflow.
    let n_values = dims.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
    let bytes = n_values.and_then(|n| (n / kind.block_len()).checked_mul(kind.block_bytes()));
    let Some(bytes) = bytes else {
        return Err(GgufError::SizeOverflow { tensor, dims, kind });
    };
    Ok(TensorInfo { name: tensor, dims, kind, offset, bytes })
}

/// Validates names and positions, and makes offsets relative to the file instead of the data section.
fn place_tensors(
    tensors: &mut [TensorInfo],
    alignment: u64,
    data_offset: u64,
    source_bytes: u64,
) -> Result<(), GgufError> {
    let data_bytes = source_bytes.saturating_sub(data_offset);
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors.iter() {
        let name = || tensor.name.clone();
        let (offset, bytes) = (tensor.offset, tensor.bytes);
        if !names.insert(tensor.name.as_str()) {
            return Err(GgufError::DuplicateTensor { tensor: name() });
        }
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { tensor: name(), offset, alignment });
        }
        if offset.checked_add(bytes).is_none_or(|end| end > data_bytes) {
            return Err(GgufError::OutOfRange { tensor: name(), offset, bytes, data_bytes });
        }
    }
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(GgufError::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() });
        }
    }
    for tensor in tensors {
        tensor.offset += data_offset;
    }
    Ok(())
}
