//! What the environment says of telemetry: OpenTelemetry's own variables, and `BELLWETHER_LISTEN`.
//!
//! The exporters read `OTEL_EXPORTER_OTLP_*` (endpoint, headers, timeout), the batches `OTEL_BSP_*`, the
//! sampler `OTEL_TRACES_SAMPLER` and its argument, the resource `OTEL_RESOURCE_ATTRIBUTES`; here is what
//! decides whether there are any.

use std::net::SocketAddr;

/// What the environment says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Who we are.
    pub(super) service_name: String,
    /// Whether traces are sent.
    pub(super) traces: bool,
    /// Whether figures are sent.
    pub(super) metrics: bool,
    /// Where `/metrics` and `/healthz` are.
    pub(super) listen: Option<SocketAddr>,
    /// What is wrong in it, and what to do.
    pub(super) complaints: Vec<String>,
}

impl Settings {
    /// Reads the variables; an empty one is as good as none.
    pub(super) fn read(service_name: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut complaints = Vec::new();
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let mut sends = |signal: &str| {
            let endpoint = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
            let has_endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| variable(&endpoint)).is_some();
            let is_none = variable(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|exporter| exporter == "none");
            if !has_endpoint || is_none || is_off {
                return false;
            }
            let own = format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL");
            let protocol = variable(&own).or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
            let unspoken = protocol.filter(|protocol| protocol != "http/protobuf");
            complaints.extend(unspoken.as_ref().map(|protocol| {
                format!(
                    "{} are not sent: OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`. fix: set it to http/protobuf, and the endpoint to the collector's port for it, by default 4318",
                    signal.to_lowercase()
                )
            }));
            unspoken.is_none()
        };
        let (traces, metrics) = (sends("TRACES"), sends("METRICS"));
        let listen = variable("BELLWETHER_LISTEN").and_then(|text| match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                complaints.push(format!("nothing listens: BELLWETHER_LISTEN is `{text}`. fix: write an address and a port, such as 127.0.0.1:9600"));
                None
            }
        });
        let service_name = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| service_name.to_owned());
        Self { service_name, traces, metrics, listen, complaints }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_environment_says_what_is_sent() {
        const END: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for (variables, traces, metrics, complaints) in [
            (vec![], false, false, 0),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false, false, 0),
            (vec![END], true, true, 0),
            (vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", END.1)], true, false, 0),
            (vec![END, ("OTEL_SDK_DISABLED", "TRUE")], false, false, 0),
            (vec![END, ("OTEL_METRICS_EXPORTER", "none")], true, false, 0),
            (vec![END, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], true, true, 0),
            (vec![END, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], false, false, 2),
            (vec![("BELLWETHER_LISTEN", "9600")], false, false, 1),
        ] {
            let map: BTreeMap<&str, &str> = variables.iter().copied().collect();
            let read = Settings::read("bellwether-agent", |name| map.get(name).map(ToString::to_string));
            assert_eq!((read.traces, read.metrics, read.complaints.len()), (traces, metrics, complaints), "{map:?}");
            assert_eq!((read.service_name.as_str(), read.listen), ("bellwether-agent", None));
        }
        let named = Settings::read("agent", |name| (name == "OTEL_SERVICE_NAME").then(|| "shop-watch".to_owned()));
        assert_eq!(named.service_name, "shop-watch");
        let heard = Settings::read("agent", |name| (name == "BELLWETHER_LISTEN").then(|| "127.0.0.1:0".to_owned()));
        assert_eq!(heard.listen, "127.0.0.1:0".parse().ok());
    }
}
