//! Which device a file lies on, as far as the system tells.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A name for the device of a file: its number, and on Linux model and size of the disk, for numbers are given anew.
/// `None` if there is no such file.
pub(super) fn of(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok()?.dev();
    let mut parts = vec![format!("dev {number:#x}")];
    #[cfg(target_os = "linux")]
    if let Some(disk) = disk(number) {
        let says = |file: &str| Some(fs::read_to_string(disk.join(file)).ok()?.trim().to_owned());
        parts.extend(says("device/model").or_else(|| says("dm/name")));
        parts.extend(says("size").map(|sectors| format!("{sectors} sectors")));
    }
    Some(parts.join(", "))
}

/// The folder of the whole disk, of which the device may be a partition. File systems without a device of their own have
/// none.
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
        let device = of(&here.join("Cargo.toml")).unwrap();
        assert_eq!(of(&here.join("src/lib.rs")), Some(device));
        assert_eq!(of(Path::new("/no/such/file")), None);
    }
}
