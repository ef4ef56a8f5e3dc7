//! A stream of events and what comes out of it.

use super::*;

/// The stream of a run, and what came out of it.
pub struct Run {
    pub pipeline: Pipeline,
    pub out: Vec<Output>,
    queued: Vec<Event>,
    ticked: u64,
    played: Played,
}

/// What was played. At its end the same stream, redacted, must give the same findings.
#[derive(Default)]
struct Played(Vec<Event>);

impl std::ops::Drop for Played {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            crate::redact::tests::check(&self.0);
        }
    }
}

impl Run {
    /// A node with all hooks watched, nothing lost, and the pods in place.
    pub fn new() -> Self {
        Self::with(node(), hooks(|_| HookState::Watched { rung: Rung::Kprobe }))
    }

    pub fn with(node: Node, hooks: Vec<Hook>) -> Self {
        let pipeline = Pipeline::new(Options::default());
        let mut run = Self {
            pipeline,
            out: Vec::new(),
            queued: Vec::new(),
            ticked: 0,
            played: Played::default(),
        };
        run.at(0, Body::Clock(Clock { wall: NOON }));
        run.at(0, Body::Node(Box::new(node)));
        run.at(0, Body::Hooks(hooks));
        for (netns, name, address) in [
            (HOST, "host", "10.0.3.17"),
            (CLIENT, "client", "10.244.1.2"),
            (DNS_A, "dns-a", "10.244.2.2"),
            (DNS_B, "dns-b", "10.244.3.2"),
            (WEB, "web", "10.244.4.2"),
        ] {
            run.at(0, up(netns, name, address));
        }
        for (address, name) in [
            (0x100, "nf_hook_slow+0x7b"),
            (0x200, "nft_do_chain+0x1f [nf_tables]"),
            (0x300, "__udp4_lib_rcv+0x12"),
            (0x400, "tcp_v4_rcv+0x9a"),
            (0x500, "neigh_invalidate+0x33"),
        ] {
            run.at(0, Body::Symbol(Symbol { address, name: name.to_owned() }));
        }
        run.at(0, Body::Totals(Box::new(totals())));
        run
    }

    /// Queues an event `ms` milliseconds after the start.
    pub fn at(&mut self, ms: u64, body: Body) -> &mut Self {
        let ts = START + ms * MS;
        self.queued.push(Event { ts, body });
        self
    }

    /// Plays what is queued, with a tick every 100 ms, up to `ms` after the start.
    pub fn until(&mut self, ms: u64) -> &mut Self {
        let mut events = std::mem::take(&mut self.queued);
        events.sort_by_key(|e| e.ts);
        let mut events = events.into_iter().peekable();
        while self.ticked <= ms {
            let tick = START + self.ticked * MS;
            while let Some(event) = events.next_if(|e| e.ts <= tick) {
                self.push(event);
            }
            self.push(Event { ts: tick, body: Body::Tick });
            self.ticked += 100;
        }
        self.queued = events.collect();
        self
    }

    fn push(&mut self, event: Event) {
        self.played.0.push(event.clone());
        self.out.extend(self.pipeline.push(event));
    }

    /// All events so far, ticks too.
    pub fn played(&self) -> &[Event] {
        &self.played.0
    }

    /// What is queued, in order of time, for a test that plays it itself.
    pub fn queued(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.queued);
        events.sort_by_key(|e| e.ts);
        events
    }

    /// The pipeline alone.
    pub fn take(&mut self) -> Pipeline {
        std::mem::replace(&mut self.pipeline, Pipeline::new(Options::default()))
    }

    pub fn findings(&self) -> Vec<&Finding> {
        let found = self.out.iter().filter_map(|o| match o {
            Output::Finding(f) => Some(&**f),
            Output::Update(..) => None,
        });
        found.collect()
    }

    /// The only output there is.
    pub fn only(&self) -> &Finding {
        match self.out.as_slice() {
            [Output::Finding(f)] => f,
            other => panic!("{} outputs: {other:#?}", other.len()),
        }
    }

    pub fn causes(&self) -> Vec<Cause> {
        self.findings().iter().map(|f| f.cause).collect()
    }

    /// Boot time of an output in milliseconds after the start cannot be told; this is when the
    /// first finding came, by playing tick by tick.
    pub fn first_finding_at(&mut self, limit: u64) -> Option<u64> {
        while self.ticked <= limit {
            let tick = self.ticked;
            self.until(tick);
            if !self.out.is_empty() {
                return Some(tick);
            }
        }
        None
    }
}

/// A node where nothing is loaded into the kernel, with the pods in place.
pub fn without_ebpf() -> Run {
    let why = "--rungs snapshot";
    let mut hooks = hooks(|_| HookState::CannotSee { why: "no eBPF".to_owned() });
    hooks.push(Hook {
        name: "/proc/net/netstat".to_owned(),
        family: "snapshot".to_owned(),
        causes: vec!["accept-queue-overflow".to_owned()],
        state: HookState::Watched { rung: Rung::Snapshot },
    });
    Run::with(Node { no_ebpf: why.to_owned(), ..node() }, hooks)
}
