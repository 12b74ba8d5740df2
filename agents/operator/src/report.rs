//! `bellwether rollout report` and `rollout evidence`: what a rollout has shown, and the slots behind
//! its numbers. The gathering is the judge's.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use bellwether_protocol::id::{CriterionName, Region};
use bellwether_protocol::report::{At, Wanted};

use crate::args::Mesh;
use crate::error::{VerbError, exit};
use crate::out::{outln, print};
use crate::render::{evidence_lines, report_html, report_markdown};
use crate::replay::ExplainArgs;
use crate::verb::Judge;

/// Report a rollout: may what comes next follow, and on which evidence
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    #[command(flatten)]
    of: ExplainArgs,
    /// How it is written; default: by the ending of --output, or markdown
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to this file, which must not exist
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With --output: replace the file if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One file for a browser
    Html,
    /// For programs
    Json,
    /// For a ticket
    Markdown,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "html" | "htm" => Some(Self::Html),
            "json" => Some(Self::Json),
            "md" | "markdown" => Some(Self::Markdown),
            _ => None,
        }
    }
}

impl ReportArgs {
    /// Reads the log and writes what the judge makes of it.
    ///
    /// # Errors
    /// When the log cannot be read, does not verify, or does not hold the rollout; when the file
    /// exists or cannot be written.
    pub(crate) async fn show(&self, mesh: &Mesh, judge: &Judge) -> Result<u8, VerbError> {
        let by_name = || self.output.as_deref().and_then(Format::of);
        let asked = self.format.or(mesh.json.then_some(Format::Json));
        let format = asked.or_else(by_name).unwrap_or(Format::Markdown);
        let report = self.of.tell(mesh, judge.report).await?;
        let text = match format {
            Format::Html => report_html(&report),
            Format::Json => format!("{}\n", serde_json::json!(report)),
            Format::Markdown => report_markdown(&report),
        };
        match &self.output {
            None => print(format_args!("{text}")),
            Some(path) => {
                write(path, &text, self.force)?;
                eprintln!("written: {}, {} bytes", path.display(), text.len());
            }
        }
        Ok(exit::DONE)
    }
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), VerbError> {
    let mut options = OpenOptions::new();
    options.write(true).create(force).truncate(force).create_new(!force);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => VerbError::Exists(path.to_owned()),
        _ => VerbError::File { doing: "write", path: path.to_owned(), source },
    })
}

/// Show the slots behind a rollout's numbers, as they were folded
#[derive(Debug, clap::Args)]
pub struct EvidenceArgs {
    #[command(flatten)]
    of: ExplainArgs,
    /// Only the slot that holds this instant, such as 2026-05-05T13:50:30Z, or of every day 13:50:30Z
    #[arg(long, value_name = "INSTANT")]
    slot: Option<At>,
    /// Only slots that this criterion counts
    #[arg(long, value_name = "NAME")]
    criterion: Option<CriterionName>,
    /// Only slots of this region
    #[arg(long, value_name = "NAME")]
    region: Option<Region>,
}

impl EvidenceArgs {
    /// Reads the log and shows the slots that the judge finds in it.
    ///
    /// # Errors
    /// When the log cannot be read, does not verify, or does not hold the rollout.
    pub(crate) async fn show(&self, mesh: &Mesh, judge: &Judge) -> Result<u8, VerbError> {
        let wanted = Wanted { slot: self.slot, criterion: self.criterion.clone(), region: self.region.clone() };
        let evidence = judge.evidence;
        let folded = self.of.tell(mesh, move |log, which| evidence(log, which, &wanted)).await?;
        if mesh.json {
            folded.slots.iter().for_each(|slot| outln!("{}", serde_json::json!(slot)));
        } else {
            evidence_lines(&folded).iter().for_each(|line| outln!("{}", line.plain()));
        }
        Ok(exit::DONE)
    }
}
