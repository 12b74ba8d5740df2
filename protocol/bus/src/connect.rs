//! Connecting, and refusing at once what could never work: a wrong address, wrong credentials, a
//! server that is too old. Once connected, a lost connection is retried for ever.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::ConnectErrorKind;
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream;
use bellwether_protocol::subject::Prefix;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::health::Health;

/// How to reach NATS.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// One or more addresses, separated by commas, such as `nats://127.0.0.1:4222`. Never holds credentials.
    pub url: String,
    /// The JetStream domain that holds our streams, where the server keeps one; behind a leaf node, the hub's.
    pub domain: Option<String>,
    /// The first token of every subject.
    pub prefix: Prefix,
    /// The name of this client, as the server's operator sees it.
    pub name: String,
    /// Who we are; `None` only where the server asks for nothing.
    pub credentials: Option<Credentials>,
    /// A file with the authorities, in PEM, of which one has signed the server's certificate. With it the connection
    /// is over TLS or not at all; `None` trusts those of this machine, where the server asks for TLS.
    pub ca: Option<PathBuf>,
}

/// Who we are, for NATS.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// What a `.creds` file holds: a JWT and its seed.
    Creds(SecretString),
    /// The seed of an nkey, `SU…`.
    NkeySeed(SecretString),
    /// A token.
    Token(SecretString),
    /// A user and a password.
    UserPassword {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
}

impl Credentials {
    /// Tells by its shape, which is NATS's own, what `secret` is: the text of a `.creds` file, an nkey's seed,
    /// `user:password`, or else a token.
    pub fn read(secret: SecretString) -> Self {
        let text = secret.expose_secret();
        if text.contains("-----BEGIN NATS USER JWT-----") {
            return Self::Creds(secret);
        }
        if text.starts_with("SU") && text.len() == NKEY_SEED_LEN {
            return Self::NkeySeed(secret);
        }
        if let Some((user, password)) = text.split_once(':') {
            return Self::UserPassword { user: user.to_owned(), password: password.to_owned().into() };
        }
        Self::Token(secret)
    }
}

/// Characters of an nkey's seed.
const NKEY_SEED_LEN: usize = 58;

/// A connection to NATS with JetStream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) health: Arc<Health>,
    /// Where the API of JetStream is spoken to: `$JS.API`, or `$JS.<domain>.API`.
    pub(crate) api: String,
    prefix: Prefix,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file with the authorities cannot be used.
    #[error("cannot use the authorities of `nats.ca` or `--nats-ca` in {path}")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The credentials cannot be used.
    #[error("cannot use the NATS credentials, {with}")]
    Credentials {
        /// What they are; never the secret itself.
        with: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server's JetStream is a domain, and ours was not named; or it is no name.
    #[error(
        "NATS server {server} at {url} keeps JetStream domain `{domain}`: name the one that holds Bellwether's streams, \
         with `nats.domain` in the agent's file or `--nats-domain`; behind a leaf node it is the hub's"
    )]
    Domain {
        /// The server's name.
        server: String,
        /// Where.
        url: String,
        /// The domain.
        domain: String,
    },
    /// The domain is elsewhere, and does not answer through this server.
    #[error(
        "JetStream domain `{domain}` does not answer through NATS server {server} at {url}: is the link to its servers up, \
         is that their domain, and may we speak to `$JS.{domain}.API.>`{hint}?"
    )]
    DomainSilent {
        /// The server's name.
        server: String,
        /// Where.
        url: String,
        /// The domain.
        domain: String,
        /// What the server said lately, if anything.
        hint: String,
    },
    /// The domain is not a name of one.
    #[error("`{0}` cannot be a JetStream domain: it is one token of letters, digits, `-` and `_`")]
    DomainName(String),
    /// The server has no JetStream, or this account may not use it.
    #[error(
        "NATS server {server} at {url} does not offer JetStream to us: start it with `-js`, or enable it for this account{hint}"
    )]
    NoJetStream {
        /// The server's name.
        server: String,
        /// Where.
        url: String,
        /// What the server said lately, if anything.
        hint: String,
    },
    /// JetStream is there and does not answer: it has no leader now, or too few servers.
    #[error("JetStream of NATS server {server} at {url} is not ready{hint}: are enough of its servers up?")]
    NotReady {
        /// The server's name.
        server: String,
        /// Where.
        url: String,
        /// What the server said, if anything.
        hint: String,
    },
    /// The server does not let us in.
    #[error(
        "NATS at {url} refused our credentials ({with}): check `--credentials` or the agent's `nats.credentials`, and the server's user list"
    )]
    Refused {
        /// Where.
        url: String,
        /// What we showed; never the secret itself.
        with: String,
    },
    /// There is a server, and no TLS with it.
    #[error(
        "no TLS with NATS at {url}: has it a certificate for this address? Name who signed that with `nats.ca` in the agent's \
         file or `--nats-ca`"
    )]
    Tls {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The server is older than we can work with.
    #[error(
        "NATS server {server} at {url} is {version}, which lacks {missing}: use nats-server {FLOOR_MAJOR}.{FLOOR_MINOR} or newer"
    )]
    TooOld {
        /// The server's name.
        server: String,
        /// Where.
        url: String,
        /// Its version.
        version: String,
        /// What it cannot do.
        missing: String,
    },
    /// Nobody answers there.
    #[error("cannot reach NATS at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The address is not one.
    #[error("`{url}` is not the address of a NATS server: write for example `nats://127.0.0.1:4222`")]
    Url {
        /// The text; empty when it may hold a secret.
        url: String,
    },
    /// The address holds a user or a token.
    #[error(
        "the NATS address holds credentials, which would end up in logs: set `nats.credentials` in the agent's file, or `--credentials`, instead"
    )]
    UrlHoldsCredentials,
}

