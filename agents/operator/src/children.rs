//! Processes of this machine: started, started again when they die, and stopped with us.
//!
//! Each runs under the bus's shim, so that it dies with this process by whatever death.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bellwether_bus::child::{Child, Output, Spec};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::error::VerbError;

/// How often to look whether a child still runs.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A child that ran this long is well: its next death is not part of a series.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// The pause before a start doubles with each death in a series, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// The variable that says where a process serves its figures and its health.
const LISTEN: &str = "BELLWETHER_LISTEN";
/// The variable that filters logs.
const LOG: &str = "BELLWETHER_LOG";

/// Children that are not supervised yet.
#[derive(Debug)]
pub(crate) struct Children {
    program: PathBuf,
    env: BTreeMap<String, String>,
    /// Where the last one listens, if they do.
    listen: Option<SocketAddr>,
    all: Vec<Supervised>,
}

#[derive(Debug)]
struct Supervised {
    name: String,
    spec: Spec,
    state: Being,
    deaths: u32,
}

#[derive(Debug)]
enum Being {
    /// Since when it runs.
    Alive(Child, Instant),
    /// When it is started again.
    Dead(Instant),
}

/// Children under supervision. They are stopped when this is dropped, and waited for by [`Watch::stop`].
#[derive(Debug)]
pub(crate) struct Watch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Stops every child, and waits until all are gone.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        // A panic in the task has dropped the children, which stops them too.
        let _ = self.task.await;
    }
}

impl Children {
    /// None so far. Each child is this same program with other arguments.
    pub(crate) fn new() -> Result<Self, VerbError> {
        let program = std::env::current_exe().map_err(VerbError::System)?;
        let listen = std::env::var(LISTEN).ok().and_then(|text| text.parse().ok());
        Ok(Self { program, env: BTreeMap::new(), listen, all: Vec::new() })
    }

    /// They log what is wrong alone, unless the environment says otherwise: people read along.
    pub(crate) fn quiet(mut self) -> Self {
        if std::env::var_os(LOG).is_none() {
            self.env.insert(LOG.to_owned(), "warn".to_owned());
        }
        self
    }

    /// Where the last one serves its figures and its health, for whoever is told of it; empty when nowhere, or
    /// when the system chooses.
    pub(crate) fn listens(&self) -> String {
        let at = self.listen.filter(|address| address.port() != 0);
        at.map(|address| format!("   http://{address}/healthz")).unwrap_or_default()
    }

    /// Starts one. Where this process listens on a port, each child has the next one for itself.
    pub(crate) async fn start<A: Into<OsString>>(
        &mut self,
        name: &str,
        args: impl IntoIterator<Item = A>,
        output: Output,
    ) -> Result<(), VerbError> {
        self.listen = self.listen.map(next);
        let listen = self.listen.map(|address| (LISTEN.to_owned(), address.to_string()));
        let spec = Spec {
            shim: self.program.clone(),
            program: self.program.clone(),
            args: args.into_iter().map(Into::into).collect(),
            env: self.env.clone().into_iter().chain(listen).collect(),
            output,
        };
        let child = spawn(spec.clone()).await.map_err(|source| VerbError::Spawn { name: name.to_owned(), source })?;
        let state = Being::Alive(child, Instant::now());
        self.all.push(Supervised { name: name.to_owned(), spec, state, deaths: 0 });
        Ok(())
    }

    /// Supervises them from now on; says on `tell` when one died.
    pub(crate) fn supervise(mut self, tell: mpsc::Sender<String>) -> Watch {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    _ = look.tick() => {}
                }
                for child in &mut self.all {
                    if let Some(line) = child.look().await {
                        // A full or closed channel must not stop the supervision.
                        let _ = tell.try_send(line);
                    }
                }
            }
            self.stop().await;
        });
        Watch { stop, task }
    }

    async fn stop(self) {
        let stopping: Vec<_> = self
            .all
            .into_iter()
            .filter_map(|child| match child.state {
                Being::Alive(mut child, _) => Some(tokio::task::spawn_blocking(move || child.stop())),
                Being::Dead(_) => None,
            })
            .collect();
        for one in stopping {
            let _ = one.await;
        }
    }
}

impl Supervised {
    async fn look(&mut self) -> Option<String> {
        match &mut self.state {
            Being::Alive(child, since) => {
                let status = match child.try_wait() {
                    Ok(None) => return None,
                    Ok(Some(status)) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                self.deaths = if since.elapsed() > WELL_AFTER { 1 } else { self.deaths.saturating_add(1) };
                let pause = pause(self.deaths);
                self.state = Being::Dead(Instant::now() + pause);
                Some(format!("{} ended ({status}); it is started again in {} ms", self.name, pause.as_millis()))
            }
            Being::Dead(until) if *until > Instant::now() => None,
            Being::Dead(_) => match spawn(self.spec.clone()).await {
                Ok(child) => {
                    self.state = Being::Alive(child, Instant::now());
                    Some(format!("{} is started again", self.name))
                }
                Err(error) => {
                    self.deaths = self.deaths.saturating_add(1);
                    self.state = Being::Dead(Instant::now() + pause(self.deaths));
                    Some(format!("{} does not start: {error}", self.name))
                }
            },
        }
    }
}

fn pause(deaths: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(deaths.saturating_sub(1).min(16))).min(PAUSE_MAX)
}

/// The address after this one; 0 stays 0, for then the system chooses.
fn next(address: SocketAddr) -> SocketAddr {
    let port = if address.port() == 0 { 0 } else { address.port().checked_add(1).unwrap_or_default() };
    SocketAddr::new(address.ip(), port)
}

// Starting waits for the shim's first line, so it must not hold up the other tasks.
async fn spawn(spec: Spec) -> std::io::Result<Child> {
    tokio::task::spawn_blocking(move || Child::spawn(&spec)).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_child_has_an_address_of_its_own() {
        for (own, expected) in [
            ("127.0.0.1:9600", "127.0.0.1:9601"),
            ("[::1]:9600", "[::1]:9601"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:65535", "127.0.0.1:0"),
        ] {
            assert_eq!(next(own.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let pauses: Vec<u128> = [1, 2, 3, 7, 8, 1_000].map(|deaths| pause(deaths).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1_000, 2_000, 30_000, 30_000, 30_000]);
    }
}
