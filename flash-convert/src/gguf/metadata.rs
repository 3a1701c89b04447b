use std::collections::BTreeMap;

use super::error::GgufError;

/// Key-value metadata of a header.
///
/// Each typed getter returns `Ok(None)` if the key is absent, and [`GgufError::KeyType`] if its value has another type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(pub(super) BTreeMap<String, Value>);

/// A metadata value; integers of all widths are widened to 64 bits.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A 32-bit float, not widened so that its shortest decimal form can be written.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array.
    Array(Array),
}

/// An array whose elements have one type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Array {
    /// Numbers or booleans.
    Numbers(Numbers),
    /// Strings.
    Strings(Strings),
    /// Arrays.
    Nested(Vec<Self>),
}

/// Type of the numbers in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum NumberType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bool,
}

impl NumberType {
    /// Returns the size of a number in bytes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// Numbers of an array, in the encoding of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    pub(super) kind: NumberType,
    pub(super) bytes: Vec<u8>,
}

impl Numbers {
    /// Returns the type of the numbers.
    pub fn kind(&self) -> NumberType {
        self.kind
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.size_bytes()
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Decodes 32-bit integers, signed or unsigned; writers use both for token types.
    fn to_i32s(&self) -> Option<Vec<i32>> {
        matches!(self.kind, NumberType::I32 | NumberType::U32).then(|| {
            let numbers = self.bytes.as_chunks().0.iter();
            numbers.map(|bytes| i32::from_le_bytes(*bytes)).collect()
        })
    }

    /// Decodes 32-bit floats.
    fn to_f32s(&self) -> Option<Vec<f32>> {
        (self.kind == NumberType::F32).then(|| {
            let numbers = self.bytes.as_chunks().0.iter();
            numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        })
    }
}

/// Strings of an array, in one contiguous buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the string at `idx`.
    pub fn get(&self, idx: usize) -> Option<&str> {
        let end = *self.ends.get(idx)?;
        let start = idx.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// Iterates over the strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.ends.len()).map(|idx| self.get(idx).unwrap_or_default())
    }

    pub(super) fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string));
        all
    }
}

impl Value {
    /// Describes the type of the value, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::F32(_) => "a 32-bit float",
            Self::F64(_) => "a 64-bit float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Array(Array::Numbers(_)) => "an array of numbers",
            Self::Array(Array::Strings(_)) => "an array of strings",
            Self::Array(Array::Nested(_)) => "an array of arrays",
        }
    }
}

impl Metadata {
    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Iterates over all pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns a non-negative integer.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned integer", |value| match value {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// Returns a non-negative integer that fits in 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let number = self.unsigned(key)?;
        match number.map(u32::try_from).transpose() {
            Ok(number) => Ok(number),
            Err(_) => Err(GgufError::KeyType {
                key: key.to_owned(),
                wanted: "a 32-bit unsigned integer",
                found: "a greater integer",
            }),
        }
    }

    /// Returns a 32-bit float.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a 32-bit float", |value| match value {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    /// Returns a boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(boolean) => Some(*boolean),
            _ => None,
        })
    }

    /// Returns a string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(string) => Some(string.as_str()),
            _ => None,
        })
    }

    /// Returns an array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings),
            _ => None,
        })
    }

    /// Returns an array of 32-bit integers.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.typed(key, "an array of 32-bit integers", |value| match value {
            Value::Array(Array::Numbers(numbers)) => numbers.to_i32s(),
            _ => None,
        })
    }

    /// Returns an array of 32-bit floats.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of 32-bit floats", |value| match value {
            Value::Array(Array::Numbers(numbers)) => numbers.to_f32s(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(GgufError::KeyType { key: key.to_owned(), wanted, found: value.kind() }),
        }
    }
}
