//! The house inspector. Each rule is a pure function from a file's path and text to complaints, and
//! each has a case that it must complain about: a guard that cannot fail guards nothing.
//!
//! If you disagree with a rule, change it in a commit of its own, with the reason.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;

use bellwether_protocol::subject::FAMILIES;

/// What is wrong in one file, each with what to do instead.
type Rule = fn(path: &str, text: &str) -> Vec<String>;

/// Every text file of the house: path from the root with `/`, and text.
fn house() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut rooms = vec![root.to_path_buf()];
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(&room).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let own = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                if ![".git", "target"].contains(&own.as_str()) {
                    rooms.push(path);
                }
            // Where several branches are checked out, `.git` is a file with a path of this machine.
            } else if own != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                files.push((own, text));
            }
        }
    }
    files.sort();
    files
}

#[track_caller]
fn holds(rule: Rule) {
    let complaints: Vec<String> = house().iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[track_caller]
fn complains(rule: Rule, path: &str, text: &str) {
    assert!(!rule(path, text).is_empty(), "the rule accepts {path}:\n{text}");
}

#[track_caller]
fn accepts(rule: Rule, path: &str, text: &str) {
    assert_eq!(rule(path, text), Vec::<String>::new());
}

fn in_room(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
}

// Arrows between rooms.

const AGENT: &[&str] = &["bellwether-bus", "bellwether-protocol", "bellwether-runtime"];

/// Which rooms a room may see.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("protocol/bus", &["bellwether-protocol"]),
    ("coordinator/decide", &["bellwether-protocol"]),
    ("coordinator", &["bellwether-bus", "bellwether-decide", "bellwether-protocol"]),
    ("agents/runtime", &["bellwether-bus", "bellwether-protocol"]),
    ("agents/alert", AGENT),
    ("agents/flag", &["bellwether-bus", "bellwether-protocol", "bellwether-render", "bellwether-runtime"]),
    ("agents/load", AGENT),
    ("agents/metric", AGENT),
    ("agents/operator", AGENT),
    ("agents/probe", AGENT),
    // A client, not a room of its own: two agents speak to this one platform, and one file knows its rules.
    ("agents/render", &["bellwether-protocol", "bellwether-runtime"]),
    ("agents/rollback", &["bellwether-bus", "bellwether-protocol", "bellwether-render", "bellwether-runtime"]),
    ("agents/trigger", AGENT),
    ("tests/fakes", &[]),
    ("tests/site", &["bellwether-protocol"]),
];

/// What the pure rooms may take from outside.
const PURE: &[(&str, &[&str])] = &[
    ("coordinator/decide", &["libm", "serde", "serde_json", "sha2", "thiserror"]),
    (
        "protocol",
        &[
            "annotate-snippets",
            "chrono",
            "chrono-tz",
            "ed25519-dalek",
            "rmp-serde",
            "schemars",
            "serde",
            "serde-saphyr",
            "serde_json",
            "sha2",
            "thiserror",
            "uuid",
        ],
    ),
];

/// The dependencies of a manifest: section and name.
fn dependencies(text: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if let Some((kind, name)) = section.split_once("dependencies.") {
                found.push((kind, name));
            }
        } else if section.ends_with("dependencies") && line.contains('=') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            found.push((section.trim_end_matches("dependencies"), name.trim_matches('"')));
        }
    }
    found
}

fn arrows(path: &str, text: &str) -> Vec<String> {
    let Some(room) = path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let Some((_, allowed)) = ARROWS.iter().find(|(own, _)| *own == room) else {
        return vec![format!("{path}: a new room; say in tests/tidy.rs (ARROWS) which rooms it may see")];
    };
    // A crate may name itself among its dev-dependencies, to test with its features on, and the fakes.
    let own = format!("name = \"{}\"", "bellwether-");
    let itself = text.lines().find_map(|line| line.strip_prefix(own.trim_end_matches('"'))?.strip_suffix('"'));
    let seen = dependencies(text).into_iter().filter(|found| *found != ("dev-", "bellwether-fakes"));
    let seen = seen.map(|(_, name)| name).filter(|name| name.starts_with("bellwether-"));
    let seen = seen.filter(|name| !allowed.contains(name) && name.strip_prefix("bellwether-") != itself);
    let because = "rooms meet in protocol: move the shared word there, or send a message";
    seen.map(|name| format!("{path}: {room} must not see {name}; {because}")).collect()
}

