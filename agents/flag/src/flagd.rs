//! flagd: one flag in a JSON file that flagd watches.
//!
//! Only three keys of the one flag are changed, as text, so that everything else stays as its owner
//! wrote it, to the byte; the file is replaced whole. A flag whose targeting this driver did not
//! write stands nowhere that it knows.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_protocol::presence::Target;
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_runtime::{Driver, DriverError, Reading};
use futures_util::future::BoxFuture;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Largest file, in bytes.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Several levers of one agent may be in one file; each change reads and replaces all of it.
static CHANGING: Mutex<()> = Mutex::new(());

/// Which flag, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagdConfig {
    /// The file.
    pub file: PathBuf,
    /// The flag's key in it.
    pub flag: String,
    /// The variant that a share of users gets. Default `on`.
    #[serde(default = "default_on")]
    pub on: String,
    /// The variant that the others get. Default `off`.
    #[serde(default = "default_off")]
    pub off: String,
}

fn default_on() -> String {
    "on".to_owned()
}

fn default_off() -> String {
    "off".to_owned()
}

/// A flag in a file.
#[derive(Debug, Clone)]
pub struct Flagd(FlagdConfig);

/// What the flag says of whom it serves.
#[derive(Debug, PartialEq)]
struct Rollout {
    default: String,
    targeting: Value,
}

impl Flagd {
    /// A driver for the flag of `config`. Reads nothing yet.
    pub fn new(config: &FlagdConfig) -> Self {
        Self(config.clone())
    }

    /// What `to` is written as; `None` when the flag has no such variants.
    fn rollout(&self, to: &LeverValue, variants: &Map<String, Value>) -> Option<Rollout> {
        if variants.contains_key(to.as_str()) {
            return Some(Rollout { default: to.to_string(), targeting: json!({}) });
        }
        let FlagdConfig { on, off, .. } = &self.0;
        let share: Ratio = to.as_str().parse().ok().filter(|share: &Ratio| share.to_string() == to.as_str())?;
        let has_both = variants.contains_key(on) && variants.contains_key(off);
        // The largest sum of weights in flagd is 2^31 - 1, so parts per billion fit.
        let weights = json!([[on, share.ppb()], [off, share.complement().ppb()]]);
        has_both.then(|| Rollout { default: off.clone(), targeting: json!({ "fractional": weights }) })
    }

    /// The value that is written as the flag is; `None` when it is not one of ours.
    fn value(&self, flag: &Map<String, Value>) -> Option<LeverValue> {
        let default = flag.get("defaultVariant")?.as_str()?;
        let variants = flag.get("variants")?.as_object()?;
        if flag.get("state")? != "ENABLED" {
            return None;
        }
        let targeting = flag.get("targeting").filter(|targeting| **targeting != json!({}));
        let Some(targeting) = targeting else { return default.parse().ok().filter(|_| variants.contains_key(default)) };
        let share = targeting.pointer("/fractional/0/1")?.as_u64()?;
        let share = u32::try_from(share).ok().filter(|ppb| *ppb <= ONE_PPB).map(Ratio::from_ppb)?;
        let value = share.to_string().parse().ok()?;
        let ours = self.rollout(&value, variants)?;
        (ours.targeting == *targeting && ours.default == default).then_some(value)
    }

    fn flag<'a>(&self, file: &'a Value) -> Result<&'a Map<String, Value>, String> {
        let flag = file.get("flags").and_then(|flags| flags.get(&self.0.flag)).and_then(Value::as_object);
        flag.ok_or_else(|| format!("{} holds no flag `{}`", self.0.file.display(), self.0.flag))
    }

    fn write(&self, to: &LeverValue) -> Result<String, DriverError> {
        let _one_at_a_time = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let FlagdConfig { file, flag: key, .. } = &self.0;
        // Through a link, or the link would be replaced by a file.
        let path = fs::canonicalize(file).map_err(|e| DriverError::Refused(format!("{}: {e}", file.display())))?;
        let text = read(&path).map_err(|e| DriverError::Retry(format!("{}: {e}", path.display())))?;
        let parsed: Value = serde_json::from_str(&text)
            .map_err(|e| DriverError::Retry(format!("{} cannot be read now: {e}", path.display())))?;
        let flag = self.flag(&parsed).map_err(DriverError::Refused)?;
        let variants = flag.get("variants").and_then(Value::as_object);
        let rollout = variants.and_then(|variants| self.rollout(to, variants));
        let unknown = || DriverError::Refused(format!("`{to}` is neither a variant nor a share of `{key}`"));
        let rollout = rollout.ok_or_else(unknown)?;
        let changed = changed(&text, key, &rollout).filter(|changed| is_only_change(&parsed, changed, key, &rollout));
        let odd = || DriverError::Refused(format!("{} has `{key}`, or a key of it, twice", path.display()));
        let changed = changed.ok_or_else(odd)?;
        if changed == text {
            return Ok(format!("`{key}` was at {to}"));
        }
        let beside =
            replace(&path, &text, &changed).map_err(|e| DriverError::Retry(format!("{}: {e}", path.display())));
        beside.map(|()| format!("wrote `{key}` into {}", path.display()))
    }

    fn look(&self) -> Result<Reading, DriverError> {
        let path = &self.0.file;
        let text = read(path).map_err(|e| DriverError::Retry(format!("{}: {e}", path.display())))?;
        let file: Value =
            serde_json::from_str(&text).map_err(|e| DriverError::Retry(format!("{}: {e}", path.display())))?;
        let value = self.value(self.flag(&file).map_err(DriverError::Retry)?);
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Reading::of(vec![Target { id, value }]))
    }
}

