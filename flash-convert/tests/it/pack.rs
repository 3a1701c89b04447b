//! Mixtures of experts, copied so that each expert lies in one place.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_convert::{ConvertError, Member, PackPlan, SHARD_BYTES_DEFAULT};
use flash_io::{Catalog, IoMode, Tensor};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const PAGE: u64 = 4096;

/// A model of one layer, whose experts have tensors of so many bytes each.
struct Model {
    dir: TempDir,
    n_experts: usize,
    stacked: BTreeMap<String, Vec<u8>>,
    others: BTreeMap<String, Vec<u8>>,
}

/// What a tensor holds; no two begin alike.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed as u64);
    (0..len).map(|_| rng.u8(..)).collect()
}

impl Model {
    fn new(n_experts: usize, tensor_bytes: &[usize]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        let of =
            |(idx, bytes): (usize, &usize)| (format!("mlp.experts.t{idx}"), noise(idx, n_experts * bytes));
        let stacked = tensor_bytes.iter().enumerate().map(of).collect();
        let others = [("norm", 10), ("embed", 5000), ("empty", 0)];
        let others = others.into_iter().map(|(name, bytes)| (name.to_owned(), noise(bytes, bytes))).collect();
        let model = Self { dir, n_experts, stacked, others };
        model.write("config.json", b"{}");
        model.write(".hidden", b"");
        model.write_tensors();
        model
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    fn write_tensors(&self) {
        let view = |shape, bytes| TensorView::new(Dtype::U8, shape, bytes).unwrap();
        let stacked = self.stacked.iter().map(|(name, bytes)| {
            (name, view(vec![self.n_experts, bytes.len() / self.n_experts], bytes.as_slice()))
        });
        let others =
            self.others.iter().map(|(name, bytes)| (name, view(vec![bytes.len()], bytes.as_slice())));
        self.write("model.safetensors", &safetensors::serialize(stacked.chain(others), None).unwrap());
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name(tensor: &str, expert_idx: usize) -> String {
        tensor.replace("experts.", &format!("experts.{expert_idx}."))
    }

    fn experts(&self) -> Vec<Vec<Member>> {
        let members = |idx: usize| {
            let member = |tensor: &String| {
                let name = Self::name(tensor, idx);
                Member { name, tensor: tensor.clone(), idx: Some(idx as u64) }
            };
            self.stacked.keys().map(member).collect()
        };
        (0..self.n_experts).map(members).collect()
    }

    /// Those of the copy, which are in no stack any more.
    fn packed_experts(&self) -> Vec<Vec<Member>> {
        let mut experts = self.experts();
        for member in experts.iter_mut().flatten() {
            (member.tensor, member.idx) = (member.name.clone(), None);
        }
        experts
    }

    fn pack(&self, shard_bytes: u64) -> PathBuf {
        let plan = PackPlan::new(&self.path(), &self.experts(), shard_bytes).unwrap();
        let packed = plan.run(&self.out("packed"), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(packed.n_experts, self.n_experts);
        packed.out_dir
    }

    fn error(&self, experts: &[Vec<Member>]) -> ConvertError {
        PackPlan::new(&self.path(), experts, SHARD_BYTES_DEFAULT).unwrap_err()
    }
}

fn bytes_of(catalog: &Catalog, tensor: &Tensor) -> Vec<u8> {
    let file = fs::read(&catalog.shards()[tensor.shard.0].path).unwrap();
    file[tensor.span.start as usize..tensor.span.end as usize].to_vec()
}

fn open(dir: &Path) -> Catalog {
    Catalog::open(dir, IoMode::Pread).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_expert_is_in_one_place_that_begins_at_a_page_and_no_byte_is_another(
        n_experts in 1usize..6,
        tensor_bytes in prop::collection::vec(1usize..9000, 1..5),
        shard_bytes in prop::sample::select(vec![1, 20_000, SHARD_BYTES_DEFAULT]),
    ) {
        let model = Model::new(n_experts, &tensor_bytes);
        let catalog = open(&model.pack(shard_bytes));
        for (name, bytes) in &model.others {
            prop_assert_eq!(&bytes_of(&catalog, catalog.get(name).unwrap()), bytes);
        }
        for idx in 0..n_experts {
            let tensors: Vec<&Tensor> =
                model.stacked.keys().map(|name| catalog.get(&Model::name(name, idx)).unwrap()).collect();
            prop_assert!(tensors[0].span.start.is_multiple_of(PAGE));
            for pair in tensors.windows(2) {
                prop_assert_eq!((pair[0].shard, pair[0].span.end), (pair[1].shard, pair[1].span.start));
            }
            for (tensor, (stack, len)) in tensors.iter().zip(model.stacked.values().zip(&tensor_bytes)) {
                prop_assert_eq!(&bytes_of(&catalog, tensor), &stack[idx * len..][..*len]);
                prop_assert_eq!(&tensor.shape, &[*len as u64]);
            }
        }
        // Nothing else but what fills pages, and no tensor of all experts is left.
        let fills = |tensor: &&Tensor| tensor.name.ends_with(".filling");
        let n_members = n_experts * tensor_bytes.len() + model.others.len();
        prop_assert_eq!(catalog.tensors().filter(|tensor| !fills(tensor)).count(), n_members);
    }
}

#[test]
fn other_files_are_copied_and_hidden_ones_are_not() {
    let model = Model::new(2, &[100]);
    model.write("chat_template.jinja", b"{{ x }}");
    let out = model.pack(SHARD_BYTES_DEFAULT);
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["chat_template.jinja", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(out.join("chat_template.jinja")).unwrap(), b"{{ x }}");
}

#[test]
fn a_copy_of_a_copy_is_the_same() {
    let model = Model::new(3, &[100, 5000]);
    let out = model.pack(SHARD_BYTES_DEFAULT);
    let plan = PackPlan::new(&out, &model.packed_experts(), SHARD_BYTES_DEFAULT).unwrap();
    let again = plan.run(&model.out("again"), &mut |_| ControlFlow::Continue(())).unwrap().out_dir;
    let read = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(read(&out) == read(&again));
}

#[test]
fn tensors_that_are_not_there_are_named() {
    let model = Model::new(2, &[100]);
    let mut experts = model.experts();
    experts[1][0].idx = Some(2);
    let error = model.error(&experts).to_string();
    assert!(error.ends_with("tensor \"mlp.experts.t0\" is missing, or it has no expert 2"), "{error}");
    experts[1][0] = Member { name: "x".to_owned(), tensor: "y".to_owned(), idx: None };
    let error = model.error(&experts).to_string();
    assert!(error.ends_with("tensor \"y\" is missing"), "{error}");
}

#[test]
fn two_tensors_with_one_name_are_refused() {
    let model = Model::new(2, &[100]);
    let mut experts = model.experts();
    experts[0][0].name = "norm".to_owned();
    assert!(matches!(model.error(&experts), ConvertError::Twice { tensor, .. } if tensor == "norm"));
}

#[test]
fn an_interruption_leaves_nothing() {
    let model = Model::new(2, &[100, 10_000]);
    let plan = PackPlan::new(&model.path(), &model.experts(), SHARD_BYTES_DEFAULT).unwrap();
    let error = plan.run(&model.out("packed"), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted { .. }), "{error}");
    let left = fs::read_dir(model.dir.path()).unwrap().count();
    assert_eq!(left, 1, "the model");
}
