//! Looking into network namespaces: a short-lived thread enters one after the other, reads, and
//! ends. The caller's own thread never changes its namespace.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::procfs::{netns_of, open};

/// How to reach a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Inode number; what is found under another number is not read.
    pub netns: u32,
    /// A file that stands for it, such as `/run/netns/NAME` (root path included).
    pub path: Option<PathBuf>,
    /// A process that lives in it.
    pub pid: Option<u32>,
}

/// A namespace that can be read now.
#[derive(Debug)]
pub struct Inside {
    pub netns: u32,
    /// The folder that shows it: `/proc/thread-self/net` or `/proc/PID/net`.
    pub net: PathBuf,
    /// Whether the calling thread is in it, so that system calls act there too.
    pub entered: bool,
}

/// Calls `read` for each target on a helper thread and waits for it. Stops when `budget` is used
/// up, but not before the first target: those that were not reached are missing in the answer.
///
/// Each answer is an error when the namespace is gone, has been replaced by another one, or may not
/// be entered (needs `CAP_SYS_ADMIN`; without it a target with a process is still read through
/// `/proc/PID/net`).
pub fn visit<T, F>(
    root: &Path,
    targets: &[Target],
    budget: Duration,
    read: F,
) -> Vec<(u32, Result<T>)>
where
    T: Send,
    F: Fn(&Inside) -> Result<T> + Sync,
{
    let deadline = Instant::now() + budget;
    visit_while(root, targets, || Instant::now() < deadline, read)
}

/// The same for as long as `go`, which the helper thread asks before each target but the first, says
/// so.
pub fn visit_while<T, F, G>(
    root: &Path,
    targets: &[Target],
    go: G,
    read: F,
) -> Vec<(u32, Result<T>)>
where
    T: Send,
    F: Fn(&Inside) -> Result<T> + Sync,
    G: Fn() -> bool + Sync,
{
    let Some(first) = targets.first() else { return Vec::new() };
    let walk = || {
        let mut answers = Vec::with_capacity(targets.len());
        for target in targets {
            if !answers.is_empty() && !go() {
                break;
            }
            answers.push((target.netns, visit_one(root, target, &read)));
        }
        answers
    };
    thread::scope(|scope| {
        match thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, walk) {
            Ok(helper) => helper.join().unwrap_or_default(),
            Err(error) => {
                let error = anyhow::Error::new(error).context("cannot start the netns thread");
                vec![(first.netns, Err(error))]
            }
        }
    })
}

fn visit_one<T>(root: &Path, target: &Target, read: impl Fn(&Inside) -> Result<T>) -> Result<T> {
    let entered = match enter(root, target) {
        Ok(()) => {
            let net = root.join("proc/thread-self/net");
            let inside = Inside { netns: target.netns, net, entered: true };
            return read(&inside).with_context(|| format!("in network namespace {}", target.netns));
        }
        Err(error) => error,
    };
    let Some(pid) = target.pid else { return Err(entered) };
    // A process id may be given to another process at any moment: look before and after.
    let still = || netns_of(root, &pid.to_string()) == Some(target.netns);
    if !still() {
        return Err(entered);
    }
    let net = root.join(format!("proc/{pid}/net"));
    let inside = Inside { netns: target.netns, net, entered: false };
    let answer = read(&inside)?;
    if !still() {
        bail!("process {pid} left network namespace {} while it was read", target.netns);
    }
    Ok(answer)
}

/// Moves the calling thread into the namespace. The file is closed again on return.
fn enter(root: &Path, target: &Target) -> Result<()> {
    first(root, target, |path| {
        let file = file_at(path, target.netns)?;
        move_into(&file, path, libc::CLONE_NEWNET)
    })
}

/// Moves the calling thread into a namespace of this kind (`CLONE_NEW…`) that was opened at `path`.
///
/// # Errors
/// When that may not be, or it is of another kind.
pub fn move_into(file: &File, path: &Path, kind: libc::c_int) -> Result<()> {
    // SAFETY: setns reads no memory of ours; the descriptor is open for the whole call.
    if unsafe { libc::setns(file.as_raw_fd(), kind) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot enter {} (needs CAP_SYS_ADMIN)", path.display()));
    }
    Ok(())
}

