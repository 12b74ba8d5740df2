//! Whatever kills the program that started everything, nothing that it started is left.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::mesh::{LOOK_EVERY, PROGRAM, WITHIN, kill_9};
use crate::run;

#[test]
fn a_killed_demo_leaves_no_process() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("demo");
        let mut command = Command::new(PROGRAM);
        command.args(["demo", "--plain", "--only", "bad", "--dir"]).arg(&place).stdout(Stdio::piped());
        let errors = dir.path().join("errors");
        let file = std::fs::File::create(&errors).expect("a file");
        let mut demo = command.stderr(file).spawn().expect("the demo starts");
        let lines = BufReader::new(demo.stdout.take().expect("its output")).lines();
        let mut said = Vec::new();
        let is_ready = lines.map_while(Result::ok).any(|line| {
            said.push(line);
            said.iter().any(|line| line.contains(" started release="))
        });
        let left = descendants(demo.id());
        kill_9(demo.id());
        demo.wait().expect("gone");
        let errors = std::fs::read_to_string(&errors).unwrap_or_default();
        assert!(is_ready && left.len() >= 20, "a shim and a program each: {left:?}\n{}\n{errors}", said.join("\n"));
        let until = Instant::now() + WITHIN / 6;
        while left.iter().any(|pid| is_running(*pid)) {
            assert!(Instant::now() < until, "{:?}", left.iter().filter(|pid| is_running(**pid)).collect::<Vec<_>>());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
}

/// State and parent of a process, as the system tells them.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything; what follows its closing bracket may not.
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// What nobody has waited for is dead all the same.
fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

fn descendants(root: u32) -> Vec<u32> {
    let names =
        std::fs::read_dir("/proc").expect("processes").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let all: Vec<(u32, u32)> =
        names.filter_map(|name| name.parse().ok()).filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}
