//! Continues a prompt under a memory budget: `generate MODEL_DIR BUDGET_MIB PROMPT`.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use flash_io::IoMode;
use flash_model::{Checkpoint, EngineOptions, GenerateOptions, Model, Workload, generate, memory};
use flash_text::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(budget_mib), Some(prompt)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: generate MODEL_DIR BUDGET_MIB PROMPT".into());
    };
    memory::bound_allocators();
    let dir = PathBuf::from(dir);
    let model = Model::open(Checkpoint::open(&dir, IoMode::Direct)?)?;
    let tokenizer = Tokenizer::open(&dir)?;
    let prompt = tokenizer.encode_prompt(&prompt)?;
    let workload = Workload::new(prompt.len(), prompt.len() + 64);
    let budget_bytes = budget_mib.parse::<u64>()? << 20;
    let mut engine = model.load(&EngineOptions::new(budget_bytes, workload))?;
    let options = GenerateOptions::new(64);
    let generation = generate(&mut engine, &tokenizer, &prompt, &options, |text| {
        let mut stdout = io::stdout();
        let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
        written.expect("standard output is open");
    })?;
    let (stats, resident) = (engine.stats(), memory::resident());
    writeln!(io::stderr(), "\n{:?} tokens/s, {resident:?}, {stats:#?}", generation.decode_tok_per_s())?;
    Ok(())
}
