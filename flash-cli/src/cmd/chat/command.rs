//! Chat commands: input lines that start with a slash.

use std::path::PathBuf;

pub(super) const HELP: &str = "\
/reset        start a new conversation
/stats        show context, speed and memory
/save NAME    save the conversation as a session
/load NAME    load a copy of a session
/export FILE  write the conversation as JSON
/help         show this help
/exit         end the conversation
Ctrl-C stops an answer or clears the line; twice, or Ctrl-D, exits.";

/// A chat command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Exit,
    Help,
    Reset,
    Stats,
    Save(String),
    Load(String),
    Export(PathBuf),
}

impl Command {
    /// Parses a line; none if it is a message to the model.
    ///
    /// # Errors
    /// A message for the user if the command is unknown or has wrong arguments.
    pub(super) fn parse(line: &str) -> Option<Result<Self, String>> {
        let line = line.trim().strip_prefix('/')?;
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(match (name, rest.trim()) {
            ("exit" | "quit" | "bye", "") => Ok(Self::Exit),
            ("help", "") => Ok(Self::Help),
            ("reset", "") => Ok(Self::Reset),
            ("stats", "") => Ok(Self::Stats),
            ("save" | "load", "") => Err(format!("/{name} needs a name: /{name} NAME")),
            ("save", name) => Ok(Self::Save(name.to_owned())),
            ("load", name) => Ok(Self::Load(name.to_owned())),
            ("export", "") => Err("/export needs a file: /export FILE".to_owned()),
            ("export", path) => Ok(Self::Export(path.into())),
            ("exit" | "quit" | "bye" | "help" | "reset" | "stats", _) => {
                Err(format!("/{name} takes no argument"))
            }
            _ => Err(format!("/{name} is not a command; /help lists the commands")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_slash_are_for_the_model() {
        assert_eq!(Command::parse("what is 1/2?"), None);
        assert_eq!(Command::parse(""), None);
    }

    #[test]
    fn commands_are_parsed_and_others_are_rejected() {
        assert_eq!(Command::parse(" /reset "), Some(Ok(Command::Reset)));
        assert_eq!(Command::parse("/export  a b.json"), Some(Ok(Command::Export("a b.json".into()))));
        assert_eq!(Command::parse("/save one"), Some(Ok(Command::Save("one".into()))));
        assert_eq!(Command::parse("/load one"), Some(Ok(Command::Load("one".into()))));
        for line in ["/exit", "/quit", "/bye"] {
            assert_eq!(Command::parse(line), Some(Ok(Command::Exit)));
        }
        for line in ["/save", "/load", "/export", "/nonsense", "/", "/stats now"] {
            assert!(matches!(Command::parse(line), Some(Err(_))), "{line}");
        }
    }
}
