//! The kernels against values computed elsewhere, to forty digits where that matters.
//!
//! The files lie beside the workspace, in `../shared/vectors` or further up, and are not part of it. Where they are
//! missing this says so, and the closed forms in the modules' own tests stand alone.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "reads files, and checks libm against the standard library")]

mod bounds;
mod rules;
mod share;
mod threshold;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One line of a file, by the names of its columns.
struct Row {
    file: String,
    line: usize,
    cells: BTreeMap<String, String>,
}

impl Row {
    fn text(&self, column: &str) -> &str {
        self.cells.get(column).unwrap_or_else(|| panic!("{}: no column {column}", self.file))
    }

    fn f64(&self, column: &str) -> f64 {
        self.text(column).parse().unwrap_or_else(|_| panic!("{}:{} {column}", self.file, self.line))
    }

    fn u64(&self, column: &str) -> u64 {
        self.text(column).parse().unwrap_or_else(|_| panic!("{}:{} {column}", self.file, self.line))
    }

    /// Fails unless `got` is what the column says: to 1e-9, or to one part in 1e8.
    fn check(&self, column: &str, got: f64) {
        self.check_within(column, got, 1e-9, 1e-8);
    }

    fn check_within(&self, column: &str, got: f64, absolute: f64, relative: f64) {
        let expected = self.f64(column);
        let is_close = (got - expected).abs() <= absolute.max(relative * expected.abs());
        assert!(is_close, "{}:{} {column}: {got} instead of {expected}", self.file, self.line);
    }
}

/// Beside the workspace, or beside any directory that holds it: a branch may be checked out further down.
fn path(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let beside = workspace.ancestors().skip(1).map(|holder| holder.join("shared/vectors").join(name));
    beside.clone().find(|path| path.exists()).or_else(|| beside.clone().next()).unwrap()
}

/// The rows of a file; none when it is not there.
fn rows(name: &str) -> Vec<Row> {
    let path = path(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not there", path.display());
        return Vec::new();
    };
    let mut lines = text.lines().map(split);
    let names = lines.next().unwrap_or_default();
    let row = |(index, cells): (usize, Vec<String>)| Row {
        file: name.to_owned(),
        line: index + 2,
        cells: names.iter().cloned().zip(cells).collect(),
    };
    let rows: Vec<Row> = lines.enumerate().map(row).collect();
    assert!(!rows.is_empty(), "{name} is empty");
    rows
}

/// Cells of a line; quotes keep commas together.
fn split(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}
