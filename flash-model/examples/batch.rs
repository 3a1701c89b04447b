//! Answers three prompts at once, and prints them as they are generated: `batch MODEL_DIR BUDGET_MIB`.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::thread;

use flash_io::IoMode;
use flash_model::{
    Batch, BatchOptions, Checkpoint, EngineOptions, GenerateOptions, Model, Request, Workload,
};
use flash_text::Tokenizer;

const PROMPTS: [&str; 3] = ["The capital of France is", "Once upon a time", "The sea is deep because"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(mib)) = (args.next().map(PathBuf::from), args.next()) else {
        return Err("usage: batch MODEL_DIR BUDGET_MIB".into());
    };
    let budget_bytes = mib.parse::<u64>()? << 20;
    let tokenizer = Tokenizer::open(&dir)?;
    let prompts = PROMPTS.map(|prompt| tokenizer.encode_prompt(prompt));
    let workload = Workload::new(64, 128).with_contexts(PROMPTS.len());
    let load = move || {
        let model = Model::open(Checkpoint::open(&dir, IoMode::Direct)?)?;
        model.load(&EngineOptions::new(budget_bytes, workload))
    };
    let batch = Batch::start(load, tokenizer, BatchOptions::default())?;
    thread::scope(|scope| {
        for (idx, prompt) in prompts.into_iter().enumerate() {
            let answer = batch.submit(Request::new(prompt?, GenerateOptions::new(40)));
            scope.spawn(move || {
                for text in answer {
                    writeln!(std::io::stdout(), "{idx}: {text:?}").expect("standard output is open");
                }
            });
        }
        Ok(())
    })
}
