//! From an empty folder to a shadow rollout of one's own URL, and to the alert when it breaks.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bellwether_bus::server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::mesh::{LOOK_EVERY, PROGRAM, WITHIN};
use crate::run;

/// Shorter than `init` writes, so that nobody waits for half an hour.
const SHORTENED: [&str; 4] = ["slot=2s", "grace=2s", "slis.home.timeout=1s", "stages.production.settle=2s"];

/// `up`, which takes all it started along when it goes.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A service that answers 200, or 500 once `is_bad`.
async fn serve(is_bad: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = if is_bad.load(Ordering::Relaxed) { "500 Broken" } else { "200 OK" };
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

fn command(dir: &Path, nats: &str, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(line.split(' ')).current_dir(dir).env("BELLWETHER_NATS", nats).env("USER", "ann");
    command
}

fn ask(dir: &Path, nats: &str, line: &str) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(dir, nats, line).output().expect("it runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Asks until `enough` holds of what is said.
async fn until(
    what: &str,
    mut asked: impl FnMut() -> (Option<i32>, String),
    enough: impl Fn(Option<i32>, &str) -> bool,
) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let (code, said) = asked();
        if enough(code, &said) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {code:?} {said}");
        tokio::time::sleep(LOOK_EVERY * 5).await;
    }
}

#[test]
fn what_init_writes_catches_a_service_that_breaks() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        std::fs::create_dir_all(dir.join("releases/v1")).expect("a release");
        std::os::unix::fs::symlink("releases/v1", dir.join("current")).expect("it runs");
        let is_bad = Arc::new(AtomicBool::new(false));
        let (site, port, monitor) = (serve(Arc::clone(&is_bad)).await, free_port(), free_port());
        let nats = &format!("nats://127.0.0.1:{port}");
        let init = format!(
            "init --service hello --kind exec --url http://127.0.0.1:{site} --yes --control http://127.0.0.1:{monitor}/healthz"
        );
        let written = ask(dir, nats, &init);
        assert_eq!(written.0, Some(0), "{}", written.1);
        assert_eq!(ask(dir, nats, &init).0, Some(2), "nothing is replaced");
        let checked = ask(dir, nats, "plan check bellwether/plan.yaml");
        assert_eq!(checked.0, Some(0), "{}", checked.1);

        let binary = server::find(None).or_else(|_| server::install(|line| eprintln!("{line}"))).expect("nats-server");
        let log = dir.join("up.log");
        let file = std::fs::File::create(&log).expect("a file");
        let mut up = command(dir, nats, &format!("up bellwether --port {port} --monitor {monitor} --nats-server"));
        let up = up.arg(binary).stdout(file.try_clone().expect("a file")).stderr(file).stdin(Stdio::null());
        let _up = Up(up.spawn().expect("it runs"));
        let dry = "rollout start bellwether/plan.yaml --release v2 --dry-run";
        until("everybody to be here", || ask(dir, nats, dry), |code, _| code == Some(0)).await;
        let well = ask(dir, nats, "doctor");
        assert_eq!(well.0, Some(0), "{}", well.1);

        let mut start = command(dir, nats, "rollout start bellwether/plan.yaml --release v2 --shadow --wait --plain");
        SHORTENED.iter().for_each(|change| _ = start.args(["--override", change]));
        let start = start.stdout(Stdio::piped()).spawn().expect("it runs");
        until("a slot", || ask(dir, nats, "rollout status --json"), |_, said| said.contains("\"covered\":1")).await;
        is_bad.store(true, Ordering::Relaxed);
        let ended =
            tokio::task::spawn_blocking(move || start.wait_with_output()).await.expect("joined").expect("ended");
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("would have set release v1"), "{said}");
        let told = || (None, std::fs::read_to_string(&log).unwrap_or_default());
        until("the alert", told, |_, said| {
            said.contains("[warn] hello/1-") && said.contains("would have set release v1")
        })
        .await;
        assert_eq!(
            std::fs::read_link(dir.join("current")).expect("a link"),
            Path::new("releases/v1"),
            "nothing was moved"
        );
    });
}
