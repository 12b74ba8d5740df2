//! Slack: the few methods of the Web API that post, edit and find messages, and an incoming webhook.
//!
//! As the real one it answers HTTP 200 with `ok: false`, and refuses what breaks a limit of Block
//! Kit. It is stricter with fields: one that it does not know is `invalid_arguments`.

use serde_json::{Map, Value, json};

use crate::{Family, Reply, Seen, only};

/// Longest message that Slack has been seen to take, over all blocks, in characters.
const TOTAL_MAX: usize = 13_000;

/// One workspace with one channel.
#[derive(Debug)]
pub struct Slack {
    /// The channel's id.
    pub channel: String,
    /// The bot's token.
    pub token: String,
    /// Every message of the channel, oldest first, as it is now; a reply has `thread_ts`.
    pub messages: Vec<Value>,
    /// What was posted to the incoming webhook, `/services/…`.
    pub hooked: Vec<Value>,
    /// How many edits there were.
    pub edits: usize,
}

impl Slack {
    /// An empty channel.
    pub fn new(channel: &str, token: &str) -> Self {
        let (messages, hooked) = (Vec::new(), Vec::new());
        Self { channel: channel.to_owned(), token: token.to_owned(), messages, hooked, edits: 0 }
    }

    /// Messages that begin a thread, or stand alone.
    pub fn roots(&self) -> Vec<&Value> {
        self.messages.iter().filter(|message| message["thread_ts"].is_null()).collect()
    }

    fn post(&mut self, body: &Map<String, Value>) -> Result<Value, String> {
        only(body, &["channel", "text", "blocks", "thread_ts", "reply_broadcast", "metadata"]).map_err(invalid)?;
        self.checks(body)?;
        if let Some(thread) = body.get("thread_ts")
            && !self.roots().iter().any(|root| root["ts"] == *thread)
        {
            return Err("thread_not_found".to_owned());
        }
        let ts = format!("1700000000.{:06}", 100 * (self.messages.len() + 1));
        let mut message = Value::Object(body.clone());
        message["ts"] = ts.clone().into();
        self.messages.push(message.clone());
        Ok(json!({ "ok": true, "channel": self.channel, "ts": ts, "message": message }))
    }

    fn update(&mut self, body: &Map<String, Value>) -> Result<Value, String> {
        only(body, &["channel", "ts", "text", "blocks", "metadata"]).map_err(invalid)?;
        self.checks(body)?;
        let found = self.messages.iter_mut().find(|message| Some(&message["ts"]) == body.get("ts"));
        let message = found.ok_or("message_not_found")?;
        for name in ["text", "blocks"] {
            message[name] = body.get(name).cloned().unwrap_or_default();
        }
        self.edits += 1;
        Ok(json!({ "ok": true, "channel": self.channel, "ts": message["ts"], "text": message["text"] }))
    }

