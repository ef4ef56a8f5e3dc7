//! What a case works with: pods, programs in them, and stallprobe on the node.

use std::{cell::RefCell, fs, process::Command, rc::Rc};

use anyhow::{Context, Result, ensure};

use crate::{
    case::{Skip, is_of, kernel_release},
    counters,
    finding::ORDER,
    netns::Pod,
    probe::{Heed, Probe, STALLPROBE},
    recording::Recording,
    rung::Rung,
    sysctl,
};

/// The kernel on which every rung is run (`MAIN` of xtask's ladder).
const LADDER: &str = "6.12";

/// One case's surroundings. Everything made through it is gone when the case's process ends.
pub struct Lab {
    /// Whether stallprobe runs, and what findings may be expected of it.
    heed: Heed,
    /// The rung of the ladder at which it begins.
    rung: Rung,
    /// What the fault is named here, though it is another.
    taken_for: Option<&'static str>,
    pods: RefCell<Vec<Pod>>,
    probe: RefCell<Option<Rc<Probe>>>,
}

impl Lab {
    pub fn new(heed: Heed, rung: Rung, taken_for: Option<&'static str>) -> Result<Self> {
        sysctl::set("net.ipv4.ip_forward", "1")?;
        sysctl::set("net.ipv6.conf.all.forwarding", "1")?;
        let (pods, probe) = (RefCell::default(), RefCell::default());
        Ok(Self { heed, rung, taken_for, pods, probe })
    }

    /// Whether the scenario has no findings to look at: stallprobe is not there, or blind.
    pub fn faults_only(&self) -> bool {
        matches!(self.heed, Heed::Absent | Heed::Blind)
    }

    /// Skips a scenario that looks at stallprobe itself.
    pub fn needs_stallprobe(&self) -> Result<()> {
        if self.faults_only() {
            return Err(Skip("looks at stallprobe itself".to_owned()).into());
        }
        Ok(())
    }

    /// Whether stallprobe tells of stalls of this kind: of lookups only hooks on functions do.
    pub fn tells_of(&self, symptom: &str) -> bool {
        symptom != "dns-stall" || !self.rung.is_low()
    }

    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.add(name, Pod::create)
    }

    pub fn outside(&self, name: &str) -> Result<Pod> {
        self.add(name, Pod::create_outside)
    }

    pub fn bridged(&self, name: &str) -> Result<Pod> {
        self.add(name, Pod::create_bridged)
    }

    fn add(&self, name: &str, make: impl Fn(&str, u8) -> Result<Pod>) -> Result<Pod> {
        let mut pods = self.pods.borrow_mut();
        // .1 is the node's on the bridge, so pods count from 2.
        let number = u8::try_from(pods.len() + 2).context("too many pods")?;
        let pod = make(name, number).with_context(|| format!("cannot make pod {name}"))?;
        pods.push(pod.clone());
        Ok(pod)
    }

    /// Tells the C library's resolver in a pod which servers to ask, as the kubelet does it.
    pub fn resolv_conf(&self, pod: &Pod, text: &str) -> Result<()> {
        let dir = format!("/etc/netns/{}", pod.name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {dir}"))?;
        let path = format!("{dir}/resolv.conf");
        fs::write(&path, text).with_context(|| format!("cannot write {path}"))
    }

    /// Starts `stallprobe watch -o json` on the node and waits until it watches. It records, too: when it
    /// is stopped, the replay must say the same. With
    /// `--faults-only`, gives a probe that agrees with everything.
    pub fn probe(&self, args: &[&str]) -> Result<Rc<Probe>> {
        self.begin(Command::new(STALLPROBE), args, Recording::of_watch(args))
    }

    /// The same by a command that becomes stallprobe.
    pub fn probe_by(&self, command: Command, args: &[&str]) -> Result<Rc<Probe>> {
        self.begin(command, args, None)
    }

    fn begin(
        &self,
        command: Command,
        args: &[&str],
        recording: Option<Recording>,
    ) -> Result<Rc<Probe>> {
        let all = [self.rung.arguments().as_slice(), args].concat();
        let probe = Rc::new(match self.heed {
            Heed::Absent => Probe::absent(),
            heed => Probe::start(command, &all, heed, self.taken_for, recording)?,
        });
        *self.probe.borrow_mut() = Some(Rc::clone(&probe));
        Ok(probe)
    }

    /// The stallprobe that runs, or ran; none with `--faults-only`.
    pub fn started(&self) -> Option<Rc<Probe>> {
        if self.heed == Heed::Absent { None } else { self.probe.borrow().clone() }
    }

    /// stallprobe stands where this run has it begin, no higher; and what is only read from `/proc`
    /// is never certain. Some kernels do not have the topmost rung: that of the ladder's runs does.
    pub fn on_its_rung(&self) -> Result<()> {
        let is_there = self.rung > Rung::Fentry || is_of(&[LADDER], &kernel_release()?);
        let (Some(probe), true) = (self.started(), is_there) else { return Ok(()) };
        self.rung.check(&probe.header()?)?;
        if self.rung == Rung::Snapshot {
            let told = [probe.lines("finding"), probe.lines("update")].concat();
            let certain = told.iter().find(|line| line["confidence"] == "certain");
            ensure!(certain.is_none(), "snapshots are no certain evidence\n  {certain:?}");
        }
        Ok(())
    }

    /// The highest confidence with which a cause was named; `None` when it was not.
    pub fn best_confidence(&self, cause: &str) -> Option<String> {
        let probe = self.probe.borrow();
        let lines = ["finding", "update"].map(|kind| probe.as_ref().map(|p| p.lines(kind)));
        let named: Vec<String> = lines
            .into_iter()
            .flatten()
            .flatten()
            .filter(|line| line["cause"] == cause)
            .filter_map(|line| Some(line["confidence"].as_str()?.to_owned()))
            .collect();
        ORDER.into_iter().find(|c| named.iter().any(|n| n == c)).map(str::to_owned)
    }

    /// What was seen, for the report of a failure.
    pub fn report(&self) -> String {
        let mut out = counters::report(&self.pods.borrow());
        if let Some(probe) = &*self.probe.borrow() {
            out.push('\n');
            out.push_str(&probe.report());
        }
        out
    }
}
