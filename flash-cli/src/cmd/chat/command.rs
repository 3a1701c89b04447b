//! Lines that are not for the model.

use std::path::PathBuf;

pub(super) const HELP: &str = "\
/reset        begin a new conversation
/stats        show the context, the speed and the memory
/save NAME    keep the conversation as a session
/load NAME    go on with a session that was kept
/export FILE  write the conversation as JSON
/help         show this
Ctrl-C stops an answer or clears the line, twice it leaves, as Ctrl-D does.";

/// What a line beginning with a slash asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Reset,
    Stats,
    Save(String),
    Load(String),
    Export(PathBuf),
}

impl Command {
    /// None if the line is for the model; an error, in words, if it is no command that there is.
    pub(super) fn parse(line: &str) -> Option<Result<Self, String>> {
        let line = line.trim().strip_prefix('/')?;
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(match (name, rest.trim()) {
            ("help", "") => Ok(Self::Help),
            ("reset", "") => Ok(Self::Reset),
            ("stats", "") => Ok(Self::Stats),
            ("save" | "load", "") => Err(format!("/{name} needs a name: /{name} NAME")),
            ("save", name) => Ok(Self::Save(name.to_owned())),
            ("load", name) => Ok(Self::Load(name.to_owned())),
            ("export", "") => Err("/export needs a file: /export FILE".to_owned()),
            ("export", path) => Ok(Self::Export(path.into())),
            ("help" | "reset" | "stats", _) => Err(format!("/{name} takes nothing behind it")),
            _ => Err(format!("/{name} is no command; /help shows those that are")),
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
    fn commands_are_known_and_others_are_refused() {
        assert_eq!(Command::parse(" /reset "), Some(Ok(Command::Reset)));
        assert_eq!(Command::parse("/export  a b.json"), Some(Ok(Command::Export("a b.json".into()))));
        assert_eq!(Command::parse("/save one"), Some(Ok(Command::Save("one".into()))));
        assert_eq!(Command::parse("/load one"), Some(Ok(Command::Load("one".into()))));
        for line in ["/save", "/load", "/export", "/nonsense", "/", "/stats now"] {
            assert!(matches!(Command::parse(line), Some(Err(_))), "{line}");
        }
    }
}
