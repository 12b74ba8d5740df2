//! `bellwether alert ack`: says that somebody takes an incident up.

use bellwether_protocol::alert::Acknowledgement;
use bellwether_protocol::codec;
use bellwether_protocol::id::IncidentId;

use crate::args::{Asker, Mesh};
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::rollout::last_status;

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
        let status = last_status(&bus, &self.incident.rollout.service).await?;
        let status = status.filter(|status| status.rollout.number >= self.incident.rollout.number);
        let status = status.ok_or_else(|| VerbError::NoRollout(self.incident.rollout.clone()))?;
        let subject = bus.prefix().ack(&self.incident.rollout.service, &principal);
        let body = codec::to_json("acknowledgement", &Acknowledgement { incident: self.incident.clone() })?;
        let seq = bus.publish(subject, &uuid::Uuid::now_v7().to_string(), body).await?.seq;
        let open = &status.incidents;
        if mesh.json {
            let said = serde_json::json!({ "incident": self.incident, "by": principal, "stored": seq, "open": open });
            outln!("{said}");
            return Ok(exit::DONE);
        }
        outln!("stored: {principal} took {} up", self.incident);
        // An alert agent opens some by itself, when it hears of no decisions.
        if !open.contains(&self.incident) {
            let open: Vec<String> = open.iter().map(ToString::to_string).collect();
            let open = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
            outln!("not open as far as decisions tell; open: {open}");
        }
        Ok(exit::DONE)
    }
}
