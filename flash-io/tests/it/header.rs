//! Tests of safetensors headers: one for each rejection, and comparisons with the `safetensors` crate as oracle.

use std::path::Path;

use flash_io::{Dtype, Header, HeaderFault, IoError, MAX_HEADER_BYTES, Span};
use proptest::prelude::*;
use safetensors::tensor::{Dtype as TheirDtype, TensorView, serialize};

use crate::oracle;
use crate::support::{Bytes, file_of};

fn parse(bytes: Vec<u8>) -> Result<Header, IoError> {
    Header::read(Path::new("some.safetensors"), &Bytes(bytes))
}

/// Reads an invalid file, checks that the message names it, and returns the fault.
fn fault_of(bytes: Vec<u8>) -> HeaderFault {
    let error = parse(bytes).unwrap_err();
    assert!(error.to_string().starts_with("some.safetensors: "), "{error}");
    let IoError::Header { fault, .. } = error else { panic!("{error}") };
    fault
}

fn fault(header: &str, data: &[u8]) -> HeaderFault {
    fault_of(file_of(header, data))
}

macro_rules! assert_fault {
    ($fault:expr, $pattern:pat $(if $guard:expr)?) => {{
        let fault = $fault;
        assert!(matches!(&fault, $pattern $(if $guard)?), "{fault:?}");
    }};
}

#[test]
fn good_header_gives_absolute_spans_in_the_order_of_the_file() {
    let header = r#"{"__metadata__":{"format":"mlx"},
        "b":{"data_offsets":[4,8],"dtype":"F32","shape":[]},
        "a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4],"later":[1,{"x":null}]},
        "empty":{"dtype":"I64","shape":[3,0],"data_offsets":[4,4]}} "#;
    let parsed = parse(file_of(header, &[0; 8])).unwrap();
    let start = 8 + header.len() as u64;
    assert_eq!(parsed.data_start, start);
    assert_eq!(parsed.metadata["format"], "mlx");
    let names: Vec<_> = parsed.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "empty", "b"]);
    assert_eq!(parsed.tensors[0].span, Span::new(start, start + 4));
    assert_eq!((parsed.tensors[0].dtype, parsed.tensors[0].shape.as_slice()), (Dtype::BF16, &[2, 1][..]));
    assert_eq!(parsed.tensors[2].span, Span::new(start + 4, start + 8));
}

#[test]
fn header_without_tensors_is_good() {
    assert!(parse(file_of("{}", &[])).unwrap().tensors.is_empty());
}

#[test]
fn file_shorter_than_the_length_is_refused() {
    for len in 0..8 {
        assert_fault!(fault_of(vec![0; len]), HeaderFault::FileTooShort { file_bytes } if *file_bytes == len as u64);
    }
}

#[test]
fn header_above_the_limit_is_refused() {
    let claimed = MAX_HEADER_BYTES + 1;
    assert_fault!(fault_of(claimed.to_le_bytes().to_vec()), HeaderFault::TooLong { header_bytes, .. } if *header_bytes == claimed);
    assert_fault!(fault_of(vec![0xff; 20]), HeaderFault::TooLong { header_bytes: u64::MAX, .. });
}

#[test]
fn header_longer_than_the_file_is_refused() {
    let fault = fault_of([&3u64.to_le_bytes()[..], b"{}"].concat());
    assert_fault!(fault, HeaderFault::PastEndOfFile { header_bytes: 3, file_bytes: 10 });
}

#[test]
fn header_given_by_itself_is_measured_against_the_file_too() {
    let error = Header::parse(Path::new("x"), b"{}", 9).unwrap_err();
    assert!(matches!(error, IoError::Header { fault: HeaderFault::PastEndOfFile { .. }, .. }), "{error}");
    assert!(Header::parse(Path::new("x"), b"{}", 10).is_ok());
}

#[test]
fn header_that_does_not_begin_with_a_brace_is_refused() {
    assert_fault!(fault("", &[]), HeaderFault::NotAnObject);
    assert_fault!(fault(" {}", &[]), HeaderFault::NotAnObject);
    assert_fault!(fault("[]", &[]), HeaderFault::NotAnObject);
}

#[test]
fn header_that_is_not_utf8_is_refused() {
    let bytes = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    assert_fault!(fault_of(bytes), HeaderFault::NotUtf8 { valid_bytes: 2 });
}

