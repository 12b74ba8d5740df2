//! `agents invite` and `agents join`: from a one-time token to an agent's folder.
//!
//! The mesh keeps the hash of a token only, with what it is good for. Joining marks it as used by compare and set
//! before the folder takes its name, so that a token makes one agent and a folder is whole or not there. A NATS
//! server without an auth callout learns of a user from its own file alone: that line is printed, not written.

mod files;

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bellwether_bus::{Bus, Kv, KvEntry, KvError, NewUser, one_time_token, user_line};
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, AgentName, Principal, Region, Role};
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::{AgentRole, Asker, Mesh, now};
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::up::make_dir;

/// Print a one-time token with which one agent can join
#[derive(Debug, Clone, clap::Args)]
pub struct InviteArgs {
    /// What it is for
    #[arg(long, value_enum)]
    role: AgentRole,
    /// Where it is
    #[arg(long)]
    region: Region,
    /// Its name there; default: its role and `-1`
    #[arg(long)]
    name: Option<AgentName>,
    /// How long the token is good for, at most 7d
    #[arg(long = "for", default_value = "24h", value_name = "SPAN")]
    good_for: Span,
    #[command(flatten)]
    asker: Asker,
}

/// Write what an invited agent needs into a new folder; says what is left to do
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// What `agents invite` printed
    token: String,
    /// The agent's folder: new, or empty
    #[arg(long)]
    dir: PathBuf,
    /// Print a `docker run` line instead of writing a systemd unit
    #[arg(long)]
    container: bool,
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invite {
    agent: AgentId,
    by: Principal,
    until: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Timestamp>,
    /// The key of whoever used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// A token that was just made.
#[derive(Debug, Serialize)]
pub struct Invited {
    /// The token; it is kept nowhere.
    pub token: String,
    /// For whom.
    pub agent: AgentId,
    /// Until when.
    pub until: Timestamp,
    /// What to do with it on the agent's machine.
    pub next: Vec<String>,
}

/// A folder that was just written.
#[derive(Debug, Serialize)]
pub struct Joined {
    /// Who joins.
    pub agent: AgentId,
    /// What was written.
    pub written: Vec<PathBuf>,
    /// What an administrator adds to `users` in `nats.conf`.
    pub user: String,
    /// What to do next, in order.
    pub next: Vec<String>,
}

/// Longest time that a token is good for. The bucket forgets a day later.
const GOOD_FOR_MAX: Span = Span::from_secs(7 * 86_400);

impl InviteArgs {
    pub(crate) async fn run(&self, bus: &Bus, json: bool) -> Result<u8, VerbError> {
        let invited = self.invite(bus, now()).await?;
        if json {
            return say("invited", &invited);
        }
        let Invited { token, agent, until, next } = &invited;
        outln!("{token}");
        outln!("one agent, {agent}, once, until {}. It is kept nowhere. On its machine:", until.seconds());
        next.iter().for_each(|line| outln!("  {line}"));
        Ok(exit::DONE)
    }

    /// Makes a token, and keeps its hash.
    ///
    /// # Errors
    /// When it would be good for no time or too long, or is not known to be kept.
    pub async fn invite(&self, bus: &Bus, now: Timestamp) -> Result<Invited, VerbError> {
        if self.good_for.as_ms() == 0 || self.good_for > GOOD_FOR_MAX {
            return Err(VerbError::Setup(format!("`--for` must be over 0 and at most 7d, not {}", self.good_for)));
        }
        let role = Role::from(self.role);
        let name = match &self.name {
            Some(name) => name.clone(),
            None => format!("{role}-1").parse()?,
        };
        let agent = AgentId { region: self.region.clone(), role, name };
        let until = now + self.good_for;
        let invite = Invite { agent: agent.clone(), by: self.asker.principal()?, until, used: None, key: None };
        let token = one_time_token().map_err(VerbError::System)?;
        bus.kv(Bucket::Invites).create(&hash(&token), codec::to_json("invite", &invite)?).await?;
        let next = vec![format!("bellwether agents join {token} --dir {}-{}", agent.region, agent.name)];
        Ok(Invited { token, agent, until, next })
    }
}

impl JoinArgs {
    pub(crate) async fn run(&self, bus: &Bus, mesh: &Mesh) -> Result<u8, VerbError> {
        let joined = self.join(bus, mesh, now()).await?;
        if mesh.json {
            return say("joined", &joined);
        }
        outln!("{} may join. Written:", joined.agent);
        joined.written.iter().for_each(|path| outln!("  {}", path.display()));
        outln!("NATS lets it in once an administrator has added this to `users` in nats.conf, and reloaded the server");
        outln!("(a server without users lets everybody in, and needs no such line):");
        outln!("  {}", joined.user);
        outln!("then:");
        joined.next.iter().for_each(|line| outln!("  {line}"));
        Ok(exit::DONE)
    }

    /// Uses the token up, and writes the folder. Goes on where a join was cut off after it had used the token.
    ///
    /// # Errors
    /// When the folder holds something, or the token is unknown, late or used: nothing is written.
    pub async fn join(&self, bus: &Bus, mesh: &Mesh, now: Timestamp) -> Result<Joined, VerbError> {
        let dir = vacant(&self.dir)?;
        let kv = bus.kv(Bucket::Invites);
        let (entry, invite) = known(&kv, &self.token).await?;
        let program = std::env::current_exe().map_err(VerbError::System)?;
        let authorities = mesh.nats_ca.as_ref().map(|path| {
            std::fs::read_to_string(path).map_err(|source| VerbError::File {
                doing: "read",
                path: path.clone(),
                source,
            })
        });
        let authorities = authorities.transpose()?;
        let (agent, authorities) = (&invite.agent, authorities.as_deref());
        let place = files::Place { dir: &dir, agent, mesh, authorities, program: &program };
        let staged = beside(&dir);
        if let Some(used) = invite.used {
            let why = || refused(&format!("for {} was used at {}", invite.agent, used.seconds()));
            let left = left_behind(&staged).filter(|user| invite.key.as_ref() == Some(&user.public));
            return self.finish(&place, &staged, &left.ok_or_else(why)?);
        }
        if now > invite.until {
            return Err(refused(&format!("for {} was good until {}", invite.agent, invite.until.seconds())));
        }
        let user = NewUser::generate().map_err(VerbError::System)?;
        stage(&staged, &place.files(&user, self.container))?;
        let used = Invite { used: Some(now), key: Some(user.public.clone()), ..invite.clone() };
        let taken = kv.update(&entry.key, codec::to_json("invite", &used)?, entry.revision).await;
        if let Err(error) = taken {
            let _ = std::fs::remove_dir_all(&staged);
            return Err(match error {
                KvError::Conflict { .. } => refused("was used just now"),
                error => error.into(),
            });
        }
        self.finish(&place, &staged, &user)
    }

    fn finish(&self, place: &files::Place<'_>, staged: &Path, user: &NewUser) -> Result<Joined, VerbError> {
        let files::Place { dir, agent, mesh, .. } = *place;
        // Takes the place of an empty folder, and of no other.
        std::fs::rename(staged, dir).map_err(|source| VerbError::File {
            doing: "give the folder its name; the token is used up, and the same join goes on from there: rename",
            path: staged.to_owned(),
            source,
        })?;
        let names = place.files(user, self.container).into_iter().map(|file| dir.join(file.name));
        Ok(Joined {
            written: names.filter(|path| path.exists()).collect(),
            user: user_line(&mesh.prefix, agent, mesh.nats_domain.as_deref(), &user.public),
            next: place.next(self.container),
            agent: agent.clone(),
        })
    }
}

fn say<T: Serialize>(kind: &'static str, what: &T) -> Result<u8, VerbError> {
    outln!("{}", String::from_utf8_lossy(&codec::to_json(kind, what)?));
    Ok(exit::DONE)
}

fn refused(why: &str) -> VerbError {
    VerbError::Setup(format!(
        "the token {why}; nothing was written. Ask for another: bellwether agents invite --role ROLE --region REGION"
    ))
}

fn hash(token: &str) -> String {
    Sha256::digest(token.trim()).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn known(kv: &Kv, token: &str) -> Result<(KvEntry, Invite), VerbError> {
    let found = kv.get(&hash(token)).await?;
    let Some(entry) = found else { return Err(refused("is not known on this mesh, or was forgotten since")) };
    let invite = codec::from_json("invite", entry.value.as_deref().unwrap_or_default())?;
    Ok((entry, invite))
}

/// The key in the folder that a join left when it was cut off, if one is there.
fn left_behind(staged: &Path) -> Option<NewUser> {
    let mut seed = String::new();
    std::fs::File::open(staged.join(files::SEED)).ok()?.take(SEED_LEN_MAX).read_to_string(&mut seed).ok()?;
    NewUser::read(&seed).ok()
}

/// Longer than any seed is.
const SEED_LEN_MAX: u64 = 256;

/// The folder by its full name, if nothing is in it.
fn vacant(dir: &Path) -> Result<PathBuf, VerbError> {
    let full = std::path::absolute(dir).map_err(VerbError::System)?;
    // It goes into YAML, a unit and a command line, which all quote in their own ways.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if !full.as_os_str().as_encoded_bytes().iter().copied().all(is_plain) {
        let why = "its full name may hold letters, digits and `-_./` only: name another with `--dir`";
        return Err(VerbError::Setup(format!("{}: {why}", full.display())));
    }
    let wrong = |source| VerbError::File { doing: "look into", path: full.clone(), source };
    let there: Vec<String> = match std::fs::read_dir(&full) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(wrong(error)),
        Ok(entries) => entries.flatten().take(SHOWN_MAX).map(|one| one.path().display().to_string()).collect(),
    };
    if there.is_empty() {
        return Ok(full);
    }
    Err(VerbError::Setup(format!(
        "join replaces nothing, and {} holds {}; nothing was written. Name a new folder with `--dir`",
        full.display(),
        there.join(", ")
    )))
}

/// Files that are named when a folder is not empty.
const SHOWN_MAX: usize = 20;

/// Where the folder `dir` is made before it takes its name.
fn beside(dir: &Path) -> PathBuf {
    let mut staged = dir.as_os_str().to_owned();
    staged.push(".joining");
    staged.into()
}

/// Writes all files into the new folder `staged`, or none.
fn stage(staged: &Path, files: &[files::File]) -> Result<(), VerbError> {
    if let Some(parent) = staged.parent() {
        make_dir(parent)?;
    }
    if staged.exists() {
        return Err(VerbError::Setup(format!(
            "{0} is there: another join is under way, or one was cut off before it had used its token; nothing was \
             written. When none is under way: rm -r {0}, and join again",
            staged.display()
        )));
    }
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| VerbError::File { doing: "make", path, source }
    };
    std::fs::DirBuilder::new().mode(0o700).create(staged).map_err(wrong(staged))?;
    for file in files {
        let path = staged.join(&file.name);
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&path);
        let written = made.and_then(|mut made| made.write_all(file.text.as_bytes()).and_then(|()| made.sync_all()));
        if let Err(source) = written {
            let _ = std::fs::remove_dir_all(staged);
            return Err(wrong(&path)(source));
        }
    }
    Ok(())
}
