//! The exec driver against small scripts.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Instant;

use super::*;

/// Well over any timeout of these tests, and under the 60 s that their commands would sleep.
const WITHIN: Duration = Duration::from_secs(30);

fn line(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

fn config(set: &[&str], read_back: &[&str]) -> ExecConfig {
    ExecConfig {
        set: line(set),
        read_back: line(read_back),
        history: None,
        timeout: Span::from_secs(20),
        env: BTreeMap::new(),
        values: None,
        pattern: None,
    }
}

fn script(text: &str) -> Exec {
    // `true {value}`: these tests are about reading.
    Exec::new(&config(&["true", "{value}"], &["sh", "-c", text])).expect("a driver")
}

fn setting(text: &str) -> Exec {
    Exec::new(&config(&["sh", "-c", text, "sh", "{value}"], &["true"])).expect("a driver")
}

fn value(text: &str) -> LeverValue {
    text.parse().expect("a value")
}

fn action(generation: u64) -> ActionId {
    format!("shop/42/{generation}/0").parse().expect("an id")
}

async fn set(driver: &Exec, to: &str) -> Result<String, DriverError> {
    driver.set(&value(to), &action(7)).await
}

#[tokio::test]
async fn exit_codes_say_whether_it_may_have_happened() {
    let check = async |code: u8, expected: Result<&str, DriverError>| {
        let driver = setting(&format!("echo said; exit {code}"));
        assert_eq!(set(&driver, "v1").await, expected.map(str::to_owned), "exit {code}");
    };
    check(0, Ok("said")).await;
    check(75, Err(DriverError::Retry("said".into()))).await;
    check(64, Err(DriverError::Refused("said".into()))).await;
    check(1, Err(DriverError::Unknown("exit status: 1; said".into()))).await;
    let killed = set(&setting("kill -9 $$"), "v1").await;
    assert!(matches!(killed, Err(DriverError::Unknown(_))), "{killed:?}");
}

#[tokio::test]
async fn a_value_is_one_argument_and_never_code() {
    let driver = setting(r#"printf '%s|' "$@""#);
    for text in ["$(reboot)", "a;b", "`id`", "'x'", "a&&b", "*"] {
        assert_eq!(set(&driver, text).await, Ok(format!("{text}|")));
    }
    let wrong = |set: &[&str], read_back: &[&str]| Exec::new(&config(set, read_back)).is_err();
    assert!(wrong(&["sh", "-c", "set {value}"], &["read"]));
    assert!(wrong(&["{value}"], &["read"]));
    assert!(wrong(&["set"], &["read"]));
    assert!(wrong(&[], &["read"]));
    assert!(wrong(&["set", "{value}"], &["read", "{value}"]));
    assert!(wrong(&["set", "{value}"], &[""]));
}

#[tokio::test]
async fn only_listed_values_are_set() {
    let mut config = config(&["echo", "{value}"], &["true"]);
    config.values = Some(vec![value("0%"), value("10%")]);
    let driver = Exec::new(&config).expect("a driver");
    assert_eq!(set(&driver, "10%").await, Ok("10%".to_owned()));
    assert!(matches!(set(&driver, "100%").await, Err(DriverError::Refused(_))));
    // The pattern must match the whole value, not a part of it.
    (config.values, config.pattern) = (None, Some("v1|v2".to_owned()));
    let driver = Exec::new(&config).expect("a driver");
    assert_eq!(set(&driver, "v2").await, Ok("v2".to_owned()));
    assert!(matches!(set(&driver, "v22").await, Err(DriverError::Refused(_))));
    assert!(matches!(set(&driver, "xv1").await, Err(DriverError::Refused(_))));
}

#[tokio::test]
async fn a_timeout_ends_the_command_and_what_it_started() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    // Opened without waiting, a pipe reads as empty without a writer, and as not ready with one.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().try_into().expect("open flags");
    let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).expect("a pipe");
    let mut is_held = move || reader.read(&mut [0; 1]).is_err();
    let mut config =
        config(&["sh", "-c", r#"sleep 60 > "$0" & sleep 60"#, &pipe.display().to_string(), "{value}"], &["true"]);
    config.timeout = Span::from_secs(1);
    let driver = Exec::new(&config).expect("a driver");
    let began = Instant::now();
    let started = async {
        while !is_held() {
            assert!(began.elapsed() < WITHIN, "the child of the command never started");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        is_held
    };
    let to = value("v1");
    let id = action(1);
    let (stopped, mut is_held) = tokio::join!(driver.set(&to, &id), started);
    assert!(matches!(stopped, Err(DriverError::Unknown(_))), "{stopped:?}");
    while is_held() {
        assert!(began.elapsed() < WITHIN, "a child of the command outlived the timeout");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn outputs_held_open_by_a_child_do_not_stall() {
    let driver = setting("sleep 15 & echo done");
    let began = Instant::now();
    assert_eq!(set(&driver, "v1").await, Ok("done".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn garbage_is_not_a_reading() {
    let check = async |text: &str| {
        let read = script(&format!("printf '%s' '{text}'")).read_back().await;
        assert!(matches!(read, Err(DriverError::Unknown(_))), "`{text}` was read: {read:?}");
    };
    check("").await;
    check("10%").await;
    check(r#"{"value":"10%"}"#).await;
    check(r#"{"value":"10%","targets":[]}"#).await;
    check(r#"{"targets":[{"id":"east","value":"10%"}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east"}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"","value":"10%"}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east","value":"0%"}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east","value":null}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east","value":"10%"},{"id":"east","value":"10%"}]}"#).await;
    check(r#"{"value":"10 %","targets":[{"id":"east","value":"10 %"}]}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east","value":"10%"}],"more":1}"#).await;
    check(r#"{"value":"10%","targets":[{"id":"east","value":"10%"}]} and more"#).await;
}

#[tokio::test]
async fn a_place_that_could_not_be_read_is_told_as_such() {
    let text = r#"echo '{"value":null,"targets":[{"id":"east","value":"10%"},{"id":"west","value":null}]}'"#;
    let reading = script(text).read_back().await.expect("a reading");
    assert_eq!(reading.value, None);
    let values: Vec<_> = reading.targets.into_iter().map(|target| target.value).collect();
    assert_eq!(values, [Some(value("10%")), None]);
}

#[tokio::test]
async fn a_flood_is_read_to_its_end_and_not_kept() {
    let flood = "head -c 3000000 /dev/zero | tr '\\0' x";
    let said = set(&setting(flood), "v1").await.expect("said");
    assert_eq!(said.len(), 1_000);
    let read = script(flood).read_back().await;
    assert!(matches!(&read, Err(DriverError::Unknown(why)) if why.contains("more than 65536 bytes")), "{read:?}");
}

#[tokio::test]
async fn a_missing_program_is_refused() {
    let driver = Exec::new(&config(&["/nonexistent/tool", "{value}"], &["/nonexistent/tool"])).expect("a driver");
    assert!(matches!(set(&driver, "v1").await, Err(DriverError::Refused(_))));
    assert!(matches!(driver.read_back().await, Err(DriverError::Refused(_))));
}

#[tokio::test]
async fn secrets_reach_the_command_and_nobody_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, "s3cr3t\n").expect("written");
    let text = r#"echo "token $TOKEN for $BELLWETHER_ACTION; home is ${HOME-unset}" >&2"#;
    let mut config = config(&["sh", "-c", text, "{value}"], &["true"]);
    let secret = serde_json::from_value(serde_json::json!(format!("file:{}", file.display()))).expect("a reference");
    config.env.insert("TOKEN".to_owned(), secret);
    let driver = Exec::new(&config).expect("a driver");
    assert_eq!(set(&driver, "v1").await, Ok("token *** for shop/42/7/0; home is unset".to_owned()));
    assert!(!format!("{driver:?}").contains("s3cr3t"));
    std::fs::remove_file(&file).expect("removed");
    let missing = Exec::new(&config).expect_err("a missing secret");
    assert_eq!(missing.to_string(), "environment variable `TOKEN` of the command has no value");
}

#[tokio::test]
async fn history_is_newest_first_or_empty() {
    let mut config = config(&["true", "{value}"], &["true"]);
    assert_eq!(Exec::new(&config).expect("a driver").history().await, Ok(Vec::new()));
    config.history = Some(line(&["echo", r#"["v42","v41"]"#]));
    let releases = Exec::new(&config).expect("a driver").history().await.expect("a history");
    assert_eq!(releases.iter().map(Release::as_str).collect::<Vec<_>>(), ["v42", "v41"]);
}
