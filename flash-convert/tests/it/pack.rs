//! Packing of mixtures of experts.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_convert::{ConvertError, Member, PackPlan, PackedLayer};
use flash_io::{Catalog, Header, IoMode, Span, Tensor, TensorInfo};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const PAGE: u64 = 4096;
/// Name of the packed tensor.
const ROWS: &str = "mlp.experts.packed";

/// A model with one layer of stacked experts and a few other tensors.
struct Model {
    dir: TempDir,
    n_experts: usize,
    stacked: BTreeMap<String, Vec<u8>>,
    others: BTreeMap<String, Vec<u8>>,
}

/// Returns pseudo-random bytes, different for each seed.
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

    fn layer(&self) -> PackedLayer {
        let members = |idx: usize| {
            let member = |tensor: &String| {
                let name = tensor.strip_prefix("mlp.experts.").unwrap().to_owned();
                Member { name, tensor: tensor.clone(), idx: Some(idx as u64) }
            };
            self.stacked.keys().map(member).collect()
        };
        PackedLayer { name: ROWS.to_owned(), experts: (0..self.n_experts).map(members).collect() }
    }

    fn pack(&self) -> PathBuf {
        let plan = PackPlan::new(&self.path(), &[self.layer()]).unwrap();
        let packed = plan.run(&self.out("packed"), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((packed.n_experts, packed.total_bytes), (self.n_experts, plan.total_bytes()));
        packed.out_dir
    }

    fn error(&self, layer: PackedLayer) -> ConvertError {
        PackPlan::new(&self.path(), &[layer]).unwrap_err()
    }
}

fn bytes_of(catalog: &Catalog, tensor: &Tensor, span: Span) -> Vec<u8> {
    let file = fs::read(&catalog.shards()[tensor.shard.0].path).unwrap();
    file[span.start as usize..span.end as usize].to_vec()
}

fn open(dir: &Path) -> Catalog {
    Catalog::open(dir, IoMode::Pread).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_expert_is_contiguous_page_aligned_and_unchanged(
        n_experts in 1usize..6,
        tensor_bytes in prop::collection::vec(1usize..9000, 1..5),
    ) {
        let model = Model::new(n_experts, &tensor_bytes);
        let catalog = open(&model.pack());
        for (name, bytes) in &model.others {
            let tensor = catalog.get(name).unwrap();
            prop_assert_eq!(&bytes_of(&catalog, tensor, tensor.span), bytes);
        }
        prop_assert_eq!(catalog.tensors().len(), model.others.len() + 1);
        let rows = catalog.get(ROWS).unwrap();
        let &[n_rows, row_bytes] = rows.shape.as_slice() else { panic!("{rows:?}") };
        prop_assert_eq!(n_rows, n_experts as u64);
        prop_assert!(rows.span.start.is_multiple_of(PAGE) && row_bytes.is_multiple_of(PAGE));

        // The description of a row is a safetensors header.
        let header = catalog.metadata()[ROWS].as_bytes();
        let data_start = 8 + header.len() as u64;
        let header = Header::parse(Path::new(ROWS), header, data_start + row_bytes).unwrap();
        let (filling, members): (Vec<TensorInfo>, Vec<_>) =
            header.tensors.into_iter().partition(|tensor| tensor.name == "filling");
        prop_assert!(filling.iter().all(|filling| filling.span.len_bytes() < PAGE));
        prop_assert_eq!(members.len(), model.stacked.len());
        for (member, ((name, stack), len)) in members.iter().zip(model.stacked.iter().zip(&tensor_bytes)) {
            prop_assert_eq!(&format!("mlp.experts.{}", member.name), name);
            prop_assert_eq!(&member.shape, &[*len as u64]);
            for idx in 0..n_experts {
                let start = rows.span.start + idx as u64 * row_bytes + member.span.start - data_start;
                let got = bytes_of(&catalog, rows, Span::new(start, start + *len as u64));
                prop_assert_eq!(&got, &stack[idx * len..][..*len]);
            }
        }
    }
}

#[test]
fn other_files_are_copied_and_hidden_ones_are_not() {
    let model = Model::new(2, &[100]);
    model.write("chat_template.jinja", b"{{ x }}");
    let out = model.pack();
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["chat_template.jinja", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(out.join("chat_template.jinja")).unwrap(), b"{{ x }}");
}

#[test]
fn missing_tensors_are_named() {
    let model = Model::new(2, &[100]);
    let mut layer = model.layer();
    layer.experts[1][0].idx = Some(2);
    let error = model.error(layer.clone()).to_string();
    assert!(error.ends_with("tensor \"mlp.experts.t0\" is missing, or it has no expert 2"), "{error}");
    layer.experts[1][0] = Member { name: "x".to_owned(), tensor: "y".to_owned(), idx: None };
    let error = model.error(layer).to_string();
    assert!(error.ends_with("tensor \"y\" is missing"), "{error}");
}

#[test]
fn two_tensors_with_one_name_are_refused() {
    let model = Model::new(2, &[100, 50]);
    let rows = PackedLayer { name: "norm".to_owned(), ..model.layer() };
    assert!(matches!(model.error(rows), ConvertError::DuplicateTensor { tensor, .. } if tensor == "norm"));
    let mut layer = model.layer();
    for members in &mut layer.experts {
        members[1].name = members[0].name.clone();
    }
    assert!(matches!(model.error(layer), ConvertError::DuplicateTensor { tensor, .. } if tensor == "t0"));
}

#[test]
fn mismatched_experts_are_refused() {
    let model = Model::new(2, &[100, 50]);
    let mut layer = model.layer();
    layer.experts[1].swap(0, 1);
    assert!(
        matches!(model.error(layer), ConvertError::ExpertMismatch { tensor, .. } if tensor == "mlp.experts.t1")
    );
    let mut layer = model.layer();
    layer.experts[1].pop();
    assert!(matches!(model.error(layer), ConvertError::ExpertMismatch { tensor, .. } if tensor == ROWS));
}

#[test]
fn an_interruption_leaves_nothing() {
    let model = Model::new(2, &[100, 10_000]);
    let plan = PackPlan::new(&model.path(), &[model.layer()]).unwrap();
    let error = plan.run(&model.out("packed"), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted { .. }), "{error}");
    let left = fs::read_dir(model.dir.path()).unwrap().count();
    assert_eq!(left, 1, "the model");
}
