//! One rollout until it ends: its decisions become events, its status becomes the live block.
//!
//! What happened is read from the log, never from the status, which may lag; so an ending is shown
//! once, with the words of the record that holds it.

use std::time::Duration;

use bellwether_bus::{Bus, From as Begin, KvEntry, Message};
use bellwether_protocol::codec;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::id::{Principal, Release, RolloutId};
use bellwether_protocol::presence::{PRESENCE_EVERY, Stuck};
use bellwether_protocol::reason::{Ending, Hold, Reason};
use bellwether_protocol::record::Record;
use bellwether_protocol::status::{StageMark, State, Status};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_runtime::Mode;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agents::stuck;
use crate::args::now;
use crate::ask::{Asked, DECIDED_WITHIN, ask};
use crate::error::{VerbError, exit};
use crate::keys::{Pressed, Prompt};
use crate::render::{Frame, Line, Look, Told, draw, events, final_lines, hold_words, span, stuck_words};
use crate::replay::{Explain, explained};
use crate::rollout::held;
use crate::screen::{Keyboard, Screen};

/// What to follow, and how to show it.
#[derive(Debug)]
pub(crate) struct Follow<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) rollout: RolloutId,
    pub(crate) mode: Mode,
    pub(crate) look: Look,
    /// Give up after this long.
    pub(crate) timeout: Option<Duration>,
    /// Who asks when a key is pressed; without, keys are not read.
    pub(crate) asker: Option<Principal>,
    /// Says why, when that key is pressed.
    pub(crate) explain: Explain,
    /// Lines from elsewhere, shown between the events.
    pub(crate) notes: Option<&'a mut mpsc::Receiver<String>>,
}

/// How following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followed {
    /// The rollout ended.
    Ended(Ending),
    /// It was left; the rollout goes on.
    Left,
    /// It did not end in time.
    TimedOut {
        /// Whether its status was known to the end.
        known: bool,
    },
}

impl Followed {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Ended(ending) => ending.exit_code(),
            Self::Left => exit::HELD,
            Self::TimedOut { known: true } => exit::HELD,
            Self::TimedOut { known: false } => exit::UNKNOWN,
        }
    }
}

/// At most so often the block is redrawn.
const REDRAW: Duration = Duration::from_millis(250);
/// The block is redrawn at least so often, because it shows the time.
const TICK: Duration = Duration::from_secs(1);
/// A quiet stage says so this often, so that CI does not end the job.
const STILL: Duration = Duration::from_secs(600);
/// How long the last frame waits for a status that has seen the end.
const LAST_FRAME: Duration = Duration::from_secs(3);
/// Answers to keys that wait to be shown.
const SAID_MAX: usize = 16;

/// Shows a rollout until it ends, is left, or time is up.
///
/// # Errors
/// When there is no such rollout, or the terminal or the log cannot be used.
pub(crate) async fn follow(mut options: Follow<'_>) -> Result<Followed, VerbError> {
    let notes = options.notes.take();
    let subject = options.bus.prefix().decision(&options.rollout.service);
    let last = options.bus.last(Stream::Decisions, &subject).await?.map(|message| message.seq);
    let keyboard = options.asker.is_some().then(Keyboard::open).flatten();
    let mut view = View { is_part: notes.is_some(), ..View::new(options, last, keyboard.is_some()) };
    view.run(&subject, keyboard, notes).await
}

struct View<'a> {
    options: Follow<'a>,
    screen: Screen,
    prompt: Prompt,
    told: Told,
    /// The rollout that the log is at.
    at: Option<RolloutId>,
    /// What is in the log already: an ending before that may be followed by more.
    caught_up_at: Option<u64>,
    is_caught_up: bool,
    release: Option<Release>,
    ended: Option<(Ending, String, Instant)>,
    status: Option<Status>,
    /// Why nothing is decided, as it is found out beside the log.
    stuck: Watched,
    quiet_since: Instant,
    drawn: Option<Instant>,
    has_keys: bool,
    /// Whether the caller goes on and says itself what follows.
    is_part: bool,
    is_known: bool,
    said: mpsc::Sender<Vec<String>>,
    answers: mpsc::Receiver<Vec<String>>,
}

