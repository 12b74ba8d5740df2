//! Who waits, who is on the way, and what became of whom. Every planned arrival leaves it exactly once.
//!
//! This module never reads a clock and never waits; every instant is an argument.
//!
//! Time is split by whose fault it is. Whoever runs this says when it means to come back
//! ([`Desk::beat`]); when it comes later, this thread was not running, and that part of every wait was ours.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bellwether_protocol::id::Release;
use bellwether_protocol::sample::class;
use bellwether_protocol::time::{Span, Timestamp, slot_start};

use crate::window::{Outcome, Times, Window, count};

/// One instant, on the clock that nobody sets back and on the one that windows are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) time: Timestamp,
}

/// What holds for every arrival.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// How long after its intended start an arrival without an answer is over, sent or not.
    pub(crate) timeout: Duration,
    /// Most connections at the same time.
    pub(crate) connections_max: usize,
    /// Width of a window.
    pub(crate) width: Span,
    /// Upper edges of latency buckets, ascending, in milliseconds.
    pub(crate) edges_ms: Vec<u64>,
}

/// What one arrival came to.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// One of the words of [`bellwether_protocol::sample::class`].
    pub(crate) class: &'static str,
    /// The release that was seen to answer.
    pub(crate) release: Option<Release>,
    /// What went wrong, redacted.
    pub(crate) evidence: Option<String>,
}

/// One arrival that is to be sent now.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Job {
    id: u64,
    /// When it is over, answered or not.
    pub(crate) deadline: Instant,
}

/// All arrivals that are not over, and the windows that wait for them.
#[derive(Debug)]
pub(crate) struct Desk {
    rules: Rules,
    due: VecDeque<Waiting>,
    flying: BTreeMap<u64, Flight>,
    windows: BTreeMap<Timestamp, Open>,
    /// The last window that was handed over.
    closed: Option<Timestamp>,
    next: u64,
    /// Connections that exist, and those of them that nobody uses.
    workers: usize,
    idle: usize,
    stall: Stall,
}

#[derive(Debug)]
struct Open {
    window: Window,
    unsettled: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    intended: Instant,
    window: Timestamp,
    planned: Instant,
    was_free: bool,
    stalled: Duration,
}

#[derive(Debug)]
struct Flight {
    intended: Instant,
    window: Timestamp,
    sent: Instant,
    lag_pool: Duration,
    lag_gen: Duration,
    stalled: Duration,
}

/// How long this thread did not run when it should have.
#[derive(Debug)]
struct Stall {
    due: Instant,
    total: Duration,
}

/// Most arrivals that wait at the same time; it bounds memory, not load.
const DUE_MAX: usize = 1_000_000;
/// Later than this is not running. Timers are not more exact.
const TOLERANCE: Duration = Duration::from_millis(2);

impl Desk {
    /// Nobody yet.
    pub(crate) fn new(rules: Rules, now: Moment) -> Self {
        let mut desk = Self {
            rules,
            due: VecDeque::new(),
            flying: BTreeMap::new(),
            windows: BTreeMap::new(),
            closed: None,
            next: 0,
            workers: 0,
            idle: 0,
            stall: Stall { due: now.at, total: Duration::ZERO },
        };
        desk.open(now.time);
        desk
    }

    /// It is `now`, and this is called again at `next` at the latest.
    pub(crate) fn beat(&mut self, now: Instant, next: Instant) {
        self.stall.total = self.stall.at(now);
        self.stall.due = next;
    }

    /// Takes up one arrival. True when a connection more is wanted, and may be opened.
    pub(crate) fn plan(&mut self, intended: Instant, now: Moment) -> bool {
        let may_open = self.workers < self.rules.connections_max;
        let is_waiting = self.due.len() >= self.idle;
        let (id, window) = self.admit(intended, now);
        let stalled = self.stall.at(now.at);
        let was_free = !is_waiting || may_open;
        self.due.push_back(Waiting { id, intended, window, planned: now.at, was_free, stalled });
        if self.due.len() > DUE_MAX {
            self.shed_first(now);
        }
        is_waiting && may_open
    }

    /// An arrival that was sent when it was taken up, by a user with a connection of its own.
    pub(crate) fn send(&mut self, intended: Instant, now: Moment) -> Job {
        let (id, window) = self.admit(intended, now);
        let lag_gen = now.at.saturating_duration_since(intended);
        self.fly(
            id,
            Flight { intended, window, sent: now.at, lag_pool: Duration::ZERO, lag_gen, stalled: Duration::ZERO },
        )
    }

