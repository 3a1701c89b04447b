//! Identification of the device of a file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns an identifier of the device of a file: its number, and on Linux model and size of the disk, because numbers
/// are reassigned. `None` if there is no such file.
pub(super) fn device_of(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok()?.dev();
    let mut id = format!("dev {number:#x}");
    for attribute in disk::attributes(number) {
        id = id + ", " + &attribute;
    }
    Some(id)
}

#[cfg(target_os = "linux")]
mod disk {
    use std::fs;
    use std::path::PathBuf;

    /// Returns model and size of the disk with device number `number`, as far as sysfs names them.
    pub(super) fn attributes(number: u64) -> Vec<String> {
        let Some(disk) = disk(number) else { return Vec::new() };
        let attribute = |file: &str| Some(fs::read_to_string(disk.join(file)).ok()?.trim().to_owned());
        let model = attribute("device/model").or_else(|| attribute("dm/name"));
        let size = attribute("size").map(|sectors| format!("{sectors} sectors"));
        model.into_iter().chain(size).collect()
    }

    /// Returns the sysfs folder of the disk that is the device or contains it as a partition; `None` for file systems
    /// without a block device.
    fn disk(number: u64) -> Option<PathBuf> {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let is_partition = device.join("partition").exists();
        Some(if is_partition { device.parent()?.to_owned() } else { device })
    }
}

#[cfg(not(target_os = "linux"))]
mod disk {
    pub(super) fn attributes(_: u64) -> [String; 0] {
        []
    }
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
