//! A file as its owner wrote it, and what is left of it.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::contract::{bring, read as standing, refuses};

/// With the owner's own spacing, order, numbers, and a key that only looks like ours.
const FILE: &str = r#"{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "metadata": {"big": 123456789012345678901234567890, "defaultVariant": "on"},
  "flags": {
    "other": { "state":"DISABLED",   "variants": {"on": 1.50, "off": 1e2}, "defaultVariant": "on" },
    "new\u002dcheckout": {
      "variants": { "on": true, "off": false, "}\"": false },  "state": "ENABLED",
      "defaultVariant": "off", "metadata": { "owner": "a \"team\", {really}" }
    }
  }
}
"#;

struct Bench {
    driver: Flagd,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn bench(text: &str) -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flags.json");
    fs::write(&path, text).expect("written");
    let config = json!({ "file": path, "flag": "new-checkout" });
    let config: FlagdConfig = serde_json::from_value(config).expect("a configuration");
    Bench { driver: Flagd::new(&config), path, _dir: dir }
}

impl Bench {
    fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("a file")
    }
}

#[tokio::test]
async fn nothing_but_the_flag_is_touched() {
    let bench = bench(FILE);
    let targeting = r#""targeting": {"fractional":[["on",100000000],["off",900000000]]}, "#;
    let opened = FILE.replace(r#"checkout": {"#, &format!(r#"checkout": {{{targeting}"#));
    let emptied = FILE.replace(r#"checkout": {"#, r#"checkout": {"targeting": {}, "#);
    for (to, expected) in [
        ("off", FILE.to_owned()),
        ("10%", opened),
        ("off", emptied.clone()),
        ("on", emptied.replace(r#""defaultVariant": "off""#, r#""defaultVariant": "on""#)),
    ] {
        bring(&bench.driver, to).await;
        assert_eq!(bench.text(), expected, "{to}");
        assert_eq!(standing(&bench.driver).await.as_deref(), Some(to));
    }
    for odd in ["maybe", "101%", "10.0%"] {
        assert!(refuses(&bench.driver, odd).await, "{odd}");
    }
}

#[tokio::test]
async fn the_kill_drops_the_targeting_of_others_and_enables_the_flag() {
    let targeting = r#""targeting": {"if": [{"in": ["@", {"var": "email"}]}, "on", null]}, "#;
    let text = FILE.replace(r#"checkout": {"#, &format!(r#"checkout": {{{targeting}"#));
    let bench = bench(&text.replace("\"ENABLED\"", "\"DISABLED\""));
    assert_eq!(standing(&bench.driver).await, None, "targeting that this driver did not write");
    assert_eq!(bring(&bench.driver, "off").await, ["done"]);
    assert_eq!(bench.text(), FILE.replace(r#"checkout": {"#, r#"checkout": {"targeting": {}, "#));
}

#[tokio::test]
async fn what_cannot_be_changed_safely_is_left_alone() {
    let twice = FILE.replace(r#""defaultVariant": "off","#, r#""defaultVariant": "off", "defaultVariant": "off","#);
    for (name, text, expected) in [
        ("half a file", FILE[..200].to_owned(), "retry"),
        ("no such flag", r#"{"flags": {}}"#.to_owned(), "refused"),
        ("a list of flags", r#"{"flags": [{"key": "new-checkout"}]}"#.to_owned(), "refused"),
        ("one key twice", twice, "refused"),
        ("a flag twice", FILE.replace("\"other\"", "\"new-checkout\""), "refused"),
        ("no variant off", FILE.replace("\"off\": false", "\"no\": false"), "refused"),
    ] {
        let bench = bench(&text);
        let said = match bench.driver.write(&crate::contract::value("10%")) {
            Err(DriverError::Retry(_)) => "retry",
            Err(DriverError::Refused(_)) => "refused",
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!((said, bench.text()), (expected, text), "{name}");
    }
    let missing = Flagd::new(&FlagdConfig { file: "/nonexistent/flags.json".into(), ..bench(FILE).driver.0 });
    assert!(refuses(&missing, "off").await);
    assert_eq!(standing(&missing).await, None);
}

#[tokio::test]
async fn the_file_is_replaced_whole_with_its_rights_and_through_links() {
    let bench = bench(FILE);
    fs::set_permissions(&bench.path, fs::Permissions::from_mode(0o640)).expect("set");
    let link = bench.path.with_file_name("link.json");
    symlink(&bench.path, &link).expect("linked");
    let linked = Flagd::new(&FlagdConfig { file: link.clone(), ..bench.driver.0.clone() });
    bring(&linked, "on").await;
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert_eq!(fs::metadata(&bench.path).expect("a file").permissions().mode() & 0o777, 0o640);
    assert_eq!(standing(&bench.driver).await.as_deref(), Some("on"));
    // Somebody else was faster.
    let now = bench.text();
    assert!(replace(&bench.path, FILE, "mine").is_err());
    let left: Vec<_> = fs::read_dir(bench.path.parent().expect("a directory")).expect("read").collect();
    assert_eq!((bench.text(), left.len()), (now, 2));
}
