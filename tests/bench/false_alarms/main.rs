//! How often the judge raises a false alarm, and how soon it sees a regression: the real kernels and
//! the real gates on seeded random streams. Prints tables; ends with 1 when a promise is broken.
//!
//! `STREAMS=n` sets how many healthy streams there are (default 2,000); streams with a regression
//! are a quarter to a tenth of it. Settings and reference figures are those of a simulation with
//! other software, numpy 2.4: 10 % of the traffic on the canary, traffic and errors half as much by
//! night, one look a minute.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

mod delays;
mod healthy;
mod plan;
mod streams;

use std::process::ExitCode;

/// What a table row must keep, and whether it does.
struct Claims {
    broken: Vec<String>,
}

impl Claims {
    fn check(&mut self, holds: bool, what: &str) -> &'static str {
        if !holds {
            self.broken.push(what.to_owned());
        }
        if holds { "ok" } else { "BROKEN" }
    }
}

/// The chance of a false alarm at which methods are compared.
const ALPHA: f64 = 0.05;
/// What the product spends on one of the tests of a rollout with 54 of them.
const ALPHA_SHARE: f64 = 0.01 / 54.0;

fn main() -> ExitCode {
    let streams: usize = std::env::var("STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let mut claims = Claims { broken: Vec::new() };
    println!("false alarms, {streams} healthy streams each, alpha {ALPHA}, one look a minute");
    healthy::run(streams, &mut claims);
    println!(
        "\ndelays in minutes, median / 90 %, at alpha {ALPHA} beside the reference, and at the product's share 1 %/54"
    );
    delays::run(streams, &mut claims);
    println!("\nlate onset in a soak of 48 h, delays in minutes, median / 90 %, at alpha {ALPHA}");
    delays::late(streams, &mut claims);
    println!("\na whole rollout, through the gates that decide in production");
    healthy::whole_plan(streams, &mut claims);
    for broken in &claims.broken {
        println!("BROKEN: {broken}");
    }
    println!("\n{}", if claims.broken.is_empty() { "every promise kept" } else { "promises broken" });
    ExitCode::from(u8::from(!claims.broken.is_empty()))
}

fn ln_bar(alpha: f64) -> f64 {
    -alpha.ln()
}
