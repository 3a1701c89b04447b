//! The header parser: accepted headers, and one test for each rejection.

use flash_convert::gguf::{Array, GgufError, Header, Place, Value};

use crate::builder::{Builder, Typed, string};

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::parse(bytes, bytes.len() as u64)
}

fn refusal(builder: &Builder) -> GgufError {
    parse(&builder.build()).unwrap_err()
}

/// Returns a file with one metadata entry and two tensors.
fn good() -> Builder {
    let mut builder = Builder::new();
    builder.set("k", Typed::u32(7)).tensor("a", &[3, 2], 0, vec![1; 24]).tensor("b", &[32], 2, vec![2; 18]);
    builder
}

fn with_value(value: Typed) -> Builder {
    let mut builder = good();
    builder.set("k", value);
    builder
}

fn with_tensor(change: impl FnOnce(&mut crate::builder::Tensor)) -> Builder {
    let mut builder = good();
    change(builder.tensor_mut("b"));
    builder
}

#[test]
fn a_header_of_either_version_is_read() {
    for version in [2, 3] {
        let mut builder = good();
        builder.version = version;
        let bytes = builder.build();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.alignment, 32);
        assert_eq!(header.metadata.u32("k").unwrap(), Some(7));
        let [a, b] = &header.tensors[..] else { panic!() };
        assert_eq!((a.dims.as_slice(), a.kind.name(), a.bytes), (&[3, 2][..], "F32", 24));
        assert_eq!((b.dims.as_slice(), b.kind.name(), b.bytes), (&[32][..], "Q4_0", 18));
        assert_eq!(b.offset, a.offset + 32);
        assert_eq!(bytes[a.offset as usize..][..24], [1; 24]);
        assert_eq!(bytes[b.offset as usize..], [2; 18]);
    }
}

#[test]
fn every_type_of_value_is_read() {
    let of = |type_id, bytes: &[u8]| {
        let value = Typed { type_id, bytes: bytes.to_vec() };
        let header = parse(&with_value(value).build()).unwrap();
        header.metadata.get("k").unwrap().clone()
    };
    assert_eq!(of(0, &[200]), Value::Unsigned(200));
    assert_eq!(of(1, &[200]), Value::Signed(-56));
    assert_eq!(of(2, &[1, 2]), Value::Unsigned(0x201));
    assert_eq!(of(3, &[0, 128]), Value::Signed(-32768));
    assert_eq!(of(4, &[0, 0, 0, 128]), Value::Unsigned(1 << 31));
    assert_eq!(of(5, &[255; 4]), Value::Signed(-1));
    assert_eq!(of(6, &1.5f32.to_le_bytes()), Value::F32(1.5));
    assert_eq!(of(7, &[1]), Value::Bool(true));
    assert_eq!(of(8, &string("hü")), Value::String("hü".to_owned()));
    assert_eq!(of(10, &[255; 8]), Value::Unsigned(u64::MAX));
    assert_eq!(of(11, &[255; 8]), Value::Signed(-1));
    assert_eq!(of(12, &1.5f64.to_le_bytes()), Value::F64(1.5));
    let strings = of(9, &Typed::strings(["a", "", "ü"]).bytes);
    let Value::Array(Array::Strings(strings)) = strings else { panic!() };
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["a", "", "ü"]);
    let header = parse(&with_value(Typed::i32s(&[-1, 5])).build()).unwrap();
    assert_eq!(header.metadata.i32s("k").unwrap(), Some(vec![-1, 5]));
    assert!(matches!(header.metadata.f32s("k"), Err(GgufError::KeyType { .. })));
    let nested = Typed::array(9, &[Typed::i32s(&[1]).bytes, Typed::i32s(&[]).bytes]);
    let Value::Array(Array::Nested(nested)) = of(9, &nested.bytes) else { panic!() };
    assert_eq!(nested.len(), 2);
}

#[test]
fn other_files_are_refused() {
    let mut builder = good();
    builder.magic = *b"GGML";
    assert!(matches!(refusal(&builder), GgufError::Magic { found } if &found == b"GGML"));
}

#[test]
fn version_1_and_later_ones_are_refused_by_name() {
    for version in [0x0001_0000 - 1, 1, 4, 300] {
        let mut builder = good();
        builder.version = version;
        assert!(matches!(refusal(&builder), GgufError::Version { version: found } if found == version));
    }
}

