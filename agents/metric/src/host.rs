//! The kind `host`: memory, CPU and disk of where this agent runs.
//!
//! ```yaml
//! host: { numbers: [memory_share, cpu, disk_share] }
//! ```
//!
//! Where the agent's own control group (v2 or v1) has a limit, the group is measured against it, as in a
//! container; else the whole machine is, from `/proc`. Shares and `cpu` are percentages; `cpu` is of the
//! limit, or of all processors, since the last reading.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{Level, Portion, class};
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::found::{Found, Missing, Reading};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    numbers: BTreeSet<Number>,
}

/// What can be measured. The number in a sample has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Number {
    Cpu,
    Disk,
    DiskShare,
    Memory,
    MemoryLimit,
    MemoryShare,
    Uptime,
}

#[derive(Debug)]
pub(crate) struct Host {
    numbers: BTreeSet<Number>,
    disk: PathBuf,
    place: Place,
    cpu: Option<Cpu>,
}

/// Where the kernel tells: `/`, or a copy of its files.
#[derive(Debug)]
struct Place(PathBuf);

/// Processor time used, in seconds, and what there was of it.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    used: f64,
    /// Seconds that there were in all; `None`: `processors` times what the clock says.
    whole: Option<f64>,
    processors: f64,
    at: Timestamp,
}

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 256 * 1024;
/// Limits of this size are how version 1 of control groups writes that there is none.
const UNLIMITED: f64 = 1e18;

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    crate::settings::<Settings>(settings).err().unwrap_or_default()
}

impl Host {
    /// Reads settings; `disk` is where the file system is that counts.
    pub(crate) fn read(settings: &Value, disk: &Path) -> Result<Self, String> {
        let Settings { numbers } = crate::settings(settings).map_err(|flaws| crate::told(&flaws))?;
        Ok(Self { numbers, disk: disk.to_owned(), place: Place("/".into()), cpu: None })
    }

    /// Measures everything that was asked for; one number that cannot be read makes all missing.
    pub(crate) fn look(&mut self, now: Timestamp) -> Reading {
        let mut portion = Portion { classes: [(class::ok(), 1)].into(), ..Portion::default() };
        for number in self.numbers.clone() {
            let name = serde_json::to_value(number).ok().and_then(|name| name.as_str()?.parse().ok());
            let value = self.value(number, now).filter(|value| value.is_finite());
            let (Some(name), Some(value)) = (name, value) else {
                return Err(Missing(format!("{number:?} cannot be read here, or not yet")));
            };
            portion.numbers.insert(name, Level::one(value));
        }
        Ok(vec![Found::new(now, portion)])
    }

    fn value(&mut self, number: Number, now: Timestamp) -> Option<f64> {
        match number {
            Number::Cpu => {
                let cpu = self.place.cpu(now)?;
                self.cpu.replace(cpu).and_then(|before| cpu.share_since(before))
            }
            Number::Disk | Number::DiskShare => {
                let disk = rustix::fs::statvfs(&self.disk).ok()?;
                let used = float(disk.f_blocks.saturating_sub(disk.f_bfree));
                // What is kept for the administrator is of no use to the service.
                let usable = used + float(disk.f_bavail);
                Some(if number == Number::Disk { used * float(disk.f_frsize) } else { used * 100.0 / usable })
            }
            Number::Memory => Some(self.place.memory()?.0),
            Number::MemoryLimit => Some(self.place.memory()?.1),
            Number::MemoryShare => self.place.memory().map(|(used, limit)| used * 100.0 / limit),
            Number::Uptime => Some(first(&self.place.text("proc/uptime")?)? * 1e3),
        }
    }
}

impl Cpu {
    fn share_since(self, before: Self) -> Option<f64> {
        let whole = match (self.whole, before.whole) {
            (Some(now), Some(then)) => now - then,
            (None, None) => float(self.at.since(before.at).as_ms()) / 1e3 * self.processors,
            _ => return None,
        };
        let used = self.used - before.used;
        (whole > 0.0 && used >= 0.0).then(|| used * 100.0 / whole)
    }
}