#[test]
fn rooms_see_only_the_rooms_below_them() {
    holds(arrows);
    complains(arrows, "agents/probe/Cargo.toml", "[dependencies]\nbellwether-decide.workspace = true\n");
    complains(arrows, "agents/probe/Cargo.toml", "[dev-dependencies]\nbellwether-flag = { workspace = true }\n");
    complains(arrows, "agents/flag/Cargo.toml", "[dependencies]\nbellwether-fakes.workspace = true\n");
    accepts(arrows, "agents/flag/Cargo.toml", "[dev-dependencies]\nbellwether-fakes.workspace = true\n");
    complains(arrows, "coordinator/Cargo.toml", "[dependencies.bellwether-probe]\nworkspace = true\n");
    complains(arrows, "agents/mail/Cargo.toml", "");
    accepts(arrows, "coordinator/Cargo.toml", "[dependencies]\nbellwether-decide.workspace = true\n");
}

fn pure(path: &str, text: &str) -> Vec<String> {
    let room = path.strip_suffix("/Cargo.toml").unwrap_or_default();
    let Some((_, allowed)) = PURE.iter().find(|(own, _)| *own == room) else { return Vec::new() };
    let taken = dependencies(text).into_iter().filter(|(kind, _)| *kind != "dev-").map(|(_, name)| name);
    let taken = taken.filter(|name| !allowed.contains(name) && !name.starts_with("bellwether-"));
    let mut complaints: Vec<String> =
        taken.map(|name| format!("{path}: {room} is pure and must not use {name}; do it in the shell")).collect();
    if room == "coordinator/decide" && text.contains("plan-file") {
        complaints.push(format!("{path}: the judge never sees YAML; read the plan in the coordinator's shell"));
    }
    complaints
}

#[test]
fn pure_rooms_take_only_what_is_listed() {
    holds(pure);
    complains(pure, "coordinator/decide/Cargo.toml", "[dependencies]\ntokio = \"1\"\n");
    complains(pure, "protocol/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nasync-nats.workspace = true\n");
    let feature = "[dependencies]\nbellwether-protocol = { workspace = true, features = [\"plan-file\"] }\n";
    complains(pure, "coordinator/decide/Cargo.toml", feature);
    accepts(pure, "coordinator/decide/Cargo.toml", "[dev-dependencies]\nproptest.workspace = true\n");
}

fn lints(path: &str, text: &str) -> Vec<String> {
    let inherits = text.split("[lints]").nth(1).is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
    let wrong = path.ends_with("Cargo.toml") && !inherits;
    wrong.then(|| format!("{path}: add `[lints]` with `workspace = true`")).into_iter().collect()
}

#[test]
fn every_room_inherits_the_lints() {
    holds(lints);
    complains(lints, "agents/probe/Cargo.toml", "[package]\nname = \"bellwether-probe\"\n");
    complains(lints, "agents/probe/Cargo.toml", "[lints]\n\n[features]\nworkspace = true\n");
}

/// The judge's own file replaces the root's, so it has to repeat it.
fn repeats(root: &str, own: &str) -> Vec<String> {
    let lines = root.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let left = lines.filter(|line| !own.lines().any(|other| other.trim() == *line));
    left.map(|line| format!("coordinator/decide/.clippy.toml replaces the root's: repeat `{line}` in it")).collect()
}

#[test]
fn the_judge_repeats_the_lints_of_the_root() {
    assert_eq!(repeats(&read(".clippy.toml"), &read("coordinator/decide/.clippy.toml")), Vec::<String>::new());
    assert!(!repeats("too-many-lines-threshold = 70\n", "too-many-lines-threshold = 700\n").is_empty());
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

// Words.

/// The string literals of a Rust file, with their lines. Comments may name subjects freely.
fn literals(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let find =
        |from: usize, what: &str| text.get(from..).and_then(|rest| rest.find(what)).map_or(bytes.len(), |i| from + i);
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let hashes = rest.iter().skip(1).take_while(|b| **b == b'#').count();
        let raw = rest[0] == b'r' && rest.get(1 + hashes) == Some(&b'"');
        let start = at;
        at = if rest.starts_with(b"//") {
            find(at, "\n")
        } else if rest.starts_with(b"/*") {
            find(at, "*/")
        } else if raw && !(at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')) {
            let end = find(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes)));
            found.push((start, text.get(at + 2 + hashes..end).unwrap_or_default()));
            end + 1 + hashes
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            found.push((start, text.get(at + 1..end).unwrap_or_default()));
            end + 1
        } else if rest.starts_with(b"'\\") {
            find(at + 3, "'") + 1
        } else if rest.starts_with(b"'\"'") {
            at + 3
        } else {
            at + 1
        };
    }
    found.into_iter().map(|(start, literal)| (1 + text[..start].matches('\n').count(), literal)).collect()
}

