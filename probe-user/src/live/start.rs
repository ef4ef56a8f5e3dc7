//! From nothing to attached: what this kernel is, what it allows, what is loaded into it.

use std::path::PathBuf;

use anyhow::Result;
use log::{info, warn};
use probe_common::{config::Config, event::CAPTURE_BYTES};
use thiserror::Error;

use super::{
    Live, armed::Arming, asked::Asked, enrich::Known, ipvs::Ipvs, poll::Poller, services::Services,
};
use crate::{
    bpf::Probes,
    correlate::given_up_after,
    event::{Body, Event, HookState, Node, Rung},
    kernel::{
        btf::{Btf, load_vmlinux},
        facts::Facts,
        ipvs,
        lockdown::Lockdown,
        modules::{ModuleWatch, WATCHED},
        offsets, privileges,
        rights::{self, Rights},
        symbols::Symbols,
    },
    pods::PodTable,
    snapshot::Sources,
};

/// Nothing can be watched here; says which right or kernel feature is missing.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NoRung(pub String);

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the node's file system is.
    pub root: PathBuf,
    /// Somebody said where it is, and so that it is the node's.
    pub root_is_given: bool,
    /// Nanoseconds from which a lookup or handshake counts as a stall.
    pub min_stall: u64,
    /// The ways of attaching that may be used.
    pub rungs: Vec<Rung>,
    /// How many bytes of a packet are kept; 0: packets are not wanted, nothing is recorded.
    pub snaplen: u32,
}

/// Events of one kind that a pod may send at once, and per second.
const BURST: u32 = 256;
const RATE: u64 = 64;

/// Bytes of a packet that the programs have room for.
const MOST_KEPT: u32 = CAPTURE_BYTES as u32 - 1;

/// UDP ports that are DNS: the standard one, and those CoreDNS, OpenShift's DNS and Cilium listen
/// on behind DNAT.
pub const DNS_PORTS: [u16; 4] = [53, 5353, 1053, 10053];

/// Attaches everything that can be attached, or reads `/proc` where nothing can, and tells what the
/// stream begins with.
///
/// # Errors
/// [`NoRung`] when nothing can be attached and `/proc` cannot be read either; else what could not be read.
pub fn start(options: &Options) -> Result<(Live, Vec<Event>)> {
    let root = options.root.clone();
    let rights = Rights::load(&root)?;
    let blind = rights::out_of_sight(&root, options.root_is_given);
    let refusals = rights.refusal().into_iter().chain(blind.map(str::to_owned));
    let refusals: Vec<String> = refusals.collect();
    if !refusals.is_empty() {
        return Err(NoRung(refusals.join("; and ")).into());
    }
    for limit in rights.limits() {
        warn!("{limit}");
    }
    let facts = Facts::load(&root)?;
    info!("kernel {} on {}, {} CPUs", facts.release, facts.machine, facts.cpus);
    let symbols = Symbols::load(&root)
        .inspect_err(|err| warn!("places in the kernel have no names: {err}"))
        .ok();
    let modules = ModuleWatch::new(&root, &WATCHED, &facts.release, symbols.as_ref())?;
    let has_module = |name: &str| modules.state(name).is_present();
    let (probes, drop_reasons) = match load(options, &rights, &facts, symbols.as_ref(), &has_module)
    {
        Ok((probes, drop_reasons)) => (Ok(probes), drop_reasons),
        Err(why) => {
            info!("nothing is loaded into the kernel: {why}");
            (Err(why), Vec::new())
        }
    };
    match privileges::give_up() {
        Ok(left) => info!("rights left after attaching: {}", left.join(", ")),
        Err(err) => warn!("all rights are kept: {err:#}"),
    }
    let sources = Sources::new(&root);
    let (now, clock) = sources.clock()?;
    let node = Node {
        drop_reasons,
        no_ebpf: probes.as_ref().err().cloned().unwrap_or_default(),
        min_stall: options.min_stall,
        dns_ports: DNS_PORTS.to_vec(),
        ..sources.node()
    };
    let mut live = Live {
        pods: PodTable::new(&root),
        root,
        facts,
        netns: node.netns,
        probes,
        poller: Poller::default(),
        symbols,
        modules,
        sources,
        known: Known::default(),
        asked: Asked::default(),
        ipvs: Ipvs::default(),
        arming: Arming::default(),
        pulled: now,
        edge: 0,
        told: 0,
        changed: now,
        services: Services::default(),
        recount: Default::default(),
        swept: 0,
        looked: 0,
        deep: 0,
        undecodable: 0,
    };
    live.known.count(node.netns);
    let hooks = live.hooks();
    if live.probes.is_err() && !live.root.join("proc/self/net/tcp").exists() {
        return Err(
            NoRung(format!("{}, and there is no /proc/net/tcp to read", node.no_ebpf)).into()
        );
    }
    let mut events = vec![
        Event { ts: now, body: Body::Clock(clock) },
        Event { ts: now, body: Body::Node(Box::new(node)) },
        Event { ts: now, body: Body::Hooks(hooks) },
        Event { ts: now, body: Body::Sysctls(live.sources.sysctls(live.netns)) },
    ];
    live.scan_pods(now, true, &mut events);
    for counters in live.sources.counters(&live.pods.targets(), super::COUNTERS_BUDGET) {
        events.push(Event { ts: now, body: Body::Counters(counters) });
    }
    Ok((live, events))
}