impl Bus {
    /// Connects, and checks that the server can do what we need.
    ///
    /// # Errors
    /// Within a few seconds, when the server cannot be reached, refuses us, or is too old. Once
    /// this has succeeded the connection repairs itself for ever.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let url = options.url.trim().to_owned();
        let addresses = parse_url(&url)?;
        let api = api(options.domain.as_deref())?;
        let health = Arc::new(Health::default());
        let settings = settings(options, &health)?;
        let client = settings.connect(addresses).await.map_err(|source| match source.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                ConnectError::Refused { url: url.clone(), with: shown(options.credentials.as_ref()) }
            }
            ConnectErrorKind::Tls => ConnectError::Tls { url: url.clone(), source },
            ConnectErrorKind::Io if is_tls(&source) => ConnectError::Tls { url: url.clone(), source },
            ConnectErrorKind::ServerParse => ConnectError::Url { url: url.clone() },
            _ => ConnectError::Unreachable { url: url.clone(), source },
        })?;
        check_version(&client, &url)?;
        check_api(&client, &url, options.domain.as_deref(), &api, &health).await?;
        health.answered();
        let jetstream = jetstream::ContextBuilder::new()
            .api_prefix(&api)
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            // A full window is a reason to wait, not an error.
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Self { client, jetstream, health, api, prefix: options.prefix.clone() })
    }

    /// The first token of every subject.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Whether JetStream has answered us lately: within 15 s, while we are connected. That the client is
    /// connected says little: behind a leaf node it still is when the hub is gone. Whoever never asks
    /// gets no answer; agents and coordinators write their presence every 5 s, and readers ask when idle.
    pub fn is_answered(&self) -> bool {
        self.is_connected() && self.health.is_answered()
    }

    /// The number of the connection that we have, which each reconnect raises: known as soon as it is there.
    pub fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Whether the client believes that it is connected. A frozen server is noticed after two pings.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// Ping often: the default of a minute is too slow to notice a dead link.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long one dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one request to JetStream may take before it is repeated.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Oldest server: 2.12 has what the settings of our assets ask for.
const FLOOR_MAJOR: u64 = 2;
const FLOOR_MINOR: u64 = 12;
/// JetStream API level of 2.12.
const FLOOR_API_LEVEL: u64 = 2;

fn parse_url(url: &str) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    if url.contains('@') {
        return Err(ConnectError::UrlHoldsCredentials);
    }
    url.split(',').map(|one| one.trim().parse().map_err(|_| ConnectError::Url { url: one.to_owned() })).collect()
}