impl Driver for Flagd {
    fn set<'a>(&'a self, to: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        let (own, to) = (self.clone(), to.clone());
        Box::pin(blocking(move || own.write(&to)))
    }

    fn describe(&self) -> String {
        format!("writes flag {} in {}", self.0.flag, self.0.file.display())
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        let own = self.clone();
        Box::pin(blocking(move || own.look()))
    }
}

/// A disk may hang, and must not hold up the other levers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(DriverError::Unknown("the change of the file ended halfway".to_owned())))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX { Err(io::Error::other("over 4 MiB")) } else { Ok(text) }
}

/// Replaces a file that still is as it was read: written beside it, synced, renamed.
fn replace(path: &Path, before: &str, after: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.bellwether"));
    let mut file = File::create(&beside)?;
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.write_all(after.as_bytes())?;
    file.sync_all()?;
    if read(path)? != before {
        fs::remove_file(&beside)?;
        return Err(io::Error::other("somebody else changed it meanwhile"));
    }
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// The text with the three keys of one flag at what they are to be; `None` when a key is there twice.
fn changed(text: &str, flag: &str, rollout: &Rollout) -> Option<String> {
    let flag = members(members(text)?.one("flags")?)?.one(flag)?;
    let (keys, first) = (members(flag)?, place(text, flag).start + 1);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let wanted = [
        ("state", json!("ENABLED")),
        ("defaultVariant", json!(rollout.default)),
        ("targeting", rollout.targeting.clone()),
    ];
    for (key, value) in wanted {
        match keys.of(key).as_slice() {
            [] if value == json!({}) => {}
            [] => edits.push((first..first, format!("\"{key}\": {value}, "))),
            [old] => {
                // What says the same already is left as it is written.
                let is_same = serde_json::from_str::<Value>(old).is_ok_and(|old| old == value);
                edits.extend((!is_same).then(|| (place(text, old), value.to_string())));
            }
            _ => return None,
        }
    }
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    for (place, value) in edits {
        text.replace_range(place, &value);
    }
    Some(text)
}

/// Whether `changed` says what `before` says, but for the three keys of one flag.
fn is_only_change(before: &Value, changed: &str, flag: &str, rollout: &Rollout) -> bool {
    let mut expected = before.clone();
    if let Some(flag) = expected.get_mut("flags").and_then(|flags| flags.get_mut(flag)) {
        flag["state"] = json!("ENABLED");
        flag["defaultVariant"] = json!(rollout.default);
        if rollout.targeting != json!({}) || flag.get("targeting").is_some() {
            flag["targeting"] = rollout.targeting.clone();
        }
    }
    serde_json::from_str::<Value>(changed).is_ok_and(|changed| changed == expected)
}

/// The members of an object, in order: each key, and its value as it is written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

fn members(object: &str) -> Option<Members<'_>> {
    serde_json::from_str(object).ok()
}

impl<'a> Members<'a> {
    /// Everything under `key`.
    fn of(&self, key: &str) -> Vec<&'a str> {
        self.0.iter().filter(|(own, _)| own == key).map(|(_, value)| value.get()).collect()
    }

    /// The only value under `key`.
    fn one(&self, key: &str) -> Option<&'a str> {
        if let [one] = self.of(key).as_slice() { Some(one) } else { None }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let all = std::iter::from_fn(|| map.next_entry().transpose());
                all.collect::<Result<_, _>>().map(Members)
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// Where `part` stands in `text`, of which it is a piece.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests;
