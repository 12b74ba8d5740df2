//! `bellwether agents`: who is there, and where their levers stand; who may come.

use bellwether_bus::Bus;
use bellwether_protocol::codec;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;

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
    /// Who is there, heard within the last 15 s
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
    let here = presences(&bus).await?;
    if mesh.json {
        let text = codec::to_json("agents", &here)?;
        outln!("{}", String::from_utf8_lossy(&text));
    } else {
        table::agents(&here, now()).iter().for_each(|line| outln!("{}", line.plain()));
    }
    Ok(exit::DONE)
}

/// Every process that is there, by its id.
pub(crate) async fn presences(bus: &Bus) -> Result<Vec<Presence>, VerbError> {
    let bucket = bus.kv(Bucket::Presence);
    let mut here: Vec<Presence> = Vec::new();
    for entry in bucket.entries().await?.into_iter().take(AGENTS_MAX) {
        here.push(codec::from_msgpack("presence", &entry.value.unwrap_or_default())?);
    }
    here.sort_by(|a, b| a.agent.cmp(&b.agent));
    Ok(here)
}