impl Place {
    fn text(&self, path: &str) -> Option<String> {
        let file = std::fs::File::open(self.0.join(path)).ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_LEN_MAX), &mut text).ok()?;
        Some(text)
    }

    /// The directories of our control group for `controller` and of those around it, innermost first,
    /// and whether they are of version 1.
    fn groups(&self, controller: &str) -> (Vec<String>, bool) {
        let text = self.text("proc/self/cgroup").unwrap_or_default();
        let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let own = lines().find(|(names, _)| names.split(',').any(|name| name == controller));
        let (mount, path, is_first) = match own.or_else(|| lines().find(|(names, _)| names.is_empty())) {
            Some(("", path)) => ("sys/fs/cgroup".to_owned(), path, false),
            Some((names, path)) => (format!("sys/fs/cgroup/{names}"), path, true),
            None => return (Vec::new(), false),
        };
        // Inside a container the path may be that of the host, which is not there.
        let around =
            Path::new(path.trim_start_matches('/')).ancestors().map(|path| format!("{mount}/{}", path.display()));
        (around.filter(|dir| self.0.join(dir).is_dir()).collect(), is_first)
    }

    /// Bytes used and bytes there are.
    fn memory(&self) -> Option<(f64, f64)> {
        let (groups, is_first) = self.groups("memory");
        let (limit, usage, cache) = if is_first {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        } else {
            ("memory.max", "memory.current", "inactive_file")
        };
        let limited = groups.iter().filter_map(|dir| Some((dir, first(&self.text(&format!("{dir}/{limit}"))?)?)));
        let tightest = limited.filter(|(_, limit)| *limit < UNLIMITED).min_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((dir, limit)) = tightest {
            let usage = first(&self.text(&format!("{dir}/{usage}"))?)?;
            let cache = field(&self.text(&format!("{dir}/memory.stat")).unwrap_or_default(), cache).unwrap_or(0.0);
            // Files that nobody used lately are given back before anything is killed.
            return Some(((usage - cache).max(0.0), limit));
        }
        let text = self.text("proc/meminfo")?;
        let (total, free) = (field(&text, "MemTotal:")? * 1_024.0, field(&text, "MemAvailable:")? * 1_024.0);
        Some((total - free, total))
    }

    fn cpu(&self, at: Timestamp) -> Option<Cpu> {
        let (groups, is_first) = self.groups("cpu");
        for dir in &groups {
            let read = |file: &str| self.text(&format!("{dir}/{file}"));
            let (quota, used) = if is_first {
                let quota = first(&read("cpu.cfs_quota_us")?).zip(first(&read("cpu.cfs_period_us")?));
                (quota, first(&read("cpuacct.usage").unwrap_or_default()).map(|ns| ns / 1e9))
            } else {
                let max = read("cpu.max").unwrap_or_default();
                let quota = first(&max).zip(max.split_whitespace().nth(1).and_then(|period| period.parse().ok()));
                (quota, field(&read("cpu.stat").unwrap_or_default(), "usage_usec").map(|us| us / 1e6))
            };
            if let (Some((quota, period)), Some(used)) =
                (quota.filter(|(quota, period)| *quota > 0.0 && *period > 0.0), used)
            {
                return Some(Cpu { used, whole: None, processors: quota / period, at });
            }
        }
        // user nice system idle iowait irq softirq steal; guests are in `user` already.
        let text = self.text("proc/stat")?;
        let ticks = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<f64> = ticks.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
        let whole: f64 = ticks.iter().sum();
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        Some(Cpu { used: whole - idle, whole: Some(whole), processors: 0.0, at })
    }
}

/// The first word of a text, when it is a number.
fn first(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| first(line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '\t']))?))
}

