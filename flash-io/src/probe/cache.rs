//! Cache file of tunings.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tuning::Tuning;
use crate::mode::IoMode;

/// Version of the file format and of the measurement; entries of another version are ignored.
const VERSION: u32 = 1;
/// Maximum length of the file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Keyed by device, then by requested mode.
    devices: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    mode: Mode,
    depth: usize,
    chunk_bytes: usize,
}

/// [`IoMode`], serialized by its name.
#[derive(Debug, Clone, Copy)]
struct Mode(IoMode);

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

/// Loads the tuning of a device for a requested mode; `None` if the file is missing or invalid, or has no such entry.
pub(super) fn load(file: &Path, device: &str, requested: &str) -> Option<Tuning> {
    let content = read(file)?;
    let Entry { mode: Mode(mode), depth, chunk_bytes } = *content.devices.get(device)?.get(requested)?;
    Some(Tuning { mode, depth, chunk_bytes }).filter(Tuning::is_valid)
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
            tracing::debug!(file = %file.display(), %error, "the cache of tunings cannot be read");
            return None;
        }
    };
    match serde_json::from_str::<Content>(&text) {
        Ok(content) => Some(content).filter(|content| content.version == VERSION),
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "the cache of tunings is invalid");
            None
        }
    }
}

/// Stores the tuning of a device for a requested mode. If the file cannot be written, the device is probed again next
/// time.
pub(super) fn store(file: &Path, device: &str, requested: &str, tuning: Tuning) {
    let mut content = read(file).unwrap_or(Content { version: VERSION, devices: BTreeMap::new() });
    let Tuning { mode, depth, chunk_bytes } = tuning;
    let entry = Entry { mode: Mode(mode), depth, chunk_bytes };
    content.devices.entry(device.to_owned()).or_default().insert(requested.to_owned(), entry);
    if let Err(error) = write(file, &content) {
        tracing::debug!(file = %file.display(), %error, "a tuning was not cached");
    }
}

/// Replaces the file atomically, so that no other process reads half of it.
fn write(file: &Path, content: &Content) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let mut text = serde_json::to_string_pretty(content)?;
    text.push('\n');
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        // The temporary file may not exist.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning { mode: IoMode::Uring, depth: 16, chunk_bytes: 512 << 10 };

    #[test]
    fn tuning_is_loaded_for_its_device_and_requested_mode_only() {
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
    fn invalid_or_older_file_is_ignored_and_replaced() {
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
