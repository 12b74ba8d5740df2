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