fn subjects(path: &str, text: &str) -> Vec<String> {
    // Tests may speak as a plain NATS client does: that is how they see that a subject is what it says.
    let is_test = path.contains("/tests/") || (path.starts_with("tests/") && !in_room(path, "tests/site"));
    if !path.ends_with(".rs") || path == "protocol/src/subject.rs" || is_test {
        return Vec::new();
    }
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let words = [".action.", ".alert.>", ".command.", ".decision.", ".outcome.", ".pushed.", ".result.", ".sample."];
    let is_subject = |literal: &str| {
        let api = ["$JS", "$KV"].iter().any(|api| literal.contains(api)) && !in_room(path, "protocol/bus");
        let word = words.iter().any(|word| literal.contains(word)) && !literal.starts_with("$.");
        api || word || literal.starts_with("bw.") || literal.starts_with("bw-")
    };
    let found = literals(text).into_iter().filter(|(_, literal)| is_subject(literal));
    let instead = "subjects and buckets are named in protocol/src/subject.rs alone: use `Prefix`";
    found.map(|(line, literal)| format!("{path}:{line}: \"{literal}\": {instead}")).collect()
}

#[test]
fn subjects_are_written_in_one_file() {
    holds(subjects);
    for text in [
        "let s = format!(\"{prefix}.sample.{agent}\");",
        "client.publish(\"bw.command.shop.pause.me\", body)",
        "let f = r#\"x.decision.>\"#;",
        "let api = \"$JS.API.INFO\"; // looks at the server",
        "let c = '\"'; let s = \"bw-presence\";",
        "let c = '\\''; let s = \"$KV.x\";",
    ] {
        complains(subjects, "agents/probe/src/http.rs", text);
    }
    accepts(subjects, "protocol/bus/src/health.rs", "\"$JS.API.INFO\"");
    accepts(
        subjects,
        "agents/probe/src/http.rs",
        "// bw.sample.east\nself.action.clone(); \"$.result.ok\"; &'a str; \"x\"",
    );
}

/// Words of subjects and buckets whose messages are shapes of `protocol`.
fn message_words() -> Vec<String> {
    // What one room alone writes and reads is its own shape, with its own tests.
    let private = ["claims", "flags", "invites", "told"];
    FAMILIES.iter().map(|family| family.word.to_owned()).filter(|word| !private.contains(&word.as_str())).collect()
}

fn without_example(words: &[String], files: &[String]) -> Vec<String> {
    let path = |word: &String| format!("protocol/tests/examples/{word}.json");
    let left = words.iter().map(path).filter(|path| !files.contains(path));
    left.map(|path| format!("{path} is missing: store an example, and add it to protocol/tests/examples.rs")).collect()
}

#[test]
fn every_message_has_a_stored_example() {
    let files: Vec<String> = house().into_iter().map(|(path, _)| path).collect();
    let words = message_words();
    assert_eq!(without_example(&words, &files), Vec::<String>::new());
    let tests = read("protocol/tests/examples.rs");
    for word in &words {
        assert!(tests.contains(&format!("examples/{word}.json")), "add {word} to protocol/tests/examples.rs");
    }
    assert_eq!(without_example(&["order".to_owned(), "locks".to_owned()], &files).len(), 2);
}

// Plugs.

/// Where plugs live, what makes a file one, and the file that only hands on to them.
const PLUGS: &[(&str, &str, &str)] = &[
    ("agents/alert", "fn deliver(&self", "bridge.rs"),
    ("agents/flag", "impl Driver for", "config.rs"),
    ("agents/metric", "fn look(&", ""),
    ("agents/probe", "fn look(&self", "lib.rs"),
    ("agents/rollback", "impl Driver for", ""),
];

fn unlisted(room: &str, readme: &str, files: &[(String, String)]) -> Vec<String> {
    let Some((_, verb, hall)) = PLUGS.iter().find(|(own, ..)| *own == room) else { return Vec::new() };
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with('|')).collect();
    let plugs = files.iter().filter_map(|(path, text)| {
        let file = path.strip_prefix(room)?.strip_prefix("/src/")?;
        let plug = text.split("#[cfg(test)]").next().unwrap_or_default().contains(verb);
        (plug && file != *hall && !file.ends_with("contract.rs")).then_some(file)
    });
    let mut complaints: Vec<String> = plugs
        .filter(|file| !rows.iter().any(|row| row.contains(&format!("src/{file}"))))
        .map(|file| format!("{room}/README.md: add a row for `src/{file}` to the table"))
        .collect();
    let named = rows.iter().filter_map(|row| row.split("`src/").nth(1)?.split('`').next());
    let gone = named.filter(|file| !files.iter().any(|(path, _)| *path == format!("{room}/src/{file}")));
    complaints.extend(gone.map(|file| format!("{room}/README.md: `src/{file}` is not there: drop its row")));
    complaints
}

