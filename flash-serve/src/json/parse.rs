//! Parsing within limits.

use std::cell::Cell;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::Json;

impl Json {
    /// Parses a text of at most `max_values` values, nested at most 127 deep.
    ///
    /// # Errors
    /// If the text is not UTF-8 or not JSON, has a member twice, or exceeds a limit. The error names line and column.
    pub fn parse(text: &[u8], max_values: usize) -> Result<Self, serde_json::Error> {
        let left = Cell::new(max_values);
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = Seed { left: &left, max_values }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// Deserializes one value and counts it. A value takes some 100 bytes, so that a body of ones and commas would take
/// fifty times its size.
#[derive(Clone, Copy)]
struct Seed<'a> {
    left: &'a Cell<usize>,
    max_values: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(D::Error::custom(format_args!("more than {} values", self.max_values)));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = IndexMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if let (idx, Some(_)) = members.insert_full(name, value) {
                let (name, _) = members.get_index(idx).ok_or_else(|| A::Error::custom("duplicate member"))?;
                return Err(A::Error::custom(format_args!("member `{name}` appears twice")));
            }
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &[u8]) -> String {
        Json::parse(text, 100).unwrap_err().to_string()
    }

    #[test]
    fn deep_nesting_is_rejected() {
        for opening in ["[", r#"{"a":"#] {
            let error = Json::parse(opening.repeat(100_000).as_bytes(), usize::MAX).unwrap_err();
            assert!(error.to_string().contains("recursion limit"), "{error}");
        }
    }

    #[test]
    fn many_values_are_rejected() {
        let text = format!("[{}1]", "1,".repeat(99));
        assert!(error(text.as_bytes()).contains("more than 100 values"), "{}", error(text.as_bytes()));
        assert!(Json::parse(format!("[{}1]", "1,".repeat(98)).as_bytes(), 100).is_ok());
    }

    #[test]
    fn duplicate_members_are_rejected() {
        assert!(error(br#"{"model":"a","model":"b"}"#).contains("member `model` appears twice"));
    }

    #[test]
    fn text_that_is_not_utf8_is_rejected() {
        assert!(error(b"{\"a\":\"\xff\"}").contains("unicode"), "{}", error(b"{\"a\":\"\xff\"}"));
    }

    #[test]
    fn text_after_the_value_is_rejected() {
        assert!(error(b"{} {}").contains("trailing"));
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Json::parse(&bytes, 50);
        }
    }
}