impl<'a> View<'a> {
    fn new(options: Follow<'a>, last: Option<u64>, has_keys: bool) -> Self {
        let (said, answers) = mpsc::channel(SAID_MAX);
        let stuck = Watched::new(options.bus.clone());
        Self {
            options,
            screen: Screen::default(),
            prompt: Prompt::default(),
            told: Told::default(),
            at: None,
            caught_up_at: last,
            is_caught_up: last.is_none(),
            release: None,
            ended: None,
            status: None,
            stuck,
            quiet_since: Instant::now(),
            drawn: None,
            has_keys,
            is_part: false,
            is_known: false,
            said,
            answers,
        }
    }

    async fn run(
        &mut self,
        subject: &str,
        mut keyboard: Option<Keyboard>,
        mut notes: Option<&mut mpsc::Receiver<String>>,
    ) -> Result<Followed, VerbError> {
        let mut log = self.options.bus.read(Stream::Decisions, vec![subject.to_owned()], Begin::Start);
        let mut statuses = self.options.bus.kv(Bucket::Status).watch();
        let mut redraw = tokio::time::interval(REDRAW);
        let until = self.options.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let followed = tokio::select! {
                message = log.next() => { self.message(&message)?; None }
                entry = statuses.next() => { self.entry(&entry); None }
                key = next_key(&mut keyboard) => self.key(key),
                Some(lines) = self.answers.recv() => { self.note(&lines)?; None }
                Ok(()) = self.stuck.told.changed() => { self.note_stuck()?; None }
                Some(line) = next_note(&mut notes) => { self.note(&[line])?; None }
                _ = redraw.tick() => self.tick()?,
                () = bellwether_runtime::shutdown() => Some(Followed::Left),
                () = time_up(until) => Some(Followed::TimedOut { known: self.status.is_some() && self.options.bus.is_answered() }),
            };
            if self.is_caught_up && !self.is_known {
                self.end(None)?;
                return Err(VerbError::NoRollout(self.options.rollout.clone()));
            }
            if let Some(followed) = followed {
                self.end(Some(followed))?;
                return Ok(followed);
            }
        }
    }

    fn message(&mut self, message: &Message) -> Result<(), VerbError> {
        let mut record: Record = codec::from_json("record", &message.body)?;
        self.is_caught_up = self.is_caught_up || self.caught_up_at.is_none_or(|last| message.seq >= last);
        let rollout = self.options.rollout.clone();
        let was_ours = self.at.as_ref() == Some(&rollout);
        if let Some(started) = started(&record) {
            // Up to there the record is about the rollout that gave way, if one did.
            let begins = record.reasons.iter().position(|reason| matches!(reason, Reason::Started { .. }));
            let after = record.reasons.split_off(begins.unwrap_or(0));
            if !was_ours {
                record.reasons = after;
            }
            self.at = Some(started);
        }
        if !was_ours && self.at.as_ref() != Some(&rollout) {
            return Ok(());
        }
        self.is_known = true;
        for reason in &record.reasons {
            match reason {
                Reason::Started { release, .. } => self.release = Some(release.clone()),
                Reason::Ended { ending, summary } => self.ended = Some((*ending, summary.clone(), Instant::now())),
                // A rollout that has ended can still be taken back.
                Reason::TakingBack { .. } => self.ended = None,
                _ => {}
            }
        }
        let (look, mode) = (self.options.look, self.options.mode);
        let events = match mode {
            Mode::Json => events(&record, look),
            Mode::Lines | Mode::Live => self.told.news(&record, look),
        };
        let lines = events.iter().map(|event| match mode {
            Mode::Json => event.json(&rollout).to_string(),
            Mode::Lines => event.long(&rollout),
            // Only the block must not wrap: it is redrawn by its number of lines.
            Mode::Live => event.short().paint(look, usize::MAX),
        });
        let lines: Vec<String> = lines.collect();
        self.quiet_since = Instant::now();
        self.screen.above(&lines).map_err(VerbError::System)
    }

    fn note_stuck(&mut self) -> Result<(), VerbError> {
        let stuck = self.stuck.told.borrow_and_update().clone();
        self.drawn = None;
        self.note(&[match &stuck {
            Some(stuck) => format!("{} HOLDING: {}", now().clock(), stuck_words(stuck, now())),
            None => format!("{} decisions are stored again", now().clock()),
        }])
    }

    fn entry(&mut self, entry: &KvEntry) {
        let wanted = &self.options.rollout;
        let Some(bytes) = entry.value.as_ref().filter(|_| entry.key == wanted.service.as_str()) else { return };
        match codec::from_json::<Status>("status", bytes) {
            Ok(status) if status.rollout == *wanted => {
                self.status = Some(status);
                self.drawn = self.drawn.filter(|drawn| drawn.elapsed() < REDRAW);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %error, "a status cannot be read"),
        }
    }

    fn key(&mut self, key: u8) -> Option<Followed> {
        let service = &self.options.rollout.service;
        let is_paused = self.status.as_ref().is_some_and(|status| status.holds.contains(&Hold::Paused));
        self.drawn = None;
        match self.prompt.press(key, service, is_paused) {
            Pressed::Ask(verb) => {
                self.ask(verb);
                None
            }
            Pressed::Explain => {
                self.explain();
                None
            }
            Pressed::Quit => Some(Followed::Left),
            Pressed::Shown => None,
        }
    }

    // In a task: the view goes on while a coordinator decides.
    fn ask(&self, verb: Verb) {
        let Some(principal) = self.options.asker.clone() else { return };
        let rollout = self.options.rollout.clone();
        let reason = Some("asked from the live view".to_owned());
        let body = CommandBody { rollout: Some(rollout.clone()), reason, ..CommandBody::default() };
        let asked = Asked { service: rollout.service, verb, principal, body };
        let (bus, said) = (self.options.bus.clone(), self.said.clone());
        tokio::spawn(async move {
            let words = match ask(&bus, &asked, DECIDED_WITHIN, |_| {}).await {
                Ok(answer) => answer.words(),
                Err(error) => error.to_string(),
            };
            // Nobody listens when the view was left meanwhile.
            let _ = said.send(vec![format!("{} {verb}: {words}", now().clock())]).await;
        });
    }

    // In a task too: a long log takes its time to be decided again.
    fn explain(&self) {
        let (bus, said) = (self.options.bus.clone(), self.said.clone());
        let (explain, rollout) = (self.options.explain, self.options.rollout.clone());
        tokio::spawn(async move {
            let mut lines = vec![String::new()];
            lines.extend(explained(explain, &bus, &rollout).await);
            lines.push(String::new());
            let _ = said.send(lines).await;
        });
    }

    fn note(&mut self, lines: &[String]) -> Result<(), VerbError> {
        let line = |line: &String| match self.options.mode {
            Mode::Json => serde_json::json!({ "note": Line::of(line).plain() }).to_string(),
            Mode::Lines => Line::of(line).plain(),
            Mode::Live => Line::of(line).paint(self.options.look, usize::MAX),
        };
        let lines: Vec<String> = lines.iter().map(line).collect();
        self.screen.above(&lines).map_err(VerbError::System)
    }

    fn tick(&mut self) -> Result<Option<Followed>, VerbError> {
        if self.options.mode == Mode::Live && self.drawn.is_none_or(|drawn| drawn.elapsed() >= TICK) {
            self.draw()?;
        }
        if self.options.mode == Mode::Lines && self.quiet_since.elapsed() >= STILL {
            self.quiet_since = Instant::now();
            let line = self.still();
            self.screen.above(&[line]).map_err(VerbError::System)?;
        }
        let Some((ending, _, at)) = self.ended.as_ref().filter(|_| self.is_caught_up) else { return Ok(None) };
        let has_seen_it = self.status.as_ref().is_some_and(|status| status.state == State::Ended);
        let is_over = has_seen_it || self.options.mode != Mode::Live || at.elapsed() > LAST_FRAME;
        Ok(is_over.then_some(Followed::Ended(*ending)))
    }

    fn draw(&mut self) -> Result<(), VerbError> {
        let Some(status) = self.status.clone() else { return Ok(()) };
        let status = &held(status, self.stuck.told.borrow().as_ref());
        let (width, rows) = Screen::size();
        let prompt = self.prompt.line(&self.options.rollout.service);
        let height = rows.saturating_sub(2 + usize::from(prompt.is_some()));
        let frame = Frame { status, now: now(), width, height, look: self.options.look, keys: self.has_keys };
        let mut block = vec!["-".repeat(width)];
        block.extend(draw(&frame).iter().map(|line| line.paint(self.options.look, width)));
        block.extend(prompt.map(|prompt| Line::of(prompt).paint(self.options.look, width)));
        self.drawn = Some(Instant::now());
        self.screen.draw(block).map_err(VerbError::System)
    }

    fn still(&self) -> String {
        let rollout = &self.options.rollout;
        let status = self.status.as_ref();
        let stage = status.and_then(|status| status.stages.iter().find(|stage| stage.mark == StageMark::Now));
        let stage = stage.map(|stage| format!(" {} soaked={} of={}", stage.name, span(stage.soaked), span(stage.soak)));
        let hold = status.and_then(|status| status.holds.first()).map(|hold| format!(" held={:?}", hold_words(hold)));
        format!("{} {rollout} still{}{}", now().seconds(), stage.unwrap_or_default(), hold.unwrap_or_default())
    }

    /// The last frame stays; under it come the lines that CI reads.
    fn end(&mut self, followed: Option<Followed>) -> Result<(), VerbError> {
        self.prompt = Prompt::default();
        self.has_keys = false;
        if self.options.mode == Mode::Live {
            self.draw()?;
        }
        // What is printed from here on comes below the block, so the block must not be erased.
        self.screen = Screen::default();
        let rollout = &self.options.rollout;
        let release = self.release.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
        let code = followed.map_or(exit::USAGE, Followed::exit_code);
        let lines = match (followed, &self.ended) {
            (Some(Followed::Ended(ending)), Some((_, summary, _))) => final_lines(rollout, &release, ending, summary),
            (Some(Followed::TimedOut { known: true }), _) => [
                format!("HELD {} {release}: not over in time; {}", rollout.service, self.why_not()),
                format!("next: bellwether rollout watch {rollout}    exit {code}: ask a person"),
            ],
            (Some(Followed::TimedOut { known: false }), _) => [
                format!("COULD NOT TELL {} {release}: the mesh did not answer to the end", rollout.service),
                format!("next: bellwether rollout status {rollout}    exit {code}: never treat as pass"),
            ],
            (Some(Followed::Left), _) if self.is_part => return Ok(()),
            (Some(Followed::Left), _) => [
                format!("LEFT {} {release}: the rollout goes on", rollout.service),
                format!("next: bellwether rollout watch {rollout}    exit {code}: undecided"),
            ],
            (Some(Followed::Ended(_)) | None, _) => return Ok(()),
        };
        let lines = match self.options.mode {
            Mode::Json => {
                let state = lines.first().map(String::as_str).unwrap_or_default();
                vec![serde_json::json!({ "rollout": rollout, "last": state, "exit": code }).to_string()]
            }
            Mode::Lines | Mode::Live => lines.to_vec(),
        };
        self.screen.above(&lines).map_err(VerbError::System)
    }

    fn why_not(&self) -> String {
        if let Some(stuck) = &*self.stuck.told.borrow() {
            return stuck_words(stuck, now());
        }
        let hold = self.status.as_ref().and_then(|status| status.holds.first());
        hold.map_or_else(|| "nothing holds it".to_owned(), hold_words)
    }
}

