//! Replay of the corpus of the fuzz target `safetensors_header`.

use std::fs;
use std::path::Path;

use crate::oracle;
use crate::support::Bytes;

#[test]
fn corpus_is_judged_as_safetensors_judges_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/safetensors_header");
    let mut n_files = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        oracle::check(&Bytes(bytes.clone()), &bytes);
        n_files += 1;
    }
    assert!(n_files >= 20, "{} holds {n_files} files", corpus.display());
}
