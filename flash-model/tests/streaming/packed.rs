//! Experts that are packed as rows of one tensor.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use flash_convert::{Member, PackPlan, PackedLayer};
use flash_io::{HeaderFault, IoError, IoMode};
use flash_model::{Checkpoint, Compute, ExpertRows, ExpertTensor, Model, ModelError};

use super::families::MIXTURES;
use super::family::family;
use super::{Way, bits, prompt_of};

fn open(dir: &Path) -> Result<Model, ModelError> {
    Model::open(Checkpoint::open(dir, IoMode::Pread)?)
}

/// Packs a model, as `flash-cli pack` does.
fn pack(dir: &Path, out: &Path) {
    let model = open(dir).unwrap();
    let member = |ExpertTensor { name, tensor, idx, .. }| Member { name, tensor, idx };
    let layer = |ExpertRows { name, experts, .. }| PackedLayer {
        name,
        experts: experts.into_iter().map(|tensors| tensors.into_iter().map(member).collect()).collect(),
    };
    let layers: Vec<_> = model.expert_rows().unwrap().into_iter().map(layer).collect();
    let plan = PackPlan::new(dir, &layers).unwrap();
    plan.run(out, &mut |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn packing_experts_changes_no_bit() {
    for name in MIXTURES {
        let (dir, vocab) = family(name);
        let packed = tempfile::tempdir().unwrap();
        pack(&dir, packed.path());
        let prompt = prompt_of(40, vocab);
        for compute in [Compute::Auto, Compute::Mlx] {
            let way = Way { compute, pinned: 0.0, chunk_bytes: 12_288, ..Way::RESIDENT };
            let bits_of = |dir: &Path| bits(&mut way.open(dir).unwrap(), &prompt, vocab).unwrap();
            assert!(bits_of(packed.path()) == bits_of(&dir), "{name}: {compute:?} differs");
        }
    }
}

/// Returns the error of a packed model in whose file and configuration `from` is replaced by `to`, which has the same
/// length.
fn packed_with(from: &str, to: &str) -> ModelError {
    assert_eq!(from.len(), to.len());
    let (dir, _) = family("qwen3_moe");
    let packed = tempfile::tempdir().unwrap();
    pack(&dir, packed.path());
    for name in ["model.safetensors", "config.json"] {
        let path = packed.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        while let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        fs::write(path, bytes).unwrap();
    }
    open(packed.path()).unwrap_err()
}

#[test]
fn malformed_rows_are_errors_that_name_the_tensor() {
    let error = packed_with("\"num_experts\": 12", "\"num_experts\": 11");
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, .. } if tensor.ends_with(".switch_mlp.packed")),
        "{error:?}"
    );
    let error = packed_with("gate_proj.weight", "gate_proj.wright");
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor.ends_with(".gate_proj.weight")),
        "{error:?}"
    );
    // The tensors of a row do not fill it.
    let error = packed_with(r#"data_offsets\":[0,"#, r#"data_offsets\":[1,"#);
    let ModelError::Rows { tensor, error: refused } = &error else { panic!("{error:?}") };
    let fault = matches!(&**refused, IoError::Header { fault: HeaderFault::SizeMismatch { .. }, .. });
    assert!(tensor.ends_with(".packed") && fault, "{error}");
}

#[test]
fn packed_experts_are_not_packed_again() {
    let (dir, _) = family("mixtral");
    let packed = tempfile::tempdir().unwrap();
    pack(&dir, packed.path());
    assert!(matches!(open(packed.path()).unwrap().expert_rows(), Err(ModelError::Packed { .. })));
}