#[test]
fn every_plug_has_a_row_in_its_table() {
    let files = house();
    for (room, verb, _) in PLUGS {
        let plugs = files.iter().filter(|(path, text)| in_room(path, room) && text.contains(verb));
        assert!(plugs.count() > 0, "no plug found in {room}: say in tests/tidy.rs (PLUGS) how one is recognised");
        let readme = files.iter().find(|(path, _)| *path == format!("{room}/README.md"));
        let (_, readme) = readme.unwrap_or_else(|| panic!("{room}/README.md is missing: it holds the table of plugs"));
        assert_eq!(unlisted(room, readme, &files), Vec::<String>::new());
    }
    let new = [("agents/rollback/src/fly.rs".to_owned(), "impl Driver for Fly {}".to_owned())];
    assert_eq!(unlisted("agents/rollback", "| exec | what |\n", &new).len(), 1);
    assert_eq!(unlisted("agents/rollback", "| fly | `src/fly.rs` |\n| gone | `src/gone.rs` |\n", &new).len(), 1);
}

// Files.

/// Longest file, tests included. Tests that outgrow it move to a `tests.rs` beside it.
const LINES_MAX: usize = 800;
/// Longest `main.rs`: it parses, builds and runs.
const MAIN_LINES_MAX: usize = 150;

fn sizes(path: &str, text: &str) -> Vec<String> {
    let max = if path == "agents/main.rs" { MAIN_LINES_MAX } else { LINES_MAX };
    let lines = text.lines().count();
    let wrong = path.ends_with(".rs") && !path.ends_with("tests.rs") && lines > max;
    let complaint = || format!("{path}: {lines} lines of at most {max}: split it by reason to change");
    wrong.then(complaint).into_iter().collect()
}

#[test]
fn files_are_small() {
    holds(sizes);
    complains(sizes, "agents/probe/src/http.rs", &"\n".repeat(801));
    complains(sizes, "agents/main.rs", &"\n".repeat(151));
    accepts(sizes, "agents/probe/src/http/tests.rs", &"\n".repeat(1_000));
}

fn promises(path: &str, text: &str) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let has_issue = |rest: &str| {
        let number = rest.strip_prefix("(#").and_then(|rest| rest.split(')').next());
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let lines = text.lines().enumerate();
    let found = lines.flat_map(|(i, line)| {
        words.iter().flat_map(move |word| line.split(word).skip(1).map(move |rest| (i, word, rest)))
    });
    let found = found.filter(|(_, _, rest)| !has_issue(rest));
    found
        .map(|(i, word, _)| {
            format!("{path}:{}: a {word} needs an issue, as in `{word}(#12)`: do it, or open one", i + 1)
        })
        .collect()
}

#[test]
fn promises_have_an_issue() {
    holds(promises);
    complains(promises, "a.rs", concat!("// TO", "DO: later"));
    complains(promises, "a.rs", concat!("// FIX", "ME(me)"));
    accepts(promises, "a.rs", concat!("// TO", "DO(#12): later"));
}

fn machines(path: &str, text: &str) -> Vec<String> {
    if path == "tests/tidy.rs" {
        return Vec::new();
    }
    let places = ["/home/", "/root/", "/tmp/", "/work/", "/Users/"];
    let starts =
        |line: &str, at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "._-/}".contains(c));
    let found = text.lines().enumerate().flat_map(|(i, line)| {
        places
            .iter()
            .filter(move |place| line.match_indices(**place).any(|(at, _)| starts(line, at)))
            .map(move |p| (i, p))
    });
    let instead = "a path of one machine: take it as an argument, or use a temporary directory";
    found.map(|(i, place)| format!("{path}:{}: `{place}`: {instead}", i + 1)).collect()
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    holds(machines);
    complains(machines, "a.rs", "let dir = \"/home/me/plans\";");
    complains(machines, ".ci/run", "cd /tmp/x");
    accepts(machines, "a.rs", "use crate::home::x; // https://example.com/home/page");
}

fn top_level(path: &str, _: &str) -> Vec<String> {
    let rooms = ["agents", "coordinator", "protocol", "tests"];
    let papers = ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "compose.yaml"];
    let top = path.split('/').next().unwrap_or_default();
    let known = if top == path { papers.contains(&top) } else { rooms.contains(&top) };
    let wrong = !known && !top.starts_with('.');
    wrong.then(|| format!("{path}: the house has no such room; see the map in README.md")).into_iter().collect()
}

#[test]
fn the_top_level_holds_only_the_house() {
    holds(top_level);
    complains(top_level, "scripts/x.sh", "");
    complains(top_level, "NOTES.md", "");
    accepts(top_level, ".ci/run", "");
}
