//! `bench experts`: hit rates of expert cache policies on synthetic routing.
//!
//! Replays random routings of one layer under each policy, so neither a model nor a disk is needed.

use std::process::ExitCode;

use anyhow::ensure;
use flash_sched::Policy;
use flash_sched::experts::trace::{Routing, RoutingDistribution};
use serde::Serialize;

use crate::args::{BenchExpertsArgs, JsonArg};
use crate::output;
use crate::table::{Cell, left, section};

/// Cache sizes to measure, as fractions of a layer's experts.
const HELD: [f64; 4] = [0.125, 0.25, 0.5, 0.75];
/// Length of a topic in tokens.
const TOPIC_TOKENS: usize = 200;

/// Hit rates of a routing and a cache size.
#[derive(Debug, Serialize)]
struct Row {
    routing: &'static str,
    n_held: usize,
    lru: f64,
    lfu: f64,
    two_memories: f64,
    best: f64,
}

/// Limit of `--experts`, far above the experts per layer of any model.
const EXPERTS_MAX: usize = 1 << 16;
/// Limit of `--tokens`, because the routing is held in memory.
const TOKENS_MAX: usize = 10_000_000;

pub(crate) fn run(args: &BenchExpertsArgs) -> anyhow::Result<ExitCode> {
    let BenchExpertsArgs { experts, top_k, tokens, output: JsonArg { json } } = *args;
    ensure!(experts <= EXPERTS_MAX, "--experts must be at most {EXPERTS_MAX}");
    ensure!((1..=experts).contains(&top_k), "--top-k must be at least 1, and at most --experts");
    ensure!((1..=TOKENS_MAX).contains(&tokens), "--tokens must be from 1 to {TOKENS_MAX}");
    let distributions = [
        ("uniform", RoutingDistribution::Uniform),
        ("Zipf 1.0", RoutingDistribution::Zipf(1.0)),
        ("Zipf 1.5", RoutingDistribution::Zipf(1.5)),
        ("topics", RoutingDistribution::Topics { exponent: 1.2, n_tokens: TOPIC_TOKENS }),
    ];
    let mut rows = Vec::new();
    for (routing, distribution) in distributions {
        let trace = Routing::synthetic(distribution, experts, top_k, tokens, 1);
        for fraction in HELD {
            let n_held = (fraction * experts as f64) as usize;
            let rate = |policy| trace.hit_rate(n_held, policy);
            rows.push(Row {
                routing,
                n_held,
                lru: rate(Policy::Lru),
                lfu: rate(Policy::Lfu { half_life: 256.0 }),
                two_memories: rate(Policy::default()),
                best: trace.optimal_hit_rate(n_held),
            });
        }
    }
    if json {
        output::print_json(&rows)?;
    } else {
        let heading = format!("Hit rates of {tokens} tokens routed to {top_k} of {experts} experts");
        output::print(&section(&heading, &table(&rows)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> Vec<Vec<Cell>> {
    let number = |value: f64| (format!("{value:.3}"), true);
    let right = |text: &str| (text.to_owned(), true);
    let head = ["held", "LRU", "LFU", "two half-lives", "optimal", "of optimal"];
    let mut table = vec![[left("routing")].into_iter().chain(head.map(right)).collect::<Vec<_>>()];
    table.extend(rows.iter().map(|row| {
        vec![
            left(row.routing),
            right(&row.n_held.to_string()),
            number(row.lru),
            number(row.lfu),
            number(row.two_memories),
            number(row.best),
            number(row.two_memories / row.best),
        ]
    }));
    table
}
