//! JSON values that keep the order of members.
//!
//! Chat templates print tool schemas as the client wrote them, which is the order that models were trained with;
//! `serde_json`'s map sorts, unless a feature is on that changes all crates of the program.

mod fields;
mod parse;

use indexmap::IndexMap;
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

pub(crate) use fields::{Fields, Invalid, elements};

/// A JSON value. Members of objects stay in the order in which they were written.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(IndexMap<String, Json>),
}

impl Json {
    /// Returns the member `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.get(name),
            _ => None,
        }
    }

    /// Returns the text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value without members that are `null`, at any depth, except where `null` is a value of its own: in
    /// arrays, `default`, `const` and `examples`.
    ///
    /// Clients that print optional fields put `null` into schemas, and templates test members for being defined.
    #[must_use]
    pub fn without_null_members(self) -> Self {
        match self {
            Self::Object(members) => {
                let kept = members.into_iter().filter_map(|(name, value)| {
                    if matches!(name.as_str(), "default" | "const" | "examples") {
                        return Some((name, value));
                    }
                    (value != Self::Null).then(|| (name, value.without_null_members()))
                });
                Self::Object(kept.collect())
            }
            Self::Array(values) => Self::Array(values.into_iter().map(Self::without_null_members).collect()),
            other => other,
        }
    }

    /// Names the type, with an article, as in "expected a string, got an array".
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Prints compact JSON.
impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| std::fmt::Error)?;
        f.write_str(&text)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Object(members) => serializer.collect_map(members),
        }
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value.into())
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Self {
        Self::Number(value.into())
    }
}

impl From<u32> for Json {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<usize> for Json {
    fn from(value: usize) -> Self {
        Self::Number(value.into())
    }
}

/// Numbers that JSON cannot express become `null`.
impl From<f64> for Json {
    fn from(value: f64) -> Self {
        Number::from_f64(value).map_or(Self::Null, Self::Number)
    }
}

impl From<f32> for Json {
    fn from(value: f32) -> Self {
        Self::from(f64::from(value))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<&String> for Json {
    fn from(text: &String) -> Self {
        Self::String(text.clone())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(values: Vec<T>) -> Self {
        Self::Array(values.into_iter().map(Into::into).collect())
    }
}

impl<const N: usize> From<[Json; N]> for Json {
    fn from(values: [Json; N]) -> Self {
        Self::Array(values.into())
    }
}

/// Builds an object from `"name": value` pairs; values are anything that converts to [`Json`].
macro_rules! object {
    ($($name:literal : $value:expr),* $(,)?) => {{
        #[allow(unused_mut, clippy::allow_attributes, reason = "an object without members")]
        let mut members = ::indexmap::IndexMap::<String, $crate::json::Json>::new();
        $(members.insert($name.to_owned(), $crate::json::Json::from($value));)*
        $crate::json::Json::Object(members)
    }};
}
pub(crate) use object;

/// Sets a member of an object, and does nothing to other values.
pub(crate) fn set(object: &mut Json, name: &str, value: impl Into<Json>) {
    if let Json::Object(members) = object {
        members.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes(), 1000).unwrap()
    }

    #[test]
    fn members_keep_their_order() {
        let text = r#"{"z":1,"a":{"y":[1.5,-2,null],"b":"é"},"m":true}"#;
        assert_eq!(parse(text).to_string(), text);
    }

    #[test]
    fn null_members_are_removed_from_schemas_but_null_values_stay() {
        let schema =
            r#"{"type":"object","description":null,"properties":{"a":{"enum":["x",null],"default":null}}}"#;
        let expected = r#"{"type":"object","properties":{"a":{"enum":["x",null],"default":null}}}"#;
        assert_eq!(parse(schema).without_null_members().to_string(), expected);
    }

    #[test]
    fn numbers_that_json_lacks_become_null() {
        assert_eq!(object! { "a": f64::NAN, "b": f64::NEG_INFINITY }.to_string(), r#"{"a":null,"b":null}"#);
    }
}
