//! Imports between the rooms of this crate only go down.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The folders of `src`, each of which may import from itself and from those below it in this list.
const ROOMS: [&str; 9] =
    ["engine", "decoder", "models", "stream", "nn", "compute", "kv", "mlx", "checkpoint"];

/// Modules that every room may import from, and that import from no room.
const FLOOR: [&str; 3] = ["error", "interrupt", "memory"];

/// The only name that rooms may import from the root of the crate: for others, the import would hide the room.
const ROOT_NAMES: [&str; 1] = ["ModelError"];

/// Returns the rank of a room: imports go from lower ranks to higher ones.
fn rank(room: &str) -> usize {
    let rank = ROOMS.iter().position(|known| *known == room);
    rank.unwrap_or_else(|| {
        assert!(FLOOR.contains(&room), "{room} is not a room: add it to the list, at its place");
        ROOMS.len()
    })
}

/// Returns the files below a folder, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the first names after `crate::`, or after as many `super::` as lead to the root of the crate from `depth`
/// modules below it.
fn root_names(tokens: TokenStream, depth: usize, found: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, name: &str| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == name);
    let is_colons = |at: usize| {
        (at..at + 2)
            .all(|at| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':'))
    };
    let mut at = 0;
    while at < tokens.len() {
        // In an inline module, `super` starts one level deeper.
        if is(at, "mod") && matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) {
            let Some(TokenTree::Group(body)) = tokens.get(at + 2) else { unreachable!() };
            root_names(body.stream(), depth + 1, found);
            at += 3;
            continue;
        }
        let mut end = at;
        let mut n_up = 0;
        while is(end, "super") && is_colons(end + 1) {
            n_up += 1;
            end += 3;
        }
        let is_root = (is(at, "crate") && is_colons(at + 1)).then_some(at + 3);
        let first = is_root.or((n_up > 0 && n_up >= depth).then_some(end));
        match first.and_then(|first| tokens.get(first)) {
            Some(TokenTree::Ident(name)) => found.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let mut is_first = true;
                for token in group.stream() {
                    match token {
                        TokenTree::Ident(name) if is_first => {
                            found.push(name.to_string());
                            is_first = false;
                        }
                        TokenTree::Punct(punct) if punct.as_char() == ',' => is_first = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if let TokenTree::Group(group) = &tokens[at] {
            root_names(group.stream(), depth, found);
        }
        at += 1;
    }
}

/// Returns the imports of the file at `path`, below `src`, that go up or hide their room.
fn violations(path: &Path, source: &str) -> Vec<String> {
    let module = path.with_extension("");
    let room = module.iter().next().unwrap().to_str().unwrap();
    let mut names = Vec::new();
    root_names(source.parse().unwrap(), module.iter().count(), &mut names);
    let is_allowed = |name: &str| {
        ROOT_NAMES.contains(&name)
            || (ROOMS.contains(&name) || FLOOR.contains(&name)) && rank(name) >= rank(room)
    };
    names.retain(|name| !is_allowed(name));
    names.into_iter().map(|name| format!("{} imports crate::{name}", path.display())).collect()
}

#[test]
fn imports_between_rooms_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in files(&src) {
        let path = file.strip_prefix(&src).unwrap();
        // The root re-exports the public names.
        if path != Path::new("lib.rs") {
            found.extend(violations(path, &fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn imports_that_go_up_are_found_however_they_are_written() {
    let found = |path: &str, source: &str| violations(Path::new(path), source).len();
    assert_eq!(found("kv/plan.rs", "use crate::engine::Engine;"), 1);
    assert_eq!(found("kv/plan.rs", "use crate::{mlx, engine::{A, mlx}, stream};"), 2);
    assert_eq!(found("kv/plan.rs", "fn f() { g(crate::nn::x()) }"), 1);
    assert_eq!(found("kv/plan.rs", "use super::super::nn::x;"), 1);
    assert_eq!(
        found("kv/plan.rs", "mod tests { use super::super::Plan; use super::super::super::nn::x; }"),
        1
    );
    assert_eq!(found("kv.rs", "use super::stream;"), 1);
    assert_eq!(found("kv/plan.rs", "use crate::Checkpoint;"), 1, "a name of the root hides its room");
    assert_eq!(
        found("kv/plan.rs", "use super::Rows; use crate::kv::x; use crate::mlx; use crate::ModelError;"),
        0
    );
    assert_eq!(found("nn/layers.rs", "use crate::compute::Value; // use crate::engine\n"), 0);
}

#[test]
fn every_module_of_the_root_is_a_room_or_the_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "lib" || rank(name) <= ROOMS.len());
    }
}
