//! What looks like a conntrack clash in one way or another and is none, or did no harm.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::dnat_clash::{World, fire_pair};
use crate::{
    counters,
    dns::{
        A, AAAA, client, lookup,
        server::{self, Behaviour},
    },
    lab::Lab,
    race::Race,
    services::{self, Choice},
    wait::SOON,
};

/// On 6.1 the set-up of a certain clash makes none: the second packet is translated anew after it
/// was routed, and dies for want of a neighbour.
pub fn nfqueue_neighbour(lab: &Lab) -> Result<()> {
    let world = World::certain(lab)?;
    let probe = lab.probe(&[])?;
    let clashes = counters::conntrack("clashres")?;

    // The neighbour's failure comes back by ICMP, and the resolver may give up on the name.
    let took = lookup::glibc(&world.client, "db.example.com")?.took;
    ensure!(world.pairs() > 0, "no pair was held");
    ensure!(took > Duration::from_secs(2), "the lookup took only {took:?}");
    ensure!(counters::conntrack("clashres")? == clashes, "there was a clash");

    probe.unknown("dns-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown", "server-slow"])
}

/// Clashes that the kernel resolves and whose answers come in time cost nothing.
pub fn answered(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let backends = [lab.pod("dns-a")?, lab.pod("dns-b")?];
    let at_once = Behaviour::default();
    let _servers = [
        server::start(&backends[0], "dns", at_once)?,
        server::start(&backends[1], "dns", at_once)?,
    ];
    let service = services::dns(&backends, Choice::Random)?;
    let probe = lab.probe(&[])?;
    let race = Race::new()?;

    let before = counters::conntrack("clashres")?;
    let mut round = 0;
    while counters::conntrack("clashres")? < before + 5 {
        ensure!(round < 3000, "fewer than 5 clashes in {round} rounds");
        let name = format!("r{round}.example.com");
        let socket = fire_pair(&race, &client, service, &name)?;
        let ids = [client::id_of(&name, A), client::id_of(&name, AAAA)];
        let got = client::wait_all(&socket, &ids, SOON)?;
        ensure!(ids.iter().all(|id| got.contains(id)), "round {round} lost an answer");
        round += 1;
    }
    probe.stop()?;
    probe.only(&[])
}
