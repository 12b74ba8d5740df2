//! What `init` writes, from what it was told. Pure.

use bellwether_protocol::id::{Region, Service, SliName};
use bellwether_runtime::web::Origin;

use super::Kind;
use crate::args::as_token;

/// What the files depend on.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// The folder they go to, as commands name it.
    pub(super) dir: String,
    pub(super) service: Service,
    pub(super) origin: Origin,
    /// What is looked at, the first one being what people use.
    pub(super) looks: Vec<(SliName, String)>,
    pub(super) kind: Kind,
    pub(super) regions: Vec<Region>,
    /// A target that answers whenever this machine's own network is well.
    pub(super) control: Option<String>,
    /// The header in which an answer names its release.
    pub(super) release_header: Option<String>,
    pub(super) nats: String,
}

/// What goes with one way of moving a release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    /// The steps of CI before the rollout.
    pub(super) build: &'static str,
    /// Secrets that the lever's commands get.
    pub(super) env: &'static str,
    /// What moves the lever; nothing where nothing is moved.
    pub(super) lever: &'static str,
    /// What must be done before the agents are started.
    pub(super) first: Option<(&'static str, &'static str)>,
}

/// Where NATS is when nobody says otherwise, and what stands before another port of this machine.
const NATS: &str = "nats://127.0.0.1:4222";
const LOOPBACK: &str = "nats://127.0.0.1:";
const LINES: &str = include_str!("templates/lever-lines.sh");

fn recipe(kind: Kind) -> Recipe {
    let none = Recipe { build: "", env: "", lever: "", first: None };
    match kind {
        Kind::Compose => Recipe {
            build: "      # The machine that runs compose must be able to pull it.\n      \
                    - run: docker build -t \"$IMAGE:$RELEASE\" . && docker push \"$IMAGE:$RELEASE\"\n        \
                    env: { IMAGE: REGISTRY/NAME }",
            lever: include_str!("templates/lever-compose.sh"),
            ..none
        },
        Kind::Exec => Recipe {
            build: "      # Build here, and put the release where lever.sh finds it.",
            lever: include_str!("templates/lever-exec.sh"),
            ..none
        },
        Kind::Fly => super::fly::RECIPE,
        Kind::Watch => {
            Recipe { build: "      # Deploy here. Bellwether watches what was deployed, and tells people.", ..none }
        }
    }
}

impl Setting {
    /// Every file: its name within the folder, and its text.
    pub(super) fn files(&self) -> Vec<(String, String)> {
        let first = self.regions.first().map(Region::as_str).unwrap_or_default();
        let mut files = vec![("plan.yaml".to_owned(), self.plan())];
        for region in &self.regions {
            let probe = self.agent("probe", "probe-1", region.as_str(), include_str!("templates/probe.yaml"));
            files.push((format!("probe-{region}.yaml"), probe));
        }
        let alert = self.agent("alert", "alert-1", first, include_str!("templates/alert.yaml"));
        files.push(("alert.yaml".to_owned(), alert));
        let Recipe { lever, .. } = recipe(self.kind);
        if !lever.is_empty() {
            let rollback = self.agent("rollback", "roll-1", first, include_str!("templates/rollback.yaml"));
            files.push(("rollback.yaml".to_owned(), rollback));
            files.push(("lever.sh".to_owned(), self.fill(&format!("{}{lever}", include_str!("templates/lever.sh")))));
        }
        files.push(("ci.yaml".to_owned(), self.fill(include_str!("templates/ci.yaml"))));
        files
    }

    fn plan(&self) -> String {
        let stages = match self.kind {
            Kind::Watch => include_str!("templates/plan-watch.yaml"),
            Kind::Compose | Kind::Exec | Kind::Fly => include_str!("templates/plan-release.yaml"),
        };
        self.fill(include_str!("templates/plan.yaml")) + "\n" + stages
    }

    fn agent(&self, role: &str, name: &str, region: &str, rest: &str) -> String {
        let agent = include_str!("templates/agent.yaml");
        self.fill(&agent.replace("@role@", role).replace("@region@", region).replace("@name@", name)) + &self.fill(rest)
    }

