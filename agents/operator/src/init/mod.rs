//! `bellwether init`: the files of a first rollout, in a folder of their own.
//!
//! It asks on a terminal, or reads flags; it writes what works as it is, contacts nobody, and never
//! replaces a file.

mod files;
mod fly;

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use bellwether_protocol::id::{Region, Service, SliName};
use bellwether_runtime::web::Origin;

use crate::args::{Mesh, as_token};
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::up::make_dir;
use files::Setting;
use fly::FlyToml;

/// For which service, and what is written.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The folder to write them into
    #[arg(long, default_value = "bellwether")]
    dir: PathBuf,
    /// The service's name; default: that of this folder, or the app in fly.toml
    #[arg(long)]
    service: Option<String>,
    /// Where the service answers, such as `https://shop.example.com/health`
    #[arg(long)]
    url: Option<String>,
    /// How a release is brought out; default: fly where there is a fly.toml, else watch
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Places that it is looked at from, each with a probe agent; default: `here`, or that in fly.toml
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    regions: Vec<Region>,
    /// A target that answers whenever this machine's own network is well
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// The header in which an answer names its release
    #[arg(long, value_name = "NAME")]
    release_header: Option<String>,
    /// Ask nothing: what no flag says is as by default
    #[arg(long)]
    yes: bool,
}

/// How a release is brought out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// By docker compose on this machine
    Compose,
    /// By commands of your own
    Exec,
    /// By Fly.io
    Fly,
    /// By somebody else: look and tell, move nothing
    Watch,
}

/// Longest answer, and longest fly.toml, in bytes.
const ANSWER_LEN_MAX: u64 = 4 * 1024;
const FLY_TOML_LEN_MAX: u64 = 1024 * 1024;
/// Names that the files know a path by, apart from the one that people use.
const PATHS_MAX: usize = 8;
/// What `up` serves on its monitoring port.
const LOCAL_CONTROL: &str = "http://127.0.0.1:8222/healthz";
/// What an agent without a control target cannot tell.
const UNCONTROLLED: &str = "without a control target, a service that cannot be connected to at all is `no data`: it holds, and never fails. \
     Uncomment `control:` in the probe agent's file, or say `--control https://…`";

/// Writes the files, and says what to do with them.
///
/// # Errors
/// When a file is there already, nothing is written; otherwise when one cannot be.
pub(crate) fn init(args: &InitArgs, mesh: &Mesh) -> Result<u8, VerbError> {
    let fly = fly_toml(Path::new("fly.toml"))?;
    let is_asking = !args.yes && std::io::stdin().is_terminal();
    let mut asker = Asker { answers: std::io::stdin().lock(), questions: std::io::stderr(), is_asking };
    let setting = setting(args, fly.as_ref(), &mesh.nats, &mut asker)?;
    let written = write(&args.dir, &setting.files())?;
    let next = setting.next();
    let warning = setting.control.is_none().then_some(UNCONTROLLED);
    if mesh.json {
        let next: Vec<&String> = next.iter().map(|(command, _)| command).collect();
        let said = serde_json::json!({ "written": written, "warning": warning, "next": next, "exit": exit::DONE });
        outln!("{said}");
        return Ok(exit::DONE);
    }
    written.iter().for_each(|path| outln!("wrote {}", path.display()));
    outln!("bellwether-data/ will hold what the agents remember: keep it, and out of git");
    warning.iter().for_each(|warning| outln!("warning: {warning}"));
    outln!("\nnext");
    for (command, why) in next {
        outln!("  # {why}\n  {command}");
    }
    Ok(exit::DONE)
}

fn fly_toml(path: &Path) -> Result<Option<FlyToml>, VerbError> {
    let wrong = |source| VerbError::File { doing: "read", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(wrong)?,
    };
    let mut text = String::new();
    file.take(FLY_TOML_LEN_MAX).read_to_string(&mut text).map_err(wrong)?;
    FlyToml::read(&text).map(Some).map_err(|why| VerbError::Setup(format!("{}: {why}", path.display())))
}

/// Asks people, where there are any.
struct Asker<R, W> {
    answers: R,
    questions: W,
    is_asking: bool,
}

impl<R: BufRead, W: Write> Asker<R, W> {
    /// What the flag says; else what a person says; else the default, if there is one.
    fn ask(&mut self, flag: Option<&str>, what: &str, default: Option<String>) -> Option<String> {
        if flag.is_some() || !self.is_asking {
            return flag.map(str::to_owned).or(default);
        }
        let shown = default.as_ref().map(|default| format!(" [{default}]")).unwrap_or_default();
        let _ = write!(self.questions, "{what}{shown}: ").and_then(|()| self.questions.flush());
        let mut line = String::new();
        let _ = self.answers.by_ref().take(ANSWER_LEN_MAX).read_line(&mut line);
        Some(line.trim().to_owned()).filter(|line| !line.is_empty()).or(default)
    }
}

