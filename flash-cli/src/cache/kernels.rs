//! Cache file of kernel tunings, by processor, number of cores and instruction set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use flash_kernels::{Isa, KernelError, KernelTuning};
use serde::{Deserialize, Serialize};

/// Version of the file format, the measurement and the kernels; entries of another version are ignored.
const VERSION: u32 = 1;

/// Fields of `/proc/cpuinfo` that identify a processor.
const FIELDS: [&str; 7] =
    ["vendor_id", "model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part"];

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Keyed by processor, then by instruction set.
    processors: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    threads: NonZeroUsize,
    prefetch: String,
    strips_4_bits: bool,
    strips_8_bits: bool,
}

impl From<&KernelTuning> for Entry {
    fn from(tuning: &KernelTuning) -> Self {
        Self {
            threads: tuning.n_threads,
            prefetch: tuning.prefetch.to_string(),
            strips_4_bits: tuning.strips_4_bits,
            strips_8_bits: tuning.strips_8_bits,
        }
    }
}

impl Entry {
    /// Returns the tuning; none if the policy is unknown.
    fn tuning(&self, isa: Isa) -> Option<KernelTuning> {
        let Self { threads, ref prefetch, strips_4_bits, strips_8_bits } = *self;
        let prefetch = prefetch.parse().ok()?;
        Some(KernelTuning { isa, n_threads: threads, prefetch, strips_4_bits, strips_8_bits })
    }
}

/// Returns the tuning in `file` of this processor, or measures and stores it.
pub(super) fn find(isa: Isa, file: Option<&Path>) -> Result<KernelTuning, KernelError> {
    let processor = processor(KernelTuning::usual(isa)?.n_threads);
    match file.and_then(|file| load(file, &processor, isa)) {
        Some(tuning) => Ok(tuning),
        None => measure(isa, file),
    }
}

/// Measures the tuning of this processor, and stores it in `file`.
pub(super) fn measure(isa: Isa, file: Option<&Path>) -> Result<KernelTuning, KernelError> {
    let processor = processor(KernelTuning::usual(isa)?.n_threads);
    let tuning = KernelTuning::measure(isa)?;
    tracing::debug!(?tuning, "kernels were measured");
    if let Some(file) = file
        && let Err(error) = store(file, &processor, &tuning)
    {
        // They are measured again next time.
        tracing::debug!(file = %file.display(), %error, "the tuning of the kernels was not cached");
    }
    Ok(tuning)
}

fn load(file: &Path, processor: &str, isa: Isa) -> Option<KernelTuning> {
    read(file)?.processors.get(processor)?.get(isa.name())?.tuning(isa)
}

fn read(file: &Path) -> Option<Content> {
    let content: Content = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    (content.version == VERSION).then_some(content)
}

/// Adds an entry. The file is replaced, so that no other process reads half of it.
fn store(file: &Path, processor: &str, tuning: &KernelTuning) -> io::Result<()> {
    let mut content = read(file).unwrap_or(Content { version: VERSION, ..Content::default() });
    let entries = content.processors.entry(processor.to_owned()).or_default();
    entries.insert(tuning.isa.name().to_owned(), tuning.into());
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(&mut new, &content)?;
    new.write_all(b"\n")?;
    new.persist(file)?;
    Ok(())
}

/// Returns the name of the processor and of what the system says identifies it, and the cores that are used of it.
fn processor(n_cores: NonZeroUsize) -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    format!("{}, {n_cores} cores", identity(&text))
}

/// Returns the distinct values of the identifying fields: big and little cores have different ones.
fn identity(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut seen = BTreeSet::new();
    let values: Vec<_> = lines
        .map(|(field, value)| (field.trim(), value.trim()))
        .filter(|(field, _)| FIELDS.contains(field))
        .filter(|line| seen.insert(*line))
        .map(|(_, value)| value)
        .collect();
    values.join(" ")
}

#[cfg(test)]
mod tests {
    use flash_kernels::Prefetch;

    use super::*;

    fn tuning() -> KernelTuning {
        KernelTuning { n_threads: NonZeroUsize::MIN, ..KernelTuning::usual(Isa::Portable).unwrap() }
    }

    #[test]
    fn a_tuning_is_loaded_for_its_processor_and_instruction_set() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new folder").join("kernels.json");
        let other = KernelTuning { prefetch: Prefetch::Far, strips_4_bits: true, ..tuning() };
        store(&file, "a", &tuning()).unwrap();
        store(&file, "b", &other).unwrap();
        assert_eq!(load(&file, "a", Isa::Portable), Some(tuning()));
        assert_eq!(load(&file, "b", Isa::Portable), Some(other));
        assert_eq!(load(&file, "c", Isa::Portable), None);
        assert_eq!(load(&file, "a", Isa::best()), None);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_invalid_or_older_file_is_ignored_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kernels.json");
        store(&file, "a", &tuning()).unwrap();
        let good = fs::read_to_string(&file).unwrap();
        let broken = [
            String::new(),
            good.replace("near", "somewhere"),
            good.replace("\"version\": 1", "\"version\": 0"),
            good.replace("\"threads\": 1", "\"threads\": 0"),
        ];
        for text in broken {
            assert_ne!(text, good);
            fs::write(&file, &text).unwrap();
            assert_eq!(load(&file, "a", Isa::Portable), None, "{text}");
            store(&file, "a", &tuning()).unwrap();
            assert_eq!(load(&file, "a", Isa::Portable), Some(tuning()));
        }
    }

    #[test]
    fn a_tuning_is_measured_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kernels.json");
        let measured = find(Isa::best(), Some(&file)).unwrap();
        let entry = Entry { strips_8_bits: !measured.strips_8_bits, ..Entry::from(&measured) };
        let changed = entry.tuning(Isa::best()).unwrap();
        store(&file, &processor(KernelTuning::usual(Isa::best()).unwrap().n_threads), &changed).unwrap();
        assert_eq!(find(Isa::best(), Some(&file)).unwrap(), changed, "the stored one");
        assert!(find(Isa::best(), Some(Path::new("/dev/null/kernels.json"))).is_ok(), "not stored");
    }

    #[test]
    fn processors_are_identified_by_their_name_and_big_and_little_cores_together() {
        let zen =
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\nmodel name\t: EPYC\nflags\t\t: sse";
        assert_eq!(identity(&format!("{zen}\n\n{zen}")), "AuthenticAMD 1 EPYC");
        let arm =
            "CPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";
        assert_eq!(identity(arm), "0x41 0xd05 0xd0b");
        assert_eq!(identity(""), "");
    }
}