    /// The arrival that has waited longest, and still may be sent.
    pub(crate) fn take(&mut self, now: Moment) -> Option<Job> {
        self.shed_overdue(now);
        let waiting = self.due.pop_front()?;
        let (lag_pool, lag_gen) = self.lags(&waiting, now.at);
        let Waiting { id, intended, window, .. } = waiting;
        Some(self.fly(id, Flight { intended, window, sent: now.at, lag_pool, lag_gen, stalled: Duration::ZERO }))
    }

    /// An arrival is over.
    pub(crate) fn settle(&mut self, job: Job, answer: Answer, now: Moment) {
        let Answer { class, release, evidence } = answer;
        self.land(job.id, &Outcome::Class(class), (release, evidence), now);
    }

    /// Gives up whoever waited too long.
    pub(crate) fn shed_overdue(&mut self, now: Moment) {
        while self.due.front().is_some_and(|first| now.at >= first.intended + self.rules.timeout) {
            self.shed_first(now);
        }
    }

    /// A connection was opened for good, or is gone.
    pub(crate) fn opened(&mut self) {
        self.workers += 1;
    }

    /// A connection begins to be free.
    pub(crate) fn frees(&mut self) {
        self.idle += 1;
    }

    /// A connection ends to be free.
    pub(crate) fn occupies(&mut self) {
        self.idle = self.idle.saturating_sub(1);
    }

    /// Whether nobody waits, and nobody is on the way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.due.is_empty() && self.flying.is_empty()
    }

    /// Hands over every window that is over and complete, in order, and opens the one of `now`.
    pub(crate) fn close(&mut self, now: Moment) -> Vec<Window> {
        self.open(now.time);
        let mut over = Vec::new();
        while let Some(first) = self.windows.first_entry() {
            if *first.key() + self.rules.width > now.time || first.get().unsettled > 0 {
                break;
            }
            self.closed = Some(*first.key());
            over.push(first.remove().window);
        }
        over
    }

    /// Ends everything, and hands over every window.
    pub(crate) fn end(&mut self, now: Moment) -> Vec<Window> {
        while !self.due.is_empty() {
            self.shed_first(now);
        }
        let flying: Vec<u64> = self.flying.keys().copied().collect();
        for id in flying {
            self.land(id, &Outcome::Unfinished, (None, None), now);
        }
        std::mem::take(&mut self.windows).into_values().map(|open| open.window).collect()
    }

    fn admit(&mut self, intended: Instant, now: Moment) -> (u64, Timestamp) {
        let late = u64::try_from(now.at.saturating_duration_since(intended).as_millis()).unwrap_or(u64::MAX);
        let window = self.open(now.time - Span::from_ms(late));
        if let Some(open) = self.windows.get_mut(&window) {
            open.window.counts.planned += 1;
            open.unsettled += 1;
        }
        self.next += 1;
        (self.next, window)
    }

    /// The window of an instant; when that was handed over already, the oldest that was not.
    fn open(&mut self, time: Timestamp) -> Timestamp {
        let width = self.rules.width;
        let first = self.closed.map(|closed| closed + width);
        let start = first.map_or(slot_start(time, width), |first| first.max(slot_start(time, width)));
        self.windows.entry(start).or_insert_with(|| Open { window: Window::new(start, width), unsettled: 0 });
        start
    }

    fn fly(&mut self, id: u64, flight: Flight) -> Job {
        let deadline = flight.intended + self.rules.timeout;
        let stalled = self.stall.at(flight.sent);
        self.flying.insert(id, Flight { stalled, ..flight });
        Job { id, deadline }
    }

    /// How long an arrival has waited for a connection, and for us.
    fn lags(&self, waiting: &Waiting, now: Instant) -> (Duration, Duration) {
        let late = waiting.planned.saturating_duration_since(waiting.intended);
        let wait = now.saturating_duration_since(waiting.planned);
        let stalled = self.stall.at(now).saturating_sub(waiting.stalled).min(wait);
        let own = if waiting.was_free { wait } else { stalled };
        (wait - own, late + own)
    }

    fn shed_first(&mut self, now: Moment) {
        let Some(waiting) = self.due.pop_front() else { return };
        let (lag_pool, lag_gen) = self.lags(&waiting, now.at);
        let response = now.at.saturating_duration_since(waiting.intended);
        let times = Times { response, service: None, lag_pool, lag_gen };
        self.record(waiting.window, &Outcome::Shed, times, (None, None), now);
    }

    fn land(&mut self, id: u64, outcome: &Outcome, seen: (Option<Release>, Option<String>), now: Moment) {
        let Some(flight) = self.flying.remove(&id) else { return };
        let service = now.at.saturating_duration_since(flight.sent);
        // What we were too late to hear was ours too.
        let deaf = self.stall.at(now.at).saturating_sub(flight.stalled).min(service);
        let times = Times {
            response: now.at.saturating_duration_since(flight.intended),
            service: Some(service),
            lag_pool: flight.lag_pool,
            lag_gen: flight.lag_gen + deaf,
        };
        self.record(flight.window, outcome, times, seen, now);
    }

    fn record(
        &mut self,
        window: Timestamp,
        outcome: &Outcome,
        times: Times,
        (release, evidence): (Option<Release>, Option<String>),
        now: Moment,
    ) {
        let Some(Open { window, unsettled }) = self.windows.get_mut(&window) else { return };
        *unsettled = unsettled.saturating_sub(1);
        let word = window.record(outcome, times);
        // Of what was not waited for nothing is known.
        if *outcome != Outcome::Unfinished {
            count(window.gathered.portion(release), word, &self.rules.edges_ms, times.response);
        }
        if let Some(text) = evidence {
            window.gathered.note(now.time, class::known(word), text);
        }
    }
}

