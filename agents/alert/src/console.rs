//! The console bridge: two lines on standard output, for `journalctl` and `docker logs`.

use std::io::Write;

use bellwether_protocol::alert::{Alert, IncidentKind};

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::Occasion;

/// Writes alerts to standard output.
#[derive(Debug, Default)]
pub(crate) struct Console;

impl Console {
    pub(crate) fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        let retry = |error: std::io::Error| DeliveryError::Retry { why: error.to_string(), after: None };
        let mut out = std::io::stdout().lock();
        out.write_all(lines(delivery.newest(), delivery.occasion()).as_bytes())
            .and_then(|()| out.flush())
            .map_err(retry)?;
        Ok(Receipt { said: "written".to_owned() })
    }
}

fn lines(alert: &Alert, occasion: Occasion) -> String {
    let did = match (occasion, alert.kind) {
        (Occasion::Acknowledged, _) => "acknowledged",
        (Occasion::Escalated { .. } | Occasion::Reminder(_), _) => "still open",
        (Occasion::News, IncidentKind::Opened) => "opened",
        (Occasion::News, IncidentKind::Resolved) => "resolved",
        (Occasion::News, IncidentKind::Updated) => "updated",
    };
    let Alert { severity, incident, headline, at, .. } = alert;
    let mut text = format!("{} [{severity}] {incident} {did}: {}\n", at.clock(), harmless(headline));
    for step in &alert.next {
        text.push_str(&format!("          {}: {}\n", harmless(&step.why), harmless(&step.run)));
    }
    text
}

// What a service answered may end in a headline; it must not steer the reader's terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::alert;

    #[test]
    fn an_alert_is_a_line_and_its_next_steps() {
        let text = lines(&Alert { headline: "5xx\x1b[2J\nrose".into(), ..alert(1) }, Occasion::News);
        assert_eq!(
            text,
            "13:51:10Z [warn] estimator/42-error_rate opened: 5xx?[2J?rose\n          see why: bellwether rollout status estimator/42\n"
        );
    }
}
