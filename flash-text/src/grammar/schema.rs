//! Preparation of JSON schemas: keywords that cannot be followed are found, and the rest is brought into the form of
//! draft 2020-12.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use super::reference::{join, target};
use crate::error::TextError;

/// Maximum nesting of a schema. llguidance has the same limit.
const MAX_DEPTH: usize = 128;

/// Maximum number of subschemas. llguidance has the same limit.
const MAX_SUBSCHEMAS: usize = 50_000;

/// Longest chain of references between an alternative and its schema.
const MAX_CHAIN: usize = 16;

/// Keywords with a number or a list of names, which are passed on.
const PLAIN: [&str; 10] = [
    "type",
    "enum",
    "const",
    "required",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "pattern",
];

/// Keywords with a count.
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"];

/// Keywords that constrain values in ways that no grammar of ours follows.
const UNSUPPORTED: [&str; 15] = [
    "not",
    "if",
    "contains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "uniqueItems",
    "disallow",
    "extends",
    "divisibleBy",
];

/// Formats of JSON Schema that llguidance knows.
const FORMATS: [&str; 9] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// Formats of JSON Schema that cannot be followed. All other words are annotations, such as OpenAPI's `int32`.
const UNSUPPORTED_FORMATS: [&str; 10] = [
    "idn-email",
    "idn-hostname",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
    "color",
];

/// A schema in the form that llguidance compiles.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The schema, with the definitions that it refers to.
    pub(super) schema: Value,
    pub(super) definitions: Value,
    /// The prepared subschemas without definitions, with their places in the original schema.
    pub(super) parts: Vec<(String, Value)>,
}

impl Prepared {
    /// Prepares a schema.
    ///
    /// # Errors
    /// [`TextError::SchemaKeyword`] and [`TextError::Schema`], as for
    /// [`Grammar::json_schema`](super::Grammar::json_schema).
    pub(super) fn new(schema: &Value) -> Result<Self, TextError> {
        let mut reader = Reader {
            root: schema,
            ignores_siblings: ignores_siblings_of_ref(schema),
            names: HashMap::new(),
            pending: VecDeque::new(),
            parts: Vec::new(),
        };
        let prepared = reader.subschema(schema, "", 0, false)?;
        let mut definitions = Map::new();
        while let Some(pointer) = reader.pending.pop_front() {
            let name = reader.names[&pointer].clone();
            let target = schema.pointer(&pointer).unwrap_or(&Value::Null);
            let has_own_base = reader.has_own_base(&pointer);
            definitions.insert(name, reader.subschema(target, &pointer, 0, has_own_base)?);
        }
        let definitions = Value::Object(definitions);
        Ok(Self { schema: with_definitions(&prepared, &definitions), definitions, parts: reader.parts })
    }
}

/// Adds definitions to a prepared schema.
pub(super) fn with_definitions(schema: &Value, definitions: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(schema) = &mut schema {
        schema.insert("$defs".to_owned(), definitions.clone());
    }
    schema
}

/// Returns whether the schema is of a draft in which a reference replaces its siblings.
fn ignores_siblings_of_ref(schema: &Value) -> bool {
    let draft = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    ["draft-03", "draft-04", "draft-05", "draft-06", "draft-07"].iter().any(|old| draft.contains(old))
}

struct Reader<'s> {
    root: &'s Value,
    ignores_siblings: bool,
    /// The names in `$defs` of what references point to, by pointer.
    names: HashMap<String, String>,
    pending: VecDeque<String>,
    parts: Vec<(String, Value)>,
}

