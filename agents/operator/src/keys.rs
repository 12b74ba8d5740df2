//! Keys of the live view: what they ask, and the question before it is asked.
//!
//! Risky keys never act at once: pause and abort want a `y`, a rollback wants the service's name.

use bellwether_protocol::command::Verb;
use bellwether_protocol::id::Service;

/// A question that waits for its answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// `y` asks it, anything else does not.
    Confirm(Verb),
    /// The service's name asks for a rollback.
    Name(String),
    /// No question.
    #[default]
    Quiet,
}

/// What a key led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressed {
    /// Publish this command.
    Ask(Verb),
    /// Say why it stands as it does.
    Explain,
    /// Leave; the rollout goes on.
    Quit,
    /// Look again at the prompt.
    Shown,
}

const ENTER: [u8; 2] = [b'\r', b'\n'];
const ERASE: [u8; 2] = [0x08, 0x7f];
const ESCAPE: u8 = 0x1b;
const END: u8 = 0x04;

impl Prompt {
    /// Takes one key.
    pub(crate) fn press(&mut self, key: u8, service: &Service, is_paused: bool) -> Pressed {
        let (next, pressed) = match (std::mem::take(self), key) {
            (Self::Quiet, b'q' | END) => (Self::Quiet, Pressed::Quit),
            (Self::Quiet, b'e') => (Self::Quiet, Pressed::Explain),
            (Self::Quiet, b'p') if is_paused => (Self::Confirm(Verb::Resume), Pressed::Shown),
            (Self::Quiet, b'p') => (Self::Confirm(Verb::Pause), Pressed::Shown),
            (Self::Quiet, b'a') => (Self::Confirm(Verb::Abort), Pressed::Shown),
            (Self::Quiet, b'r') => (Self::Name(String::new()), Pressed::Shown),
            (Self::Confirm(verb), b'y' | b'Y') => (Self::Quiet, Pressed::Ask(verb)),
            (Self::Quiet | Self::Confirm(_), _) | (Self::Name(_), ESCAPE) => (Self::Quiet, Pressed::Shown),
            (Self::Name(typed), key) if ENTER.contains(&key) => {
                let pressed = if typed == service.as_str() { Pressed::Ask(Verb::Rollback) } else { Pressed::Shown };
                (Self::Quiet, pressed)
            }
            (Self::Name(mut typed), key) => {
                if ERASE.contains(&key) {
                    typed.pop();
                } else if key.is_ascii_graphic() && typed.len() < bellwether_protocol::id::TOKEN_LEN_MAX {
                    typed.push(char::from(key));
                }
                (Self::Name(typed), Pressed::Shown)
            }
        };
        *self = next;
        pressed
    }

    /// The question, if there is one.
    pub(crate) fn line(&self, service: &Service) -> Option<String> {
        match self {
            Self::Confirm(Verb::Abort) => Some(format!("abort {service}: end this rollout, restore its levers? y / n")),
            Self::Confirm(verb) => Some(format!("{verb} {service}? y / n")),
            Self::Name(typed) => Some(format!("take {service} back: type its name, then Enter (Esc: no): {typed}")),
            Self::Quiet => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(keys: &str) -> (Prompt, Pressed) {
        let service: Service = "shop".parse().unwrap();
        let mut prompt = Prompt::default();
        let mut last = Pressed::Shown;
        for key in keys.bytes() {
            last = prompt.press(key, &service, false);
        }
        (prompt, last)
    }

    #[test]
    fn nothing_is_asked_without_an_answer() {
        assert_eq!(press("p"), (Prompt::Confirm(Verb::Pause), Pressed::Shown));
        assert_eq!(press("py"), (Prompt::Quiet, Pressed::Ask(Verb::Pause)));
        assert_eq!(press("an"), (Prompt::Quiet, Pressed::Shown));
        assert_eq!(press("ay"), (Prompt::Quiet, Pressed::Ask(Verb::Abort)));
        assert_eq!(press("y"), (Prompt::Quiet, Pressed::Shown));
        assert_eq!(press("q"), (Prompt::Quiet, Pressed::Quit));
        assert_eq!(press("e"), (Prompt::Quiet, Pressed::Explain));
    }

    #[test]
    fn a_rollback_wants_the_name() {
        assert_eq!(press("rshop\r"), (Prompt::Quiet, Pressed::Ask(Verb::Rollback)));
        assert_eq!(press("rshoq\x7fp\n"), (Prompt::Quiet, Pressed::Ask(Verb::Rollback)));
        assert_eq!(press("ry\r"), (Prompt::Quiet, Pressed::Shown));
        assert_eq!(press("rshop\x1b"), (Prompt::Quiet, Pressed::Shown));
        assert_eq!(press("rq"), (Prompt::Name("q".into()), Pressed::Shown));
    }
}
