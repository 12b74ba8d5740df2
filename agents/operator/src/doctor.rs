//! `bellwether doctor`: what is wrong with the mesh, and what would mend it. It changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_bus::{Bus, Syncs};
use bellwether_protocol::id::{AgentId, Region, Role};
use bellwether_protocol::presence::{LeverReading, Presence, Stuck};
use bellwether_protocol::status::Status;
use bellwether_protocol::time::Timestamp;
use serde::Serialize;

use crate::agents::{Seen, seen, stuck};
use crate::args::{Mesh, now};
use crate::error::{VerbError, exit, told};
use crate::out::outln;
use crate::render::{Line, Style, count, span};
use crate::rollout::statuses;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Agents of this region alone
    #[arg(long)]
    region: Option<Region>,
    /// Checks alone whose kind or words hold this, such as `levers` or an agent's name
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Monitoring port of NATS, which tells whether every write is synced; such as http://127.0.0.1:8222
    #[arg(long, env = "BELLWETHER_NATS_MONITOR", value_name = "URL")]
    nats_monitor: Option<String>,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Ok,
    Unknown,
    Wrong,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    kind: &'static str,
    mark: Mark,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(kind: &'static str, said: impl Into<String>) -> Self {
        Self { kind, mark: Mark::Ok, said: said.into(), fix: None }
    }

    fn wrong(kind: &'static str, said: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { kind, mark: Mark::Wrong, said: said.into(), fix: Some(fix.into()) }
    }

    fn unknown(kind: &'static str, said: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { mark: Mark::Unknown, ..Self::wrong(kind, said, fix) }
    }
}

/// What was found out about the mesh.
#[derive(Debug)]
struct Facts {
    server: (String, String),
    /// How many streams and buckets there must be, and what is wrong.
    assets: (usize, Vec<String>),
    syncs: Syncs,
    /// Who is there, and who fell silent.
    seen: Vec<Seen>,
    /// Why nothing is decided, if so.
    stuck: Option<Stuck>,
    /// Where the last rollout of each service stands.
    rollouts: Vec<Status>,
    now: Timestamp,
}

/// A clock that is further off than this disturbs what people compare, though not what is decided.
const CLOCK_OFFSET_MS_MAX: i64 = 1_000;
/// Messages that wait on an agent's disk in an ordinary minute.
const SPOOLED_MAX: u64 = 100;

/// Looks at the mesh. Ends with 0 when all is well, 2 when something must be mended, 4 when something
/// could not be told.
///
/// # Errors
/// When NATS answers nothing more, or `--only` names no check.
pub(crate) async fn doctor(mesh: &Mesh, args: &DoctorArgs) -> Result<u8, VerbError> {
    let checks = match mesh.connect().await {
        Ok(bus) => checks(&facts(&bus, args).await?, args.region.as_ref()),
        Err(error @ VerbError::Connect(_)) => {
            let fix = error.hint();
            let said = told(anyhow::Error::from(error).chain());
            vec![Check { kind: "nats", mark: Mark::Wrong, said, fix }]
        }
        Err(error) => return Err(error),
    };
    let checks = chosen(checks, args.only.as_deref())?;
    let (text, code) = verdict(&checks);
    if mesh.json {
        outln!("{}", serde_json::json!({ "checks": checks, "exit": code }));
        return Ok(code);
    }
    let look = mesh.look();
    for line in checks.iter().flat_map(|check| lines(check, look.ascii)) {
        outln!("{}", line.paint(look, usize::MAX));
    }
    outln!("{text}");
    Ok(code)
}

async fn facts(bus: &Bus, args: &DoctorArgs) -> Result<Facts, VerbError> {
    let (needed, wrong) = bus.look_over().await;
    let wrong = wrong.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect();
    // Without streams there is nobody to be heard either, and their absence is told.
    Ok(Facts {
        server: bus.server(),
        assets: (needed, wrong),
        syncs: bus.syncs(args.nats_monitor.as_deref()).await,
        seen: seen(bus).await.unwrap_or_default(),
        stuck: stuck(bus).await.unwrap_or_default(),
        rollouts: statuses(bus).await.unwrap_or_default(),
        now: now(),
    })
}