#[expect(clippy::cast_precision_loss, reason = "sizes and times, of which nobody needs the last digit")]
fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &[(&str, &str)] = &[
        ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    250 kB\n"),
        ("proc/stat", "cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2 3\n"),
        ("proc/uptime", "12.50 99.0\n"),
    ];

    fn host(files: &[(&str, &str)], numbers: &str) -> (Host, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let host =
            Host::read(&serde_json::json!({"numbers": numbers.split(' ').collect::<Vec<_>>()}), dir.path()).unwrap();
        put(dir.path(), MACHINE);
        put(dir.path(), files);
        (Host { place: Place(dir.path().to_owned()), ..host }, dir)
    }

    fn put(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn read(host: &mut Host, s: i64) -> Option<Vec<f64>> {
        let found = host.look(Timestamp::from_ms(s * 1_000)).ok()?;
        Some(found[0].portion.numbers.values().map(|level| level.last).collect())
    }

    #[test]
    fn memory_is_that_of_the_tightest_group_or_of_the_machine() {
        let v2 = "0::/a/b\n";
        for (files, expected) in [
            (&[][..], [768_000.0, 1_024_000.0, 75.0]),
            (&[("proc/self/cgroup", v2), ("sys/fs/cgroup/a/b/memory.max", "max\n")], [768_000.0, 1_024_000.0, 75.0]),
            (
                &[
                    ("proc/self/cgroup", v2),
                    ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                    ("sys/fs/cgroup/a/b/memory.current", "5\n"),
                    ("sys/fs/cgroup/a/memory.max", "200\n"),
                    ("sys/fs/cgroup/a/memory.current", "150\n"),
                    ("sys/fs/cgroup/a/memory.stat", "anon 9\ninactive_file 50\n"),
                ],
                [100.0, 200.0, 50.0],
            ),
            (
                // In a container: the path of the host, and the group itself at the mount.
                &[
                    ("proc/self/cgroup", v2),
                    ("sys/fs/cgroup/memory.max", "400\n"),
                    ("sys/fs/cgroup/memory.current", "100\n"),
                ],
                [100.0, 400.0, 25.0],
            ),
            (
                &[
                    ("proc/self/cgroup", "5:memory:/x\n3:cpu,cpuacct:/x\n"),
                    ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "100\n"),
                    ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "80\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                [80.0, 100.0, 80.0],
            ),
        ] {
            let (mut host, _dir) = host(files, "memory memory_limit memory_share");
            assert_eq!(read(&mut host, 0), Some(expected.to_vec()), "{files:?}");
        }
    }

    #[test]
    fn cpu_is_a_share_of_what_there_was_since_the_last_reading() {
        let v2 = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")];
        let v1 = [
            ("proc/self/cgroup", "3:cpu,cpuacct:/\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ];
        type File = (&'static str, &'static str);
        let cases: [(&[File], [File; 2], f64); 3] = [
            (&[], [("proc/stat", "cpu  100 0 50 800 50 0 0 0\n"), ("proc/stat", "cpu  150 0 75 900 75 0 0 0\n")], 37.5),
            (
                &v2,
                [
                    ("sys/fs/cgroup/cpu.stat", "usage_usec 1000000\n"),
                    ("sys/fs/cgroup/cpu.stat", "usage_usec 2000000\n"),
                ],
                20.0,
            ),
            (
                &v1,
                [
                    ("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "0"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "5000000000"),
                ],
                25.0,
            ),
        ];
        for (files, [then, now], expected) in cases {
            let (mut host, dir) = host(files, "cpu");
            put(dir.path(), &[then]);
            assert_eq!(read(&mut host, 0), None, "one reading tells no use");
            put(dir.path(), &[now]);
            assert_eq!(read(&mut host, 10), Some(vec![expected]), "{files:?}");
            put(dir.path(), &[then]);
            assert_eq!(read(&mut host, 20), None, "a counter that fell is another one");
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let numbers = ["disk", "disk_share", "memory", "memory_limit", "memory_share", "uptime"];
        let mut host = Host::read(&serde_json::json!({ "numbers": numbers }), Path::new("/")).unwrap();
        let values = read(&mut host, 0).unwrap();
        assert!(values.iter().all(|value| *value > 0.0) && values[1] <= 100.0 && values[4] <= 100.0, "{values:?}");
        assert!(Host::read(&serde_json::json!({"numbers": ["heat"]}), Path::new("/")).is_err());
        let mut gone = Host::read(&serde_json::json!({"numbers": ["disk"]}), Path::new("/proc/gone")).unwrap();
        assert_eq!(read(&mut gone, 0), None, "never zero");
    }
}