impl Stall {
    /// All of it until `now`, with what is going on.
    fn at(&self, now: Instant) -> Duration {
        let late = now.saturating_duration_since(self.due);
        if late > TOLERANCE { self.total + late } else { self.total }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::window::{Counts, quantile};

    const TIMEOUT: u64 = 2_000;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Moment {
            Moment { at: self.0 + Duration::from_millis(ms), time: Timestamp::from_ms(i64::try_from(ms).unwrap()) }
        }
    }

    fn desk(connections_max: usize) -> (Clock, Desk) {
        let clock = Clock(Instant::now());
        let rules = Rules {
            timeout: Duration::from_millis(TIMEOUT),
            connections_max,
            width: Span::from_secs(1),
            edges_ms: vec![10, 100],
        };
        let desk = Desk::new(rules, clock.at(0));
        (clock, desk)
    }

    fn ok() -> Answer {
        Answer { class: class::OK, release: None, evidence: None }
    }

    fn sum(windows: Vec<Window>) -> Window {
        windows
            .into_iter()
            .reduce(|mut sum, window| {
                sum.merge(window);
                sum
            })
            .expect("a window")
    }

    fn p(window: &hdrhistogram::Histogram<u64>, q: f64) -> u128 {
        quantile(window, q).map_or(0, |latency| latency.as_millis())
    }

    #[derive(Debug, Clone)]
    enum Luck {
        /// So many arrivals are intended over the last milliseconds.
        Arrive(u8, u8),
        /// A worker takes one, or one that is on the way is answered so.
        Take,
        Answer(u8),
        /// Time passes: the thread is blocked, or it was told when it is called again.
        Pass(u16, bool),
        Close,
    }