fn checks(facts: &Facts, region: Option<&Region>) -> Vec<Check> {
    let of = |agent: &AgentId| region.is_none_or(|region| agent.region == *region);
    let (silent, all): (Vec<&Seen>, Vec<&Seen>) = facts.seen.iter().partition(|one| one.silent_since.is_some());
    let here: Vec<&Presence> = all.iter().map(|one| &one.said).filter(|said| of(&said.agent)).collect();
    let mut checks = vec![nats(facts), synced(&facts.syncs), coordinators(&all, facts)];
    checks.extend(
        region.filter(|_| !facts.seen.iter().any(|one| of(&one.said.agent))).map(|region| nobody(region, facts)),
    );
    checks.extend(unwatched(facts, region));
    checks.extend(silent.into_iter().filter(|one| of(&one.said.agent)).map(|one| fell_silent(one, facts.now)));
    checks.extend(clocks(&here));
    checks.extend(refusals(&here));
    checks.extend(levers(&here));
    checks.extend(alerts(&all));
    checks.extend(spools(&here));
    checks.extend(versions(&here));
    checks
}

fn nats(facts: &Facts) -> Check {
    let ((_, version), (needed, wrong)) = (&facts.server, &facts.assets);
    match wrong.as_slice() {
        [] => {
            let said =
                format!("NATS {version}, JetStream on, {needed} of {needed} streams and buckets read back as written");
            Check::ok("nats", said)
        }
        [first, ..] => Check::wrong(
            "nats",
            format!("NATS {version}: {} of {needed} streams and buckets are not as they must be; {first}", wrong.len()),
            "start a coordinator, which makes them and sets what it may",
        ),
    }
}

fn synced(syncs: &Syncs) -> Check {
    let fix = "jetstream { sync_interval: always }, restart nats-server";
    match syncs {
        Syncs::No(why) => Check::wrong("sync", format!("{why}: a power cut can lose an acknowledged decision"), fix),
        Syncs::Unknown(why) => Check::unknown("sync", why, "--nats-monitor http://HOST:8222 shows it"),
        Syncs::Yes => Check::ok("sync", "every write is synced before it is acknowledged"),
    }
}

fn coordinators(here: &[&Seen], Facts { stuck, now, .. }: &Facts) -> Check {
    if let Some(Stuck { since, what, why, fix }) = stuck {
        let said = format!("{what} for {}: {why}; nothing is decided", span(now.since(*since)));
        return Check::wrong("coordinators", said, fix);
    }
    let n = here.iter().filter(|one| one.said.agent.role == Role::Coordinator).count();
    match n {
        0 => Check::wrong(
            "coordinators",
            "no coordinator is here: nothing is decided",
            "bellwether coordinator --dir DIR",
        ),
        1 => Check::ok("coordinators", "1 coordinator is here; with a second one, another decides when it dies"),
        n => Check::ok("coordinators", format!("{n} coordinators are here")),
    }
}

/// Regions that a running rollout looks at, and in which nobody is there to look.
fn unwatched<'a>(facts: &'a Facts, region: Option<&'a Region>) -> impl Iterator<Item = Check> + 'a {
    let running = facts.rollouts.iter().filter(|status| status.ending.is_none());
    let regions = running.flat_map(|status| status.regions.iter().map(move |own| (status, own)));
    let left =
        regions.filter(move |(_, own)| own.agents_live == 0 && region.is_none_or(|region| own.region == *region));
    left.map(|(status, own)| {
        let since = own.silent_since.map(|at| format!(" for {}", span(facts.now.since(at)))).unwrap_or_default();
        let said = format!("{}: nobody looks in {}{since}; {} holds", status.rollout, own.region, status.release);
        let fix = format!(
            "start `bellwether agent probe` there, or: bellwether command exclude {} region {} --reason TEXT --until 2h",
            status.rollout.service, own.region
        );
        Check::wrong("agents", said, fix)
    })
}