#[test]
fn big_endian_files_are_refused_by_name() {
    let mut builder = good();
    builder.version = 3u32.swap_bytes();
    assert!(matches!(refusal(&builder), GgufError::BigEndian { version: 3 }));
}

#[test]
fn a_header_cut_anywhere_is_refused() {
    let bytes = good().build();
    let data_offset = parse(&bytes).unwrap().tensors[0].offset as usize;
    for len in 0..data_offset {
        let error = parse(&bytes[..len]).unwrap_err();
        let is_named = matches!(error, GgufError::Truncated { .. } | GgufError::OutOfRange { .. });
        assert!(is_named, "{len}: {error}");
    }
}

#[test]
fn a_source_shorter_than_stated_is_a_read_error() {
    let bytes = good().build();
    let error = Header::parse(&bytes[..30], bytes.len() as u64).unwrap_err();
    assert!(matches!(error, GgufError::Read { .. }), "{error}");
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    for count in [1000, u64::MAX / 2, u64::MAX] {
        let mut builder = good();
        builder.n_entries = Some(count);
        let GgufError::Truncated { place, field, .. } = refusal(&builder) else { panic!() };
        assert_eq!((place, field), (Place::Preamble, "metadata count"));
        let mut builder = good();
        builder.n_tensors = Some(count);
        let GgufError::Truncated { place, field, .. } = refusal(&builder) else { panic!() };
        assert_eq!((place, field), (Place::Preamble, "tensor count"));
    }
}

#[test]
fn lengths_beyond_the_file_are_refused_with_key_and_field() {
    let long_string = Typed { type_id: 8, bytes: u64::MAX.to_le_bytes().to_vec() };
    let strings = Typed::array_of(8, u64::MAX / 8, &[]);
    let numbers = Typed::array_of(10, u64::MAX / 8, &[]);
    let bytes = Typed::array_of(0, 1 << 40, &[]);
    let arrays = Typed::array_of(9, 1 << 60, &[]);
    for (value, wanted_field) in [
        (long_string, "value"),
        (strings, "array of strings"),
        (numbers, "array of numbers"),
        (bytes, "array of numbers"),
        (arrays, "array of arrays"),
    ] {
        let GgufError::Truncated { place, field, .. } = refusal(&with_value(value)) else { panic!() };
        assert_eq!((place, field), (Place::Key("k".to_owned()), wanted_field));
    }
}

#[test]
fn a_header_longer_than_the_limit_is_refused_however_long_the_file() {
    let mut bytes = good().build();
    bytes.truncate(24);
    bytes.extend(200_000_000u64.to_le_bytes());
    let error = Header::parse(&bytes[..], 1 << 40).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { wanted_bytes: 200_000_000, .. }), "{error}");
}

#[test]
fn strings_that_are_not_utf8_are_refused() {
    let mut value = Typed::string("abc");
    value.bytes[8] = 0xFF;
    assert!(matches!(refusal(&with_value(value)), GgufError::NotUtf8 { field: "value", .. }));
}

#[test]
fn duplicate_keys_are_refused() {
    let mut builder = good();
    builder.metadata.push(("k".to_owned(), Typed::u32(8)));
    assert!(matches!(refusal(&builder), GgufError::DuplicateKey { key } if key == "k"));
}

#[test]
fn unknown_value_types_are_refused() {
    for type_id in [13, u32::MAX] {
        let value = Typed { type_id, bytes: vec![0; 8] };
        assert!(matches!(
            refusal(&with_value(value)),
            GgufError::ValueType { key, type_id: found } if key == "k" && found == type_id
        ));
        let array = Typed::array_of(type_id, 1, &[0; 8]);
        assert!(matches!(refusal(&with_value(array)), GgufError::ValueType { .. }));
    }
}

#[test]
fn deeply_nested_arrays_are_refused() {
    let mut value = Typed::i32s(&[1]);
    for _ in 0..2 {
        value = Typed::array(9, &[value.bytes]);
    }
    assert!(matches!(refusal(&with_value(value)), GgufError::ArrayDepth { depth_max: 2, .. }));
    let mut deep = Vec::new();
    for _ in 0..100_000 {
        deep.extend(9u32.to_le_bytes());
        deep.extend(1u64.to_le_bytes());
    }
    let value = Typed { type_id: 9, bytes: deep };
    assert!(matches!(refusal(&with_value(value)), GgufError::ArrayDepth { .. }));
}

