//! Tests of [`StreamingProxy`] around modules that flash does not know: plain mlx-rs modules.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flash_io::{Budget, IoMode, ReadAt, Reader, ReaderConfig};
use flash_model::{Bundles, Checkpoint, MachineSpeeds, ModelError, ReadOptions, Residency, StreamingProxy};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, Param};
use mlx_rs::nn::{LayerNorm, Linear};
use mlx_rs::ops::zeros;

const DIMS: i32 = 160;

/// A module with a parameter of its own and nested modules.
#[derive(Debug, ModuleParameters)]
struct Gated {
    #[param]
    gate: Param<Array>,
    #[param]
    norm: LayerNorm,
    #[param]
    proj: Linear,
}

impl Gated {
    fn unloaded() -> Self {
        let vector = || zeros::<f32>(&[DIMS]).unwrap();
        let norm = LayerNorm {
            dimensions: DIMS,
            eps: 1e-5,
            weight: Param::new(Some(vector())),
            bias: Param::new(Some(vector())),
        };
        let weight = Param::new(zeros::<f32>(&[DIMS, DIMS]).unwrap());
        Self { gate: Param::new(vector()), norm, proj: Linear { weight, bias: Param::new(None) } }
    }
}

impl Module<(&Array, f32)> for Gated {
    type Output = Array;
    type Error = Exception;

    fn forward(&mut self, (x, scale): (&Array, f32)) -> Result<Array, Exception> {
        let y = self.proj.forward(&self.norm.forward(x)?)?.multiply(&*self.gate)?;
        x.add(y.multiply(Array::from_f32(scale))?)
    }

    fn training_mode(&mut self, _: bool) {}
}

fn value(layer: usize, tensor: usize, idx: usize) -> f32 {
    ((layer * 131 + tensor * 31 + idx * 7) % 97) as f32 / 97.0 - 0.5
}

const TENSORS: [(&str, &[usize]); 4] = [
    ("gate", &[DIMS as usize]),
    ("norm.bias", &[DIMS as usize]),
    ("norm.weight", &[DIMS as usize]),
    ("proj.weight", &[DIMS as usize, DIMS as usize]),
];

fn write_model(dir: &Path, n_layers: usize) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for layer in 0..n_layers {
        for (idx, (name, shape)) in TENSORS.iter().enumerate() {
            let start = data.len();
            let values = (0..shape.iter().product()).map(|i| value(layer, idx, i));
            data.extend(values.flat_map(f32::to_le_bytes));
            let info =
                serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
            header.insert(format!("blocks.{layer}.{name}"), info);
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.join("model.safetensors"), file).unwrap();
    fs::write(dir.join("config.json"), r#"{"model_type": "of my own"}"#).unwrap();
}

fn forward(proxies: &mut [StreamingProxy<Gated>], residency: &mut Residency) -> Vec<u32> {
    let mut x = Array::from_iter((0..DIMS).map(|i| i as f32 / 10.0), &[1, DIMS]);
    for (layer, proxy) in proxies.iter_mut().enumerate() {
        x = proxy.forward(residency, (&x, layer as f32 + 0.5)).unwrap();
    }
    x.as_slice::<f32>().iter().map(|value| value.to_bits()).collect()
}

fn open(dir: &Path, n_layers: usize, budget_bytes: u64) -> (Vec<StreamingProxy<Gated>>, Residency) {
    let checkpoint = Checkpoint::open(dir, IoMode::Pread).unwrap();
    let mut bundles = Bundles::default();
    let proxies = (0..n_layers)
        .map(|layer| {
            StreamingProxy::new(
                Box::new(Gated::unloaded()),
                &format!("blocks.{layer}"),
                &checkpoint,
                &mut bundles,
            )
        })
        .collect::<Result<_, _>>()
        .unwrap();
    let budget = Budget::new(budget_bytes);
    let plan = bundles.plan(0, budget_bytes, true, &MachineSpeeds::default()).unwrap();
    let reader = Reader::new(checkpoint.catalog().shards().to_vec(), ReaderConfig::default()).unwrap();
    (proxies, Residency::new(bundles, plan, reader, &budget, ReadOptions::free(true)).unwrap())
}

#[test]
fn any_module_streams_and_gives_the_bits_of_its_own_forward() {
    const LAYERS: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), LAYERS);

    let mut x = Array::from_iter((0..DIMS).map(|i| i as f32 / 10.0), &[1, DIMS]);
    for layer in 0..LAYERS {
        let mut module = Gated::unloaded();
        let tensor = |idx: usize| {
            let shape: Vec<i32> = TENSORS[idx].1.iter().map(|&extent| extent as i32).collect();
            Array::from_iter(
                (0..shape.iter().product::<i32>()).map(|i| value(layer, idx, i as usize)),
                &shape,
            )
        };
        module.gate.value = tensor(0);
        module.norm.bias.value = Some(tensor(1));
        module.norm.weight.value = Some(tensor(2));
        module.proj.weight.value = tensor(3);
        x = module.forward((&x, layer as f32 + 0.5)).unwrap();
    }
    let wanted: Vec<u32> = x.as_slice::<f32>().iter().map(|value| value.to_bits()).collect();

    let layer_bytes = 4 * (3 * DIMS + DIMS * DIMS) as u64;
    for budget_bytes in [2 * (layer_bytes + 20_000), 3 * (layer_bytes + 20_000), 100 * layer_bytes] {
        let (mut proxies, mut residency) = open(dir.path(), LAYERS, budget_bytes);
        for _ in 0..3 {
            assert!(forward(&mut proxies, &mut residency) == wanted, "with {budget_bytes} B");
        }
        assert_eq!(residency.streamed_bytes() == 0, budget_bytes == 100 * layer_bytes);
    }
}

