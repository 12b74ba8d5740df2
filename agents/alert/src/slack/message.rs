//! An incident as Block Kit, within its limits by construction.
//!
//! No buttons: without an endpoint of ours they would do nothing. Commands are text to copy.

use bellwether_protocol::alert::{Alert, IncidentKind, NextStep, Severity};
use serde_json::{Value, json};

use crate::case::Case;
use crate::words;

/// Longest header, in characters.
const HEADER_MAX: usize = 150;
/// Longest text of a section, in characters.
const SECTION_MAX: usize = 3_000;
/// Longest field that we write; Slack's own limit is 2,000.
const FIELD_MAX: usize = 300;
/// Longest context; with all the others it keeps the whole under 10,000 characters.
const CONTEXT_MAX: usize = 900;

/// The root: what is true now.
pub(crate) fn root(alert: &Alert, case: &Case, link: &str) -> Value {
    let header = format!("{}: {}", words::state(alert), words::place(alert));
    let fields = words::fields(alert, case);
    let fields = fields.iter().map(|(name, value)| mrkdwn(&format!("*{name}*\n{}", escape(value, FIELD_MAX - 20))));
    let mut blocks = vec![
        json!({ "type": "header", "text": { "type": "plain_text", "text": words::cut(&header, HEADER_MAX) } }),
        json!({ "type": "section", "text": mrkdwn(&escape(&alert.headline, SECTION_MAX)) }),
        json!({ "type": "section", "fields": fields.take(10).collect::<Vec<_>>() }),
    ];
    let steps = steps(alert, case);
    if !steps.is_empty() {
        blocks.push(json!({ "type": "section", "text": mrkdwn(&steps) }));
    }
    let mut context = escape(&words::reference(alert, case), CONTEXT_MAX / 3);
    if !link.is_empty() {
        context.push_str(&format!("  <{}|Open>", escape(&words::link(link, alert), CONTEXT_MAX / 2)));
    }
    blocks.push(json!({ "type": "context", "elements": [mrkdwn(&context)] }));
    // What notifications and screen readers show.
    let text = format!("[{}] {header}. {}", alert.severity, alert.headline);
    json!({ "text": escape(&text, SECTION_MAX), "blocks": blocks })
}

/// What happened, in a line of the thread.
pub(crate) fn reply(alert: &Alert) -> String {
    let mut text = format!("{} {}", alert.at.clock(), escape(&alert.headline, SECTION_MAX - 400));
    if alert.kind == IncidentKind::Resolved
        && let Some(step) = alert.next.last()
    {
        text.push_str(&format!("\n`{}`", escape(&step.run.replace('`', "'"), 300)));
    }
    text
}

fn steps(alert: &Alert, case: &Case) -> String {
    let is_open = alert.kind != IncidentKind::Resolved && alert.severity > Severity::Info;
    let take_up = (is_open && case.acknowledged.is_none())
        .then(|| NextStep { why: "take it up".to_owned(), run: words::acknowledge(alert) });
    let mut text = String::new();
    for NextStep { why, run } in alert.next.iter().chain(&take_up) {
        let line = format!("{}: `{}`\n", escape(why, 200), escape(&run.replace('`', "'"), 500));
        if text.chars().count() + line.chars().count() <= SECTION_MAX {
            text.push_str(&line);
        }
    }
    text
}

fn mrkdwn(text: &str) -> Value {
    json!({ "type": "mrkdwn", "text": text })
}

/// As Slack wants its three letters written, at most `max` characters in all.
fn escape(text: &str, max: usize) -> String {
    let mut escaped = String::new();
    let mut count = 0;
    for c in words::cut(text, max).chars() {
        let piece = match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            c => c.to_string(),
        };
        count += piece.chars().count();
        if count >= max {
            escaped.push('…');
            break;
        }
        escaped.push_str(&piece);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::alert;

    #[test]
    fn whatever_an_alert_says_the_message_keeps_slacks_limits() {
        let step = || NextStep { why: "<&>".repeat(300), run: "`x`".repeat(900) };
        let regions = (0..200).map(|i| format!("region-{i}").parse().unwrap()).collect();
        let worst =
            Alert { headline: "<&>".repeat(5_000), regions, next: (0..40).map(|_| step()).collect(), ..alert(1) };
        let check = |alert: &Alert| {
            let root = root(alert, &Case::new(alert), &"https://x/{rollout}".repeat(100));
            bellwether_fakes::slack::check_message(&root).unwrap_or_else(|why| panic!("{why}: {root}"));
            assert!(reply(alert).chars().count() <= SECTION_MAX);
            root
        };
        check(&worst);
        let said = check(&alert(1)).to_string();
        for words in ["✗ Taking back: estimator v42", "error_rate 5.8% &gt; 0.5% in sjc", "bellwether alert ack"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
