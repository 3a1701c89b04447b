//! Regenerates goldens: outputs of other programs for the same inputs. Each has a Python script beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{models, native, run, venv};

/// A script, with how it is run.
enum Script {
    /// Writes its files itself.
    Writes(&'static str),
    /// Writes its files itself, and takes the directories of the demo model as argument.
    WritesFromModels(&'static str),
    /// Prints the contents of the file with this name.
    Prints(&'static str, &'static str),
}

/// All scripts except `flash-convert/tests/goldens/make_smollm2.py`, which needs the output of another converter.
const SCRIPTS: [Script; 16] = [
    Script::Prints("flash-kernels/tests/goldens/make_affine.py", "affine.json"),
    Script::Prints("flash-kernels/tests/goldens/make_mx.py", "mx.json"),
    Script::Prints("flash-convert/tests/goldens/make_blocks.py", "blocks.json"),
    Script::Prints("flash-convert/tests/goldens/make_names.py", "names.json"),
    Script::Prints("flash-convert/tests/goldens/make_quantized.py", "quantized.json"),
    Script::Prints("flash-convert/tests/goldens/make_tokenizers.py", "tokenizers.json"),
    Script::Writes("flash-cli/tests/goldens/make_gguf.py"),
    Script::Writes("flash-text/tests/goldens/tokenizers/make.py"),
    Script::Writes("flash-text/tests/goldens/tokenizers/make_added.py"),
    Script::Writes("flash-text/tests/goldens/templates/make.py"),
    Script::Writes("flash-text/tests/goldens/templates/make_expressions.py"),
    Script::Writes("flash-text/tests/goldens/output/make.py"),
    Script::Writes("flash-model/tests/goldens/sample/make.py"),
    Script::Writes("flash-model/tests/goldens/parity/make_tiny.py"),
    Script::Writes("flash-model/tests/goldens/mlx_lm_configs/make.py"),
    Script::WritesFromModels("flash-model/tests/goldens/parity/make_demo.py"),
];

/// Regenerates all goldens.
pub fn run() -> Result<()> {
    native::prepare(None)?;
    let models = models::ensure(&models::build_cli("dev")?)?;
    let python = venv::python()?;
    for script in &SCRIPTS {
        let (Script::Writes(path) | Script::WritesFromModels(path) | Script::Prints(path, _)) = script;
        eprintln!("{path}");
        let path = run::workspace().join(path);
        let mut command = Command::new(&python);
        // Scripts must leave no bytecode beside themselves, and download nothing.
        command.arg("-B").arg(&path).env("HF_HUB_OFFLINE", "1").env("TOKENIZERS_PARALLELISM", "false");
        match script {
            Script::Writes(_) => run::check(&mut command)?,
            Script::WritesFromModels(_) => run::check(command.arg(&models))?,
            Script::Prints(_, name) => print_into(&mut command, &path.with_file_name(name))?,
        }
    }
    Ok(())
}

/// Runs `command`, and writes its output to `file` if it succeeds.
fn print_into(command: &mut Command, file: &Path) -> Result<()> {
    let text = run::output(command)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