#[test]
fn a_parameter_of_another_shape_or_name_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), 1);
    let checkpoint = Checkpoint::open(dir.path(), IoMode::Pread).unwrap();
    let linear = |rows| {
        let (weight, bias) = (zeros::<f32>(&[rows, DIMS]).unwrap(), Param::new(None));
        Box::new(Linear { weight: Param::new(weight), bias })
    };
    let mut bundles = Bundles::default();
    let error = StreamingProxy::new(linear(7), "blocks.0.proj", &checkpoint, &mut bundles).unwrap_err();
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, .. } if tensor == "blocks.0.proj.weight"),
        "{error:?}"
    );
    let error = StreamingProxy::new(linear(7), "blocks.0.other", &checkpoint, &mut bundles).unwrap_err();
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == "blocks.0.other.weight"),
        "{error:?}"
    );
}

/// A module that keeps references to its inputs.
#[derive(Debug, ModuleParameters)]
struct Hoarder {
    #[param]
    weight: Param<Array>,
    hoard: Vec<Array>,
}

impl Module<&Array> for Hoarder {
    type Output = Array;
    type Error = Exception;

    fn forward(&mut self, x: &Array) -> Result<Array, Exception> {
        self.hoard.push(self.weight.value.clone());
        x.matmul(&*self.weight)
    }

    fn training_mode(&mut self, _: bool) {}
}

#[test]
fn a_layer_that_keeps_its_weights_is_an_error_and_not_a_hang() {
    const LAYERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), LAYERS);
    for (prefetch, n_slots) in [(true, 2), (false, 1)] {
        let checkpoint = Checkpoint::open(dir.path(), IoMode::Pread).unwrap();
        let mut bundles = Bundles::default();
        let layer = |idx: usize| {
            let weight = Param::new(zeros::<f32>(&[DIMS, DIMS]).unwrap());
            let hoarder = Box::new(Hoarder { weight, hoard: Vec::new() });
            StreamingProxy::new(hoarder, &format!("blocks.{idx}.proj"), &checkpoint, &mut bundles).unwrap()
        };
        let mut proxies: Vec<_> = (0..LAYERS).map(layer).collect();
        let floor_bytes = bundles.plan(0, u64::MAX, prefetch, &MachineSpeeds::default()).unwrap().floor_bytes;
        let plan = bundles.plan(0, floor_bytes, prefetch, &MachineSpeeds::default()).unwrap();
        assert_eq!(plan.n_slots, n_slots);
        let shards = checkpoint.catalog().shards().to_vec();
        let reader = Reader::new(shards, ReaderConfig::default()).unwrap();
        let mut residency =
            Residency::new(bundles, plan, reader, &Budget::new(floor_bytes), ReadOptions::free(prefetch))
                .unwrap();
        let x = Array::from_iter((0..DIMS).map(|i| i as f32), &[1, DIMS]);
        let mut run = |idx: usize| proxies[idx].forward(&mut residency, &x);
        for idx in 0..n_slots {
            run(idx).unwrap();
        }
        let error = run(n_slots).unwrap_err();
        assert!(
            matches!(&error, ModelError::SlotHeld { bundle } if *bundle == format!("blocks.{n_slots}.proj")),
            "{error:?}"
        );
    }
}

/// A storage whose reads beyond some offset block until they are released.
#[derive(Debug)]
struct Stalling {
    inner: Arc<dyn ReadAt>,
    from: u64,
    n_stalled: AtomicUsize,
    is_let_go: AtomicBool,
}

