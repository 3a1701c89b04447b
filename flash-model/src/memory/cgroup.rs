//! The free memory of the process's control group, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the least free memory among the process's group and its ancestors; none if no limit is set.
pub(super) fn free_bytes() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    free_below(Path::new("/sys/fs/cgroup"), &membership)
}

/// Names of the control files of a cgroup version.
struct Version {
    limit: &'static str,
    stat: &'static str,
    /// The line of `stat` that counts unreclaimable memory, which the page cache is not part of.
    used: &'static str,
}

const V1: Version = Version { limit: "memory.limit_in_bytes", stat: "memory.stat", used: "total_rss" };
const V2: Version = Version { limit: "memory.max", stat: "memory.stat", used: "anon" };

/// Limits from here on mean "no limit", which version 1 writes as the largest number of pages.
const UNLIMITED_BYTES: u64 = 1 << 62;

fn free_below(mount: &Path, membership: &str) -> Option<u64> {
    let group = |line: &str| -> Option<(bool, String)> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_v1 = controllers.split(',').any(|controller| controller == "memory");
        (is_v1 || controllers.is_empty()).then(|| (is_v1, path.to_owned()))
    };
    // If both versions are mounted, the memory controller belongs to version 1.
    let (is_v1, path) = membership.lines().filter_map(group).max()?;
    let (root, version) = if is_v1 { (mount.join("memory"), V1) } else { (mount.to_owned(), V2) };
    let mut dir: PathBuf = root.join(path.trim_start_matches('/'));
    // In a container the path is the host's, while the group itself is mounted as the root.
    if !dir.join(version.stat).exists() {
        dir.clone_from(&root);
    }
    dir.ancestors().take_while(|dir| dir.starts_with(&root)).filter_map(|dir| free_in(dir, &version)).min()
}

fn free_in(dir: &Path, version: &Version) -> Option<u64> {
    let limit: u64 = fs::read_to_string(dir.join(version.limit)).ok()?.trim().parse().ok()?;
    if limit >= UNLIMITED_BYTES {
        return None;
    }
    let stat = fs::read_to_string(dir.join(version.stat)).ok()?;
    let used = stat
        .lines()
        .find_map(|line| line.strip_prefix(version.used)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn version_2_takes_the_tightest_of_the_groups_above() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), &[("memory.stat", "anon 7\n")]);
        write(&mount.path().join("a"), &[("memory.max", "1000\n"), ("memory.stat", "anon 300\nfile 600\n")]);
        write(&mount.path().join("a/b"), &[("memory.max", "max\n"), ("memory.stat", "anon 300\n")]);
        assert_eq!(free_below(mount.path(), "0::/a/b\n"), Some(700));
        assert_eq!(free_below(mount.path(), "0::/\n"), None);
    }

    #[test]
    fn version_1_with_its_own_mount_is_preferred_where_both_are() {
        let mount = tempfile::tempdir().unwrap();
        let no_limit = "9223372036854771712\n";
        write(
            &mount.path().join("memory"),
            &[("memory.limit_in_bytes", no_limit), ("memory.stat", "total_rss 9\n")],
        );
        let files = [("memory.limit_in_bytes", "5000\n"), ("memory.stat", "rss 1\ntotal_rss 2000\n")];
        write(&mount.path().join("memory/job"), &files);
        assert_eq!(free_below(mount.path(), "4:cpu,memory:/job\n0::/elsewhere\n"), Some(3000));
    }

    #[test]
    fn a_path_of_the_host_means_the_mounted_root() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), &[("memory.max", "100\n"), ("memory.stat", "anon 1\n")]);
        assert_eq!(free_below(mount.path(), "0::/docker/abc\n"), Some(99));
    }
}
