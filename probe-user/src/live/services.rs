//! Which addresses are services, asked of the pods' processes when a rule rejects a packet.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use log::debug;
use probe_common::{
    event::{PORT_UNREACH_V4, PORT_UNREACH_V6, Reject},
    net::FAMILY_V6,
};

use super::Live;
use crate::{
    event::{Body, Event},
    finding::Flow,
    pods::{
        procfs::{netns_of, pids},
        service_links,
    },
};

/// How long one search may take (some 30 µs a process), also on a machine that has no processor to spare.
const BUDGET: Duration = Duration::from_millis(150);
/// The least and the longest time between two searches: it doubles while they bring nothing new.
const PATIENCE: u64 = 1_000_000_000;
const LONGEST_PATIENCE: u64 = 64_000_000_000;
/// The least time after a search that had no time for all processes: the client's next SYN, a second
/// later, gets the rest.
const TO_GO_ON: u64 = 500_000_000;
/// Services remembered.
const MOST: usize = 8192;

/// Services told so far, and when to search again.
#[derive(Debug, Default)]
pub struct Services {
    known: HashSet<(u8, SocketAddr)>,
    searched: u64,
    patience: u64,
    /// The process at which the last search ran out of time.
    next: u32,
}

impl Live {
    /// A packet was rejected in the way kube-proxy does it: tells of services not told of yet.
    pub(super) fn name_service(&mut self, reject: &Reject, now: u64, events: &mut Vec<Event>) {
        let flow = Flow::of(&reject.tuple);
        let is_v6 = reject.tuple.family == FAMILY_V6;
        let code = if is_v6 { PORT_UNREACH_V6 } else { PORT_UNREACH_V4 };
        let services = &mut self.services;
        let waited = now.saturating_sub(services.searched);
        if reject.code != code
            || services.known.contains(&(flow.proto, flow.dst))
            || services.known.len() >= MOST
            || (services.searched != 0 && waited < services.patience)
        {
            return;
        }
        services.searched = now;
        let (found, is_whole) = self.search_services(flow.src.ip());
        let before = events.len();
        for service in found {
            if self.services.known.len() < MOST
                && self.services.known.insert((service.proto, service.address))
            {
                events.push(Event { ts: reject.header.ts, body: Body::Service(service) });
            }
        }
        let longer = self.services.patience.max(PATIENCE) * 2;
        self.services.patience = match (events.len() > before, is_whole) {
            (true, _) => PATIENCE,
            (false, false) => TO_GO_ON,
            (false, true) => longer.min(LONGEST_PATIENCE),
        };
    }

    /// Asks the processes of the client's pod first: it knows the services of its own namespace. Whether
    /// there was time for all.
    fn search_services(&mut self, client: IpAddr) -> (Vec<crate::event::Service>, bool) {
        let deadline = Instant::now() + BUDGET;
        let all = match pids(&self.root) {
            Ok(all) => all,
            Err(err) => {
                debug!("{err:#}");
                return (Vec::new(), true);
            }
        };
        let netns = self.asked.netns_with(client);
        let of_client: BTreeSet<u32> = all
            .iter()
            .copied()
            .take_while(|_| netns.is_some() && Instant::now() < deadline)
            .filter(|pid| netns_of(&self.root, &pid.to_string()) == netns)
            .collect();
        let next = self.services.next;
        let (before, after): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|pid| *pid < next);
        let others = after.into_iter().chain(before).filter(|pid| !of_client.contains(pid));
        let mut found = Vec::new();
        for pid in of_client.iter().copied() {
            found.extend(service_links::read(&self.root, pid));
            if Instant::now() >= deadline {
                return (found, false);
            }
        }
        self.services.next = 0;
        for pid in others {
            if Instant::now() >= deadline {
                self.services.next = pid;
                break;
            }
            found.extend(service_links::read(&self.root, pid));
        }
        (found, self.services.next == 0)
    }
}
