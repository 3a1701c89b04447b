//! The kernels of `flash-kernels` as nodes of MLX's graph. Those that follow each other are one ([`chain`]).

mod attention;
mod chain;
mod experts;
mod gate;
mod heads;
mod norm;
mod paged;
mod product;
mod program;
mod recurrent;
mod sum;

use flash_kernels::FloatType;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

pub(super) use attention::attend;
pub(super) use chain::Promise;
pub(super) use experts::{add_rows, expert_rows};
pub(super) use gate::gated;
pub(super) use heads::product_each;
pub(super) use norm::rms_norm;
pub(super) use product::{add_product, gated_product, product, products, squared_relu_product};
pub(super) use recurrent::{gated_delta, mamba2};
pub(super) use sum::sum;

fn float_type(array: &Array) -> Result<FloatType, Exception> {
    match array.dtype() {
        Dtype::Float32 => Ok(FloatType::F32),
        Dtype::Float16 => Ok(FloatType::F16),
        Dtype::Bfloat16 => Ok(FloatType::BF16),
        other => Err(Exception::custom(format!("no kernel multiplies {other:?}"))),
    }
}

fn expect(holds: bool, what: &'static str) -> Result<(), Exception> {
    if holds { Ok(()) } else { Err(Exception::custom(format!("a kernel was given no {what}"))) }
}