impl ReadAt for Stalling {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if offset >= self.from {
            self.n_stalled.fetch_add(1, Ordering::SeqCst);
            wait_until(|| self.is_let_go.load(Ordering::SeqCst));
        }
        self.inner.read_at(offset, buf)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_disk_that_stalls_is_waited_for_and_no_layer_is_blamed() {
    const LAYERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), LAYERS);
    let checkpoint = Checkpoint::open(dir.path(), IoMode::Pread).unwrap();
    let from = checkpoint.catalog().get("blocks.2.gate").unwrap().span.start;
    let inner = Arc::clone(&checkpoint.catalog().shards()[0].storage);
    let (n_stalled, is_let_go) = (AtomicUsize::new(0), AtomicBool::new(false));
    let disk = Arc::new(Stalling { inner, from, n_stalled, is_let_go });
    let checkpoint = checkpoint.map_storage(|_, _| Arc::clone(&disk) as _);
    let mut bundles = Bundles::default();
    let layer = |idx: usize| {
        let proj =
            Linear { weight: Param::new(zeros::<f32>(&[DIMS, DIMS]).unwrap()), bias: Param::new(None) };
        let name = format!("blocks.{idx}.proj");
        StreamingProxy::new(Box::new(proj), &name, &checkpoint, &mut bundles).unwrap()
    };
    let mut proxies: Vec<_> = (0..LAYERS).map(layer).collect();
    let floor_bytes = bundles.plan(0, u64::MAX, true, &MachineSpeeds::default()).unwrap().floor_bytes;
    let plan = bundles.plan(0, floor_bytes, true, &MachineSpeeds::default()).unwrap();
    assert_eq!(plan.n_slots, 2);
    let reader = Reader::new(checkpoint.catalog().shards().to_vec(), ReaderConfig::default()).unwrap();
    let budget = Budget::new(floor_bytes);
    let mut residency = Residency::new(bundles, plan, reader, &budget, ReadOptions::free(true)).unwrap();
    let x = Array::from_iter((0..DIMS).map(|i| i as f32), &[1, DIMS]);
    let mut run = |idx: usize| {
        let y: Result<Array, ModelError> = proxies[idx].forward(&mut residency, &x);
        y.map(|y| y.as_slice::<f32>().to_vec())
    };
    let first = run(0).unwrap();
    run(1).unwrap();
    // Blocked reads are filling both slots when the execution order restarts.
    wait_until(|| disk.n_stalled.load(Ordering::SeqCst) == 2);
    let again = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Longer than the timeout for a layer that holds a slot.
            std::thread::sleep(Duration::from_millis(2300));
            disk.is_let_go.store(true, Ordering::SeqCst);
        });
        run(0)
    });
    assert!(again.unwrap() == first);
}

/// A module that derives a parameter from its weights, and counts how often.
#[derive(Debug, ModuleParameters)]
struct Maker {
    #[param]
    weight: Param<Array>,
    #[param]
    turned: Param<Array>,
    n_made: usize,
}

impl Module<&Array> for Maker {
    type Output = Array;
    type Error = Exception;

    fn forward(&mut self, x: &Array) -> Result<Array, Exception> {
        if self.turned.size() == 0 {
            self.n_made += 1;
            self.turned.value = self.weight.t().contiguous()?;
        }
        let made = Array::from_f32(self.n_made as f32);
        x.matmul(&*self.turned)?.multiply(Array::from_f32(0.0))?.add(made)
    }

    fn training_mode(&mut self, _: bool) {}
}

#[test]
fn derived_parameters_live_as_long_as_the_weights() {
    const LAYERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), LAYERS);
    for is_pinned in [true, false] {
        let checkpoint = Checkpoint::open(dir.path(), IoMode::Pread).unwrap();
        let mut bundles = Bundles::default();
        let layer = |idx: usize| {
            let weight = Param::new(zeros::<f32>(&[DIMS, DIMS]).unwrap());
            let turned = Param::new(zeros::<f32>(&[0]).unwrap());
            let maker = Box::new(Maker { weight, turned, n_made: 0 });
            StreamingProxy::new(maker, &format!("blocks.{idx}.proj"), &checkpoint, &mut bundles).unwrap()
        };
        let mut proxies: Vec<_> = (0..LAYERS).map(layer).collect();
        let floor_bytes = bundles.plan(0, u64::MAX, true, &MachineSpeeds::default()).unwrap().floor_bytes;
        let budget_bytes = if is_pinned { 10 * floor_bytes } else { floor_bytes };
        let plan = bundles.plan(0, budget_bytes, true, &MachineSpeeds::default()).unwrap();
        let shards = checkpoint.catalog().shards().to_vec();
        let reader = Reader::new(shards, ReaderConfig::default()).unwrap();
        let budget = Budget::new(budget_bytes);
        let mut residency = Residency::new(bundles, plan, reader, &budget, ReadOptions::free(true)).unwrap();
        let x = Array::from_iter((0..DIMS).map(|i| i as f32), &[1, DIMS]);
        for pass in 1..4 {
            for proxy in &mut proxies {
                let made = proxy.forward(&mut residency, &x).unwrap();
                let wanted = if is_pinned { 1.0 } else { pass as f32 };
                assert_eq!(made.as_slice::<f32>()[0], wanted, "pinned: {is_pinned}");
            }
        }
    }
}