    /// The template with what was told. Where a mark stands for nothing, its line is left out.
    fn fill(&self, template: &str) -> String {
        let url = format!("{}://{}", if self.origin.is_tls { "https" } else { "http" }, self.origin.authority());
        let regions = self.regions.iter().map(|region| format!("  {:?}: {url:?}", region.as_str()));
        let slis = self.looks.iter().map(|(name, path)| {
            format!("  - name: {:?}\n    every: 1s\n    timeout: 5s\n    http: {{ path: {path:?} }}", name.as_str())
        });
        let fingerprint = match &self.release_header {
            Some(name) => format!("fingerprint: {{ header: {name:?} }}    # names the release that answered"),
            None => {
                "# fingerprint: { header: x-release }    # an answer that names its release makes a rollback *seen*"
                    .into()
            }
        };
        let control = match &self.control {
            Some(url) => format!("  control: {url:?}"),
            None => "  # control: https://SOMETHING-ELSE/".to_owned(),
        };
        let Recipe { build, env, lever, .. } = recipe(self.kind);
        let checks = self.looks.iter().skip(1).map(|(name, _)| {
            let own = as_token(&format!("down-{name}"));
            format!("  - name: {own:?}\n    sli: {:?}\n    must: never 3 slots down\n@hard@", name.as_str())
        });
        let hard = if lever.is_empty() { "" } else { "    hard: true                    # takes the release back" };
        [
            ("@lines@", LINES.trim_end()),
            ("@build@", build),
            ("@env@", env),
            ("@checks@", &checks.collect::<Vec<_>>().join("\n")),
            ("@hard@", hard),
            ("@regions@", &regions.collect::<Vec<_>>().join("\n")),
            ("@slis@", &slis.collect::<Vec<_>>().join("\n")),
            ("@fingerprint@", &fingerprint),
            ("@control@", &control),
            ("@main@", self.looks.first().map(|(name, _)| name.as_str()).unwrap_or_default()),
            ("@allow@", &self.origin.authority()),
            ("@nats@", &self.nats),
            ("@service@", self.service.as_str()),
            ("@dir@", &self.dir),
        ]
        .into_iter()
        .fold(template.to_owned(), |text, (mark, value)| match value {
            "" => text.replace(&format!("{mark}\n"), ""),
            value => text.replace(mark, value),
        })
    }

    /// What to do next, in order: the command, and what it is for.
    pub(super) fn next(&self) -> Vec<(String, &'static str)> {
        let dir = &self.dir;
        let Recipe { lever, first, .. } = recipe(self.kind);
        let mut next = vec![(format!("bellwether plan explain {dir}/plan.yaml"), "what it would do, and when")];
        next.extend(first.map(|(command, why)| (command.to_owned(), why)));
        if self.nats != NATS {
            next.push((format!("export BELLWETHER_NATS={}", self.nats), "in each terminal"));
        }
        let stays = "stays: NATS, a coordinator and the agents; alerts are printed there";
        match self.nats.strip_prefix(LOOPBACK) {
            _ if self.nats == NATS => next.push((format!("bellwether up {dir}"), stays)),
            Some(port) => next.push((format!("bellwether up {dir} --port {port}"), stays)),
            None => {
                let agent = |(file, _): &(String, String)| {
                    let role = file.strip_suffix(".yaml")?.split('-').next()?;
                    let is_agent = matches!(role, "alert" | "probe" | "rollback");
                    is_agent.then(|| (format!("bellwether agent {role} --config {dir}/{file}"), "stays"))
                };
                next.extend(self.files().iter().filter_map(agent));
            }
        }
        let shadow = format!("bellwether rollout start {dir}/plan.yaml --release v1 --shadow --wait");
        next.push((shadow, "in another terminal: looks and decides, moves nothing"));
        if !lever.is_empty() {
            let why = "must print where the release stands; change lever.sh until it does";
            next.push((format!("sh {dir}/lever.sh read"), why));
            let dry = format!("bellwether rollout start {dir}/plan.yaml --release RELEASE --dry-run");
            next.push((dry, "each call that a real one would make"));
        }
        next
    }
}
