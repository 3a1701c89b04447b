//! Runs the commands that the README shows, so that readers can rely on them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{demo, models, run};

/// The program, as the README writes it before it is installed.
const FROM_SOURCE: &str = "cargo run --release -- ";
/// The files of the README's examples.
const FILES: [(&str, &str); 2] = [
    ("report-and-question.txt", "Paris is in France. The capital of France is"),
    (
        "prompts.jsonl",
        "{\"id\": 1, \"prompt\": \"The capital of France is\"}\n{\"prompt\": \"The sea is\"}\n",
    ),
];

/// Runs every command of the README, with the demo model.
pub fn check() -> Result<()> {
    let path = run::workspace().join("README.md");
    let readme = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let flash_cli = &models::build_cli("quick")?;
    let model = models::demo(flash_cli)?;
    let dir = tempfile::tempdir()?;
    for (name, text) in FILES {
        fs::write(dir.path().join(name), text)?;
    }
    for command in commands(&readme) {
        eprintln!("$ {command}");
        match command {
            "cargo xtask demo" => demo::run(demo::PROMPT)?,
            // It is what runs this.
            "cargo xtask test" => {}
            _ => {
                let command = command.replace(FROM_SOURCE, "flash-cli ");
                ensure!(
                    command.starts_with("flash-cli "),
                    "the README has a command of another program: {command}"
                );
                let command = command.replace("--model DIR", &format!("--model {}", model.display()));
                run::check(&mut shell(&command, flash_cli, dir.path())?)?;
            }
        }
    }
    for name in subcommands(&readme) {
        let mut help = Command::new(flash_cli);
        help.args([name, "--help"]).stdout(Stdio::null());
        run::check(&mut help).with_context(|| format!("the README names `flash-cli {name}`"))?;
    }
    Ok(())
}

/// Returns a command line to be run in `dir`, where `flash-cli` is the program `flash_cli`, and nobody types.
fn shell(line: &str, flash_cli: &Path, dir: &Path) -> Result<Command> {
    let programs = flash_cli.parent().context("flash-cli lies in a folder")?;
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([programs.to_owned()].into_iter().chain(env::split_paths(&others)))?;
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir).env("PATH", path).env("FLASH_CACHE", dir);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Returns the lines of the shell code blocks, without comments.
fn commands(readme: &str) -> impl Iterator<Item = &str> {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines);
    let commands = lines.map(|line| line.split(" #").next().unwrap_or(line).trim());
    commands.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns the subcommands that are named like `flash-cli run`.
fn subcommands(readme: &str) -> BTreeSet<&str> {
    let mentions = readme.split("`flash-cli ").skip(1);
    mentions.filter_map(|rest| rest.split(['`', ' ']).next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_lines_of_shell_blocks_without_comments() {
        let readme =
            "a\n```sh\nx --y    # z\n\n# only a comment\nu\n```\nb\n```rust\nno\n```\n```sh\nw\n```\n";
        assert_eq!(commands(readme).collect::<Vec<_>>(), ["x --y", "u", "w"]);
    }

    #[test]
    fn subcommands_are_found_in_prose_and_tables() {
        let found = subcommands("| `flash-cli run` | x |\nas `flash-cli kv list` does, flash-cli runs");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["kv", "run"]);
    }
}
