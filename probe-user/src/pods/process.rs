//! Processes: what they are called, and which of them holds a socket.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::procfs::{netns_of, numbered, open, pids, printable};
use crate::event::Listener;

/// `/proc/PID/comm`, made printable; `None` when the process is gone.
pub fn comm(root: &Path, pid: u32) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    // TASK_COMM_LEN is 16; kernel threads may show up to 64.
    open(&root.join(format!("proc/{pid}/comm"))).ok()?.take(64).read_to_end(&mut bytes).ok()?;
    Some(printable(bytes.strip_suffix(b"\n").unwrap_or(&bytes)))
}

/// The process with the lowest id that holds the socket with inode number `ino` and lives in
/// `netns`; `Ok(None)` when no process there holds it (it may be closed by now).
///
/// Looks at the open files of each process of the namespace: for the node's own one this can be
/// 100,000 links, so ask once for each socket.
///
/// # Errors
/// When `/proc` cannot be listed, or `budget` was used up before all processes were looked at.
pub fn listener_process(
    root: &Path,
    ino: u64,
    netns: u32,
    budget: Duration,
) -> Result<Option<Listener>> {
    let deadline = Instant::now() + budget;
    for (index, pid) in pids(root)?.into_iter().enumerate() {
        if index % 64 == 63 && Instant::now() >= deadline {
            bail!("stopped looking for the process of socket {ino} at process {pid}: time is up");
        }
        if netns_of(root, &pid.to_string()) != Some(netns) {
            continue;
        }
        if holds(&root.join(format!("proc/{pid}/fd")), ino, deadline)? {
            let comm = comm(root, pid).unwrap_or_default();
            return Ok(Some(Listener { ino, pid, comm }));
        }
    }
    Ok(None)
}

/// Whether one of the links in a `/proc/PID/fd` is `socket:[INO]`.
fn holds(dir: &Path, ino: u64, deadline: Instant) -> Result<bool> {
    // Gone, or not ours to look at.
    let Ok(entries) = fs::read_dir(dir) else { return Ok(false) };
    for (index, entry) in entries.flatten().enumerate() {
        if index % 256 == 255 && Instant::now() >= deadline {
            bail!("stopped looking for socket {ino} in {}: time is up", dir.display());
        }
        if fs::read_link(entry.path())
            .is_ok_and(|link| numbered(link.as_os_str().as_bytes(), "socket") == Some(ino))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::{fd::AsRawFd as _, unix::fs::symlink};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn process(root: &Path, pid: u32, netns: u32, comm: &[u8], files: &[&str]) {
        let dir = root.join(format!("proc/{pid}"));
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::create_dir_all(dir.join("fd")).unwrap();
        symlink(format!("net:[{netns}]"), dir.join("ns/net")).unwrap();
        fs::write(dir.join("comm"), comm).unwrap();
        for (fd, link) in files.iter().enumerate() {
            symlink(link, dir.join(format!("fd/{fd}"))).unwrap();
        }
    }

    #[test]
    fn the_lowest_holder_of_that_namespace() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        process(root, 2, 1, b"other\n", &["socket:[77]"]);
        process(root, 30, 9, b"worker\n", &["/dev/null", "socket:[77]"]);
        process(root, 4, 9, b"mas\x1bter\n", &["socket:[7]", "socket:[77]"]);
        process(root, 3, 9, b"idle\n", &["socket:[770]", "pipe:[77]", "anon_inode:[77]"]);
        let found = listener_process(root, 77, 9, LONG).unwrap().unwrap();
        assert_eq!((found.ino, found.pid, found.comm.as_str()), (77, 4, "mas\\u{1b}ter"));
        assert_eq!(listener_process(root, 78, 9, LONG).unwrap(), None);
        assert_eq!(comm(root, 30).unwrap(), "worker");
        assert_eq!(comm(root, 31), None);
    }

    #[test]
    fn stops_when_time_is_up() {
        let root = tempfile::tempdir().unwrap();
        for pid in 1..=100 {
            process(root.path(), pid, 1, b"x\n", &[]);
        }
        let error = listener_process(root.path(), 77, 9, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("time is up"));
    }

    #[test]
    fn finds_our_own_socket() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let ino = numbered(link.as_os_str().as_bytes(), "socket").unwrap();
        let root = Path::new("/");
        let netns = netns_of(root, "self").unwrap();
        let found = listener_process(root, ino, netns, LONG).unwrap().unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(!found.comm.is_empty());
    }
}
