//! A plan's settings of a look of kind `load`, read by hand so that every flaw is told at once.
//!
//! ```yaml
//! load:
//!   path: /checkout              # one request, as the probe's `http` has it; or a chain:
//!   chain:
//!     - { path: /login, method: POST, body: '{"user": "a"}', capture: { token: { json: $.token } } }
//!     - { path: /me, headers: { authorization: "Bearer {token}" }, expect: ["status == 200"] }
//!   rate: 50/s                   # one of rate, users and stages
//!   users: 10
//!   stages: ["50/s for 10m", "to 200/s in 5m"]   # the last level goes on
//!   think: 1s                    # only users: how long after an answer until the next request; 1s
//!   connections: 50              # only a rate; 50. A user has one
//!   lag_max: 20ms                # our own lag (p99) over which a slot is void; 2 ms or a tenth of the measured p99
//! ```

use std::time::Duration;

use bellwether_protocol::plan::Flaw;
use bellwether_protocol::time::Span;
use bellwether_runtime::web::{Flaws, Question};
use serde_json::{Map, Value};

use crate::chain::Step;
use crate::course::{Course, CourseError, Stage, Unit};

/// What is done, how much of it, and how exact that must be.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) steps: Vec<Step>,
    pub(crate) course: Course,
    pub(crate) think: Duration,
    pub(crate) connections: usize,
    pub(crate) lag_max: Option<Duration>,
}

/// Connections of an open model, where nothing is said.
pub(crate) const CONNECTIONS: usize = 50;
/// How long users think, where nothing is said.
const THINK: Duration = Duration::from_secs(1);
/// Most connections that can be asked for.
const CONNECTIONS_MAX: usize = 10_000;

const OWN: [&str; 7] = ["chain", "connections", "lag_max", "rate", "stages", "think", "users"];

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    Load::read(settings).err().unwrap_or_default()
}

impl Load {
    /// Reads settings.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(settings: &Value) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let nothing = Map::new();
        let fields = flaws.object(settings, "").unwrap_or(&nothing);
        let known: Vec<&str> = OWN.into_iter().chain(Question::KEYS).collect();
        flaws.only(fields, "", &known);
        let (steps, wrong) = match fields.get("chain") {
            None => (vec![Step::new(Question::read(&mut flaws, fields))], Vec::new()),
            Some(chain) => {
                for key in Question::KEYS.into_iter().filter(|key| fields.contains_key(*key)) {
                    flaws.add(format!("/{key}"), "the requests are in `chain`", "move it into an entry of `chain`");
                }
                match Step::read_all(chain) {
                    Ok(steps) => (steps, Vec::new()),
                    Err(wrong) => (Vec::new(), wrong),
                }
            }
        };
        for Flaw { pointer, message, help } in wrong {
            flaws.add(format!("/chain{pointer}"), message, help);
        }
        let course = course(&mut flaws, fields);
        let think = span(&mut flaws, fields, "think").unwrap_or(THINK);
        let lag_max = span(&mut flaws, fields, "lag_max");
        let is_open = course.as_ref().is_none_or(|course| course.unit == Unit::PerSecond);
        if is_open && fields.contains_key("think") {
            flaws.add("/think", "only users think", "write `users`, or leave it out");
        }
        if !is_open && fields.contains_key("connections") {
            flaws.add("/connections", "each user has one connection", "leave it out");
        }
        let connections = pool(&mut flaws, fields.get("connections"), course.as_ref());
        match course {
            Some(course) => flaws.none_in(Self { steps, course, think, connections, lag_max }),
            None => flaws.none_in(()).and(Err(Vec::new())),
        }
    }
}

