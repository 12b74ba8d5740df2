//! What an agent's folder holds when it has joined. Pure.

use std::path::Path;

use bellwether_bus::NewUser;
use bellwether_protocol::id::{AgentId, Role};
use secrecy::ExposeSecret;

use crate::args::Mesh;

/// A file of the folder.
pub(super) struct File {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) mode: u32,
}

/// What the files depend on.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    pub(super) agent: &'a AgentId,
    pub(super) mesh: &'a Mesh,
    /// The authorities of NATS, where the mesh has some of its own.
    pub(super) authorities: Option<&'a str>,
    /// This program.
    pub(super) program: &'a Path,
}

const PRIVATE: u32 = 0o600;
pub(super) const SEED: &str = "agent.nk";
const CA: &str = "nats-ca.pem";

impl Place<'_> {
    pub(super) fn files(&self, user: &NewUser, is_container: bool) -> Vec<File> {
        let seed = format!("{}\n", user.seed.expose_secret());
        let mut files = vec![
            File { name: SEED.to_owned(), text: seed, mode: PRIVATE },
            File { name: self.config(), text: self.configuration(), mode: PRIVATE },
        ];
        if let Some(text) = self.authorities {
            files.push(File { name: CA.to_owned(), text: text.to_owned(), mode: 0o644 });
        }
        if !is_container {
            files.push(File { name: self.unit(), text: self.service(), mode: 0o644 });
        }
        files
    }

    /// What is left to do, in order.
    pub(super) fn next(&self, is_container: bool) -> Vec<String> {
        let (dir, unit, role) = (self.dir.display(), self.unit(), self.agent.role);
        let config = self.config();
        let mut next = vec![format!("edit {dir}/{config}    # the part of the {role} agent")];
        if is_container {
            // A container has its own loopback, and with it a port of its own for its health.
            let is_here = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| self.mesh.nats.contains(host));
            let network = if is_here { " --network host" } else { "" };
            next.push(format!(
                "docker run --detach --restart unless-stopped{network} --name bellwether-{region}-{name} \
                 --user \"$(id -u):$(id -g)\" --volume {dir}:{dir} bellwether agent {role} --config {dir}/{config}",
                region = self.agent.region,
                name = self.agent.name,
            ));
        } else {
            next.push(format!("sudo systemctl enable --now {dir}/{unit}"));
        }
        next.push("bellwether agents list".to_owned());
        next
    }

    fn config(&self) -> String {
        format!("{}.yaml", self.agent.role)
    }

    fn unit(&self) -> String {
        format!("bellwether-{}-{}.service", self.agent.region, self.agent.name)
    }

    fn configuration(&self) -> String {
        let AgentId { region, role, name } = self.agent;
        let dir = self.dir.display();
        let domain = match &self.mesh.nats_domain {
            Some(domain) => format!(", domain: {domain:?}"),
            None => String::new(),
        };
        let ca = if self.authorities.is_some() { format!(", ca: \"file:{dir}/{CA}\"") } else { String::new() };
        format!(
            "agent:\n  region: \"{region}\"\n  name: \"{name}\"\n  prefix: \"{prefix}\"\n  \
             state_dir: {dir}/state     # must outlive the process\n  \
             nats: {{ url: {nats:?}, credentials: \"file:{dir}/{SEED}\"{ca}{domain} }}\n{part}",
            prefix = self.mesh.prefix,
            nats = self.mesh.nats,
            part = part(*role),
        )
    }

    fn service(&self) -> String {
        let (dir, agent) = (self.dir.display(), self.agent);
        format!(
            "[Unit]\nDescription=Bellwether {agent}\nWants=network-online.target\nAfter=network-online.target\n\n\
             [Service]\nExecStart=\"{program}\" agent {role} --config {dir}/{config}\nWorkingDirectory={dir}\n\
             User={user}\nRestart=always\nRestartSec=2\nNoNewPrivileges=true\n\n[Install]\nWantedBy=multi-user.target\n",
            program = self.program.display(),
            role = agent.role,
            config = self.config(),
            user = rustix::process::getuid().as_raw(),
        )
    }
}

/// What only this role has. It does nothing until it is edited: who moves levers does not start without one.
fn part(role: Role) -> &'static str {
    match role {
        Role::Alert => include_str!("../init/templates/alert.yaml"),
        Role::Coordinator => "",
        Role::Flag => {
            "flag:\n  service: SERVICE      # whose flags\n  levers: []            # see agents/flag/README.md\n"
        }
        Role::Load => {
            "load:\n  allow: []             # nothing else gets load, whatever a plan says\n  \
             rate_max: 100/s       # requests, of all loads together\n  connections_max: 100\n  duration_max: 10m\n"
        }
        Role::Metric => "metric:\n  allow: []             # nothing else is read, whatever a plan says\n",
        Role::Probe => "probe:\n  allow: []             # nothing else is looked at, whatever a plan says\n",
        Role::Rollback => {
            "rollback:\n  service: SERVICE      # whose levers\n  levers: []            # see agents/rollback/README.md\n"
        }
        Role::Trigger => {
            "trigger: []             # see agents/trigger/README.md; subjects that it hears go into `subscribe` of its user\n"
        }
    }
}