/// Opens the namespace. Close it soon: an open file keeps a deleted namespace.
///
/// # Errors
/// When it is gone, has been replaced by another one, or may not be looked at.
pub fn file(root: &Path, target: &Target) -> Result<File> {
    first(root, target, |path| file_at(path, target.netns))
}

/// What `with` makes of the first of the target's files that does.
fn first<T>(root: &Path, target: &Target, with: impl Fn(&Path) -> Result<T>) -> Result<T> {
    let by_pid = target.pid.map(|pid| root.join(format!("proc/{pid}/ns/net")));
    let mut last = None;
    for path in target.path.iter().chain(&by_pid) {
        match with(path) {
            Ok(made) => return Ok(made),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => bail!("network namespace {} has neither a name nor a process", target.netns),
    }
}

fn file_at(path: &Path, netns: u32) -> Result<File> {
    let file: File = open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let found = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?.ino();
    if found != u64::from(netns) {
        bail!("{} is namespace {found} now, not {netns}", path.display());
    }
    Ok(file)
}

/// `net->net_cookie` of the namespace of the calling thread; 0 before 5.14, where `SO_NETNS_COOKIE`
/// is not known (`net/core/sock.c`, `sk_getsockopt`).
pub fn cookie() -> u64 {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return 0;
    }
    // SAFETY: the descriptor is new, open, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: `cookie` has the 8 bytes that `len` says, both outlive the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 && len == 8 { cookie } else { 0 }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A root with process 7 in namespace 42, which cannot be entered: it is a plain link.
    fn fixture() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let process = dir.path().join("proc/7");
        fs::create_dir_all(process.join("ns")).unwrap();
        fs::create_dir_all(process.join("net")).unwrap();
        symlink("net:[42]", process.join("ns/net")).unwrap();
        fs::write(process.join("net/dev"), "here").unwrap();
        dir
    }

    fn read_dev(inside: &Inside) -> Result<String> {
        Ok(fs::read_to_string(inside.net.join("dev"))?)
    }

    #[test]
    fn falls_back_to_the_process() {
        let root = fixture();
        let target = Target { netns: 42, path: None, pid: Some(7) };
        let answers = visit(root.path(), &[target], Duration::ZERO, read_dev);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].0, 42);
        assert_eq!(answers[0].1.as_ref().unwrap(), "here");
    }

    #[test]
    fn a_process_of_another_namespace_is_not_read() {
        let root = fixture();
        let target = Target { netns: 43, path: None, pid: Some(7) };
        let answers = visit(root.path(), &[target], Duration::ZERO, read_dev);
        assert!(answers[0].1.is_err());
    }

    #[test]
    fn a_process_that_moves_while_read_is_an_error() {
        let root = fixture();
        let target = Target { netns: 42, path: None, pid: Some(7) };
        let link = root.path().join("proc/7/ns/net");
        let answers = visit(root.path(), &[target], Duration::ZERO, |inside| {
            let text = read_dev(inside)?;
            fs::remove_file(&link)?;
            symlink("net:[43]", &link)?;
            Ok(text)
        });
        assert!(answers[0].1.as_ref().unwrap_err().to_string().contains("left network namespace"));
    }

    #[test]
    fn a_file_of_another_inode_is_not_entered() {
        let root = fixture();
        let path = root.path().join("name");
        fs::write(&path, "").unwrap();
        let target = Target { netns: 1, path: Some(path), pid: None };
        let answers = visit(root.path(), &[target], Duration::ZERO, read_dev);
        assert!(answers[0].1.as_ref().unwrap_err().to_string().contains("now, not 1"));
    }

    #[test]
    fn the_budget_stops_after_the_first() {
        let root = fixture();
        let target = Target { netns: 42, path: None, pid: Some(7) };
        let targets = vec![target; 3];
        assert_eq!(visit(root.path(), &targets, Duration::ZERO, read_dev).len(), 1);
        assert_eq!(visit(root.path(), &targets, Duration::from_secs(60), read_dev).len(), 3);
    }

    #[test]
    fn our_own_namespace_can_be_read() {
        let root = Path::new("/");
        let target = Target {
            netns: netns_of(root, "self").unwrap(),
            path: None,
            pid: Some(std::process::id()),
        };
        // With rights it is entered, without them read through the process: both must do.
        let answers = visit(root, &[target], Duration::ZERO, read_dev);
        assert!(answers[0].1.as_ref().unwrap().contains("lo:"));
    }
}