fn fell_silent(one: &Seen, now: Timestamp) -> Check {
    let Presence { agent, version, .. } = &one.said;
    let since = one.silent_since.map(|at| span(now.since(at))).unwrap_or_default();
    let said = format!("{} ({} {version}) silent for {since}", name(&one.said), agent.role);
    let fix = "look at its machine and its log there, and start it again; if it is gone for good, it is forgotten after a day";
    Check::unknown("agents", said, fix)
}

fn clocks(here: &[&Presence]) -> Vec<Check> {
    let off: Vec<Check> = here
        .iter()
        .filter(|presence| presence.clock_offset_ms.abs() > CLOCK_OFFSET_MS_MAX)
        .map(|presence| {
            let said = format!("{}: its clock is {:+}ms from that of NATS", name(presence), presence.clock_offset_ms);
            Check::wrong("clocks", said, "set that machine's clock: chrony or systemd-timesyncd")
        })
        .collect();
    let worst = here.iter().map(|presence| presence.clock_offset_ms).max_by_key(|offset| offset.abs());
    match worst {
        Some(worst) if off.is_empty() => {
            vec![Check::ok("clocks", format!("{} within {}ms of NATS", processes(here.len()), worst.abs()))]
        }
        _ => off,
    }
}

/// Looks that an agent refused, and what it cannot measure.
fn refusals(here: &[&Presence]) -> Vec<Check> {
    let watching =
        here.iter().flat_map(|presence| presence.watching.iter().map(move |(service, w)| (presence, service, w)));
    watching
        .flat_map(|(presence, service, watching)| {
            let refused = watching.refused.iter().map(move |why| {
                if presence.agent.role == Role::Trigger {
                    let said = format!("{} for {service}: {why}", name(presence));
                    return Check::unknown("triggers", said, "start it by hand, if it is still wanted");
                }
                let said = format!("{} refuses to look at {service}: {why}", name(presence));
                Check::wrong("looks", said, "its own configuration says what it may look at, such as `probe.allow`")
            });
            let gaps = watching.gaps.iter().map(move |gap| {
                let said = format!("{} cannot measure {} of {service}: {}", name(presence), gap.sli, gap.why);
                Check::unknown("looks", said, "mend the source; until then it is no data, and holds")
            });
            refused.chain(gaps).collect::<Vec<_>>()
        })
        .collect()
}

/// Credentials are shown by what they can read.
fn levers(here: &[&Presence]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut read = 0_usize;
    for (presence, reading) in
        here.iter().flat_map(|one| one.levers.values().flatten().map(move |reading| (one, reading)))
    {
        let LeverReading { lever, value, .. } = reading;
        let hand = presence.hands.values().find_map(|hands| hands.get(lever));
        match (value, hand.and_then(|hand| hand.error.as_ref())) {
            (Some(_), _) => read += 1,
            (None, Some(error)) => {
                let does = hand.map(|hand| hand.does.as_str()).unwrap_or_default();
                let said = format!("{}: lever {lever}, read-back says: {error}", name(presence));
                let fix = format!("look at its commands and credentials there ({does}); then: doctor --only {lever}");
                checks.push(Check::wrong("levers", said, fix));
            }
            (None, None) => {
                let said = format!("{}: lever {lever}, its targets do not agree", name(presence));
                checks.push(Check::unknown("levers", said, "wait for what moves it; then bellwether agents list"));
            }
        }
    }
    if read > 0 {
        checks
            .insert(0, Check::ok("levers", format!("{read} {} read back", if read == 1 { "lever" } else { "levers" })));
    }
    checks
}

