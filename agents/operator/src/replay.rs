//! `bellwether rollout replay`: fetches a log for the judge to decide again, and shows what it said.
//!
//! The deciding again is the judge's; this crate never decides.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use bellwether_bus::{Bus, From as Begin};
use bellwether_protocol::codec::MESSAGE_LEN_MAX;
use bellwether_protocol::explanation::Explanation;
use bellwether_protocol::id::{Ordinal, RolloutId, Service};
use bellwether_protocol::record::{Hash, Record};
use bellwether_protocol::subject::{Bucket, Stream};
use tokio::sync::mpsc;

use crate::args::Mesh;
use crate::error::{VerbError, exit};
use crate::follow::started;
use crate::out::outln;
use crate::render::{self, Look, events};
use crate::rollout::{Which, find};
use crate::verb::{Judge, Told};

/// Decide a whole log again, and compare
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
    pub(crate) async fn show(&self, mesh: &Mesh, judge: &Judge) -> Result<u8, VerbError> {
        let (records, heads) = read_log(mesh, self, judge.records).await?.map_err(VerbError::Log)?;
        self.found(heads.len())?;
        show_replayed(mesh, &records, &heads);
        Ok(exit::DONE)
    }

    /// Of nothing, nothing is proven.
    fn found(&self, n: usize) -> Result<(), VerbError> {
        Err(match (n, &self.log, &self.service) {
            (1.., ..) => return Ok(()),
            (0, Some(path), _) => VerbError::Setup(format!(
                "{} holds no record, so nothing was shown of it; `bellwether audit export SERVICE` writes one per line",
                path.display()
            )),
            (0, None, Some(service)) => VerbError::NoService(service.clone()),
            (0, None, None) => VerbError::NoRollouts,
        })
    }
}

/// Say why a rollout went as it did: decided when, on which numbers, and seen to work how
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The rollout, such as `shop/2`, or a service for its last one; default: the only one
    #[arg(value_name = "ROLLOUT")]
    which: Option<Which>,
    /// A file with one record per line, instead of the mesh
    #[arg(long, value_name = "FILE", requires = "which")]
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
pub type Heads = BTreeMap<Service, (Ordinal, Hash)>;

impl AuditVerb {
    /// Reads the log and shows it, after the judge has decided it again where that was asked.
    ///
    /// # Errors
    /// When the log cannot be read, or does not verify.
    pub(crate) async fn show(&self, mesh: &Mesh, judge: &Judge) -> Result<u8, VerbError> {
        let source = self.source()?;
        if let Self::Export { .. } = self {
            let print = |record: Vec<u8>| outln!("{}", String::from_utf8_lossy(&record));
            source.found(read_log(mesh, &source, move |log| log.map(print).count()).await?)?;
            return Ok(exit::DONE);
        }
        let heads = read_log(mesh, &source, judge.verify).await?.map_err(VerbError::Log)?;
        source.found(heads.len())?;
        show_heads(mesh, &heads);
        Ok(exit::DONE)
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
    /// Of a rollout on the mesh.
    pub(crate) fn of(which: Which) -> Self {
        Self { which: Some(which), log: None }
    }

    /// Reads the log and shows what the judge makes of it.
    ///
    /// # Errors
    /// When the log cannot be read, does not verify, or does not hold the rollout.
    pub(crate) async fn show(&self, mesh: &Mesh, judge: &Judge) -> Result<u8, VerbError> {
        let why = self.tell(mesh, judge.explain).await?;
        if mesh.json {
            outln!("{}", serde_json::json!(why));
        } else {
            render::explain(&why).iter().for_each(|line| outln!("{line}"));
        }
        Ok(exit::DONE)
    }

    /// What `told` makes of the log of the rollout.
    pub(crate) async fn tell<T: Send + 'static>(
        &self,
        mesh: &Mesh,
        told: impl FnOnce(Log, Asked<'_>) -> Told<Option<T>> + Send + 'static,
    ) -> Result<T, VerbError> {
        let which = match &self.which {
            Some(which) => which.clone(),
            None => find(&mesh.connect().await?, None).await?.rollout.into(),
        };
        let Which { service, number } = which.clone();
        let source = ReplayArgs { service: Some(service.clone()), log: self.log.clone() };
        let read = read_log(mesh, &source, move |log| told(log, (&service, number)));
        read.await?.map_err(VerbError::Log)?.ok_or_else(|| which.none())
    }
}

/// Which rollout is asked for; the last one without a number.
pub type Asked<'a> = (&'a Service, Option<u64>);

/// Records as they are stored, in their order, of one service after the other. Blocks until the
/// next one is there, so it is read on a thread of its own.
#[derive(Debug)]
pub struct Log(mpsc::Receiver<Vec<u8>>);

impl Iterator for Log {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.0.blocking_recv()
    }
}