#[test]
fn booleans_are_0_or_1() {
    let value = Typed { type_id: 7, bytes: vec![2] };
    assert!(matches!(refusal(&with_value(value)), GgufError::NotBool { found: 2, .. }));
}

#[test]
fn the_alignment_is_a_power_of_two() {
    for alignment in [0, 3, 48, u32::MAX] {
        let mut builder = good();
        builder.set("general.alignment", Typed::u32(alignment));
        assert!(matches!(
            refusal(&builder),
            GgufError::Alignment { alignment: found } if found == u64::from(alignment)
        ));
    }
    let mut builder = good();
    builder.set("general.alignment", Typed::string("32"));
    assert!(matches!(refusal(&builder), GgufError::KeyType { .. }));
    builder.set("general.alignment", Typed::u32(64)).alignment = 64;
    assert_eq!(parse(&builder.build()).unwrap().alignment, 64);
}

#[test]
fn duplicate_tensors_are_refused() {
    let mut builder = good();
    builder.tensors[1].name = "a".to_owned();
    assert!(matches!(refusal(&builder), GgufError::DuplicateTensor { tensor } if tensor == "a"));
}

#[test]
fn tensors_have_one_to_four_dimensions() {
    for n_dims in [0, 5, 100] {
        let builder = with_tensor(|tensor| tensor.dims = vec![1; n_dims]);
        assert!(matches!(
            refusal(&builder),
            GgufError::Dimensions { tensor, n_dims: found } if tensor == "b" && found == n_dims as u32
        ));
    }
}

#[test]
fn no_dimension_is_zero() {
    let builder = with_tensor(|tensor| tensor.dims = vec![32, 0]);
    assert!(matches!(refusal(&builder), GgufError::EmptyDimension { dim_idx: 1, .. }));
}

#[test]
fn sizes_that_overflow_are_refused() {
    for dims in [vec![1 << 40, 1 << 40], vec![1 << 62, 2, 2, 2], vec![u64::MAX / 32 * 32]] {
        let builder = with_tensor(|tensor| tensor.dims = dims);
        let error = refusal(&builder);
        let is_named = matches!(error, GgufError::SizeOverflow { .. } | GgufError::OutOfRange { .. });
        assert!(is_named, "{error}");
    }
}

#[test]
fn unknown_tensor_types_are_refused_by_number() {
    for type_id in [4, 5, 31, 36, 1000] {
        let builder = with_tensor(|tensor| tensor.type_id = type_id);
        assert!(matches!(
            refusal(&builder),
            GgufError::TensorType { tensor, type_id: found } if tensor == "b" && found == type_id
        ));
    }
}

#[test]
fn rows_are_whole_blocks() {
    let builder = with_tensor(|tensor| tensor.dims = vec![33]);
    assert!(matches!(refusal(&builder), GgufError::PartialBlock { row_len: 33, .. }));
}

#[test]
fn offsets_are_aligned() {
    let builder = with_tensor(|tensor| tensor.offset = Some(33));
    assert!(matches!(refusal(&builder), GgufError::Misaligned { offset: 33, alignment: 32, .. }));
}

#[test]
fn tensors_lie_in_the_file() {
    for offset in [64, 1 << 40, u64::MAX - 31] {
        let builder = with_tensor(|tensor| tensor.offset = Some(offset));
        assert!(matches!(refusal(&builder), GgufError::OutOfRange { tensor, .. } if tensor == "b"));
    }
    let bytes = good().build();
    let error = parse(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(matches!(error, GgufError::OutOfRange { tensor, .. } if tensor == "b"));
}

#[test]
fn tensors_do_not_overlap() {
    let builder = with_tensor(|tensor| tensor.offset = Some(0));
    let GgufError::Overlap { first, second } = refusal(&builder) else { panic!() };
    assert_eq!((first.as_str(), second.as_str()), ("a", "b"));
}

#[test]
fn every_single_changed_byte_is_read_or_refused_without_panic() {
    let bytes = good().build();
    for at in 0..bytes.len() {
        for value in [0, 1, 9, 127, 128, 255] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _any_result = parse(&changed);
        }
    }
}
