//! `bellwether alert ack`: says that somebody takes an incident up.

use bellwether_protocol::alert::Acknowledgement;
use bellwether_protocol::codec;
use bellwether_protocol::id::IncidentId;

use crate::args::{Asker, Mesh};
use crate::error::{VerbError, exit};
use crate::out::outln;

/// Take an incident up: no reminders and no escalation until it asks more of people
#[derive(Debug, clap::Args)]
pub struct AckArgs {
    /// The incident, such as shop/42-error_rate
    incident: IncidentId,
    #[command(flatten)]
    asker: Asker,
}

impl AckArgs {
    /// Publishes the acknowledgement. Stored, every alert agent reads it, also one that is away.
    ///
    /// # Errors
    /// When it is not known to be stored.
    pub async fn run(&self, mesh: &Mesh) -> Result<u8, VerbError> {
        let principal = self.asker.principal()?;
        let bus = mesh.connect().await?;
        let subject = bus.prefix().ack(&self.incident.rollout.service, &principal);
        let body = codec::to_json("acknowledgement", &Acknowledgement { incident: self.incident.clone() })?;
        let seq = bus.publish(subject, &uuid::Uuid::now_v7().to_string(), body).await?.seq;
        if mesh.json {
            outln!("{}", serde_json::json!({ "incident": self.incident, "by": principal, "stored": seq }));
        } else {
            outln!("stored: {principal} took {} up", self.incident);
        }
        Ok(exit::DONE)
    }
}
