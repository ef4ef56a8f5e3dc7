//! From events to findings: a fold over one ordered stream. Its only clock is the time of the
//! events and ticks, so a replay of the stream gives the same findings.

pub mod arm;
pub mod dns;
pub mod flow;
pub mod fold;
pub mod losses;
pub mod pods;
pub mod polled;
pub mod rules;

mod arm_conntrack;
mod arm_departure;
mod describe;
mod evidence;
mod headline;
mod join;
mod judge;
mod probe;
mod probe_steps;
mod recent;
mod refusals;
mod stalls;
mod symptom;
mod tally;
mod told;
mod unknown;
mod watch;
mod watched;
mod world;

#[cfg(test)]
mod tests;

use self::{
    fold::{Counts, Findings},
    stalls::Stalls,
    world::World,
};
pub use self::{
    losses::sum,
    symptom::Join,
    told::Told,
    watch::given_up_after,
    watched::{Watched, watched},
    world::Watch,
};
use crate::{
    event::{Body, Event, Hook, Node, Pod, Sandbox, Totals, armed::Request},
    finding::{Cause, Output},
};

/// Settings of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nanoseconds from which a lookup or handshake counts as a stall, unless the stream's
    /// [`Node::min_stall`] says so.
    pub min_stall: u64,
    /// UDP ports that are DNS, unless the stream's [`Node::dns_ports`] says so.
    pub dns_ports: Vec<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { min_stall: 1_000_000_000, dns_ports: vec![53, 5353] }
    }
}

/// How often state that is too old is dropped.
const FORGET_EVERY: u64 = 1_000_000_000;

/// The fold.
#[derive(Debug)]
pub struct Correlator {
    opts: Options,
    world: World,
    stalls: Stalls,
    findings: Findings,
    closes: watch::Closes,
    wishes: arm::Wishes,
    told: Vec<Told>,
    forgot_at: u64,
}

impl Correlator {
    pub fn new(opts: Options) -> Self {
        Self {
            opts,
            world: World::default(),
            stalls: Stalls::default(),
            findings: Findings::default(),
            closes: watch::Closes::default(),
            wishes: arm::Wishes::default(),
            told: Vec::new(),
            forgot_at: 0,
        }
    }

    /// Takes the next event in order of time and returns what is to be said now.
    pub fn push(&mut self, event: &Event) -> Vec<Output> {
        self.told.clear();
        self.world.note(event);
        match &event.body {
            Body::Tick => return self.tick(event.ts),
            Body::Dns(e) => self.on_dns(event.ts, e),
            Body::Connect(e) => {
                self.on_connect(event.ts, e);
                self.arm_on_connect(event.ts, e);
            }
            Body::Probe(e) => self.on_probe(event.ts, e),
            Body::SynSent(e) => self.on_syn_sent(event.ts, e),
            Body::Listen(e) => self.on_listen(event.ts, e),
            Body::SynAck(e) => self.on_synack(event.ts, e),
            Body::Clash(e) => self.on_clash(event.ts, e),
            Body::Drop(e) => {
                self.on_drop(event.ts, e);
                self.arm_on_drop(event.ts, e);
            }
            _ => {}
        }
        Vec::new()
    }

    /// The stream is at its end: says what is known of stalls that are still open, and brings all
    /// findings up to date.
    pub fn finish(&mut self) -> Vec<Output> {
        self.told.clear();
        let now = self.world.now;
        let mut out = Vec::new();
        for id in self.stalls.ids() {
            out.extend(self.judge(id, now, true));
        }
        out.extend(self.findings.flush(now, &self.world, true));
        out
    }

    fn tick(&mut self, now: u64) -> Vec<Output> {
        let mut out = Vec::new();
        for id in self.stalls.ids() {
            out.extend(self.judge(id, now, false));
        }
        out.extend(self.findings.flush(now, &self.world, false));
        if now.saturating_sub(self.forgot_at) >= FORGET_EVERY {
            self.forgot_at = now;
            self.world.forget();
            self.stalls.forget(now);
            self.closes.forget(now);
        }
        out
    }

    fn min_stall(&self) -> u64 {
        match self.world.node.min_stall {
            0 => self.opts.min_stall,
            ns => ns,
        }
    }

    fn is_dns_port(&self, port: u16) -> bool {
        let told = &self.world.node.dns_ports;
        (if told.is_empty() { &self.opts.dns_ports } else { told }).contains(&port)
    }

    /// Armed hooks that would help, asked for since the last call.
    pub fn wishes(&mut self) -> Vec<Request> {
        self.wishes.take()
    }

    /// The stalls that the last event, or the end of the stream, made known.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    pub fn counts(&self) -> &Counts {
        &self.findings.counts
    }

    /// Stalls that are seen but not told yet.
    pub fn open(&self) -> usize {
        self.stalls.open()
    }

    /// Stalls, pods and evidence that there was no room for.
    pub fn left_out(&self) -> u64 {
        self.stalls.left_out + self.world.pods.left_out + self.world.evidence.evicted()
    }

    pub fn node(&self) -> &Node {
        &self.world.node
    }

    pub fn hooks(&self) -> &[Hook] {
        self.world.hooks.as_deref().unwrap_or_default()
    }

    /// Whether a cause can be seen here.
    pub fn watch(&self, cause: Cause) -> Watch {
        self.world.watch(cause)
    }

    pub fn totals(&self) -> &Totals {
        &self.world.losses.latest
    }

    /// Pods that exist now.
    pub fn pods(&self) -> usize {
        self.world.pods.alive()
    }

    /// Pods whose sockets are invisible, by name.
    pub fn sandboxed(&self) -> Vec<(String, Sandbox)> {
        self.world.pods.sandboxed()
    }

    /// Name of a namespace at a time, for the raw events.
    pub fn place(&self, netns: u32, cookie: u64, ts: u64) -> String {
        self.world.pods.name(netns, cookie, ts)
    }

    /// What is known of that namespace; `None` where no pod is known.
    pub fn pod(&self, netns: u32, cookie: u64, ts: u64) -> Option<&Pod> {
        self.world.pods.at(netns, cookie, ts)
    }

    /// Name of a kernel address, and of a drop's reason, for the raw events.
    pub fn symbol(&self, address: u64) -> String {
        self.world.symbol(address)
    }

    pub fn reason(&self, drop: &probe_common::event::Drop) -> Option<String> {
        self.world.reason(drop)
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.stalls.len() + self.world.evidence.len() + self.findings.len()
    }
}
