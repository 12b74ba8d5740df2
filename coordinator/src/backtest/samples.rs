//! A samples file: JSON lines, each one slot of one SLI, in any order.
//!
//! A line that is not one, or that names what the plan does not have, is an error with its number. A
//! line whose figures cannot be true is rejected and counted: its slot is then missing, and a
//! missing slot never helps. So is a slot that is there twice with different figures, whichever came
//! first, so that the order of lines changes nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufRead, Read};

use bellwether_protocol::plan::Plan;
use bellwether_protocol::record::Series;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Timestamp, slot_start};
use serde::Deserialize;

/// What a samples file holds, by series and start of the slot.
#[derive(Debug, Default)]
pub struct Samples {
    /// The rows of each series.
    pub rows: BTreeMap<Series, BTreeMap<Timestamp, Row>>,
    /// How many lines.
    pub lines: usize,
    /// Rejected lines, by why: how many, and the number of the first.
    pub rejected: BTreeMap<&'static str, (usize, usize)>,
}

/// One slot of one SLI.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Events.
    pub n: u64,
    /// Of these, bad.
    pub bad: u64,
    /// A level.
    pub value: Option<f64>,
    /// Latencies: counts by upper edge in milliseconds, `u64::MAX` for the rest.
    pub buckets: Option<Box<BTreeMap<u64, u64>>>,
}

/// Why a samples file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// A line is not a sample, or is of something that the plan does not have.
    #[error("{file}:{line}: {why}")]
    Line {
        /// The file, as it was named.
        file: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The file could not be read.
    #[error("cannot read {file}")]
    Read {
        /// The file, as it was named.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not one usable line.
    #[error("{0} holds no samples")]
    Empty(String),
}

/// One line, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    at: Cow<'a, str>,
    #[serde(borrow)]
    sli: Cow<'a, str>,
    #[serde(borrow, default)]
    cohort: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    region: Option<Cow<'a, str>>,
    n: Option<u64>,
    bad: Option<u64>,
    value: Option<f64>,
    #[serde(borrow, default)]
    buckets: Option<BTreeMap<Cow<'a, str>, u64>>,
}

/// Longest line, in bytes.
const LINE_LEN_MAX: u64 = 64 * 1024;
/// Most lines: three times a rollout of 48 h, 20 SLIs and 10 regions in two cohorts.
const LINES_MAX: usize = 8_000_000;
/// Most events of one slot. Kernels are exact far beyond it.
const EVENTS_MAX: u64 = 1_000_000_000_000;
/// Largest size of a level: a petabyte, in bytes.
const VALUE_MAX: f64 = 1e15;

/// What is kept while reading: a row, or that two lines contradict each other.
enum Cell {
    Row(Row),
    Conflict,
}

impl Samples {
    /// Reads the samples of `plan`; `name` is that of their file, for messages only.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn read(name: &str, mut file: impl BufRead, plan: &Plan) -> Result<Self, SamplesError> {
        let mut samples = Self::default();
        let mut cells: BTreeMap<Series, BTreeMap<Timestamp, Cell>> = BTreeMap::new();
        let mut text = Vec::new();
        loop {
            text.clear();
            let len = (&mut file).take(LINE_LEN_MAX).read_until(b'\n', &mut text);
            let len = len.map_err(|source| SamplesError::Read { file: name.to_owned(), source })?;
            if len == 0 {
                break;
            }
            samples.lines += 1;
            let line = samples.lines;
            let wrong = |why: String| SamplesError::Line { file: name.to_owned(), line, why };
            if line > LINES_MAX {
                return Err(wrong(format!("more than {LINES_MAX} lines")));
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            let parsed: Line<'_> = serde_json::from_slice(&text).map_err(|error| wrong(not_a_sample(&text, &error)))?;
            let (series, slot) = place(&parsed, plan).map_err(wrong)?;
            match row(&parsed).map_err(wrong)? {
                Ok(row) => samples.keep(&mut cells, series, slot, row, line),
                Err(why) => samples.reject(why, line),
            }
        }
        let rows = cells.into_iter().map(|(series, cells)| {
            let rows = cells.into_iter().filter_map(|(slot, cell)| match cell {
                Cell::Row(row) => Some((slot, row)),
                Cell::Conflict => None,
            });
            (series, rows.collect())
        });
        samples.rows = rows.collect();
        if samples.rows.values().all(BTreeMap::is_empty) {
            Err(SamplesError::Empty(name.to_owned()))
        } else {
            Ok(samples)
        }
    }

