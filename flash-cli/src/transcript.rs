//! What a session says beside its pages: a text that goes on, or a conversation.
//!
//! It is written before the pages are saved. So it may know tokens that they do not have, which are passed again then, and never
//! the other way round but for a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use flash_model::Resumption;
use flash_model::text::Message;
use serde::{Deserialize, Serialize};

use crate::output::note;

const FILE: &str = "context.json";
const VERSION: u32 = 1;

/// What a session holds, as whoever goes on with it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Kept {
    /// All tokens of a text.
    Text { token_ids: Vec<u32> },
    /// What was said.
    Chat { messages: Vec<KeptMessage> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptMessage {
    role: String,
    content: String,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    kept: T,
}

impl Kept {
    pub(crate) fn chat(messages: &[Message]) -> Self {
        Self::Chat { messages: kept_messages(messages) }
    }

    /// What the session in `dir` holds; none if nothing was ever kept.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        let Versioned { version, kept } =
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        if version != VERSION {
            bail!("{}: has version {version}, this program reads {VERSION}", path.display());
        }
        Ok(Some(kept))
    }

    /// Keeps it in `dir`: all of it, or what was there.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_vec(&Versioned { version: VERSION, kept: self })?;
        replace(&path, &text).with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// The tokens of a text, of which the cache has `held`. If it has more, or others, they are newer.
    pub(crate) fn text(dir: &Path, name: &str, held: &[u32]) -> anyhow::Result<Vec<u32>> {
        match Self::read(dir)? {
            Some(Self::Text { token_ids }) if token_ids.starts_with(held) => Ok(token_ids),
            Some(Self::Text { .. }) | None => Ok(held.to_vec()),
            Some(Self::Chat { .. }) => {
                bail!("session {name} is a conversation: go on with it in chat, or with run --chat")
            }
        }
    }

    /// The messages of a conversation.
    pub(crate) fn messages(dir: &Path, name: &str) -> anyhow::Result<Vec<Message>> {
        match Self::read(dir)? {
            Some(Self::Chat { messages }) => {
                let message = |KeptMessage { role, content }| Message::new(role, content);
                Ok(messages.into_iter().map(message).collect())
            }
            Some(Self::Text { .. }) => {
                bail!("session {name} is a text and no conversation: go on with it in run, without --chat")
            }
            None => Ok(Vec::new()),
        }
    }
}

/// Messages as JSON has them.
pub(crate) fn kept_messages(messages: &[Message]) -> Vec<KeptMessage> {
    let message =
        |Message { role, content }: &Message| KeptMessage { role: role.clone(), content: content.clone() };
    messages.iter().map(message).collect()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("json.new");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// Says what a crash has left of a session.
pub(crate) fn tell(name: &str, held_tokens: usize, resumption: &Resumption) {
    let recovery = match resumption {
        Resumption::Recovered(recovery) => recovery,
        Resumption::Saved { is_exact: false } => {
            return note(&format!(
                "session {name} was once recovered: some tokens are less precise than they were"
            ));
        }
        _ => return,
    };
    let mut line = format!("session {name} was not saved at its end: {held_tokens} tokens are recovered");
    if !recovery.is_exact {
        line.push_str(", the most recent of them as precise as they were stored");
    }
    if recovery.tokens_without_state > 0 {
        let tokens = recovery.tokens_without_state;
        line.push_str(&format!(", pages of {tokens} are of no use without the state that was not saved"));
    }
    if let Some(cause) = recovery.lost.as_ref().or(recovery.dropped.as_ref()) {
        line.push_str(&format!(" ({cause})"));
    }
    note(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_other_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(dir.path()).unwrap(), None);
        for kept in [Kept::Text { token_ids: vec![1, 2, 3] }, Kept::chat(&[Message::new("user", "a\n\"b\"")])]
        {
            kept.write(dir.path()).unwrap();
            assert_eq!(Kept::read(dir.path()).unwrap(), Some(kept));
        }
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap().replace(":1,", ":2,");
        fs::write(dir.path().join(FILE), text).unwrap();
        assert!(Kept::read(dir.path()).unwrap_err().to_string().contains("has version 2"));
    }

    #[test]
    fn the_longer_of_text_and_cache_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        Kept::Text { token_ids: vec![1, 2, 3] }.write(dir.path()).unwrap();
        for (held, all) in
            [(&[1, 2][..], &[1, 2, 3][..]), (&[], &[1, 2, 3]), (&[1, 2, 3, 4], &[1, 2, 3, 4]), (&[7], &[7])]
        {
            assert_eq!(Kept::text(dir.path(), "x", held).unwrap(), all);
        }
        assert!(Kept::messages(dir.path(), "x").unwrap_err().to_string().contains("is a text"));
    }
}
