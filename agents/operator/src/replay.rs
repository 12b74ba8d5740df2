//! `bellwether rollout replay`: fetches a log for the judge to decide again, and shows what it said.
//!
//! The deciding again is the coordinator's; this crate never decides. `main.rs` joins the two.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use bellwether_bus::{Bus, From as Begin};
use bellwether_protocol::codec::{self, MESSAGE_LEN_MAX};
use bellwether_protocol::explanation::Explanation;
use bellwether_protocol::id::{Ordinal, RolloutId, Service};
use bellwether_protocol::record::{Hash, Record};
use bellwether_protocol::subject::{Bucket, Stream};

use crate::args::Mesh;
use crate::error::{VerbError, exit};
use crate::follow::started;
use crate::out::outln;
use crate::render::{self, Look, events};

/// Which log to replay
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Only this service; default: all
    service: Option<Service>,
    /// A file with one record per line, instead of the mesh
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl ReplayArgs {
    /// Reads the log and shows what `replay` has decided again.
    ///
    /// # Errors
    /// When the log cannot be read, or does not replay.
    pub async fn show<E>(
        &self,
        mesh: &Mesh,
        replay: impl FnOnce(Vec<Vec<u8>>) -> Result<(Vec<Record>, Heads), E>,
    ) -> Result<Result<u8, E>, VerbError> {
        let replayed = replay(stored_records(mesh, self).await?);
        Ok(replayed.map(|(records, heads)| {
            show_replayed(mesh, &records, &heads);
            exit::DONE
        }))
    }
}

/// Which rollout to explain
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The rollout, such as `shop/2`, or a service for its last one
    #[arg(value_name = "ROLLOUT")]
    which: String,
    /// A file with one record per line, instead of the mesh
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Check the log
#[derive(Debug, clap::Subcommand)]
pub enum AuditVerb {
    /// Decide every record of a log again, offline, and compare: 0, or the first difference
    Verify {
        /// A service, or a file with one record per line
        log: String,
    },
    /// Print every record of a service as it is stored, one per line
    Export {
        /// The service
        service: Service,
    },
}

/// The last record of each service, and its hash.
type Heads = BTreeMap<Service, (Ordinal, Hash)>;

impl AuditVerb {
    /// Reads the log and shows it, after `verify` has decided it again where that was asked.
    ///
    /// # Errors
    /// When the log cannot be read, or does not verify.
    pub async fn show<E>(
        &self,
        mesh: &Mesh,
        verify: impl FnOnce(Vec<Vec<u8>>) -> Result<Heads, E>,
    ) -> Result<Result<u8, E>, VerbError> {
        let records = stored_records(mesh, &self.source()?).await?;
        match self {
            Self::Export { .. } => records.iter().for_each(|record| outln!("{}", String::from_utf8_lossy(record))),
            Self::Verify { .. } => match verify(records) {
                Ok(heads) => show_heads(mesh, &heads),
                Err(error) => return Ok(Err(error)),
            },
        }
        Ok(Ok(exit::DONE))
    }

    fn source(&self) -> Result<ReplayArgs, VerbError> {
        match self {
            Self::Export { service } => Ok(ReplayArgs { service: Some(service.clone()), log: None }),
            // A name can be both; a file that is there is what was meant.
            Self::Verify { log } if PathBuf::from(log).is_file() || log.parse::<Service>().is_err() => {
                Ok(ReplayArgs { service: None, log: Some(PathBuf::from(log)) })
            }
            Self::Verify { log } => Ok(ReplayArgs { service: Some(log.parse()?), log: None }),
        }
    }
}

impl ExplainArgs {
    /// Reads the log and shows what `explain` makes of it.
    ///
    /// # Errors
    /// When the log cannot be read, does not verify, or does not hold the rollout.
    pub async fn show<E>(
        &self,
        mesh: &Mesh,
        explain: impl FnOnce(Vec<Vec<u8>>, &RolloutId) -> Result<Option<Explanation>, E>,
    ) -> Result<Result<u8, E>, VerbError> {
        let (records, rollout) = self.records(mesh).await?;
        let why = match explain(records, &rollout) {
            Ok(why) => why.ok_or(VerbError::NoRollout(rollout))?,
            Err(error) => return Ok(Err(error)),
        };
        if mesh.json {
            outln!("{}", serde_json::json!(why));
        } else {
            render::explain(&why).iter().for_each(|line| outln!("{line}"));
        }
        Ok(Ok(exit::DONE))
    }

