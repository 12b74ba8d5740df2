//! Puts load on a target, in a thread of its own, and hands over window after window.
//!
//! One thread and one runtime per load: nothing else of the process can make it late, and what makes it
//! late all the same is measured.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellwether_protocol::time::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::chain::Chain;
use crate::connection::Connection;
use crate::course::{Course, Unit};
use crate::desk::{Desk, Job, Moment, Rules};
use crate::pacer::Pacer;
use crate::valve::Valve;
use crate::window::Window;

/// Tells the time that windows are made of.
pub(crate) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Everything one load needs.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) chain: Chain,
    pub(crate) course: Course,
    /// How long a user waits after an answer.
    pub(crate) think: Duration,
    pub(crate) rules: Rules,
    pub(crate) now: Now,
}

/// What a running load says.
#[derive(Debug)]
pub(crate) enum Word {
    /// A window is complete.
    Window(Box<Window>),
    /// Nearly everything fails: the load ends itself. Why.
    Shut(String),
}

/// A load that goes on until it is over, or this is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    words: mpsc::Receiver<Word>,
    stop: watch::Sender<bool>,
}

/// Longest time until this thread looks around, and so notices that it did not run.
const BEAT: Duration = Duration::from_millis(10);
/// Most words that nobody has read. Who reads none of so many is gone.
const WORDS_MAX: usize = 64;

impl Engine {
    /// Begins.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(work: Work) -> std::io::Result<Self> {
        let (say, words) = mpsc::channel(WORDS_MAX);
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, drive(work, stopped, say));
        })?;
        Ok(Self { words, stop })
    }

    /// What comes next; `None` once it is over and everything was told.
    pub(crate) async fn next(&mut self) -> Option<Word> {
        self.words.recv().await
    }

    /// Nothing more is sent from now on; what is on its way is told as unfinished.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What the tasks of one load share.
struct Shared {
    work: Work,
    desk: RefCell<Desk>,
    valve: RefCell<Valve>,
    /// Rings when somebody waits for a connection.
    due: Notify,
    /// How many users there are to be, and which there are.
    users: Cell<usize>,
    here: RefCell<BTreeSet<usize>>,
}

impl Shared {
    fn moment(&self) -> Moment {
        Moment { at: Instant::now(), time: (self.work.now)() }
    }

    /// Goes through the chain once.
    async fn serve(&self, job: Job, connection: &mut Connection) {
        let answer = self.work.chain.run(connection, job.deadline.into()).await;
        self.valve.borrow_mut().count(answer.class, Instant::now());
        self.desk.borrow_mut().settle(job, answer, self.moment());
    }
}

/// Puts the load on, until its course is over, or it is told to stop, or nobody listens.
pub(crate) async fn drive(work: Work, mut stop: watch::Receiver<bool>, say: mpsc::Sender<Word>) {
    let begin = Instant::now();
    let desk = Desk::new(work.rules.clone(), Moment { at: begin, time: (work.now)() });
    let shared = Rc::new(Shared {
        work,
        desk: RefCell::new(desk),
        valve: RefCell::default(),
        due: Notify::new(),
        users: Cell::new(0),
        here: RefCell::default(),
    });
    let mut tasks = JoinSet::new();
    let pacer = Pacer::new();
    let mut arrivals = 0;
    loop {
        let now = shared.moment();
        let next = match shared.work.course.unit {
            Unit::PerSecond => arrive(&shared, &mut tasks, begin, &mut arrivals, now),
            Unit::Users => gather(&shared, &mut tasks, begin, now),
        };
        let next = next.map(|next| next.min(now.at + BEAT));
        let windows = {
            let mut desk = shared.desk.borrow_mut();
            desk.shed_overdue(now);
            desk.beat(now.at, next.unwrap_or(now.at + BEAT));
            desk.close(now)
        };
        let mut is_heard = windows.into_iter().all(|window| say.try_send(Word::Window(Box::new(window))).is_ok());
        if let Some(why) = shared.valve.borrow_mut().shut(now.at) {
            is_heard = false;
            let _ = say.try_send(Word::Shut(why));
        }
        let is_over = next.is_none() && shared.desk.borrow().is_quiet();
        if !is_heard || is_over || *stop.borrow() {
            break;
        }
        tokio::select! {
            () = pacer.wait(next.unwrap_or(now.at + BEAT)) => {}
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
    // From here on nobody sends; whoever is on the way is not waited for.
    tasks.shutdown().await;
    let rest = shared.desk.borrow_mut().end(shared.moment());
    for window in rest {
        if say.send(Word::Window(Box::new(window))).await.is_err() {
            return;
        }
    }
}

/// Takes up every arrival that is due; gives the instant of the next one.
fn arrive(
    shared: &Rc<Shared>,
    tasks: &mut JoinSet<()>,
    begin: Instant,
    arrivals: &mut u64,
    now: Moment,
) -> Option<Instant> {
    loop {
        let intended = begin + shared.work.course.intended(*arrivals)?;
        if intended > now.at {
            return Some(intended);
        }
        *arrivals += 1;
        if shared.desk.borrow_mut().plan(intended, now) {
            shared.desk.borrow_mut().opened();
            tasks.spawn_local(connect(Rc::clone(shared)));
        }
        shared.due.notify_one();
    }
}

/// One connection of the pool: serves whoever has waited longest.
async fn connect(shared: Rc<Shared>) {
    let mut connection = Connection::default();
    loop {
        let job = shared.desk.borrow_mut().take(shared.moment());
        if let Some(job) = job {
            shared.serve(job, &mut connection).await;
            continue;
        }
        shared.desk.borrow_mut().frees();
        tokio::select! {
            () = shared.due.notified() => {}
            () = connection.closed() => {}
        }
        shared.desk.borrow_mut().occupies();
    }
}

/// Lets users in and out until there are as many as the course says; gives the instant to look again.
fn gather(shared: &Rc<Shared>, tasks: &mut JoinSet<()>, begin: Instant, now: Moment) -> Option<Instant> {
    let level = shared.work.course.at(now.at.saturating_duration_since(begin));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level is 0 to 10^6")]
    let users = level.unwrap_or_default().round() as usize;
    shared.users.set(users.min(shared.work.rules.connections_max));
    for user in 0..shared.users.get() {
        if shared.here.borrow_mut().insert(user) {
            tasks.spawn_local(visit(Rc::clone(shared), user, now.at));
        }
    }
    while tasks.try_join_next().is_some() {}
    level.map(|_| now.at + BEAT)
}

/// One user with a connection of its own: asks, reads, thinks, asks again.
async fn visit(shared: Rc<Shared>, user: usize, mut intended: Instant) {
    let mut connection = Connection::default();
    while user < shared.users.get() {
        let job = shared.desk.borrow_mut().send(intended, shared.moment());
        shared.serve(job, &mut connection).await;
        intended = Instant::now() + shared.work.think;
        // Without a thought, the others still have their turn.
        tokio::task::yield_now().await;
        if !shared.work.think.is_zero() {
            tokio::select! {
                () = tokio::time::sleep_until(intended.into()) => {}
                () = async { connection.closed().await; std::future::pending().await } => {}
            }
        }
    }
    shared.here.borrow_mut().remove(&user);
}

#[cfg(test)]
mod tests;