/// What makes an explanation of a log.
pub(crate) type Explain = fn(Log, Asked<'_>) -> Told<Option<Explanation>>;

/// The explanation so far of a rollout on the mesh, or what is in its way.
pub(crate) async fn explained(explain: Explain, bus: &Bus, rollout: &RolloutId) -> Vec<String> {
    let (records, log) = mpsc::channel(RECORDS_WAITING);
    let RolloutId { service, number } = rollout.clone();
    let told = tokio::task::spawn_blocking(move || explain(Log(log), (&service, Some(number))));
    let read = read_mesh(bus, Some(&rollout.service), &records).await;
    drop(records);
    match (read, told.await) {
        (Ok(()), Ok(Ok(Some(why)))) => render::explain(&why),
        (Ok(()), Ok(Ok(None))) => vec![VerbError::NoRollout(rollout.clone()).to_string()],
        (Ok(()), Ok(Err(error))) => vec![format!("cannot explain: {error}")],
        (Ok(()), Err(error)) => vec![format!("cannot explain: {error}")],
        (Err(error), _) => vec![format!("cannot explain: {error}")],
    }
}

/// Records that wait to be decided again: a log is never held as a whole.
const RECORDS_WAITING: usize = 64;

/// Hands the log to `told`, while it is still being read.
async fn read_log<T: Send + 'static>(
    mesh: &Mesh,
    args: &ReplayArgs,
    told: impl FnOnce(Log) -> T + Send + 'static,
) -> Result<T, VerbError> {
    let (records, log) = mpsc::channel(RECORDS_WAITING);
    let told = tokio::task::spawn_blocking(move || told(Log(log)));
    // What was told of half a log is not worth showing.
    match &args.log {
        Some(path) => {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let file = std::fs::File::open(&path).and_then(|file| read_lines(BufReader::new(file), &records));
                file.map_err(|source| VerbError::File { doing: "read", path, source })
            });
            reading.await.map_err(|error| VerbError::System(std::io::Error::other(error)))??;
        }
        None => read_mesh(&mesh.connect().await?, args.service.as_ref(), &records).await.map(|()| drop(records))?,
    }
    told.await.map_err(|error| VerbError::System(std::io::Error::other(error)))
}

fn read_lines(mut file: impl BufRead, records: &mpsc::Sender<Vec<u8>>) -> std::io::Result<()> {
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(MESSAGE_LEN_MAX).unwrap_or(u64::MAX);
        if (&mut file).take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = line.trim_ascii();
        // Nobody listens any more once a record was found wrong.
        if !text.is_empty() && records.blocking_send(text.to_vec()).is_err() {
            return Ok(());
        }
    }
}

async fn read_mesh(bus: &Bus, only: Option<&Service>, records: &mpsc::Sender<Vec<u8>>) -> Result<(), VerbError> {
    let services = match only {
        Some(service) => vec![service.clone()],
        None => {
            bus.kv(Bucket::Status).entries().await?.iter().map(|entry| entry.key.parse()).collect::<Result<_, _>>()?
        }
    };
    for service in services {
        let subject = bus.prefix().decision(&service);
        let Some(last) = bus.last(Stream::Decisions, &subject).await? else { continue };
        let mut log = bus.read(Stream::Decisions, vec![subject], Begin::Start);
        loop {
            let message = log.next().await;
            if records.send(message.body).await.is_err() || message.seq >= last.seq {
                break;
            }
        }
    }
    Ok(())
}

fn show_heads(mesh: &Mesh, heads: &Heads) {
    for (service, (ordinal, hash)) in heads {
        if mesh.json {
            outln!("{}", serde_json::json!({ "service": service, "record": ordinal, "hash": hash }));
        } else {
            let records = render::plural(ordinal.0, "record");
            outln!("{service}: {records} decided again, each the same to the byte; head {}", hash.short());
        }
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

    fn read(text: &str) -> Vec<Vec<u8>> {
        let (records, log) = mpsc::channel(RECORDS_WAITING);
        read_lines(text.as_bytes(), &records).unwrap();
        drop(records);
        Log(log).collect()
    }

    #[test]
    fn nothing_is_verified_of_nothing() {
        let asked = |service: Option<&str>, log: Option<&str>| ReplayArgs {
            service: service.map(|name| name.parse().unwrap()),
            log: log.map(PathBuf::from),
        };
        for (args, said) in [
            (asked(Some("shop"), None), "there is no rollout of shop"),
            (asked(None, Some("log.jsonl")), "log.jsonl holds no record"),
            (asked(None, None), "no rollouts yet"),
        ] {
            let error = args.found(0).unwrap_err();
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.exit_code(), exit::USAGE);
            args.found(1).unwrap();
        }
    }

    #[test]
    fn a_log_file_is_one_record_per_line() {
        assert_eq!(
            read("{\"a\":1}\n\n {\"b\":2} \r\n{}"),
            [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec(), b"{}".to_vec()]
        );
        assert!(read("").is_empty());
        // A line without end is cut into pieces that are no records, rather than kept in memory whole.
        assert_eq!(read(&"x".repeat(MESSAGE_LEN_MAX + 1)).len(), 2);
    }
}
