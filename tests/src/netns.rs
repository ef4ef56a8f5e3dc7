//! Pods: named network namespaces, each joined to the node by a veth pair, IPv4 and IPv6, routed.
//!
//! Pod number N has 10.244.N.2 and fd00:244:N::2; the node's end of its veth is `.1` and `::1` and
//! is the pod's default gateway. A pod "outside" stands for a host beyond the node: 192.168.N.2,
//! fd00:192:N::2. A pod on the bridge has 10.245.0.N and shares the node's end with the others.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::command::{feed, run};

/// The bridge that [`Pod::create_bridged`] hangs pods on, and its address.
pub const BRIDGE: &str = "cbr0";
const BRIDGE_V4: &str = "10.245.0.1/24";
const BRIDGE_V6: &str = "fd00:245::1/64";

/// One pod. Cheap to clone: it names the namespace, it does not hold it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pod {
    /// A pod of this node's pod network.
    pub fn create(name: &str, number: u8) -> Result<Self> {
        Self::routed(name, number, 10, 244)
    }

    /// A host beyond the node: traffic from pods to it is masqueraded where a case asks for it.
    pub fn create_outside(name: &str, number: u8) -> Result<Self> {
        Self::routed(name, number, 192, 168)
    }

    fn routed(name: &str, n: u8, a: u8, b: u8) -> Result<Self> {
        // fd00:244:N::2 inside, fd00:192:N::2 outside: readable, whatever the hex digits mean.
        let net6 = if a == 192 { 0x192 } else { 0x244 };
        let pod = Self {
            name: name.to_owned(),
            v4: Ipv4Addr::new(a, b, n, 2),
            v6: Ipv6Addr::new(0xfd00, net6, n.into(), 0, 0, 0, 0, 2),
        };
        let (gw4, gw6) =
            (Ipv4Addr::new(a, b, n, 1), Ipv6Addr::new(0xfd00, net6, n.into(), 0, 0, 0, 0, 1));
        let host = pod.host_link();
        run("ip", &["netns", "add", name])?;
        feed(
            "ip",
            &["-batch", "-"],
            &format!(
                "link add {host} type veth peer name eth0 netns {name}\n\
                 addr add {gw4}/24 dev {host}\naddr add {gw6}/64 dev {host} nodad\n\
                 link set {host} up\n"
            ),
        )?;
        pod.configure(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via {gw4}\nroute add default via {gw6}\n",
            pod.v4, pod.v6
        ))?;
        Ok(pod)
    }

    /// A pod on the node's bridge, which is made with the first of them.
    pub fn create_bridged(name: &str, n: u8) -> Result<Self> {
        let pod = Self {
            name: name.to_owned(),
            v4: Ipv4Addr::new(10, 245, 0, n),
            v6: Ipv6Addr::new(0xfd00, 0x245, 0, 0, 0, 0, 0, n.into()),
        };
        if !PathBuf::from(format!("/sys/class/net/{BRIDGE}")).exists() {
            feed(
                "ip",
                &["-batch", "-"],
                &format!(
                    "link add {BRIDGE} type bridge\naddr add {BRIDGE_V4} dev {BRIDGE}\n\
                     addr add {BRIDGE_V6} dev {BRIDGE} nodad\n\
                     link set {BRIDGE} up\n"
                ),
            )?;
        }
        let host = pod.host_link();
        run("ip", &["netns", "add", name])?;
        feed(
            "ip",
            &["-batch", "-"],
            &format!(
                "link add {host} type veth peer name eth0 netns {name}\n\
                 link set {host} master {BRIDGE}\nlink set {host} up\n"
            ),
        )?;
        pod.configure(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.245.0.1\nroute add default via fd00:245::1\n",
            pod.v4, pod.v6
        ))?;
        Ok(pod)
    }

    fn configure(&self, batch: &str) -> Result<()> {
        feed("ip", &["-n", &self.name, "-batch", "-"], &format!("link set lo up\n{batch}"))
    }

    /// The node's own address on the pod's link.
    pub fn gateway(&self) -> IpAddr {
        let [a, b, n, _] = self.v4.octets();
        Ipv4Addr::new(a, b, n, 1).into()
    }

    /// The node's end of the veth pair.
    pub fn host_link(&self) -> String {
        host_link(&self.name)
    }

    /// The pod's address of one family.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Opens the namespace, to enter it.
    pub fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("cannot open pod {}", path.display()))
    }

    /// Runs `f` inside the pod, on a thread of its own named after the pod. Sockets made there stay in the pod.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let ns = self.open()?;
        thread::scope(|scope| {
            thread::Builder::new()
                .spawn_scoped(scope, move || {
                    enter(&ns)?;
                    f()
                })
                .context("cannot start a thread")?
                .join()
                .map_err(|_| anyhow!("a thread in pod {} panicked", self.name))?
        })
    }

    /// A command that will run inside the pod.
    pub fn command(&self, program: &str) -> Result<Command> {
        let ns = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: setns is a plain system call, allowed between fork and exec.
        unsafe {
            command.pre_exec(move || match libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        Ok(command)
    }

    /// Runs a command inside the pod and waits for its success.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        crate::command::finish(self.command(program)?.args(args), program, args)
    }
}

/// The node's end of the veth pair of the pod with this name; a device's name has 15 bytes at most.
pub fn host_link(pod: &str) -> String {
    format!("v{}", pod.get(..14).unwrap_or(pod))
}

/// Moves the calling thread into a network namespace.
fn enter(ns: &File) -> Result<()> {
    // SAFETY: a valid descriptor of a network namespace, and only this thread is moved.
    match unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("cannot enter the pod's namespace"),
    }
}
