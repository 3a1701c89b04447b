//! What was found out about devices, in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Tuning;

/// Of the file, and of what is measured: another one makes what is in the file void.
const VERSION: u32 = 1;
/// No real file is longer, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// By device, and by what was asked for.
    devices: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    mode: Mode,
    depth: usize,
    chunk_bytes: usize,
}

/// A mode by its name.
#[derive(Debug, Clone, Copy)]
struct Mode(crate::IoMode);

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map(Mode).map_err(serde::de::Error::custom)
    }
}

/// What is known of a device; `None` for a device, or a file, that is not. A file that is broken knows nothing.
pub(super) fn load(file: &Path, device: &str, asked: &str) -> Option<Tuning> {
    let content = read(file)?;
    let Entry { mode: Mode(mode), depth, chunk_bytes } = *content.devices.get(device)?.get(asked)?;
    Some(Tuning { mode, depth, chunk_bytes }).filter(Tuning::is_sane)
}

fn read(file: &Path) -> Option<Content> {
    let text = match fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return None,
        _ => fs::read_to_string(file),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "what is known of disks cannot be read");
            return None;
        }
    };
    match serde_json::from_str::<Content>(&text) {
        Ok(content) => Some(content).filter(|content| content.version == VERSION),
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "what is known of disks is broken");
            None
        }
    }
}

/// Adds what is now known. A file that cannot be written means only that it is found out again.
pub(super) fn store(file: &Path, device: &str, asked: &str, tuning: Tuning) {
    let mut content = read(file).unwrap_or(Content { version: VERSION, devices: BTreeMap::new() });
    let Tuning { mode, depth, chunk_bytes } = tuning;
    let entry = Entry { mode: Mode(mode), depth, chunk_bytes };
    content.devices.entry(device.to_owned()).or_default().insert(asked.to_owned(), entry);
    if let Err(error) = write(file, &content) {
        tracing::debug!(file = %file.display(), %error, "what is known of a disk is not kept");
    }
}

/// Replaces the file as a whole, so that no other process reads half of it.
fn write(file: &Path, content: &Content) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let mut text = serde_json::to_string_pretty(content)?;
    text.push('\n');
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        // It may not be there at all.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::IoMode;

    const TUNING: Tuning = Tuning { mode: IoMode::Uring, depth: 16, chunk_bytes: 512 << 10 };

    #[test]
    fn what_was_stored_is_loaded_for_that_device_and_question_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new folder").join("disks.json");
        let other = Tuning { mode: IoMode::Direct, ..TUNING };
        store(&file, "a", "auto", TUNING);
        store(&file, "a", "direct", other);
        store(&file, "b", "auto", other);
        assert_eq!(load(&file, "a", "auto"), Some(TUNING));
        assert_eq!(load(&file, "a", "direct"), Some(other));
        assert_eq!(load(&file, "b", "auto"), Some(other));
        assert_eq!(load(&file, "c", "auto"), None);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn broken_or_older_file_knows_nothing_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disks.json");
        store(&file, "a", "auto", TUNING);
        let good = fs::read_to_string(&file).unwrap();
        let broken = [
            String::new(),
            String::from("{"),
            good.replace("uring", "punched cards"),
            good.replace("\"version\": 1", "\"version\": 0"),
            good.replace("16", "0"),
            good.replace("524288", "17"),
            good.replace("16", "-3"),
        ];
        for text in broken {
            assert_ne!(text, good);
            fs::write(&file, &text).unwrap();
            assert_eq!(load(&file, "a", "auto"), None, "{text}");
            store(&file, "a", "auto", TUNING);
            assert_eq!(load(&file, "a", "auto"), Some(TUNING));
        }
    }

    #[test]
    fn folder_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file").join("disks.json");
        fs::write(dir.path().join("a file"), "").unwrap();
        store(&file, "a", "auto", TUNING);
        assert_eq!(load(&file, "a", "auto"), None);
    }
}
