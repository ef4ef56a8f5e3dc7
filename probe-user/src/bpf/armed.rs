//! Sets of programs that are attached for one flow and a few seconds only.
//!
//! Their programs are loaded when a set is armed and unloaded when it is let go: the start pays
//! nothing for them, and nothing of them stays.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{KProbe, ProgramError, RawTracePoint},
    util::nr_cpus,
};
use probe_common::{
    armed::{Armed, Cost},
    event::Ipvs,
    net::{FAMILY_NONE, FAMILY_V4, FAMILY_V6},
};

use super::{
    attach::{typed, without_log},
    object::Wire,
};
use crate::event::armed::Set;

/// A function of a module and the programs for its entry and return.
struct Place {
    /// Groups of functions that do the same job in different kernels: the first group all of whose
    /// functions are there is used. Of each the family of the packets it gets.
    ways: &'static [&'static [(&'static str, u8)]],
    entry: &'static str,
    ret: &'static str,
}

/// A function gets packets of both families.
const ANY: u8 = FAMILY_NONE;

const IPVS_VERDICT: &[Place] = &[
    Place {
        ways: &[&[("ip_vs_conn_in_get_proto", ANY)]],
        entry: "ipvs_find_kp",
        ret: "ipvs_find_krp",
    },
    Place {
        ways: &[
            &[("ip_vs_in_hook", ANY)],
            // 5.10.
            &[
                ("ip_vs_remote_request4", FAMILY_V4),
                ("ip_vs_local_request4", FAMILY_V4),
                ("ip_vs_remote_request6", FAMILY_V6),
                ("ip_vs_local_request6", FAMILY_V6),
            ],
        ],
        entry: "ipvs_hook_kp",
        ret: "ipvs_hook_krp",
    },
];
const CONNTRACK_ENTRY: &[Place] =
    &[Place { ways: &[&[("nf_conntrack_in", ANY)]], entry: "ct_entry_kp", ret: "ct_entry_krp" }];

/// Tracepoints with their programs: what comes in first, so that no answer to what is seen to leave
/// goes unseen.
const DEPARTURE: &[(&str, &str)] =
    &[("netif_receive_skb", "departure_in"), ("net_dev_start_xmit", "departure_out")];

/// Where a set is attached. All of it is needed.
#[derive(Clone, Copy)]
enum Where {
    /// Functions of a module, what is inside first: the outer one tells, and nothing inside of it may
    /// have gone unseen then.
    Functions {
        module: &'static str,
        places: &'static [Place],
    },
    Tracepoints(&'static [(&'static str, &'static str)]),
}

const fn spec(set: Set) -> Where {
    match set {
        Set::IpvsVerdict => Where::Functions { module: "ip_vs", places: IPVS_VERDICT },
        Set::ConntrackEntry => Where::Functions { module: "nf_conntrack", places: CONNTRACK_ENTRY },
        Set::Departure => Where::Tracepoints(DEPARTURE),
    }
}

/// What all CPUs spent, and the most that one of them did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub total: Cost,
    /// Nanoseconds that the busiest CPU spent.
    pub most: u64,
}

/// The maps of the armed programs, and the set that is attached now.
pub struct Armory {
    flow: Array<MapData, Wire<Armed>>,
    cost: PerCpuArray<MapData, Wire<Cost>>,
    /// What entries leave for returns, by the stack pointer or the packet.
    calls: [HashMap<MapData, u64, u64>; 2],
    verdicts: HashMap<MapData, u64, Wire<Ipvs>>,
    armed: Option<Set>,
}

impl Armory {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let flow = ebpf.take_map("ARMED").context("no map ARMED")?;
        let cost = ebpf.take_map("ARMED_COST").context("no map ARMED_COST")?;
        let mut taken = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let (verdict_calls, tracking) = (taken("VERDICT_CALLS")?, taken("TRACKING")?);
        let verdicts = taken("VERDICTS")?;
        Ok(Self {
            calls: [
                HashMap::try_from(verdict_calls).context("map VERDICT_CALLS")?,
                HashMap::try_from(tracking).context("map TRACKING")?,
            ],
            verdicts: HashMap::try_from(verdicts).context("map VERDICTS")?,
            flow: Array::try_from(flow).context("map ARMED")?,
            cost: PerCpuArray::try_from(cost).context("map ARMED_COST")?,
            armed: None,
        })
    }

    pub const fn module(set: Set) -> Option<&'static str> {
        match spec(set) {
            Where::Functions { module, .. } => Some(module),
            Where::Tracepoints(_) => None,
        }
    }

