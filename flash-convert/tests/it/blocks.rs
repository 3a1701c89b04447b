//! Block formats, checked against the Python package gguf: `goldens/blocks.json`, made by `goldens/make_blocks.py`.

use flash_convert::gguf::{BlockFormat, RepackError};
use flash_kernels::{Affine, FloatType};
use half::f16;
use proptest::prelude::*;
use serde_json::Value;

use crate::tiny::{Random, blocks, kind};

const ALL: [&str; 11] =
    ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

fn format(name: &str) -> BlockFormat {
    BlockFormat::of(kind(name)).unwrap()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let bytes = (0..text.len()).step_by(2);
    bytes.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn dequantize_equals_the_python_package_bit_for_bit() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/blocks.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let names: Vec<_> = cases.iter().map(|case| case["kind"].as_str().unwrap()).collect();
    assert_eq!(names, ALL);
    for case in cases {
        let (blocks, wanted) = (unhex(&case["blocks"]), unhex(&case["values"]));
        let mut values = vec![0.0; wanted.len() / 4];
        format(case["kind"].as_str().unwrap()).dequantize(&blocks, &mut values);
        let found: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(found, wanted, "{}", case["kind"]);
    }
}

/// Repacks `blocks` and dequantises the result.
fn repacked(format: BlockFormat, float: FloatType, blocks: &[u8]) -> Result<Vec<f32>, RepackError> {
    let (bits, _) = format.affine().unwrap();
    let affine = Affine::new(bits, 32).unwrap();
    let n_values = blocks.len() / format.block_bytes() * format.block_len();
    let mut codes = vec![0; affine.codes_bytes(n_values)];
    let mut scales = vec![0; n_values / 32 * float.size_bytes()];
    let mut biases = scales.clone();
    format.repack(blocks, float, &mut codes, &mut scales, &mut biases)?;
    let mut values = vec![0.0; n_values];
    affine.dequantize_row(float, &codes, &scales, &biases, &mut values).unwrap();
    Ok(values)
}

#[test]
fn repacking_preserves_every_value() {
    let mut random = Random::new(3);
    for name in ALL {
        let format = format(name);
        let Some((_, float)) = format.affine() else {
            continue;
        };
        let blocks = blocks(&mut random, format, 4096);
        let mut values = vec![0.0; 4096];
        format.dequantize(&blocks, &mut values);
        assert_eq!(repacked(format, float, &blocks).unwrap(), values, "{name}");
        assert_eq!(repacked(format, FloatType::F32, &blocks).unwrap(), values, "{name}");
    }
}

#[test]
fn a_bias_beyond_f16_is_reported_and_fits_f32() {
    for (name, scale) in [("Q8_0", 512.0), ("Q5_0", 4096.0), ("Q4_0", -8192.0)] {
        let format = format(name);
        let mut two = blocks(&mut Random::new(5), format, 64);
        let scale = f16::from_f32(scale).to_le_bytes();
        two[format.block_bytes()..][..2].copy_from_slice(&scale);
        let error = repacked(format, FloatType::F16, &two).unwrap_err();
        assert_eq!(error, RepackError::BiasOverflowsF16 { group_idx: 1 }, "{name}");
        let mut values = vec![0.0; 64];
        format.dequantize(&two, &mut values);
        assert_eq!(repacked(format, FloatType::F32, &two).unwrap(), values, "{name}");
    }
}

#[test]
fn a_nan_scale_is_reported() {
    for name in ALL {
        let format = format(name);
        let Some((_, float)) = format.affine() else {
            continue;
        };
        let mut one = blocks(&mut Random::new(5), format, format.block_len() as u64);
        one[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        let error = repacked(format, float, &one).unwrap_err();
        assert_eq!(error, RepackError::NotFinite { group_idx: 0 }, "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_dequantize_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        for name in ALL {
            let format = format(name);
            let n_blocks = bytes.len() / format.block_bytes();
            let blocks = &bytes[..n_blocks * format.block_bytes()];
            format.dequantize(blocks, &mut vec![0.0; n_blocks * format.block_len()]);
            if let Some((_, float)) = format.affine() {
                let _any_result = repacked(format, float, blocks);
            }
        }
    }
}
