//! Who is told of what, when: routes, quiet hours, reminders, escalation. Pure.

use std::collections::BTreeMap;

use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::id::{Audience, Service, StageName};
use bellwether_protocol::time::{Span, Timestamp};
use chrono::{DateTime, Days, NaiveTime, TimeZone};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, de};

use crate::case::{Case, Occasion};

/// One route. Every route that an alert matches counts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Only alerts that ask at least this. Default `info`: all.
    #[serde(default = "info")]
    pub(crate) severity: Severity,
    /// Only these services. Default: all.
    #[serde(default)]
    pub(crate) services: Vec<Service>,
    /// Only these stages. Default: all, and alerts outside of a stage.
    #[serde(default)]
    pub(crate) stages: Vec<StageName>,
    /// Only alerts for which the plan names one of these in `tell`. Default: all.
    #[serde(default)]
    pub(crate) tell: Vec<Audience>,
    /// Which bridges tell.
    pub(crate) to: Vec<String>,
    /// When what is no page waits.
    #[serde(default)]
    pub(crate) quiet: Option<QuietHours>,
    /// How often an incident that is open and not acknowledged is told again. Default: never.
    #[serde(default)]
    pub(crate) remind_every: Option<Span>,
    /// Who is told when nobody acknowledges.
    #[serde(default)]
    pub(crate) escalate: Option<Escalation>,
}

/// Who is told when nobody acknowledges.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Escalation {
    /// How long an incident may be open without an acknowledgement.
    pub(crate) after: Span,
    /// Which bridges tell then, as a page.
    pub(crate) to: Vec<String>,
}

/// Hours of every day in which only pages are told; the rest is told when they end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuietHours {
    /// The time zone by its IANA name, such as `Europe/Berlin`.
    #[serde(deserialize_with = "zone")]
    pub(crate) zone: Tz,
    /// When they begin, such as `22:00`.
    #[serde(deserialize_with = "time")]
    pub(crate) from: NaiveTime,
    /// When they end, such as `07:00`; on the next day when that is not later.
    #[serde(deserialize_with = "time")]
    pub(crate) until: NaiveTime,
}

impl Route {
    fn matches(&self, alert: &Alert) -> bool {
        alert.severity >= self.severity
            && (self.services.is_empty() || self.services.contains(&alert.service))
            && (self.stages.is_empty() || alert.stage.as_ref().is_some_and(|stage| self.stages.contains(stage)))
            && (self.tell.is_empty() || alert.tell.iter().any(|name| self.tell.contains(name)))
    }

    /// When what asks `severity` may be told.
    fn not_before(&self, severity: Severity, now: Timestamp) -> Timestamp {
        let quiet = self.quiet.as_ref().filter(|_| severity < Severity::Page);
        quiet.and_then(|quiet| quiet.end(now)).unwrap_or(now)
    }
}

impl QuietHours {
    /// When the quiet hours end that `now` is in, if it is.
    pub(crate) fn end(&self, now: Timestamp) -> Option<Timestamp> {
        let now = self.zone.from_utc_datetime(&DateTime::from_timestamp_millis(now.as_ms())?.naive_utc());
        let (date, time) = (now.date_naive(), now.time());
        let ends = if self.from < self.until {
            (self.from <= time && time < self.until).then_some(date)
        } else if time >= self.from {
            date.checked_add_days(Days::new(1))
        } else {
            (time < self.until).then_some(date)
        };
        let end = ends?.and_time(self.until);
        // An hour that clocks skip has no such instant: then the hours end with the hour after it.
        let end = self.zone.from_local_datetime(&end).earliest();
        let end = end.or_else(|| self.zone.from_local_datetime(&(ends?.and_time(self.until) + HOUR)).earliest())?;
        Some(Timestamp::from_ms(end.timestamp_millis()))
    }
}

const HOUR: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// Bridges, and from when on each may tell.
pub(crate) type Due = BTreeMap<String, Timestamp>;

/// Every route, in the file's order.
#[derive(Debug)]
pub(crate) struct Routes(pub(crate) Vec<Route>);

impl Routes {
    /// Which bridges tell `alert`: those of its routes, and those that told of the incident before.
    pub(crate) fn of(&self, alert: &Alert, case: Option<&Case>, now: Timestamp) -> Due {
        let mut due = Due::new();
        for route in self.0.iter().filter(|route| route.matches(alert)) {
            let not_before = route.not_before(alert.severity, now);
            for bridge in &route.to {
                due.entry(bridge.clone()).and_modify(|at| *at = not_before.min(*at)).or_insert(not_before);
            }
        }
        for bridge in case.iter().flat_map(|case| &case.bridges) {
            due.entry(bridge.clone()).or_insert(now);
        }
        due
    }

    /// What is to be told of `case` though nothing has happened.
    pub(crate) fn overdue(&self, case: &Case, now: Timestamp) -> Vec<(Occasion, Due)> {
        let mut found = Vec::new();
        if !case.waits_for_people() {
            return found;
        }
        let open = now.since(case.since);
        let routes = || self.0.iter().filter(|route| route.matches(&case.last));
        for escalation in routes().filter_map(|route| route.escalate.as_ref()).filter(|found| open >= found.after) {
            let fresh = escalation.to.iter().filter(|bridge| !case.escalated.contains(*bridge));
            let due: Due = fresh.map(|bridge| (bridge.clone(), now)).collect();
            if !due.is_empty() {
                found.push((Occasion::Escalated { after: escalation.after }, due));
            }
        }
        let Some(every) = routes().filter_map(|route| route.remind_every).min() else { return found };
        let number = open.as_ms() / every.as_ms().max(1);
        if number > case.reminded {
            let reminding = routes().filter(|route| route.remind_every.is_some());
            // Quiet hours drop reminders: in the morning the last one is enough.
            let loud = reminding.filter(|route| route.not_before(case.last.severity, now) <= now);
            let due = loud.flat_map(|route| &route.to).map(|bridge| (bridge.clone(), now)).collect();
            found.push((Occasion::Reminder(number), due));
        }
        found
    }
}

