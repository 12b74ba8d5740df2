//! `bellwether backtest`: shows what a plan would have decided. The deciding is the coordinator's.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use bellwether_protocol::backtest::{Decision, Event, Outcome};
use bellwether_protocol::id::{Ordinal, RolloutId};
use bellwether_protocol::plan::{Plan, Validators};
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::reason::Reason;
use bellwether_protocol::time::Timestamp;

use crate::args::Mesh;
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::plan;
use crate::render::{hold_words, reason_event};
use crate::verb::Judge;

/// Decide on samples that were seen before: what would this plan have done, and when?
#[derive(Debug, clap::Args)]
pub struct BacktestArgs {
    /// The plan
    plan: PathBuf,
    /// JSON lines: {"at", "sli", "cohort", "region", "n", "bad"}, or "value", or "buckets"
    #[arg(long, value_name = "FILE")]
    samples: PathBuf,
    /// Judge with another error budget than the plan's, such as 5%
    #[arg(long, value_name = "RATIO")]
    alpha: Option<Ratio>,
    /// Override a duration, such as `slot=60s`
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// A samples file that is open, and what to do with it.
pub struct Asked<'a> {
    /// The plan, checked.
    pub plan: &'a Plan,
    /// The name of the samples file.
    pub name: &'a str,
    /// The samples.
    pub samples: BufReader<File>,
    /// Whether every look is to be told.
    pub with_looks: bool,
    /// Is told everything on the way, and may break off.
    pub tell: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
}

impl BacktestArgs {
    /// Opens the files, and shows what the judge makes of them.
    ///
    /// # Errors
    /// When a file cannot be read, or the plan is refused; then its findings were shown.
    pub(crate) fn show(&self, mesh: &Mesh, validators: &Validators, judge: &Judge) -> Result<u8, VerbError> {
        let text = plan::read(&self.plan, mesh.json)?;
        let plan = plan::checked(&self.plan, &text, &self.overrides, validators, mesh.json)?;
        let plan = Plan { alpha: self.alpha.unwrap_or(plan.alpha), ..plan };
        let wrong = |source| VerbError::File { doing: "read", path: self.samples.clone(), source };
        let samples = BufReader::new(File::open(&self.samples).map_err(wrong)?);
        let mut shown = Shown::new(mesh, &plan);
        let name = self.samples.display().to_string();
        let mut tell = |event: Event<'_>| shown.tell(&event);
        let asked = Asked { plan: &plan, name: &name, samples, with_looks: mesh.json, tell: &mut tell };
        let decision = (judge.backtest)(asked).map_err(VerbError::Samples)?;
        Ok(shown.end(decision.as_ref()))
    }
}

/// Shows a backtest as it goes.
struct Shown<'a> {
    mesh: &'a Mesh,
    rollout: RolloutId,
    out: BufWriter<std::io::Stdout>,
}

impl<'a> Shown<'a> {
    /// Nothing was shown yet.
    fn new(mesh: &'a Mesh, plan: &Plan) -> Self {
        let rollout = RolloutId { service: plan.service.clone(), number: 1 };
        Self { mesh, rollout, out: BufWriter::new(std::io::stdout()) }
    }

    /// Shows one event; breaks off when nobody reads any more.
    fn tell(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        let shown = match event {
            Event::Looks(looks) => looks.iter().try_for_each(|look| {
                serde_json::to_writer(&mut self.out, look)?;
                self.out.write_all(b"\n")
            }),
            // In JSON the looks say it all.
            Event::Reason(..) if self.mesh.json => Ok(()),
            Event::Reason(at, reason) => self.reason(*at, reason),
        };
        if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn reason(&mut self, at: Timestamp, reason: &Reason) -> std::io::Result<()> {
        // Nothing is moved: what would be asked of levers belongs to a rollout.
        if matches!(reason, Reason::Asked { .. } | Reason::TakingBack { .. } | Reason::Ended { .. }) {
            return Ok(());
        }
        writeln!(self.out, "{}", reason_event(at, Ordinal(0), reason, self.mesh.look()).long(&self.rollout))
    }

    /// Shows how it ended. The exit code is that of a rollout that ended so.
    fn end(mut self, decision: Option<&Decision>) -> u8 {
        let _ = self.out.flush();
        let Some(decision) = decision else { return exit::UNKNOWN };
        if self.mesh.json {
            outln!("{}", serde_json::json!(decision));
        } else {
            for (why, (count, first)) in &decision.rejected {
                let lines = if *count == 1 { "line" } else { "lines" };
                eprintln!("warning: {count} {lines} rejected, the first at {first}: {why}");
            }
            outln!("{}", sentence(decision));
        }
        match decision.decision {
            Outcome::Completed => exit::DONE,
            Outcome::Held => exit::HELD,
            Outcome::TakenBack => exit::TAKEN_BACK,
        }
    }
}

fn sentence(decision: &Decision) -> String {
    let at = decision.at.seconds();
    let stage = decision.stage.as_ref().map(ToString::to_string).unwrap_or_default();
    match (decision.decision, &decision.judgement) {
        (Outcome::Completed, _) => format!("COMPLETED at {at}: every stage would have been left"),
        (Outcome::TakenBack, Some(judgement)) => {
            let numbers = &judgement.numbers;
            let region = judgement.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
            format!(
                "TAKEN BACK from {stage} at {at}: {} {} ({} of {}){region}, limit {}",
                judgement.criterion, numbers.value, numbers.bad, numbers.n, numbers.limit
            )
        }
        (Outcome::TakenBack, None) => format!("TAKEN BACK from {stage} at {at}"),
        (Outcome::Held, _) => {
            let holds: Vec<String> = decision.holds.iter().map(hold_words).collect();
            let why = if holds.is_empty() { "its soak was not over".to_owned() } else { holds.join("; ") };
            format!("HELD in {stage} when the samples ended, {at}: {why}")
        }
    }
}
