//! Pictures of terminal sessions for the README: commands that are run here, rendered with their output as SVG.

use std::fs;
use std::path::Path;
use std::process::Command;

use anstyle_svg::Term;
use anyhow::{Context, Result};

use crate::{models, native, run};

/// The pictures, and the commands in them.
const PICTURES: [(&str, &[&str]); 2] = [
    ("run", &["run", "--chat", "--summary", "--ram", "80MiB", "--prompt", "What is the capital of France?"]),
    ("plan", &["plan", "--ram", "100MiB", "--disk", "2GB/s"]),
];

/// Where they are kept.
const FOLDER: &str = "docs/images";

/// Runs the commands with the demo model, and writes a picture of each below `docs/images`.
pub fn run() -> Result<()> {
    native::prepare(None)?;
    // The program of the demo, so that readers see what they get.
    let flash_cli = models::build_cli("quick")?;
    let model = models::demo(&flash_cli)?;
    let folder = run::workspace().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, args) in PICTURES {
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, picture(&flash_cli, &model, args)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// A command and its output, as a reader would see them in a terminal.
fn picture(flash_cli: &Path, model: &Path, args: &[&str]) -> Result<String> {
    let (folder, name) = (model.parent(), model.file_name());
    let (folder, name) = folder.zip(name).context("the demo model lies in a folder")?;
    let mut command = Command::new(flash_cli);
    command.args(args).arg("--model").arg(name).current_dir(folder);
    let output = command.output().context("cannot start flash-cli")?;
    let quoted = |arg: &&str| if arg.contains(' ') { format!("\"{arg}\"") } else { (*arg).to_owned() };
    let shown: Vec<String> = args.iter().map(quoted).collect();
    // The summary is on the standard error, below the text.
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    let session = format!(
        "\x1b[1m$ flash-cli {} --model {}\x1b[0m\n{}\n\x1b[2m{}\x1b[0m\n",
        shown.join(" "),
        name.display(),
        out.trim_end(),
        err.trim_end()
    );
    Ok(Term::new().render_svg(&session))
}
