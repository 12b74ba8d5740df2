use super::*;

fn seen(value: serde_json::Value) -> Seen {
    Seen { said: presence(value), silent_since: None }
}

fn presence(value: serde_json::Value) -> Presence {
    let mut whole = serde_json::json!({
        "agent": "hub.coordinator.one", "version": "0.4.1", "at": "2026-05-05T13:51:10Z", "clock_offset_ms": 2,
        "spooled": 0, "watching": {}, "levers": {}, "serving": {},
    });
    for (key, value) in value.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn sound() -> Facts {
    let lever = serde_json::json!({ "lever": "release", "value": "v42", "targets": [], "history": [] });
    Facts {
        server: ("nats".to_owned(), "2.15.1".to_owned()),
        assets: (11, Vec::new()),
        syncs: Syncs::Yes,
        seen: vec![
            seen(serde_json::json!({})),
            seen(serde_json::json!({ "agent": "sjc.alert.alert-1", "clock_offset_ms": -7 })),
            seen(serde_json::json!({ "agent": "sjc.rollback.roll-1", "levers": { "shop": [lever] } })),
        ],
        stuck: None,
        rollouts: Vec::new(),
        now: "2026-05-05T13:51:12Z".parse().unwrap(),
    }
}

/// What is not well, as people see it.
fn told(facts: &Facts, region: Option<&str>) -> (Vec<String>, u8) {
    let region = region.map(|region| region.parse().unwrap());
    let checks = checks(facts, region.as_ref());
    let bad: Vec<&Check> = checks.iter().filter(|check| check.mark != Mark::Ok).collect();
    assert!(bad.iter().all(|check| check.fix.is_some()), "{bad:?}");
    let text = bad.iter().flat_map(|check| lines(check, false)).map(|line| line.plain()).collect();
    (text, verdict(&checks).1)
}

#[test]
fn a_sound_mesh_has_nothing_to_fix() {
    let checks = checks(&sound(), None);
    let text: Vec<String> = checks.iter().flat_map(|check| lines(check, true)).map(|line| line.plain()).collect();
    let expected = [
        "+ NATS 2.15.1, JetStream on, 11 of 11 streams and buckets read back as written",
        "+ every write is synced before it is acknowledged",
        "+ 1 coordinator is here; with a second one, another decides when it dies",
        "+ 3 processes within 7ms of NATS",
        "+ 1 lever read back",
        "+ 1 alert agent here; what its bridges deliver: bellwether alert test --config FILE",
    ];
    assert_eq!(text, expected);
    assert_eq!(verdict(&checks), ("0 to fix, 0 could not tell, 6 ok. exit 0".to_owned(), exit::DONE));
}

#[test]
fn each_thing_that_is_wrong_has_its_mark_and_its_fix() {
    type Break = fn(&mut Facts);
    let cases: [(Break, &str, u8); 12] = [
        (|facts| facts.assets.1.push("there is no stream `bw-inbox`".into()), "✗ NATS 2.15.1: 1 of 11 streams", 2),
        (
            |facts| facts.syncs = Syncs::No("NATS server n does not sync every write".into()),
            "✗ NATS server n does not",
            2,
        ),
        (|facts| facts.syncs = Syncs::Unknown("it is not known".into()), "? it is not known", 4),
        (|facts| _ = facts.seen.remove(0), "✗ no coordinator is here", 2),
        (|facts| _ = facts.seen.remove(1), "✗ no alert agent is here", 2),
        (
            |facts| {
                facts.stuck = Some(Stuck {
                    since: "2026-05-05T13:48:02Z".parse().unwrap(),
                    what: "decisions cannot be stored".into(),
                    why: "maximum bytes exceeded".into(),
                    fix: "give the log room".into(),
                });
            },
            "✗ decisions cannot be stored for 3m10s: maximum bytes exceeded; nothing is decided",
            2,
        ),
        (
            |facts| {
                let silent_since = Some("2026-05-05T13:48:02Z".parse().unwrap());
                facts.seen.push(Seen { silent_since, ..seen(serde_json::json!({ "agent": "sjc.probe.probe-1" })) });
            },
            "? sjc/probe-1 (probe 0.4.1) silent for 3m10s",
            4,
        ),
        (|facts| facts.seen[1].said.clock_offset_ms = -90_000, "✗ sjc/alert-1: its clock is -90000ms", 2),
        (|facts| facts.seen[2].said.spooled = 1_204, "? sjc/roll-1: 1,204 messages wait", 4),
        (|facts| facts.seen[2].said.version = "0.4.0".into(), "? 1 process not on 0.4.1: sjc/roll-1", 4),
        (
            |facts| {
                let hand = bellwether_protocol::presence::Hand {
                    does: "deploy {value}".into(),
                    error: Some("refused: 403".into()),
                };
                facts.seen[2].said.levers.values_mut().flatten().for_each(|reading| reading.value = None);
                facts.seen[2].said.hands.insert("shop".parse().unwrap(), [("release".parse().unwrap(), hand)].into());
            },
            "✗ sjc/roll-1: lever release, read-back says: refused: 403",
            2,
        ),
        (
            |facts| {
                let watching = serde_json::json!({ "shop": { "revision": 3, "refused": "not in `allow`" } });
                facts.seen.push(seen(serde_json::json!({ "agent": "iad.probe.p", "watching": watching })));
            },
            "✗ iad/p refuses to look at shop: not in `allow`",
            2,
        ),
    ];
    for (breaks, said, code) in cases {
        let mut facts = sound();
        breaks(&mut facts);
        let (text, exit) = told(&facts, None);
        assert!(text[0].starts_with(said) && text[1].starts_with("  fix: "), "{text:?}");
        assert_eq!((text.len(), exit), (2, code), "{text:?}");
    }
}

#[test]
fn one_region_and_one_thing_can_be_looked_at_alone() {
    let mut facts = sound();
    facts.seen[1].said.clock_offset_ms = 5_000;
    assert_eq!(told(&facts, Some("sjc")).0.len(), 2);
    // Whoever alerts, alerts for every region; and of a region without anybody nothing is well.
    assert_eq!(told(&facts, Some("hub")), (Vec::new(), exit::DONE));
    let (nobody, code) = told(&facts, Some("iad"));
    assert_eq!(nobody[0], "✗ no agent of iad was heard within a day; regions that were: hub, sjc");
    assert_eq!((nobody.len(), code), (2, exit::USAGE));
    let only = |text: &str| chosen(checks(&facts, None), Some(text)).map(|checks| checks.len());
    assert_eq!((only("clocks").unwrap(), only("SJC/alert-1").unwrap()), (1, 1));
    let error = only("helm").unwrap_err();
    assert!(error.to_string().contains("there are alerts, clocks, coordinators"), "{error}");
}
