//! `bellwether agents`: who is there, and where their levers stand; who may come.

use bellwether_bus::Bus;
use bellwether_protocol::codec;
use bellwether_protocol::presence::{PRESENCE_TTL, Presence, Stuck};
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use serde::Serialize;

use crate::args::{Mesh, now};
use crate::error::{VerbError, exit};
use crate::join::{InviteArgs, JoinArgs};
use crate::out::outln;
use crate::render::table;

/// Look at the agents, and let more in
#[derive(Debug, Clone, clap::Subcommand)]
pub enum AgentsVerb {
    /// Print a one-time token with which one agent can join
    Invite(InviteArgs),
    /// Write what an invited agent needs into a new folder; says what is left to do
    Join(JoinArgs),
    /// Who is there, heard within the last 15 s; and who fell silent within a day
    List,
}

/// Most agents that are listed.
const AGENTS_MAX: usize = 1_000;

/// Lists agents, or lets one in.
///
/// # Errors
/// When the mesh cannot be read, or a token is not good.
pub(crate) async fn agents(mesh: &Mesh, verb: AgentsVerb) -> Result<u8, VerbError> {
    let bus = mesh.connect().await?;
    match verb {
        AgentsVerb::Invite(args) => return args.run(&bus, mesh.json).await,
        AgentsVerb::Join(args) => return args.run(&bus, mesh).await,
        AgentsVerb::List => {}
    }
    let seen = seen(&bus).await?;
    if mesh.json {
        let text = codec::to_json("agents", &seen)?;
        outln!("{}", String::from_utf8_lossy(&text));
    } else {
        table::agents(&seen, now()).iter().for_each(|line| outln!("{}", line.plain()));
    }
    Ok(exit::DONE)
}

/// A process that is there, or fell silent within a day. One that ended on purpose is neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    /// What it said last.
    #[serde(flatten)]
    pub(crate) said: Presence,
    /// When it said so, by the clock of NATS, if it has said nothing for [`PRESENCE_TTL`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) silent_since: Option<Timestamp>,
}

/// Every process that is there or fell silent, by its id.
pub(crate) async fn seen(bus: &Bus) -> Result<Vec<Seen>, VerbError> {
    let bucket = bus.kv(Bucket::Presence);
    let mut seen: Vec<Seen> = Vec::new();
    let mut entries = bucket.entries().await?;
    // A day's dead must not crowd out who is there.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
    // This machine's clock may be wrong, and would make everybody silent, or nobody.
    let (now, _) = bucket.time().await?;
    for entry in entries.into_iter().take(AGENTS_MAX) {
        let said = codec::from_msgpack("presence", &entry.value.unwrap_or_default())?;
        seen.push(Seen { said, silent_since: (now.since(entry.at) > PRESENCE_TTL).then_some(entry.at) });
    }
    seen.sort_by(|a, b| a.said.agent.cmp(&b.said.agent));
    Ok(seen)
}

/// Why nothing is decided in this mesh, if so. A status says nothing of it: it is stored as decisions are.
///
/// # Errors
/// When the mesh cannot be read.
pub(crate) async fn stuck(bus: &Bus) -> Result<Option<Stuck>, VerbError> {
    let bucket = bus.kv(Bucket::Presence);
    let coordinators = bucket.entries_of("*.coordinator.*").await?;
    let (now, last) = bucket.time().await?;
    let is_fresh = |at: Timestamp| now.since(at) <= PRESENCE_TTL;
    let here = || coordinators.iter().filter(|entry| is_fresh(entry.at));
    if here().next().is_some() {
        let said = here().filter_map(|entry| codec::from_msgpack("presence", entry.value.as_deref()?).ok());
        return Ok(said.filter_map(|presence: Presence| presence.stuck).min_by_key(|stuck| stuck.since));
    }
    let told = |since: Option<Timestamp>, what: &str, why: &str, fix: &str| {
        let (what, why, fix) = (what.to_owned(), why.to_owned(), fix.to_owned());
        Some(Stuck { since: since.unwrap_or(now), what, why, fix })
    };
    Ok(match last.filter(|last| !is_fresh(*last)) {
        Some(last) => told(
            Some(last),
            "nothing is stored",
            "no agent or coordinator was heard: NATS has no room, or they are cut off",
            "look whether NATS has room on its disk: its log and its /healthz say",
        ),
        None => {
            let since = coordinators.iter().map(|entry| entry.at).max();
            told(since, NO_COORDINATOR, "none was heard", "bellwether coordinator --dir DIR")
        }
    })
}

/// What is the matter when nobody decides.
const NO_COORDINATOR: &str = "no coordinator is here";

/// Every process that is there, by its id.
pub(crate) async fn presences(bus: &Bus) -> Result<Vec<Presence>, VerbError> {
    Ok(seen(bus).await?.into_iter().filter(|one| one.silent_since.is_none()).map(|one| one.said).collect())
}
