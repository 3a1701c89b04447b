//! Page files: rejected files, and recovery after arbitrary sequences of operations.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use flash_kv::{
    Chain, Digest, FILE_HEADER_BYTES, Identity, KvError, PAGE_TOKENS, PageFile, PageFormat, RecordFault,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{N_LAYERS, assert_pages, identity, record, tokens};

struct Place {
    _dir: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    Place { path: dir.path().join("pages.kv"), _dir: dir }
}

fn write_pages(file: &PageFile, token_ids: &[u32], pages: std::ops::Range<u32>) {
    for page_idx in pages {
        for layer_idx in 0..N_LAYERS {
            file.write(page_idx, layer_idx, &record(file.identity(), token_ids, page_idx, layer_idx))
                .unwrap();
        }
    }
}

/// Creates a file with `n_pages` pages and closes it.
fn written(n_pages: u32) -> (Place, Vec<u32>) {
    let (place, token_ids) = (place(), tokens(n_pages as usize * PAGE_TOKENS, 1));
    write_pages(&PageFile::create(&place.path, &identity()).unwrap(), &token_ids, 0..n_pages);
    (place, token_ids)
}

fn refusal(change: impl FnOnce(&mut Identity)) -> KvError {
    let (place, _) = written(0);
    let mut other = identity();
    change(&mut other);
    let error = PageFile::open(&place.path, &other).unwrap_err();
    assert!(error.to_string().contains("pages.kv: "), "{error}");
    error
}

