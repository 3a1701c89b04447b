//! GGUF models split into several files.
//!
//! Source of the rules: `llama_split_path` and `llama_model_loader` of llama.cpp. Each part stores its number
//! (`split.no`, from 0), the number of parts (`split.count`) and the number of tensors in all parts
//! (`split.tensors.count`); its name ends in `-00001-of-00003.gguf`, counted from 1. The metadata of the model is in
//! the first part.

use std::io;
use std::path::{Path, PathBuf};

use super::header::Header;
use crate::error::{ConvertError, SplitProblem};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const N_TENSORS: &str = "split.tensors.count";

/// The parts of a split model, found through one of them.
#[derive(Debug)]
pub(super) struct Split {
    /// The part that was opened.
    given: PathBuf,
    /// The common prefix of the file names.
    prefix: String,
    /// Number of the part that was opened, from 0.
    no: usize,
    count: usize,
}

impl Split {
    /// Returns the split that a file belongs to, if the model has several parts.
    pub(super) fn of(path: &Path, header: &Header) -> Result<Option<Self>, ConvertError> {
        let count = number(path, header, COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        let no = number(path, header, NO)?.unwrap_or(0);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let fault = |problem| ConvertError::Split { path: path.to_owned(), problem };
        if no >= count {
            return Err(fault(SplitProblem::Number { key: NO, wanted: count - 1, found: Some(no) }));
        }
        let end = end_of_name(no, count);
        let prefix =
            name.strip_suffix(&end).ok_or_else(|| fault(SplitProblem::Name { end: end.clone() }))?.to_owned();
        Ok(Some(Self { given: path.to_owned(), prefix, no, count }))
    }

    /// Returns the number of the part that was opened, from 0.
    pub(super) fn no(&self) -> usize {
        self.no
    }

    /// Returns the paths of all parts.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let name = |no| format!("{}{}", self.prefix, end_of_name(no, self.count));
        (0..self.count).map(|no| self.given.with_file_name(name(no))).collect()
    }

    /// Converts the error of opening a part, so that a missing file is reported as a missing part.
    pub(super) fn missing(&self, error: ConvertError) -> ConvertError {
        match error {
            ConvertError::Open { path, error } if error.kind() == io::ErrorKind::NotFound => {
                let problem = SplitProblem::Missing { given: self.given.clone(), count: self.count };
                ConvertError::Split { path, problem }
            }
            other => other,
        }
    }

    /// Checks that the number and count stored in a part match its name.
    pub(super) fn check(&self, path: &Path, no: usize, header: &Header) -> Result<(), ConvertError> {
        for (key, wanted) in [(NO, no), (COUNT, self.count)] {
            let found = number(path, header, key)?;
            if found != Some(wanted) {
                let problem = SplitProblem::Number { key, wanted, found };
                return Err(ConvertError::Split { path: path.to_owned(), problem });
            }
        }
        Ok(())
    }

    /// Checks that all parts together have as many tensors as the first one states.
    pub(super) fn check_tensors(&self, path: &Path, header: &Header) -> Result<(), ConvertError> {
        let wanted = number(path, header, N_TENSORS)?;
        match wanted.filter(|wanted| *wanted != header.tensors.len()) {
            Some(wanted) => {
                let found = Some(header.tensors.len());
                let problem = SplitProblem::Number { key: N_TENSORS, wanted, found };
                Err(ConvertError::Split { path: path.to_owned(), problem })
            }
            None => Ok(()),
        }
    }
}

/// Returns the suffix of the name of a part.
fn end_of_name(no: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// Returns the value of an integer key.
fn number(path: &Path, header: &Header, key: &str) -> Result<Option<usize>, ConvertError> {
    let number = header.metadata.u32(key);
    let number = number.map_err(|fault| ConvertError::Gguf { path: path.to_owned(), fault })?;
    Ok(number.map(|number| number as usize))
}
