//! `bellwether demo`: the whole product on this machine, in two acts. A good release goes from
//! staging to production; a bad one is caught in one region and taken back.
//!
//! Nothing is staged but the fault: the same coordinator, agents, plan and verbs run as in
//! production. It listens on loopback only, writes into its own directory only (the cache of the
//! server's binary excepted), and leaves nothing behind.

mod act;
mod files;
mod place;
mod sink;
mod tail;

use std::path::{Path, PathBuf};
use std::time::Instant;

use bellwether_bus::{Bus, ConnectOptions};
use bellwether_protocol::subject::Prefix;
use bellwether_runtime::Mode;
use tokio::sync::mpsc;

use crate::args::Mesh;
use crate::demo::act::{Act, Cast};
use crate::demo::place::Place;
use crate::error::{VerbError, exit};
use crate::render::{Look, span};
use crate::replay::Explain;

/// Run the whole product on this machine: a good release, then a bad one
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave it running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Where it keeps its files; must not exist. Default: a temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Lines instead of the live view
    #[arg(long)]
    plain: bool,
    /// The nats-server to run; default: the one on PATH, or the pinned one, installed into the cache
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// One act only
    #[arg(long, value_enum, value_name = "ACT")]
    only: Option<Only>,
}

/// Which act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// The bad release
    Bad,
    /// The good release
    Good,
}

/// Lines that wait to be shown between events.
const NOTES_MAX: usize = 256;

/// Plays the demo.
///
/// # Errors
/// When something cannot be started, or an act does not end as it should.
pub(crate) async fn demo(mesh: &Mesh, args: &DemoArgs, explain: Explain) -> Result<u8, VerbError> {
    let began = Instant::now();
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("bellwether-demo-{}", uuid::Uuid::now_v7())),
    };
    // Only a directory of our own may be removed at the end.
    std::fs::create_dir(&dir).map_err(|source| VerbError::File { doing: "make", path: dir.clone(), source })?;
    let dir = dir.canonicalize().unwrap_or(dir);
    let outcome = within(mesh, args, &dir, began, explain).await;
    match std::fs::remove_dir_all(&dir) {
        Ok(()) => outcome,
        Err(source) => outcome.and(Err(VerbError::File { doing: "remove", path: dir, source })),
    }
}

async fn within(mesh: &Mesh, args: &DemoArgs, dir: &Path, began: Instant, explain: Explain) -> Result<u8, VerbError> {
    let (notes, mut heard) = mpsc::channel(NOTES_MAX);
    let place = tokio::select! {
        place = Place::open(dir, args.nats_server.as_deref(), notes.clone()) => place?,
        () = bellwether_runtime::shutdown() => return Ok(exit::HELD),
    };
    let outcome = play(mesh, args, &place, (notes, &mut heard), (began, explain)).await;
    if args.keep && outcome.is_ok() {
        say_goodbye(&place, dir);
        bellwether_runtime::shutdown().await;
    }
    if outcome.is_err() {
        place.show_logs();
    }
    place.close().await;
    outcome
}

async fn play(
    mesh: &Mesh,
    args: &DemoArgs,
    place: &Place,
    (tell, notes): (mpsc::Sender<String>, &mut mpsc::Receiver<String>),
    (began, explain): (Instant, Explain),
) -> Result<u8, VerbError> {
    let bus = connect(place.url()).await?;
    place.wait_for_agents(&bus).await?;
    eprintln!("ready in {}: {} agents", span(since(began)), place.agents().len());
    let (mode, look): (Mode, Look) = (Mode::choose(mesh.json, args.plain), mesh.look());
    let mut cast = Cast { bus: &bus, plan: place.plan(), mode, look, notes, tell, sink: place.sink(), explain };
    for act in [Act::Good, Act::Bad].into_iter().filter(|act| act.is_wanted(args.only)) {
        if !cast.play(act).await? {
            eprintln!("Left by hand: everything is stopped, nothing is concluded. exit {}", exit::HELD);
            return Ok(exit::HELD);
        }
    }
    if mode != Mode::Json {
        let told = place.sink().count();
        println!("\nEvery lever was read back and every release was seen by probes; {told} signed webhooks came.");
        println!("The demo took {}. exit 0", span(since(began)));
    }
    Ok(exit::DONE)
}

pub(crate) async fn connect(url: &str) -> Result<Bus, VerbError> {
    let name = "bellwether demo".to_owned();
    Ok(Bus::connect(&ConnectOptions {
        url: url.to_owned(),
        domain: None,
        prefix: Prefix::default(),
        name,
        credentials: None,
        ca: None,
    })
    .await?)
}

fn since(began: Instant) -> bellwether_protocol::time::Span {
    bellwether_protocol::time::Span::from_secs(began.elapsed().as_secs())
}

fn say_goodbye(place: &Place, dir: &Path) {
    let (url, plan) = (place.url(), dir.join(files::PLAN));
    println!("\nStill running in {}; Ctrl-C stops and removes all of it. Try:", dir.display());
    println!("  export BELLWETHER_NATS={url}");
    println!("  bellwether agents list");
    println!("  bellwether rollout status shop");
    println!("  bellwether rollout start {} --release v44 --wait", plan.display());
    println!("  bellwether command abort shop --reason 'seen enough'");
}
