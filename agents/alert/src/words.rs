//! The words that bridges for people share. An alert's own words are never improved, only cut.

use bellwether_protocol::alert::{Alert, IncidentKind, Numbers, Severity};
use bellwether_protocol::time::Timestamp;

use crate::case::Case;

/// Glyph and words for the states of a rollout that people meet in alerts.
const STATES: [(&str, &str, &str); 12] = [
    ("aborted", "✓", "Aborted"),
    ("applied", "!", "Applied, not yet recovered"),
    ("blind", "?", "Taken back, but nothing is seen"),
    ("completed", "✓", "Completed"),
    ("heard", "✓", "Heard again"),
    ("holding", "!", "Holding"),
    ("not_started", "✗", "Not started"),
    ("not_taken_back", "✗", "NOT taken back"),
    ("over", "✓", "Over"),
    ("recovered", "✓", "Recovered"),
    ("silent", "✗", "No coordinator"),
    ("taking_back", "✗", "Taking back"),
];

/// The state in a glyph and a few words.
pub(crate) fn state(alert: &Alert) -> String {
    let known = STATES.iter().find(|(word, ..)| *word == alert.state);
    let (glyph, words) = match (known, alert.kind) {
        (Some((_, glyph, words)), _) => (*glyph, (*words).to_owned()),
        (None, IncidentKind::Resolved) => ("✓", alert.state.replace('_', " ")),
        (None, _) => ("!", alert.state.replace('_', " ")),
    };
    format!("{glyph} {words}")
}

/// Service, release and stage.
pub(crate) fn place(alert: &Alert) -> String {
    let stage = alert.stage.as_ref().map(|stage| format!(" in {stage}")).unwrap_or_default();
    format!("{} {}{stage}", alert.service, alert.release)
}

/// The headline with the service before it, and the release where it does not say it.
pub(crate) fn title(alert: &Alert) -> String {
    let Alert { service, release, headline, .. } = alert;
    if headline.starts_with(release.as_str()) {
        format!("{service} {headline}")
    } else {
        format!("{service} {release}: {headline}")
    }
}

/// What is known, in the order people ask for it: name and value.
pub(crate) fn fields(alert: &Alert, case: &Case) -> Vec<(&'static str, String)> {
    let needs = match (&case.acknowledged, alert.kind, alert.severity) {
        (_, IncidentKind::Resolved, _) | (_, _, Severity::Info) => "nothing".to_owned(),
        (Some(taken), ..) => format!("{} took it up {}", taken.by, taken.at.clock()),
        (None, _, Severity::Page) => "now".to_owned(),
        (None, _, Severity::Warn) => "today".to_owned(),
    };
    let mut fields = vec![("State", format!("{} {}", alert.state.replace('_', " "), alert.at.clock()))];
    fields.push(("Needs you", needs));
    if let Some(Numbers { bad, n, value, limit }) = &alert.numbers {
        fields.push(("Numbers", format!("{value} ({bad} of {n}), limit {limit}")));
    }
    if !alert.regions.is_empty() {
        let regions = alert.regions.iter().map(ToString::to_string).collect::<Vec<_>>();
        fields.push(("Regions", regions.join(", ")));
    }
    for (name, at) in [("Applied", alert.proof.applied), ("Recovered", alert.proof.recovered)] {
        fields.extend(at.map(|at| (name, Timestamp::clock(at))));
    }
    fields
}

/// Which incident it is, and since when.
pub(crate) fn reference(alert: &Alert, case: &Case) -> String {
    format!("incident {}, record {}, opened {}", alert.incident, alert.record, case.first.at.seconds())
}

/// The command that says that somebody takes it up.
pub(crate) fn acknowledge(alert: &Alert) -> String {
    format!("bellwether alert ack {}", alert.incident)
}

/// Where people can read more; empty when the file says nothing of it.
pub(crate) fn link(template: &str, alert: &Alert) -> String {
    let (service, rollout, incident) = (&alert.service, &alert.incident.rollout, &alert.incident);
    let link = template.replace("{service}", service.as_str()).replace("{rollout}", &rollout.to_string());
    link.replace("{incident}", &incident.to_string())
}

/// At most `max` characters, the last of which says that there were more.
pub(crate) fn cut(text: &str, max: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    if text.chars().count() <= max {
        return text;
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::alert;

    #[test]
    fn titles_name_the_release_once() {
        assert_eq!(title(&alert(1)), "estimator v42: error_rate 5.8% > 0.5% in sjc");
        let page = Alert { headline: "v42 rollback NOT applied after 2m: refused".into(), ..alert(1) };
        assert_eq!(title(&page), "estimator v42 rollback NOT applied after 2m: refused");
        assert_eq!(state(&alert(1)), "✗ Taking back");
        assert_eq!(cut("äöü\x1b", 3), "äö…");
        assert_eq!(link("https://x/{rollout}", &alert(1)), "https://x/estimator/42");
    }
}
