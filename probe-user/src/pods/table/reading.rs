//! Which namespaces are entered when, and what is read there.

use std::{collections::BTreeSet, fs::File, net::IpAddr, os::fd::AsFd as _, time::Duration};

use log::debug;

use super::{
    super::{
        addresses,
        enter::{Target, cookie, file, visit},
        known::{Changes, Known},
        links,
    },
    PodTable,
};

/// Namespaces without news that a deep scan reads again, those read longest ago first.
const REREAD: usize = 32;

impl PodTable {
    /// What has to be read in this scan, never-read ones first.
    pub(super) fn due(&self, deep: bool) -> Vec<Target> {
        let mut due: Vec<&Known> = self.known.values().filter(|known| known.is_due()).collect();
        due.sort_by_key(|known| known.read_at);
        let mut targets: Vec<Target> = due.iter().map(|known| known.target.clone()).collect();
        if deep {
            let more = self.oldest(REREAD);
            targets.extend(more.into_iter().filter(|target| {
                self.known.get(&target.netns).is_some_and(|known| !known.is_due())
            }));
        }
        targets
    }

    /// Those read longest ago.
    pub(super) fn oldest(&self, most: usize) -> Vec<Target> {
        let mut all: Vec<&Known> = self.known.values().collect();
        all.sort_by_key(|known| known.read_at);
        all.into_iter().take(most).map(|known| known.target.clone()).collect()
    }

    /// Reads addresses and cookie; what changed is added to `changes`.
    pub(super) fn read(&mut self, targets: &[Target], budget: Duration, changes: &mut Changes) {
        let node = self.host.and_then(|host| self.target(host));
        let node = node.and_then(|node| file(&self.root, &node).ok());
        let has_veth = |known: &&Known| !known.wants_veth();
        let linked = self.known.values().filter(has_veth).map(|known| known.pod.netns);
        let linked: BTreeSet<u32> = linked.chain(self.host).collect();
        let answers = visit(&self.root, targets, budget, |inside| {
            let cookie = if inside.entered { cookie() } else { 0 };
            let is_asked = inside.entered && !linked.contains(&inside.netns);
            let veth = node.as_ref().filter(|_| is_asked).and_then(veth);
            Ok(Read { addresses: addresses::read(inside)?, cookie, veth })
        });
        for (netns, answer) in answers {
            let Some(known) = self.known.get_mut(&netns) else { continue };
            // Also after an error: it must not be first in the row for ever.
            known.read_at = self.scans;
            known.unread = answer.as_ref().err().map(|error| format!("{error:#}"));
            match answer {
                Ok(Read { mut addresses, cookie, veth }) => {
                    if addresses.is_empty() && Some(netns) != self.host {
                        addresses = known.given_addresses(&self.root);
                    }
                    known.update(addresses, cookie, changes);
                    if let Some(veth) = veth.filter(|veth| *veth != known.pod.veth) {
                        known.pod.veth = veth;
                        changes.up.insert(netns);
                    }
                }
                // It may just have gone; the next scan tells.
                Err(error) if known.target.path.as_ref().is_some_and(|path| !path.exists()) => {
                    debug!("addresses of {}: {error:#}", known.pod.name);
                }
                Err(error) => {
                    let error = error.context(format!(
                        "the addresses of network namespace {} stay unknown",
                        known.pod.name
                    ));
                    self.warn(&error);
                }
            }
        }
    }
}

/// What was read inside of a namespace.
struct Read {
    addresses: Vec<IpAddr>,
    /// 0 where it is not known.
    cookie: u64,
    veth: Option<Vec<u32>>,
}

/// The node's ends of the veth pairs of the calling thread's namespace.
fn veth(node: &File) -> Option<Vec<u32>> {
    let read = || {
        let links = links::links()?;
        anyhow::Ok(links::indices(&links, links::nsid(node.as_fd())?))
    };
    read().map_err(|error| debug!("the devices of a namespace: {error:#}")).ok()
}