/// Overwrites bytes of a file.
fn damage(place: &Place, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(&place.path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn records_lie_at_fixed_aligned_offsets() {
    let (place, _) = written(0);
    let file = PageFile::open(&place.path, &identity()).unwrap();
    let record_bytes = file.layout().record_bytes() as u64;
    assert_eq!(file.span(0, 0).start, FILE_HEADER_BYTES as u64);
    assert_eq!(file.span(3, 1).start, 4096 + 7 * record_bytes);
    assert_eq!(file.span(3, 1).len_bytes(), record_bytes);
    assert!(file.span(3, 1).start.is_multiple_of(4096) && record_bytes.is_multiple_of(4096));
}

#[test]
fn whole_pages_come_back_with_their_tokens() {
    let (place, token_ids) = written(3);
    let file = PageFile::open(&place.path, &identity()).unwrap();
    let found = file.recover().unwrap();
    assert_eq!((found.pages, &found.token_ids, found.dropped.is_none()), (3, &token_ids, true));
    assert_eq!(Some(found.chain), Chain::pages(&identity(), &token_ids).last());
    assert_pages(&file, &token_ids, 3);
}

#[test]
fn file_of_another_model_is_refused() {
    let error = refusal(|identity| identity.model = Digest([4; 32]));
    let KvError::ModelMismatch { wanted, got, .. } = error else { panic!("{error}") };
    assert_eq!((wanted, got), (Digest([4; 32]), identity().model));
}

#[test]
fn file_of_another_quantisation_is_refused() {
    let error = refusal(|identity| identity.geometry.format = PageFormat::Int8);
    assert!(
        matches!(error, KvError::FormatMismatch { wanted: PageFormat::Int8, got: PageFormat::Int4, .. }),
        "{error}"
    );
}

#[test]
fn file_of_another_window_is_refused() {
    let error = refusal(|identity| identity.geometry.window_tokens = 256);
    assert!(matches!(error, KvError::WindowMismatch { wanted_tokens: 256, got_tokens: 128, .. }), "{error}");
    let error = refusal(|identity| identity.geometry.window_format = PageFormat::F32);
    assert!(matches!(error, KvError::GeometryMismatch { field: "window format", .. }), "{error}");
}

#[test]
fn file_of_another_shape_is_refused() {
    let error = refusal(|identity| identity.geometry.n_layers = 5);
    assert!(
        matches!(
            error,
            KvError::GeometryMismatch { field: "number of layers", wanted: 5, got: N_LAYERS, .. }
        ),
        "{error}"
    );
    let error = refusal(|identity| identity.geometry.kv_heads = 5);
    assert!(matches!(error, KvError::GeometryMismatch { wanted: 5, got: 1, .. }), "{error}");
    let error = refusal(|identity| identity.geometry.head_dim = 5);
    assert!(matches!(error, KvError::GeometryMismatch { wanted: 5, got: 64, .. }), "{error}");
}

#[test]
fn file_of_another_version_is_refused() {
    let (place, _) = written(0);
    damage(&place, 8, &[9]);
    let error = PageFile::open(&place.path, &identity()).unwrap_err();
    assert!(matches!(error, KvError::VersionMismatch { got: 9, .. }), "{error}");
}

#[test]
fn file_of_something_else_is_refused() {
    for contents in [&b""[..], b"FLASH", b"GGUF and more", &[0; 10_000]] {
        let place = place();
        fs::write(&place.path, contents).unwrap();
        let error = PageFile::open(&place.path, &identity()).unwrap_err();
        assert!(matches!(error, KvError::NotAPageFile { .. }), "{error}");
    }
}

#[test]
fn truncated_head_is_refused() {
    let (place, _) = written(0);
    OpenOptions::new().write(true).open(&place.path).unwrap().set_len(100).unwrap();
    let error = PageFile::open(&place.path, &identity()).unwrap_err();
    assert!(matches!(error, KvError::HeaderTruncated { wanted_bytes: 4096, got_bytes: 100, .. }), "{error}");
}

#[test]
fn damaged_head_is_refused() {
    for offset in [12, 40, 50, 4000] {
        let (place, _) = written(0);
        damage(&place, offset, &[0xa5]);
        let error = PageFile::open(&place.path, &identity()).unwrap_err();
        assert!(matches!(error, KvError::HeaderDamaged { .. }), "{error}");
    }
}

#[test]
fn missing_file_is_an_error_and_an_existing_one_is_not_overwritten() {
    let (place, token_ids) = written(1);
    let error = PageFile::create(&place.path, &identity()).unwrap_err();
    assert!(matches!(error, KvError::Exists { .. }), "{error}");
    let file = PageFile::open(&place.path, &identity()).unwrap();
    assert_eq!(file.recover().unwrap().token_ids, token_ids);
    fs::remove_file(&place.path).unwrap();
    assert!(matches!(PageFile::open(&place.path, &identity()), Err(KvError::Io { doing: "open", .. })));
}

#[test]
fn file_in_use_is_locked() {
    let place = place();
    let file = PageFile::create(&place.path, &identity()).unwrap();
    let error = PageFile::open(&place.path, &identity()).unwrap_err();
    assert!(matches!(&error, KvError::Locked { path } if *path == place.path), "{error}");
    drop(file);
    let file = PageFile::open(&place.path, &identity()).unwrap();
    assert!(PageFile::open(&place.path, &identity()).is_err());
    drop(file);
}

#[test]
fn flipped_bit_ends_the_whole_pages_and_names_file_and_page() {
    let (place, token_ids) = written(4);
    let file = PageFile::open(&place.path, &identity()).unwrap();
    let offset = file.span(2, 1).start + 5_000;
    drop(file);
    let mut bytes = fs::read(&place.path).unwrap();
    bytes[offset as usize] ^= 4;
    fs::write(&place.path, bytes).unwrap();

    let file = PageFile::open(&place.path, &identity()).unwrap();
    let mut got = vec![0; file.layout().record_bytes()];
    let error = file.read(2, 1, &mut got).unwrap_err();
    assert!(error.to_string().contains("pages.kv: page 2 of layer 1 is damaged"), "{error}");
    let found = file.recover().unwrap();
    assert_eq!(found.token_ids, token_ids[..2 * PAGE_TOKENS]);
    let fault = found.dropped.unwrap();
    assert!(
        matches!(
            fault,
            KvError::Record { page_idx: 2, layer_idx: 1, fault: RecordFault::Checksum { .. }, .. }
        ),
        "{fault}"
    );
    assert_eq!(fs::metadata(&place.path).unwrap().len(), file.span(2, 0).start, "cut behind them");
    assert!(file.recover().unwrap().dropped.is_none());
}

#[test]
fn pages_with_a_missing_layer_are_dropped() {
    // A prefill, layer by layer, that was interrupted in the second layer.
    let (place, token_ids) = (place(), tokens(3 * PAGE_TOKENS, 1));
    let file = PageFile::create(&place.path, &identity()).unwrap();
    for (layer_idx, n_pages) in [(0, 3), (1, 1)] {
        for page_idx in 0..n_pages {
            file.write(page_idx, layer_idx, &record(&identity(), &token_ids, page_idx, layer_idx)).unwrap();
        }
    }
    let found = file.recover().unwrap();
    assert_eq!(found.pages, 1);
    let fault = found.dropped.unwrap();
    assert!(
        matches!(fault, KvError::Record { page_idx: 1, layer_idx: 1, fault: RecordFault::Missing, .. }),
        "{fault}"
    );
}

#[test]
fn page_that_continues_other_tokens_is_dropped() {
    let (place, token_ids) = written(3);
    let mut others = token_ids.clone();
    others[7] += 1;
    let file = PageFile::open(&place.path, &identity()).unwrap();
    write_pages(&file, &others, 0..1);
    let found = file.recover().unwrap();
    assert_eq!(found.token_ids, others[..PAGE_TOKENS]);
    let fault = found.dropped.unwrap();
    assert!(matches!(fault, KvError::Record { page_idx: 1, fault: RecordFault::Chain, .. }), "{fault}");
}

#[test]
fn layers_that_disagree_on_tokens_make_no_page() {
    let (place, token_ids) = written(1);
    let mut others = token_ids.clone();
    others[7] += 1;
    let file = PageFile::open(&place.path, &identity()).unwrap();
    file.write(0, 1, &record(&identity(), &others, 0, 1)).unwrap();
    let found = file.recover().unwrap();
    assert_eq!(found.pages, 0);
    let fault = found.dropped.unwrap();
    assert!(
        matches!(fault, KvError::Record { page_idx: 0, layer_idx: 1, fault: RecordFault::Chain, .. }),
        "{fault}"
    );
}

/// An operation on a file.
#[derive(Debug, Clone)]
enum Step {
    Append,
    Rewind(usize),
    /// Reopens the file after this many bytes were cut off its end.
    Reopen(usize),
    /// Reopens the file after a bit was flipped at this relative position.
    Flip(f64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Append),
        1 => (0..6usize).prop_map(Step::Rewind),
        1 => prop_oneof![Just(0), 1..60_000usize].prop_map(Step::Reopen),
        1 => (0.0..1.0f64).prop_map(Step::Flip),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Compares the file with a model: the list of tokens in whole pages.
    #[test]
    fn file_behaves_like_a_list_of_pages(steps in steps()) {
        let place = place();
        let mut file = PageFile::create(&place.path, &identity()).unwrap();
        let record_bytes = file.layout().record_bytes();
        let mut model: Vec<u32> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let n_pages = model.len() / PAGE_TOKENS;
            let mut whole = n_pages;
            match step {
                Step::Append => {
                    model.extend(tokens(PAGE_TOKENS, n as u64));
                    write_pages(&file, &model, n_pages as u32..n_pages as u32 + 1);
                    whole += 1;
                }
                Step::Rewind(to) => {
                    file.truncate(to).unwrap();
                    whole = whole.min(to);
                }
                Step::Reopen(cut_bytes) => {
                    drop(file);
                    let cut = OpenOptions::new().write(true).open(&place.path).unwrap();
                    let pages_bytes = n_pages * N_LAYERS as usize * record_bytes;
                    let left = pages_bytes.saturating_sub(cut_bytes);
                    cut.set_len((FILE_HEADER_BYTES + left) as u64).unwrap();
                    drop(cut);
                    whole = left / (N_LAYERS as usize * record_bytes);
                    file = PageFile::open(&place.path, &identity()).unwrap();
                    prop_assert_eq!(file.recover().unwrap().pages, whole);
                }
                Step::Flip(at) => {
                    drop(file);
                    let mut bytes = fs::read(&place.path).unwrap();
                    let pages = &mut bytes[FILE_HEADER_BYTES..];
                    let place_idx = (pages.len() as f64 * at) as usize;
                    if let Some(byte) = pages.get_mut(place_idx) {
                        *byte ^= 0x10;
                        whole = place_idx / (N_LAYERS as usize * record_bytes);
                    }
                    fs::write(&place.path, bytes).unwrap();
                    file = PageFile::open(&place.path, &identity()).unwrap();
                    let found = file.recover().unwrap();
                    prop_assert_eq!(found.dropped.is_some(), whole < n_pages);
                    prop_assert_eq!(found.pages, whole);
                }
            }
            model.truncate(whole * PAGE_TOKENS);
            assert_pages(&file, &model, whole);
        }
        let found = file.recover().unwrap();
        prop_assert_eq!(found.token_ids, model);
    }
}
