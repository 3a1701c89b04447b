//! Reading the members of a request, with errors that name them.

use indexmap::IndexMap;

use super::Json;

/// A member of a request that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct Invalid {
    /// Path of the member, such as `messages[2].content`.
    pub field: String,
    /// The problem, as the rest of a sentence.
    pub problem: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn expected(field: impl Into<String>, expected: &str, got: &Json) -> Self {
        Self::new(field, format!("expected {expected}, got {}", got.type_name()))
    }
}

/// The members of an object that were not read yet. `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    path: String,
    members: IndexMap<String, Json>,
}

impl Fields {
    /// Starts to read the object `value` at `path`, which is empty for the body of a request.
    pub(crate) fn new(path: impl Into<String>, value: Json) -> Result<Self, Invalid> {
        let path = path.into();
        match value {
            Json::Object(members) => Ok(Self { path, members }),
            other => {
                let field = if path.is_empty() { "body".to_owned() } else { path };
                Err(Invalid::expected(field, "an object", &other))
            }
        }
    }

    /// Returns the path of the member `name`.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Returns an error about the member `name`.
    pub(crate) fn invalid(&self, name: &str, problem: impl Into<String>) -> Invalid {
        Invalid::new(self.path_of(name), problem)
    }

    /// Takes a member of any type.
    pub(crate) fn take(&mut self, name: &str) -> Option<Json> {
        self.members.swap_remove(name).filter(|value| *value != Json::Null)
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(Json) -> Result<T, Json>,
    ) -> Result<Option<T>, Invalid> {
        let Some(value) = self.take(name) else { return Ok(None) };
        convert(value).map(Some).map_err(|value| Invalid::expected(self.path_of(name), expected, &value))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, Invalid> {
        self.typed(name, "a string", |value| match value {
            Json::String(text) => Ok(text),
            other => Err(other),
        })
    }

    pub(crate) fn required_string(&mut self, name: &str) -> Result<String, Invalid> {
        self.string(name)?.ok_or_else(|| self.invalid(name, "is required"))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Invalid> {
        self.typed(name, "a boolean", |value| match value {
            Json::Bool(value) => Ok(value),
            other => Err(other),
        })
    }

    /// Takes a finite number within `range`.
    pub(crate) fn number(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, Invalid> {
        let number = self.typed(name, "a number", |value| match &value {
            Json::Number(number) => number.as_f64().ok_or(value),
            _ => Err(value),
        })?;
        match number {
            Some(number) if !range.contains(&number) => {
                let (low, high) = range.into_inner();
                let expected = if high < f64::MAX {
                    format!("must be between {low} and {high}, not {number}")
                } else {
                    format!("must be at least {low}, not {number}")
                };
                Err(self.invalid(name, expected))
            }
            number => Ok(number),
        }
    }

    /// Takes an integer; floats with an integral value, which some clients write, count as one.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, Invalid> {
        self.typed(name, "an integer", |value| match &value {
            Json::Number(number) => {
                let float =
                    number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 2f64.powi(53));
                number.as_i64().or(float.map(|float| float as i64)).ok_or(value)
            }
            _ => Err(value),
        })
    }

    /// Takes an integer from 0 (or 1, if `min` says so) up to `max`.
    pub(crate) fn count(&mut self, name: &str, min: usize, max: usize) -> Result<Option<usize>, Invalid> {
        let Some(integer) = self.integer(name)? else { return Ok(None) };
        match usize::try_from(integer) {
            Ok(count) if (min..=max).contains(&count) => Ok(Some(count)),
            _ => Err(self.invalid(name, format!("must be between {min} and {max}, not {integer}"))),
        }
    }

    /// Takes an array, with the path of each element.
    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<(String, Json)>>, Invalid> {
        let path = self.path_of(name);
        self.typed(name, "an array", |value| match value {
            Json::Array(values) => Ok(values),
            other => Err(other),
        })
        .map(|values| values.map(|values| elements(&path, values)))
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, Invalid> {
        let path = self.path_of(name);
        self.take(name).map(|value| Fields::new(path, value)).transpose()
    }

    /// Takes an object without reading its members.
    pub(crate) fn raw_object(&mut self, name: &str) -> Result<Option<IndexMap<String, Json>>, Invalid> {
        self.typed(name, "an object", |value| match value {
            Json::Object(members) => Ok(members),
            other => Err(other),
        })
    }

    /// Rejects a member unless it has its neutral value, for settings that exist elsewhere and would change the output.
    pub(crate) fn only(&mut self, name: &str, neutral: &[Json]) -> Result<(), Invalid> {
        match self.take(name) {
            Some(value) if !neutral.contains(&value) => Err(self.invalid(name, "is not supported")),
            _ => Ok(()),
        }
    }

    /// Rejects members that were not read, except those of `ignored`, which cannot change the output, and those that say
    /// nothing: `null`, `[]`, `{}`.
    pub(crate) fn finish(self, ignored: &[&str]) -> Result<(), Invalid> {
        let unknown = self.members.iter().find(|(name, value)| {
            let is_empty = match value {
                Json::Null => true,
                Json::Array(values) => values.is_empty(),
                Json::Object(members) => members.is_empty(),
                _ => false,
            };
            !is_empty && !ignored.contains(&name.as_str())
        });
        match unknown {
            Some((name, _)) => {
                let name = name.chars().take(64).collect::<String>();
                Err(self.invalid(&name, "is not supported"))
            }
            None => Ok(()),
        }
    }
}

/// Pairs the elements of the array at `path` with their paths.
pub(crate) fn elements(path: &str, values: Vec<Json>) -> Vec<(String, Json)> {
    values.into_iter().enumerate().map(|(idx, value)| (format!("{path}[{idx}]"), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::new("", Json::parse(text.as_bytes(), 100).unwrap()).unwrap()
    }

    #[test]
    fn errors_name_the_member_by_its_path() {
        let mut body = fields(r#"{"a":{"b":[{"c":1}]}}"#);
        let mut a = body.object("a").unwrap().unwrap();
        let (path, value) = a.array("b").unwrap().unwrap().remove(0);
        let error = Fields::new(path, value).unwrap().string("c").unwrap_err();
        assert_eq!(error.to_string(), "a.b[0].c: expected a string, got a number");
    }

    #[test]
    fn unread_members_are_rejected_unless_they_are_empty_or_ignored() {
        assert!(fields(r#"{"a":null,"b":[],"c":{},"user":"x"}"#).finish(&["user"]).is_ok());
        let error = fields(r#"{"mirostat":2}"#).finish(&[]).unwrap_err();
        assert_eq!(error.to_string(), "mirostat: is not supported");
    }

    #[test]
    fn numbers_outside_their_range_are_rejected() {
        let mut body = fields(r#"{"t":3,"n":-1,"m":2.5,"k":2.0,"big":1e300}"#);
        assert_eq!(body.number("t", 0.0..=2.0).unwrap_err().problem, "must be between 0 and 2, not 3");
        assert_eq!(body.count("n", 1, 8).unwrap_err().problem, "must be between 1 and 8, not -1");
        assert_eq!(body.count("m", 1, 8).unwrap_err().problem, "expected an integer, got a number");
        assert_eq!(body.count("k", 1, 8), Ok(Some(2)));
        assert!(body.count("big", 1, 8).is_err());
    }
}
