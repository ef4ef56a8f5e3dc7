//! Programs that run inside pods while a case lasts: DNS servers, listeners, dnsmasq.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    netns::Pod,
    wait::{SOON, until},
};

/// What a helper prints when it serves.
pub const READY: &str = "ready";

/// A running program, ended when dropped.
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts this very binary inside a pod with a helper's sub-command, and waits until it says
    /// that it serves.
    pub fn helper(pod: &Pod, args: &[&str]) -> Result<Self> {
        let mut command = pod.command("/proc/self/exe")?;
        command.args(args);
        Self::until_ready(command, format!("lab {} in {}", args.join(" "), pod.name))
    }

    /// The same on the node itself.
    pub fn on_node(args: &[&str]) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(args);
        Self::until_ready(command, format!("lab {}", args.join(" ")))
    }

    /// A process that does nothing, with these variables, and that has the pod's resolv.conf where a
    /// container has it.
    pub fn container(pod: &Pod, variables: Vec<(String, String)>) -> Result<Self> {
        let lab = std::env::current_exe().context("cannot tell where the lab's binary is")?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pod.name]).arg(lab);
        command.args(["idle", "--name", "app"]).envs(variables);
        Self::until_ready(command, format!("a container in {}", pod.name))
    }

    fn until_ready(mut command: Command, what: String) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Self::start(command, what)?;
        let stdout = process.child.stdout.take().context("no standard output")?;
        let (send, ready) = mpsc::channel();
        thread::Builder::new()
            .spawn(move || {
                let first = BufReader::new(stdout).lines().next();
                let _ = send.send(first.and_then(Result::ok));
            })
            .context("cannot start a thread")?;
        match ready.recv_timeout(SOON) {
            Ok(Some(line)) if line == READY => Ok(process),
            other => bail!("{} did not start: {other:?}", process.what),
        }
    }

    /// Starts a program of the node inside a pod and waits until `up` holds.
    pub fn daemon(
        pod: &Pod,
        program: &str,
        args: &[&str],
        up: impl Fn() -> Result<bool>,
    ) -> Result<Self> {
        let mut command = pod.command(program)?;
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Self::start(command, format!("{program} in {}", pod.name))?;
        let what = format!("{} serves", process.what);
        until(&what, SOON, || {
            if let Some(status) = process.child.try_wait().context("cannot wait")? {
                bail!("{} ended with {status}", process.what);
            }
            Ok(up()?.then_some(()))
        })?;
        Ok(process)
    }

    fn start(mut command: Command, what: String) -> Result<Self> {
        // SAFETY: prctl is a plain system call, allowed between fork and exec. The helper must not
        // outlive a case that was killed.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives the calling process the name that `ps` and stallprobe show, at most 15 bytes.
pub fn set_name(name: &str) -> Result<()> {
    let name = std::ffi::CString::new(name).context("a process name has no NUL byte")?;
    // SAFETY: PR_SET_NAME reads a NUL-terminated string.
    match unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("cannot set the process name"),
    }
}

/// Moves the calling process into a network namespace and a UTS namespace of its own, called so.
pub fn apart(name: &str) -> Result<()> {
    // SAFETY: unshare takes no pointers.
    match unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWUTS) } {
        0 => hostname(name),
        _ => Err(std::io::Error::last_os_error()).context("cannot make namespaces"),
    }
}

/// Names the node, or what the calling process has for one.
pub fn hostname(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length are those of one string.
    match unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot set the host name {name}")),
    }
}

/// Whether a UDP socket is bound to a port inside a pod.
pub fn udp_bound(pod: &Pod, port: u16) -> Result<bool> {
    Ok(sockets(pod, "udp")?.iter().any(|s| s.port == port))
}

/// Whether somebody listens on a TCP port inside a pod, over both IPv4 and IPv6.
pub fn listens(pod: &Pod, port: u16) -> Result<bool> {
    const LISTEN: u8 = 10;
    let on = |table: &str| -> Result<bool> {
        Ok(sockets(pod, table)?.iter().any(|s| s.port == port && s.state == LISTEN))
    };
    Ok(on("tcp")? && on("tcp6")?)
}

/// How many connections to a listener's port are half open inside a pod.
pub fn half_open(pod: &Pod, port: u16) -> Result<usize> {
    const SYN_RECV: u8 = 3;
    let sockets = sockets(pod, "tcp")?;
    Ok(sockets.iter().filter(|s| s.port == port && s.state == SYN_RECV).count())
}

struct Socket {
    port: u16,
    state: u8,
}

/// The sockets of `/proc/net/tcp` or `/proc/net/udp` in a pod: number, local address and port,
/// remote ones, state, all in hexadecimal.
fn sockets(pod: &Pod, table: &str) -> Result<Vec<Socket>> {
    let text = pod.inside(|| {
        let path = format!("/proc/thread-self/net/{table}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    })?;
    let read = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let port = u16::from_str_radix(words.next()?.split_once(':')?.1, 16).ok()?;
        let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
        Some(Socket { port, state })
    };
    Ok(text.lines().filter_map(read).collect())
}