/// Loads and attaches the programs; with the names of the drop reasons. The error says in words why
/// none can be.
fn load(
    options: &Options,
    rights: &Rights,
    facts: &Facts,
    symbols: Option<&Symbols>,
    has_module: &dyn Fn(&str) -> bool,
) -> Result<(Probes, Vec<(u32, String)>), String> {
    let root = &options.root;
    if options.rungs.iter().all(|rung| *rung == Rung::Snapshot) {
        return Err("--rungs snapshot".to_owned());
    }
    if let Some(why) = Lockdown::load(root).refusal() {
        return Err(why.to_owned());
    }
    let btf = load_vmlinux(root).map_err(|err| err.to_string())?;
    let resolved = offsets::resolve(&[&btf]);
    for absent in &resolved.absent {
        info!("{}: {}", absent.field, absent.reason);
    }
    let config = config(&btf, symbols, options);
    info!("{config:?}");
    let layout = if has_module("ip_vs") {
        ipvs::layout(root, &facts.release, facts.machine)
    } else {
        Err("ip_vs is not loaded".to_owned())
    };
    let probes = Probes::open(resolved, &config, &options.rungs, layout, has_module)
        .map_err(|err| refused(&err, rights))?;
    if !probes.any() {
        let first = probes.hooks().into_iter().find_map(|hook| match hook.state {
            HookState::CannotSee { why } => Some(format!("{}: {why}", hook.name)),
            _ => None,
        });
        let first = first.unwrap_or_default();
        return Err(format!("no hook can be attached here ({first})"));
    }
    Ok((probes, drop_reasons(&btf)))
}

/// A refusal by the kernel, with what may be behind it.
fn refused(err: &anyhow::Error, rights: &Rights) -> String {
    match rights.hint_for_refused_call() {
        Some(hint) => format!("{err:#}; {hint}"),
        None => format!("{err:#}"),
    }
}

fn config(btf: &Btf, symbols: Option<&Symbols>, options: &Options) -> Config {
    let range = symbols.and_then(|symbols| symbols.range("nf_hook_slow")).unwrap_or(0..0);
    let args = btf.tracepoint_args("kfree_skb").unwrap_or(2);
    let reason = |name| {
        let value = btf.enum_value("skb_drop_reason", name);
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(u32::MAX)
    };
    let variable = |name| symbols.and_then(|symbols| symbols.variable(name)).unwrap_or(0);
    Config {
        min_stall: options.min_stall,
        min_given_up: given_up_after(options.min_stall),
        nf_hook_slow: [range.start, range.end],
        burst: BURST,
        token_ns: 1_000_000_000 / RATE,
        dns_ports: DNS_PORTS,
        kfree_skb_args: u32::try_from(args).unwrap_or(2),
        snaplen: options.snaplen.min(MOST_KEPT),
        reason_consumed: reason("SKB_CONSUMED"),
        reason_netfilter_drop: reason("SKB_DROP_REASON_NETFILTER_DROP"),
        _pad: 0,
        page_offset_base: variable("page_offset_base"),
        vmemmap_base: variable("vmemmap_base"),
    }
}

/// `SKB_DROP_REASON_NO_SOCKET` → `NO_SOCKET`, with its number in this kernel.
fn drop_reasons(btf: &Btf) -> Vec<(u32, String)> {
    btf.enum_values("skb_drop_reason")
        .into_iter()
        .filter_map(|(name, value)| {
            let name = name.strip_prefix("SKB_DROP_REASON_").unwrap_or(&name).to_owned();
            Some((u32::try_from(value).ok()?, name))
        })
        .collect()
}
