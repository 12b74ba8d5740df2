//! `bellwether rollout replay`: fetches a log for the judge to decide again, and shows what it said.
//!
//! The deciding again is the coordinator's; this crate never decides. `main.rs` joins the two.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use bellwether_bus::{Bus, From as Begin};
use bellwether_protocol::codec::MESSAGE_LEN_MAX;
use bellwether_protocol::id::{Ordinal, RolloutId, Service};
use bellwether_protocol::record::{Hash, Record};
use bellwether_protocol::subject::{Bucket, Stream};

use crate::args::Mesh;
use crate::error::{VerbError, exit};
use crate::follow::started;
use crate::out::outln;
use crate::render::{Look, events};

/// Which log to replay
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Only this service; default: all
    service: Option<Service>,
    /// A file with one record per line, instead of the mesh
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Every record that is to be decided again, as it is stored.
///
/// # Errors
/// When the file or the mesh cannot be read.
pub async fn stored_records(mesh: &Mesh, args: &ReplayArgs) -> Result<Vec<Vec<u8>>, VerbError> {
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

/// Shows records that were decided again and found equal.
pub fn show_replayed(mesh: &Mesh, records: &[Record], heads: &BTreeMap<Service, (Ordinal, Hash)>) -> u8 {
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
    exit::DONE
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
