//! The Slack bridge: one thread per incident. The root is posted once and edited in place, so that it
//! is always true now; each proof is one reply, and there are at most [`REPLIES_MAX`].
//!
//! Posting is not idempotent. So what is about to be posted is noted on disk first, and each message
//! carries the incident's name as metadata: after a crash, or when an answer was lost, the message is
//! looked for before it is posted again. Without the scope `channels:history` it cannot be looked for,
//! and may be posted twice; the same when Slack shows it in its history only later.

pub(crate) mod message;

use std::sync::Mutex;
use std::time::Duration;

use bellwether_protocol::alert::{Alert, IncidentKind};
use bellwether_protocol::time::Span;
use bellwether_runtime::web::chain;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::{Occasion, is_news};
use crate::config::SlackConfig;
use crate::http::{self, Answer};

/// Most replies of one thread, reminders not counted.
pub(crate) const REPLIES_MAX: usize = 5;
/// Slack takes one message per second and channel.
const POST_EVERY: Duration = Duration::from_secs(1);
/// How far before an incident its root may have been posted, by Slack's clock.
const CLOCKS_DIFFER: Span = Span::from_secs(300);
/// How many pages of a history are looked at.
const PAGES_MAX: usize = 5;
/// What our metadata is called.
const EVENT: &str = "bellwether_incident";
/// The name of the root among what was posted.
const ROOT: &str = "root";

/// Posts to one channel.
#[derive(Debug)]
pub(crate) struct Slack {
    client: reqwest::Client,
    url: String,
    token: SecretString,
    channel: String,
    link: String,
    /// When the next message may be posted.
    free_at: Mutex<Option<Instant>>,
}

/// Why a method did not do it.
enum Failure {
    /// No answer that says whether it did.
    Unknown(DeliveryError),
    /// It did not, and says why in a word.
    Said(String, Answer),
}

