//! Modelfiles: settings in a file, one directive per line.
//!
//! ```text
//! # Comments are lines of their own.
//! FROM ./SmolLM2-135M-Instruct
//! FLASH_RAM_GB 1.5
//! ```

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::model::ModelName;
use crate::size::Size;
use crate::usage::THREADS;

/// Settings of a Modelfile.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Modelfile {
    /// `FROM`: model directory, relative to the directory of the Modelfile, or model id.
    pub(crate) from: Option<ModelName>,
    /// `FLASH`: whether weights may be streamed.
    pub(crate) flash: Option<bool>,
    /// `FLASH_RAM_GB`: memory budget, in GiB unless it has a unit.
    pub(crate) ram: Option<Size>,
    /// `FLASH_THREADS`: number of concurrent reads.
    pub(crate) threads: Option<usize>,
    /// `FLASH_PREFETCH_LAYERS`: 0 disables read-ahead; for any other value the engine chooses the distance.
    pub(crate) prefetch_layers: Option<usize>,
    /// `FLASH_TOP_K`: experts per token; 0 for the trained number.
    pub(crate) top_k: Option<TopK>,
}

/// Override of the number of experts per token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopK {
    /// The flag or directive that sets it, for error messages.
    pub(crate) source: String,
    /// 0 for the trained number.
    pub(crate) n_experts: usize,
}

/// Why a Modelfile is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelfileError {
    #[error("{path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path}: line {line}: unknown directive {given:?}; supported: {}", KEYS.join(", "))]
    Unknown { path: PathBuf, line: usize, given: String },
    #[error("{path}: line {line}: {key} is {given:?}, expected {expected}")]
    Value { path: PathBuf, line: usize, key: &'static str, given: String, expected: &'static str },
    #[error("{path}: line {line}: duplicate directive {key}")]
    Duplicate { path: PathBuf, line: usize, key: &'static str },
}

const KEYS: [&str; 6] =
    ["FROM", "FLASH", "FLASH_RAM_GB", "FLASH_THREADS", "FLASH_PREFETCH_LAYERS", "FLASH_TOP_K"];

impl Modelfile {
    /// Reads a Modelfile.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelfileError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ModelfileError::Read { path: path.to_owned(), error })?;
        Self::parse(path, &text)
    }

    /// Parses the text of a Modelfile at `path`, which errors name and relative paths start from.
    fn parse(path: &Path, text: &str) -> Result<Self, ModelfileError> {
        let mut file = Self::default();
        for (line, directive) in (1..).zip(text.lines()) {
            let directive = directive.trim();
            if directive.is_empty() || directive.starts_with('#') {
                continue;
            }
            let (given_key, value) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
            let directive = Directive { path, line, value: value.trim() };
            match given_key.to_ascii_uppercase().as_str() {
                "FROM" => {
                    let dir = path.parent().unwrap_or(Path::new(""));
                    let parse = |value: &str| (!value.is_empty()).then(|| ModelName::within(dir, value));
                    directive.set(&mut file.from, KEYS[0], "a model", parse)?;
                }
                "FLASH" => directive.set(&mut file.flash, KEYS[1], "true or false", boolean)?,
                "FLASH_RAM_GB" => {
                    let parse = |value: &str| value.parse().ok();
                    let expected = "a positive number of GiB, or a number with a unit (512MiB, 2G)";
                    directive.set(&mut file.ram, KEYS[2], expected, parse)?;
                }
                "FLASH_THREADS" => {
                    let parse = |value: &str| value.parse().ok().filter(|threads| THREADS.contains(threads));
                    directive.set(&mut file.threads, KEYS[3], "a number from 1 to 256", parse)?;
                }
                "FLASH_PREFETCH_LAYERS" => {
                    let parse = |value: &str| value.parse().ok();
                    directive.set(&mut file.prefetch_layers, KEYS[4], "a non-negative integer", parse)?;
                }
                "FLASH_TOP_K" => {
                    let parse = |value: &str| {
                        let n_experts = value.parse().ok()?;
                        let source = format!("{}: line {line}: {}", path.display(), KEYS[5]);
                        Some(TopK { source, n_experts })
                    };
                    directive.set(&mut file.top_k, KEYS[5], "a number of experts, or 0", parse)?;
                }
                _ => {
                    let given = given_key.to_owned();
                    return Err(ModelfileError::Unknown { path: path.to_owned(), line, given });
                }
            }
        }
        Ok(file)
    }
}