#[test]
fn header_that_is_not_json_is_refused() {
    for text in ["{", "{]", "{\"a\"}", "{}x", "{\"a\":{\"dtype\":\"F", "{\"a\":{\"shape\":[1,"] {
        assert_fault!(fault(text, &[]), HeaderFault::NotJson { .. });
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let nested = format!(r#"{{"a":{{"x":{}"#, "[".repeat(1 << 20));
    assert_fault!(fault(&nested, &[]), HeaderFault::NotJson { .. });
    let nested = format!(r#"{{"a":{}"#, "[".repeat(1 << 20));
    assert_fault!(fault(&nested, &[]), HeaderFault::NotATensor { tensor, .. } if tensor == "a");
}

#[test]
fn duplicate_tensor_is_refused() {
    let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let header = format!(r#"{{"a":{entry},"b":{entry},"\u0061":{entry}}}"#);
    assert_fault!(fault(&header, &[]), HeaderFault::DuplicateTensor { tensor } if tensor == "a");
}

#[test]
fn duplicate_metadata_is_refused() {
    let header = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert_fault!(fault(header, &[]), HeaderFault::DuplicateTensor { tensor } if tensor == "__metadata__");
    let header = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert_fault!(fault(header, &[]), HeaderFault::DuplicateField { field, .. } if field == "k");
}

/// `mx.save_safetensors` writes `null` when it is given no metadata.
#[test]
fn metadata_that_is_null_is_none() {
    let header = r#"{"__metadata__":null,"a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}"#;
    let parsed = parse(file_of(header, &[0; 4])).unwrap();
    assert!(parsed.metadata.is_empty());
    assert_eq!(parsed.tensors.len(), 1);
    let twice = r#"{"__metadata__":null,"__metadata__":{}}"#;
    assert_fault!(fault(twice, &[]), HeaderFault::DuplicateTensor { tensor } if tensor == "__metadata__");
}

#[test]
fn metadata_that_is_not_text_is_refused() {
    let header = r#"{"__metadata__":{"k":1}}"#;
    assert_fault!(fault(header, &[]), HeaderFault::BadField { tensor, field, .. } if tensor == "__metadata__" && field == "k");
    assert_fault!(fault(r#"{"__metadata__":[]}"#, &[]), HeaderFault::NotATensor { tensor, .. } if tensor == "__metadata__");
}

#[test]
fn entry_that_is_not_an_object_is_refused() {
    assert_fault!(fault(r#"{"a":5}"#, &[]), HeaderFault::NotATensor { tensor, .. } if tensor == "a");
    assert_fault!(fault(r#"{"a":null}"#, &[]), HeaderFault::NotATensor { tensor, .. } if tensor == "a");
}

#[test]
fn duplicate_field_is_refused() {
    for (name, twice) in [
        ("dtype", r#""dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]"#),
        ("shape", r#""dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]"#),
        ("data_offsets", r#""dtype":"U8","shape":[0],"data_offsets":[0,0],"data_offsets":[0,0]"#),
    ] {
        let fault = fault(&format!(r#"{{"a":{{{twice}}}}}"#), &[]);
        assert_fault!(fault, HeaderFault::DuplicateField { tensor, field } if tensor == "a" && field == name);
    }
}

#[test]
fn missing_field_is_refused() {
    for (name, rest) in [
        ("dtype", r#""shape":[0],"data_offsets":[0,0]"#),
        ("shape", r#""dtype":"U8","data_offsets":[0,0]"#),
        ("data_offsets", r#""dtype":"U8","shape":[0]"#),
    ] {
        let fault = fault(&format!(r#"{{"a":{{{rest}}}}}"#), &[]);
        assert_fault!(fault, HeaderFault::MissingField { tensor, field } if tensor == "a" && *field == name);
    }
}

#[test]
fn field_of_the_wrong_type_is_refused() {
    for (name, fields) in [
        ("dtype", r#""dtype":8"#),
        ("shape", r#""shape":2"#),
        ("shape", r#""shape":[-1]"#),
        ("shape", r#""shape":[1.5]"#),
        ("shape", r#""shape":[18446744073709551616]"#),
        ("shape", r#""shape":null"#),
        ("data_offsets", r#""data_offsets":{}"#),
        ("data_offsets", r#""data_offsets":[0]"#),
        ("data_offsets", r#""data_offsets":["0","0"]"#),
    ] {
        let fault = fault(&format!(r#"{{"a":{{{fields}}}}}"#), &[]);
        assert_fault!(fault, HeaderFault::BadField { tensor, field, .. } if tensor == "a" && field == name);
    }
}

#[test]
fn offsets_of_three_numbers_are_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}"#;
    assert!(matches!(fault(header, &[]), HeaderFault::BadField { .. } | HeaderFault::NotJson { .. }));
}

#[test]
fn unknown_dtype_is_refused() {
    let header = r#"{"a":{"dtype":"F12","shape":[0],"data_offsets":[0,0]}}"#;
    assert_fault!(fault(header, &[]), HeaderFault::UnknownDtype { tensor, dtype } if tensor == "a" && dtype == "F12");
}

#[test]
fn shape_whose_product_overflows_is_refused() {
    for shape in ["4294967296,4294967296", "9223372036854775807,1", "4294967296,4294967296,0"] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,0]}}}}"#);
        assert_fault!(fault(&header, &[]), HeaderFault::ShapeOverflow { tensor, .. } if tensor == "a");
    }
}

#[test]
fn tensor_of_a_part_of_a_byte_is_refused() {
    let header = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#;
    assert_fault!(fault(header, &[0]), HeaderFault::PartialByte { tensor, .. } if tensor == "a");
    let header = r#"{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}"#;
    assert!(parse(file_of(header, &[0; 3])).is_ok());
}

#[test]
fn tensor_that_begins_after_its_end_is_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}"#;
    assert_fault!(fault(header, &[0; 2]), HeaderFault::BackwardOffsets { tensor, begin: 2, end: 0 } if tensor == "a");
}

#[test]
fn truncated_shard_is_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    assert_fault!(fault(header, &[0; 3]), HeaderFault::OutOfRange { tensor, end: 4, data_bytes: 3 } if tensor == "a");
    let header =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}"#;
    assert_fault!(fault(header, &[0; 3]), HeaderFault::OutOfRange { end: u64::MAX, .. });
}

#[test]
fn size_that_disagrees_with_the_shape_is_refused() {
    let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,5]}}"#;
    assert_fault!(fault(header, &[0; 5]), HeaderFault::SizeMismatch { tensor, wanted_bytes: 4, span_bytes: 5, .. } if tensor == "a");
}

#[test]
fn overlapping_tensors_are_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;
    assert_fault!(fault(header, &[0; 7]), HeaderFault::Overlap { first, second, at: 3 } if first == "a" && second == "b");
}

#[test]
fn bytes_of_no_tensor_are_refused() {
    let between = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#;
    assert_fault!(fault(between, &[0; 4]), HeaderFault::Hole { hole: Span { start: 1, end: 3 } });
    let before = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    assert_fault!(fault(before, &[0; 3]), HeaderFault::Hole { hole: Span { start: 0, end: 2 } });
    assert_fault!(fault("{}", &[0; 3]), HeaderFault::Hole { hole: Span { start: 0, end: 3 } });
}

/// Nearly valid files, so that mutations reach the checks after JSON parsing.
fn near_files() -> impl Strategy<Value = Vec<u8>> {
    let dtype = prop::sample::select(vec!["U8", "F16", "F32", "F4", "F6_E3M2", "F9"]);
    let tensor = (dtype, prop::collection::vec(0u64..4, 0..3), 0u64..20, 0u64..20);
    (
        prop::collection::vec(("[a-c]{1,2}", tensor), 0..5),
        0usize..40,
        any::<prop::sample::Index>(),
        any::<Option<u8>>(),
    )
        .prop_map(|(tensors, data_bytes, at, flip)| {
            let entries = tensors.iter().map(|(name, (dtype, shape, start, end))| {
                format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
            });
            let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
            let mut file = file_of(&header, &vec![0; data_bytes]);
            if let Some(byte) = flip {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_judged_as_safetensors_judges_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        oracle::check(&Bytes(bytes.clone()), &bytes);
    }

    #[test]
    fn arbitrary_headers_are_judged_as_safetensors_judges_them(text in "\\{[\\[\\]{}\":,a-c0-9 ]{0,60}\\}") {
        let bytes = file_of(&text, &[0; 8]);
        oracle::check(&Bytes(bytes.clone()), &bytes);
    }

    #[test]
    fn nearly_good_files_are_judged_as_safetensors_judges_them(bytes in near_files()) {
        oracle::check(&Bytes(bytes.clone()), &bytes);
    }

    #[test]
    fn what_safetensors_writes_is_read_back(
        tensors in prop::collection::btree_map("[a-z.\"\\\\é]{1,12}", (0usize..3, prop::collection::vec(0usize..5, 0..4)), 0..12)
    ) {
        let zeros = vec![0u8; 4096];
        let views: Vec<_> = tensors.iter().map(|(name, (kind, shape))| {
            let dtype = [TheirDtype::U8, TheirDtype::BF16, TheirDtype::F64][*kind];
            let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorView::new(dtype, shape.clone(), &zeros[..len]).unwrap())
        }).collect();
        let bytes = serialize(views, None).unwrap();
        let header = parse(bytes.clone()).unwrap();
        prop_assert_eq!(header.tensors.len(), tensors.len());
        oracle::check(&Bytes(bytes.clone()), &bytes);
    }
}
