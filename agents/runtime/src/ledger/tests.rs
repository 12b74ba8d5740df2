//! The ledger against a made-up platform, with a crash at every effect.

use std::collections::VecDeque;

use super::*;

type SetAnswer = Result<String, DriverError>;

/// A lever with targets, and what the platform does when it is told to set them.
struct World {
    targets: Vec<String>,
    can_read: bool,
    /// What each set in turn answers, and how many targets it moves.
    sets: VecDeque<(SetAnswer, usize)>,
    /// Targets that move by themselves at each read, as a slow platform does.
    moves_per_read: usize,
    set_count: usize,
    to: String,
    now: Timestamp,
    disk: State,
    answers: Vec<ActionResult>,
    ledger: Ledger,
}

fn agent() -> AgentId {
    "sjc.rollback.one".parse().expect("an agent")
}

fn lever() -> LeverName {
    "traffic".parse().expect("a lever")
}

fn action(generation: u64, to: &str) -> Action {
    Action {
        id: format!("shop/1/{generation}/0").parse().expect("an action"),
        service: "shop".parse().expect("a service"),
        lever: lever(),
        to: to.parse().expect("a value"),
        generation: Ordinal(generation),
        deadline: Timestamp::from_ms(120_000),
    }
}

fn retry() -> SetAnswer {
    Err(DriverError::Retry("busy".into()))
}

fn unknown() -> SetAnswer {
    Err(DriverError::Unknown("timeout".into()))
}

impl World {
    /// Three targets at v40, and a platform that does as it is told.
    fn new() -> Self {
        Self {
            targets: vec!["v40".to_owned(); 3],
            can_read: true,
            sets: VecDeque::new(),
            moves_per_read: 0,
            set_count: 0,
            to: "v40".to_owned(),
            now: Timestamp::from_ms(1_000),
            disk: State::default(),
            answers: Vec::new(),
            ledger: Ledger::new(agent(), lever(), State::default()),
        }
    }

    fn sets(mut self, sets: &[(SetAnswer, usize)]) -> Self {
        self.sets = sets.to_vec().into();
        self
    }

    fn read(&mut self) -> Result<Reading, DriverError> {
        for _ in 0..self.moves_per_read {
            if let Some(target) = self.targets.iter_mut().find(|value| **value != self.to) {
                *target = self.to.clone();
            }
        }
        if !self.can_read {
            return Err(DriverError::Retry("no route".into()));
        }
        let value = |text: &str| text.parse::<LeverValue>().ok();
        let first = self.targets.first().cloned().unwrap_or_default();
        let agree = self.targets.iter().all(|target| *target == first);
        let name = |(n, text): (usize, &String)| Target { id: format!("m{n}"), value: value(text) };
        Ok(Reading {
            value: if agree { value(&first) } else { None },
            targets: self.targets.iter().enumerate().map(name).collect(),
        })
    }

    fn set(&mut self, to: &LeverValue) -> SetAnswer {
        self.set_count += 1;
        self.to = to.to_string();
        let (answer, moved) = self.sets.pop_front().unwrap_or((Ok("ok".to_owned()), 3));
        for target in self.targets.iter_mut().take(moved) {
            *target = to.to_string();
        }
        answer
    }

    /// Executes everything that follows from `event`; stops before the effect number `crash_at`.
    fn run(&mut self, event: Event, crash_at: Option<usize>) -> bool {
        let mut effects: VecDeque<Effect> = self.ledger.handle(event, self.now).into();
        let mut count = 0;
        while let Some(effect) = effects.pop_front() {
            if crash_at == Some(count) {
                return false;
            }
            count += 1;
            assert!(count < 1_000, "it never ends");
            let event = match effect {
                Effect::Answer(result) => {
                    self.answers.push(result);
                    continue;
                }
                Effect::Persist => {
                    self.disk = self.ledger.state().clone();
                    continue;
                }
                Effect::ReadBack => Event::Read(self.read()),
                Effect::Set { to, action } => {
                    let open = self.disk.open.as_ref().expect("intent before effect");
                    assert!(open.begun && open.action.id == action, "intent before effect");
                    Event::Set(self.set(&to))
                }
                Effect::WakeAt(at) => {
                    assert!(at >= self.now);
                    self.now = at;
                    Event::Wake
                }
            };
            effects.extend(self.ledger.handle(event, self.now));
        }
        true
    }

    fn restart(&mut self) {
        self.ledger = Ledger::new(agent(), lever(), self.disk.clone());
    }

    fn outcomes(&self) -> Vec<ActionOutcome> {
        self.answers.iter().map(|result| result.outcome).collect()
    }
}

fn check(mut world: World, expected: ActionOutcome, sets: usize) -> ActionResult {
    assert!(world.run(Event::Action(action(7, "v41")), None));
    assert_eq!(world.outcomes(), [expected], "{:?}", world.answers);
    assert_eq!(world.set_count, sets);
    assert!(!world.ledger.is_busy() && world.disk == *world.ledger.state());
    assert!(world.now <= Timestamp::from_ms(120_000));
    world.answers.remove(0)
}

