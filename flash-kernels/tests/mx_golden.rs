//! [`Mx`] against what MLX itself computes: `goldens/mx.json`, made by `goldens/make_mx.py`.

use flash_kernels::Mx;
use serde_json::Value;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn dequantize_row_equals_mlx_bit_for_bit() {
    let golden: Value = serde_json::from_str(include_str!("goldens/mx.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let bytes = |key: &str| unhex(case[key].as_str().unwrap());
        let format = match case["mode"].as_str().unwrap() {
            "mxfp4" => Mx::Fp4,
            "mxfp8" => Mx::Fp8,
            "nvfp4" => Mx::Nv4,
            other => panic!("unknown mode {other}"),
        };
        let wanted: Vec<f32> = bytes("values").as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let mut values = vec![0.0_f32; wanted.len()];
        format.dequantize_row(&bytes("codes"), &bytes("scales"), &mut values).unwrap();
        for (idx, (value, wanted)) in values.iter().zip(wanted).enumerate() {
            // A NaN is one, whatever its bits.
            let same = value.to_bits() == wanted.to_bits() || (value.is_nan() && wanted.is_nan());
            assert!(same, "{format:?}, value {idx}: {value:e} for {wanted:e}");
        }
    }
}
