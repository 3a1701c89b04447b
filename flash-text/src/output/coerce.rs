//! Values of parameters that a model writes without types.

use serde_json::Value;

use super::json;

/// Maximum length of a chain of references and alternatives in a schema that is followed.
const MAX_STEPS: usize = 16;

/// Types that a schema allows for a value.
#[derive(Clone, Copy, Debug, Default)]
struct Types {
    string: bool,
    integer: bool,
    number: bool,
    boolean: bool,
    null: bool,
    container: bool,
}

/// Returns a value as JSON, of a type that the schema of the parameter allows.
///
/// `schema` is that of the arguments; a parameter that it does not describe is a string. If several types are allowed,
/// the text decides: a number, a word or a container that is allowed, else a string. A text that fits none of the
/// allowed types is a string, too: the tool can then tell what is wrong with it. Python's `True`, `False` and `None`,
/// which some templates show to the model, count as JSON's words.
pub(super) fn coerce(value: &str, parameter: &str, schema: Option<&Value>) -> String {
    let types = schema.and_then(|root| types_of_parameter(root, parameter));
    types.and_then(|types| typed(value.trim(), types)).unwrap_or_else(|| string(value))
}

/// Returns a value as JSON of any type: as a string only if it is not JSON, or if the schema allows nothing else.
pub(super) fn coerce_untyped(value: &str, parameter: &str, schema: Option<&Value>) -> String {
    match schema.and_then(|root| types_of_parameter(root, parameter)) {
        Some(types) if types.string && !types.has_others() => string(value),
        _ => json::normalized(value)
            .ok()
            .or_else(|| word(value.trim()))
            .unwrap_or_else(|| coerce(value, parameter, schema)),
    }
}

/// Returns a text as a JSON string.
pub(super) fn string(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    json::push_string(value, &mut text);
    text
}

/// Returns JSON's word for a word of JSON or Python.
fn word(value: &str) -> Option<String> {
    let word = match value {
        "true" | "True" => "true",
        "false" | "False" => "false",
        "null" | "None" => "null",
        _ => return None,
    };
    Some(word.to_owned())
}

impl Types {
    fn all() -> Self {
        Self { string: true, integer: true, number: true, boolean: true, null: true, container: true }
    }

    fn has_others(self) -> bool {
        self.integer || self.number || self.boolean || self.null || self.container
    }

    fn add(&mut self, name: &str) {
        match name {
            "string" => self.string = true,
            "integer" => self.integer = true,
            "number" => self.number = true,
            "boolean" => self.boolean = true,
            "null" => self.null = true,
            "array" | "object" => self.container = true,
            _ => {}
        }
    }

    fn add_value(&mut self, value: &Value) {
        self.add(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        });
    }

    fn or(self, other: Self) -> Self {
        Self {
            string: self.string || other.string,
            integer: self.integer || other.integer,
            number: self.number || other.number,
            boolean: self.boolean || other.boolean,
            null: self.null || other.null,
            container: self.container || other.container,
        }
    }
}

fn typed(value: &str, types: Types) -> Option<String> {
    let word = word(value);
    match word.as_deref() {
        Some("null") if types.null => return word,
        Some("true" | "false") if types.boolean => return word,
        _ => {}
    }
    let value = json::normalized(value).ok()?;
    match value.as_bytes().first()? {
        b'{' | b'[' if types.container => Some(value),
        b'-' | b'0'..=b'9' if types.number => Some(value),
        b'-' | b'0'..=b'9' if types.integer => integer(&value).map(str::to_owned),
        _ => None,
    }
}

/// Returns the digits of a JSON number that is an integer, such as `5` or `5.0`.
fn integer(value: &str) -> Option<&str> {
    let (digits, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_integer = fraction.bytes().all(|b| b == b'0') && !digits.contains(['e', 'E']);
    is_integer.then_some(digits)
}

/// Returns the types that the schema of arguments allows for a parameter; `None` if it does not describe it.
fn types_of_parameter(root: &Value, parameter: &str) -> Option<Types> {
    Some(types(root.get("properties")?.get(parameter)?, root, &mut 0))
}

fn types(schema: &Value, root: &Value, n_steps: &mut usize) -> Types {
    *n_steps += 1;
    let mut types_here = Types::default();
    if *n_steps > MAX_STEPS {
        return Types::all();
    }
    let mut is_typed = false;
    match schema.get("type") {
        Some(Value::String(name)) => types_here.add(name),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).for_each(|name| types_here.add(name));
        }
        _ => {
            if let Some(values) = schema.get("enum").and_then(Value::as_array) {
                is_typed = true;
                values.iter().for_each(|value| types_here.add_value(value));
            }
            if let Some(value) = schema.get("const") {
                is_typed = true;
                types_here.add_value(value);
            }
            let reference =
                schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            if let Some(target) = reference.and_then(|path| root.pointer(path)) {
                is_typed = true;
                types_here = types_here.or(types(target, root, n_steps));
            }
            for list in ["anyOf", "oneOf", "allOf"] {
                for choice in schema.get(list).and_then(Value::as_array).into_iter().flatten() {
                    is_typed = true;
                    types_here = types_here.or(types(choice, root, n_steps));
                }
            }
            let is_container =
                ["properties", "items", "additionalProperties"].iter().any(|key| schema.get(key).is_some());
            if !is_typed {
                return if is_container {
                    Types { container: true, ..Types::default() }
                } else {
                    Types::all()
                };
            }
        }
    }
    // Pydantic writes optional parameters with OpenAPI's older keyword, too.
    types_here.null |= schema.get("nullable") == Some(&Value::Bool(true));
    types_here
}