/// Where the API of JetStream is, as every server maps its own domain.
fn api(domain: Option<&str>) -> Result<String, ConnectError> {
    let Some(domain) = domain else { return Ok("$JS.API".to_owned()) };
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if domain.is_empty() || domain.len() > DOMAIN_LEN_MAX || !domain.bytes().all(is_token) {
        return Err(ConnectError::DomainName(domain.chars().take(DOMAIN_LEN_MAX).collect()));
    }
    Ok(format!("$JS.{domain}.API"))
}

/// Characters of a domain's name; it is a part of each request's subject.
const DOMAIN_LEN_MAX: usize = 64;

fn settings(options: &ConnectOptions, health: &Arc<Health>) -> Result<async_nats::ConnectOptions, ConnectError> {
    let base = match &options.ca {
        None => async_nats::ConnectOptions::new(),
        Some(path) => {
            let wrong = |source| ConnectError::Authorities { path: path.display().to_string(), source };
            check_authorities(path).map_err(wrong)?;
            async_nats::ConnectOptions::new().add_root_certificates(path.clone()).require_tls(true)
        }
    };
    let base = match &options.credentials {
        None => base,
        Some(own @ Credentials::Creds(text)) => {
            let wrong = |source| ConnectError::Credentials { with: shown(Some(own)), source };
            base.credentials(text.expose_secret()).map_err(wrong)?
        }
        Some(Credentials::NkeySeed(seed)) => base.nkey(seed.expose_secret().to_owned()),
        Some(Credentials::Token(token)) => base.token(token.expose_secret().to_owned()),
        Some(Credentials::UserPassword { user, password }) => {
            base.user_and_password(user.clone(), password.expose_secret().to_owned())
        }
    };
    let on_event = Arc::clone(health);
    Ok(base
        .name(&options.name)
        .ping_interval(PING_EVERY)
        .connection_timeout(DIAL_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(redial_delay)
        .event_callback(move |event| {
            let health = Arc::clone(&on_event);
            async move { health.note(&event) }
        }))
}

/// Whether the handshake went wrong, which the client library does not tell from a lost connection.
fn is_tls(error: &async_nats::ConnectError) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<async_nats::rustls::Error>())
}

/// The client library takes a file without any for trust in nobody.
fn check_authorities(path: &Path) -> std::io::Result<()> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(AUTHORITIES_LEN_MAX).read_to_string(&mut text)?;
    let is_there = text.contains("-----BEGIN CERTIFICATE-----");
    if is_there { Ok(()) } else { Err(std::io::Error::other("it holds no certificate in PEM")) }
}

/// Bytes of a file with authorities; all that a browser trusts are 250 KiB.
const AUTHORITIES_LEN_MAX: u64 = 1024 * 1024;

/// Soon at first, then every few seconds; jittered, so that a fleet does not return as one.
fn redial_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    backoff(attempts)
}

/// 50 ms, doubled per attempt up to 3 s, each between half and the whole of it.
pub(crate) fn backoff(attempts: usize) -> Duration {
    let doubled = 50_u64 << attempts.min(6);
    let whole = doubled.min(3_000);
    Duration::from_millis(whole / 2 + fastrand::u64(0..=whole / 2))
}

fn shown(credentials: Option<&Credentials>) -> String {
    match credentials {
        None => "none were given".to_owned(),
        Some(Credentials::Creds(_)) => "a `.creds` file".to_owned(),
        Some(Credentials::NkeySeed(_)) => "an nkey".to_owned(),
        Some(Credentials::Token(_)) => "a token".to_owned(),
        Some(Credentials::UserPassword { user, .. }) => format!("user `{user}` with a password"),
    }
}

fn check_version(client: &async_nats::Client, url: &str) -> Result<(), ConnectError> {
    let info = client.server_info();
    let mut numbers = info.version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let seen = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if seen >= (FLOOR_MAJOR, FLOOR_MINOR) {
        return Ok(());
    }
    Err(ConnectError::TooOld {
        server: info.server_name,
        url: url.to_owned(),
        version: info.version,
        missing: format!("JetStream API level {FLOOR_API_LEVEL} (it would silently ignore settings we rely on)"),
    })
}

