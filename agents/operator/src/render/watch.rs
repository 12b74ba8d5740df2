//! The live block: one rollout on one screen. First line: state, and `needs you:`. Last line: an
//! exact command.
//!
//! A short terminal loses agents first, then green criteria (`5 more ok`); never the headline, a
//! red row or the command. What the status does not hold is left out rather than guessed.

use bellwether_protocol::alert::Numbers;
use bellwether_protocol::id::RolloutId;
use bellwether_protocol::presence::Stuck;
use bellwether_protocol::reason::{Ending, Judgement, Lack, Verdict};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::status::{RegionStatus, StageMark, StageStatus, State, Status, TakeBackStatus};
use bellwether_protocol::time::Timestamp;

use super::amount::percent_down;
use super::power::spent;
use super::table::gap_words;
use super::{Line, Look, Style, count, face, hold_words, span};

/// One drawing of the block: what, when, and how much room there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) status: &'a Status,
    pub(crate) now: Timestamp,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) look: Look,
    /// Whether keys are read, so that they are worth naming.
    pub(crate) keys: bool,
}

/// What goes first when there is no room: the largest. `Keep` never goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Keep,
    Why,
    Unknown,
    Stages,
    Levers,
    Regions,
    Evidence,
    Green,
    Agents,
    Blank,
}

/// Most pieces of evidence shown: the first ones tell the story.
const EVIDENCE_SHOWN: usize = 2;

/// Most gaps of one region shown: the first ones tell what is wrong with the rest.
const GAPS_SHOWN: usize = 3;

/// Headline, one row, how many more, command: less is not worth drawing.
const LINES_MIN: usize = 4;

/// Draws the block, at most `height` lines of it where that is possible.
pub(crate) fn draw(frame: &Frame) -> Vec<Line> {
    let mut rows = Vec::new();
    rows.extend(headline(frame).into_iter().map(|line| (Rank::Keep, line)));
    rows.extend(stages(frame).into_iter().map(|line| (Rank::Stages, line)));
    rows.extend(leaves(frame).map(|line| (Rank::Stages, line)));
    rows.extend(why(frame).into_iter().map(|line| (Rank::Why, line)));
    for part in [levers(frame), criteria(frame), evidence(frame), regions(frame)] {
        if !part.is_empty() {
            rows.push((Rank::Blank, Line::default()));
            rows.extend(part);
        }
    }
    rows.extend(budget(frame).map(|line| (Rank::Stages, line)));
    rows.push((Rank::Agents, agents(frame)));
    rows.push((Rank::Keep, command(frame)));
    fit(rows, frame.height)
}

fn fit(mut rows: Vec<(Rank, Line)>, height: usize) -> Vec<Line> {
    while rows.len() > height {
        let Some(worst) = rows.iter().map(|(rank, _)| *rank).max().filter(|rank| *rank != Rank::Keep) else { break };
        let first = rows.iter().position(|(rank, _)| *rank == worst);
        let before = rows.len();
        rows.retain(|(rank, _)| *rank != worst);
        if let (Rank::Green, Some(at)) = (worst, first) {
            rows.insert(at, (Rank::Why, Line::of(format!("      {} more ok", before - rows.len()))));
        }
    }
    // Taller than the screen it could not be redrawn, so even red rows give way to their number.
    if rows.len() > height.max(LINES_MIN) {
        let (shown, last) = (height.max(LINES_MIN) - 2, rows.pop());
        let more = Line::of(format!("      {} more", rows.len() - shown));
        rows.truncate(shown);
        rows.extend([(Rank::Keep, more)].into_iter().chain(last));
    }
    rows.into_iter().map(|(_, line)| line).collect()
}

fn headline(frame: &Frame) -> Vec<Line> {
    let Status { rollout, release, previous, take_back, ending, .. } = frame.status;
    let back = *ending == Some(Ending::RolledBack) || (take_back.is_some() && *ending != Some(Ending::Completed));
    let arrow = if back { "<-" } else { "->" };
    let from = previous.as_ref().map(|previous| format!("{previous} {arrow} ")).unwrap_or_default();
    let (style, state) = state_words(frame.status);
    let stage = frame.status.stages.iter().find(|stage| stage.mark == StageMark::Now);
    let stage = stage.map(|stage| format!("{}   ", stage.name)).unwrap_or_default();
    let shadow = if frame.status.is_shadow { "SHADOW, nothing is moved   " } else { "" };
    let left = Line::of(format!("{} {from}{release}   {stage}{shadow}", rollout.service)).styled(style, state);
    let needs = match &frame.status.needs_you {
        Some(needs) => Line::of("needs you: ").styled(Style::Warn, &needs.what),
        None => Line::of("needs you: nothing"),
    };
    if left.width() + needs.width() + 2 > frame.width {
        return vec![left, needs];
    }
    let mut line = left.pad_to(frame.width - needs.width());
    line.pieces.extend(needs.pieces);
    vec![line]
}