    /// Attaches a set for a flow and tells at how many places. What was armed before is let go.
    /// An error comes without the verifier's log, which goes to stallprobe's own.
    pub fn arm(&mut self, ebpf: &mut Ebpf, set: Set, armed: Armed) -> Result<u32> {
        self.let_go(ebpf);
        let cpus = nr_cpus().map_err(|(what, err)| anyhow!("{what}: {err}"))?;
        let zero = PerCpuValues::try_from(vec![Wire(Cost::default()); cpus])
            .context("cannot make values for all CPUs")?;
        self.cost.set(0, zero, 0).context("cannot write the map ARMED_COST")?;
        self.flow.set(0, Wire(armed), 0).context("cannot write the map ARMED")?;
        // A call that was under way when the last set was let go left its entry: another call's
        // return must not take it.
        self.calls.iter_mut().for_each(clear);
        clear(&mut self.verdicts);
        self.armed = Some(set);
        let attached: Result<u32> = match spec(set) {
            Where::Functions { places, .. } => {
                places.iter().map(|place| attach(ebpf, place, armed.flow.family)).sum()
            }
            Where::Tracepoints(all) => {
                all.iter().map(|(name, program)| trace(ebpf, name, program)).sum()
            }
        };
        attached.map_err(|err| {
            self.let_go(ebpf);
            log::info!("{}: {err:#}", set.id());
            anyhow!(without_log(&err))
        })
    }

    /// Detaches and unloads what is armed, if anything is.
    pub fn let_go(&mut self, ebpf: &mut Ebpf) {
        let Some(set) = self.armed.take() else { return };
        match spec(set) {
            Where::Functions { places, .. } => {
                // Entries first: a return whose entry was not seen does nothing.
                for name in places.iter().map(|p| p.entry).chain(places.iter().map(|p| p.ret)) {
                    unloaded(name, typed::<KProbe>(ebpf, name).map(KProbe::unload));
                }
            }
            Where::Tracepoints(all) => {
                for (_, name) in all.iter().rev() {
                    unloaded(name, typed::<RawTracePoint>(ebpf, name).map(RawTracePoint::unload));
                }
            }
        }
    }

    /// What the set that was armed last has cost so far.
    pub fn spent(&self) -> Result<Spent> {
        let mut spent = Spent::default();
        for Wire(cpu) in self.cost.get(&0, 0).context("cannot read the map ARMED_COST")?.iter() {
            spent.total.runs += cpu.runs;
            spent.total.matched += cpu.matched;
            spent.total.ns += cpu.ns;
            spent.total.silent += cpu.silent;
            spent.most = spent.most.max(cpu.ns);
        }
        Ok(spent)
    }
}

fn unloaded(name: &str, result: Result<Result<(), ProgramError>>) {
    match result {
        Ok(Ok(()) | Err(ProgramError::NotLoaded)) => {}
        Ok(Err(err)) => log::warn!("cannot let go of {name}: {err}"),
        Err(err) => log::warn!("{err:#}"),
    }
}

fn trace(ebpf: &mut Ebpf, name: &str, program: &str) -> Result<u32> {
    let tracepoint = typed::<RawTracePoint>(ebpf, program)?;
    tracepoint.load().with_context(|| format!("cannot load {program}"))?;
    tracepoint.attach(name).with_context(|| format!("cannot attach to tracepoint {name}"))?;
    Ok(1)
}

/// Returns first: an entry that was seen must not wait for a return that nobody sees.
fn attach(ebpf: &mut Ebpf, place: &Place, family: u8) -> Result<u32> {
    let mut failed = anyhow!("no function to attach to");
    for way in place.ways {
        let gets = |of: u8| of == ANY || of == family;
        let functions: Vec<&str> =
            way.iter().filter(|(_, of)| gets(*of)).map(|&(name, _)| name).collect();
        match [place.ret, place.entry]
            .into_iter()
            .try_for_each(|program| attach_to_all(ebpf, program, &functions))
        {
            Ok(()) => return Ok(u32::try_from(functions.len() * 2).unwrap_or(u32::MAX)),
            Err(err) => {
                for program in [place.entry, place.ret] {
                    let _ = typed::<KProbe>(ebpf, program)?.unload();
                }
                failed = err;
            }
        }
    }
    Err(failed)
}

fn attach_to_all(ebpf: &mut Ebpf, program: &str, functions: &[&str]) -> Result<()> {
    let kprobe = typed::<KProbe>(ebpf, program)?;
    kprobe.load().with_context(|| format!("cannot load {program}"))?;
    for function in functions {
        kprobe
            .attach(function, 0)
            .with_context(|| format!("cannot attach {program} to {function}"))?;
    }
    Ok(())
}

fn clear<V: Pod>(map: &mut HashMap<MapData, u64, V>) {
    let keys: Vec<u64> = map.keys().filter_map(Result::ok).collect();
    for key in keys {
        // It may be gone in the meantime.
        let _ = map.remove(&key);
    }
}
