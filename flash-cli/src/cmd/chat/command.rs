//! Lines that are not for the model.

use std::path::PathBuf;

pub(super) const HELP: &str = "\
/reset      begin a new conversation
/stats      show the context, the speed and the memory
/save FILE  write the conversation as JSON
/help       show this
Ctrl-C stops an answer or clears the line, twice it leaves, as Ctrl-D does.";

/// What a line beginning with a slash asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Reset,
    Stats,
    Save(PathBuf),
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
            ("save", "") => Err("/save needs a file: /save FILE".to_owned()),
            ("save", path) => Ok(Self::Save(path.into())),
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
        assert_eq!(Command::parse("/save  a b.json"), Some(Ok(Command::Save("a b.json".into()))));
        for line in ["/save", "/nonsense", "/", "/stats now"] {
            assert!(matches!(Command::parse(line), Some(Err(_))), "{line}");
        }
    }
}