fn setting<R: BufRead, W: Write>(
    args: &InitArgs,
    fly: Option<&FlyToml>,
    nats: &str,
    asker: &mut Asker<R, W>,
) -> Result<Setting, VerbError> {
    let here = std::env::current_dir().ok();
    let folder = here.as_deref().and_then(Path::file_name).map(|name| as_token(&name.to_string_lossy()));
    let service = asker.ask(args.service.as_deref(), "service", fly.map(|fly| fly.app.clone()).or(folder));
    let service: Service = service.unwrap_or_default().parse()?;
    let url =
        asker.ask(args.url.as_deref(), "where does it answer, such as https://shop.example.com", fly.map(FlyToml::url));
    let url = url.ok_or_else(|| VerbError::Setup("where does the service answer? say `--url https://…`".to_owned()))?;
    let (origin, base) = Origin::parse(&url).map_err(VerbError::Setup)?;
    let kind = kind(args.kind, fly.is_some(), asker)?;
    let regions = fly.and_then(|fly| fly.primary_region.clone()).unwrap_or_else(|| "here".to_owned());
    let given: Vec<String> = args.regions.iter().map(Region::to_string).collect();
    let given = Some(given.join(",")).filter(|given| !given.is_empty());
    let regions = asker.ask(given.as_deref(), "looked at from (names, with commas)", Some(regions)).unwrap_or_default();
    let mut regions = regions.split(',').map(|name| name.trim().parse()).collect::<Result<Vec<Region>, _>>()?;
    regions.sort();
    regions.dedup();
    let is_local = origin.host == "localhost" || origin.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let what = "what else answers whenever this machine's own network is well (an address, or nothing)";
    let control = asker.ask(args.control.as_deref(), what, is_local.then(|| LOCAL_CONTROL.to_owned()));
    if let Some(control) = &control {
        Origin::parse(control).map_err(VerbError::Setup)?;
    }
    Ok(Setting {
        dir: args.dir.display().to_string(),
        service,
        origin,
        looks: looks(base, fly.map(FlyToml::paths).unwrap_or_default()),
        kind,
        regions,
        control,
        release_header: args.release_header.clone(),
        nats: nats.to_owned(),
    })
}

fn kind<R: BufRead, W: Write>(flag: Option<Kind>, on_fly: bool, asker: &mut Asker<R, W>) -> Result<Kind, VerbError> {
    if let Some(kind) = flag {
        return Ok(kind);
    }
    let default = if on_fly { "fly" } else { "watch" };
    let what = "how is a release brought out: watch (by somebody else), exec, compose, fly";
    let said = asker.ask(None, what, Some(default.to_owned())).unwrap_or_default();
    clap::ValueEnum::from_str(&said, true)
        .map_err(|_| VerbError::Setup(format!("`{said}` is none of watch, exec, compose, fly")))
}

/// What people use, and what the platform checks, each path once.
fn looks(base: String, checked: Vec<String>) -> Vec<(SliName, String)> {
    let base = if base.is_empty() { "/".to_owned() } else { base };
    let mut looks: Vec<(SliName, String)> = Vec::new();
    for path in std::iter::once(base).chain(checked).take(PATHS_MAX) {
        let name = as_token(path.trim_matches('/'));
        let name = if path == "/" { "home" } else { name.as_str() };
        let Ok(name) = name.parse::<SliName>() else { continue };
        if path.starts_with('/') && looks.iter().all(|(known, other)| *known != name && *other != path) {
            looks.push((name, path));
        }
    }
    looks
}

/// Writes all files, or none when one of them is there.
fn write(dir: &Path, files: &[(String, String)]) -> Result<Vec<PathBuf>, VerbError> {
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    let there: Vec<String> =
        paths.iter().filter(|path| path.symlink_metadata().is_ok()).map(|path| path.display().to_string()).collect();
    if !there.is_empty() {
        return Err(VerbError::Setup(format!(
            "{} there already, and init replaces nothing: {}; nothing was written. Move {} away, or name another \
             folder with `--dir`",
            if there.len() == 1 { "a file is" } else { "files are" },
            there.join(", "),
            if there.len() == 1 { "it" } else { "them" },
        )));
    }
    make_dir(dir)?;
    for (path, (_, text)) in paths.iter().zip(files) {
        let wrong = |source| VerbError::File { doing: "write", path: path.clone(), source };
        let mut file = std::fs::File::create_new(path).map_err(wrong)?;
        file.write_all(text.as_bytes()).map_err(wrong)?;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests;
