//! What a new agent needs to be let in: a key of its own, and the line of `nats.conf` that says what it may do.
//!
//! The line follows from the table of subjects: whoever adds a family there has said who may publish it.

use bellwether_protocol::command::Verb;
use bellwether_protocol::id::{AgentId, Role};
use bellwether_protocol::subject::{Bucket, FAMILIES, Family, Kept, Prefix, Stream};
use secrecy::SecretString;

use crate::kv;

/// A user of NATS: the key that the server knows, and the seed that proves it.
#[derive(Debug)]
pub struct NewUser {
    /// The public key, `U…`.
    pub public: String,
    /// The seed, `SU…`. Never leaves the machine of the agent.
    pub seed: SecretString,
}

impl NewUser {
    /// A new key, from the randomness of the system.
    ///
    /// # Errors
    /// When the key has no seed.
    pub fn generate() -> std::io::Result<Self> {
        let pair = nkeys::KeyPair::new_user();
        let seed = pair.seed().map_err(std::io::Error::other)?;
        Ok(Self { public: pair.public_key(), seed: seed.into() })
    }

    /// The key of a seed, as a file holds it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(seed: &str) -> std::io::Result<Self> {
        let pair = nkeys::KeyPair::from_seed(seed.trim()).map_err(std::io::Error::other)?;
        Ok(Self { public: pair.public_key(), seed: seed.trim().to_owned().into() })
    }
}

/// 128 bits of the system's randomness, in hex.
///
/// # Errors
/// When the system has none.
pub fn one_time_token() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The entry of `users` in `nats.conf` that lets this agent do what its role does, under its own name alone.
///
/// It does not let the agent create streams: a coordinator does. Answers come to `_INBOX.>`, which NATS users
/// of one account share.
pub fn user_line(prefix: &Prefix, agent: &AgentId, domain: Option<&str>, public: &str) -> String {
    let quoted = |subjects: Vec<String>| subjects.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "{{ nkey: {public}, permissions: {{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }} }} }}",
        quoted(publishes(prefix, agent, domain)),
        quoted(subscribes(prefix, agent))
    )
}

fn publishes(prefix: &Prefix, agent: &AgentId, domain: Option<&str>) -> Vec<String> {
    let role = agent.role.as_str();
    let api = domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"));
    let mut allowed = vec![format!("{api}.INFO")];
    // What an agent starts with: a look at how every one of them is set.
    let buckets = Bucket::ALL.into_iter().map(|bucket| kv::stream_name(&prefix.bucket(bucket)));
    let streams = Stream::ALL.into_iter().map(|stream| prefix.stream(stream));
    allowed.extend(streams.chain(buckets).map(|name| format!("{api}.STREAM.INFO.{name}")));
    let mut read = Vec::new();
    for family in &FAMILIES {
        let kept = match family.kept {
            Kept::Bucket(bucket) => Some(kv::stream_name(&prefix.bucket(bucket))),
            Kept::Nowhere => None,
            Kept::Stream(stream) => Some(prefix.stream(stream)),
        };
        let is_sender = family.from.contains(&role);
        if is_sender {
            let own = prefix.subjects(family, |token| own(token, agent));
            // Keys behind a domain are written through its API.
            let is_far_key = matches!(family.kept, Kept::Bucket(_)) && domain.is_some();
            allowed.push(if is_far_key { format!("{api}.{}", open(family, own)) } else { open(family, own) });
        }
        // Who sends samples looks whether they are still there.
        if is_sender && family.kept == Kept::Stream(Stream::Samples) {
            allowed.push(format!("{api}.STREAM.MSG.GET.{}", prefix.stream(Stream::Samples)));
        }
        // Who sets a key compares it first.
        let is_reader = family.to.contains(&role) || is_sender && matches!(family.kept, Kept::Bucket(_));
        read.extend(kept.filter(|_| is_reader));
    }
    read.sort();
    read.dedup();
    for name in read {
        allowed.push(format!("{api}.STREAM.MSG.GET.{name}"));
        allowed.push(format!("{api}.CONSUMER.CREATE.{name}"));
        for what in ["CREATE", "DELETE", "INFO", "MSG.NEXT"] {
            allowed.push(format!("{api}.CONSUMER.{what}.{name}.>"));
        }
    }
    allowed
}

fn subscribes(prefix: &Prefix, agent: &AgentId) -> Vec<String> {
    let listens = |family: &&Family| family.kept == Kept::Nowhere && family.to.contains(&agent.role.as_str());
    let heard = FAMILIES.iter().filter(listens).map(|family| prefix.subjects(family, |token| own(token, agent)));
    std::iter::once("_INBOX.>".to_owned()).chain(heard).collect()
}

/// A token of a subject as this agent may write it.
fn own(token: &str, agent: &AgentId) -> String {
    match token {
        "agent" => agent.name.to_string(),
        "region" => agent.region.to_string(),
        "role" => agent.role.to_string(),
        // Whoever starts rollouts by itself asks for nothing else, and in no other name.
        "principal" if agent.role == Role::Trigger => agent.name.to_string(),
        "verb" if agent.role == Role::Trigger => Verb::Start.to_string(),
        _ => "*".to_owned(),
    }
}

/// Keys of what is told have an occasion behind them at times.
fn open(family: &Family, subject: String) -> String {
    if family.kept == Kept::Bucket(Bucket::Told) { subject.trim_end_matches('*').to_owned() + ">" } else { subject }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn an_agent_may_speak_under_its_own_name_alone() {
        let prefix = Prefix::default();
        for (agent, may, may_not) in [
            ("sjc.probe.one", "\"bw.sample.sjc.probe.one\"", "bw.result"),
            ("sjc.rollback.one", "\"bw.result.sjc.rollback.one.*\"", "bw.sample.sjc"),
            ("sjc.metric.one", "\"bw.pushed.*.sjc.*\"", "bw.decision"),
            ("sjc.alert.one", "\"$KV.bw-told.*.*.*.>\"", "bw.action"),
            ("sjc.trigger.one", "\"bw.command.*.start.one\"", "bw.command.*.*"),
            // A bridge has the token of a chat: whoever steals it must not speak as a person.
            ("sjc.alert.one", "STREAM.MSG.GET.bw-alerts\"", "\"bw."),
        ] {
            let agent: AgentId = agent.parse().unwrap();
            let line = user_line(&prefix, &agent, None, "UX");
            assert!(line.contains(may), "{line}");
            assert!(!line.contains(may_not) && !line.contains("STREAM.CREATE"), "{line}");
            assert!(line.contains(&format!("\"$KV.bw-presence.{agent}\"")), "{line}");
            let far = user_line(&prefix, &agent, Some("hub"), "UX");
            assert!(far.contains(&format!("\"$JS.hub.API.$KV.bw-presence.{agent}\"")), "{far}");
        }
    }

    #[test]
    fn keys_and_tokens_are_new_each_time() {
        let (one, other) = (NewUser::generate().unwrap(), NewUser::generate().unwrap());
        assert!(one.public.starts_with('U') && one.public != other.public);
        let again = NewUser::read(&format!("{}\n", one.seed.expose_secret())).unwrap();
        assert_eq!(again.public, one.public);
        assert!(NewUser::read("SUX").is_err());
        let (one, other) = (one_time_token().unwrap(), one_time_token().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