fn info() -> Severity {
    Severity::Info
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_| de::Error::custom(format!("no time zone `{text}`: write one such as Europe/Berlin or UTC")))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = NaiveTime::parse_from_str(&text, "%H:%M");
    time.map_err(|_| de::Error::custom(format!("no time of day `{text}`: write `22:00`, in quotes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::alert;

    fn routes(yaml: &str) -> Routes {
        Routes(bellwether_runtime::parse_config("routes.yaml", yaml).unwrap())
    }

    #[test]
    fn quiet_hours_end_when_the_zone_says() {
        let check = |zone: &str, from: &str, until: &str, now: &str, expected: Option<&str>| {
            let yaml = format!("{{ zone: {zone}, from: \"{from}\", until: \"{until}\" }}");
            let quiet: QuietHours = bellwether_runtime::parse_config("quiet.yaml", &yaml).unwrap();
            let end = quiet.end(now.parse().unwrap()).map(Timestamp::seconds);
            assert_eq!(end.as_deref(), expected, "{yaml} at {now}");
        };
        let berlin = "Europe/Berlin";
        check(berlin, "22:00", "07:00", "2026-05-05T19:59:59Z", None);
        check(berlin, "22:00", "07:00", "2026-05-05T20:00:00Z", Some("2026-05-06T05:00:00Z"));
        check(berlin, "22:00", "07:00", "2026-05-06T04:59:00Z", Some("2026-05-06T05:00:00Z"));
        check(berlin, "22:00", "07:00", "2026-05-06T05:00:00Z", None);
        // In winter the same hours are an hour later in UTC.
        check(berlin, "22:00", "07:00", "2026-01-05T20:30:00Z", None);
        check(berlin, "22:00", "07:00", "2026-01-05T21:00:00Z", Some("2026-01-06T06:00:00Z"));
        check("UTC", "12:00", "13:00", "2026-05-05T12:30:00Z", Some("2026-05-05T13:00:00Z"));
        // On 29 March 2026 there is no 02:30 in Berlin.
        check(berlin, "22:00", "02:30", "2026-03-29T00:30:00Z", Some("2026-03-29T01:30:00Z"));
        let wrong = "{ zone: Berlin, from: \"22:00\", until: \"07:00\" }";
        let error = bellwether_runtime::parse_config::<QuietHours>("quiet.yaml", wrong).unwrap_err().to_string();
        assert!(error.contains("Europe/Berlin"), "{error}");
    }

    #[test]
    fn every_route_that_matches_counts_and_quiet_hours_never_silence_a_page() {
        let routes = routes(
            "- { to: [chat], severity: warn, quiet: { zone: UTC, from: \"13:00\", until: \"14:00\" } }\n\
             - { to: [pager], severity: page }\n- { to: [boss], tell: [oncall] }\n\
             - { to: [mail], services: [other], stages: [canary] }\n",
        );
        let now = alert(1).at;
        let later: Timestamp = "2026-05-05T14:00:00Z".parse().unwrap();
        let check = |alert: Alert, case: Option<&Case>, expected: &[(&str, Timestamp)]| {
            let expected: Due = expected.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
            assert_eq!(routes.of(&alert, case, now), expected, "{alert:?}");
        };
        check(Alert { severity: Severity::Info, ..alert(1) }, None, &[]);
        check(alert(1), None, &[("chat", later)]);
        check(Alert { severity: Severity::Page, ..alert(1) }, None, &[("chat", now), ("pager", now)]);
        check(Alert { tell: vec!["oncall".parse().unwrap()], ..alert(1) }, None, &[("boss", now), ("chat", later)]);
        let elsewhere = Alert { service: "other".parse().unwrap(), stage: "canary".parse().ok(), ..alert(1) };
        check(elsewhere, None, &[("chat", later), ("mail", now)]);
        // Who heard of it hears of its end.
        let mut case = Case::new(&alert(1));
        case.bridges.insert("pager".into());
        check(Alert { severity: Severity::Info, ..alert(2) }, Some(&case), &[("pager", now)]);
    }

    #[test]
    fn nobody_acknowledges() {
        let routes = routes(
            "- { to: [chat], remind_every: 10m, escalate: { after: 15m, to: [boss] } }\n\
             - { to: [mail], services: [other], escalate: { after: 1m, to: [nobody] } }\n",
        );
        let mut case = Case::new(&alert(1));
        let at = |minutes: u64, case: &Case| {
            let found = routes.overdue(case, alert(1).at + Span::from_secs(60 * minutes));
            found.into_iter().map(|(what, due)| (what, due.into_keys().collect::<String>())).collect::<Vec<_>>()
        };
        let escalated = Occasion::Escalated { after: Span::from_secs(900) };
        assert_eq!(at(9, &case), []);
        assert_eq!(at(10, &case), [(Occasion::Reminder(1), "chat".into())]);
        case.reminded = 1;
        assert_eq!(at(15, &case), [(escalated, "boss".into())]);
        case.escalated.insert("boss".into());
        assert_eq!(at(15, &case), []);
        // An agent that was away reminds once, not once for each that was missed.
        assert_eq!(at(45, &case), [(Occasion::Reminder(4), "chat".into())]);
        case.acknowledged = Some(crate::case::Acknowledged { by: "ann".parse().unwrap(), at: alert(1).at });
        assert_eq!(at(45, &case), []);
    }
}