/// That a region has no agent; mistyped, it would look as if all were well in it.
fn nobody(region: &Region, facts: &Facts) -> Check {
    let regions: BTreeSet<&str> = facts.seen.iter().map(|one| one.said.agent.region.as_str()).collect();
    let regions = regions.into_iter().collect::<Vec<_>>().join(", ");
    let said = format!("no agent of {region} was heard within a day; regions that were: {regions}");
    Check::wrong("agents", said, format!("bellwether agents invite --role probe --region {region}, or name another"))
}

/// In whichever region: each tells of all.
fn alerts(here: &[&Seen]) -> Option<Check> {
    let n = here.iter().filter(|one| one.said.agent.role == Role::Alert).count();
    Some(match n {
        0 => Check::wrong("alerts", "no alert agent is here: nobody is told", "bellwether agent alert --config FILE"),
        n => Check::ok(
            "alerts",
            format!(
                "{n} alert {} here; what its bridges deliver: bellwether alert test --config FILE",
                if n == 1 { "agent" } else { "agents" }
            ),
        ),
    })
}

fn spools(here: &[&Presence]) -> Vec<Check> {
    let full = here.iter().filter(|presence| presence.spooled > SPOOLED_MAX);
    full.map(|presence| {
        let said = format!("{}: {} messages wait on its disk", name(presence), count(presence.spooled));
        Check::unknown("spools", said, "look at its link to NATS; it sends them by itself, with their times")
    })
    .collect()
}

fn versions(here: &[&Presence]) -> Option<Check> {
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    here.iter().for_each(|presence| versions.entry(&presence.version).or_default().push(name(presence)));
    let newest = versions.keys().next_back().copied()?;
    let older: Vec<String> =
        versions.iter().filter(|(version, _)| **version != newest).flat_map(|(_, names)| names.clone()).collect();
    (!older.is_empty()).then(|| {
        let said = format!("{} not on {newest}: {}", processes(older.len()), older.join(", "));
        Check::unknown("versions", said, "bring them to one version when no rollout is on")
    })
}

fn processes(n: usize) -> String {
    if n == 1 { "1 process".to_owned() } else { format!("{n} processes") }
}

fn name(presence: &Presence) -> String {
    format!("{}/{}", presence.agent.region, presence.agent.name)
}

/// The checks that were asked for.
fn chosen(checks: Vec<Check>, only: Option<&str>) -> Result<Vec<Check>, VerbError> {
    let Some(only) = only.map(str::to_lowercase) else { return Ok(checks) };
    let kinds: BTreeSet<&str> = checks.iter().map(|check| check.kind).collect();
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
    let is_meant = |check: &Check| check.kind.contains(&only) || check.said.to_lowercase().contains(&only);
    let checks: Vec<Check> = checks.into_iter().filter(is_meant).collect();
    if checks.is_empty() {
        return Err(VerbError::Setup(format!("no check is about `{only}`; there are {kinds}")));
    }
    Ok(checks)
}

fn lines(check: &Check, ascii: bool) -> Vec<Line> {
    let pick = |glyph, plain| if ascii { plain } else { glyph };
    let (glyph, style) = match check.mark {
        Mark::Ok => (pick("✓", "+"), Style::Plain),
        Mark::Unknown => ("?", Style::NoData),
        Mark::Wrong => (pick("✗", "x"), Style::Fail),
    };
    let said = Line::default().styled(style, glyph).then(format!(" {}", check.said));
    std::iter::once(said).chain(check.fix.iter().map(|fix| Line::of(format!("  fix: {fix}")))).collect()
}

fn verdict(checks: &[Check]) -> (String, u8) {
    let n = |mark| checks.iter().filter(|check| check.mark == mark).count();
    let (ok, unknown, wrong) = (n(Mark::Ok), n(Mark::Unknown), n(Mark::Wrong));
    let code = match (wrong, unknown) {
        (0, 0) => exit::DONE,
        (0, _) => exit::UNKNOWN,
        _ => exit::USAGE,
    };
    (format!("{wrong} to fix, {unknown} could not tell, {ok} ok. exit {code}"), code)
}

#[cfg(test)]
mod tests;
