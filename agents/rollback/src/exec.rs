//! The exec driver of [`bellwether_runtime`], held to what every driver of this agent promises.

pub(crate) use bellwether_runtime::{Exec, ExecConfig};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::contract::{self, Bench};

    /// Two files stand for the platform: one per place, and one line per move.
    fn bench(directory: &Path) -> Bench<Exec> {
        let path = directory.display().to_string();
        for place in ["east", "west"] {
            std::fs::write(directory.join(place), "v42").expect("written");
        }
        let set = r#"echo moved >> "$0/moves"; printf %s "$1" > "$0/east"; printf %s "$1" > "$0/west""#;
        let read = r#"e=$(cat "$0/east"); w=$(cat "$0/west"); v=null; [ "$e" = "$w" ] && v="\"$e\""
            printf '{"value":%s,"targets":[{"id":"east","value":"%s"},{"id":"west","value":"%s"}]}' "$v" "$e" "$w""#;
        let config = json!({
            "set": ["sh", "-c", set, path, "{value}"],
            "read_back": ["sh", "-c", read, path],
            "pattern": "v[1-9][0-9]*",
        });
        let config: ExecConfig = serde_json::from_value(config).expect("a configuration");
        let (moves, west) = (directory.join("moves"), directory.join("west"));
        Bench {
            driver: Exec::new(&config).expect("a driver"),
            moves: Box::new(move || std::fs::read_to_string(&moves).map_or(0, |text| text.lines().count())),
            split: Box::new(move |to| std::fs::write(&west, to).expect("written")),
        }
    }

    #[tokio::test]
    async fn exec_keeps_the_contract() {
        let directory = tempfile::tempdir().expect("a directory");
        contract::check(&bench(directory.path())).await;
    }
}
