//! Two pods use one source port to one destination through MASQUERADE at the same moment: the
//! second packet to be confirmed is dropped (`insert_failed`).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    counters,
    dns::{
        A,
        client::{self, Outcome},
        message,
        server::{self, Behaviour},
    },
    finding::Finding,
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    probe::Probe,
    race::Race,
    services,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

/// Limits of the race; on a quiet machine it hits within a few rounds.
const ROUNDS: u16 = 3000;
const TIME: Duration = Duration::from_secs(75);

pub fn udp(lab: &Lab) -> Result<()> {
    udp_over(lab, false)
}

pub fn udp_v6(lab: &Lab) -> Result<()> {
    udp_over(lab, true)
}

/// A DNS query and its like from another pod; the loser's resolver asks again after 1.5 s.
fn udp_over(lab: &Lab, v6: bool) -> Result<()> {
    let clients = [lab.pod("client-a")?, lab.pod("client-b")?];
    let resolver = lab.outside("resolver")?;
    let _server = server::start(&resolver, "resolver", Behaviour::default())?;
    services::masquerade(None)?;
    let to = SocketAddr::new(resolver.address(v6), 53);
    let probe = lab.probe(&[])?;
    let race = Race::new()?;

    let Some(loser) = lose_query(&race, &clients, to)? else {
        bail!("no clash in {ROUNDS} rounds or {} s", TIME.as_secs());
    };
    check(&probe, &loser, to)?
        .is("/symptom", "dns-stall")?
        .is("/flow/proto", "udp")?
        .is("/flow/dport", 53)?;
    probe.stop()?;
    probe.only(&["conntrack-snat-clash"])
}

pub fn tcp(lab: &Lab) -> Result<()> {
    tcp_over(lab, false)
}

pub fn tcp_v6(lab: &Lab) -> Result<()> {
    tcp_over(lab, true)
}

/// The loser's SYN is sent again by the kernel after 1 s.
fn tcp_over(lab: &Lab, v6: bool) -> Result<()> {
    let clients = [lab.pod("client-a")?, lab.pod("client-b")?];
    let shop = lab.outside("shop")?;
    let to = SocketAddr::new(shop.address(v6), 443);
    let any = if v6 { ([0u16; 8], 443).into() } else { ([0u8; 4], 443).into() };
    let _server = tcp::listen(&shop, "shop-api", any, 128, true)?;
    services::masquerade(None)?;
    race_for(lab, &clients, to)
}

/// Through kube-proxy's own KUBE-MARK-MASQ and KUBE-POSTROUTING, as two clients that are not of its
/// `--cluster-cidr`. Without `--random-fully`: with it, two would have to draw one of 64512 ports at
/// the same moment.
pub fn kube_proxy(lab: &Lab) -> Result<()> {
    let clients = [lab.bridged("client-a")?, lab.bridged("client-b")?];
    let shop = lab.pod("shop")?;
    let backend = SocketAddr::new(shop.v4.into(), 8080);
    let _server = tcp::listen(&shop, "shop-api", backend, 128, true)?;
    let service = Service::shop(false, vec![backend]);
    let to = service.address;
    let _kube_proxy = kube_proxy::start(Mode::IptablesNotRandom, &[service])?;
    race_for(lab, &clients, to)
}

fn race_for(lab: &Lab, clients: &[Pod; 2], to: SocketAddr) -> Result<()> {
    let probe = lab.probe(&[])?;
    let race = Race::new()?;

    let Some(loser) = lose_syn(&race, clients, to)? else {
        bail!("no clash in {ROUNDS} rounds or {} s", TIME.as_secs());
    };
    check(&probe, &loser, to)?
        .is("/symptom", "connect-stall")?
        .is("/flow/proto", "tcp")?
        .is("/flow/dport", to.port())?;
    probe.stop()?;
    probe.only(&["conntrack-snat-clash"])
}

/// Who lost, and what a finding has to say of it.
pub struct Loser {
    pub pod: Pod,
    other: Pod,
    port: u16,
}

