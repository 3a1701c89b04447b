//! Reports of the `kv` commands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use flash_kv::{EvictedPrefixes, KvError, SessionInfo, prefixes, sessions};
use serde::Serialize;
use serde_json::Value;

use crate::size::Bytes;
use crate::table::{count, left, section, size};
use crate::transcript::Transcript;

/// Report of `kv list`.
#[derive(Debug, Serialize)]
pub(super) struct ListReport {
    kv_dir: PathBuf,
    sessions: Vec<SessionReport>,
    prefixes: Vec<PrefixesReport>,
}

#[derive(Debug, Serialize)]
struct SessionReport {
    name: String,
    stored_bytes: u64,
    /// Seconds since 1970.
    modified: Option<u64>,
}

/// Cached prefixes of one model and page format.
#[derive(Debug, Serialize)]
struct PrefixesReport {
    identity: String,
    pages: usize,
    stored_bytes: u64,
    /// Last use of any of the pages, in seconds since 1970.
    used: Option<u64>,
}

/// Report of `kv show`.
#[derive(Debug, Serialize)]
pub(super) struct ShowReport {
    #[serde(flatten)]
    session: SessionReport,
    dir: PathBuf,
    /// `text` or `conversation`; none if the session was never saved.
    kind: Option<&'static str>,
    messages: Option<usize>,
    /// Number of tokens when the session was last saved.
    tokens: Option<usize>,
    page_format: Option<String>,
    window_tokens: Option<u64>,
    identity: Option<String>,
}

/// Report of `kv rm`.
#[derive(Debug, Serialize)]
pub(super) struct RemoveReport {
    pub name: String,
}

/// Report of `kv gc`: removed and remaining prefixes.
#[derive(Debug, Serialize)]
pub(super) struct GcReport {
    pages: usize,
    freed_bytes: u64,
    kept_bytes: u64,
}

impl RemoveReport {
    pub(super) fn render(&self) -> String {
        format!("{}: removed\n", self.name)
    }
}

impl GcReport {
    pub(super) fn render(&self) -> String {
        let pages = count(self.pages, "page");
        let (freed, kept) = (Bytes(self.freed_bytes), Bytes(self.kept_bytes));
        format!("removed {pages} of prefixes: {freed} freed, {kept} kept\n")
    }
}

impl From<EvictedPrefixes> for GcReport {
    fn from(EvictedPrefixes { pages, freed_bytes, kept_bytes }: EvictedPrefixes) -> Self {
        Self { pages, freed_bytes, kept_bytes }
    }
}

impl From<SessionInfo> for SessionReport {
    fn from(SessionInfo { name, stored_bytes, modified, .. }: SessionInfo) -> Self {
        Self { name, stored_bytes, modified: modified.map(seconds) }
    }
}

impl ListReport {
    pub(super) fn new(kv_dir: PathBuf) -> anyhow::Result<Self> {
        let mut by_identity: BTreeMap<String, PrefixesReport> = BTreeMap::new();
        for page in prefixes(&kv_dir)? {
            let folder = page.path.parent().and_then(Path::file_name);
            let identity = folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let listed = by_identity.entry(identity).or_insert_with_key(|identity| PrefixesReport {
                identity: identity.clone(),
                pages: 0,
                stored_bytes: 0,
                used: None,
            });
            listed.pages += 1;
            listed.stored_bytes += page.stored_bytes;
            listed.used = listed.used.max(Some(seconds(page.used)));
        }
        let sessions = sessions(&kv_dir)?.into_iter().map(SessionReport::from).collect();
        Ok(Self { kv_dir, sessions, prefixes: by_identity.into_values().collect() })
    }

    pub(super) fn render(&self) -> String {
        let now = seconds(SystemTime::now());
        let sessions = self.sessions.iter().map(|session| {
            vec![left(&*session.name), size(session.stored_bytes), left(ago(now, session.modified))]
        });
        let prefixes = self.prefixes.iter().map(|prefixes| {
            vec![
                left(&*prefixes.identity),
                left(count(prefixes.pages, "page")),
                size(prefixes.stored_bytes),
                left(ago(now, prefixes.used)),
            ]
        });
        let sections = [
            section("Sessions", &sessions.collect::<Vec<_>>()),
            section("Prefixes", &prefixes.collect::<Vec<_>>()),
        ];
        sections.join("\n")
    }
}

impl ShowReport {
    pub(super) fn new(kv_dir: &Path, name: &str) -> anyhow::Result<Self> {
        let dir = kv_dir.join("sessions").join(name);
        let found = sessions(kv_dir)?.into_iter().find(|session| session.name == name);
        let session = found.ok_or_else(|| KvError::NoSession { path: dir.clone() })?;
        let (kind, messages) = match Transcript::read(&dir)? {
            Some(Transcript::Text { .. }) => (Some("text"), None),
            Some(Transcript::Chat { messages }) => (Some("conversation"), Some(messages.len())),
            None => (None, None),
        };
        let path = dir.join("session.json");
        let saved: Value = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
            // The session was never saved.
            Err(_) => Value::Null,
        };
        let text = |field: &str| saved[field].as_str().map(str::to_owned);
        Ok(Self {
            session: session.into(),
            kind,
            messages,
            tokens: saved["token_ids"].as_array().map(Vec::len),
            page_format: text("page_format"),
            window_tokens: saved["window_tokens"].as_u64(),
            identity: text("identity"),
            dir,
        })
    }

    pub(super) fn render(&self) -> String {
        let unknown = || "not saved yet".to_owned();
        let row = |name: &str, text: String| vec![left(name), left(text)];
        let number = |n: Option<usize>| n.map_or_else(unknown, |n| n.to_string());
        let mut rows = vec![
            row("kind", self.kind.map_or_else(unknown, str::to_owned)),
            row("tokens", number(self.tokens)),
            row("stored", Bytes(self.session.stored_bytes).to_string()),
            row("pages", self.page_format.clone().unwrap_or_else(unknown)),
            row("window", number(self.window_tokens.map(|tokens| tokens as usize))),
            row("changed", ago(seconds(SystemTime::now()), self.session.modified)),
            row("identity", self.identity.clone().unwrap_or_else(unknown)),
            row("directory", self.dir.display().to_string()),
        ];
        if let Some(messages) = self.messages {
            rows.insert(1, row("messages", messages.to_string()));
        }
        section(&format!("Session {}", self.session.name), &rows)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Formats an age in the largest unit that fits.
fn ago(now: u64, then: Option<u64>) -> String {
    let Some(then) = then else { return String::new() };
    let seconds = now.saturating_sub(then);
    let units = [(24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")];
    match units.into_iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, noun)) => format!("{} ago", count((seconds / unit) as usize, noun)),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_the_largest_unit_that_fits() {
        let table = [(0, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (200_000, "2 days ago")];
        for (seconds, words) in table {
            assert_eq!(ago(1_000_000 + seconds, Some(1_000_000)), words);
        }
    }
}
