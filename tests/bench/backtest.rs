//! How long a backtest of a large rollout takes. Prints it; it asserts nothing about time.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Instant;

use bellwether_coordinator::backtest::{Samples, backtest};
use bellwether_protocol::plan::read_plan;
use bellwether_protocol::time::{Span, Timestamp};

const SLOT: Span = Span::from_secs(30);
/// 48 hours of half minutes.
const SLOTS: u64 = 5_760;

/// 48 hours, 20 criteria on 5 SLIs, 10 regions, a slot each half minute.
fn main() {
    let mut plan = "service: api\ngrace: 10s\nlevers: { release: { holds_release: true } }\nregions:\n".to_owned();
    let mut samples = String::new();
    for region in 0..10 {
        let _ = writeln!(plan, "  r{region}: 'https://r{region}.example'");
    }
    plan.push_str("slis:\n");
    for sli in 0..5 {
        let _ = writeln!(plan, "  - {{ name: s{sli}, every: 1s, http: {{}} }}");
    }
    plan.push_str("criteria:\n");
    for criterion in 0..20 {
        let (sli, max) = (criterion % 5, 1 + criterion / 5);
        let _ = writeln!(plan, "  - {{ name: c{criterion}, ratio: {{ sli: s{sli}, max: {max}% }}, hard: true }}");
    }
    plan.push_str("stages: [{ name: canary, soak: 48h, enter: [{ set: release, to: '{release}' }] }]\n");
    let start = Timestamp::from_ms(1_800_000_000_000);
    for slot in 0..SLOTS {
        let at = (start + SLOT.times(slot)).seconds();
        for region in 0..10 {
            for sli in 0..5 {
                let bad = (slot + region * 7 + sli) % 11 / 10;
                let _ = writeln!(
                    samples,
                    "{{\"at\":\"{at}\",\"sli\":\"s{sli}\",\"region\":\"r{region}\",\"n\":360,\"bad\":{bad}}}"
                );
            }
        }
    }
    let (plan, _) = read_plan("api.yaml", &plan, &[], &Default::default()).expect("a plan");
    let began = Instant::now();
    let read = Samples::read("samples", samples.as_bytes(), &plan).expect("samples");
    let reading = began.elapsed();
    let decision = backtest(&plan, &read, false, |_| ControlFlow::Continue(())).expect("a decision");
    println!(
        "\nbacktest of 48 h, 20 criteria, 10 regions, 30 s: {:.2} s ({} lines read in {:.2} s), {:?}",
        began.elapsed().as_secs_f64(),
        read.lines,
        reading.as_secs_f64(),
        decision.decision,
    );
}
