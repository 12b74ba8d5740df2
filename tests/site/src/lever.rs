//! The platform's command-line tool, as the exec driver calls it. Exit 0: done; 75: nothing
//! happened, try again; 64: refused; 1: anything else, so it may have happened.

use std::process::ExitCode;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use clap::{Args, Subcommand};

use crate::admin::SetRequest;
use crate::client::{self, Answer, ClientError};
use crate::world::SiteLever;

const DONE: u8 = 0;
const REFUSED: u8 = 64;
const TRY_AGAIN: u8 = 75;
const UNKNOWN: u8 = 1;
/// How long the platform may take; the driver usually stops waiting before.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Sets, reads or recalls one lever of a running site.
#[derive(Debug, Clone, Args)]
pub struct LeverArgs {
    /// Address of the site's platform side, such as `http://127.0.0.1:8090`
    #[arg(long)]
    admin: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Set a lever; it moves after the platform's lag
    Set {
        /// Which lever
        lever: SiteLever,
        /// To what, such as `10%` or `v42`
        value: String,
    },
    /// Print where a lever stands, target by target
    Read {
        /// Which lever
        lever: SiteLever,
    },
    /// Print the releases a lever has held, newest first
    History {
        /// Which lever
        lever: SiteLever,
    },
}

/// Does what `args` ask and says how it went by its exit code.
pub async fn lever(args: &LeverArgs) -> ExitCode {
    let (code, text) = ask(args).await;
    if code == DONE {
        println!("{}", text.trim_end());
    } else {
        eprintln!("{}", text.trim_end());
    }
    ExitCode::from(code)
}

pub(crate) async fn ask(args: &LeverArgs) -> (u8, String) {
    let base = args.admin.trim_end_matches('/');
    let (method, word, lever, body) = match &args.verb {
        Verb::Set { lever, value } => (Method::PUT, "lever", lever, Some(SetRequest { to: value.clone() })),
        Verb::Read { lever } => (Method::GET, "lever", lever, None),
        Verb::History { lever } => (Method::GET, "history", lever, None),
    };
    let Ok(lever) = serde_json::to_value(lever) else { return (UNKNOWN, "lever without a name".to_owned()) };
    let url = format!("{base}/admin/{word}/{}", lever.as_str().unwrap_or_default());
    let body = body.and_then(|body| serde_json::to_vec(&body).ok()).unwrap_or_default();
    match client::send(method, &url, body, ANSWER_WITHIN).await {
        Ok(answer) => (exit_code(answer.status), said(&answer)),
        Err(error @ ClientError::Connect(..)) => (TRY_AGAIN, error.to_string()),
        Err(error @ ClientError::Url(_)) => (REFUSED, error.to_string()),
        Err(error @ (ClientError::Lost(..) | ClientError::Timeout(..))) => (UNKNOWN, error.to_string()),
    }
}

fn exit_code(status: StatusCode) -> u8 {
    match status {
        StatusCode::OK | StatusCode::ACCEPTED => DONE,
        StatusCode::SERVICE_UNAVAILABLE => TRY_AGAIN,
        status if status.is_client_error() => REFUSED,
        _ => UNKNOWN,
    }
}

fn said(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_platform_is_worth_another_try() {
        let check = |status: u16, expected: u8| {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(exit_code(status), expected, "{status}");
        };
        check(200, DONE);
        check(202, DONE);
        check(400, REFUSED);
        check(403, REFUSED);
        check(404, REFUSED);
        check(500, UNKNOWN);
        check(503, TRY_AGAIN);
        check(504, UNKNOWN);
    }
}