impl Slack {
    pub(crate) fn new(config: &SlackConfig, client: reqwest::Client, link: String) -> Result<Self, String> {
        let token = config.token.resolve().map_err(|error| chain(&error))?;
        if !token.expose_secret().starts_with("xoxb-") {
            return Err(format!("{} is no bot token, which begins with xoxb-", config.token));
        }
        let is_id = config.channel.len() >= 9 && config.channel.starts_with(['C', 'G']);
        if !is_id || !config.channel.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
            return Err("`channel` is the channel's id, such as C0123456789: see the channel's details".to_owned());
        }
        let url = http::parse(&config.url)?.as_str().trim_end_matches('/').to_owned();
        Ok(Self { client, url, token, channel: config.channel.clone(), link, free_at: Mutex::new(None) })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        let mut said = Vec::new();
        let root = message::root(delivery.newest(), &delivery.batch.case, &self.link);
        let began = Instant::now();
        let (ts, is_new) = match delivery.thread().posted.get(ROOT) {
            Some(ts) => (ts.clone(), false),
            None => self.post(ROOT, None, root.clone(), delivery).await?,
        };
        if !is_new {
            self.edit(&ts, root, delivery).await?;
        }
        let did = if is_new { "posted" } else { "edited" };
        said.push(format!("{did} {}ms", began.elapsed().as_millis()));
        let mut last = delivery.thread().last;
        for waiting in &delivery.batch.waiting {
            let key = format!("reply-{}{}", waiting.alert.seq, waiting.occasion.suffix());
            if self.is_due(&key, last.as_ref(), &waiting.alert, waiting.occasion, delivery) {
                let is_loud = waiting.occasion != Occasion::News;
                let body = json!({ "text": message::reply(&waiting.alert), "reply_broadcast": is_loud });
                self.post(&key, Some(&ts), body, delivery).await?;
                said.push("thread ok".to_owned());
            }
            last = Some(waiting.alert.clone());
        }
        said.dedup();
        Ok(Receipt { said: format!("{}: {}", self.channel, said.join(", ")) })
    }

    fn is_due(&self, key: &str, last: Option<&Alert>, next: &Alert, why: Occasion, delivery: &Delivery<'_>) -> bool {
        let posted = delivery.thread().posted;
        let replies = posted.keys().filter(|key| key.starts_with("reply-") && !key.contains('.')).count();
        // The last place is for the end.
        let max = if next.kind == IncidentKind::Resolved { REPLIES_MAX } else { REPLIES_MAX - 1 };
        let wanted = match why {
            Occasion::Acknowledged => false,
            Occasion::Escalated { .. } | Occasion::Reminder(_) => true,
            Occasion::News => replies < max && is_news(last, next),
        };
        wanted && !posted.contains_key(key)
    }

    /// Posts what `key` names, unless it is there already; returns its `ts`, and whether it is new.
    async fn post(
        &self,
        key: &str,
        thread: Option<&str>,
        mut body: Value,
        delivery: &Delivery<'_>,
    ) -> Result<(String, bool), DeliveryError> {
        let was_begun = delivery.thread().intent.as_deref() == Some(key);
        let first = delivery.batch.waiting.first().unwrap_or(&delivery.batch.newest);
        // Another agent may have begun the thread.
        let is_joined = first.standby || first.alert.seq > 1 || first.occasion != Occasion::News;
        let mut found = None;
        if was_begun || (thread.is_none() && is_joined) {
            found = self.find(key, thread, delivery).await?;
        }
        let is_new = found.is_none();
        let ts = match found {
            Some(ts) => ts,
            None => {
                delivery.notes.write(|notes| notes.intent = Some(key.to_owned()))?;
                self.wait_for_turn().await;
                let incident = &delivery.newest().incident;
                body["channel"] = self.channel.as_str().into();
                body["metadata"] =
                    json!({ "event_type": EVENT, "event_payload": { "incident": incident, "key": key } });
                if let Some(thread) = thread {
                    body["thread_ts"] = thread.into();
                }
                let answer = match self.call(self.write("chat.postMessage", &body)).await {
                    Ok(answer) => answer,
                    Err(Failure::Unknown(error)) => return Err(error),
                    Err(Failure::Said(code, answer)) => {
                        delivery.notes.write(|notes| notes.intent = None)?;
                        return Err(meaning(&code, &answer));
                    }
                };
                let ts = answer["ts"].as_str().map(str::to_owned);
                let why = "it answered ok without a ts".to_owned();
                ts.ok_or(DeliveryError::Retry { why, after: None })?
            }
        };
        delivery.notes.write(|notes| {
            notes.intent = None;
            notes.posted.insert(key.to_owned(), ts.clone());
        })?;
        Ok((ts, is_new))
    }

    async fn edit(&self, ts: &str, mut body: Value, delivery: &Delivery<'_>) -> Result<(), DeliveryError> {
        body["channel"] = self.channel.as_str().into();
        body["ts"] = ts.into();
        match self.call(self.write("chat.update", &body)).await {
            Ok(_) => Ok(()),
            Err(Failure::Unknown(error)) => Err(error),
            Err(Failure::Said(code, answer)) => {
                if matches!(code.as_str(), "message_not_found" | "cant_update_message" | "edit_window_closed") {
                    // Somebody deleted it. What is not there cannot tell anybody: begin anew.
                    delivery.notes.write(|notes| {
                        notes.posted.clear();
                        notes.last = None;
                    })?;
                    return Err(answer.retry(format!("the message is gone ({code}), it will be posted anew")));
                }
                Err(meaning(&code, &answer))
            }
        }
    }

    /// Looks for what `key` names in the channel, or in the thread.
    async fn find(
        &self,
        key: &str,
        thread: Option<&str>,
        delivery: &Delivery<'_>,
    ) -> Result<Option<String>, DeliveryError> {
        let oldest = (delivery.first().at - CLOCKS_DIFFER).as_ms() / 1_000;
        let (method, ts) = match thread {
            Some(ts) => ("conversations.replies", Some(("ts", ts.to_owned()))),
            None => ("conversations.history", None),
        };
        let incident = delivery.newest().incident.to_string();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let mut url =
                http::parse(&format!("{}/{method}", self.url)).map_err(|why| DeliveryError::Refused { why })?;
            url.query_pairs_mut()
                .append_pair("channel", &self.channel)
                .append_pair("include_all_metadata", "true")
                .append_pair("limit", "200")
                .append_pair("oldest", &oldest.to_string())
                .extend_pairs(ts.iter().map(|(name, ts)| (*name, ts.as_str())))
                .extend_pairs((!cursor.is_empty()).then_some(("cursor", &cursor)));
            let page = match self.call(self.client.get(url)).await {
                Ok(page) => page,
                Err(Failure::Unknown(error)) => return Err(error),
                Err(Failure::Said(code, _)) if code == "missing_scope" => {
                    tracing::warn!(%incident, "without the scope channels:history a message may come twice");
                    return Ok(None);
                }
                Err(Failure::Said(code, answer)) => return Err(meaning(&code, &answer)),
            };
            let ours = page["messages"].as_array().into_iter().flatten().find(|message| {
                let payload = &message["metadata"]["event_payload"];
                message["metadata"]["event_type"] == EVENT && payload["incident"] == incident && payload["key"] == key
            });
            if let Some(ts) = ours.and_then(|message| message["ts"].as_str()) {
                return Ok(Some(ts.to_owned()));
            }
            cursor = page["response_metadata"]["next_cursor"].as_str().unwrap_or_default().to_owned();
            if cursor.is_empty() {
                break;
            }
        }
        Ok(None)
    }

    async fn wait_for_turn(&self) {
        let now = Instant::now();
        let turn = {
            // Nothing can panic while it is held.
            let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let turn = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at = Some(turn + POST_EVERY);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }

    fn write(&self, method: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/{method}", self.url)).json(body)
    }

    /// Calls a method. HTTP 200 says nothing here: the body does.
    async fn call(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let answer = http::send(request.bearer_auth(self.token.expose_secret())).await.map_err(Failure::Unknown)?;
        if answer.status == 429 {
            return Err(Failure::Said("ratelimited".to_owned(), answer));
        }
        answer.judge(&[400, 404]).map_err(Failure::Unknown)?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if body["ok"] == true {
            return Ok(body);
        }
        let code: String = body["error"].as_str().unwrap_or("no error named").chars().take(100).collect();
        // Slack says of these that a part may have been done.
        if matches!(code.as_str(), "fatal_error" | "internal_error" | "no error named" | "request_timeout") {
            return Err(Failure::Unknown(answer.retry(format!("it answered {code}"))));
        }
        Err(Failure::Said(code, answer))
    }
}

/// What an error's word means for what may be done next. What people can put right is tried again.
fn meaning(code: &str, answer: &Answer) -> DeliveryError {
    let fix = match code {
        "ratelimited" | "rate_limited" | "service_unavailable" | "team_added_to_org" => "it asks to wait",
        "channel_not_found" | "not_in_channel" => "fix: invite the app to the channel, by its id",
        "is_archived" => "fix: unarchive the channel, or name another",
        "account_inactive" | "invalid_auth" | "not_authed" | "token_expired" | "token_revoked" => {
            "fix: set a valid bot token"
        }
        "missing_scope" | "no_permission" | "restricted_action" => "fix: give the app the scope chat:write",
        _ => return DeliveryError::Refused { why: format!("it answered {code}") },
    };
    answer.retry(format!("it answered {code}. {fix}"))
}
