//! Cuts secrets out of what is kept as evidence.
//!
//! It errs on the side of cutting: a long word with digits or mixed case in it goes, though it may be harmless.

use std::sync::LazyLock;

use bellwether_protocol::sample::EVIDENCE_LEN_MAX;
use regex::{Captures, Regex};

/// What stands where a secret was.
pub const CUT: &str = "***";
/// How much of a text is looked at before it is cut to size, in characters.
const WINDOW: usize = 4_000;
/// Words of this length with digits or mixed case may be secrets.
const TOKEN_LEN_MIN: usize = 16;
/// Words of this length may be secrets, whatever is in them.
const WORD_LEN_MAX: usize = 40;

/// Patterns, in order, and what is put in their place.
const PATTERNS: [(&str, &str); 6] = [
    // A header, to the end of its line or of the JSON string that holds it.
    (r#"(?i)((?:proxy-)?authorization|(?:set-)?cookie)("?\s*[:=]\s*"?)[^\r\n"]+"#, "$1$2***"),
    (r#"(?i)\b(bearer|basic|digest|negotiate)(\s+)[^\s"'<>,;]+"#, "$1$2***"),
    // A quoted value may hold escaped quotes; an unclosed one goes to the end.
    (
        r#"(?is)([\w.-]*(?:passw|pwd|secret|token|credential|session|signature|api.?key|private.?key|access.?key)[\w.-]*\\?["']?\s*[:=]\s*)\\?"(?:[^"\\]|\\.)*(?:"|$)"#,
        "$1***",
    ),
    (
        r#"(?i)([\w.-]*(?:passw|pwd|secret|token|credential|session|signature|api.?key|private.?key|access.?key)[\w.-]*\\?["']?\s*[:=]\s*)(?:'[^']*(?:'|$)|[^\s"'&,;<>}\]]+)"#,
        "$1***",
    ),
    (r"(?i)([a-z][a-z0-9+.-]*://)[^\s/@]+@", "$1***@"),
    (r"(?s)-----BEGIN [A-Z ]*-----.*", "***"),
];

static RULES: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| PATTERNS.iter().map(|(pattern, by)| (fixed(pattern), *by)).collect());

static WORDS: LazyLock<Regex> = LazyLock::new(|| fixed(r"[A-Za-z0-9+/=_-]{16,}"));

/// A pattern of this program itself, all of which the tests compile.
#[expect(clippy::expect_used, reason = "the patterns are constants, and a missing one would let secrets through")]
pub fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

/// `text` without what looks like a secret, and without `own`, in at most `len` characters.
///
/// Cutting comes before shortening: half a secret would not look like one.
pub fn redact(text: &str, own: &[String], len: usize) -> String {
    let mut window: String = text.chars().take(WINDOW).collect();
    if window.len() < text.len() {
        // The last word may be the harmless-looking start of a longer one.
        let end = window.rfind(|c: char| !is_word(c)).unwrap_or(0);
        window.truncate(end);
    }
    for secret in own.iter().filter(|secret| !secret.is_empty()) {
        window = window.replace(secret.as_str(), CUT);
    }
    for (rule, by) in RULES.iter() {
        window = rule.replace_all(&window, *by).into_owned();
    }
    let window = WORDS.replace_all(&window, |found: &Captures<'_>| judge(&found[0]));
    let line: Vec<&str> = window.split_whitespace().collect();
    line.join(" ").chars().take(len.min(EVIDENCE_LEN_MAX)).collect()
}

/// A path with the values of its query cut out.
pub fn without_query_values(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let cut = |pair: &str| pair.split_once('=').map_or_else(|| CUT.to_owned(), |(name, _)| format!("{name}={CUT}"));
    let pairs: Vec<String> = query.split('&').map(cut).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// Whether the value of a header of this name must never be repeated.
pub fn is_sensitive(header: &str) -> bool {
    let name = header.to_ascii_lowercase();
    ["auth", "cookie", "credential", "key", "passw", "secret", "session", "signature", "token"]
        .iter()
        .any(|part| name.contains(part))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.')
}

/// A slash is a letter of base64 and a separator of paths: parts are judged alone, then the whole.
fn judge(word: &str) -> String {
    let is_secret = |part: &str| {
        let any = |is: fn(&u8) -> bool| part.as_bytes().iter().any(is);
        // Capitals alone are the name of a constant, such as FEATURE_DISABLED.
        let mixed = any(u8::is_ascii_digit) || (any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase));
        part.len() >= WORD_LEN_MAX || (part.len() >= TOKEN_LEN_MIN && mixed)
    };
    let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
    let like_base64 = has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    if like_base64 || word.split('/').any(is_secret) { CUT.to_owned() } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(redact(text, &[], 300), expected);
    }

    #[test]
    fn what_people_need_stays() {
        for text in [
            "$.actions len == 12: was 11",
            r#"{"error":"FEATURE_DISABLED","status":"unhealthy"}"#,
            "create_work_order_from_fault not in /api/v1/salesforce/test",
            "226MB of 239MB",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn what_looks_like_a_secret_goes() {
        check("Authorization: Basic dXNlcjpwYXNz\r\nx: 1", "Authorization: *** x: 1");
        check(r#"{"password":"hun\"ter2","a":1}"#, r#"{"password":***,"a":1}"#);
        check("password=hunter2&user=joe", "password=***&user=joe");
        check("DB_PASSWORD: 'two words'", "DB_PASSWORD: ***");
        check("postgres://joe:hunter2@db/x", "postgres://***@db/x");
        check("id 9f86d081884c7d659a2feaa0c55ad015 end", "id *** end");
        check("-----BEGIN PRIVATE KEY-----\nshort", "***");
    }

    #[test]
    fn query_values_go() {
        assert_eq!(without_query_values("/a?token=x&b=y&z"), "/a?token=***&b=***&***");
        assert_eq!(without_query_values("/a"), "/a");
    }

    #[test]
    fn planted_secrets_never_come_out() {
        let secrets = ["hunter2", "s3cr3t-Value.with/all+kinds==", "correct horse", "A", "äöü€"];
        let tokens = [
            "9f86d081884c7d659a2feaa0c55ad015",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ",
            "dGhpcyBp/cyBh+IHNl/Y3JldCB0b2tlbg==",
            "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        ];
        let frames: [fn(&str) -> String; 7] = [
            |s| format!("Set-Cookie: id={s}; Path=/"),
            |s| format!(r#"{{"headers":{{"Authorization":"Bearer {s}"}}}}"#),
            |s| format!(r#"{{"client_secret": "{s}"}}"#),
            |s| format!(r#"{{\"api_key\": \"{s}\"}}"#),
            |s| format!("passwd='{s}'"),
            |s| format!(r#"accessToken="{s}"#),
            |s| format!("https://joe:{}@host/", s.replace([' ', '/'], "")),
        ];
        // Padding moves the secret over every border: of the excerpt, and of the window.
        for pad in (0..600).chain(WINDOW - 80..WINDOW + 20) {
            let pad = ". ".repeat(pad / 2);
            for token in tokens {
                assert_gone(&format!("{pad}{token} x"), token, &[]);
            }
            for secret in &secrets[..3] {
                assert_gone(&format!("{pad}the value {secret} was refused"), secret, &[(*secret).to_owned()]);
            }
        }
        for secret in secrets.into_iter().chain(tokens) {
            for frame in frames {
                let text = frame(secret);
                let out = redact(&text, &[], 300);
                let rest = out.replace("Authorization", "").replace("accessToken", "");
                assert!(!rest.contains(secret) && out.contains(CUT), "`{secret}` came out of `{text}`: `{out}`");
            }
        }
    }

    fn assert_gone(text: &str, secret: &str, own: &[String]) {
        let out = redact(text, own, 200);
        // Neither whole nor its start: half a token is half a secret.
        let start: String = secret.chars().take(6).collect();
        assert!(!out.contains(&start), "`{start}` came out: `{out}`");
    }
}
