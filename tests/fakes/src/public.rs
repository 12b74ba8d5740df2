//! The public schemas that others hold us to. They lie beside the workspace and are not part of it.

use std::path::Path;

use serde_json::Value;

/// The text of `shared/schemas/NAME` beside the workspace, or beside any directory that holds it: a
/// branch may be checked out further down. `None`, with a printed line, where it is not there.
pub fn schema_text(name: &str) -> Option<String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(2);
    let found = beside.map(|holder| holder.join("shared/schemas").join(name)).find(|path| path.exists());
    let text = found.and_then(|path| std::fs::read_to_string(path).ok());
    if text.is_none() {
        println!("not held against shared/schemas/{name}: it is not there");
    }
    text
}

/// The same, as JSON.
pub fn schema(name: &str) -> Option<Value> {
    serde_json::from_str(&schema_text(name)?).ok()
}

/// What CDEvents' own schema says against an event; nothing where the schemas are not there.
pub fn cdevent_flaws(event: &Value) -> Vec<String> {
    let kind = event["context"]["type"].as_str().unwrap_or_default();
    // `dev.cdevents.service.deployed.0.3.0` is described in `servicedeployed.json`.
    let name: String = kind.split('.').skip(2).take(2).collect();
    let Some(mut schema) = schema(&format!("cdevents/schemas/{name}.json")) else { return Vec::new() };
    // None is told, and their schemas are files of their own.
    if let Some(properties) = schema["properties"]["context"]["properties"].as_object_mut() {
        properties.remove("links");
    }
    flaws(&schema, event)
}

/// What CloudEvents' schema says against headers and a body, read as the binding of NATS says.
pub fn cloud_event_flaws<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>, body: Value) -> Vec<String> {
    let Some(schema) = schema("cloudevents/cloudevents.json") else { return Vec::new() };
    let attributes = headers.filter_map(|(name, value)| Some((name.strip_prefix("ce-")?.to_owned(), value.into())));
    flaws(&schema, &attributes.chain([("data".to_owned(), body)]).collect())
}

fn flaws(schema: &Value, value: &Value) -> Vec<String> {
    match jsonschema::options().should_validate_formats(true).build(schema) {
        Ok(schema) => schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect(),
        Err(error) => vec![error.to_string()],
    }
}
