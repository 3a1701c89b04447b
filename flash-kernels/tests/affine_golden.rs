//! [`Affine`] against what MLX itself computes: `goldens/affine.json`, made by `goldens/make_affine.py`.

use flash_kernels::{Affine, FloatType};
use serde_json::Value;

struct Case {
    name: String,
    float: FloatType,
    affine: Affine,
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    dequantized: Option<Vec<u8>>,
}

fn cases() -> Vec<Case> {
    let golden: Value = serde_json::from_str(include_str!("goldens/affine.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    cases.iter().map(|case| read_case(&golden, case)).collect()
}

fn read_case(golden: &Value, case: &Value) -> Case {
    let bytes = |key: &str| unhex(case[key].as_str().unwrap());
    let number = |key: &str| case[key].as_u64().unwrap();
    let float_name = case["float"].as_str().unwrap();
    let float = match float_name {
        "float32" => FloatType::F32,
        "float16" => FloatType::F16,
        "bfloat16" => FloatType::BF16,
        other => panic!("unknown float type {other}"),
    };
    let stored = unhex(golden["values"][float_name].as_str().unwrap());
    let mut values = vec![0.0; stored.len() / float.size_bytes()];
    float.decode_into(&stored, &mut values).unwrap();
    Case {
        name: format!("{float:?}, {} bits, groups of {}", case["bits"], case["group_size"]),
        float,
        affine: Affine::new(number("bits") as u32, number("group_size") as usize).unwrap(),
        values,
        codes: bytes("codes"),
        scales: bytes("scales"),
        biases: bytes("biases"),
        dequantized: case["dequantized"].as_str().map(unhex),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn quantize_row_equals_mlx_bit_for_bit() {
    let cases = cases();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let mut codes = vec![0; case.codes.len()];
        let mut scales = vec![0; case.scales.len()];
        let mut biases = vec![0; case.biases.len()];
        case.affine.quantize_row(case.float, &case.values, &mut codes, &mut scales, &mut biases).unwrap();
        assert_eq!(scales, case.scales, "scales: {}", case.name);
        assert_eq!(biases, case.biases, "biases: {}", case.name);
        assert_eq!(codes, case.codes, "codes: {}", case.name);
    }
}

#[test]
fn dequantize_row_equals_mlx_bit_for_bit() {
    for case in cases() {
        let Some(dequantized) = &case.dequantized else {
            continue;
        };
        let mut values = vec![0.0; case.values.len()];
        case.affine.dequantize_row(case.float, &case.codes, &case.scales, &case.biases, &mut values).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(&bytes, dequantized, "{}", case.name);
    }
}
