//! Formats the results of a comparison as Markdown tables, for docs/performance.md.

use comfy_table::{Table, presets};

use super::passes::Passes;
use super::samples::{Samples, digits};

/// One program's measurements of one model.
#[derive(Debug, Default)]
pub struct Column {
    pub name: &'static str,
    /// Tokens per second.
    pub decode: Samples,
    /// Tokens per second, one entry per prompt length.
    pub prefill: Vec<Samples>,
    /// Tokens per second of all clients together, one entry per number of clients.
    pub clients: Vec<Samples>,
    /// Bytes of weights that a decoded token reads.
    pub token_bytes: u64,
}

impl Column {
    pub fn new(name: &'static str, passes: &Passes) -> Self {
        let samples = |n: usize| (0..n).map(|_| Samples::default()).collect();
        let (prefill, clients) = (samples(passes.prompts.len()), samples(passes.clients.len()));
        Self { name, prefill, clients, ..Self::default() }
    }

    fn weights_gb_per_s(&self) -> f64 {
        self.decode.median() * self.token_bytes as f64 / 1e9
    }
}

/// Formats columns side by side, with the ratios of the last column, which is ours, to each of the others.
pub fn table(columns: &[Column], passes: &Passes, memory: &Samples) -> Table {
    let Passes { n_tokens, prompts, clients, .. } = passes;
    let Some((ours, others)) = columns.split_last() else { return Table::new() };
    let ratios = |samples: &dyn Fn(&Column) -> f64| {
        others.iter().map(|other| format!("{:.2}×", samples(ours) / samples(other))).collect::<Vec<_>>()
    };
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let mut header = vec![String::new()];
    header.extend(columns.iter().map(|column| column.name.to_owned()));
    header.extend(others.iter().map(|other| format!("{} ÷ {}", ours.name, other.name)));
    table.set_header(header);

    let mut rate = |what: String, samples: &dyn Fn(&Column) -> &Samples| {
        let mut row = vec![what];
        row.extend(columns.iter().map(|column| samples(column).to_string()));
        row.extend(ratios(&|column| samples(column).median()));
        table.add_row(row);
    };
    rate(format!("decode of {n_tokens}, tok/s"), &|column| &column.decode);
    for (i, prompt) in prompts.iter().enumerate() {
        rate(format!("prefill of {prompt}, tok/s"), &|column| &column.prefill[i]);
    }
    for (i, n) in clients.iter().enumerate() {
        rate(format!("tokens of {n} clients, tok/s"), &|column| &column.clients[i]);
    }
    let mut row = vec!["weights read by decode, GB/s".to_owned()];
    row.extend(columns.iter().map(|column| digits(column.weights_gb_per_s())));
    table.add_row(row);
    let mut row = vec!["of memory bandwidth".to_owned()];
    let percent = |column: &Column| 100.0 * column.weights_gb_per_s() / memory.median();
    row.extend(columns.iter().map(|column| format!("{:.0} %", percent(column))));
    table.add_row(row);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes() -> Passes {
        Passes { n_tokens: 64, depth: 0, prompts: vec![128], clients: vec![4] }
    }

    fn column(name: &'static str, decode: f64, prefill: f64) -> Column {
        let mut column = Column::new(name, &passes());
        column.clients[0].push(2.0 * decode);
        column.decode.push(decode);
        column.prefill[0].push(prefill);
        column.token_bytes = 2_000_000_000;
        column
    }

    #[test]
    fn ratios_are_ours_to_theirs() {
        let mut memory = Samples::default();
        memory.push(40.0);
        let columns = [column("theirs", 10.0, 100.0), column("ours", 5.0, 150.0)];
        let text = table(&columns, &passes(), &memory).to_string();
        let cells: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(cells[0], ["theirs", "ours", "ours ÷ theirs"]);
        assert_eq!(cells[2], ["decode of 64, tok/s", "10.0", "5.00", "0.50×"]);
        assert_eq!(cells[3], ["prefill of 128, tok/s", "100", "150", "1.50×"]);
        assert_eq!(cells[4], ["tokens of 4 clients, tok/s", "20.0", "10.0", "0.50×"]);
        assert_eq!(cells[5], ["weights read by decode, GB/s", "20.0", "10.0"]);
        assert_eq!(cells[6], ["of memory bandwidth", "50 %", "25 %"]);
    }
}
