//! Faults on demand: what goes wrong with a release, where, and for which share of requests.
//!
//! Nothing here is random. A share is spread evenly, so that 5% is exactly every twentieth request.

use std::collections::BTreeMap;
use std::str::FromStr;

use bellwether_protocol::id::Release;
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_protocol::time::Span;
use serde::{Deserialize, Serialize};

/// One fault of one release. What is left out does not narrow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The release that is broken.
    pub release: Release,
    /// Only in this environment.
    #[serde(default)]
    pub env: Option<String>,
    /// Only on this path.
    #[serde(default)]
    pub path: Option<String>,
    /// Only for users for whom this flag is on.
    #[serde(default)]
    pub flag: Option<String>,
    /// The share of requests that end in status 500.
    #[serde(default)]
    pub errors: Ratio,
    /// How much longer each answer takes.
    #[serde(default)]
    pub latency: Span,
    /// Whether requests are never answered, or not for a very long time.
    #[serde(default)]
    pub hang: bool,
    /// The memory in use that `/health` tells, in megabytes.
    #[serde(default)]
    pub memory_mb: Option<u64>,
}

impl Fault {
    /// Whether the two hit the same requests, so that the later one replaces the earlier.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        (&self.release, &self.env, &self.path, &self.flag) == (&other.release, &other.env, &other.path, &other.flag)
    }

    /// Whether it does anything; setting one that does nothing removes the one before.
    pub(crate) fn has_effect(&self) -> bool {
        self.errors != Ratio::ZERO || self.latency != Span::ZERO || self.hang || self.memory_mb.is_some()
    }

    pub(crate) fn hits(&self, release: &Release, env: &str, path: &str) -> bool {
        self.release == *release
            && self.env.as_deref().is_none_or(|only| only == env)
            && self.path.as_deref().is_none_or(|only| only == path)
    }
}

/// Why a text is not a fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not part of a fault: write for example `release=v43,env=west,errors=5%,latency=300ms`")]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    /// Reads `release=v43,env=west,path=/checkout,flag=new_checkout,errors=5%,latency=300ms,memory=226MB,hang`.
    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if given.insert(key, value).is_some() {
                return Err(FaultError(part.to_owned()));
            }
        }
        let release = given.remove("release").unwrap_or_default();
        let fault = Self {
            release: release.parse().map_err(|_| FaultError(text.to_owned()))?,
            env: given.remove("env").map(str::to_owned),
            path: given.remove("path").map(str::to_owned),
            flag: given.remove("flag").map(str::to_owned),
            errors: read(given.remove("errors"))?.unwrap_or_default(),
            latency: read(given.remove("latency"))?.unwrap_or_default(),
            hang: given
                .remove("hang")
                .map(|value| if value.is_empty() { Ok(true) } else { read_one(value) })
                .transpose()?
                == Some(true),
            memory_mb: read(given.remove("memory").map(|value| value.trim_end_matches("MB")))?,
        };
        match given.into_keys().next() {
            Some(unknown) => Err(FaultError(unknown.to_owned())),
            None => Ok(fault),
        }
    }
}

fn read<T: FromStr>(value: Option<&str>) -> Result<Option<T>, FaultError> {
    value.map(read_one).transpose()
}

fn read_one<T: FromStr>(value: &str) -> Result<T, FaultError> {
    value.parse().map_err(|_| FaultError(value.to_owned()))
}

/// Spreads a share evenly over a series: 10% is every tenth.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Spread {
    carried_ppb: u32,
}

impl Spread {
    /// Whether the next one belongs to the share. The share may change on the way.
    pub(crate) fn take(&mut self, share: Ratio) -> bool {
        // Both are below one whole, so the sum stays far below the type's limit.
        self.carried_ppb += share.ppb();
        let taken = self.carried_ppb >= ONE_PPB;
        if taken {
            self.carried_ppb -= ONE_PPB;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_spread_evenly() {
        let check = |share: &str, n: usize, expected: Vec<usize>| {
            let share: Ratio = share.parse().expect("a ratio");
            let mut spread = Spread::default();
            let taken: Vec<usize> = (1..=n).filter(|_| spread.take(share)).collect();
            assert_eq!(taken, expected, "{share} of {n}");
        };
        check("10%", 30, vec![10, 20, 30]);
        check("5%", 40, vec![20, 40]);
        check("50%", 5, vec![2, 4]);
        check("0%", 1_000, vec![]);
        check("100%", 3, vec![1, 2, 3]);
        check("75%", 8, vec![2, 3, 4, 6, 7, 8]);
    }

    #[test]
    fn faults_are_read_from_one_line() {
        let fault: Fault = "release=v43,env=west,errors=5%,latency=300ms".parse().expect("a fault");
        assert_eq!(fault.errors.to_string(), "5%");
        assert_eq!(fault.latency, Span::from_ms(300));
        assert!(fault.hits(&fault.release, "west", "/") && !fault.hits(&fault.release, "east", "/"));
        let fault: Fault = "release=v43,hang,path=/checkout,flag=new_checkout,memory=226MB".parse().expect("a fault");
        assert_eq!((fault.hang, fault.memory_mb, fault.flag.as_deref()), (true, Some(226), Some("new_checkout")));
        assert!(fault.hits(&fault.release, "east", "/checkout") && !fault.hits(&fault.release, "east", "/"));
    }

    #[test]
    fn what_is_not_a_fault_is_refused() {
        for text in ["", "env=west", "release=", "release=v1,errors=5", "release=v1,speed=9", "release=v1,hang=no"] {
            assert!(text.parse::<Fault>().is_err(), "`{text}` was accepted");
        }
    }
}
