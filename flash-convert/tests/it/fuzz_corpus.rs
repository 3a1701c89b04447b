//! Generates the seeds of the fuzz target `gguf_header`, and replays its corpus, including inputs found by fuzzing.

use std::fs;
use std::path::PathBuf;

use flash_convert::gguf::BlockFormat;

use crate::builder::{Builder, Typed};
use crate::header_oracle;
use crate::tiny::Tiny;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gguf_header")
}

/// Returns the seeds with their file names.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut model = Tiny::new(BlockFormat::Q4_0).build();
    for tensor in &mut model.tensors {
        // One row (or block) of each tensor is enough for the header.
        tensor.dims.truncate(1);
        tensor.data.truncate(if tensor.type_id == 0 {
            tensor.dims[0] as usize * 4
        } else {
            tensor.dims[0] as usize / 32 * 18
        });
    }
    let mut every_value = Builder::new();
    for type_id in 0..=12 {
        let value = match type_id {
            7 => Typed::bool(true),
            8 => Typed::string("text"),
            9 => Typed::array(9, &[Typed::strings(["a", "b"]).bytes, Typed::f32s(&[1.0]).bytes]),
            _ => Typed { type_id, bytes: vec![1; [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][type_id as usize]] },
        };
        every_value.set(&format!("key.{type_id}"), value);
    }
    let mut one = Builder::new();
    one.set("k", Typed::u32(7)).tensor("a", &[3, 2], 0, vec![1; 24]).tensor("b", &[32], 2, vec![2; 18]);
    let with = |change: &dyn Fn(&mut Builder)| {
        let mut builder = one.clone();
        change(&mut builder);
        builder.build()
    };
    let value = |value: Typed| {
        with(&|gguf| {
            gguf.set("k", value.clone());
        })
    };
    let whole = one.build();
    vec![
        ("model", model.build()),
        ("every_value", every_value.build()),
        ("one", whole.clone()),
        ("version_2", with(&|gguf| gguf.version = 2)),
        ("version_1", with(&|gguf| gguf.version = 1)),
        ("big_endian", with(&|gguf| gguf.version = 3u32.swap_bytes())),
        ("other_magic", with(&|gguf| gguf.magic = *b"GGML")),
        ("empty", Vec::new()),
        ("cut_in_header", whole[..60].to_vec()),
        ("cut_in_data", whole[..whole.len() - 1].to_vec()),
        ("many_entries", with(&|gguf| gguf.n_entries = Some(u64::MAX))),
        ("many_tensors", with(&|gguf| gguf.n_tensors = Some(u64::MAX))),
        ("long_string", value(Typed { type_id: 8, bytes: u64::MAX.to_le_bytes().to_vec() })),
        ("long_array", value(Typed::array_of(10, u64::MAX / 8, &[]))),
        ("deep_array", value(Typed::array(9, &[Typed::array(9, &[Typed::i32s(&[1]).bytes]).bytes]))),
        ("value_type", value(Typed { type_id: 13, bytes: vec![0; 8] })),
        ("not_bool", value(Typed { type_id: 7, bytes: vec![2] })),
        ("not_utf8", value(Typed { type_id: 8, bytes: [1, 0, 0, 0, 0, 0, 0, 0, 255].to_vec() })),
        ("duplicate_key", with(&|gguf| gguf.metadata.push(("k".to_owned(), Typed::u32(8))))),
        (
            "alignment",
            with(&|gguf| {
                gguf.set("general.alignment", Typed::u32(48));
            }),
        ),
        ("duplicate_tensor", with(&|gguf| gguf.tensors[1].name = "a".to_owned())),
        ("five_dimensions", with(&|gguf| gguf.tensors[1].dims = vec![1; 5])),
        ("zero_dimension", with(&|gguf| gguf.tensors[1].dims = vec![32, 0])),
        ("overflow", with(&|gguf| gguf.tensors[1].dims = vec![1 << 40, 1 << 40])),
        ("tensor_type", with(&|gguf| gguf.tensors[1].type_id = 4)),
        ("partial_block", with(&|gguf| gguf.tensors[1].dims = vec![33])),
        ("misaligned", with(&|gguf| gguf.tensors[1].offset = Some(33))),
        ("past_end", with(&|gguf| gguf.tensors[1].offset = Some(1 << 40))),
        ("overlap", with(&|gguf| gguf.tensors[1].offset = Some(0))),
    ]
}

#[test]
fn the_corpus_is_read_or_refused_without_panic() {
    let mut n_files = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        header_oracle::check(&fs::read(entry.unwrap().path()).unwrap());
        n_files += 1;
    }
    assert!(n_files >= seeds().len());
}

#[test]
fn the_committed_seeds_are_those_made_here() {
    let accepted = ["model", "every_value", "one", "version_2"];
    for (name, bytes) in seeds() {
        assert_eq!(fs::read(corpus().join(name)).unwrap(), bytes, "{name}");
        assert_eq!(header_oracle::check(&bytes), accepted.contains(&name), "{name}");
    }
}

/// `cargo test -p flash-convert -- --ignored write_the_seeds`
#[test]
#[ignore = "writes to the source tree"]
fn write_the_seeds() {
    fs::create_dir_all(corpus()).unwrap();
    for (name, bytes) in seeds() {
        fs::write(corpus().join(name), bytes).unwrap();
    }
}
