//! Listening to a NATS subject, from the first reading on.

use bellwether_bus::{Bus, Subscription};

use crate::found::Missing;

/// What is heard on one subject.
#[derive(Debug)]
pub(crate) struct Ear {
    pub(crate) subject: String,
    bus: Bus,
    heard: Option<Subscription>,
}

/// Most messages of one reading; the others wait for the next.
const MESSAGES_MAX: usize = 10_000;

impl Ear {
    /// An ear that is not yet at its subject.
    pub(crate) fn new(bus: &Bus, subject: String) -> Self {
        Self { subject, bus: bus.clone(), heard: None }
    }

    /// The bodies of what was said since the last time.
    pub(crate) async fn take(&mut self) -> Result<Vec<Vec<u8>>, Missing> {
        let heard = match &mut self.heard {
            Some(heard) => heard,
            none => {
                let heard = self.bus.subscribe(&self.subject).await;
                none.insert(heard.map_err(|error| Missing(error.to_string()))?)
            }
        };
        Ok(std::iter::from_fn(|| heard.take()).take(MESSAGES_MAX).map(|body| body.to_vec()).collect())
    }
}
