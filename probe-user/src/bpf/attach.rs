//! Attaches each hook by the best rung there is, and follows modules that come and go.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, KProbe, RawTracePoint, kprobe::KProbeLinkId},
};

use super::ladder::{HOOKS, Spec, Target};
use crate::{
    event::{Hook, HookState, Rung},
    kernel::offsets::{Family, Resolved},
};

/// The hooks and what holds them.
pub struct Attachments {
    states: Vec<HookState>,
    /// Links of module functions by hook and program, to let go of them when the module goes.
    links: HashMap<(&'static str, &'static str), KProbeLinkId>,
    /// The rungs that may be used.
    rungs: Vec<Rung>,
    /// Why the layout of ip_vs is not known, if so.
    no_ipvs: Option<String>,
}

impl Attachments {
    /// Attaches what can be attached now. `has_module` tells whether a module is there.
    pub fn new(
        ebpf: &mut Ebpf,
        btf: Option<&Btf>,
        resolved: &Resolved,
        rungs: &[Rung],
        no_ipvs: Option<String>,
        has_module: impl Fn(&str) -> bool,
    ) -> Self {
        let mut this = Self {
            states: Vec::with_capacity(HOOKS.len()),
            links: HashMap::new(),
            rungs: rungs.to_vec(),
            no_ipvs,
        };
        for spec in HOOKS {
            let state = match resolved.refusal(spec.family) {
                Some(why) => HookState::CannotSee { why: why.to_owned() },
                None => this.attach(ebpf, btf, spec, &has_module),
            };
            log::info!("{}: {state:?}", spec.name);
            log_cost(ebpf, spec);
            this.states.push(state);
        }
        this
    }

    /// The hooks as the event stream tells of them.
    pub fn hooks(&self) -> Vec<Hook> {
        HOOKS.iter().zip(&self.states).map(|(spec, state)| hook(spec, state.clone())).collect()
    }

    /// Whether connections of the kubelet, and their servers, are watched.
    pub fn sees_probes(&self) -> bool {
        let mut probes =
            HOOKS.iter().zip(&self.states).filter(|(spec, _)| spec.family == Family::Probe);
        probes.all(|(_, state)| matches!(state, HookState::Watched { .. }))
    }

    /// Whether at least one hook is attached.
    pub fn any(&self) -> bool {
        self.states.iter().any(|state| matches!(state, HookState::Watched { .. }))
    }

