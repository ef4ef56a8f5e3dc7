//! A helper module of conntrack is unloaded while new connections' packets are on their way: the
//! kernel takes their entries for outdated and drops the packets.
//!
//! `nf_conntrack_helper_unregister` ends in `nf_ct_iterate_destroy`: 5.10 marks every entry that is
//! not in the table yet as IPS_DYING (`__nf_ct_unconfirmed_destroy`); from 5.19 on all extensions of
//! such entries become invalid (`nf_ct_ext_bump_genid`). `__nf_conntrack_confirm` refuses both.

use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    background::Background,
    case::{self, Expect},
    command::{feed, run},
    counters,
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    process::Process,
    race, sysctl,
    tcp::{self, Attempt, State, sent_again},
    wait::SOON,
};

/// The kernels that forget entries on their way. The other two have the revert, which stable
/// kernels took up too: "netfilter: conntrack: revert ct extension genid infrastructure".
pub const FORGETS: &[&str] = &["5.10", "6.1", "6.18"];
/// Outdated extensions leave no mark on the entry.
pub const BUT: &[(&str, Expect)] = &[("6.1", Expect::Likely), ("6.18", Expect::Likely)];

const PORT: u16 = 8080;
const HELPER: &str = "nf_conntrack_ftp";
/// Chains that call the next one so often: a packet passes their product of rules.
const LEVELS: usize = 4;
const RULES: usize = 14;
/// The helper is unloaded again and again for so long at the most.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn new_connection(lab: &Lab) -> Result<()> {
    let world = World::new(lab)?;
    let probe = lab.probe(&[])?;

    let mut unloader = unloader()?;
    let _stalled = world.stalled(&mut unloader)?;
    unloader.stop()?;

    let is_marked = case::is_of(&["5.10"], &case::kernel_release()?);
    probe
        .cause("conntrack-insert-failed", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", if is_marked { "certain" } else { "likely" })?
        .is("/culprit/pod", "host")?
        .is("/details/exit", if is_marked { "dying" } else { "other" })?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["conntrack-insert-failed"])
}

/// A look-alike: the helper is unloaded all the time, and a rule drops the SYN at the end of its
/// long way. That is in FORWARD, before the entry could be refused: this shows only that a helper that
/// is unloaded is not blamed by itself, not that two drops at the same place are told apart.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    let world = World::new(lab)?;
    let from = world.client.v4.to_string();
    run("iptables-legacy", &["-A", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    let before = counters::conntrack("insert_failed")?;
    let mut unloader = unloader()?;
    let _attempt = Attempt::start(&world.client, world.service)?;
    sent_again(&world.client)?;
    unloader.check()?;
    unloader.stop()?;
    ensure!(counters::conntrack("insert_failed")? == before, "an entry was refused");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A service whose packets have a long way through the node's rules.
struct World {
    client: Pod,
    service: SocketAddr,
    _server: Process,
    _kube_proxy: Process,
}

impl World {
    fn new(lab: &Lab) -> Result<Self> {
        let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
        let shop = Service::shop(false, vec![SocketAddr::new(server.v4.into(), PORT)]);
        let service = shop.address;
        let kube_proxy = kube_proxy::start(Mode::IptablesLegacy, &[shop])?;
        let server = tcp::listen(&server, "shop-api", ([0u8; 4], PORT).into(), 128, true)?;
        slow_way(&client)?;
        // So that each entry has an extension.
        sysctl::set("net.netfilter.nf_conntrack_acct", "1")?;
        race::pin(0)?;
        Ok(Self { client, service, _server: server, _kube_proxy: kube_proxy })
    }

    /// Connects until a SYN was dropped so, and gives that connect.
    fn stalled(&self, unloader: &mut Background) -> Result<Attempt> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            unloader.check()?;
            let before = counters::conntrack("insert_failed")?;
            let attempt = Attempt::start(&self.client, self.service)?;
            if attempt.wait(Duration::from_millis(500))? == State::Pending
                && counters::conntrack("insert_failed")? > before
            {
                return Ok(attempt);
            }
            attempt.abort()?;
        }
        bail!("no entry was outdated while its SYN was on its way")
    }
}

/// Rules that do not match, so many that a SYN is on its way for some milliseconds: long rule sets
/// are what makes the fault likely on a real node.
fn slow_way(client: &Pod) -> Result<()> {
    let mut rules = String::from("*filter\n");
    // Writing to a String cannot fail.
    for level in 0..LEVELS {
        let _ = writeln!(rules, ":LAB-{level} -");
    }
    for level in 0..LEVELS {
        let then = match level + 1 {
            LEVELS => "-s 203.0.113.1 -j DROP".to_owned(),
            next => format!("-j LAB-{next}"),
        };
        for _ in 0..RULES {
            let _ = writeln!(rules, "-A LAB-{level} {then}");
        }
    }
    let _ = writeln!(rules, "-A FORWARD -s {} -p tcp --syn -j LAB-0\nCOMMIT", client.v4);
    feed("iptables-legacy-restore", &["--noflush"], &rules)
}

/// Loads and unloads the helper, on the CPU that the client does not send on.
fn unloader() -> Result<Background> {
    Background::start("unloading the helper", |wanted| {
        race::pin(1)?;
        while wanted.still() {
            run("modprobe", &[HELPER])?;
            run("modprobe", &["-r", HELPER])?;
        }
        Ok(())
    })
}
