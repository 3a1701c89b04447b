//! The transcript of a session, stored beside its KV pages: the tokens of a text, or the messages of a conversation.
//!
//! It is written before the pages are saved, so it may contain tokens that the pages lack, which are then computed
//! again. The reverse only happens after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use flash_model::Resumption;
use flash_text::Message;
use serde::{Deserialize, Serialize};

use crate::output::note;

const FILE: &str = "context.json";
const VERSION: u32 = 1;

/// Transcript of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Transcript {
    /// All tokens of a text, prompts included.
    Text { token_ids: Vec<u32> },
    /// The messages of a conversation.
    Chat { messages: Vec<MessageRecord> },
}

/// A message, as stored in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageRecord {
    role: String,
    content: String,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    transcript: T,
}

impl Transcript {
    pub(crate) fn chat(messages: &[Message]) -> Self {
        Self::Chat { messages: message_records(messages) }
    }

    /// Reads the transcript of the session in `dir`; none if there is no transcript yet.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        let Versioned { version, transcript } =
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        if version != VERSION {
            bail!("{}: has version {version}, this program reads {VERSION}", path.display());
        }
        Ok(Some(transcript))
    }

    /// Writes the transcript to `dir`, atomically.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_vec(&Versioned { version: VERSION, transcript: self })?;
        replace(&path, &text).with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Returns the tokens of a text. `held` are the tokens in the KV cache; if they are not a prefix of the transcript,
    /// they are newer than it.
    pub(crate) fn text(dir: &Path, name: &str, held: &[u32]) -> anyhow::Result<Vec<u32>> {
        match Self::read(dir)? {
            Some(Self::Text { token_ids }) if token_ids.starts_with(held) => Ok(token_ids),
            Some(Self::Text { .. }) | None => Ok(held.to_vec()),
            Some(Self::Chat { .. }) => {
                bail!("session {name} is a conversation: resume it with chat, or with run --chat")
            }
        }
    }

    /// Returns the messages of a conversation.
    pub(crate) fn messages(dir: &Path, name: &str) -> anyhow::Result<Vec<Message>> {
        match Self::read(dir)? {
            Some(Self::Chat { messages }) => {
                let message = |MessageRecord { role, content }| Message::new(role, content);
                Ok(messages.into_iter().map(message).collect())
            }
            Some(Self::Text { .. }) => {
                bail!("session {name} is a text, not a conversation: resume it with run, without --chat")
            }
            None => Ok(Vec::new()),
        }
    }
}

/// Converts messages to the form stored in JSON.
pub(crate) fn message_records(messages: &[Message]) -> Vec<MessageRecord> {
    let message =
        |Message { role, content }: &Message| MessageRecord { role: role.clone(), content: content.clone() };
    messages.iter().map(message).collect()
}

/// Replaces a file atomically.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("json.new");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// Prints what was recovered of a session after a crash.
pub(crate) fn report_recovery(name: &str, held_tokens: usize, resumption: &Resumption) {
    let recovery = match resumption {
        Resumption::Recovered(recovery) => recovery,
        Resumption::Saved { is_exact: false } => {
            return note(&format!(
                "session {name} was recovered after a crash: some tokens have reduced precision"
            ));
        }
        _ => return,
    };
    let mut line = format!("session {name} was not saved when it ended: {held_tokens} tokens recovered");
    if !recovery.is_exact {
        line.push_str(", the most recent at the precision of their pages");
    }
    if recovery.tokens_without_state > 0 {
        let tokens = recovery.tokens_without_state;
        line.push_str(&format!(", {tokens} discarded because their recurrent state was not saved"));
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
    fn transcripts_are_read_back_and_other_versions_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Transcript::read(dir.path()).unwrap(), None);
        let text = Transcript::Text { token_ids: vec![1, 2, 3] };
        for transcript in [text, Transcript::chat(&[Message::new("user", "a\n\"b\"")])] {
            transcript.write(dir.path()).unwrap();
            assert_eq!(Transcript::read(dir.path()).unwrap(), Some(transcript));
        }
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap().replace(":1,", ":2,");
        fs::write(dir.path().join(FILE), text).unwrap();
        assert!(Transcript::read(dir.path()).unwrap_err().to_string().contains("has version 2"));
    }

    #[test]
    fn the_longer_of_transcript_and_cache_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        Transcript::Text { token_ids: vec![1, 2, 3] }.write(dir.path()).unwrap();
        for (held, all) in
            [(&[1, 2][..], &[1, 2, 3][..]), (&[], &[1, 2, 3]), (&[1, 2, 3, 4], &[1, 2, 3, 4]), (&[7], &[7])]
        {
            assert_eq!(Transcript::text(dir.path(), "x", held).unwrap(), all);
        }
        assert!(Transcript::messages(dir.path(), "x").unwrap_err().to_string().contains("is a text"));
    }
}
