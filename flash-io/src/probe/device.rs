//! Identification of the device of a file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Returns an identifier of the device of a file: its number, and on Linux model and size of the disk, because numbers
/// are reassigned. `None` if there is no such file.
pub(super) fn device_of(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok()?.dev();
    let mut parts = vec![format!("dev {number:#x}")];
    #[cfg(target_os = "linux")]
    if let Some(disk) = disk(number) {
        let attribute = |file: &str| Some(fs::read_to_string(disk.join(file)).ok()?.trim().to_owned());
        parts.extend(attribute("device/model").or_else(|| attribute("dm/name")));
        parts.extend(attribute("size").map(|sectors| format!("{sectors} sectors")));
    }
    Some(parts.join(", "))
}

/// Returns the sysfs folder of the disk that is the device or contains it as a partition; `None` for file systems
/// without a block device.
#[cfg(target_os = "linux")]
fn disk(number: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let is_partition = device.join("partition").exists();
    Some(if is_partition { device.parent()?.to_owned() } else { device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_folder_are_on_one_device() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let device = device_of(&here.join("Cargo.toml")).unwrap();
        assert_eq!(device_of(&here.join("src/lib.rs")), Some(device));
        assert_eq!(device_of(Path::new("/no/such/file")), None);
    }
}
