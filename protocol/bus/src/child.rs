//! Processes that die with their parent.
//!
//! A parent-death signal fires when the *thread* that spawned dies, so it cannot be used. Instead
//! each child runs under a shim, this same program with a hidden verb, which holds the read end of
//! a pipe: when the parent is gone, by whatever death, the pipe closes and the shim ends the child.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How long a child may take to end by itself before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(3);

/// Where a child's output goes.
#[derive(Debug, Clone)]
pub enum Output {
    /// To our own stderr.
    Inherit,
    /// Appended to this file.
    File(PathBuf),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The program with the shim verb: normally this one, [`std::env::current_exe`].
    pub shim: PathBuf,
    /// The program to run.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What is added to its environment.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub output: Output,
}

/// A running child. Dropping it closes the pipe, and so ends the child without waiting for it.
#[derive(Debug)]
pub struct Child {
    shim: std::process::Child,
    pipe: Option<ChildStdin>,
    pid: u32,
}

impl Child {
    /// Starts a program under a shim.
    ///
    /// # Errors
    /// When the shim, the program or the output file cannot be opened.
    pub fn spawn(spec: &Spec) -> io::Result<Self> {
        let stderr = match &spec.output {
            Output::Inherit => Stdio::inherit(),
            Output::File(path) => std::fs::OpenOptions::new().create(true).append(true).open(path)?.into(),
        };
        let mut command = Command::new(&spec.shim);
        command.arg(VERB).arg("--").arg(&spec.program).args(&spec.args).envs(&spec.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        // Ctrl-C reaches a whole process group; only the supervisor is to hear it, and to stop its
        // children in its own order.
        command.process_group(0);
        let mut shim = command.spawn()?;
        let pipe = shim.stdin.take();
        let pid = match shim.stdout.take() {
            Some(stdout) => first_line(stdout),
            None => None,
        };
        let Some(pid) = pid.and_then(|line| line.trim().parse().ok()) else {
            drop(pipe);
            let status = shim.wait()?;
            let program = spec.program.display();
            return Err(io::Error::other(format!("`{program}` did not start ({status}); its output says why")));
        };
        Ok(Self { shim, pipe, pid })
    }

    /// The process id of the program itself, not of its shim.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.shim.try_wait()
    }

    /// Ends it and waits: SIGTERM first, SIGKILL after [`STOP_GRACE`]. Blocks.
    ///
    /// # Errors
    /// When the system cannot tell how it ended.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        drop(self.pipe.take());
        self.shim.wait()
    }
}

/// The hidden verb of the shim, with everything behind it.
pub const VERB: &str = "shim";

/// Runs `args` (a program and its arguments, perhaps behind `--`) until it ends or stdin closes.
/// Prints the program's process id as the first line of stdout; its output goes to our stderr.
pub fn shim<I: IntoIterator<Item = OsString>>(args: I) -> ExitCode {
    let mut args = args.into_iter().skip_while(|arg| arg == "--");
    let Some(program) = args.next() else {
        eprintln!("error: `{VERB}` needs a program to run");
        return ExitCode::from(2);
    };
    match run(&program, args.collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: cannot run `{}`: {error}", program.to_string_lossy());
            ExitCode::from(127)
        }
    }
}

enum Woken {
    Ended(io::Result<ExitStatus>),
    ParentGone,
}

fn run(program: &OsString, args: Vec<OsString>) -> io::Result<ExitCode> {
    let stderr = rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::from(stderr));
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    println!("{}", child.id());
    let (sender, woken) = mpsc::channel();
    let on_exit = sender.clone();
    std::thread::spawn(move || on_exit.send(Woken::Ended(child.wait())));
    std::thread::spawn(move || {
        // Nobody writes to this pipe; it ends when its last writer does.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        sender.send(Woken::ParentGone)
    });
    if let Ok(Woken::Ended(status)) = woken.recv() {
        return status.map(exit_code);
    }
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    let deadline = Instant::now() + STOP_GRACE;
    while let Ok(next) = woken.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Woken::Ended(status) = next {
            return status.map(exit_code);
        }
    }
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    match woken.recv() {
        Ok(Woken::Ended(status)) => status.map(exit_code),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// The child's own code; 128 plus the signal when one ended it, as shells have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn first_line(stdout: impl Read) -> Option<String> {
    let mut line = String::new();
    let read = BufReader::new(stdout.take(LINE_LEN_MAX)).read_line(&mut line);
    read.is_ok().then_some(line)
}

/// A process id and a line break.
const LINE_LEN_MAX: u64 = 32;
