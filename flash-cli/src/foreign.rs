//! Detects models in unsupported formats, and names the command that converts them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flash_convert::COMPANION_FILES;
use flash_io::{Catalog, IoError, IoMode, LFS_POINTER_BYTES_MAX, LfsPointer, parse_python_json};
use flash_model::ModelError;
use serde_json::Value;

use crate::gguf;

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const SAFETENSORS: &str = "safetensors";
const GGUF: &str = "gguf";

/// File extensions of other weight formats, with the names of the formats.
const OTHER_WEIGHTS: [(&str, &str); 8] = [
    ("bin", "PyTorch"),
    ("pt", "PyTorch"),
    ("pth", "PyTorch"),
    ("ckpt", "PyTorch"),
    ("npz", "NumPy"),
    ("h5", "TensorFlow"),
    ("msgpack", "Flax"),
    ("onnx", "ONNX"),
];

/// Quantization methods: `quant_method` in `config.json`, and the display name.
const METHODS: [(&str, &str); 5] = [
    ("awq", "AWQ"),
    ("gptq", "GPTQ"),
    ("fp8", "FP8"),
    ("mxfp4", "MXFP4"),
    ("compressed-tensors", "compressed-tensors"),
];

/// Tensor name suffixes that identify a quantization method if `config.json` does not.
const TENSORS: [(&str, &str); 4] = [
    (".qzeros", "AWQ or GPTQ"),
    (".quant_map", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale_inv", "FP8"),
];

/// A model in a format that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForeignFormat {
    #[error("{path}: this is a GGUF file; convert it first: flash-cli convert --gguf {path} --out DIR")]
    Gguf { path: PathBuf },
    #[error(
        "{dir}: the weights are GGUF files, not safetensors; convert one first: \
         flash-cli convert --gguf {first} --out DIR"
    )]
    GgufDirectory { dir: PathBuf, first: PathBuf },
    #[error(
        "{path}: the weights are {format} files, and only safetensors are supported: save the model as safetensors"
    )]
    OtherWeights { path: PathBuf, format: &'static str },
    #[error(
        "{dir}: the weights are quantized with {method}; convert them first: flash-cli convert --hf {dir} --out OUT"
    )]
    Convertible { dir: PathBuf, method: String },
    #[error(
        "{dir}: the weights are quantized with {method}, which is not supported: use the unquantized model, and \
         quantize it with flash-cli convert --hf"
    )]
    Quantized { dir: PathBuf, method: String },
}

/// Checks that no file of a model is a Git LFS pointer, which would pass as text where a chat template is read.
pub(crate) fn check_pointers(path: &Path) -> Result<(), IoError> {
    let is_read = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let is_shard = has_extension(path, SAFETENSORS) && !name.starts_with('.');
        is_shard || name == CONFIG || name == INDEX || COMPANION_FILES.contains(&name)
    };
    let files = if path.is_dir() { files(path).filter(is_read).collect() } else { vec![path.to_owned()] };
    for path in files {
        // An unreadable file is reported with its cause when it is opened.
        if let Ok(Some(pointer)) = pointer(&path) {
            return Err(IoError::LfsPointer { path, pointer });
        }
    }
    Ok(())
}

/// Replaces the error of a model that could not be opened by a [`ForeignFormat`], if the model is in another format.
pub(crate) fn explain(path: &Path, error: anyhow::Error) -> anyhow::Error {
    match find(path, &error) {
        Some(foreign) => foreign.into(),
        None => error,
    }
}

fn find(path: &Path, error: &anyhow::Error) -> Option<ForeignFormat> {
    if !path.is_dir() {
        return gguf::is_gguf(path).then(|| ForeignFormat::Gguf { path: path.to_owned() });
    }
    let mut files: Vec<_> = files(path).collect();
    files.sort();
    let first = |extension| files.iter().find(|path| has_extension(path, extension)).cloned();
    if first(SAFETENSORS).is_none() {
        if let Some(first) = first(GGUF) {
            return Some(ForeignFormat::GgufDirectory { dir: path.to_owned(), first });
        }
        let mut others =
            OTHER_WEIGHTS.iter().filter_map(|(extension, format)| Some((first(extension)?, *format)));
        return others.next().map(|(path, format)| ForeignFormat::OtherWeights { path, format });
    }
    // An unreadable shard is an I/O error, whatever the format.
    if matches!(error.downcast_ref(), Some(ModelError::Io(_) | ModelError::File { .. })) {
        return None;
    }
    let (dir, method) = (path.to_owned(), method(path)?);
    Some(if flash_convert::Checkpoint::open(path).is_ok() {
        ForeignFormat::Convertible { dir, method }
    } else {
        ForeignFormat::Quantized { dir, method }
    })
}

/// Returns the quantization method of a model, unless it is one of MLX's.
fn method(dir: &Path) -> Option<String> {
    let config: Value = parse_python_json(&fs::read_to_string(dir.join(CONFIG)).ok()?).ok()?;
    if !config["quantization"].is_null() {
        return None;
    }
    let methods =
        [&config, &config["text_config"]].map(|config| &config["quantization_config"]["quant_method"]);
    if let Some(method) = methods.into_iter().find_map(Value::as_str) {
        let known = METHODS.iter().find(|(name, _)| *name == method);
        return Some(known.map_or_else(|| method.to_owned(), |(_, called)| (*called).to_owned()));
    }
    let catalog = Catalog::open(dir, IoMode::Pread).ok()?;
    let has = |suffix: &str| catalog.tensors().any(|tensor| tensor.name.ends_with(suffix));
    TENSORS.iter().find(|(suffix, _)| has(suffix)).map(|(_, called)| (*called).to_owned())
}

/// Lists the files of a directory; none if it cannot be read.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn pointer(path: &Path) -> io::Result<Option<LfsPointer>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() > LFS_POINTER_BYTES_MAX as u64 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(LfsPointer::detect(&bytes))
}
