//! `options`.

use crate::config::Limits;
use crate::dialect::settings;
use crate::json::{Fields, Invalid, Json};
use crate::request::{GenerateRequest, Sampling};

/// Options that cannot change the output: where and how fast it is computed, and what is kept when a context is shifted,
/// which never happens here.
const IGNORED: [&str; 11] = [
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_keep",
    "use_mmap",
    "use_mlock",
    "numa",
    "low_vram",
    "f16_kv",
    "vocab_only",
];

/// Reads `options` into a request.
pub(super) fn read(
    fields: &mut Fields,
    limits: &Limits,
    request: &mut GenerateRequest,
) -> Result<(), Invalid> {
    let Some(mut options) = fields.object("options")? else { return Ok(()) };
    request.sampling = Sampling {
        repetition_penalty: settings::repetition_penalty(&mut options, "repeat_penalty")?,
        repetition_window: repetition_window(&mut options)?,
        seed: options.integer("seed")?.filter(|&seed| seed >= 0).map(i64::cast_unsigned),
        ..settings::sampling(&mut options)?
    };
    request.stop = settings::stops(&mut options, "stop", limits)?;
    request.max_tokens = num_predict(&mut options, limits)?;
    request.context_tokens = options.count("num_ctx", 1, usize::MAX)?;
    // Samplers that would change the output, with the values at which they do nothing.
    let (zero, one) = (|| [0_u32.into(), 0.0.into()], || [1_u32.into(), 1.0.into()]);
    options.only("mirostat", &zero())?;
    if options.take("mirostat_tau").is_some() || options.take("mirostat_eta").is_some() {
        tracing::debug!("settings of mirostat without it");
    }
    options.only("typical_p", &one())?;
    options.only("tfs_z", &one())?;
    options.only("penalize_newline", &[Json::Bool(true)])?;
    options.finish(&IGNORED)
}

/// Reads how many recent tokens are penalized; 0 for none, -1 for the whole context.
fn repetition_window(options: &mut Fields) -> Result<Option<usize>, Invalid> {
    let Some(window) = options.integer("repeat_last_n")? else { return Ok(None) };
    match usize::try_from(window) {
        Ok(window) => Ok(Some(window)),
        Err(_) if window == -1 => Ok(Some(usize::MAX)),
        Err(_) => Err(options.invalid("repeat_last_n", format!("must be at least -1, not {window}"))),
    }
}

/// Reads the limit of generated tokens; -1 and -2 mean what fits.
fn num_predict(options: &mut Fields, limits: &Limits) -> Result<Option<usize>, Invalid> {
    let Some(n_tokens) = options.integer("num_predict")? else { return Ok(None) };
    match usize::try_from(n_tokens) {
        Ok(n_tokens) if (1..=limits.max_tokens).contains(&n_tokens) => Ok(Some(n_tokens)),
        Err(_) if matches!(n_tokens, -1 | -2) => Ok(None),
        _ => {
            let problem = format!("must be -1, -2 or between 1 and {}, not {n_tokens}", limits.max_tokens);
            Err(options.invalid("num_predict", problem))
        }
    }
}
