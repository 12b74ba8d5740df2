//! `bellwether rollback assess`: looks at what runs now, and takes it back when a hard criterion fails.
//!
//! It works alone, without NATS, beside no rollout. Looking, judging and the driver are other rooms',
//! handed in by whoever calls. What this one adds is the order: look, judge, choose, write down, act,
//! prove. A process may be killed at any of them; the next one finishes what was begun.

mod journal;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::assessment::{Glance, Health, Judge, Looks, Round};
use bellwether_protocol::id::{AgentId, CriterionName, Region, Release, Role};
use bellwether_protocol::plan::{Criterion, ENTER_WITHIN, Plan, Set, SetTo, Validators};
use bellwether_protocol::time::Span;
use bellwether_runtime::{AgentConfig, Lever, act_alone};

use crate::args::{Mesh, now};
use crate::assess::journal::{Journal, Move};
use crate::assess::show::Shown;
use crate::error::VerbError;
use crate::plan;

/// Most looks of one assessment: whoever wants more wants a rollout.
const LOOKS_MAX: u32 = 100;

/// Take a release back by hand or from CI, without a mesh
#[derive(Debug, clap::Subcommand)]
pub enum RollbackVerb {
    /// Look at what runs now; take it back when a hard criterion of the plan fails
    Assess(AssessArgs),
}

/// What is assessed, and what may be done about it.
#[derive(Debug, clap::Args)]
pub struct AssessArgs {
    /// The plan: what is looked at, and what must hold
    plan: PathBuf,
    /// The file of the rollback agent that holds the release
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Look as the probe agent of this file does: its control target, what it may look at, its certificates
    #[arg(long, value_name = "FILE")]
    pub probe: Option<PathBuf>,
    /// Only this region; give it once for each
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<Region>,
    /// How often to look
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOOKS_MAX)))]
    looks: u32,
    /// How long between two looks
    #[arg(long, default_value = "5s")]
    every: Span,
    /// Only say what would be done
    #[arg(long, conflicts_with = "emergency")]
    check_only: bool,
    /// Do not look first: roll back at once
    #[arg(long)]
    emergency: bool,
    /// Override a duration of the plan, such as `slot=60s`
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// What became of a release.
enum End {
    /// Its looks were all good.
    AllWell,
    /// It would be taken back.
    WouldRollBack,
    /// It was, and that was seen to help.
    RolledBack,
    /// It looked bad, and not enough to act.
    Undecided,
    /// It could not be looked at.
    NoData,
    /// It should have been taken back, and was not.
    Failed(String),
    /// It was, and that did not help.
    NotBetter(String),
    /// It was, and what came of that could not be seen.
    Blind(String),
}

impl AssessArgs {
    /// Looks, judges, and acts with one of `levers`. `look` can do looks of these `kinds`.
    ///
    /// # Errors
    /// When the files do not fit together, or this machine does not let us write down what we do.
    pub async fn run(
        &self,
        mesh: &Mesh,
        validators: &Validators,
        (agent, levers): (AgentConfig, Vec<Lever>),
        judge: Judge,
        kinds: &[&str],
        look: impl AsyncFn(Glance<'_>) -> Result<Round, String>,
    ) -> Result<u8, VerbError> {
        let text = plan::read(&self.plan, mesh.json)?;
        let plan = plan::checked(&self.plan, &text, &self.overrides, validators, mesh.json)?;
        let regions = self.regions(&plan)?;
        let (plan, unseen) = seen_by(kinds, plan);
        let lever = release_lever(&plan, levers)?;
        let looks = (judge.looks)(&plan, &regions);
        if looks.is_empty() {
            return Err(VerbError::Assess("no hard criterion of the plan can be judged by a few looks".to_owned()));
        }
        let journal = Journal::open(&agent.state_dir, &lever)?;
        let shown = Shown::new(mesh.json, &lever, regions.clone(), unseen);
        let id = AgentId { region: agent.region, role: Role::Rollback, name: agent.name };
        let mut work = Work { args: self, plan, regions, lever, id, looks, judge, journal, shown, look };
        let end = work.run().await?;
        Ok(work.shown.end(&end))
    }

    fn regions(&self, plan: &Plan) -> Result<Vec<Region>, VerbError> {
        match self.regions.iter().find(|region| !plan.regions.contains_key(region)) {
            Some(unknown) => Err(VerbError::Assess(format!("the plan has no region `{unknown}`"))),
            None if self.regions.is_empty() => Ok(plan.regions.keys().cloned().collect()),
            None => Ok(self.regions.clone()),
        }
    }
}

/// The plan without the criteria on what cannot be looked at here, and the names of the hard ones among them.
fn seen_by(kinds: &[&str], mut plan: Plan) -> (Plan, Vec<CriterionName>) {
    let is_seen = |criterion: &Criterion| plan.sli(&criterion.sli).is_some_and(|sli| kinds.contains(&&*sli.kind));
    let (seen, unseen): (Vec<_>, Vec<_>) = plan.criteria.iter().cloned().partition(is_seen);
    plan.criteria = seen;
    (plan, unseen.into_iter().filter(|criterion| criterion.hard).map(|criterion| criterion.name).collect())
}

fn release_lever(plan: &Plan, levers: Vec<Lever>) -> Result<Lever, VerbError> {
    let wrong = |text: String| VerbError::Assess(text);
    let name =
        plan.release_lever().ok_or_else(|| wrong("no lever of the plan has `holds_release: true`".to_owned()))?;
    let found = levers.into_iter().find(|lever| lever.service == plan.service && lever.name == *name);
    found.ok_or_else(|| wrong(format!("the agent's file has no lever `{name}` of `{}`", plan.service)))
}

/// One assessment, under way.
struct Work<'a, L> {
    args: &'a AssessArgs,
    plan: Plan,
    regions: Vec<Region>,
    lever: Lever,
    id: AgentId,
    looks: Looks,
    judge: Judge,
    journal: Journal,
    shown: Shown,
    look: L,
}

