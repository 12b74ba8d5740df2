//! When no stage is entered: weekly, such as over weekends, or from one date to another.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc, Weekday};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::id::{IdError, text_serde};
use crate::time::Timestamp;

/// A time in which no stage is entered, from one edge up to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Freeze {
    /// Its first minute.
    pub from: Edge,
    /// The first minute after it. Of the same kind as `from` in a checked plan.
    pub to: Edge,
    /// Whose clocks say so. Default UTC.
    pub zone: Zone,
}

/// A minute on the clocks of a zone: of every week, `Fri 16:00`, or of one day, `2026-12-23T18:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^([A-Za-z]+ [0-9]{1,2}:[0-9]{1,2}|[0-9]+-[0-9]{1,2}-[0-9]{1,2}T[0-9]{1,2}:[0-9]{1,2})$", "examples" = ["Fri 16:00", "2026-12-23T18:00"]))]
pub enum Edge {
    /// Of one day.
    Date(NaiveDateTime),
    /// Of every week, in minutes since Monday 00:00.
    Weekly(i64),
}

/// A time zone by its name in the IANA database, such as `Europe/Berlin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("enum" = chrono_tz::TZ_VARIANTS.map(|zone| zone.name()).to_vec()))]
pub struct Zone(chrono_tz::Tz);

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: i64 = 24 * 60;
const WEEK_MINUTES: i64 = 7 * DAY_MINUTES;
const DATE: &str = "%Y-%m-%dT%H:%M";

impl Freeze {
    /// When it ends, if `now` is in it. A minute that the clocks leave out in spring ends an hour later.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let local = DateTime::<Utc>::from_timestamp_millis(now.as_ms())?.with_timezone(&self.zone.0).naive_local();
        let end = match (self.from, self.to) {
            (Edge::Date(from), Edge::Date(to)) => (from <= local && local < to).then_some(to)?,
            (Edge::Weekly(from), Edge::Weekly(to)) => {
                let minute = i64::from(local.weekday().num_days_from_monday()) * DAY_MINUTES
                    + i64::from(local.hour() * 60 + local.minute());
                let (since, length) = ((minute - from).rem_euclid(WEEK_MINUTES), (to - from).rem_euclid(WEEK_MINUTES));
                let left = (since < length).then_some(length - since)?;
                local.with_second(0)?.with_nanosecond(0)? + TimeDelta::minutes(left)
            }
            _ => return None,
        };
        let there = |at: NaiveDateTime| self.zone.0.from_local_datetime(&at).latest();
        let end = there(end).or_else(|| there(end + TimeDelta::hours(1)))?;
        Some(Timestamp::from_ms(end.timestamp_millis()))
    }

    /// Whether both edges are of one kind, and some time lies between them.
    pub fn is_sound(&self) -> bool {
        match (self.from, self.to) {
            (Edge::Date(from), Edge::Date(to)) => from < to,
            (Edge::Weekly(from), Edge::Weekly(to)) => from != to,
            _ => false,
        }
    }
}

impl FromStr for Edge {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("time", text, "write for example `Fri 16:00` or `2026-12-23T18:00`");
        let Some((day, time)) = text.split_once(' ') else {
            return NaiveDateTime::parse_from_str(text, DATE).map(Self::Date).map_err(|_| wrong());
        };
        let day: Weekday = day.parse().map_err(|_| wrong())?;
        let time = chrono::NaiveTime::parse_from_str(time, "%H:%M").map_err(|_| wrong())?;
        let minute = i64::from(time.hour() * 60 + time.minute());
        Ok(Self::Weekly(i64::from(day.num_days_from_monday()) * DAY_MINUTES + minute))
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Date(at) => write!(f, "{}", at.format(DATE)),
            Self::Weekly(minute) => {
                let day = usize::try_from(minute / DAY_MINUTES).ok().and_then(|day| DAYS.get(day)).unwrap_or(&"Mon");
                write!(f, "{day} {:02}:{:02}", minute % DAY_MINUTES / 60, minute % 60)
            }
        }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(chrono_tz::UTC)
    }
}

impl FromStr for Zone {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = |_| IdError::new("time zone", text, "write for example `Europe/Berlin`");
        text.parse().map(Self).map_err(wrong)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name())
    }
}

text_serde!(Edge);
text_serde!(Zone);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_ends_on_the_clocks_of_its_zone() {
        let check = |from: &str, to: &str, zone: &str, now: &str, until: Option<&str>| {
            let freeze = Freeze { from: from.parse().unwrap(), to: to.parse().unwrap(), zone: zone.parse().unwrap() };
            let seen = freeze.until(now.parse().unwrap()).map(Timestamp::seconds);
            assert_eq!(seen.as_deref(), until, "{from} to {to} in {zone}, at {now}");
            assert_eq!(freeze.from.to_string(), from);
        };
        // 2026-11-20 is a Friday.
        let weekend = |now, until| check("Fri 16:00", "Mon 08:00", "Europe/Berlin", now, until);
        weekend("2026-11-20T14:59:59Z", None);
        weekend("2026-11-20T15:00:00Z", Some("2026-11-23T07:00:00Z"));
        weekend("2026-11-23T06:59:59Z", Some("2026-11-23T07:00:00Z"));
        weekend("2026-11-23T07:00:00Z", None);
        // The clocks went back on 2026-10-25: the same Monday morning is an hour later in UTC.
        weekend("2026-10-24T12:00:00Z", Some("2026-10-26T07:00:00Z"));
        weekend("2026-10-17T12:00:00Z", Some("2026-10-19T06:00:00Z"));
        check("Mon 00:00", "Mon 01:00", "UTC", "2026-11-23T00:30:00Z", Some("2026-11-23T01:00:00Z"));
        check("2026-12-23T18:00", "2027-01-04T08:00", "UTC", "2026-12-31T00:00:00Z", Some("2027-01-04T08:00:00Z"));
        check("2026-12-23T18:00", "2027-01-04T08:00", "UTC", "2027-01-04T08:00:00Z", None);
        // 02:30 is left out on 2026-03-29.
        let spring = Some("2026-03-29T01:30:00Z");
        check("Sat 12:00", "Sun 02:30", "Europe/Berlin", "2026-03-28T20:00:00Z", spring);
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in ["Fri", "Fri 25:00", "Fri 16", "2026-12-23", "Someday 10:00", ""] {
            assert!(text.parse::<Edge>().is_err(), "{text}");
        }
        assert!("Mars/Olympus".parse::<Zone>().is_err());
        let mixed = Freeze {
            from: "Fri 16:00".parse().unwrap(),
            to: "2026-12-23T18:00".parse().unwrap(),
            zone: Zone::default(),
        };
        assert!(!mixed.is_sound());
        assert_eq!(mixed.until("2026-11-20T17:00:00Z".parse().unwrap()), None);
    }
}
