//! Reads all tensors of one layer of a model: `cargo run -p flash-io --example read_layer -- MODEL_DIR
//! model.layers.0.`

use std::sync::Arc;

use flash_io::{Budget, BundleLayout, Catalog, IoMode, Reader, ReaderConfig, Slot};

#[expect(clippy::print_stdout, reason = "an example prints its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model_dir = args.next().ok_or("usage: read_layer MODEL_DIR [PREFIX]")?;
    let prefix = args.next().unwrap_or_else(|| String::from("model.layers.0."));

    let catalog = Catalog::open(model_dir.as_ref(), IoMode::Pread)?;
    let layer: Vec<_> = catalog.tensors().filter(|tensor| tensor.name.starts_with(&prefix)).collect();
    let spans: Vec<_> = layer.iter().map(|tensor| (tensor.shard, tensor.span)).collect();
    let bundle = Arc::new(BundleLayout::new(&spans));
    let slot = Slot::unpooled(&Budget::new(1 << 30), bundle.slot_bytes())?;
    let reader = Reader::new(catalog.shards().to_vec(), ReaderConfig::default())?;
    let slot = reader.submit(&bundle, slot).wait()?;

    for (i, tensor) in layer.iter().enumerate() {
        let bytes = &slot[bundle.tensor_offset(i)..][..tensor.span.len_bytes() as usize];
        println!(
            "{:60} {:5} {:?} begins with {:02x?}",
            tensor.name,
            tensor.dtype,
            tensor.shape,
            &bytes[..bytes.len().min(4)]
        );
    }
    let (n_extents, stats) = (bundle.extents().len(), reader.stats());
    println!(
        "{} B of {n_extents} extents in {} chunks, {:?} in reads",
        stats.bytes, stats.chunks, stats.busy
    );
    Ok(())
}
