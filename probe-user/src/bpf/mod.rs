//! The kernel side as the rest of the program sees it. The only module that imports aya.

mod armed;
mod attach;
mod counts;
mod ladder;
mod object;
mod pairs;
mod samples;

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    maps::{Array, MapData, PerCpuArray, RingBuf},
};
use aya_log::EbpfLogger;
use probe_common::{armed::Armed, config::Config, event::Dns, ipvs::Layout, stats::Stats};

use self::{armed::Armory, attach::Attachments, object::Wire, pairs::Pairs, samples::Samples};
pub use self::{armed::Spent, attach::unattached};
use crate::{
    event::{Hook, Rung, Totals, armed::Set},
    kernel::offsets::Resolved,
};

/// The loaded programs and their maps. Dropping it, or the end of the process however it comes,
/// detaches everything: nothing is pinned.
pub struct Probes {
    ebpf: Ebpf,
    attachments: Attachments,
    resolved: Resolved,
    events: RingBuf<MapData>,
    stats: PerCpuArray<MapData, Wire<Stats>>,
    pairs: Pairs,
    samples: Samples,
    armory: Armory,
    ipvs: Array<MapData, Wire<Layout>>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Probes {
    /// Loads the programs and attaches what can be attached, by these rungs only.
    ///
    /// # Errors
    /// When not even the maps can be created: BPF is not allowed here. Hooks that cannot be
    /// attached are no error, see [`Self::hooks`]. `ipvs_layout` matters only when ip_vs is there.
    pub fn open(
        resolved: Resolved,
        config: &Config,
        rungs: &[Rung],
        ipvs_layout: Result<Layout, String>,
        has_module: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let btf =
            Btf::from_sys_fs().inspect_err(|err| log::info!("no BTF, so no fentry: {err}")).ok();
        let mut ebpf = object::load(&resolved.offsets, config, btf.as_ref())?;
        let events = ebpf.take_map("EVENTS").context("no map EVENTS")?;
        let events = RingBuf::try_from(events).context("map EVENTS")?;
        let stats = ebpf.take_map("STATS").context("no map STATS")?;
        let stats = PerCpuArray::try_from(stats).context("map STATS")?;
        let pairs = Pairs::take(&mut ebpf, config.min_stall)?;
        let mut samples = Samples::take(&mut ebpf)?;
        let armory = Armory::take(&mut ebpf)?;
        let ipvs = ebpf.take_map("IPVS_LAYOUT").context("no map IPVS_LAYOUT")?;
        let mut ipvs = Array::try_from(ipvs).context("map IPVS_LAYOUT")?;
        let no_ipvs = set_layout(&mut ipvs, ipvs_layout);
        let logger = (object::log_level() > 0).then(|| EbpfLogger::init(&mut ebpf)).transpose();
        let logger = logger.unwrap_or_else(|err| {
            log::warn!("no log of the kernel side: {err}");
            None
        });
        let attachments =
            Attachments::new(&mut ebpf, btf.as_ref(), &resolved, rungs, no_ipvs, has_module);
        if attachments.sees_probes() {
            samples.load(&mut ebpf);
        }
        Ok(Self {
            ebpf,
            attachments,
            resolved,
            events,
            stats,
            pairs,
            samples,
            armory,
            ipvs,
            logger,
        })
    }

    pub fn hooks(&self) -> Vec<Hook> {
        self.attachments.hooks()
    }

    /// Whether anything is attached at all.
    pub fn any(&self) -> bool {
        self.attachments.any()
    }

    /// Hands the records that are there to `each`, a bounded number: whoever fills the buffer faster
    /// than it is read loses events, which are counted. For their form see [`crate::event::decode`].
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        const AT_ONCE: usize = 65_536;
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        for _ in 0..AT_ONCE {
            let Some(record) = self.events.next() else { return };
            each(&record);
        }
    }

    /// Counters since the start.
    ///
    /// # Errors
    /// When the kernel does not give them.
    pub fn totals(&self) -> Result<Totals> {
        let mut totals = counts::totals(&self.stats)?;
        totals.missed +=
            counts::recursion_misses(&self.ebpf, self.attachments.programs().into_iter());
        Ok(totals)
    }

    /// See [`Pairs::sweep`].
    ///
    /// # Errors
    /// When the kernel does not give a map's entries.
    pub fn sweep(&mut self, now: u64) -> Result<Vec<Dns>> {
        self.pairs.sweep(now)
    }

    /// See [`Samples::look`].
    ///
    /// # Errors
    /// When the kernel does not give a map's entries, or does not run the program.
    pub fn look_at_servers(&mut self) -> Result<usize> {
        self.samples.look(&mut self.ebpf)
    }

    /// See [`Pairs::closed`].
    ///
    /// # Errors
    /// When the kernel does not give a map's entries.
    pub fn closed(&mut self, closed: &[Dns]) -> Result<Vec<Dns>> {
        self.pairs.closed(closed)
    }

    /// Attaches a set for one flow; gives the number of places it is attached at.
    ///
    /// # Errors
    /// Why a program of it cannot or must not be loaded or attached; then none of it is.
    pub fn arm(&mut self, set: Set, armed: Armed) -> Result<u32> {
        let is_function = Armory::module(set).is_some();
        self.attachments.allowed(if is_function { Rung::Kprobe } else { Rung::Tracepoint })?;
        self.armory.arm(&mut self.ebpf, set, armed)
    }

    /// Detaches and unloads what is armed.
    pub fn let_go(&mut self) {
        self.armory.let_go(&mut self.ebpf);
    }

    /// The module a set's functions are in; `None`: it is attached to the kernel itself.
    pub fn module_of(set: Set) -> Option<&'static str> {
        Armory::module(set)
    }

    /// What the set that was armed last has cost so far.
    ///
    /// # Errors
    /// When the kernel does not give the map's values.
    pub fn spent(&self) -> Result<Spent> {
        self.armory.spent()
    }

    pub fn module_gone(&mut self, module: &str) {
        self.attachments.module_gone(&mut self.ebpf, module);
    }

    /// Where the module ip_vs that was just loaded keeps things; before [`Self::module_here`].
    pub fn ipvs_layout(&mut self, layout: Result<Layout, String>) {
        let unknown = set_layout(&mut self.ipvs, layout);
        self.attachments.set_ipvs(unknown);
    }

    pub fn module_here(&mut self, module: &str) {
        self.attachments.module_here(&mut self.ebpf, &self.resolved, module);
    }
}

/// Hands the layout to the programs; gives back why that cannot be.
fn set_layout(
    map: &mut Array<MapData, Wire<Layout>>,
    layout: Result<Layout, String>,
) -> Option<String> {
    match layout {
        Ok(layout) => {
            let written = map.set(0, Wire(layout), 0);
            written.err().map(|err| format!("cannot write the map IPVS_LAYOUT: {err}"))
        }
        Err(why) => Some(why),
    }
}
