//! Platform tags of wheels for Linux (PEP 600): the oldest glibc on whose distributions the files load.

use anyhow::{Result, bail};

/// The library versions that all distributions with a version of glibc have.
struct Generation {
    /// Minor version of glibc 2.
    glibc: u32,
    /// Greatest version of libstdc++'s symbols: the last number of `GLIBCXX_3.4.N`.
    glibcxx: u32,
    /// Greatest version of libstdc++'s ABI symbols: the last number of `CXXABI_1.3.N`.
    cxxabi: u32,
    /// Greatest version of libgcc's symbols: `GCC_N.0`.
    gcc: u32,
}

/// From the policies of auditwheel 6.8, the lower value where the architectures differ. MLX's wheels start at 2.35.
const GENERATIONS: [Generation; 2] = [
    Generation { glibc: 35, glibcxx: 30, cxxabi: 13, gcc: 11 },
    Generation { glibc: 39, glibcxx: 33, cxxabi: 15, gcc: 14 },
];

/// Marker of files with packed relocations, which glibc 2.36 introduced.
const PACKED_RELOCATIONS: &str = "GLIBC_ABI_DT_RELR";

/// Returns the minor version of glibc in the tag `manylinux_2_N_ARCH`.
pub fn parse(tag: &str) -> Option<u32> {
    tag.strip_prefix("manylinux_2_")?.split('_').next()?.parse().ok()
}

/// Returns the minor version of the oldest glibc 2, from `least` on, whose distributions have all `versions` of symbols.
pub fn oldest_glibc<'a>(least: u32, versions: impl IntoIterator<Item = &'a str>) -> Result<u32> {
    let mut oldest = least;
    for version in versions {
        let Some(glibc) = glibc_with(version) else {
            bail!("no manylinux tag promises {version}; build on an older distribution");
        };
        oldest = oldest.max(glibc);
    }
    Ok(oldest)
}

/// Returns the minor version of the oldest glibc 2 whose distributions have a version of symbols.
fn glibc_with(version: &str) -> Option<u32> {
    if version == PACKED_RELOCATIONS {
        return Some(36);
    }
    let (name, numbers) = version.split_once('_')?;
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().ok());
    let numbers = [(); 3].map(|()| numbers.next().unwrap_or(Some(0)));
    let generation =
        |is_in: &dyn Fn(&Generation) -> bool| Some(GENERATIONS.iter().find(|all| is_in(all))?.glibc);
    match (name, numbers) {
        ("GLIBC", [Some(2), Some(minor), Some(_)]) => Some(minor),
        ("GLIBCXX", [Some(3), Some(4), Some(patch)]) => generation(&|all| patch <= all.glibcxx),
        ("CXXABI", [Some(1), Some(3), Some(patch)]) => generation(&|all| patch <= all.cxxabi),
        ("GCC", [Some(major), Some(_), Some(_)]) => generation(&|all| major <= all.gcc),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{oldest_glibc, parse};

    #[test]
    fn tags_name_their_glibc() {
        assert_eq!(parse("manylinux_2_35_x86_64"), Some(35));
        assert_eq!(parse("manylinux2014_x86_64"), None);
        assert_eq!(parse("macosx_14_0_arm64"), None);
    }

    #[test]
    fn the_greatest_version_decides_by_number() {
        assert_eq!(oldest_glibc(17, ["GLIBC_2.4", "GLIBC_2.28", "GLIBC_2.3.4"]).unwrap(), 28);
        assert_eq!(oldest_glibc(35, ["GLIBC_2.4", "GLIBC_2.28"]).unwrap(), 35);
        assert_eq!(oldest_glibc(35, ["GLIBC_2.34", "GLIBC_2.38"]).unwrap(), 38);
    }

    #[test]
    fn libraries_of_the_compiler_raise_the_tag() {
        assert_eq!(oldest_glibc(35, ["GLIBCXX_3.4", "GLIBCXX_3.4.30", "CXXABI_1.3", "GCC_3.0"]).unwrap(), 35);
        assert_eq!(oldest_glibc(35, ["GLIBCXX_3.4.31"]).unwrap(), 39);
        assert_eq!(oldest_glibc(35, ["CXXABI_1.3.15"]).unwrap(), 39);
        assert_eq!(oldest_glibc(35, ["GCC_14.0.0"]).unwrap(), 39);
        assert_eq!(oldest_glibc(35, ["GLIBC_ABI_DT_RELR"]).unwrap(), 36);
    }

    #[test]
    fn versions_that_no_tag_promises_are_refused() {
        for version in ["GLIBCXX_3.4.99", "GLIBC_PRIVATE", "GCC_99.0.0", "ZLIB_1.2.9", "GLIBC"] {
            let error = oldest_glibc(35, [version]).unwrap_err().to_string();
            assert!(error.contains(version), "{error}");
        }
    }
}
