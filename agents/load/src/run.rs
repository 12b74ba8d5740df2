//! One load by hand, without a mesh: what is shown while it runs, and what the exit code says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bellwether_protocol::plan::Flaw;
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::Mode;
use bellwether_runtime::web::{Allow, ByHand, Dialer, Origin};
use serde_json::Value;

use crate::LoadError;
use crate::chain::{Chain, Step};
use crate::config::{Config, Share};
use crate::course::{Course, Level, Stage, Unit};
use crate::desk::Rules;
use crate::engine::{Engine, Word, Work};
use crate::settings::{CONNECTIONS, Load, connections};
use crate::show::{Ended, Screen};
use crate::tally::Tally;
use crate::threshold::{Threshold, Verdict};

/// Put load on a target by hand
#[derive(Debug, clap::Subcommand)]
pub enum LoadVerb {
    /// Put load on a URL, and tell how it fared: exit 0 kept, 1 threshold broken, 4 could not tell
    Run(RunArgs),
}

/// One load by hand.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Where to
    url: String,
    /// Arrivals: `50/s`, `3000/m`; they come whether or not the target keeps up
    #[arg(long, group = "model", value_name = "RATE")]
    rate: Option<Level>,
    /// Users: each asks again when it was answered
    #[arg(long, group = "model", value_name = "N")]
    users: Option<Level>,
    /// Stages, separated by commas: `50/s for 1m, to 200/s in 2m`; without `/s` they are users
    #[arg(long, group = "model", value_name = "STAGES", value_delimiter = ',', num_args = 1)]
    stages: Vec<Stage>,
    /// For how long, with --rate or --users
    #[arg(long, default_value = "30s", conflicts_with = "stages", value_name = "SPAN")]
    duration: Span,
    /// What must hold: `p99 < 500ms`, `mean < 3s`, `max < 2s`, `errors < 1%`; may be repeated
    #[arg(long = "threshold", value_name = "THRESHOLD")]
    thresholds: Vec<Threshold>,
    /// How long after its intended start an arrival without an answer is over
    #[arg(long, default_value = "5s", value_name = "SPAN")]
    timeout: Span,
    /// How long a user waits after an answer
    #[arg(long, default_value = "0s", value_name = "SPAN")]
    think: Span,
    /// Most connections of a rate
    #[arg(long, value_name = "N", conflicts_with = "users")]
    connections: Option<usize>,
    /// Our own lag (p99) over which a second is void; default: a tenth of the lowest latency threshold,
    /// else of the measured p99; at least 2 ms
    #[arg(long, value_name = "SPAN")]
    lag_max: Option<Span>,
    #[command(flatten)]
    asked: ByHand,
    /// Several requests per arrival: a YAML list of `{ path, method, headers, body, expect, capture }`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "headers", "body", "expect"])]
    chain: Option<PathBuf>,
    /// Keep to the limits of this load agent's file; without one, only this URL's host gets load
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Lines instead of a live block
    #[arg(long)]
    plain: bool,
}

/// Kept, broken, could not tell: as the exit codes of every verb.
const KEPT: u8 = 0;
const BROKEN: u8 = 1;
const COULD_NOT_TELL: u8 = 4;

/// Width of a window.
const WINDOW: Span = Span::from_secs(1);
/// Longest timeout.
const TIMEOUT_MAX: Span = Span::from_secs(60);

impl LoadVerb {
    /// Does it, and gives the exit code.
    ///
    /// # Errors
    /// When what was asked for makes no sense, or is over the limits of `--config`.
    pub async fn run(&self, json: bool) -> Result<u8, LoadError> {
        let Self::Run(args) = self;
        args.run(json).await
    }
}

impl RunArgs {
    async fn run(&self, json: bool) -> Result<u8, LoadError> {
        let lowest = self.thresholds.iter().filter_map(Threshold::latency).min().map(|limit| limit / 10);
        let mut tally = Tally::new(self.lag_max.map(Span::to_std).or(lowest));
        let work = self.work()?;
        let course = work.course.clone();
        let mut screen = Screen::new(Mode::choose(json, self.plain), &self.url, &course);
        let begin = Instant::now();
        let mut engine = Engine::start(work).map_err(LoadError::Thread)?;
        let shutdown = bellwether_runtime::shutdown();
        tokio::pin!(shutdown);
        let mut ended = Ended::Over;
        loop {
            tokio::select! {
                word = engine.next() => match word {
                    Some(Word::Window(window)) => {
                        let why = tally.add((*window).clone());
                        screen.window(&window, why.as_deref(), &tally, begin.elapsed());
                    }
                    Some(Word::Shut(why)) => ended = Ended::Shut(why),
                    None => break,
                },
                () = &mut shutdown, if ended == Ended::Over => {
                    ended = Ended::Interrupted;
                    engine.stop();
                }
            }
        }
        let judged: Vec<_> = self.thresholds.iter().map(|threshold| threshold.judge(&tally)).collect();
        let has = |verdict: Verdict| judged.iter().any(|judged| judged.verdict == verdict);
        let code = match &ended {
            _ if has(Verdict::Broken) => BROKEN,
            Ended::Shut(_) => BROKEN,
            Ended::Interrupted => COULD_NOT_TELL,
            Ended::Over if has(Verdict::CouldNotTell) || tally.sound.counts.sent == 0 => COULD_NOT_TELL,
            Ended::Over => KEPT,
        };
        screen.end(&tally, &judged, &ended, begin.elapsed(), code);
        Ok(code)
    }

