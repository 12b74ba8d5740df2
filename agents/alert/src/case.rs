//! One incident as this agent knows it: what was last said, who is told, who has taken it up.
//!
//! Pure: it is told what happened, and when. Kept in the outbox, so that a restart knows it too.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::alert::{Alert, IncidentKind, Severity};
use bellwether_protocol::id::Principal;
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// Why something is told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Occasion {
    /// Somebody has taken the incident up.
    Acknowledged,
    /// Nobody has, for so long.
    Escalated { after: Span },
    #[default]
    News,
    /// It is still open: the reminder of this number, from 1.
    Reminder(u64),
}

impl Occasion {
    /// Behind the id of a message, so that each telling of it has an id of its own.
    pub(crate) fn suffix(self) -> String {
        match self {
            Self::Acknowledged => ".acknowledged".to_owned(),
            Self::Escalated { after } => format!(".escalated-{}", after.as_ms()),
            Self::News => String::new(),
            Self::Reminder(number) => format!(".reminder-{number}"),
        }
    }
}

/// Who took an incident up, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    pub(crate) by: Principal,
    pub(crate) at: Timestamp,
}

/// What one bridge keeps of one incident.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thread {
    /// What was about to be posted when this was written: it may have been.
    pub(crate) intent: Option<String>,
    /// What was posted, and what the other side calls it.
    pub(crate) posted: BTreeMap<String, String>,
    /// What was last told.
    pub(crate) last: Option<Alert>,
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// What was first heard of it: its subject stays that of this.
    pub(crate) first: Alert,
    pub(crate) last: Alert,
    /// Since when it asks as much of people as it does.
    pub(crate) since: Timestamp,
    pub(crate) acknowledged: Option<Acknowledged>,
    /// How many reminders there were.
    pub(crate) reminded: u64,
    /// Who is told of it; also of its end.
    pub(crate) bridges: BTreeSet<String>,
    /// Who was told only because nobody took it up.
    pub(crate) escalated: BTreeSet<String>,
    /// By bridge.
    pub(crate) threads: BTreeMap<String, Thread>,
}

impl Case {
    pub(crate) fn new(alert: &Alert) -> Self {
        Self {
            first: alert.clone(),
            last: alert.clone(),
            since: alert.at,
            acknowledged: None,
            reminded: 0,
            bridges: BTreeSet::new(),
            escalated: BTreeSet::new(),
            threads: BTreeMap::new(),
        }
    }

    /// Takes up what was said next. Whoever took up something smaller has not taken up this.
    pub(crate) fn fold(&mut self, alert: &Alert) {
        let begins_anew = !self.is_open() && alert.kind != IncidentKind::Resolved;
        if begins_anew || alert.severity > self.last.severity {
            self.since = alert.at;
            self.acknowledged = None;
            self.reminded = 0;
            self.escalated.clear();
        }
        self.last = alert.clone();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.last.kind != IncidentKind::Resolved
    }

    /// Whether people should still do something, and nobody said that they do.
    pub(crate) fn waits_for_people(&self) -> bool {
        self.is_open() && self.acknowledged.is_none() && self.last.severity > Severity::Info
    }

    /// Whether `alert` was heard before: a stream that is read again says the same again.
    pub(crate) fn knows(&self, alert: &Alert) -> bool {
        alert.seq <= self.last.seq && alert.at <= self.last.at
    }
}

/// Whether people should hear of `next` after `last`, or only a figure in it has changed.
pub(crate) fn is_news(last: Option<&Alert>, next: &Alert) -> bool {
    last.is_none_or(|last| {
        let was_open = last.kind != IncidentKind::Resolved;
        let turned = next.kind != IncidentKind::Updated && (was_open == (next.kind == IncidentKind::Resolved));
        turned || next.severity > last.severity || next.state != last.state || next.proof != last.proof
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::alert;

    #[test]
    fn only_a_change_of_state_is_news() {
        let first = alert(1);
        let update = Alert { kind: IncidentKind::Updated, headline: "6.1%".into(), ..alert(2) };
        let resolved = Alert { kind: IncidentKind::Resolved, ..alert(3) };
        for (last, next, expected) in [
            (None, first.clone(), true),
            (Some(&first), update.clone(), false),
            (Some(&first), Alert { severity: Severity::Page, ..update.clone() }, true),
            (Some(&first), Alert { state: "applied".into(), ..update }, true),
            (Some(&first), resolved.clone(), true),
            (Some(&resolved), first.clone(), true),
        ] {
            assert_eq!(is_news(last, &next), expected, "{next:?}");
        }
    }

    #[test]
    fn what_was_taken_up_is_waited_for_again_when_it_grows() {
        let mut case = Case::new(&alert(1));
        case.acknowledged = Some(Acknowledged { by: "ann".parse().unwrap(), at: alert(1).at });
        case.fold(&alert(2));
        assert!(!case.waits_for_people());
        let page = Alert { severity: Severity::Page, at: alert(1).at + Span::from_secs(60), ..alert(3) };
        case.fold(&page);
        assert!(case.waits_for_people());
        assert_eq!(case.since, page.at);
        case.fold(&Alert { kind: IncidentKind::Resolved, ..page });
        assert!(!case.waits_for_people());
        assert!(case.knows(&alert(2)) && !case.knows(&alert(5)));
    }
}
