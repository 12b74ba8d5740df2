//! Real servers and reference libraries: Alertmanager from Debian, aiosmtpd and standardwebhooks from
//! the Python package index. Fetched once into a cache under `target/`; what cannot be had fails the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use bellwether_bus::child::{Child, Output, Spec};
use bellwether_fakes::parts::{cached, debian, python, run};

const CACHE: &str = env!("CARGO_TARGET_TMPDIR");
const PYTHON: [&str; 2] = ["aiosmtpd==1.4.6", "standardwebhooks==1.1.0"];
/// Where Debian's Alertmanager looks for its templates, and a place of the same length: its own directory.
const TEMPLATES: (&str, &str) = ("/usr/share/prometheus/alertmanager", "/proc/self/cwd/./././././././././.");

fn spawn(program: PathBuf, args: Vec<String>, log: PathBuf) -> Child {
    let shim = std::env::current_exe().expect("our own path");
    let args = args.into_iter().map(Into::into).collect();
    let env = [("PYTHONPATH".to_owned(), python(CACHE.as_ref(), &PYTHON).display().to_string())].into();
    Child::spawn(&Spec { shim, program, args, env, output: Output::File(log) }).expect("a server")
}

/// Verifies what came to a webhook, a file of JSON lines with `headers` and `body`, by the reference library.
/// Says how many there were.
pub(crate) fn verify(secret: &str, posts: &Path) -> String {
    let packages = python(CACHE.as_ref(), &PYTHON);
    run(Command::new("python3").args(["-c", VERIFY, secret]).arg(posts).env("PYTHONPATH", packages))
}

/// With what the user `bellwether` signs in to the servers here.
pub(crate) const PASSWORD: &str = "hidden";

/// Starts an Alertmanager in `dir` that one must sign in to; its log is `alertmanager.log` there.
pub(crate) fn alertmanager(dir: &Path) -> Child {
    const PACKAGE: &str = "prometheus-alertmanager";
    let found = debian(CACHE.as_ref(), PACKAGE);
    let parts = cached(CACHE.as_ref(), "alertmanager", |dir| {
        run(Command::new("sh")
            .args(["-c", "cp $0/usr/share/prometheus/alertmanager/*.tmpl ."])
            .arg(&found)
            .current_dir(dir));
        let mut patched = std::fs::read(found.join("usr/bin").join(PACKAGE)).expect("a program");
        let (from, to) = TEMPLATES;
        assert_eq!(from.len(), to.len());
        while let Some(at) = patched.windows(from.len()).position(|piece| piece == from.as_bytes()) {
            patched[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        std::fs::write(dir.join("server"), patched).expect("written");
        run(Command::new("chmod").args(["+x", "server"]).current_dir(dir));
    });
    // Shorter than the time between two posts: what is posted says itself when it ends.
    let config = "global: { resolve_timeout: 1s }\nroute: { receiver: nobody }\nreceivers: [{ name: nobody }]\n";
    std::fs::write(dir.join("alertmanager.yml"), config).expect("written");
    // Bcrypt of PASSWORD.
    let web = "basic_auth_users: { bellwether: $2b$04$abcdefghijklmnopqrstuuhZyWRsG7iAMo6rVsDQ6k6wZoOR22OE2 }\n";
    std::fs::write(dir.join("web.yml"), web).expect("written");
    let script = format!(
        "cd {} && exec ./server --config.file={dir}/alertmanager.yml --storage.path={dir}/data --web.config.file={dir}/web.yml \
         --web.listen-address=127.0.0.1:0 --cluster.listen-address=",
        parts.display(),
        dir = dir.display(),
    );
    spawn("/bin/sh".into(), vec!["-c".to_owned(), script], dir.join("alertmanager.log"))
}

/// A relay that wants STARTTLS and a password, defers the first message to `later@`, and knows no `nobody@`.
/// It writes its port to `smtp.port`, its certificate to `smtp.pem`, and a line of JSON for each
/// message and refusal to `smtp.jsonl`.
const RELAY: &str = r#"
import asyncio, email, json, os, ssl, subprocess, sys
from aiosmtpd.smtp import SMTP, AuthResult
where = sys.argv[1]
path = lambda name: os.path.join(where, name)
subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
    "-keyout", path("smtp.key"), "-out", path("smtp.pem")], check=True)
deferred = []
def note(**fields):
    with open(path("smtp.jsonl"), "a") as log:
        log.write(json.dumps(fields) + "\n")
class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            note(did="refused", to=address)
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content)
        fields = dict(to=envelope.rcpt_tos, tls=session.ssl is not None, id=message["Message-ID"],
            references=message["References"], subject=str(email.header.make_header(email.header.decode_header(message["Subject"]))),
            text=message.get_payload(decode=True).decode())
        if not deferred and any(to.startswith("later@") for to in envelope.rcpt_tos):
            deferred.append(True)
            note(did="deferred", **fields)
            return "451 4.3.0 try again"
        note(did="queued", **fields)
        return "250 2.0.0 queued"
def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b"bellwether" and data.password == b"hidden")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(path("smtp.pem"), path("smtp.key"))
async def main():
    make = lambda: SMTP(Handler(), tls_context=context, require_starttls=True, authenticator=authenticate, auth_required=True)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    with open(path("smtp.new"), "w") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    os.rename(path("smtp.new"), path("smtp.port"))
    await server.serve_forever()
asyncio.run(main())
"#;

/// Starts the relay.
pub(crate) fn relay(dir: &Path) -> Child {
    let args = ["-c".to_owned(), RELAY.to_owned(), dir.display().to_string()];
    let python = run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    spawn(python.trim().into(), args.into(), dir.join("smtp.log"))
}

const VERIFY: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook
lines = [json.loads(line) for line in open(sys.argv[2])]
for line in lines:
    Webhook(sys.argv[1]).verify(line["body"], line["headers"])
print(len(lines))
"#;
