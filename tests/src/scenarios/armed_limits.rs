//! What an armed set of hooks may cost at most, and for how long: it is let go, told, and does not
//! come again at once.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    armed::{all, attached, number, steps, text},
    ipvs_stale::Stage,
};
use crate::{
    background::Background,
    cli::say,
    command::run,
    ipvs,
    kube_proxy::ipvs::set,
    lab::Lab,
    netns::Pod,
    race, time,
    wait::{SOON, until},
};

/// Two old connections of a server that is not listed any more.
const PORTS: [u16; 2] = [40000, 40001];
/// Nanoseconds that a CPU may spend on one arming, and how long it has them no more.
const BUDGET: u64 = 100_000_000;
const REST: Duration = Duration::from_secs(10);
/// A set of IPVS's is attached for so long when nothing is seen; then it rests as long.
const IN_VAIN: Duration = Duration::from_secs(6);
/// One set rests, and what waits behind it is too old in the end.
const REFUSED: Duration = Duration::from_secs(40);
/// The most packets of others.
const FLOOD: u32 = 2_000_000;

/// So many other packets come to IPVS that a CPU uses up its time for the set, before the client's
/// next SYN comes.
pub fn over_budget(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let stage = Stage::with_ports(lab, false, 0, &PORTS)?;
    // Another port of the same address: what the programs look at longest without a match.
    let busy = SocketAddr::new(stage.service.ip(), 9);
    let entry = format!("{},udp:{}", busy.ip(), busy.port());
    run("ipset", &["add", &set(false, "CLUSTER-IP"), &entry])?;
    one_syn_each(&stage.client, stage.service)?;
    let probe = lab.probe(&["--events"])?;
    let before = attached()?;
    ipvs::remove(stage.service, stage.old_end)?;

    let mut crowd = crowd(&stage.client, busy)?;
    let first = stage.connect_from(PORTS[0])?;
    until("the set is let go", SOON, || {
        let is_gone = !steps(&probe, "let-go").is_empty();
        // Those who send have nothing more to do then.
        if !is_gone {
            crowd.check()?;
        }
        Ok(is_gone.then_some(()))
    })?;
    crowd.stop()?;
    let let_go = only(steps(&probe, "let-go"))?;
    ensure!(let_go["outcome"] == "over-budget", "odd outcome: {let_go}");
    let (runs, spent) = (number(&let_go, "runs")?, number(&let_go, "spent")?);
    let lasted = number(&let_go, "lasted")?;
    // The programs stop by themselves, not only when the loader looks: how near to the budget that
    // is, a busy machine decides too. One CPU had all the packets.
    say(&format!("over budget: {runs} runs, {spent} ns, after {lasted} ns"))?;
    ensure!(spent >= BUDGET, "only {spent} ns were spent: {let_go}");
    ensure!(number(&let_go, "matched")? == 0, "the SYN came again: {let_go}");
    until("nothing armed is loaded", SOON, || Ok((attached()? == before).then_some(())))?;

    // Nothing saw what IPVS did with the SYN, but its table tells.
    probe.cause("ipvs-stale-connection", "client", SOON)?.is("/confidence", "likely")?;
    // The next one waits until the CPU has earned its time again.
    let second = stage.connect_from(PORTS[1])?;
    until("the set is armed again", SOON, || Ok((steps(&probe, "armed").len() > 1).then_some(())))?;
    drop((first, second));
    let armed = steps(&probe, "armed");
    let gap = gap(&armed)?;
    ensure!(gap >= REST, "armed again after {gap:?}: {armed:?}");
    probe.stop()?;
    probe.only(&["ipvs-stale-connection"])
}

/// Nothing of the flow ever comes again: the set is let go when its time is over. It then rests, and
/// another client's request gets too old to be worth it.
pub fn in_vain(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let stage = Stage::with_ports(lab, false, 0, &PORTS)?;
    let probe = lab.probe(&["--events"])?;
    let before = attached()?;
    ipvs::remove(stage.service, stage.old_end)?;

    // Both give up before their SYN would be sent again.
    for port in PORTS {
        drop(stage.connect_from(port)?);
    }
    until(
        "one is refused",
        REFUSED,
        || Ok((!steps(&probe, "not-armed").is_empty()).then_some(())),
    )?;

    let told = all(&probe);
    let order: Vec<String> = told.iter().filter_map(|e| text(e, "event")).collect();
    ensure!(order == ["armed", "let-go", "not-armed"], "odd order: {order:?}");
    let flows: Vec<&Value> = told.iter().map(|e| &e["sport"]).collect();
    ensure!(flows[0] == flows[1] && flows[1] != flows[2], "not of two clients: {flows:?}");
    let let_go = &told[1];
    ensure!(let_go["outcome"] == "nothing-seen", "odd outcome: {let_go}");
    ensure!(number(let_go, "matched")? == 0, "the SYN came again: {let_go}");
    let lasted = gap(&told[..2])?;
    say(&format!("in vain: attached for {lasted:?}"))?;
    ensure!(lasted >= IN_VAIN, "it was attached for {lasted:?} only: {told:?}");
    ensure!(told[2]["why"].as_str().is_some_and(|why| !why.is_empty()), "no reason: {}", told[2]);
    until("nothing armed is loaded", SOON, || Ok((attached()? == before).then_some(())))?;

    let summary = probe.stop()?;
    ensure!(summary["seen"]["armed"] == 1, "the summary does not count it: {summary}");
    // Neither waited long enough for a stall.
    probe.only(&[])
}

/// Lets one SYN of each port out of the pod, and none that is sent again: no drop of netfilter's.
fn one_syn_each(client: &Pod, to: SocketAddr) -> Result<()> {
    client.run("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?;
    for port in PORTS {
        // A SYN has 74 bytes with its Ethernet header; a byte a second is none for a minute.
        let filter = format!(
            "filter add dev eth0 egress protocol ip u32 match ip dst {}/32 match ip sport {port} \
             0xffff action police rate 8bit burst 80 conform-exceed drop/ok",
            to.ip()
        );
        client.run("tc", &filter.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Others in the client's pod, who send datagrams as fast as one CPU can.
fn crowd(pod: &Pod, to: SocketAddr) -> Result<Background> {
    let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    Background::start("sending other packets", move |wanted| {
        race::pin(0)?;
        for _ in 0..FLOOD {
            if !wanted.still() {
                return Ok(());
            }
            socket.send_to(b"x", to).with_context(|| format!("cannot send to {to}"))?;
        }
        bail!("{FLOOD} packets did not use up the time")
    })
}

fn only(mut events: Vec<Value>) -> Result<Value> {
    ensure!(events.len() == 1, "one was expected: {events:?}");
    events.pop().context("none")
}

/// The time between two events, by their own time.
fn gap(events: &[Value]) -> Result<Duration> {
    let [first, second, ..] = events else { bail!("two events were expected: {events:?}") };
    time::between(first, second)
}
