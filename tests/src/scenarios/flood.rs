//! 100,000 refused SYNs beside another tool's busy kprobe, under which the kernel misses the probes
//! of others: totals are the kernel's all the same, memory is bounded, one finding.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::accept_queue::{LISTENER, PORT};
use crate::{
    background::Background,
    bpf::BusyKprobe,
    counters,
    lab::Lab,
    probe::Probe,
    race,
    raw::SynSender,
    tcp::{self, Attempt, State},
    wait::SOON,
};

const REFUSED: u64 = 100_000;
const MEMORY_KIB: u64 = 100 * 1024;
/// The CPU that receives the SYNs and that the other tool keeps busy.
const BUSY_CPU: usize = 1;

pub fn run_case(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _listener = tcp::listen(&server, LISTENER, ([0u8; 4], PORT).into(), 1, false)?;
    // Packets of the client's link are received on the busy CPU, inside the other program.
    let rps = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", client.host_link());
    fs::write(&rps, format!("{:x}", 1 << BUSY_CPU))
        .with_context(|| format!("cannot write {rps}"))?;
    // The replay of the recording must show each event that came, and count what was left out.
    let probe = lab.probe(&["--events"])?;

    let to = SocketAddr::new(server.v4.into(), PORT);
    let mut fitting = Vec::new();
    for _ in 0..2 {
        let attempt = Attempt::start(&client, to)?;
        ensure!(attempt.wait(SOON)? == State::Connected, "the queue had room, yet no connection");
        fitting.push(attempt);
    }
    let mut other_tool = OtherTool::start()?;
    let victim = Attempt::start(&client, to)?;
    let sender = client.inside(|| SynSender::new(client.v4, server.v4, PORT))?;
    race::pin(0)?;
    let mut sent = 0;
    while counters::net(&server, "ListenOverflows")? < REFUSED {
        // The receiving CPU may drop some when its backlog is full; those are not refused SYNs.
        other_tool.thread.check()?;
        ensure!(u64::from(sent) < REFUSED * 6, "{sent} SYNs sent, too few refused");
        for _ in 0..250 {
            sender.send(sent)?;
            sent += 1;
        }
    }
    other_tool.thread.stop()?;
    ensure!(victim.wait(Duration::ZERO)? == State::Pending, "a connect got through");
    drop(victim);

    probe.cause("accept-queue-overflow", "client", Duration::from_secs(60))?;
    let peak = probe.pid().map(peak_kib).transpose()?;
    probe.stop()?;
    // Nothing is refused any more: the pending connect is closed.
    let overflows = counters::net(&server, "ListenOverflows")?;
    if lab.faults_only() {
        return Ok(());
    }
    ensure!(peak.is_some_and(|kib| kib < MEMORY_KIB), "stallprobe grew to {peak:?} KiB");
    check(&probe, overflows)
}

/// The last word on the one finding: its last update, or itself.
fn check(probe: &Probe, overflows: u64) -> Result<()> {
    let findings = probe.lines("finding");
    ensure!(findings.len() == 1, "{} findings, expected one", findings.len());
    probe.only(&["accept-queue-overflow"])?;
    let last = probe.last_word("accept-queue-overflow")?;
    last.is("/details/kernel_listen_overflows", overflows)?;
    let (refused, missed) = (last.number("/details/refused")?, last.number("/details/missed")?);
    ensure!(
        refused + missed == overflows,
        "refused {refused} and missed {missed} do not add up to the kernel's {overflows}"
    );
    last.at_least("/details/details_left_out", 1)?;
    Ok(())
}

/// Largest resident size so far.
fn peak_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).with_context(|| format!("no VmHWM in {path}"))
}

/// A program on a kprobe, and a thread that runs into it all the time.
struct OtherTool {
    thread: Background,
    _kprobe: BusyKprobe,
}

impl OtherTool {
    fn start() -> Result<Self> {
        let kprobe = BusyKprobe::attach("__x64_sys_getppid", 20_000)?;
        let thread = Background::start("keeping a CPU busy", |wanted| {
            race::pin(BUSY_CPU)?;
            while wanted.still() {
                // SAFETY: a plain system call.
                unsafe { libc::getppid() };
            }
            Ok(())
        })?;
        Ok(Self { thread, _kprobe: kprobe })
    }
}
