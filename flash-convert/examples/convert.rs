//! Converts a GGUF file: `cargo run --release --example convert -- MODEL.gguf OUT_DIR [TARGET]`, where TARGET is `keep`
//! (the default), `f32`, `f16`, `bf16`, or bits and group size as in `4/64`.
#![expect(clippy::print_stdout, reason = "an example program")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;

use flash_convert::{Conversion, SHARD_BYTES_DEFAULT, Target};
use flash_kernels::FloatType;

const USAGE: &str = "usage: convert MODEL.gguf OUT_DIR [keep|f32|f16|bf16|BITS/GROUP_SIZE]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let gguf = PathBuf::from(args.next().ok_or(USAGE)?);
    let out_dir = PathBuf::from(args.next().ok_or(USAGE)?);
    let target = match args.next() {
        Some(target) => parse(target.to_str().ok_or(USAGE)?)?,
        None => Target::Keep,
    };

    let model = Conversion::open(&gguf)?;
    let plan = model.plan(target, SHARD_BYTES_DEFAULT)?;
    for tensor in plan.lossy() {
        println!("{}: {} becomes {}", tensor.name, tensor.from, tensor.becomes);
    }
    let report = plan.run(&out_dir, &mut |_progress| ControlFlow::Continue(()))?;
    println!(
        "{}: {} tensors, {} B in {} file(s)",
        report.out_dir.display(),
        report.tensors.len(),
        report.total_bytes,
        report.n_shards
    );
    Ok(())
}

fn parse(target: &str) -> Result<Target, Box<dyn Error>> {
    Ok(match target {
        "keep" => Target::Keep,
        "f32" => Target::Dense(FloatType::F32),
        "f16" => Target::Dense(FloatType::F16),
        "bf16" => Target::Dense(FloatType::BF16),
        _ => {
            let (bits, group_size) = target.split_once('/').ok_or(USAGE)?;
            Target::Quantize { bits: bits.parse()?, group_size: group_size.parse()? }
        }
    })
}