    fn luck() -> impl Strategy<Value = Luck> {
        prop_oneof![
            (1_u8..5, any::<u8>()).prop_map(|(n, late)| Luck::Arrive(n, late)),
            Just(Luck::Take),
            Just(Luck::Take),
            any::<u8>().prop_map(Luck::Answer),
            (0_u16..900, any::<bool>()).prop_map(|(ms, stalls)| Luck::Pass(ms, stalls)),
            Just(Luck::Close),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever stalls, whoever is slow: nothing that was planned vanishes, and no window comes twice.
        #[test]
        fn every_planned_arrival_is_sent_or_shed(lucks in prop::collection::vec(luck(), 0..300), connections in 1_usize..5) {
            let (clock, mut desk) = desk(connections);
            let (mut ms, mut planned, mut jobs, mut windows) = (0_u64, 0_u64, Vec::new(), Vec::new());
            for luck in lucks {
                let now = clock.at(ms);
                match luck {
                    Luck::Arrive(n, late) => for _ in 0..n {
                        planned += 1;
                        if desk.plan(clock.at(ms.saturating_sub(late.into())).at, now) {
                            desk.opened();
                        }
                    },
                    Luck::Take => jobs.extend(desk.take(now)),
                    Luck::Answer(n) if !jobs.is_empty() => {
                        let job: Job = jobs.swap_remove(usize::from(n) % jobs.len());
                        let class = class::ALL[usize::from(n) % class::ALL.len()];
                        desk.settle(job, Answer { class, ..ok() }, now);
                    }
                    Luck::Answer(_) => {}
                    Luck::Pass(by, stalls) => {
                        let next = if stalls { ms } else { ms + u64::from(by) };
                        desk.beat(now.at, clock.at(next).at);
                        ms += u64::from(by);
                    }
                    Luck::Close => windows.extend(desk.close(now)),
                }
            }
            windows.extend(desk.end(clock.at(ms)));
            let starts: Vec<Timestamp> = windows.iter().map(|window| window.start).collect();
            prop_assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
            let whole = sum(windows);
            let Counts { shed, sent, ok, http_err, net_err, timeout, unfinished, .. } = whole.counts;
            prop_assert_eq!((whole.counts.planned, sent + shed), (planned, planned));
            prop_assert_eq!(sent, ok + http_err + net_err + timeout + unfinished);
            prop_assert_eq!((whole.lag_gen.len(), whole.service.len()), (planned, sent));
        }
    }

    /// Ten arrivals, one each millisecond, are taken when they come, and answered after 5 ms.
    fn brisk(clock: &Clock, desk: &mut Desk, from: u64) {
        for ms in from..from + 10 {
            desk.beat(clock.at(ms).at, clock.at(ms + 1).at);
            desk.plan(clock.at(ms).at, clock.at(ms));
            let job = desk.take(clock.at(ms)).expect("a job");
            desk.settle(job, ok(), clock.at(ms + 1));
        }
    }

    #[test]
    fn waiting_for_a_connection_is_the_targets_doing() {
        let (clock, mut desk) = desk(1);
        assert!(desk.plan(clock.at(0).at, clock.at(0)));
        desk.opened();
        let first = desk.take(clock.at(0)).expect("a job");
        assert!(!desk.plan(clock.at(1).at, clock.at(1)), "there may be one connection");
        for ms in 1..700 {
            desk.beat(clock.at(ms).at, clock.at(ms + 1).at);
        }
        desk.settle(first, ok(), clock.at(700));
        let second = desk.take(clock.at(700)).expect("a job");
        desk.settle(second, ok(), clock.at(701));
        let whole = sum(desk.end(clock.at(702)));
        assert_eq!((p(&whole.response, 1.0), p(&whole.service, 1.0), p(&whole.lag_pool, 1.0)), (700, 700, 699));
        assert_eq!((p(&whole.lag_gen, 1.0), whole.void(None)), (0, None));
    }

    #[test]
    fn a_thread_that_does_not_run_voids_its_windows() {
        let (clock, mut desk) = desk(4);
        brisk(&clock, &mut desk, 0);
        // Nobody called for 300 ms: ten arrivals were intended meanwhile, and one answer was not heard.
        desk.plan(clock.at(10).at, clock.at(10));
        let deaf = desk.take(clock.at(10)).expect("a job");
        desk.beat(clock.at(10).at, clock.at(11).at);
        for ms in 300..310 {
            desk.plan(clock.at(ms - 280).at, clock.at(311));
        }
        desk.settle(deaf, ok(), clock.at(311));
        while let Some(job) = desk.take(clock.at(311)) {
            desk.settle(job, ok(), clock.at(312));
        }
        let whole = sum(desk.end(clock.at(400)));
        assert_eq!((whole.counts.planned, whole.counts.ok, p(&whole.lag_pool, 1.0)), (21, 21, 0));
        assert!(p(&whole.lag_gen, 1.0) >= 300, "{}", p(&whole.lag_gen, 1.0));
        assert!(whole.void(None).is_some_and(|why| why.starts_with("this generator was late")));
    }

    #[test]
    fn who_waits_too_long_is_shed_and_who_is_on_the_way_is_unfinished() {
        let (clock, mut desk) = desk(1);
        desk.plan(clock.at(0).at, clock.at(0));
        desk.opened();
        let _stuck = desk.take(clock.at(0)).expect("a job");
        desk.plan(clock.at(10).at, clock.at(10));
        for ms in 10..TIMEOUT + 500 {
            desk.beat(clock.at(ms).at, clock.at(ms + 1).at);
        }
        assert!(desk.close(clock.at(TIMEOUT + 10)).is_empty(), "its window waits for the first one");
        assert!(desk.take(clock.at(TIMEOUT + 10)).is_none());
        let whole = sum(desk.end(clock.at(TIMEOUT + 500)));
        assert_eq!((whole.counts.shed, whole.counts.unfinished), (1, 1));
        assert_eq!((p(&whole.response, 0.1), p(&whole.response, 1.0)), (TIMEOUT.into(), (TIMEOUT + 500).into()));
        assert_eq!(whole.void(None), None, "the target is slow, we are not");
    }

    #[test]
    fn a_window_without_arrivals_is_told_and_none_comes_twice() {
        let (clock, mut desk) = desk(1);
        let starts = |windows: Vec<Window>| windows.iter().map(|w| w.start.as_ms()).collect::<Vec<_>>();
        assert_eq!(starts(desk.close(clock.at(1_000))), [0]);
        desk.plan(clock.at(990).at, clock.at(1_010));
        assert_eq!(starts(desk.close(clock.at(2_000))), [] as [i64; 0]);
        assert_eq!(starts(desk.end(clock.at(2_000))), [1_000, 2_000]);
    }
}
