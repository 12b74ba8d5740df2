//! Lists: agents, rollouts. The last line says what there is in all.

use bellwether_protocol::id::AgentId;
use bellwether_protocol::presence::{Gap, Presence};
use bellwether_protocol::status::{StageMark, Status};
use bellwether_protocol::time::Timestamp;

use super::watch::state_words;
use super::{Line, span};
use crate::agents::Seen;

/// Who is there, and who fell silent.
pub(crate) fn agents(seen: &[Seen], now: Timestamp) -> Vec<Line> {
    let head = ["AGENT", "ROLE", "VERSION", "SEEN", "CLOCK", "SPOOL", "LEVERS READ BACK"];
    let rows = seen.iter().map(|Seen { said: one, silent_since }| {
        let (age, clock) = (span(now.since(silent_since.unwrap_or(one.at))), format!("{:+}ms", one.clock_offset_ms));
        // Where its clock and its levers stood is no longer known.
        let [age, clock, spooled, levers] = match silent_since {
            Some(_) => [format!("silent {age}"), "-".to_owned(), "-".to_owned(), "-".to_owned()],
            None => [age, clock, one.spooled.to_string(), levers(one)],
        };
        let name = format!("{}/{}", one.agent.region, one.agent.name);
        [name, one.agent.role.to_string(), one.version.clone(), age, clock, spooled, levers]
    });
    let mut lines = columns(&head.map(str::to_owned), rows.collect());
    let here = || seen.iter().filter(|one| one.silent_since.is_none()).map(|one| &one.said);
    for one in here() {
        let gaps = one.watching.values().flat_map(|watching| &watching.gaps);
        lines.extend(gaps.map(|gap| Line::of(gap_words(&one.agent, gap, now))));
        let refused = one.watching.iter().filter_map(|(service, watching)| Some((service, watching.refused.as_ref()?)));
        let AgentId { region, name, .. } = &one.agent;
        lines.extend(refused.map(|(service, why)| Line::of(format!("{service} refused: {why} ({region}/{name})"))));
    }
    let (n, silent) = (here().count(), seen.len() - here().count());
    lines.push(match n {
        0 => Line::of("no agents. do: bellwether agent ROLE --config FILE"),
        1 => Line::of("1 agent"),
        n => Line::of(format!("{n} agents")),
    });
    if silent > 0 {
        lines.push(Line::of(format!("{silent} silent: look at its machine and its log; forgotten after a day")));
    }
    lines
}

/// What an agent cannot measure, and why.
pub(super) fn gap_words(agent: &AgentId, gap: &Gap, now: Timestamp) -> String {
    let Gap { sli, cohort, since, why } = gap;
    let lasts = span(now.since(*since));
    format!("{sli} of {cohort} not measured: {why} ({lasts}, {}/{})", agent.region, agent.name)
}

fn levers(presence: &Presence) -> String {
    let readings = presence.levers.values().flatten();
    let one = readings.map(|reading| match &reading.value {
        Some(value) => format!("{} {value}", reading.lever),
        None => format!("{} ?", reading.lever),
    });
    let all = one.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "-".to_owned() } else { all }
}

/// The latest rollout of each service.
pub(crate) fn rollouts(rollouts: &[Status], now: Timestamp) -> Vec<Line> {
    let head = ["ROLLOUT", "RELEASE", "STAGE", "STATE", "DECIDED", "NEEDS YOU"];
    let rows = rollouts.iter().map(|status| {
        let stage = status.stages.iter().rfind(|stage| !matches!(stage.mark, StageMark::Later | StageMark::Skipped));
        [
            status.rollout.to_string(),
            status.release.to_string(),
            stage.map_or_else(|| "-".to_owned(), |stage| stage.name.to_string()),
            state_words(status).1,
            format!("{} ago", span(now.since(status.decided_at))),
            status.needs_you.as_ref().map_or_else(|| "nothing".to_owned(), |needs| needs.what.clone()),
        ]
    });
    columns(&head.map(str::to_owned), rows.collect())
}

pub(crate) fn columns<const N: usize>(head: &[String; N], rows: Vec<[String; N]>) -> Vec<Line> {
    let all = || std::iter::once(head).chain(&rows);
    let widths: Vec<usize> = (0..N)
        .map(|column| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; N]| {
        row.iter().zip(&widths).fold(Line::default(), |line, (cell, width)| line.then(format!("{cell:width$}  ")))
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bellwether_protocol::id::Revision;
    use bellwether_protocol::presence::{LeverReading, Watching};
    use bellwether_protocol::sample::Cohort;

    use super::*;

    #[test]
    fn agents_show_what_they_read_back_and_what_they_cannot_measure() {
        let reading = |lever: &str, value: Option<&str>| LeverReading {
            lever: lever.parse().unwrap(),
            value: value.map(|value| value.parse().unwrap()),
            targets: Vec::new(),
            history: Vec::new(),
        };
        let gap = Gap {
            sli: "memory".parse().unwrap(),
            cohort: Cohort::Canary,
            since: "2026-05-05T13:50:57Z".parse().unwrap(),
            why: "number `memory` is NaN".into(),
        };
        let watching = Watching { revision: Revision(7), refused: Some("no allow".into()), gaps: vec![gap] };
        let levers = vec![reading("traffic", Some("0%")), reading("release", None)];
        let at = "2026-05-05T13:51:10Z".parse().unwrap();
        let here = Presence {
            clock_offset_ms: 2,
            watching: BTreeMap::from([("estimator".parse().unwrap(), watching)]),
            levers: BTreeMap::from([("estimator".parse().unwrap(), levers)]),
            ..Presence::new("sjc.rollback.roll-1".parse().unwrap(), "0.1.0", at)
        };
        let silent = Presence { agent: "sjc.probe.probe-1".parse().unwrap(), ..here.clone() };
        let silent = Seen { said: silent, silent_since: Some("2026-05-05T13:48:02Z".parse().unwrap()) };
        let seen = [silent, Seen { said: here, silent_since: None }];
        let lines = agents(&seen, "2026-05-05T13:51:12Z".parse().unwrap());
        let text = lines.iter().map(Line::plain).collect::<Vec<_>>().join("\n");
        let expected = "\
AGENT        ROLE      VERSION  SEEN          CLOCK  SPOOL  LEVERS READ BACK
sjc/probe-1  probe     0.1.0    silent 3m10s  -      -      -
sjc/roll-1   rollback  0.1.0    2s            +2ms   0      traffic 0%, release ?
memory of canary not measured: number `memory` is NaN (15s, sjc/roll-1)
estimator refused: no allow (sjc/roll-1)
1 agent
1 silent: look at its machine and its log; forgotten after a day";
        assert_eq!(text, expected);
    }
}
