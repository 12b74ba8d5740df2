//! What `--version` tells of a build: commit, its date, target and compiler. Needs no git, and then says so.

use std::process::Command;

fn main() {
    let version = env("CARGO_PKG_VERSION");
    let commit = said("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    let date = said("git", &["log", "-1", "--format=%cs"]);
    let built = commit.map_or_else(
        || "commit unknown".to_owned(),
        |commit| format!("commit {commit} of {}", date.unwrap_or_default()),
    );
    let rustc = said(&env("RUSTC"), &["--version"]).unwrap_or_default();
    let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
    println!("cargo:rustc-env=BELLWETHER_VERSION={version} ({built}, {}, {rustc})", env("TARGET"));
    println!("cargo:rerun-if-changed=agents/build.rs");
    // Where git notes each commit that is checked out; a worktree has its own.
    if let Some(log) = said("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// What Cargo tells the script.
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The one line that a command prints; `None` when it is not there, or fails.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}
