//! Reading files of a model directory as text or JSON.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use flash_io::{LfsPointer, parse_python_json};
use serde_json::{Map, Value};

use super::error::TextError;

/// Maximum length of the excerpt of an invalid value in an error.
const FOUND_CHARS_MAX: usize = 80;

/// Reads a text file; `None` if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TextError::Read { path: path.to_owned(), error }),
    };
    no_pointer(path, text.as_bytes())?;
    Ok(Some(text))
}

/// Reads a JSON object; `None` if there is no such file. Accepts bare `Infinity` and `NaN`, which Python writes.
pub(super) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    parse_python_json(&text).map(Some).map_err(|error| TextError::Json { path: path.to_owned(), error })
}

/// Rejects a file that starts like a Git LFS pointer.
pub(super) fn no_pointer(path: &Path, start: &[u8]) -> Result<(), TextError> {
    match LfsPointer::detect(start) {
        Some(pointer) => Err(TextError::LfsPointer { path: path.to_owned(), pointer }),
        None => Ok(()),
    }
}

/// Returns the error for a field with an invalid value.
pub(super) fn wrong_field(path: &Path, field: &str, expected: &'static str, found: &Value) -> TextError {
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(FOUND_CHARS_MAX) {
        found.truncate(cut);
        found.push('…');
    }
    TextError::Field { path: path.to_owned(), field: field.to_owned(), expected, found }
}