    /// The records that it takes, and which rollout is meant; the last one of them without a number.
    async fn records(&self, mesh: &Mesh) -> Result<(Vec<Vec<u8>>, RolloutId), VerbError> {
        let named: Option<RolloutId> = if self.which.contains('/') { Some(self.which.parse()?) } else { None };
        let service = match &named {
            Some(rollout) => rollout.service.clone(),
            None => self.which.parse()?,
        };
        let source = ReplayArgs { service: Some(service.clone()), log: self.log.clone() };
        let records = stored_records(mesh, &source).await?;
        let number = || {
            let starts = records.iter().filter_map(|body| codec::from_json::<Record>("record", body).ok());
            starts.filter(|record| record.service == service).filter_map(|record| started(&record)).next_back()
        };
        let rollout = named.or_else(number).ok_or(VerbError::NoService(service))?;
        Ok((records, rollout))
    }
}

/// Every record that is to be decided again, as it is stored.
///
/// # Errors
/// When the file or the mesh cannot be read.
async fn stored_records(mesh: &Mesh, args: &ReplayArgs) -> Result<Vec<Vec<u8>>, VerbError> {
    match &args.log {
        Some(path) => {
            let wrong = |source| VerbError::File { doing: "read", path: path.clone(), source };
            let file = std::fs::File::open(path).map_err(wrong)?;
            read_lines(BufReader::new(file)).map_err(wrong)
        }
        None => read_mesh(&mesh.connect().await?, args.service.as_ref()).await,
    }
}

fn read_lines(mut file: impl BufRead) -> std::io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(MESSAGE_LEN_MAX).unwrap_or(u64::MAX);
        if (&mut file).take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            lines.push(text.to_vec());
        }
    }
}

async fn read_mesh(bus: &Bus, only: Option<&Service>) -> Result<Vec<Vec<u8>>, VerbError> {
    let services = match only {
        Some(service) => vec![service.clone()],
        None => bus.kv(Bucket::Status).keys().await?.iter().map(|key| key.parse()).collect::<Result<_, _>>()?,
    };
    let mut records = Vec::new();
    for service in services {
        let subject = bus.prefix().decision(&service);
        let Some(last) = bus.last(Stream::Decisions, &subject).await? else { continue };
        let mut log = bus.read(Stream::Decisions, vec![subject], Begin::Start);
        loop {
            let message = log.next().await;
            records.push(message.body);
            if message.seq >= last.seq {
                break;
            }
        }
    }
    Ok(records)
}

fn show_heads(mesh: &Mesh, heads: &Heads) {
    for (service, (ordinal, hash)) in heads {
        if mesh.json {
            outln!("{}", serde_json::json!({ "service": service, "record": ordinal, "hash": hash }));
        } else {
            outln!("{service}: {ordinal} records decided again, each the same to the byte; head {}", hash.short());
        }
    }
    if heads.is_empty() && !mesh.json {
        outln!("no records. do: bellwether rollout start PLAN --release RELEASE");
    }
}

/// Shows records that were decided again and found equal.
fn show_replayed(mesh: &Mesh, records: &[Record], heads: &Heads) {
    let look = Look { colour: false, ascii: true };
    let mut at: BTreeMap<&Service, RolloutId> = BTreeMap::new();
    for record in records {
        if let Some(rollout) = started(record) {
            at.insert(&record.service, rollout);
        }
        // Before the first start of a service there are only refusals.
        let none = RolloutId { service: record.service.clone(), number: 0 };
        let rollout = at.get(&record.service).unwrap_or(&none);
        for event in events(record, look) {
            if mesh.json {
                outln!("{}", event.json(rollout));
            } else {
                outln!("{}", event.long(rollout));
            }
        }
    }
    show_heads(mesh, heads);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_one_record_per_line() {
        let read = |text: &str| read_lines(text.as_bytes()).unwrap();
        assert_eq!(
            read("{\"a\":1}\n\n {\"b\":2} \r\n{}"),
            [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec(), b"{}".to_vec()]
        );
        assert!(read("").is_empty());
        // A line without end is cut into pieces that are no records, rather than kept in memory whole.
        assert_eq!(read(&"x".repeat(MESSAGE_LEN_MAX + 1)).len(), 2);
    }
}