    /// Programs that serve a hook now, with its name; for counters kept per program.
    /// One that serves two hooks is there once.
    pub fn programs(&self) -> BTreeSet<&'static str> {
        let serving =
            HOOKS.iter().zip(&self.states).filter_map(|(spec, state)| match (state, spec.target) {
                (HookState::Watched { rung: Rung::Fentry }, Target::Function { fentry, .. }) => {
                    Some(fentry)
                }
                (HookState::Watched { .. }, Target::Function { kprobe, .. }) => Some(kprobe),
                (HookState::Watched { rung: Rung::Fentry }, Target::Return { fexit, .. }) => {
                    Some(fexit)
                }
                (HookState::Watched { .. }, Target::Return { kretprobe, .. }) => Some(kretprobe),
                (
                    HookState::Watched { .. },
                    Target::ModuleFunction { kprobe, .. } | Target::ModuleEntry { kprobe, .. },
                ) => Some(kprobe),
                (HookState::Watched { .. }, Target::ModuleReturn { kretprobe, .. }) => {
                    Some(kretprobe)
                }
                _ => None,
            });
        serving.collect()
    }

    /// A module is gone: its probes are dead for ever, whatever is loaded later under its name.
    pub fn module_gone(&mut self, ebpf: &mut Ebpf, module: &str) {
        for (spec, state) in HOOKS.iter().zip(&mut self.states) {
            let programs = match spec.target {
                Target::ModuleFunction { module: of, kprobe, kretprobe } if of == module => {
                    vec![kprobe, kretprobe]
                }
                Target::ModuleEntry { module: of, kprobe } if of == module => vec![kprobe],
                Target::Armed { module: of, .. } if of == module => Vec::new(),
                Target::ModuleReturn { module: of, kretprobe, .. } if of == module => {
                    vec![kretprobe]
                }
                _ => continue,
            };
            if matches!(state, HookState::Watched { .. }) {
                for program in programs {
                    if let Some(link) = self.links.remove(&(spec.name, program))
                        && let Err(err) = detach(ebpf, program, link)
                    {
                        log::warn!("{}: {err:#}", spec.name);
                    }
                }
                *state = not_loaded(module);
            }
        }
    }

    /// What is known of ip_vs as it is loaded now: nothing, or why not.
    pub fn set_ipvs(&mut self, unknown: Option<String>) {
        self.no_ipvs = unknown;
    }

    /// A module was loaded.
    pub fn module_here(&mut self, ebpf: &mut Ebpf, resolved: &Resolved, module: &str) {
        for (index, spec) in HOOKS.iter().enumerate() {
            if let Target::ModuleFunction { module: of, .. }
            | Target::ModuleEntry { module: of, .. }
            | Target::Armed { module: of, .. }
            | Target::ModuleReturn { module: of, .. } = spec.target
                && of == module
                && resolved.refusal(spec.family).is_none()
                && !matches!(self.states.get(index), Some(HookState::Watched { .. }))
            {
                let state = self.attach(ebpf, None, spec, &|_| true);
                log::info!("{}: {state:?}", spec.name);
                if let Some(slot) = self.states.get_mut(index) {
                    *slot = state;
                }
            }
        }
    }

    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        btf: Option<&Btf>,
        spec: &Spec,
        has_module: &dyn Fn(&str) -> bool,
    ) -> HookState {
        let result = match spec.target {
            Target::Function { fentry, kprobe } => {
                let best = self
                    .allowed(Rung::Fentry)
                    .and_then(|()| fentry_to(ebpf, btf, fentry, spec.name));
                match best {
                    Ok(()) => Ok(Rung::Fentry),
                    Err(no_fentry) => {
                        log::info!("{}: no fentry: {no_fentry:#}", spec.name);
                        self.allowed(Rung::Kprobe)
                            .and_then(|()| kprobe_to(ebpf, kprobe, spec.name))
                            .map(|_| Rung::Kprobe)
                    }
                }
            }
            Target::Return { function, fexit, kretprobe } => {
                let best =
                    self.allowed(Rung::Fentry).and_then(|()| fexit_to(ebpf, btf, fexit, function));
                match best {
                    Ok(()) => Ok(Rung::Fentry),
                    Err(no_fexit) => {
                        log::info!("{}: no fexit: {no_fexit:#}", spec.name);
                        self.allowed(Rung::Kprobe)
                            .and_then(|()| kprobe_to(ebpf, kretprobe, function))
                            .map(|_| Rung::Kprobe)
                    }
                }
            }
            Target::ModuleFunction { module, .. }
            | Target::ModuleEntry { module, .. }
            | Target::Armed { module, .. }
            | Target::ModuleReturn { module, .. }
                if !has_module(module) =>
            {
                return not_loaded(module);
            }
            _ if spec.family == Family::Ipvs
                && let Some(why) = &self.no_ipvs =>
            {
                return HookState::CannotSee { why: why.clone() };
            }
            Target::ModuleFunction { kprobe, kretprobe, .. } => self
                .allowed(Rung::Kprobe)
                .and_then(|()| self.pair(ebpf, kprobe, kretprobe, spec.name))
                .map(|()| Rung::Kprobe),
            Target::ModuleEntry { kprobe: program, .. }
            | Target::ModuleReturn { kretprobe: program, .. } => {
                let function = match spec.target {
                    Target::ModuleReturn { function, .. } => function,
                    _ => spec.name,
                };
                let link =
                    self.allowed(Rung::Kprobe).and_then(|()| kprobe_to(ebpf, program, function));
                link.map(|link| {
                    self.links.insert((spec.name, program), link);
                    Rung::Kprobe
                })
            }
            Target::Armed { kprobe, kretprobe, .. } => self
                .allowed(Rung::Kprobe)
                .and_then(|()| {
                    [kprobe, kretprobe].into_iter().try_for_each(|name| try_load(ebpf, name))
                })
                .map(|()| Rung::Kprobe),
            Target::ArmedTracepoint { program } => self
                .allowed(Rung::Tracepoint)
                .and_then(|()| try_load_tracepoint(ebpf, program))
                .map(|()| Rung::Tracepoint),
            Target::Tracepoint { program } => self
                .allowed(Rung::Tracepoint)
                .and_then(|()| tracepoint_to(ebpf, program, spec.name))
                .map(|()| Rung::Tracepoint),
        };
        match result {
            Ok(rung) => HookState::Watched { rung },
            Err(err) => {
                log::info!("{}: {err:#}", spec.name);
                HookState::CannotSee { why: in_short(spec, &err) }
            }
        }
    }

    pub fn allowed(&self, rung: Rung) -> Result<()> {
        if self.rungs.contains(&rung) { Ok(()) } else { Err(LeftOut.into()) }
    }

    /// Entry first: a return whose entry was not seen says nothing.
    fn pair(
        &mut self,
        ebpf: &mut Ebpf,
        kprobe: &'static str,
        kretprobe: &'static str,
        function: &'static str,
    ) -> Result<()> {
        let entry = kprobe_to(ebpf, kprobe, function)?;
        match kprobe_to(ebpf, kretprobe, function) {
            Ok(link) => {
                self.links.insert((function, kprobe), entry);
                self.links.insert((function, kretprobe), link);
                Ok(())
            }
            Err(err) => {
                detach(ebpf, kprobe, entry)?;
                Err(err)
            }
        }
    }
}