pub(super) fn state_words(status: &Status) -> (Style, String) {
    let fails = |hard| status.criteria.iter().any(|j| j.verdict == Verdict::Fail && j.hard == hard);
    let blind = |j: &Judgement| j.verdict == Verdict::Inconclusive(Lack::NoData);
    if let Some(stuck) = status.stuck.as_ref().filter(|_| status.state != State::Ended) {
        return (Style::Fail, format!("HOLDING: {}", stuck.what));
    }
    let (style, words) = match (status.state, &status.take_back, status.holds.first()) {
        (State::Ended, ..) => return ending_words(status),
        (State::TakingBack, Some(TakeBackStatus { level, levels, .. }), _) => {
            return (Style::Fail, format!("TAKING BACK (level {level} of {levels}), not yet applied"));
        }
        (State::TakingBack, None, _) => (Style::Fail, "TAKING BACK, not yet applied"),
        (State::Applied, ..) => (Style::Warn, "APPLIED, not yet recovered"),
        (State::Waiting, ..) => (Style::Warn, "WAITING FOR APPROVAL"),
        (State::Preparing | State::Entering | State::Settling | State::Soaking, _, Some(hold)) => {
            return (Style::Warn, format!("HOLDING: {}", hold_word(hold)));
        }
        (State::Preparing, ..) => (Style::Plain, "preparing"),
        (State::Entering, ..) => (Style::Plain, "entering"),
        (State::Settling, ..) => (Style::Plain, "settling"),
        (State::Soaking, ..) if fails(true) || fails(false) => (Style::Fail, "failing"),
        // Healthy is a claim about data: without any, there is none.
        (State::Soaking, ..) if status.criteria.is_empty() || status.criteria.iter().any(blind) => {
            (Style::Plain, "looking, not all data yet")
        }
        (State::Soaking, ..) => (Style::Plain, "healthy so far"),
    };
    (style, words.to_owned())
}

fn hold_word(hold: &bellwether_protocol::reason::Hold) -> &'static str {
    use bellwether_protocol::reason::Hold;
    match hold {
        Hold::Approval => "approval",
        Hold::BaselineAsRed { .. } => "baseline as red",
        Hold::Activity { .. } => "run",
        Hold::Frozen { .. } => "frozen",
        Hold::Lever { .. } => "lever",
        Hold::NoData { .. } => "no data",
        Hold::NotRecovered => "not recovered",
        Hold::Paused => "paused",
        Hold::SoftRed { .. } => "soft criterion red",
        Hold::NotProven { .. } => "not proven",
        Hold::TooFewEvents { .. } => "too few events",
    }
}

fn ending_words(status: &Status) -> (Style, String) {
    let (style, word) = match status.ending {
        Some(Ending::Aborted) => (Style::Warn, "ABORTED"),
        Some(Ending::Completed) => (Style::Plain, "COMPLETED"),
        Some(Ending::NotStarted) => (Style::Warn, "NOT STARTED"),
        Some(Ending::NotTakenBack) => (Style::Fail, "NOT TAKEN BACK"),
        Some(Ending::RolledBack) => (Style::Warn, "ROLLED BACK"),
        Some(Ending::Superseded) => (Style::Plain, "SUPERSEDED"),
        Some(Ending::WouldTakeBack) => (Style::Warn, "WOULD TAKE BACK"),
        None => (Style::NoData, "ended, unknown how"),
    };
    (style, word.to_owned())
}

fn stages(frame: &Frame) -> Vec<Line> {
    let mut lines = vec![Line::of("stages")];
    for stage in &frame.status.stages {
        let (style, text) = stage_words(stage, frame.look);
        let full = lines.last().is_some_and(|line| line.width() + 3 + text.chars().count() > frame.width);
        let line = if full { Line::default() } else { lines.pop().unwrap_or_default() };
        let gap = if line.width() <= 6 { 8 - line.width() } else { 3 };
        lines.push(line.then(" ".repeat(gap)).styled(style, text));
    }
    lines
}

