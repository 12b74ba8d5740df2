//! What those are told who know nothing of us: every message that leaves the mesh, read with a plain
//! NATS client and held against the public schemas, and the deployments that GitHub shows.

use std::collections::BTreeSet;

use bellwether_fakes::Fake;
use bellwether_fakes::github::Github;
use bellwether_fakes::public::{cdevent_flaws, cloud_event_flaws};
use bellwether_protocol::asyncapi::asyncapi;
use bellwether_protocol::subject::{FAMILIES, Stream};
use serde_json::{Value, json};

use crate::mesh::{BAD, Mesh};

/// The agent that shows rollouts on GitHub.
pub(crate) const GITHUB: &str = "east.alert.github";
const TOKEN: &str = "ghp_hidden";

/// Starts a strict GitHub that has these releases as tags, and an agent that shows rollouts there.
pub(crate) async fn add_github(mesh: &mut Mesh, releases: &[&str]) -> Fake<Github> {
    let github = Fake::start(Github::new("acme/shop", TOKEN, releases)).await.expect("a port");
    let token = mesh.path("github.token");
    std::fs::write(&token, TOKEN).expect("written");
    let own = json!({ "repository": "acme/shop", "token": format!("file:{token}"), "url": github.url });
    let alert = json!({ "console": false, "pages_when_silent": false, "github": { "shop": own } });
    mesh.add_agent_with(GITHUB, &format!("alert: {alert}\n"));
    mesh.until_ready().await;
    github
}

/// Two rollouts are two deployments, each with its turns in order, once each.
pub(crate) async fn deployments_are_whole(mesh: &Mesh, github: &Fake<Github>) {
    let turns = || -> Vec<Vec<(String, String)>> {
        let text = |status: &Value, key: &str| status[key].as_str().unwrap_or_default().to_owned();
        let turn = |status: &Value| (text(status, "state"), text(status, "description"));
        github.with(|github| github.deployments.iter().map(|own| own.statuses.iter().map(turn).collect()).collect())
    };
    let is_over = || {
        let turns = turns();
        let over = |state: &str| turns.iter().flatten().any(|(own, _)| own == state);
        (over("success") && over("failure")).then_some(())
    };
    mesh.until("both ends on GitHub", is_over).await;
    let turns = turns();
    let [good, bad] = turns.as_slice() else { panic!("{turns:#?}") };
    let expected = [
        ("queued", "v42 is to travel through its stages"),
        ("in_progress", "stage canary"),
        ("in_progress", "stage production"),
        ("success", "v42 passed every stage"),
    ];
    assert_eq!(*good, expected.map(|(state, text)| (state.to_owned(), text.to_owned())));
    let (states, texts): (Vec<&str>, Vec<&str>) =
        bad.iter().map(|(state, text)| (state.as_str(), text.as_str())).unzip();
    assert_eq!(states, ["queued", "in_progress", "in_progress", "failure"], "{bad:#?}");
    assert!(texts[0].starts_with(BAD) && texts[1] == "stage canary" && texts[2].contains("error_rate"), "{bad:#?}");
    let posts = github.log().into_iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, turns.iter().map(Vec::len).sum::<usize>() + 2, "something was posted in vain");
}

/// Reads every alert, outcome, decision and CDEvent, and gives the kinds of events that there were.
pub(crate) async fn what_leaves_the_mesh_is_as_described(mesh: &Mesh) -> BTreeSet<String> {
    let document = asyncapi(mesh.bus.prefix(), "0");
    let client = async_nats::connect(mesh.url()).await.expect("connected");
    let jetstream = async_nats::jetstream::new(client);
    let mut kinds = BTreeSet::new();
    for stream in [Stream::Alerts, Stream::Decisions] {
        let stream = jetstream.get_stream(mesh.bus.prefix().stream(stream)).await.expect("a stream");
        let state = &stream.cached_info().state;
        for seq in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(seq).await.expect("a message");
            let headers = message.headers.iter().map(|(name, values)| (name.to_string(), values[0].to_string()));
            let headers: serde_json::Map<String, Value> = headers.map(|(name, value)| (name, value.into())).collect();
            let body: Value = serde_json::from_slice(&message.payload).expect("JSON");
            let word = message.subject.split('.').nth(1).expect("a word");
            assert!(FAMILIES.iter().any(|family| family.word == word && family.leaves_the_mesh()), "{word}");
            for (part, said) in [("headers", &Value::from(headers.clone())), ("payload", &body)] {
                let mut schema = document["components"]["messages"][word][part].clone();
                schema["components"] = json!({ "schemas": document["components"]["schemas"] });
                let wrong = jsonschema::draft7::new(&schema).expect("a schema");
                let wrong: Vec<String> = wrong.iter_errors(said).map(|error| error.to_string()).collect();
                assert!(wrong.is_empty(), "{word} {part}: {said:#}: {wrong:?}");
            }
            let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
            assert_eq!(cloud_event_flaws(texts, body.clone()), Vec::<String>::new(), "{headers:#?}");
            if word == "cdevent" {
                assert_eq!(cdevent_flaws(&body), Vec::<String>::new(), "{body:#}");
                let context = &body["context"];
                let own = [&context["id"], &context["source"], &context["type"], &context["timestamp"]];
                let own = [own.as_slice(), &[&body["subject"]["id"]]].concat();
                let names = ["ce-id", "ce-source", "ce-type", "ce-time", "ce-subject"];
                assert_eq!(names.map(|name| &headers[name]).as_slice(), own, "its own words and its headers differ");
            } else {
                assert_eq!(headers["ce-id"], headers["Nats-Msg-Id"], "{word}");
            }
            kinds.extend(headers["ce-type"].as_str().map(str::to_owned));
        }
    }
    kinds
}