#[test]
fn done_means_that_every_target_was_read_back() {
    let result = check(World::new(), ActionOutcome::Done, 1);
    assert!(result.targets.len() == 3 && result.detail == "ok");
    let slow = World { moves_per_read: 1, ..World::new() }.sets(&[(Ok("accepted".into()), 0)]);
    check(slow, ActionOutcome::Done, 1);
}

#[test]
fn what_is_there_already_is_not_set() {
    let there = World { targets: vec!["v41".into(); 3], ..World::new() };
    check(there, ActionOutcome::Done, 0);
    // Without a single target nothing is proven.
    let empty = World { targets: Vec::new(), ..World::new() };
    check(empty, ActionOutcome::Unknown, 1);
}

#[test]
fn some_targets_are_partial_after_waiting_until_the_deadline() {
    let result = check(World::new().sets(&[(Ok("ok".into()), 2)]), ActionOutcome::Partial, 1);
    assert!(result.detail.contains("2 of 3") && result.at == Timestamp::from_ms(120_000), "{result:?}");
    check(World::new().sets(&[(Ok("ok".into()), 0)]), ActionOutcome::Unknown, 1);
}

#[test]
fn a_driver_that_says_try_again_is_tried_again() {
    check(World::new().sets(&[(retry(), 0), (retry(), 0)]), ActionOutcome::Done, 3);
    let busy = vec![(retry(), 0); 1_000];
    let result = check(World { ..World::new().sets(&busy) }, ActionOutcome::Expired, 28);
    assert!(result.detail.contains("busy"));
}

#[test]
fn a_doubt_is_looked_into_before_anything_else() {
    // It had happened after all: not set twice.
    check(World::new().sets(&[(unknown(), 3)]), ActionOutcome::Done, 1);
    // It had not: set again.
    check(World::new().sets(&[(unknown(), 0), (unknown(), 0)]), ActionOutcome::Done, 3);
}

#[test]
fn a_lever_that_cannot_be_read_is_set_once_and_then_unknown() {
    let blind = World { can_read: false, ..World::new() };
    check(blind, ActionOutcome::Unknown, 1);
    // After a doubt, blindness forbids a second set.
    let blind = World { can_read: false, ..World::new() }.sets(&[(unknown(), 0)]);
    check(blind, ActionOutcome::Unknown, 1);
}

#[test]
fn a_refusal_is_passed_on() {
    let result = check(World::new().sets(&[(Err(DriverError::Refused("no".into())), 0)]), ActionOutcome::Refused, 1);
    assert_eq!(result.detail, "no");
}

#[test]
fn after_its_deadline_nothing_is_begun() {
    let late = World { now: Timestamp::from_ms(120_000), ..World::new() };
    check(late, ActionOutcome::Expired, 0);
}

#[test]
fn an_older_generation_is_refused_and_a_repeat_is_answered_again() {
    let mut world = World::new();
    world.run(Event::Action(action(7, "v41")), None);
    world.run(Event::Action(action(6, "v40")), None);
    world.run(Event::Action(action(7, "v41")), None);
    assert_eq!(world.outcomes(), [ActionOutcome::Done, ActionOutcome::Refused, ActionOutcome::Done]);
    assert_eq!(world.answers[0], world.answers[2]);
    world.restart();
    world.run(Event::Resume, None);
    world.run(Event::Action(action(6, "v40")), None);
    world.run(Event::Action(action(7, "v41")), None);
    assert_eq!(world.outcomes()[3..], [ActionOutcome::Refused, ActionOutcome::Done]);
    assert_eq!(world.set_count, 1);
    world.run(Event::Action(action(8, "v40")), None);
    assert_eq!((world.set_count, world.targets), (2, vec!["v40".to_owned(); 3]));
}

#[test]
fn a_newer_generation_supersedes_a_pending_one() {
    let mut world = World::new().sets(&[(retry(), 0)]);
    let effects = world.ledger.handle(Event::Action(action(7, "v41")), world.now);
    assert_eq!(effects, [Effect::Persist, Effect::ReadBack]);
    world.run(Event::Action(action(8, "v42")), None);
    assert_eq!(world.outcomes(), [ActionOutcome::Refused, ActionOutcome::Done]);
    assert!(world.answers[0].detail.contains("shop/1/8/0"));
    assert_eq!(world.targets, vec!["v42".to_owned(); 3]);
    // Something that was begun may still take effect: that is not a refusal.
    let mut world = World::new();
    let _ = world.ledger.handle(Event::Action(action(7, "v41")), world.now);
    let reading = world.read();
    let effects = world.ledger.handle(Event::Read(reading), world.now);
    assert!(matches!(effects.as_slice(), [Effect::Persist, Effect::Set { .. }]));
    world.run(Event::Action(action(8, "v42")), None);
    assert_eq!(world.outcomes(), [ActionOutcome::Unknown, ActionOutcome::Done]);
}

