//! What a record says in the words of CDEvents 0.5.1, for those who know nothing of rollouts.
//!
//! Made of the log alone, so that any coordinator makes the same events of the same record, with the
//! same ids: a restart doubles none. A rollout is a pipeline run, an entry into a stage is a task run
//! in it. What CDEvents has no word for, such as a gate, a pause or a flag, is not told here; 0.5.1
//! has none for approvals, and `incident.reported` needs a ticket, which is somebody else's.

use bellwether_decide::Rollout;
use bellwether_decide::state::Phase;
use bellwether_protocol::alert::{Alert, IncidentKind, Severity};
use bellwether_protocol::cdevent::{
    CDEVENTS_VERSION, CdEvent, Content, Context, CustomData, Reference, RunOutcome, Subject,
};
use bellwether_protocol::id::{Entry, Region, Release, StageName};
use bellwether_protocol::plan::{SetTo, Stage};
use bellwether_protocol::reason::{Cause, Ending, Reason};
use bellwether_protocol::record::Record;

/// The events of one record. `before` and `after` are the service's rollout around it.
pub fn events(record: &Record, before: Option<&Rollout>, after: Option<&Rollout>) -> Vec<CdEvent> {
    let mut teller = Teller { record, rollout: before, entered: before.and_then(entered), told: Vec::new() };
    for reason in &record.reasons {
        if matches!(reason, Reason::Started { .. }) {
            (teller.rollout, teller.entered) = (after, None);
        }
        teller.reason(reason);
    }
    for alert in &record.alerts {
        let own = [after, before].into_iter().flatten().find(|rollout| rollout.id == alert.incident.rollout);
        (teller.rollout, teller.entered) = (own, own.and_then(entered));
        teller.alert(alert);
    }
    teller.told
}

/// The stage that a rollout is in, and the number of its entry.
fn entered(rollout: &Rollout) -> Option<(StageName, Entry)> {
    let is_in = matches!(rollout.phase, Phase::Entering { .. } | Phase::Settling { .. } | Phase::Soaking);
    rollout.stage_name().filter(|_| is_in).map(|stage| (stage, rollout.entry))
}

struct Teller<'a> {
    record: &'a Record,
    rollout: Option<&'a Rollout>,
    entered: Option<(StageName, Entry)>,
    told: Vec<CdEvent>,
}

