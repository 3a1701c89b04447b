//! Git LFS pointers: short text files that replace large files in a clone without LFS.

use std::fmt;

/// Maximum length of a pointer in bytes, as in Git LFS.
pub const LFS_POINTER_BYTES_MAX: usize = 1024;

/// First lines of a pointer: the current one, and two from before the first release.
const VERSIONS: [&str; 3] = [
    "version https://git-lfs.github.com/spec/",
    "version https://hawser.github.com/spec/",
    "version http://git-media.io/v/",
];

/// Git LFS pointer, which names a file by its hash and length and holds none of its bytes.
///
/// Formats as the end of an error message: "this is a Git LFS pointer, not the file it stands for (…)".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LfsPointer {
    /// Length of the file that it stands for; `None` if the pointer does not state it.
    pub size_bytes: Option<u64>,
}

impl LfsPointer {
    /// Parses a pointer from the first bytes of a file, up to [`LFS_POINTER_BYTES_MAX`]; `None` if it is none.
    ///
    /// Every file that begins with a version line of Git LFS counts as a pointer, whatever follows: no JSON,
    /// safetensors, GGUF or template file begins so.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(LFS_POINTER_BYTES_MAX)];
        if !VERSIONS.iter().any(|version| bytes.starts_with(version.as_bytes())) {
            return None;
        }
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let size = lines.find_map(|line| line.strip_prefix(b"size "));
        let size_bytes = size.and_then(|size| std::str::from_utf8(size).ok()?.trim().parse().ok());
        Some(Self { size_bytes })
    }
}

impl fmt::Display for LfsPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is a Git LFS pointer, not the file it stands for")?;
        if let Some(size_bytes) = self.size_bytes {
            write!(f, " ({size_bytes} B)")?;
        }
        f.write_str("; fetch it with `git lfs pull`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

    #[test]
    fn pointer_states_the_length_of_its_file() {
        let pointer = LfsPointer::detect(POINTER.as_bytes()).unwrap();
        assert_eq!(pointer.size_bytes, Some(12345));
        assert_eq!(
            pointer.to_string(),
            "this is a Git LFS pointer, not the file it stands for (12345 B); fetch it with `git lfs pull`"
        );
    }

    #[test]
    fn crlf_extensions_and_older_versions_are_recognized() {
        let with_ext = POINTER.replace("\noid", "\next-0-foo sha256:00\noid");
        let older = POINTER.replace("git-lfs.github.com", "hawser.github.com");
        for text in [POINTER.replace('\n', "\r\n"), with_ext, older] {
            assert_eq!(LfsPointer::detect(text.as_bytes()).unwrap().size_bytes, Some(12345), "{text}");
        }
    }

    #[test]
    fn pointer_without_a_valid_size_is_recognized() {
        for text in [&POINTER[..60], &POINTER.replace("12345", "-1"), &POINTER.replace("12345", "")] {
            assert_eq!(LfsPointer::detect(text.as_bytes()), Some(LfsPointer { size_bytes: None }), "{text}");
        }
    }

    #[test]
    fn other_files_are_no_pointers() {
        for bytes in
            [&b""[..], b"{}", b"version", b"version 1\n", b"\nversion https://git-lfs.github.com/spec/v1"]
        {
            assert_eq!(LfsPointer::detect(bytes), None);
        }
    }
}
