//! The e-mail bridge: one thread per incident, one message per change of its state.
//!
//! The subject stays that of the beginning, so that every reader threads it; the state is in line
//! one. The `Message-ID` of a message is the same on every try and from every region, so that a
//! relay or a mailbox can drop a repeat whose answer was lost. A relay that takes a message has not
//! delivered it, and delivery cannot be seen from here.

use std::time::Duration;

use bellwether_protocol::alert::Alert;
use bellwether_runtime::web::chain;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use secrecy::ExposeSecret;

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::{Case, Occasion};
use crate::config::{EmailConfig, MailSecurity};
use crate::words;

/// How long one step of the conversation may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest subject, in characters.
const SUBJECT_MAX: usize = 200;
/// Longest line of the text, in characters.
const LINE_MAX: usize = 2_000;
/// Most recipients of one relay.
const RECIPIENTS_MAX: usize = 50;

/// Sends through one relay.
#[derive(Debug)]
pub(crate) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    pub(crate) fn new(config: &EmailConfig) -> Result<Self, String> {
        let mailbox =
            |text: &String| text.parse::<Mailbox>().map_err(|error| format!("`{text}` is no address: {error}"));
        let from = mailbox(&config.from)?;
        let to: Vec<Mailbox> = config.to.iter().map(mailbox).collect::<Result<_, _>>()?;
        if !(1..=RECIPIENTS_MAX).contains(&to.len()) {
            return Err(format!("`to` has {} recipients: name 1 to {RECIPIENTS_MAX}, or a list", to.len()));
        }
        let (tls, port) = match config.security {
            MailSecurity::None => (Tls::None, 25),
            MailSecurity::Starttls => (Tls::Required(parameters(config)?), 587),
            MailSecurity::Tls => (Tls::Wrapper(parameters(config)?), 465),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.relay)
            .tls(tls)
            .port(config.port.unwrap_or(port))
            .hello_name(ClientId::Domain(from.email.domain().to_owned()))
            .timeout(Some(STEP_TIMEOUT));
        match (&config.user, &config.password, config.security) {
            (None, None, _) => {}
            (Some(_), Some(_), MailSecurity::None) => {
                return Err("a password is not sent in the open: set `security: starttls` or `tls`".to_owned());
            }
            (Some(user), Some(password), _) => {
                let password = password.resolve().map_err(|error| chain(&error))?;
                builder = builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
            }
            _ => return Err("`user` and `password` go together".to_owned()),
        }
        Ok(Self { transport: builder.build(), from, to })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        if delivery.occasion() == Occasion::Acknowledged {
            return Ok(Receipt { said: "nothing new".to_owned() });
        }
        let message = self.message(delivery).map_err(|why| DeliveryError::Refused { why })?;
        match self.transport.send(message).await {
            Ok(response) => Ok(Receipt { said: format!("relay said {}", response.code()) }),
            Err(error) => Err(meaning(&error)),
        }
    }

    fn message(&self, delivery: &Delivery<'_>) -> Result<Message, String> {
        let (alert, case) = (delivery.newest(), &delivery.batch.case);
        let domain = self.from.email.domain();
        let root = format!("<{}@{domain}>", alert.incident);
        let occasion = delivery.occasion();
        let is_root = alert.seq == 1 && occasion == Occasion::News;
        let subject = format!("[{}] {}", case.first.severity, words::title(&case.first)).replace('\n', " ");
        let mut builder = Message::builder().from(self.from.clone()).subject(words::cut(&subject, SUBJECT_MAX));
        builder = self.to.iter().fold(builder, |builder, to| builder.to(to.clone()));
        if is_root {
            builder = builder.message_id(Some(root));
        } else {
            let own = format!("<{}.{}{}@{domain}>", alert.incident, alert.seq, occasion.suffix());
            builder = builder.message_id(Some(own)).in_reply_to(root.clone()).references(root);
        }
        // Away messages are not sent in answer to this.
        let auto = HeaderName::new_from_ascii_str("Auto-Submitted");
        builder = builder.raw_header(HeaderValue::new(auto, "auto-generated".to_owned()));
        builder.body(text(alert, case)).map_err(|error| chain(&error))
    }
}

fn parameters(config: &EmailConfig) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(config.relay.clone());
    if let Some(path) = &config.ca {
        let wrong = |why: String| format!("cannot use the certificates in {}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let found = Certificate::from_pem(&pem).map_err(|error| wrong(chain(&error)))?;
        builder = builder.add_root_certificate(found);
    }
    builder.build().map_err(|error| chain(&error))
}

fn text(alert: &Alert, case: &Case) -> String {
    let mut lines = vec![format!("{}: {}", words::state(alert), words::place(alert)), String::new()];
    lines.extend([alert.headline.clone(), String::new()]);
    lines.extend(
        words::fields(alert, case).into_iter().map(|(name, value)| format!("{:<10} {value}", format!("{name}:"))),
    );
    lines.push(String::new());
    lines.extend(alert.next.iter().map(|step| format!("{}:\n    {}", step.why, step.run)));
    if case.waits_for_people() {
        lines.push(format!("take it up:\n    {}", words::acknowledge(alert)));
    }
    lines.extend([String::new(), words::reference(alert, case), String::new()]);
    lines.iter().map(|line| words::cut(line, LINE_MAX)).collect::<Vec<_>>().join("\n")
}

/// A 5xx is final, unless it is about who we are: that, people can put right.
fn meaning(error: &lettre::transport::smtp::Error) -> DeliveryError {
    let status = error.status().map(|code| code.to_string());
    let is_sign_in = status.as_ref().is_some_and(|code| ["530", "534", "535"].contains(&code.as_str()));
    let why = words::cut(&chain(error), 300);
    if error.is_permanent() && !is_sign_in {
        return DeliveryError::Refused { why };
    }
    let fix = if is_sign_in { ". fix: set `user` and `password` of the relay" } else { "" };
    DeliveryError::Retry { why: format!("{why}{fix}"), after: None }
}