fn stage_words(stage: &StageStatus, look: Look) -> (Style, String) {
    let StageStatus { name, mark, soaked, soak } = stage;
    let pick = |glyph, ascii| if look.ascii { ascii } else { glyph };
    match mark {
        StageMark::Failed => (Style::Fail, format!("{} {name} {} of {}", pick("✗", "x"), span(*soaked), span(*soak))),
        StageMark::Later => (Style::Plain, format!(". {name} {}", span(*soak))),
        StageMark::Now => (Style::Plain, format!("> {name} {} of {}", span(*soaked), span(*soak))),
        StageMark::Passed => (Style::Plain, format!("{} {name} {}", pick("✓", "+"), span(*soaked))),
        StageMark::Skipped => (Style::Plain, format!("- {name}")),
    }
}

fn leaves(frame: &Frame) -> Option<Line> {
    let stage = frame.status.stages.iter().find(|stage| stage.mark == StageMark::Now)?;
    let at = frame.status.leaves_at.filter(|at| *at > frame.now)?;
    Some(Line::of(format!("leaves {} {} earliest ({})", stage.name, at.clock(), span(at.since(frame.now)))))
}

fn why(frame: &Frame) -> Vec<Line> {
    let status = frame.status;
    let mut said: Vec<String> = status.stuck.iter().map(|stuck| stuck_words(stuck, frame.now)).collect();
    said.extend(status.summary.iter().cloned());
    said.extend(status.holds.iter().map(hold_words));
    if let Some(back) = &status.take_back {
        said.extend(proof_words(back, frame.now));
    }
    let excluded = status.excluded.iter();
    said.extend(excluded.map(|(what, until)| format!("{what} is left out by hand until {}", until.clock())));
    let said = said.iter().flat_map(|text| wrapped(text, frame.width.saturating_sub(WHY)));
    let labels = std::iter::once("why").chain(std::iter::repeat(""));
    labels.zip(said).map(|(label, text)| Line::of(format!("{label:WHY$}{text}"))).collect()
}

/// Where the reasons begin.
const WHY: usize = 6;
/// Narrower than this nothing is read, only counted.
const WRAP_MIN: usize = 20;

/// A text in lines of so many cells, between its words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width.max(WRAP_MIN) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Why nothing is decided, and what mends it.
pub(crate) fn stuck_words(stuck: &Stuck, now: Timestamp) -> String {
    let Stuck { since, what, why, fix } = stuck;
    format!("{what} since {} ({}): {why}; {fix}", since.clock(), span(now.since(*since)))
}

fn proof_words(back: &TakeBackStatus, now: Timestamp) -> Option<String> {
    let TakeBackStatus { due, applied_at, recovered_at, green, green_needed, .. } = back;
    let asked = back.asked_at.clock();
    Some(match (applied_at, recovered_at) {
        (Some(applied), Some(recovered)) => {
            format!("asked {asked}, applied {}, recovered {}", applied.clock(), recovered.clock())
        }
        (Some(applied), None) => {
            format!("asked {asked}, applied {}; {green} of {green_needed} green slots", applied.clock())
        }
        (None, _) => format!("asked {asked}, due {} ({})", due.clock(), span(due.since(now))),
    })
}

fn levers(frame: &Frame) -> Vec<(Rank, Line)> {
    // A lever that was never asked stands where it stood before; it is nobody's news.
    let levers: Vec<_> = frame.status.levers.iter().filter(|lever| lever.set_to.is_some()).collect();
    let settled = levers.iter().all(|lever| lever.set_to == lever.value);
    if levers.is_empty() || (frame.status.take_back.is_none() && settled) {
        return Vec::new();
    }
    let name = levers.iter().map(|lever| lever.lever.as_str().len()).max().unwrap_or(0).max(5) + 3;
    let text = |value: &Option<_>| value.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let set = levers.iter().map(|lever| text(&lever.set_to).chars().count()).max().unwrap_or(0).max(6) + 3;
    let head = Line::of(format!("{:name$}{:set$}{:12}read back", "lever", "set to", "agent"));
    let rows = levers.iter().map(|lever| {
        let line = Line::of(format!("{:name$}{:set$}{:12}", lever.lever, text(&lever.set_to), lever.answer));
        let read = format!("{} of {}, at {}", lever.done, lever.targets, text(&lever.value));
        let done = lever.set_to == lever.value;
        (Rank::Levers, line.styled(if done { Style::Plain } else { Style::Warn }, read))
    });
    std::iter::once((Rank::Levers, head)).chain(rows).collect()
}