fn course(flaws: &mut Flaws, fields: &Map<String, Value>) -> Option<Course> {
    const HELP: &str = "write `rate: 50/s`, `users: 10`, or `stages: [\"50/s for 10m\", \"to 200/s in 5m\"]`";
    let given: Vec<&str> = ["rate", "users", "stages"].into_iter().filter(|key| fields.contains_key(*key)).collect();
    let [key] = given.as_slice() else {
        flaws.add("", "one of `rate`, `users` and `stages` is needed", HELP);
        return None;
    };
    let value = fields.get(*key)?;
    let read = match (*key, value) {
        ("stages", Value::Array(items)) => {
            let stages: Result<Vec<Stage>, CourseError> =
                items.iter().map(|item| item.as_str().unwrap_or_default().parse()).collect();
            stages.and_then(|stages| Course::new(&stages, true))
        }
        ("users", Value::Number(users)) => users.to_string().parse().and_then(Course::level),
        ("rate", Value::String(rate)) => rate.parse().and_then(Course::level),
        _ => Err(CourseError::Level(value.to_string().chars().take(80).collect())),
    };
    let unit = if *key == "rate" { Some(Unit::PerSecond) } else { None };
    match read {
        Ok(course) if unit.is_none_or(|unit| course.unit == unit) => Some(course),
        Ok(_) => {
            flaws.add("/rate", "this is a number of users", "write `rate: 50/s`, or `users: 50`");
            None
        }
        Err(error) => {
            flaws.add(format!("/{key}"), error.to_string(), HELP);
            None
        }
    }
}

/// A number of connections that is possible.
pub(crate) fn connections(wanted: usize) -> Result<usize, String> {
    let is_possible = (1..=CONNECTIONS_MAX).contains(&wanted);
    is_possible.then_some(wanted).ok_or_else(|| format!("1 to {CONNECTIONS_MAX} connections are possible"))
}

fn pool(flaws: &mut Flaws, value: Option<&Value>, course: Option<&Course>) -> usize {
    let wanted = match (value, course) {
        (Some(value), _) => value.as_u64().and_then(|value| usize::try_from(value).ok()).unwrap_or_default(),
        (None, Some(course)) if course.unit == Unit::Users => course.users(),
        (None, _) => CONNECTIONS,
    };
    connections(wanted).unwrap_or_else(|why| {
        flaws.add(if value.is_some() { "/connections" } else { "" }, why, "a user has one connection");
        1
    })
}

fn span(flaws: &mut Flaws, fields: &Map<String, Value>, key: &str) -> Option<Duration> {
    let pointer = format!("/{key}");
    let text = flaws.text(fields.get(key)?, &pointer)?;
    match text.parse::<Span>() {
        Ok(span) => Some(span.to_std()),
        Err(error) => {
            flaws.add(pointer, error.to_string(), "write for example `1s`");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_read() {
        let load = Load::read(&json!({"path": "/", "rate": "3000/m", "lag_max": "5ms"})).unwrap();
        assert!((load.course.peak() - 50.0).abs() < 1e-9);
        assert_eq!((load.connections, load.lag_max), (CONNECTIONS, Some(Duration::from_millis(5))));
        let chain = json!([{"path": "/a", "capture": {"x": {"json": "$.x"}}}, {"path": "/b/{x}"}]);
        let load = Load::read(&json!({"chain": chain, "stages": ["10 for 1m", "to 30 in 1m"], "think": "1s"})).unwrap();
        assert_eq!((load.steps.len(), load.connections, load.think), (2, 30, Duration::from_secs(1)));
        assert!(Load::read(&json!({"path": "/", "users": 3})).is_ok());
    }

    #[test]
    fn every_flaw_is_told_with_its_place() {
        let check = |settings: Value, expected: &[&str]| {
            let found: Vec<String> = flaws(&settings).iter().map(|f| format!("{} {}", f.pointer, f.message)).collect();
            assert_eq!(found, expected, "{settings}");
        };
        check(
            json!([]),
            &[" this must be a mapping", " `path` is missing", " one of `rate`, `users` and `stages` is needed"],
        );
        check(
            json!({"path": "/", "rate": "5", "connections": 0}),
            &["/rate this is a number of users", "/connections 1 to 10000 connections are possible"],
        );
        check(json!({"path": "/", "rate": "5/s", "users": 5}), &[" one of `rate`, `users` and `stages` is needed"]);
        check(
            json!({"path": "/", "chain": [{"path": "x"}], "users": 5, "connections": 7, "think": 1, "lag_max": "5"}),
            &[
                "/path the requests are in `chain`",
                "/chain/0/path `x` is not a path",
                "/think this must be text",
                "/lag_max duration `5` has no unit: write `5s`, `5m` or `5h`",
                "/connections each user has one connection",
            ],
        );
        check(
            json!({"path": "/", "stages": ["5/s for 1m", "5 for 1m"]}),
            &["/stages rates and users are two models: use one of them in all stages"],
        );
        check(
            json!({"path": "/", "rate": "5/s", "think": "1s", "color": 1}),
            &["/color unknown key `color`", "/think only users think"],
        );
    }
}
