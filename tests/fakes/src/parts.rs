//! Programs and libraries of others that tests need: fetched once into a cache of the build's own, with a
//! printed line. What cannot be had fails the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Runs a command to its end, and gives what it printed.
///
/// # Panics
/// When it fails, with what it said.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The directory `name` in `cache`; where it is not there, `make` fills a directory that then takes its place.
///
/// # Panics
/// When it can neither be read nor made.
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn cached(cache: &Path, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _making = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = cache.join(name);
    if !dir.is_dir() {
        println!("fetching {name} into {}", cache.display());
        let partial = cache.join(format!("partial-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&partial).expect("a directory");
        make(&partial);
        // Another process may have been faster, and its directory is as good.
        if std::fs::rename(&partial, &dir).is_err() {
            std::fs::remove_dir_all(&partial).expect("our own directory");
        }
    }
    dir
}

/// What Debian's package unpacks to.
pub fn debian(cache: &Path, package: &str) -> PathBuf {
    cached(cache, &format!("debian-{package}"), |dir| {
        let download = format!("apt-get download {package}");
        let script =
            format!("{{ {download} || {{ apt-get update && {download}; }}; }} && dpkg -x ./*.deb . && rm ./*.deb");
        run(Command::new("sh").args(["-c", &script]).current_dir(dir));
    })
}

/// Where Python finds these packages, each `NAME==VERSION`: its `PYTHONPATH`.
pub fn python(cache: &Path, packages: &[&str]) -> PathBuf {
    cached(cache, &named("python", packages), |dir| {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", "."];
        run(Command::new("python3").args(pip).args(packages).current_dir(dir));
    })
}

/// Where Node finds these packages, each `NAME@VERSION`: its `NODE_PATH`.
pub fn node(cache: &Path, packages: &[&str]) -> PathBuf {
    let dir = cached(cache, &named("node", packages), |dir| {
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix", "."];
        run(Command::new("npm").args(npm).args(packages).current_dir(dir));
    });
    dir.join("node_modules")
}

fn named(kind: &str, packages: &[&str]) -> String {
    let versions = packages.join("_");
    format!("{kind}-{}", versions.replace(|c: char| !c.is_ascii_alphanumeric() && !"._".contains(c), ""))
}
