//! Libraries, versions and search paths that an ELF file names, and how its search path is replaced.

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, SHT_DYNAMIC, SHT_GNU_VERNEED};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::gnu_symver::VerNeedIterator;
use elf::section::SectionHeader;
use elf::string_table::StringTable;

/// Bytes of an entry of the dynamic section of a 64-bit file: a tag, then a value.
const ENTRY_BYTES: usize = 16;
const VALUE_OFFSET: usize = 8;

/// A 64-bit little-endian ELF file that is linked dynamically.
pub struct Elf<'a> {
    file: ElfBytes<'a, LittleEndian>,
    dynamic: SectionHeader,
    /// The section of the strings that the dynamic section names.
    strings_header: SectionHeader,
    strings: StringTable<'a>,
}

/// A version of a library's symbols that must be present.
#[derive(Debug, PartialEq)]
pub struct Version<'a> {
    pub library: &'a str,
    pub name: &'a str,
}

/// Whether a file starts as ELF files do.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes)?;
        if file.ehdr.class != Class::ELF64 {
            bail!("not a 64-bit file");
        }
        let sections = file.section_headers().context("no section headers")?;
        let dynamic = sections.iter().find(|section| section.sh_type == SHT_DYNAMIC);
        let dynamic = dynamic.context("no dynamic section")?;
        let strings_header = sections.get(dynamic.sh_link as usize)?;
        let strings = file.section_data_as_strtab(&strings_header)?;
        Ok(Self { file, dynamic, strings_header, strings })
    }

    /// Returns the names of the libraries that the loader loads first.
    pub fn needed(&self) -> Result<Vec<&'a str>> {
        self.entries(&[DT_NEEDED])?.into_iter().map(|(_, offset)| Ok(self.strings.get(offset)?)).collect()
    }

    /// Returns the directories in which the loader searches for libraries.
    pub fn search_path(&self) -> Result<Vec<&'a str>> {
        let mut directories = Vec::new();
        for (_, offset) in self.entries(&[DT_RUNPATH, DT_RPATH])? {
            directories.extend(self.strings.get(offset)?.split(':'));
        }
        Ok(directories)
    }

    /// Returns the versions of other libraries' symbols without which the loader refuses the file.
    pub fn versions(&self) -> Result<Vec<Version<'a>>> {
        let sections = self.file.section_headers().context("no section headers")?;
        let Some(header) = sections.iter().find(|section| section.sh_type == SHT_GNU_VERNEED) else {
            return Ok(Vec::new());
        };
        let strings = self.file.section_data_as_strtab(&sections.get(header.sh_link as usize)?)?;
        let (data, _) = self.file.section_data(&header)?;
        let libraries = VerNeedIterator::new(LittleEndian, Class::ELF64, u64::from(header.sh_info), 0, data);
        let mut versions = Vec::new();
        for (library, names) in libraries {
            let library = strings.get(library.vn_file as usize)?;
            for name in names {
                versions.push(Version { library, name: strings.get(name.vna_name as usize)? });
            }
        }
        Ok(versions)
    }

    /// Returns the entries of the dynamic section with one of these tags: their index, and the offset of their string.
    fn entries(&self, tags: &[i64]) -> Result<Vec<(usize, usize)>> {
        let entries = self.file.dynamic()?.context("no dynamic section")?;
        let found = entries.iter().enumerate().filter(|(_, entry)| tags.contains(&entry.d_tag));
        found.map(|(index, entry)| Ok((index, usize::try_from(entry.d_val())?))).collect()
    }
}

/// Replaces the search path of a file, in place, by `$ORIGIN/..` and the last components of the path it has, which must
/// be `tail`. Nothing of the earlier path is left in the file.
///
/// Linkers store a string that is the end of another one only once. So the end stays where it is, and the entry points
/// to a later start.
pub fn make_relocatable(bytes: &mut [u8], tail: &str) -> Result<()> {
    let elf = Elf::parse(bytes)?;
    let [(index, start)] = elf.entries(&[DT_RUNPATH, DT_RPATH])?[..] else {
        bail!("expected one search path, found {:?}", elf.search_path()?);
    };
    let (old, new) = (elf.strings.get(start)?, format!("$ORIGIN/..{tail}"));
    if !old.ends_with(tail) || old.len() < new.len() {
        bail!("the search path {old} cannot be replaced by {new} in place");
    }
    let skipped = old.len() - new.len();
    let string = usize::try_from(elf.strings_header.sh_offset)? + start;
    let value = usize::try_from(elf.dynamic.sh_offset)? + index * ENTRY_BYTES + VALUE_OFFSET;
    let past_range = "the dynamic section points past the end of the file";
    bytes.get_mut(string..string + skipped).context(past_range)?.fill(0);
    bytes.get_mut(string + skipped..).context(past_range)?[..new.len()].copy_from_slice(new.as_bytes());
    let value = bytes.get_mut(value..value + 8).context(past_range)?;
    value.copy_from_slice(&((start + skipped) as u64).to_le_bytes());
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::{Elf, make_relocatable};
    use crate::run;

    /// Links a library that searches for others in `path`.
    fn library(path: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("x.c"), dir.path().join("libx.so"));
        fs::write(&source, "#include <stdio.h>\nint x(void) { return puts(\"x\"); }\n").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", &format!("-Wl,-rpath,{path}"), "-o"]).args([&out, &source]);
        run::check(&mut cc).unwrap();
        fs::read(out).unwrap()
    }

    #[test]
    fn relocation_leaves_nothing_of_the_earlier_path() {
        let mut bytes = library("/home/somebody/.cache/flash/native/0123/mlx/lib");
        let length = bytes.len();
        make_relocatable(&mut bytes, "/mlx/lib").unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.search_path().unwrap(), ["$ORIGIN/../mlx/lib"]);
        assert_eq!(elf.needed().unwrap(), ["libc.so.6"]);
        let versions = elf.versions().unwrap();
        assert!(versions.iter().all(|version| version.library == "libc.so.6"), "{versions:?}");
        assert!(versions.iter().any(|version| version.name.starts_with("GLIBC_2.")), "{versions:?}");
        assert_eq!(bytes.len(), length);
        assert!(!bytes.windows(8).any(|window| window == b"somebody"));
    }

    #[test]
    fn other_search_paths_are_not_replaced() {
        for path in ["/home/somebody/.cache/flash/native/0123/other", "/mlx/lib"] {
            let mut bytes = library(path);
            let error = make_relocatable(&mut bytes, "/mlx/lib").unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
            assert_eq!(Elf::parse(&bytes).unwrap().search_path().unwrap(), [path]);
        }
    }

    #[test]
    fn truncated_files_are_errors() {
        let bytes = library("/mlx/lib");
        for length in [0, 4, 63, 64, bytes.len() / 2] {
            assert!(Elf::parse(&bytes[..length]).is_err());
        }
    }
}