/// Value of a directive, with its place.
struct Directive<'a> {
    path: &'a Path,
    line: usize,
    value: &'a str,
}

impl Directive<'_> {
    fn set<T>(
        &self,
        field: &mut Option<T>,
        key: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<(), ModelfileError> {
        let (path, line) = (self.path.to_owned(), self.line);
        if field.is_some() {
            return Err(ModelfileError::Duplicate { path, line, key });
        }
        let parsed = parse(self.value);
        *field = Some(parsed.ok_or_else(|| {
            let given = self.value.to_owned();
            ModelfileError::Value { path, line, key, given, expected }
        })?);
        Ok(())
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Modelfile, String> {
        Modelfile::parse(Path::new("dir/Modelfile"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn all_directives_are_read_in_any_case() {
        let text = "# comment\n\nfrom  ./my model \nFlash ON\nFLASH_RAM_GB 1.5\n\tflash_threads\t3\n\
                    FLASH_PREFETCH_LAYERS 0\nFLASH_TOP_K 2\n";
        let file = parse(text).unwrap();
        assert_eq!(file.from.unwrap().path(), Path::new("dir/./my model"));
        assert_eq!(file.flash, Some(true));
        assert_eq!(file.ram.map(Size::bytes), Some(3 << 29));
        assert_eq!((file.threads, file.prefetch_layers), (Some(3), Some(0)));
        assert_eq!(file.top_k.unwrap().n_experts, 2);
    }

    #[test]
    fn an_absolute_path_stays_what_it_is() {
        assert_eq!(parse("FROM /models/a").unwrap().from.unwrap().path(), Path::new("/models/a"));
    }

    #[test]
    fn a_budget_may_have_a_unit() {
        for (given, bytes) in
            [("2", 2 << 30), ("2G", 2 << 30), ("512M", 512 << 20), ("1.5 GB", 1_500_000_000)]
        {
            let file = parse(&format!("FLASH_RAM_GB {given}")).unwrap();
            assert_eq!(file.ram.map(Size::bytes), Some(bytes), "{given}");
        }
    }

    #[test]
    fn zero_is_the_models_own_number_of_experts() {
        assert_eq!(parse("FLASH_TOP_K 0").unwrap().top_k.unwrap().n_experts, 0);
    }

    #[test]
    fn every_word_for_true_and_false_is_known() {
        for (word, expected) in [("true", true), ("1", true), ("YES", true), ("off", false), ("0", false)] {
            assert_eq!(parse(&format!("FLASH {word}")).unwrap().flash, Some(expected), "{word}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let table = [
            (
                "FROM a\n\nTEMPLATE x",
                "dir/Modelfile: line 3: unknown directive \"TEMPLATE\"; supported: FROM, FLASH, ",
            ),
            ("FROM", "dir/Modelfile: line 1: FROM is \"\", expected a model"),
            ("#\nFLASH maybe", "dir/Modelfile: line 2: FLASH is \"maybe\", expected true or false"),
            (
                "FLASH_RAM_GB 0",
                "dir/Modelfile: line 1: FLASH_RAM_GB is \"0\", expected a positive number of GiB",
            ),
            ("FLASH_RAM_GB much", "dir/Modelfile: line 1: FLASH_RAM_GB is \"much\", expected a positive"),
            ("FLASH_RAM_GB nan", "dir/Modelfile: line 1: FLASH_RAM_GB is \"nan\", expected a positive"),
            (
                "FLASH_THREADS 0",
                "dir/Modelfile: line 1: FLASH_THREADS is \"0\", expected a number from 1 to 256",
            ),
            (
                "FLASH_THREADS 257",
                "dir/Modelfile: line 1: FLASH_THREADS is \"257\", expected a number from 1 to",
            ),
            (
                "FLASH_THREADS 2 3",
                "dir/Modelfile: line 1: FLASH_THREADS is \"2 3\", expected a number from 1 to 256",
            ),
            ("FLASH_PREFETCH_LAYERS -1", "dir/Modelfile: line 1: FLASH_PREFETCH_LAYERS is \"-1\", expected"),
            ("FLASH_TOP_K x", "dir/Modelfile: line 1: FLASH_TOP_K is \"x\", expected a number of experts"),
            ("FROM a\nFROM b", "dir/Modelfile: line 2: duplicate directive FROM"),
        ];
        for (text, expected) in table {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error}");
        }
    }
}
