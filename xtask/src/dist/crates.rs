//! Licenses of the crates that are linked into the program.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use cargo_metadata::camino::Utf8Path;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};

use super::licenses::License;
use crate::run;

/// File names of licenses and notices start with these words, in any case.
const FILES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];

/// Licenses in other folders of a crate than its root: sources of other projects.
const INNER_FILES: [(&str, &str); 1] = [("mlx-sys", "src/mlx-c/LICENSE")];

/// Returns the licenses of all crates in `flash-cli` for a target, as one document with each text once.
pub fn license(triple: &str) -> Result<License> {
    let metadata = MetadataCommand::new()
        .current_dir(run::workspace())
        .other_options(["--filter-platform".to_owned(), triple.to_owned()])
        .exec()
        .context("cargo metadata failed")?;
    let mut expressions = BTreeSet::new();
    let mut text = String::from(
        "flash-cli contains the Rust standard library (MIT OR Apache-2.0) and these crates:\n\n",
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(&metadata)? {
        let name = format!("{} {}", package.name, package.version);
        let expression =
            spdx(package.license.as_deref().with_context(|| format!("{name} names no license"))?);
        writeln!(text, "{name}: {expression}")?;
        expressions.insert(expression);
        for found in files(package)? {
            texts.entry(found).or_default().push(name.clone());
        }
    }
    for (found, names) in texts {
        write!(text, "\n---- {} ----\n\n{}\n", names.join(", "), found)?;
    }
    Ok(License { name: "crates.txt", expressions, text })
}

/// Returns the packages that `flash-cli` is linked from except those of the workspace, sorted by name and version.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved no dependencies")?;
    let root = metadata.packages.iter().find(|package| package.name.as_str() == "flash-cli");
    let mut to_visit: Vec<&PackageId> = vec![&root.context("the workspace has no flash-cli")?.id];
    let mut seen = HashSet::new();
    let mut linked = Vec::new();
    while let Some(id) = to_visit.pop() {
        let package = &metadata[id];
        // Macros run in the compiler; what they need is not linked, either.
        if !seen.insert(id)
            || package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
        {
            continue;
        }
        if package.source.is_some() {
            linked.push(package);
        }
        let normal = resolve[id]
            .deps
            .iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        to_visit.extend(normal.map(|dep| &dep.pkg));
    }
    linked.sort_by_key(|package| (package.name.as_str(), &package.version));
    Ok(linked)
}

/// Returns the texts of a crate's license files.
fn files(package: &Package) -> Result<Vec<String>> {
    let dir = package.manifest_path.parent().unwrap_or(Utf8Path::new("."));
    let mut paths = Vec::new();
    for entry in dir.read_dir_utf8().with_context(|| format!("cannot read {dir}"))? {
        let entry = entry?;
        let name = entry.file_name().to_lowercase();
        if FILES.iter().any(|start| name.starts_with(start)) && entry.file_type()?.is_file() {
            paths.push(entry.into_path());
        }
    }
    let inner = INNER_FILES.iter().filter(|(name, _)| *name == package.name.as_str());
    paths.extend(inner.map(|(_, path)| dir.join(path)));
    paths.sort();
    let texts = paths.iter().map(|path| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Ok(text.replace("\r\n", "\n").trim_end().to_owned())
    });
    texts.collect()
}

/// Returns a license expression in today's syntax; `/` was cargo's earlier spelling of `OR`.
fn spdx(expression: &str) -> String {
    expression.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::spdx;

    #[test]
    fn slashes_become_or() {
        assert_eq!(spdx("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(spdx("MIT / Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(spdx("Apache-2.0 WITH LLVM-exception"), "Apache-2.0 WITH LLVM-exception");
    }
}