    fn work(&self) -> Result<Work, LoadError> {
        let refused = LoadError::Refused;
        let (origin, path) = Origin::split(&self.url).map_err(refused)?;
        let course = self.course().map_err(refused)?;
        let load = Load { steps: self.steps(&path)?, ..self.load(course)? };
        let (allow, tls) = match &self.config {
            None => (Allow::only(std::slice::from_ref(&origin)).map_err(refused)?, bellwether_runtime::tls()),
            Some(file) => {
                let Config { load: config, .. } = bellwether_runtime::load_config(file)?;
                config.check_duration(&load.course).map_err(refused)?;
                config.check(std::iter::once(Share::of(&load))).map_err(refused)?;
                let tls = config.ca.as_deref().map(bellwether_runtime::tls_with_ca).transpose()?;
                (config.allow, tls.unwrap_or_else(bellwether_runtime::tls))
            }
        };
        if self.timeout == Span::ZERO || self.timeout > TIMEOUT_MAX {
            return Err(LoadError::Refused(format!("--timeout {} is not between 1ms and {TIMEOUT_MAX}", self.timeout)));
        }
        let dialer = Dialer::new(allow, tls);
        dialer.check(&origin).map_err(refused)?;
        let target = self.asked.target(origin, self.timeout).map_err(refused)?;
        let rules = Rules {
            timeout: self.timeout.to_std(),
            connections_max: load.connections,
            width: WINDOW,
            edges_ms: Vec::new(),
        };
        let begin = Instant::now();
        let passed = move || i64::try_from(begin.elapsed().as_millis()).unwrap_or(i64::MAX);
        Ok(Work {
            chain: Chain { target, dialer: Arc::new(dialer), steps: load.steps },
            course: load.course,
            think: load.think,
            rules,
            now: Arc::new(move || Timestamp::from_ms(passed())),
        })
    }

    fn course(&self) -> Result<Course, String> {
        let lasts = self.duration;
        let stages = match (self.rate, self.users) {
            (Some(level), _) if level.unit != Unit::PerSecond => return Err("a rate has a unit: `--rate 50/s`".into()),
            (_, Some(level)) if level.unit != Unit::Users => return Err("users have no unit: `--users 50`".into()),
            (Some(level), _) | (_, Some(level)) => vec![Stage { level, ramp: false, lasts }],
            (None, None) if self.stages.is_empty() => return Err("say --rate, --users or --stages".into()),
            (None, None) => self.stages.clone(),
        };
        Course::new(&stages, false).map_err(|error| error.to_string())
    }

    /// Everything but the requests.
    fn load(&self, course: Course) -> Result<Load, LoadError> {
        let wanted = match course.unit {
            Unit::PerSecond => self.connections.unwrap_or(CONNECTIONS),
            Unit::Users => course.users(),
        };
        let connections = connections(wanted).map_err(LoadError::Refused)?;
        Ok(Load { steps: Vec::new(), course, think: self.think.to_std(), connections, lag_max: None })
    }

    fn steps(&self, path: &str) -> Result<Vec<Step>, LoadError> {
        let Some(file) = &self.chain else {
            return Ok(vec![Step::new(self.asked.question(path).map_err(LoadError::Refused)?)]);
        };
        let chain = bellwether_runtime::load_config::<Value>(file)?;
        Step::read_all(&chain).map_err(|flaws| LoadError::Refused(told(&flaws)))
    }
}

/// Flaws as one text.
pub(crate) fn told(flaws: &[Flaw]) -> String {
    let texts: Vec<String> =
        flaws.iter().take(3).map(|f| format!("{} {}: {}", f.pointer, f.message, f.help).trim().to_owned()).collect();
    texts.join("\n")
}