/// The answer to `$JS.API.INFO`, read leniently: older servers leave out fields that the client
/// library insists on, and then say nothing useful.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiInfo {
    api: ApiLevel,
    domain: Option<String>,
    error: Option<ApiError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiLevel {
    level: u64,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    description: String,
}

/// What JetStream answers while it cannot, as in HTTP.
const UNAVAILABLE: u16 = 503;

async fn check_api(
    client: &async_nats::Client,
    url: &str,
    domain: Option<&str>,
    api: &str,
    health: &Health,
) -> Result<(), ConnectError> {
    let info = client.server_info();
    let (server, url) = (info.server_name, url.to_owned());
    let none = |said: String, may_pass: bool| {
        let hint = if said.is_empty() { said } else { format!(" (it said: {said})") };
        let (server, url) = (server.clone(), url.clone());
        match domain {
            Some(domain) => ConnectError::DomainSilent { server, url, domain: domain.to_owned(), hint },
            None if may_pass => ConnectError::NotReady { server, url, hint },
            None => ConnectError::NoJetStream { server, url, hint },
        }
    };
    let answer = client.request(format!("{api}.INFO"), bytes::Bytes::new()).await;
    // Without JetStream nobody listens there; a denied request goes unanswered, and the server says so.
    let is_slow = |error: &RequestError| error.kind() == RequestErrorKind::TimedOut;
    let answer = answer.map_err(|error| {
        let said = health.recent_error();
        let may_pass = is_slow(&error) && said.is_none();
        none(said.unwrap_or_default(), may_pass)
    })?;
    let answered: ApiInfo = serde_json::from_slice(&answer.payload).unwrap_or_default();
    if let Some(error) = answered.error {
        return Err(none(error.description, error.code == UNAVAILABLE));
    }
    // Without a name, a leaf's own JetStream would take our streams for its own, apart from the hub's.
    if let Some(own) = answered.domain.filter(|own| !own.is_empty() && domain.is_none()) {
        return Err(ConnectError::Domain { server, url, domain: own });
    }
    if answered.api.level >= FLOOR_API_LEVEL {
        return Ok(());
    }
    Err(ConnectError::TooOld {
        server,
        url,
        version: info.version,
        missing: format!("JetStream API level {FLOOR_API_LEVEL} (it has {})", answered.api.level),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_secrets_are_refused_without_repeating_them() {
        let error = parse_url("nats://user:hunter2@host:4222").expect_err("accepted");
        assert!(!error.to_string().contains("hunter2"));
        assert!(parse_url("nats://127.0.0.1:4222, nats://127.0.0.1:4223").is_ok_and(|all| all.len() == 2));
        assert!(matches!(parse_url("http://["), Err(ConnectError::Url { .. })));
    }

    #[test]
    fn a_domain_is_one_token() {
        assert_eq!(api(None).ok().as_deref(), Some("$JS.API"));
        assert_eq!(api(Some("hub-1")).ok().as_deref(), Some("$JS.hub-1.API"));
        for wrong in ["", "a.b", ">", "*", "a b", &"a".repeat(65)] {
            assert!(matches!(api(Some(wrong)), Err(ConnectError::DomainName(_))), "`{wrong}` was accepted");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let seed = format!("SUhunter2{}", "A".repeat(49));
        let creds = "-----BEGIN NATS USER JWT-----\nhunter2\n";
        for (text, kind) in [
            ("hunter2", "a token"),
            (&seed, "an nkey"),
            ("me:hunter2", "user `me` with a password"),
            (creds, "a `.creds` file"),
        ] {
            let credentials = Credentials::read(text.into());
            assert_eq!(shown(Some(&credentials)), kind);
            assert!(!format!("{credentials:?}").contains("hunter2"));
        }
    }

    #[test]
    fn backoff_is_bounded() {
        for attempts in 0..100 {
            assert!(backoff(attempts) <= Duration::from_secs(3));
        }
    }
}