impl<L: AsyncFn(Glance<'_>) -> Result<Round, String>> Work<'_, L> {
    async fn run(&mut self) -> Result<End, VerbError> {
        let begun = self.journal.begun();
        if !self.args.check_only
            && let Some(begun) = begun
        {
            self.shown
                .say(&format!("an earlier run began to go back from {} to {}: finishing that", begun.from, begun.to));
            return self.take_back(begun).await;
        }
        if !self.args.emergency {
            match self.assess().await? {
                Health::Well => return Ok(End::AllWell),
                Health::NoData => return Ok(End::NoData),
                Health::Undecided => return Ok(End::Undecided),
                Health::Bad => {}
            }
        }
        match self.choose().await {
            Ok(chosen) => {
                self.shown.chosen(&chosen);
                if self.args.check_only { Ok(End::WouldRollBack) } else { self.take_back(chosen).await }
            }
            Err(why) if self.args.check_only => {
                self.shown.say(&why);
                Ok(End::WouldRollBack)
            }
            Err(why) => Ok(End::Failed(why)),
        }
    }

    async fn assess(&mut self) -> Result<Health, VerbError> {
        let mut rounds = Vec::new();
        for number in 0..self.args.looks {
            if number > 0 {
                tokio::time::sleep(self.args.every.to_std()).await;
            }
            rounds.push(self.round().await.map_err(VerbError::Assess)?);
        }
        let assessment = (self.judge.assess)(&self.plan, &self.regions, &rounds, self.args.every);
        self.shown.assessed(&assessment, self.args.looks, self.args.every);
        Ok(assessment.health)
    }

    async fn round(&self) -> Result<Round, String> {
        let (service, looks, at, slot) = (&self.plan.service, &self.looks, now(), self.args.every);
        (self.look)(Glance { service, looks, at, slot }).await
    }

    /// From what runs now to the last release before it that was not itself taken back.
    async fn choose(&self) -> Result<Move, String> {
        let driver = &self.lever.driver;
        let reading = limited(driver.read_back()).await.map_err(|why| format!("the lever cannot be read: {why}"))?;
        let history = limited(driver.history()).await.map_err(|why| format!("its history cannot be read: {why}"))?;
        let held = reading.value.and_then(|value| value.as_str().parse::<Release>().ok());
        // While its targets do not agree, what came last is what is being brought out.
        let from = held.or_else(|| history.first().cloned()).ok_or("it has no release and no history")?;
        let is_good = |release: &&Release| **release != from && !self.journal.was_taken_back(release);
        match history.iter().find(is_good) {
            Some(to) => Ok(Move { from, to: to.clone() }),
            None => Err(format!("the history of `{}` holds no release before {from} to go back to", self.lever.name)),
        }
    }

    async fn take_back(&mut self, chosen: Move) -> Result<End, VerbError> {
        self.journal.begin(&chosen)?;
        // A release is at most as long and as printable as a lever value, so this always parses.
        let to = chosen.to.as_str().parse()?;
        let acted = act_alone(&self.lever, &self.id, self.journal.ledger(), to, self.within()).await;
        let result = acted.map_err(|source| self.journal.broken(source))?;
        self.shown.acted(&result);
        match result.outcome {
            ActionOutcome::Done => {}
            ActionOutcome::Refused | ActionOutcome::Expired => {
                self.journal.end(None)?;
                return Ok(End::Failed(format!("the driver says {}", result.outcome)));
            }
            // It may still happen: whoever comes next must look, and finish it.
            ActionOutcome::Partial | ActionOutcome::Unknown => {
                return Ok(End::Failed(format!("the driver says {}", result.outcome)));
            }
        }
        let end = self.prove(&chosen.to).await;
        if !matches!(end, End::Blind(_)) {
            self.journal.end(Some(chosen.from))?;
        }
        Ok(end)
    }

    /// Looks until enough rounds in a row were good, on the release that should be back.
    async fn prove(&mut self, to: &Release) -> End {
        let (green, within) = (self.plan.take_back.green.max(1), self.plan.take_back.within.max(1));
        let (mut streak, mut seen, mut last) = (0, 0, String::new());
        for _ in 0..within {
            tokio::time::sleep(self.args.every.to_std()).await;
            let round = match self.round().await {
                Ok(round) => round,
                Err(why) => return End::Blind(why),
            };
            let said = (self.judge.assess)(&self.plan, &self.regions, std::slice::from_ref(&round), self.args.every);
            seen += u32::from(said.health != Health::NoData);
            let first = said.judgements.first().map(|judgement| judgement.criterion.to_string()).unwrap_or_default();
            last = match said.health {
                Health::Well if self.shows(&round, to) => String::new(),
                Health::Well => format!("the answers do not name {to}"),
                Health::NoData => "too little was seen".to_owned(),
                Health::Bad | Health::Undecided => format!("{first} was bad"),
            };
            streak = if last.is_empty() { streak + 1 } else { 0 };
            if streak == green {
                self.shown.proven(green);
                return End::RolledBack;
            }
        }
        let missing = format!("of {within} more looks no {green} in a row were good; in the last one {last}");
        if seen == 0 { End::Blind(missing) } else { End::NotBetter(missing) }
    }

    /// Whether the answers name the release, where the plan says how it is read, and no other one.
    fn shows(&self, round: &Round, to: &Release) -> bool {
        let mut named = round.iter().flat_map(|(_, sample)| &sample.portions).filter_map(|part| part.release.as_ref());
        let is_named = self.plan.fingerprint.is_none() || named.clone().next().is_some();
        is_named && named.all(|release| release == to)
    }

    /// How long the plan gives the release to be back.
    fn within(&self) -> Span {
        let levels = self.plan.take_back.levels.iter();
        let brings = |set: &&Set| set.lever == self.lever.name && set.to == SetTo::Previous;
        let own = levels.filter(|level| level.set.iter().any(|set| brings(&set))).map(|level| level.apply_within);
        own.max().unwrap_or(ENTER_WITHIN)
    }
}

/// How long a platform may take to say where a lever stands.
const READ_WITHIN: Duration = Duration::from_secs(15);

async fn limited<T, E: ToString>(reading: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(READ_WITHIN, reading).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {} s", READ_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;

    use super::*;

    #[test]
    fn what_other_agents_look_at_is_left_out_by_name() {
        let text = "
service: shop
regions: { east: 'http://127.0.0.1:1' }
slis: [{ name: site, http: { path: / } }, { name: queue, gauge: { query: depth } }]
criteria:
  - { name: errors, sli: site, must: no errors, hard: true }
  - { name: depth, sli: queue, must: depth < 100, hard: true }
  - { name: slow, sli: queue, must: p95 < 1s }
stages: [{ name: all, soak: 1h }]
";
        let (plan, _) = read_plan("plan.yaml", text, &[], &Validators::new()).expect("a plan");
        let (plan, unseen) = seen_by(&["http"], plan);
        let names = |criteria: Vec<&CriterionName>| criteria.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(plan.criteria.iter().map(|criterion| &criterion.name).collect()), ["errors"]);
        assert_eq!(names(unseen.iter().collect()), ["depth"]);
    }
}