    fn keep(
        &mut self,
        cells: &mut BTreeMap<Series, BTreeMap<Timestamp, Cell>>,
        series: Series,
        slot: Timestamp,
        row: Row,
        line: usize,
    ) {
        match cells.entry(series).or_default().entry(slot) {
            Entry::Vacant(vacant) => {
                vacant.insert(Cell::Row(row));
            }
            Entry::Occupied(occupied) if matches!(occupied.get(), Cell::Row(own) if *own == row) => {
                self.reject("the same slot again", line);
            }
            Entry::Occupied(mut occupied) => {
                occupied.insert(Cell::Conflict);
                self.reject("the same slot with other figures: the slot counts as missing", line);
            }
        }
    }

    fn reject(&mut self, why: &'static str, line: usize) {
        let (count, _) = self.rejected.entry(why).or_insert((0, line));
        *count += 1;
    }
}

fn not_a_sample(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "cut off in the middle; the file was not written to its end".to_owned();
    }
    if text.len() as u64 >= LINE_LEN_MAX {
        return format!("longer than {LINE_LEN_MAX} bytes");
    }
    // The parser speaks of line 1: it sees one line at a time.
    let column = error.column();
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("not a sample, column {column}: {what}")
}

fn place(line: &Line<'_>, plan: &Plan) -> Result<(Series, Timestamp), String> {
    let known = |names: Vec<String>| names.join(", ");
    let sli = plan.slis.iter().find(|sli| sli.name.as_str() == line.sli).ok_or_else(|| {
        let names = plan.slis.iter().map(|sli| sli.name.to_string()).collect();
        format!("sli: the plan has no `{}`, but {}", cut(&line.sli), known(names))
    })?;
    let cohort = match line.cohort.as_deref() {
        None => Cohort::Canary,
        Some(text) => text.parse().map_err(|error| format!("cohort: {error}"))?,
    };
    let region = match (line.region.as_deref(), plan.regions.len()) {
        (Some(name), _) => plan.regions.keys().find(|region| region.as_str() == name),
        (None, 1) => plan.regions.keys().next(),
        (None, _) => None,
    };
    let region = region.ok_or_else(|| {
        let names = plan.regions.keys().map(ToString::to_string).collect();
        let given = line.region.as_deref().unwrap_or_default();
        format!("region: the plan has no `{}`, but {}", cut(given), known(names))
    })?;
    let at: Timestamp = line
        .at
        .parse()
        .map_err(|_| format!("at: `{}` is not RFC 3339, such as 2026-05-05T13:50:00Z", cut(&line.at)))?;
    if slot_start(at, plan.slot) != at {
        return Err(format!("at: {} is not the start of a slot of {}", at.seconds(), plan.slot));
    }
    Ok((Series { sli: sli.name.clone(), cohort, region: region.clone() }, at))
}

/// The figures of a line. The inner error is of figures that cannot be true.
fn row(line: &Line<'_>) -> Result<Result<Row, &'static str>, String> {
    let mut buckets = None;
    let mut in_buckets = 0_u64;
    if let Some(written) = &line.buckets {
        let mut read = BTreeMap::new();
        for (edge, count) in written {
            let edge = edge_ms(edge)?;
            let own: &mut u64 = read.entry(edge).or_default();
            *own = own.saturating_add(*count);
            in_buckets = in_buckets.saturating_add(*count);
        }
        buckets = Some(Box::new(read));
    }
    let n = match (line.n, line.value, &buckets) {
        (Some(n), ..) => n,
        (None, _, Some(_)) => in_buckets,
        (None, Some(_), None) => 1,
        (None, None, None) => return Err("neither `n`, `value` nor `buckets`".to_owned()),
    };
    let bad = line.bad.unwrap_or(0);
    Ok(if bad > n {
        Err("more bad than there were")
    } else if n > EVENTS_MAX || in_buckets > EVENTS_MAX {
        Err("more events than one slot can hold (1e12)")
    } else if line.value.is_some_and(|value| !value.is_finite() || value.abs() > VALUE_MAX) {
        Err("a value beyond 1e15")
    } else if line.value.is_some_and(|value| value < 0.0) {
        Err("a level below zero")
    } else {
        Ok(Row { n, bad, value: line.value, buckets })
    })
}

/// An upper edge in seconds, as milliseconds. Rounded up: an answer is never made slower than it was.
fn edge_ms(text: &str) -> Result<u64, String> {
    if text == "+Inf" {
        return Ok(u64::MAX);
    }
    let seconds: f64 = text.parse().map_err(|_| bad_edge(text))?;
    let is_edge = seconds.is_finite() && seconds > 0.0 && seconds <= 86_400.0;
    // Within a day, so that the cast is exact; a hair is taken off for edges such as 0.1 s.
    if is_edge { Ok((seconds * 1e3 - 1e-6).ceil() as u64) } else { Err(bad_edge(text)) }
}

fn bad_edge(text: &str) -> String {
    format!("buckets: `{}` is not an upper edge in seconds, such as \"0.5\" or \"+Inf\"", cut(text))
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}