fn criteria(frame: &Frame) -> Vec<(Rank, Line)> {
    let all = &frame.status.criteria;
    let judgements: Vec<&Judgement> = all.iter().filter(|judgement| is_shown(judgement, all)).collect();
    let widest = |of: &dyn Fn(&Judgement) -> usize| judgements.iter().map(|judgement| of(judgement)).max().unwrap_or(0);
    let name = 6 + widest(&|j| j.criterion.as_str().len()) + 3;
    // In its only region every row is; saying so would push out what the row proves.
    let is_told = frame.status.regions.len() > 1 || judgements.iter().any(|j| j.cohort == Cohort::Baseline);
    let whole = if is_told { name + widest(&|j| where_words(j).len()) + 3 } else { name };
    let word_width = widest(&|j| word(j, frame.look).len()).max(4);
    let value = whole + 2 + widest(&|j| value_words(j).chars().count()) + 2;
    let limit = widest(&|j| j.numbers.limit.chars().count());
    // Where not all of it fits, what a row proves is worth more than a straight edge.
    let full = value + word_width + 8 + limit + widest(&|j| proof(j).concat().chars().count());
    let limit = if full > frame.width { 0 } else { limit };
    let row = |judgement: &Judgement| {
        let (glyph, _, style) = face(judgement, frame.look);
        let kind = if judgement.hard { "hard  " } else { "soft  " };
        let line = Line::of(kind).then(judgement.criterion.as_str()).pad_to(name);
        let line = if is_told { line.then(where_words(judgement)).pad_to(whole) } else { line };
        let line = line.styled(style, format!("{glyph} {}", value_words(judgement))).pad_to(value);
        let line = line.then(format!("{:word_width$}  ", word(judgement, frame.look)));
        let line = line.if_it_fits(format!("limit {:limit$}", judgement.numbers.limit));
        let line = proof(judgement).iter().fold(line, Line::if_it_fits);
        let rank = match judgement.verdict {
            Verdict::Fail => Rank::Keep,
            Verdict::Inconclusive(Lack::NoData) => Rank::Unknown,
            Verdict::Inconclusive(Lack::NotProven) | Verdict::Pass if judgement.over_target => Rank::Unknown,
            Verdict::Inconclusive(Lack::NotProven) | Verdict::Pass => Rank::Green,
        };
        (rank, line)
    };
    judgements.into_iter().map(row).collect()
}

/// The word beside the glyph; a pass needs none.
fn word(judgement: &Judgement, look: Look) -> &'static str {
    Some(face(judgement, look).1).filter(|word| *word != "pass").unwrap_or_default()
}

/// Of how many, and what they prove: a number alone says nothing of how sure it is. A share that fails
/// is at least so much, any other one at most.
fn proof(judgement: &Judgement) -> Vec<String> {
    let (bad, n) = (judgement.numbers.bad, judgement.numbers.n);
    if n == 0 {
        return Vec::new();
    }
    let bound = judgement.grounds.as_ref().map(|grounds| match judgement.verdict {
        Verdict::Fail => format!("; proves over {}", percent_down(grounds.low)),
        Verdict::Inconclusive(_) | Verdict::Pass => format!("; proves under {}", grounds.high.rounded_up()),
    });
    std::iter::once(format!("   {} of {}", count(bad), count(n))).chain(bound).collect()
}

/// One row per criterion: a region has its own when it differs from all regions together, the
/// baseline when the canary beside it fails, or it fails itself.
fn is_shown(judgement: &Judgement, all: &[Judgement]) -> bool {
    let fails = |other: &Judgement| other.verdict == Verdict::Fail;
    let mut canaries =
        all.iter().filter(|other| other.criterion == judgement.criterion && other.cohort == Cohort::Canary);
    match (judgement.cohort, &judgement.region) {
        (Cohort::Canary, None) => true,
        (Cohort::Canary, Some(_)) => {
            let pooled = canaries.find(|other| other.region.is_none());
            fails(judgement) || pooled.is_none_or(|pooled| pooled.verdict != judgement.verdict)
        }
        (Cohort::Baseline, region) => fails(judgement) || canaries.any(|other| fails(other) && other.region == *region),
    }
}

fn where_words(judgement: &Judgement) -> String {
    let region = judgement.region.as_ref().map_or("all", |region| region.as_str());
    match judgement.cohort {
        Cohort::Baseline => format!("{region} baseline"),
        Cohort::Canary => region.to_owned(),
    }
}

