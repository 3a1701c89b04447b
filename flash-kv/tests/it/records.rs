//! Records: sealing, verification and damage.

use std::path::Path;

use flash_kv::{Chain, ExpectedRecord, KvError, PageFormat, RECORD_HEADER_BYTES, RecordFault, verify};
use proptest::prelude::*;

use crate::support::{before, identity, record, tokens};

fn expected() -> ExpectedRecord<'static> {
    ExpectedRecord { path: Path::new("pages.kv"), format: PageFormat::Int4, page_idx: 1, layer_idx: 1 }
}

fn sealed() -> Vec<u8> {
    record(&identity(), &tokens(256, 1), 1, 1)
}

fn fault(record: &[u8], expected: &ExpectedRecord<'_>) -> RecordFault {
    match verify(record, expected).unwrap_err() {
        KvError::Record { path, page_idx, layer_idx, fault } => {
            assert_eq!((&*path, page_idx, layer_idx), (expected.path, expected.page_idx, expected.layer_idx));
            fault
        }
        error => panic!("{error}"),
    }
}

#[test]
fn sealed_record_holds_its_tokens_and_its_parent() {
    let (identity, token_ids) = (identity(), tokens(256, 1));
    let head = verify(&sealed(), &expected()).unwrap();
    assert_eq!(head.token_ids, token_ids[128..]);
    assert_eq!(head.before, before(&identity, &token_ids, 1));
    assert_eq!(Some(head.chain()), Chain::pages(&identity, &token_ids).last());
}

#[test]
fn record_of_another_place_or_format_is_refused() {
    let record = sealed();
    let others = [
        (
            ExpectedRecord { page_idx: 0, ..expected() },
            RecordFault::Other { field: "page", wanted: 0, got: 1 },
        ),
        (
            ExpectedRecord { layer_idx: 0, ..expected() },
            RecordFault::Other { field: "layer", wanted: 0, got: 1 },
        ),
    ];
    for (expected, wanted) in others {
        assert_eq!(fault(&record, &expected), wanted);
    }
    let other = ExpectedRecord { format: PageFormat::Int8, ..expected() };
    assert!(matches!(fault(&record, &other), RecordFault::Other { field: "page format", .. }));
}

#[test]
fn hole_is_distinguished_from_damage() {
    let record = vec![0; sealed().len()];
    assert_eq!(fault(&record, &expected()), RecordFault::Missing);
}

#[test]
fn record_of_another_version_is_refused_before_its_checksum() {
    let mut record = sealed();
    record[8] = 9;
    assert_eq!(fault(&record, &expected()), RecordFault::Version { got: 9 });
}

#[test]
fn record_shorter_than_a_head_is_refused() {
    for len in [0, 1, RECORD_HEADER_BYTES - 1] {
        let wanted = RecordFault::Short { wanted_bytes: RECORD_HEADER_BYTES, got_bytes: len };
        assert_eq!(fault(&sealed()[..len], &expected()), wanted);
    }
}

#[test]
fn flipped_bit_anywhere_in_the_head_is_detected() {
    let mut record = sealed();
    for bit in 0..8 * RECORD_HEADER_BYTES {
        record[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&record, &expected()).is_err(), "bit {bit}");
        record[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(verify(&record, &expected()).is_ok());
}

proptest! {
    #[test]
    fn flipped_bits_are_detected(at in 0.0..1.0f64, bit in 0..8usize, another in prop::option::of(0.0..1.0f64)) {
        let mut record = sealed();
        let place = |at: f64| (record.len() as f64 * at) as usize;
        let places: Vec<_> = [Some(at), another].into_iter().flatten().map(place).collect();
        for (i, place) in places.iter().enumerate() {
            record[*place] ^= 1 << ((bit + i) % 8);
        }
        prop_assert!(verify(&record, &expected()).is_err());
    }

    #[test]
    fn torn_record_is_detected(at in 0.0..1.0f64) {
        let mut record = sealed();
        // Padding is zeroes, so a tear within it changes nothing.
        let end = identity().geometry.layout().payload_end();
        let tear = (end as f64 * at) as usize;
        record[tear..].fill(0);
        prop_assert!(verify(&record, &expected()).is_err());
    }
}