impl<'s> Reader<'s> {
    /// Prepares a subschema. `has_own_base`: references in it are not relative to the root.
    fn subschema(
        &mut self,
        schema: &'s Value,
        pointer: &str,
        depth: usize,
        has_own_base: bool,
    ) -> Result<Value, TextError> {
        let entries = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(entries) => entries,
            _ => return Err(invalid(pointer, "a schema must be an object, true or false")),
        };
        if depth > MAX_DEPTH {
            return Err(invalid(pointer, "the schema is nested too deeply"));
        }
        if self.parts.len() >= MAX_SUBSCHEMAS {
            return Err(invalid(pointer, "the schema is too large"));
        }
        let at_root = pointer.is_empty();
        let has_own_base = has_own_base || !at_root && has_id(entries);
        let mut prepared = Map::new();
        let only_ref = self.ignores_siblings && entries.contains_key("$ref");
        for (keyword, value) in entries {
            if only_ref && keyword != "$ref" {
                continue;
            }
            let place = join(pointer, keyword);
            let sub = |reader: &mut Self, value: &'s Value, place: &str| {
                reader.subschema(value, place, depth + 1, has_own_base)
            };
            match keyword.as_str() {
                "uniqueItems" if value == &Value::Bool(false) => {}
                "if" if !entries.contains_key("then") && !entries.contains_key("else") => {}
                keyword if UNSUPPORTED.contains(&keyword) => return Err(unsupported(&place, keyword)),
                "$ref" => {
                    let name = self.reference(value, &place, has_own_base)?;
                    prepared.insert(keyword.clone(), Value::String(name));
                }
                "allOf" | "anyOf" | "oneOf" => {
                    let list =
                        value.as_array().ok_or_else(|| invalid(&place, "it must be a list of schemas"))?;
                    let mut options = Vec::with_capacity(list.len());
                    for (idx, option) in list.iter().enumerate() {
                        let (option, place) = match keyword.as_str() {
                            "oneOf" => self.resolved(option, join(&place, &idx.to_string()), has_own_base),
                            _ => (option, join(&place, &idx.to_string())),
                        };
                        options.push(sub(self, option, &place)?);
                    }
                    prepared.insert(keyword.clone(), Value::Array(options));
                }
                "properties" | "patternProperties" => {
                    let map = value
                        .as_object()
                        .ok_or_else(|| invalid(&place, "it must be an object of schemas"))?;
                    let mut properties = Map::new();
                    for (name, property) in map {
                        properties.insert(name.clone(), sub(self, property, &join(&place, name))?);
                    }
                    prepared.insert(keyword.clone(), Value::Object(properties));
                }
                "additionalProperties" => {
                    prepared.insert(keyword.clone(), sub(self, value, &place)?);
                }
                // Older drafts have a list of schemas here, and another keyword for the items after it.
                "items" if value.is_array() => {
                    prepared.insert("prefixItems".to_owned(), self.list(value, &place, depth, has_own_base)?);
                    if let Some(rest) = entries.get("additionalItems") {
                        let place = join(pointer, "additionalItems");
                        prepared.insert("items".to_owned(), sub(self, rest, &place)?);
                    }
                }
                "items" => {
                    prepared.insert(keyword.clone(), sub(self, value, &place)?);
                }
                "prefixItems" if !self.ignores_siblings => {
                    prepared.insert(keyword.clone(), self.list(value, &place, depth, has_own_base)?);
                }
                "format" => {
                    let format = value.as_str().ok_or_else(|| invalid(&place, "it must be a string"))?;
                    if UNSUPPORTED_FORMATS.contains(&format) {
                        return Err(invalid(
                            &place,
                            &format!("the format {format:?} is not supported in grammars"),
                        ));
                    }
                    if FORMATS.contains(&format) || format == "uri" {
                        prepared.insert(keyword.clone(), value.clone());
                    }
                }
                keyword if COUNTS.contains(&keyword) => {
                    let count = count(value).ok_or_else(|| invalid(&place, "it must be a whole number"))?;
                    prepared.insert(keyword.to_owned(), json!(count));
                }
                keyword if PLAIN.contains(&keyword) => {
                    prepared.insert(keyword.to_owned(), value.clone());
                }
                // Definitions are read where they are referred to, and all other words are annotations.
                _ => {}
            }
        }
        let prepared = Value::Object(prepared);
        self.parts.push((pointer.to_owned(), prepared.clone()));
        Ok(prepared)
    }

    fn list(
        &mut self,
        value: &'s Value,
        place: &str,
        depth: usize,
        has_own_base: bool,
    ) -> Result<Value, TextError> {
        let list = value.as_array().ok_or_else(|| invalid(place, "it must be a list of schemas"))?;
        let items = list
            .iter()
            .enumerate()
            .map(|(idx, item)| self.subschema(item, &join(place, &idx.to_string()), depth + 1, has_own_base));
        Ok(Value::Array(items.collect::<Result<_, _>>()?))
    }

    /// Returns the reference to a definition of the prepared schema.
    fn reference(&mut self, value: &Value, place: &str, has_own_base: bool) -> Result<String, TextError> {
        let reference = value.as_str().ok_or_else(|| invalid(place, "it must be a string"))?;
        if has_own_base {
            return Err(invalid(place, "references within a subschema that has an $id are not supported"));
        }
        let pointer = target(self.root, reference).ok_or_else(|| {
            invalid(place, &format!("{reference:?} is not in the schema; other documents are not read"))
        })?;
        let n_names = self.names.len();
        let pending = &mut self.pending;
        let name = self.names.entry(pointer.clone()).or_insert_with(|| {
            pending.push_back(pointer);
            format!("d{n_names}")
        });
        Ok(format!("#/$defs/{name}"))
    }

    /// Follows an alternative that is only a reference: whether alternatives exclude each other shows in their schemas.
    fn resolved(&self, mut option: &'s Value, mut place: String, has_own_base: bool) -> (&'s Value, String) {
        for _ in 0..MAX_CHAIN {
            let reference = option.get("$ref").and_then(Value::as_str);
            let is_only_ref = option.as_object().is_some_and(|entries| entries.len() == 1);
            let pointer =
                reference.filter(|_| is_only_ref && !has_own_base).and_then(|r| target(self.root, r));
            let Some((pointer, next)) = pointer.and_then(|p| Some((p.clone(), self.root.pointer(&p)?)))
            else {
                break;
            };
            if self.has_own_base(&pointer) {
                break;
            }
            (option, place) = (next, pointer);
        }
        (option, place)
    }

    /// Returns whether a subschema lies within one that has an `$id`.
    fn has_own_base(&self, pointer: &str) -> bool {
        let ends = pointer.match_indices('/').map(|(at, _)| at).skip(1).chain([pointer.len()]);
        ends.filter(|&end| end > 0)
            .any(|end| self.root.pointer(&pointer[..end]).and_then(Value::as_object).is_some_and(has_id))
    }
}

/// Returns whether a subschema is a document of its own.
fn has_id(entries: &Map<String, Value>) -> bool {
    entries.get("$id").and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'))
}

/// Returns a count, which may be written as `2.0`.
fn count(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..1e15).contains(float));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

fn unsupported(pointer: &str, keyword: &str) -> TextError {
    TextError::SchemaKeyword { pointer: pointer.to_owned(), keyword: keyword.to_owned() }
}

fn invalid(pointer: &str, reason: &str) -> TextError {
    TextError::Schema { pointer: pointer.to_owned(), reason: reason.to_owned() }
}