    fn read(&self, query: &str, is_thread: bool) -> Result<Value, String> {
        let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let known = ["channel", "include_all_metadata", "limit", "oldest", "ts", "cursor"];
        if pairs.iter().any(|(name, _)| !known.contains(name)) {
            return Err(invalid("the query".to_owned()));
        }
        let get = |name| pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        if get("channel") != Some(&self.channel) {
            return Err("channel_not_found".to_owned());
        }
        let thread = get("ts").filter(|_| is_thread);
        let belongs = |message: &&Value| match thread {
            Some(ts) => message["ts"] == ts || message["thread_ts"] == ts,
            None => message["thread_ts"].is_null(),
        };
        let mut found: Vec<Value> = self.messages.iter().filter(belongs).cloned().collect();
        found.reverse();
        // Two to a page, so that whoever looks has to turn it.
        let from: usize = get("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let next = if from + 2 < found.len() { (from + 2).to_string() } else { String::new() };
        let mut page: Vec<Value> = found.into_iter().skip(from).take(2).collect();
        if get("include_all_metadata") != Some("true") {
            page.iter_mut().filter_map(Value::as_object_mut).for_each(|message| drop(message.remove("metadata")));
        }
        Ok(json!({ "ok": true, "messages": page, "response_metadata": { "next_cursor": next } }))
    }

    fn checks(&self, body: &Map<String, Value>) -> Result<(), String> {
        if body.get("channel").and_then(Value::as_str) != Some(&self.channel) {
            return Err("channel_not_found".to_owned());
        }
        if let Some(metadata) = body.get("metadata") {
            let is_whole = metadata["event_type"].is_string() && metadata["event_payload"].is_object();
            is_whole.then_some(()).ok_or("invalid_metadata_format")?;
        }
        let message = json!({ "text": body.get("text"), "blocks": body.get("blocks") });
        check_message(&message).map_err(|_| "invalid_blocks".to_owned())
    }
}

impl Family for Slack {
    fn answer(&mut self, request: &Seen) -> Reply {
        let body = request.json().as_object().cloned().unwrap_or_default();
        if request.path.starts_with("/services/") {
            let checked = only(&body, &["text", "blocks"]);
            return match checked.and_then(|()| check_message(&request.json())) {
                Ok(()) => {
                    self.hooked.push(request.json());
                    Reply::text(200, "ok")
                }
                Err(_) => Reply::text(400, "invalid_payload"),
            };
        }
        let is_ours = request.header("authorization") == Some(&format!("Bearer {}", self.token));
        let answer = match (request.method.as_str(), request.path.rsplit('/').next().unwrap_or_default()) {
            _ if !is_ours => Err("invalid_auth".to_owned()),
            ("POST", "chat.postMessage") => self.post(&body),
            ("POST", "chat.update") => self.update(&body),
            ("GET", "conversations.history") => self.read(&request.query, false),
            ("GET", "conversations.replies") => self.read(&request.query, true),
            _ => Err("unknown_method".to_owned()),
        };
        Reply::json(200, &answer.unwrap_or_else(|error| json!({ "ok": false, "error": error })))
    }
}

/// Slack does not say which argument it does not know.
fn invalid(_: String) -> String {
    "invalid_arguments".to_owned()
}

/// Whether a message keeps the limits of Block Kit, as slack_sdk's validators have them.
///
/// # Errors
/// Which one it breaks.
pub fn check_message(message: &Value) -> Result<(), String> {
    let blocks = message["blocks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = message["text"].as_str().unwrap_or_default();
    if (text.is_empty() && blocks.is_empty()) || text.chars().count() > 4_000 {
        return Err("no text, or over 4,000 characters of it".to_owned());
    }
    if blocks.len() > 50 {
        return Err("over 50 blocks".to_owned());
    }
    let total: usize = blocks.iter().map(|block| block.to_string().chars().count()).sum();
    if total > TOTAL_MAX {
        return Err("msg_blocks_too_long".to_owned());
    }
    blocks.iter().try_for_each(check_block)
}

fn check_block(block: &Value) -> Result<(), String> {
    let fields: Vec<&Value> = block["fields"].as_array().into_iter().flatten().collect();
    let elements: Vec<&Value> = block["elements"].as_array().into_iter().flatten().collect();
    let (known, is_whole) = match block["type"].as_str().unwrap_or_default() {
        "header" => (["text", ""], block["text"]["type"] == "plain_text" && text_fits(&block["text"], 150)),
        "section" => {
            let has_text = !block["text"].is_null();
            let fits = !has_text || text_fits(&block["text"], 3_000);
            let fields_fit = fields.len() <= 10 && fields.iter().all(|field| text_fits(field, 2_000));
            (["text", "fields"], fits && fields_fit && (has_text || !fields.is_empty()))
        }
        "context" => {
            let fits = (1..=10).contains(&elements.len()) && elements.iter().all(|text| text_fits(text, 3_000));
            (["elements", ""], fits)
        }
        other => return Err(format!("a block of type `{other}`")),
    };
    let own = block.as_object().into_iter().flat_map(Map::keys);
    match own.filter(|name| *name != "type").find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("`{name}` in {block}")),
        None if is_whole => Ok(()),
        None => Err(format!("over a limit, or incomplete: {block}")),
    }
}

fn text_fits(text: &Value, max: usize) -> bool {
    let is_kind = matches!(text["type"].as_str(), Some("mrkdwn" | "plain_text"));
    is_kind && text["text"].as_str().is_some_and(|text| (1..=max).contains(&text.chars().count()))
}