fn hook(spec: &Spec, state: HookState) -> Hook {
    Hook {
        name: spec.name.to_owned(),
        family: spec.family.name().to_owned(),
        causes: spec.causes.iter().map(|&cause| cause.to_owned()).collect(),
        state,
    }
}

/// The hooks where nothing is loaded into the kernel, and why.
pub fn unattached(why: &str, has_module: impl Fn(&str) -> bool) -> Vec<Hook> {
    let state = |spec: &Spec| match spec.target {
        Target::ModuleFunction { module, .. }
        | Target::ModuleEntry { module, .. }
        | Target::ModuleReturn { module, .. }
        | Target::Armed { module, .. }
            if !has_module(module) =>
        {
            not_loaded(module)
        }
        _ => HookState::CannotSee { why: why.to_owned() },
    };
    HOOKS.iter().map(|spec| hook(spec, state(spec))).collect()
}

/// The person asked for other rungs.
#[derive(Debug, thiserror::Error)]
#[error("--rungs leaves out every way that works here")]
struct LeftOut;

/// Where the kernel tells that it has kprobes at all.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

/// A reason for the header; the whole error, with the verifier's log, goes to the log.
fn in_short(spec: &Spec, err: &anyhow::Error) -> String {
    if err.is::<LeftOut>() {
        return LeftOut.to_string();
    }
    let is_function =
        !matches!(spec.target, Target::Tracepoint { .. } | Target::ArmedTracepoint { .. });
    if is_function && !std::path::Path::new(KPROBE_PMU).exists() {
        return "this kernel allows no fentry and has no kprobes".to_owned();
    }
    without_log(err)
}

/// An error in one line, without the verifier's log.
pub(super) fn without_log(err: &anyhow::Error) -> String {
    let whole = format!("{err:#}");
    match whole.split_once(". Verifier output") {
        Some((first, _)) => first.to_owned(),
        None => whole,
    }
}

