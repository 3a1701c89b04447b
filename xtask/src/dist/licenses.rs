//! Licenses of everything in the archives.

use std::collections::BTreeSet;

use anyhow::Result;

use super::crates;

/// The license of a part of the package.
#[derive(Debug)]
pub struct License {
    /// File name.
    pub name: &'static str,
    /// SPDX expressions.
    pub expressions: BTreeSet<String>,
    pub text: String,
}

impl License {
    fn new(name: &'static str, expression: &str, text: &str) -> Self {
        Self { name, expressions: [expression.to_owned()].into(), text: text.to_owned() }
    }
}

/// Returns the licenses of the program, of the crates in it for this target, and of MLX.
pub fn common(triple: &str) -> Result<Vec<License>> {
    Ok(vec![
        License::new("flash.txt", "MIT", include_str!("../../../LICENSE")),
        License::new("mlx.txt", "MIT", include_str!("../../licenses/mlx.txt")),
        crates::license(triple)?,
    ])
}

/// Returns the licenses of the libraries beside MLX's library on Linux, which its wheel does not carry: the reference
/// BLAS and LAPACK, and the run-time library of GNU Fortran. Each is named like its library.
pub fn linear_algebra() -> [License; 3] {
    [
        License::new("liblapack.txt", "BSD-3-Clause-Open-MPI", include_str!("../../licenses/lapack.txt")),
        License::new(
            "libgfortran.txt",
            "GPL-3.0-or-later WITH GCC-exception-3.1",
            include_str!("../../licenses/gcc-runtime.txt"),
        ),
        License::new("libquadmath.txt", "LGPL-2.1-or-later", include_str!("../../licenses/lgpl-2.1.txt")),
    ]
}

/// Joins the expressions of all licenses, which apply together.
pub fn expression(licenses: &[License]) -> String {
    let parts: BTreeSet<_> = licenses.iter().flat_map(|license| &license.expressions).collect();
    let parts: Vec<_> = parts.into_iter().map(|part| parenthesized(part)).collect();
    parts.join(" AND ")
}

fn parenthesized(expression: &str) -> String {
    if expression.contains(' ') { format!("({expression})") } else { expression.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{License, expression};

    #[test]
    fn expressions_are_joined_once_each() {
        let license = |expression| License::new("x.txt", expression, "");
        let all = [license("MIT OR Apache-2.0"), license("MIT"), license("MIT"), license("ISC")];
        assert_eq!(expression(&all), "ISC AND MIT AND (MIT OR Apache-2.0)");
    }
}