fn check(probe: &Probe, loser: &Loser, to: SocketAddr) -> Result<Finding> {
    let finding = probe.cause("conntrack-snat-clash", &loser.pod.name, SOON)?;
    finding
        .is("/confidence", "certain")?
        .is("/victim/address", loser.pod.address(to.is_ipv6()).to_string())?
        .is("/flow/src", loser.pod.address(to.is_ipv6()).to_string())?
        .is("/flow/sport", loser.port)?
        .is("/flow/dst", to.ip().to_string())?
        .filled("/details/snat_to")?
        .is("/culprit/pod", loser.other.name.as_str())?
        .is("/culprit/address", loser.other.address(to.is_ipv6()).to_string())?
        .is("/culprit/port", loser.port)?
        .check("/details/loser", "the loser's address", |v| mentions(v, &loser.pod, to))?
        .check("/details/winner", "the winner's address", |v| mentions(v, &loser.other, to))?
        .filled("/fix")?;
    Ok(finding)
}

fn mentions(value: &serde_json::Value, pod: &Pod, to: SocketAddr) -> bool {
    value.to_string().contains(&pod.address(to.is_ipv6()).to_string())
}

/// Races DNS queries until one is lost, and sends that one again as a resolver does.
pub fn lose_query(race: &Race, clients: &[Pod; 2], to: SocketAddr) -> Result<Option<Loser>> {
    let end = Instant::now() + TIME;
    for round in 0..ROUNDS {
        if Instant::now() > end {
            break;
        }
        let port = 20000 + round;
        let name = format!("r{round}.example.com");
        let id = client::id_of(&name, A);
        let failed = counters::conntrack("insert_failed")?;
        let open =
            |pod: &Pod| Ok::<_, anyhow::Error>(Arc::new(pod.inside(|| client::connect(to, port))?));
        let sockets = [open(&clients[0])?, open(&clients[1])?];
        let shot = |i: usize| {
            let (socket, query) = (Arc::clone(&sockets[i]), message::query(id, &name, A));
            move || socket.send(&query).map(drop).context("cannot send a query")
        };
        race.fire(shot(0), shot(1))?;
        // Each is answered at once, or one was dropped.
        let mut answered = [false; 2];
        until("both queries are answered or one is dropped", SOON, || {
            for (done, socket) in answered.iter_mut().zip(&sockets) {
                let wait = || client::wait(socket, id, Duration::from_millis(20));
                *done = *done || wait()? == Outcome::Answered;
            }
            let dropped = counters::conntrack("insert_failed")? > failed && answered != [false; 2];
            Ok((dropped || answered == [true; 2]).then_some(()))
        })?;
        let Some(lost) = answered.iter().position(|done| !done) else { continue };
        let outcome = client::wait(&sockets[lost], id, Duration::from_millis(1500))?;
        ensure!(outcome == Outcome::Silent, "an answer was late, not lost");
        client::send(&sockets[lost], id, &name, A)?;
        let outcome = client::wait(&sockets[lost], id, SOON)?;
        ensure!(outcome == Outcome::Answered, "the second try was {outcome:?}");
        return Ok(Some(Loser {
            pod: clients[lost].clone(),
            other: clients[1 - lost].clone(),
            port,
        }));
    }
    Ok(None)
}

fn lose_syn(race: &Race, clients: &[Pod; 2], to: SocketAddr) -> Result<Option<Loser>> {
    let end = Instant::now() + TIME;
    for round in 0..ROUNDS {
        if Instant::now() > end {
            break;
        }
        let port = 30000 + round;
        let failed = counters::conntrack("insert_failed")?;
        let open = |pod: &Pod| {
            Ok::<_, anyhow::Error>(Arc::new(pod.inside(|| Attempt::bind(to.is_ipv6(), port))?))
        };
        let attempts = [open(&clients[0])?, open(&clients[1])?];
        let shot = |i: usize| {
            let attempt = Arc::clone(&attempts[i]);
            move || attempt.fire(to)
        };
        race.fire(shot(0), shot(1))?;
        let mut connected = [false; 2];
        until("both are connected or one SYN is dropped", SOON, || {
            for (done, attempt) in connected.iter_mut().zip(&attempts) {
                *done = *done || attempt.wait(Duration::from_millis(20))? == State::Connected;
            }
            let dropped = counters::conntrack("insert_failed")? > failed && connected != [false; 2];
            Ok((dropped || connected == [true; 2]).then_some(()))
        })?;
        let lost = connected.iter().position(|done| !done);
        if let Some(lost) = lost {
            let state = attempts[lost].wait(SOON)?;
            ensure!(state == State::Connected, "the retransmitted SYN was {state:?}");
        }
        for attempt in attempts {
            attempt.abort()?;
        }
        let Some(lost) = lost else { continue };
        return Ok(Some(Loser {
            pod: clients[lost].clone(),
            other: clients[1 - lost].clone(),
            port,
        }));
    }
    Ok(None)
}