/// How much of its million steps the verifier needed (5.16 and later tell).
fn log_cost(ebpf: &Ebpf, spec: &Spec) {
    let programs = match spec.target {
        Target::Function { fentry, kprobe } => vec![fentry, kprobe],
        Target::ModuleFunction { kprobe, kretprobe, .. } => vec![kprobe, kretprobe],
        Target::Return { fexit, kretprobe, .. } => vec![fexit, kretprobe],
        Target::ModuleEntry { kprobe, .. } => vec![kprobe],
        Target::Armed { .. } | Target::ArmedTracepoint { .. } => Vec::new(),
        Target::ModuleReturn { kretprobe, .. } => vec![kretprobe],
        Target::Tracepoint { program } => vec![program],
    };
    for program in programs {
        let info = ebpf.program(program).and_then(|program| program.info().ok());
        if let Some(steps) = info.and_then(|info| info.verified_instruction_count()) {
            log::info!("{program}: verified in {steps} steps");
        }
    }
}

fn not_loaded(module: &str) -> HookState {
    HookState::CannotHappen { why: format!("{module} is not loaded") }
}

fn fentry_to(ebpf: &mut Ebpf, btf: Option<&Btf>, program: &str, function: &str) -> Result<()> {
    let btf = btf.context("this kernel has no BTF")?;
    let program = typed::<FEntry>(ebpf, program)?;
    program.load(function, btf).with_context(|| format!("cannot load fentry of {function}"))?;
    program.attach().with_context(|| format!("cannot attach fentry to {function}"))?;
    Ok(())
}

fn fexit_to(ebpf: &mut Ebpf, btf: Option<&Btf>, program: &str, function: &str) -> Result<()> {
    let btf = btf.context("this kernel has no BTF")?;
    let program = typed::<FExit>(ebpf, program)?;
    program.load(function, btf).with_context(|| format!("cannot load fexit of {function}"))?;
    program.attach().with_context(|| format!("cannot attach fexit to {function}"))?;
    Ok(())
}

fn kprobe_to(ebpf: &mut Ebpf, name: &str, function: &str) -> Result<KProbeLinkId> {
    let program = typed::<KProbe>(ebpf, name)?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("cannot load kprobe of {function}"))?;
    }
    program.attach(function, 0).with_context(|| format!("cannot attach kprobe to {function}"))
}

/// Whether an armed program could be attached when it is needed.
fn try_load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    if !std::path::Path::new(KPROBE_PMU).exists() {
        return Err(anyhow!("this kernel has no kprobes"));
    }
    let program = typed::<KProbe>(ebpf, name)?;
    program.load().with_context(|| format!("cannot load {name}"))?;
    program.unload().with_context(|| format!("cannot unload {name}"))
}

fn try_load_tracepoint(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = typed::<RawTracePoint>(ebpf, name)?;
    program.load().with_context(|| format!("cannot load {name}"))?;
    program.unload().with_context(|| format!("cannot unload {name}"))
}

fn tracepoint_to(ebpf: &mut Ebpf, program: &str, tracepoint: &str) -> Result<()> {
    let name = tracepoint.split_once(':').map_or(tracepoint, |(_, name)| name);
    let name = name.split(' ').next().unwrap_or(name);
    let program = typed::<RawTracePoint>(ebpf, program)?;
    program.load().with_context(|| format!("cannot load the program for {tracepoint}"))?;
    program.attach(name).with_context(|| format!("cannot attach to tracepoint {tracepoint}"))?;
    Ok(())
}

fn detach(ebpf: &mut Ebpf, program: &str, link: KProbeLinkId) -> Result<()> {
    typed::<KProbe>(ebpf, program)?.detach(link).with_context(|| format!("cannot detach {program}"))
}

pub(super) fn typed<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    program.try_into().map_err(|_| anyhow!("program {name} is of another type"))
}
