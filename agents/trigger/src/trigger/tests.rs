use super::*;

/// What happens in a story, at a second of it.
enum Is {
    /// The lever is read there.
    At(&'static str),
    /// It cannot be read, or its targets differ.
    Unread,
    /// A message names it.
    Asked(&'static str),
    /// The start was decided.
    Answered,
    /// The process was killed, and began again with what was written down.
    Restarted,
    /// The last rollout: its number and release, what it goes back to, and how it ended.
    Last(u64, &'static str, &'static str, Option<Ending>),
    /// That rollout asked the lever to be there.
    SetTo(&'static str),
    /// As `Last`, in the shadow.
    Shadow(u64, &'static str, &'static str, Option<Ending>),
}
use Is::{Answered, Asked, At, Last as Rollout, Restarted, SetTo, Shadow, Unread};

const ON: Option<Ending> = None;
const OUT: Option<Ending> = Some(Ending::Completed);
const BACK: Option<Ending> = Some(Ending::RolledBack);

/// Plays a story: what each trigger said, with its second. A start is `v43 after 11`.
fn play(is_shadow: bool, story: &[(i64, Is)]) -> Vec<String> {
    let mut trigger = Trigger::new(Memory::default(), is_shadow);
    let (mut disk, mut last, mut said) = (Memory::default(), None, Vec::new());
    for (second, is) in story {
        let now = Timestamp::from_ms(second * 1_000);
        let mut rollout = |number: &u64, release: &str, previous: &str, ended: &Option<Ending>, is_shadow| {
            last = Some(Last {
                id: format!("shop/{number}").parse().unwrap(),
                release: release.parse().unwrap(),
                previous: previous.parse().ok(),
                set_to: None,
                is_shadow,
                ended: *ended,
                decided_at: now,
            });
        };
        let event = match is {
            Rollout(number, release, previous, ended) => {
                rollout(number, release, previous, ended, false);
                continue;
            }
            Shadow(number, release, previous, ended) => {
                rollout(number, release, previous, ended, true);
                continue;
            }
            SetTo(value) => {
                last.as_mut().unwrap().set_to = Some(value.parse().unwrap());
                continue;
            }
            Restarted => {
                trigger = Trigger::new(disk.clone(), is_shadow);
                Event::Resumed
            }
            At(release) => Event::Read { release: release.parse().unwrap(), at: now },
            Asked(release) => Event::Asked(release.parse().unwrap(), Trace::default()),
            Answered => Event::Answered,
            Unread => Event::Unread,
        };
        for effect in trigger.handle(event, last.as_ref(), now) {
            match effect {
                Effect::Persist => disk = trigger.memory().clone(),
                Effect::Pass(release, pass) => said.push(format!("{second}: {release} not: {pass}")),
                Effect::Start(firing) => {
                    assert_eq!(disk.firing.as_ref(), Some(&firing), "the intent is written down first");
                    said.push(format!("{second}: {} after {}", firing.release, firing.after));
                }
            }
        }
    }
    said
}

#[track_caller]
fn check(what: &str, story: &[(i64, Is)], expected: &[&str]) {
    assert_eq!(play(false, story), expected, "{what}");
}

#[test]
fn a_lever_fires_when_other_hands_moved_it_and_it_stands() {
    check("the first value is only remembered", &[(0, At("v42")), (5, At("v42")), (10, At("v42"))], &[]);
    check(
        "a new one has to stand",
        &[(0, At("v42")), (5, At("v43")), (6, At("v43")), (10, At("v43"))],
        &["10: v43 after 0"],
    );
    check(
        "once",
        &[(0, At("v42")), (5, At("v43")), (10, At("v43")), (11, Answered), (15, At("v43"))],
        &["10: v43 after 0"],
    );
    check("not there and back", &[(0, At("v42")), (5, At("v43")), (10, At("v42")), (15, At("v43"))], &[]);
    check("not unread", &[(0, At("v42")), (5, At("v43")), (10, Unread), (15, At("v43")), (16, Unread)], &[]);
    let away = [(0, At("v42")), (5, At("v42")), (60, Restarted), (61, At("v43")), (66, At("v43"))];
    check("a change while it was away", &away, &["66: v43 after 0"]);
}

#[test]
fn a_restart_repeats_what_was_intended_and_nothing_else() {
    let fire = || vec![(0, At("v42")), (5, At("v43")), (10, At("v43"))];
    let mut killed = fire();
    killed.extend([(11, Restarted), (12, Answered), (13, Restarted), (15, At("v43")), (20, At("v43"))]);
    check("killed before the answer", &killed, &["10: v43 after 0", "11: v43 after 0"]);
    let mut answered = fire();
    answered.extend([(11, Answered), (12, Restarted), (15, At("v43")), (20, At("v43"))]);
    check("killed after it", &answered, &["10: v43 after 0"]);
    check(
        "killed while it asked",
        &[(0, Asked("v43")), (1, Restarted), (2, Answered), (3, Restarted)],
        &["0: v43 after 0", "1: v43 after 0"],
    );
}

#[test]
fn what_a_rollout_moves_is_no_news() {
    let before = || vec![(0, Rollout(11, "v42", "v41", OUT)), (1, At("v42")), (10, Rollout(12, "v43", "v42", ON))];
    let story = |rest: Vec<(i64, Is)>| before().into_iter().chain(rest).collect::<Vec<_>>();
    let steps = vec![(11, At("v42")), (15, At("v43")), (20, At("v43")), (30, Rollout(12, "v43", "v42", OUT))];
    check("out", &story(steps), &[]);
    let late = vec![(30, Rollout(12, "v43", "v42", OUT)), (31, At("v43")), (36, At("v43"))];
    check("out, and heard of late", &story(late), &[]);
    let back = vec![(15, At("v43")), (30, Rollout(12, "v43", "v42", BACK)), (31, At("v42")), (36, At("v42"))];
    check("taken back", &story(back), &[]);
    // Read before the end, and heard after it.
    let stale = vec![(30, Rollout(12, "v43", "v42", BACK)), (29, At("v43")), (35, At("v42")), (40, At("v42"))];
    check("taken back, and heard of late", &story(stale), &[]);
    let by_hand = vec![
        (30, Rollout(12, "v43", "v42", OUT)),
        (31, At("v43")),
        (40, Rollout(12, "v43", "v42", ON)),
        (41, At("v42")),
        (50, Rollout(12, "v43", "v42", BACK)),
        (51, At("v42")),
        (56, At("v42")),
    ];
    check("rolled back by command, long after", &story(by_hand), &[]);
    let another = vec![(15, At("v44")), (20, At("v44")), (30, Rollout(12, "v43", "v42", BACK)), (35, At("v44"))];
    check("another one meanwhile is followed, and told", &story(another), &["15: v44 not: shop/12 is on"]);
    let again = vec![(30, Rollout(12, "v43", "v42", BACK)), (31, At("v42")), (35, At("v43")), (40, At("v43"))];
    check(
        "the one that was taken back",
        &story(again),
        &["35: v43 not: shop/12 was about it: to try again, start it by hand"],
    );
    let next = vec![(30, Rollout(12, "v43", "v42", OUT)), (31, At("v43")), (35, At("v44")), (40, At("v44"))];
    check("the next one", &story(next), &["40: v44 after 12"]);
    let own = vec![(15, At("v43")), (30, Rollout(12, "v43", "v42", BACK)), (30, SetTo("v40")), (31, At("v40"))];
    let own = own.into_iter().chain([(36, At("v40")), (41, At("v39")), (46, At("v39"))]).collect();
    check("taken back to what only this lever held before", &story(own), &["46: v39 after 12"]);
    let shadow = Shadow(12, "v43", "v42", OUT);
    let looked = [(0, Rollout(11, "v42", "v41", OUT)), (1, At("v42")), (2, shadow), (5, At("v43")), (10, At("v43"))];
    check("a shadow has only looked", &looked, &["10: v43 after 12"]);
    assert_eq!(play(true, &looked), [""; 0], "which is what another shadow would do");
    let unseen = vec![(15, At("v43")), (30, Restarted), (40, Rollout(14, "v45", "v42", BACK)), (41, At("v44"))];
    check(
        "rollouts passed unseen",
        &story(unseen),
        &["41: v44 not: several rollouts up to shop/14 passed while nobody looked: start it by hand if it is new"],
    );
}

#[test]
fn a_message_starts_what_the_last_rollout_was_not_about() {
    check(
        "twice before it is seen: the same intent, which is one command",
        &[(0, Asked("v43")), (1, Asked("v43"))],
        &["0: v43 after 0", "1: v43 after 0"],
    );
    check(
        "while it is on",
        &[(0, Rollout(12, "v43", "v42", ON)), (1, Asked("v43"))],
        &["1: v43 not: shop/12 is on with it"],
    );
    check(
        "when it is out",
        &[(0, Rollout(12, "v43", "v42", OUT)), (1, Asked("v43"))],
        &["1: v43 not: shop/12 completed with it"],
    );
    check(
        "when it was taken back",
        &[(0, Rollout(12, "v43", "v42", BACK)), (1, Asked("v43"))],
        &["1: v43 not: shop/12 was about it: to try again, start it by hand"],
    );
    // The coordinator refuses it, unless it is to supersede.
    check("while another is on", &[(0, Rollout(12, "v43", "v42", ON)), (1, Asked("v44"))], &["1: v44 after 12"]);
    check("back to the one before", &[(0, Rollout(12, "v43", "v42", OUT)), (1, Asked("v42"))], &["1: v42 after 12"]);
    let shadow = || [(0, Shadow(12, "v43", "v42", OUT)), (1, Asked("v43"))];
    check("after a shadow of it", &shadow(), &["1: v43 after 12"]);
    assert_eq!(play(true, &shadow()), ["1: v43 not: shop/12 completed with it"]);
}

#[test]
fn what_flaps_is_bounded() {
    let flap =
        |i: i64| [(i * 10, At(["v43", "v44"][(i % 2) as usize])), (i * 10 + 5, At(["v43", "v44"][(i % 2) as usize]))];
    let story: Vec<(i64, Is)> = std::iter::once((0, At("v42"))).chain((1..=40).flat_map(flap)).collect();
    let said = play(false, &story);
    assert_eq!(said.iter().filter(|line| line.ends_with("after 0")).count(), FIRED_MAX);
    assert!(said.last().unwrap().contains("has started 12 within an hour"), "{said:?}");
    let later: Vec<(i64, Is)> = story.into_iter().chain([(4_000, At("v45")), (4_005, At("v45"))]).collect();
    assert_eq!(play(false, &later).last().unwrap(), "4005: v45 after 0");
}
