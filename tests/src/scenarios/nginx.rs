//! Debian's nginx with its own backlog, whose workers stand still.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use super::accept_queue::{PORT, queued};
use crate::{
    case::Skip,
    counters,
    lab::Lab,
    netns::Pod,
    process::{Process, listens},
    tcp::{Attempt, State, sent_again},
    wait::{SOON, until},
};

const PROGRAM: &str = "/usr/sbin/nginx";
const CONFIG: &str = "/tmp/lab-nginx.conf";

/// Without `backlog=` nginx asks for 511 on Linux (ngx_connection.h), less than somaxconn.
pub fn default_backlog(lab: &Lab) -> Result<()> {
    overflow(lab, "", 511)
}

/// With `backlog=`, and behind IPv6.
pub fn own_backlog_v6(lab: &Lab) -> Result<()> {
    overflow(lab, " backlog=64", 64)
}

fn overflow(lab: &Lab, option: &str, backlog: usize) -> Result<()> {
    if !Path::new(PROGRAM).exists() {
        return Err(Skip(format!("{PROGRAM} is not in the guest: `cargo xtask setup`")).into());
    }
    let v6 = !option.is_empty();
    let (client, server) = (lab.pod("client")?, lab.pod("web")?);
    let somaxconn = server.run("cat", &["/proc/sys/net/core/somaxconn"])?;
    ensure!(somaxconn.trim() == "4096", "somaxconn is {somaxconn}");
    let nginx = start(&server, option)?;
    let to = SocketAddr::new(server.address(v6), PORT);
    let probe = lab.probe(&[])?;

    stop_workers(&nginx)?;
    // One more than the backlog fits: the kernel compares with `>`.
    let _queued = client.inside(|| {
        let attempts: Vec<Attempt> =
            (0..=backlog).map(|_| Attempt::bind(v6, 0)).collect::<Result<_>>()?;
        for (i, attempt) in attempts.iter().enumerate() {
            attempt.fire(to)?;
            let state = attempt.wait(SOON)?;
            ensure!(state == State::Connected, "the queue had room, yet connect {i} was {state:?}");
        }
        Ok(attempts)
    })?;
    let before = counters::net(&server, "ListenOverflows")?;
    let refused = Attempt::start(&client, to)?;
    until("nginx's listener refuses a SYN twice", SOON, || {
        Ok((counters::net(&server, "ListenOverflows")? >= before + 2).then_some(()))
    })?;
    ensure!(refused.wait(Duration::ZERO)? == State::Pending, "the connect got through");

    probe
        .cause("accept-queue-overflow", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "web")?
        .is("/culprit/process", "nginx")?
        .is("/details/process", "nginx")?
        .is("/details/stage", "syn")?
        .is("/details/port", PORT)?
        .is("/details/ack_backlog", backlog + 1)?
        .is("/details/max_ack_backlog", backlog)?
        .is("/details/capped_by", "listen")?
        .is("/details/somaxconn", 4096)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}

/// Look-alike: nginx stands still, but its queue has room: the connects are served by nobody, yet
/// none is refused. A rule drops one more.
pub fn queue_has_room(lab: &Lab) -> Result<()> {
    if !Path::new(PROGRAM).exists() {
        return Err(Skip(format!("{PROGRAM} is not in the guest: `cargo xtask setup`")).into());
    }
    let (client, server) = (lab.pod("client")?, lab.pod("web")?);
    let stopped = lab.pod("stopped")?;
    let nginx = start(&server, "")?;
    let from = stopped.v4.to_string();
    server.run("iptables", &["-A", "INPUT", "-s", &from, "-j", "DROP"])?;
    let to = SocketAddr::new(server.v4.into(), PORT);
    let probe = lab.probe(&[])?;

    stop_workers(&nginx)?;
    let _queued = queued(&client, to, 100)?;
    let _attempt = Attempt::start(&stopped, to)?;
    sent_again(&stopped)?;
    ensure!(counters::net(&server, "ListenDrops")? == 0, "nginx's listener refused something");

    probe.unknown("connect-stall", "stopped")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

fn start(pod: &Pod, option: &str) -> Result<Process> {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path /tmp/lab-nginx-{what};\n"))
        .concat();
    let config = format!(
        "daemon off; user root root; worker_processes 2; pid /tmp/lab-nginx.pid;\n\
         error_log stderr warn;\nevents {{}}\nhttp {{ access_log off;\n{temporary}\
         server {{ listen {PORT}{option}; listen [::]:{PORT}{option} ipv6only=on; return 204; }} }}\n"
    );
    fs::write(CONFIG, config).with_context(|| format!("cannot write {CONFIG}"))?;
    let args = ["-c", CONFIG, "-p", "/tmp", "-e", "stderr"];
    Process::daemon(pod, PROGRAM, &args, || listens(pod, PORT))
}

/// Stops the workers with SIGSTOP, as a worker that is stuck in a disk read stands still. They are
/// the master's children.
fn stop_workers(nginx: &Process) -> Result<()> {
    let pid = nginx.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let workers = until("nginx has its workers", SOON, || {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let workers: Vec<i32> =
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Ok((workers.len() == 2).then_some(workers))
    })?;
    for worker in workers {
        // SAFETY: a signal to a process of this case.
        unsafe { libc::kill(worker, libc::SIGSTOP) };
        let path = format!("/proc/{worker}/stat");
        until("an nginx worker stands still", SOON, || {
            let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            Ok(stat.contains(") T ").then_some(()))
        })?;
    }
    Ok(())
}