/// The lever still shows v40 while an order to v41 is under way; then v40 is asked for.
#[test]
fn where_the_lever_was_before_an_older_order_lands_proves_nothing() {
    let accepted = || (Ok("accepted".into()), 0);
    for (own, sets) in [(vec![], 2), (vec![(unknown(), 0)], 3), (vec![(retry(), 0), (unknown(), 0)], 4)] {
        let mut world = World::new().sets(&[vec![accepted()], own].concat());
        // Persist, ReadBack, Persist, Set, ReadBack; superseded while it waits for the targets.
        assert!(!world.run(Event::Action(action(7, "v41")), Some(5)));
        assert!(world.run(Event::Action(action(8, "v40")), None));
        assert_eq!(world.outcomes(), [ActionOutcome::Unknown, ActionOutcome::Done], "{:?}", world.answers);
        assert_eq!((world.set_count, world.to.as_str()), (sets, "v40"));
    }
    // The driver never takes ours: by the deadline nobody can tell.
    let mut world = World::new().sets(&[vec![accepted()], vec![(unknown(), 0); 1_000]].concat());
    assert!(!world.run(Event::Action(action(7, "v41")), Some(5)));
    assert!(world.run(Event::Action(action(8, "v40")), None));
    assert_eq!(world.outcomes(), [ActionOutcome::Unknown, ActionOutcome::Unknown], "{:?}", world.answers);
}

/// Whatever effect it dies before, after a restart and a repeat of the action the lever is where it
/// must be, the last answer says so, and a set that had worked was not repeated.
#[test]
fn a_crash_at_any_effect_loses_nothing() {
    let stories: [&[(SetAnswer, usize)]; 4] = [&[], &[(unknown(), 3)], &[(retry(), 0)], &[(unknown(), 0)]];
    for (story, sets) in stories.into_iter().enumerate() {
        for crash_at in 0..40 {
            let mut world = World::new().sets(sets);
            let is_whole = world.run(Event::Action(action(7, "v41")), Some(crash_at));
            let sets_before = world.set_count;
            let was_there = world.targets.iter().all(|target| target == "v41");
            world.restart();
            world.run(Event::Resume, None);
            // The actions stream is read again from its beginning.
            world.run(Event::Action(action(7, "v41")), None);
            let place = format!("story {story}, crash before effect {crash_at}: {:?}", world.answers);
            assert_eq!(world.outcomes().last(), Some(&ActionOutcome::Done), "{place}");
            assert!(world.targets.iter().all(|target| target == "v41"), "{place}");
            assert!(!was_there || world.set_count == sets_before, "{place}");
            assert!(world.answers.iter().all(|result| result.outcome == ActionOutcome::Done), "{place}");
            if is_whole {
                break;
            }
            assert!(crash_at < 39, "the story never ends");
        }
    }
}

#[test]
fn a_crash_between_set_and_result_past_the_deadline_is_still_looked_at() {
    for (moved, expected) in [(3, ActionOutcome::Done), (1, ActionOutcome::Partial), (0, ActionOutcome::Unknown)] {
        let mut world = World::new().sets(&[(Ok("ok".into()), moved)]);
        // Persist, ReadBack, Persist, Set; dead before the read back.
        assert!(!world.run(Event::Action(action(7, "v41")), Some(4)));
        assert_eq!(world.set_count, 1);
        world.restart();
        world.now = Timestamp::from_ms(500_000);
        world.run(Event::Resume, None);
        assert_eq!((world.outcomes(), world.set_count), (vec![expected], 1));
    }
}

/// Another agent acted meanwhile; what is older than that is neither obeyed nor taken up again.
#[test]
fn what_another_agent_was_asked_is_not_undone_after_a_takeover() {
    let mut world = World::new();
    world.run(Event::Noted(action(8, "v40")), None);
    world.restart();
    world.run(Event::Resume, None);
    world.run(Event::Action(action(7, "v41")), None);
    assert_eq!((world.outcomes(), world.set_count), (vec![ActionOutcome::Refused], 0), "{:?}", world.answers);
    // The noted one itself may be left to do.
    world.run(Event::Action(action(8, "v41")), None);
    assert_eq!((world.outcomes().last(), world.set_count), (Some(&ActionOutcome::Done), 1), "{:?}", world.answers);
    // It loses the claim before its set, and has it back after the other one did the next.
    let mut world = World::new();
    assert!(!world.run(Event::Action(action(7, "v41")), Some(1)));
    world.run(Event::Noted(action(8, "v40")), None);
    world.run(Event::Resume, None);
    assert_eq!((world.outcomes(), world.set_count), (vec![ActionOutcome::Refused], 0), "{:?}", world.answers);
}

#[test]
fn answers_are_bounded() {
    let mut world = World::new();
    for generation in 1..200 {
        world.run(Event::Action(action(generation, "v41")), None);
    }
    assert_eq!(world.ledger.state().answered.len(), ANSWERED_MAX);
}