impl Teller<'_> {
    fn reason(&mut self, reason: &Reason) {
        let Some(rollout) = self.rollout else { return };
        match reason {
            Reason::Started { .. } => self.run("pipelinerun.started", None, None),
            Reason::StageEntered { stage, entry } => {
                self.entered = Some((stage.clone(), *entry));
                self.task("taskrun.started", None);
            }
            Reason::Looking { stage, .. } => {
                let stage = rollout.plan.stages.iter().find(|own| own.name == *stage);
                if let Some(stage) = stage.filter(|stage| moves(stage) && !rollout.is_shadow) {
                    let kind = if rollout.previous().is_some() { "service.upgraded" } else { "service.deployed" };
                    self.service(kind, &stage.regions, &rollout.release);
                }
            }
            Reason::StagePassed { .. } => self.leave(RunOutcome::Success),
            Reason::TakingBack { cause: Cause::Command { .. }, .. } => self.leave(RunOutcome::Cancel),
            Reason::TakingBack { .. } => self.leave(RunOutcome::Failure),
            Reason::Applied { seen, .. } => self.service("service.rolledback", &all(rollout), seen),
            Reason::Ended { ending, summary } => {
                let outcome = outcome(*ending);
                self.leave(outcome);
                if *ending == Ending::Completed && !rollout.is_shadow {
                    let content = Content::Published { environment: environment(&all(rollout)) };
                    self.tell("service.published", rollout.id.service.to_string(), content);
                }
                let errors = (outcome != RunOutcome::Success).then(|| summary.clone());
                self.run("pipelinerun.finished", Some(outcome), errors);
            }
            _ => {}
        }
    }

    fn alert(&mut self, alert: &Alert) {
        let kind = match alert.kind {
            IncidentKind::Opened => "incident.detected",
            IncidentKind::Resolved => "incident.resolved",
            IncidentKind::Updated => return,
        };
        // Neither a person that is waited for nor an end that was wished for is an incident.
        if alert.severity == Severity::Info || alert.incident.cause.as_str() == APPROVAL {
            return;
        }
        let everywhere = || self.rollout.map(all).unwrap_or_default();
        let regions = if alert.regions.is_empty() { everywhere() } else { alert.regions.clone() };
        let content = Content::Incident {
            description: alert.headline.clone(),
            environment: environment(&regions),
            service: Reference { id: alert.service.to_string() },
            artifact_id: artifact(alert.service.as_str(), &alert.release),
        };
        self.tell(kind, alert.incident.to_string(), content);
    }

    fn run(&mut self, kind: &str, outcome: Option<RunOutcome>, errors: Option<String>) {
        let Some(id) = self.rollout.map(|rollout| rollout.id.clone()) else { return };
        let uri = format!("bellwether:rollout/{id}");
        let content = Content::PipelineRun { pipeline_name: id.service.to_string(), uri, outcome, errors };
        self.tell(kind, id.to_string(), content);
    }

    fn task(&mut self, kind: &str, outcome: Option<RunOutcome>) {
        let (Some(rollout), Some((stage, entry))) = (self.rollout, &self.entered) else { return };
        let (task_name, pipeline_run) = (stage.to_string(), Reference { id: rollout.id.to_string() });
        let subject = format!("{}/{stage}/{entry}", rollout.id);
        self.tell(kind, subject, Content::TaskRun { task_name, pipeline_run, outcome });
    }

    /// The stage that is on, if one is, is over.
    fn leave(&mut self, outcome: RunOutcome) {
        self.task("taskrun.finished", Some(outcome));
        self.entered = None;
    }

    fn service(&mut self, kind: &str, regions: &[Region], release: &Release) {
        let service = self.record.service.to_string();
        let artifact_id = artifact(&service, release);
        self.tell(kind, service, Content::Service { environment: environment(regions), artifact_id });
    }

    fn tell(&mut self, kind: &str, subject: String, content: Content) {
        let Record { service, ordinal, now, .. } = self.record;
        let Some(rollout) = self.rollout else { return };
        // Which mesh it is of is added on its way out.
        let (id, source) = (format!("{service}/{ordinal}/{}", self.told.len()), String::new());
        let kind = format!("dev.cdevents.{kind}.{VERSION}");
        self.told.push(CdEvent {
            context: Context {
                specversion: CDEVENTS_VERSION.to_owned(),
                id,
                source: source.clone(),
                kind,
                timestamp: *now,
                chain_id: rollout.id.to_string(),
            },
            subject: Subject { id: subject, source, content },
            custom_data: CustomData {
                record: *ordinal,
                release: rollout.release.clone(),
                previous: rollout.previous().cloned(),
                stage: self.entered.as_ref().map(|(stage, _)| stage.clone()),
                shadow: rollout.is_shadow,
            },
            custom_data_content_type: "application/json".to_owned(),
        });
    }
}

/// The cause of an alert that asks for an approval.
const APPROVAL: &str = "approval";
/// The version of every kind of event that is told.
const VERSION: &str = "0.3.0";

/// Whether a stage moves anything; running a command moves nothing.
fn moves(stage: &Stage) -> bool {
    stage.enter.iter().any(|set| set.to != SetTo::Run)
}

fn all(rollout: &Rollout) -> Vec<Region> {
    rollout.plan.regions.keys().cloned().collect()
}

fn environment(regions: &[Region]) -> Reference {
    Reference { id: regions.iter().map(Region::as_str).collect::<Vec<_>>().join("+") }
}

/// A package URL. Of a release we know no more than its name.
fn artifact(service: &str, release: &Release) -> String {
    let mut version = String::new();
    for byte in release.as_str().bytes() {
        match byte {
            b'.' | b'-' | b'_' | b'~' => version.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => version.push(char::from(byte)),
            byte => version.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("pkg:generic/{service}@{version}")
}

fn outcome(ending: Ending) -> RunOutcome {
    match ending {
        Ending::Aborted | Ending::Superseded => RunOutcome::Cancel,
        Ending::Completed => RunOutcome::Success,
        Ending::NotStarted | Ending::NotTakenBack => RunOutcome::Error,
        Ending::RolledBack | Ending::WouldTakeBack => RunOutcome::Failure,
    }
}
