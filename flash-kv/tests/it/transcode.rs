//! Conversion of window pages into sealed pages.

use flash_kv::{
    GROUP_LEN, KvError, KvParts, PAGE_TOKENS, PageFormat, PageLayout, RECORD_HEADER_BYTES, TensorLayout,
    error_bound, to_f16, transcode,
};
use half::f16;
use proptest::prelude::*;

/// Returns a page in `f32` whose row `i` begins with `i`, so that rows are distinguishable.
fn page(layout: &PageLayout, scale: f32) -> Vec<u8> {
    let mut record = vec![0xee; layout.record_bytes()];
    for (half, sign) in layout.stored().zip([1.0, -1.0]) {
        let numbers = record[half.codes.clone()].as_chunks_mut().0;
        for (i, number) in numbers.iter_mut().enumerate() {
            let (row, column) = (i / layout.head_dim(), i % layout.head_dim());
            let value = sign * (row as f32 + 0.37 * (column as f32 * 1.7).sin()) * scale;
            *number = value.to_le_bytes();
        }
    }
    record
}

fn numbers(layout: &PageLayout, record: &[u8]) -> Vec<f32> {
    assert_eq!(layout.format(), PageFormat::F32);
    let numbers = |half: &TensorLayout| {
        record[half.codes.clone()].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
    };
    layout.stored().flat_map(numbers).collect()
}

fn through(format: PageFormat, kv_heads: usize, head_dim: usize, scale: f32) -> (Vec<f32>, Vec<f32>) {
    round_trip(KvParts::KeysAndValues, format, kv_heads, head_dim, scale)
}

fn round_trip(
    parts: KvParts,
    format: PageFormat,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let [plain, other] =
        [PageFormat::F32, format].map(|format| PageLayout::of(kv_heads, head_dim, parts, format));
    let source = page(&plain, scale);
    let (mut coded, mut back) = (vec![0xaa; other.record_bytes()], vec![0xbb; plain.record_bytes()]);
    transcode(&plain, &source, &other, &mut coded).unwrap();
    transcode(&other, &coded, &plain, &mut back).unwrap();
    assert!(coded[..RECORD_HEADER_BYTES].iter().all(|byte| *byte == 0xaa), "the header is unchanged");
    assert!(coded[other.payload_end()..].iter().all(|byte| *byte == 0), "padding is zeroed");
    (numbers(&plain, &source), numbers(&plain, &back))
}

#[test]
fn every_row_comes_back_within_its_bound() {
    let both = [(3, 64), (1, 128), (2, 80), (1, 33), (1, 1)].map(|heads| (KvParts::KeysAndValues, heads));
    for (parts, (kv_heads, head_dim)) in both.into_iter().chain([(KvParts::KeysOnly, (1, 576))]) {
        for (format, steps) in [(PageFormat::Int8, 255.0), (PageFormat::Int4, 15.0)] {
            let (source, back) = round_trip(parts, format, kv_heads, head_dim, 1.0);
            for (row, back) in source.chunks(head_dim).zip(back.chunks(head_dim)) {
                for (group, back) in row.chunks(GROUP_LEN).zip(back.chunks(GROUP_LEN)) {
                    let low = group.iter().copied().fold(f32::INFINITY, f32::min);
                    let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let bound = error_bound((high - low) / steps, low.abs().max(high.abs())) + 1e-30;
                    for (number, back) in group.iter().zip(back) {
                        assert!(
                            f64::from((number - back).abs()) <= bound,
                            "{format}: {number} became {back}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn plain_formats_come_back_as_they_round() {
    let (source, back) = through(PageFormat::F32, 2, 80, 1.0);
    assert_eq!(source, back);
    let (source, back) = through(PageFormat::F16, 2, 80, 1.0);
    assert!(source.iter().zip(&back).all(|(number, back)| f16::from_f32(*number).to_f32() == *back));
}

#[test]
fn a_number_too_great_for_half_precision_is_refused_by_name() {
    let [plain, window] = [PageFormat::F32, PageFormat::F16].map(|format| PageLayout::new(1, 80, format));
    for (half, place, number) in [(plain.keys(), 0, 65520.0_f32), (plain.values(), 3 * 80 + 79, -1e30)] {
        let mut source = page(&plain, 1.0);
        source[half.codes.start + 4 * place..][..4].copy_from_slice(&number.to_le_bytes());
        let mut halves = vec![0; window.record_bytes()];
        match transcode(&plain, &source, &window, &mut halves) {
            Err(KvError::F16Overflow { number: found }) => assert_eq!(found, number),
            other => panic!("{other:?}"),
        }
    }
    // Numbers that round to the largest half are accepted, and infinities pass through.
    let mut halves = [f16::ZERO; 3];
    to_f16(&[65519.0, f32::NEG_INFINITY, f32::NAN], &mut halves).unwrap();
    assert_eq!([halves[0], halves[1]], [f16::MAX, f16::NEG_INFINITY]);
    assert!(halves[2].is_nan());
}

#[test]
fn window_in_half_precision_gives_the_codes_of_its_numbers() {
    let [plain, window, sealed] =
        [PageFormat::F32, PageFormat::F16, PageFormat::Int8].map(|format| PageLayout::new(2, 128, format));
    let mut halves = vec![0; window.record_bytes()];
    transcode(&plain, &page(&plain, 1.0), &window, &mut halves).unwrap();
    let mut rounded = vec![0; plain.record_bytes()];
    transcode(&window, &halves, &plain, &mut rounded).unwrap();
    let [mut a, mut b] = [(); 2].map(|()| vec![0; sealed.record_bytes()]);
    transcode(&window, &halves, &sealed, &mut a).unwrap();
    transcode(&plain, &rounded, &sealed, &mut b).unwrap();
    assert!(a == b);
    let n_rows = 2 * PAGE_TOKENS;
    assert_eq!(sealed.keys().scales.len(), n_rows * 2 * 4);
}

#[test]
fn nan_and_infinity_make_their_group_nan() {
    let layouts = [PageFormat::F32, PageFormat::Int8].map(|format| PageLayout::new(1, 64, format));
    let [plain, sealed] = &layouts;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut source = page(plain, 1.0);
        source[plain.values().codes.start + 4..][..4].copy_from_slice(&bad.to_le_bytes());
        let (mut coded, mut back) = (vec![0; sealed.record_bytes()], vec![0; plain.record_bytes()]);
        transcode(plain, &source, sealed, &mut coded).unwrap();
        transcode(sealed, &coded, plain, &mut back).unwrap();
        let values = PAGE_TOKENS * 64;
        let back = numbers(plain, &back);
        assert!(back[values..values + 64].iter().all(|number| number.is_nan()));
        assert!(back.iter().filter(|number| number.is_nan()).count() == 64);
    }
}

proptest! {
    #[test]
    fn halves_are_rounded_to_nearest_or_overflow_is_an_error(
        numbers in prop::collection::vec(prop_oneof![any::<f32>(), -1e5..1e5f32], 0..200),
    ) {
        let mut halves = vec![f16::ZERO; numbers.len()];
        match to_f16(&numbers, &mut halves) {
            Ok(()) => {
                for (number, half) in numbers.iter().zip(halves) {
                    prop_assert_eq!(half.is_infinite(), number.is_infinite());
                    prop_assert!(half == f16::from_f32(*number) || (half.is_nan() && number.is_nan()));
                }
            }
            Err(KvError::F16Overflow { number }) => {
                prop_assert!(number.is_finite() && number.abs() >= 65520.0);
                prop_assert!(numbers.contains(&number));
            }
            Err(other) => panic!("{other}"),
        }
    }
}