fn value_words(judgement: &Judgement) -> String {
    let Numbers { n, value, limit, .. } = &judgement.numbers;
    if *n == 0 {
        return "-".to_owned();
    }
    // `0% over 3s` beside `limit 5% over 3s`: what both are of is said once.
    let of =
        value.split_once(' ').map(|(_, of)| of).filter(|of| limit.split_once(' ').is_some_and(|(_, its)| its == *of));
    of.and_then(|of| value.strip_suffix(of)).unwrap_or(value).trim_end().to_owned()
}

fn evidence(frame: &Frame) -> Vec<(Rank, Line)> {
    let shown = frame.status.evidence.iter().take(EVIDENCE_SHOWN);
    shown.map(|seen| (Rank::Evidence, Line::of(format!("seen  {} {}", seen.at.clock(), seen.text)))).collect()
}

fn regions(frame: &Frame) -> Vec<(Rank, Line)> {
    let regions = &frame.status.regions;
    let name = regions.iter().map(|region| region.region.as_str().len()).max().unwrap_or(0).max(3) + 3;
    let slots = span(frame.status.slot.times(20));
    let head = format!("{:name$}{:22}{:12}answering", "", format!("last 20 slots, {slots}"), "covered");
    let row = |region: &RegionStatus| {
        let dots = if region.silent_since.is_some() { Style::NoData } else { Style::Plain };
        let line = Line::of(format!("{:name$}", region.region)).styled(dots, format!("{:20}", region.strip));
        let line = line.then(format!("  {:12}", format!("{}/{}", count(region.covered), count(region.slots))));
        let answering = region.answering.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let line = line.then(if answering.is_empty() { "?" } else { &answering });
        match region.silent_since {
            Some(since) => {
                let silent = format!("   silent {}", span(frame.now.since(since)));
                (Rank::Why, line.styled(Style::NoData, silent))
            }
            None => (Rank::Regions, line),
        }
    };
    if regions.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![(Rank::Regions, Line::of(head))];
    for region in regions {
        rows.push(row(region));
        let gaps = region.gaps.iter().take(GAPS_SHOWN).map(|(agent, gap)| gap_words(agent, gap, frame.now));
        let more = region.gaps.len().saturating_sub(GAPS_SHOWN);
        let more = (more > 0).then(|| format!("{more} more, see: bellwether agents list"));
        rows.extend(gaps.chain(more).map(|text| (Rank::Why, Line::of(format!("{:name$}{text}", "")))));
    }
    rows
}

/// How seldom tests cry wolf, and what may take the release back without a test.
fn budget(frame: &Frame) -> Option<Line> {
    let budget = frame.status.budget.as_ref()?;
    let outside: Vec<&str> = budget.outside.iter().map(|name| name.as_str()).collect();
    let outside = if outside.is_empty() { String::new() } else { format!("; outside it: {}", outside.join(", ")) };
    let spent = spent(budget.stage, budget.tests);
    Some(Line::of(format!("error budget {}, here {spent}{outside}", budget.alpha)))
}

fn agents(frame: &Frame) -> Line {
    let Status { agents_live, agents_known, incidents, decided_at, .. } = frame.status;
    let open = match incidents.as_slice() {
        [] => "incidents none".to_owned(),
        [one] => format!("incident {one} open"),
        more => format!("{} incidents open", more.len()),
    };
    let style = if agents_live < agents_known { Style::Warn } else { Style::Plain };
    let line = Line::of("agents ").styled(style, format!("{agents_live} of {agents_known}"));
    let line = line.if_it_fits(format!("   {open}")).if_it_fits(format!("   decided {}", decided_at.clock()));
    line.if_it_fits(format!("   now {}", frame.now.clock()))
}

fn command(frame: &Frame) -> Line {
    let needed = frame.status.needs_you.as_ref().and_then(|needs| needs.run.as_ref());
    match (needed, frame.status.state, frame.keys) {
        (Some(run), ..) => Line::of(format!("do    {run}")),
        (None, State::Ended, _) => Line::of(format!("next  {}", after(&frame.status.rollout, frame.status.ending))),
        (None, _, true) => Line::of("keys: p pause  a abort  r rollback  e explain  q quit (the rollout goes on)"),
        (None, _, false) => Line::of(format!("next  bellwether rollout watch {}", frame.status.rollout)),
    }
}

/// What tells most about a rollout that has ended so: how it went, or why.
pub(super) fn after(rollout: &RolloutId, ending: Option<Ending>) -> String {
    let verb = if ending == Some(Ending::Completed) { "report" } else { "explain" };
    format!("bellwether rollout {verb} {rollout}")
}

#[cfg(test)]
#[path = "watch_tests.rs"]
pub(crate) mod tests;