/// The rollout that began in this record, if one did.
pub(crate) fn started(record: &Record) -> Option<RolloutId> {
    let began = record.reasons.iter().any(|reason| matches!(reason, Reason::Started { .. }));
    let done =
        |outcome: &&bellwether_protocol::command::Outcome| outcome.verb == Verb::Start && outcome.refused.is_none();
    record.outcomes.iter().filter(|_| began).find(done)?.rollout.clone()
}

/// Whether anything is decided, asked as often as a coordinator says that it is there.
struct Watched {
    told: watch::Receiver<Option<Stuck>>,
    _asking: JoinSet<()>,
}

impl Watched {
    fn new(bus: Bus) -> Self {
        let (tell, told) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                // Whoever cannot ask knows nothing new; that NATS is away is told elsewhere.
                if let Ok(now) = stuck(&bus).await {
                    tell.send_if_modified(|last| std::mem::replace(last, now.clone()).is_some() != now.is_some());
                }
                tokio::time::sleep(PRESENCE_EVERY.to_std()).await;
            }
        });
        Self { told, _asking: task }
    }
}

async fn next_key(keyboard: &mut Option<Keyboard>) -> u8 {
    match keyboard {
        Some(keyboard) => keyboard.next().await,
        None => std::future::pending().await,
    }
}

async fn next_note(notes: &mut Option<&mut mpsc::Receiver<String>>) -> Option<String> {
    match notes {
        Some(notes) => notes.recv().await,
        None => std::future::pending().await,
    }
}

async fn time_up(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
