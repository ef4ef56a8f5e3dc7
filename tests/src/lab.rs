//! What a case works with: pods, programs in them, and stallprobe on the node.

use std::{cell::RefCell, fs, rc::Rc};

use anyhow::{Context, Result};

use crate::{counters, netns::Pod, probe::Probe, sysctl};

/// One case's surroundings. Everything made through it is gone when the case's process ends.
pub struct Lab {
    /// Faults are made and checked by the kernel's counters; stallprobe does not run.
    faults_only: bool,
    pods: RefCell<Vec<Pod>>,
    probe: RefCell<Option<Rc<Probe>>>,
    /// Arguments of stallprobe beside the scenario's own.
    arguments: RefCell<Vec<&'static str>>,
}

impl Lab {
    pub fn new(faults_only: bool) -> Result<Self> {
        sysctl::set("net.ipv4.ip_forward", "1")?;
        sysctl::set("net.ipv6.conf.all.forwarding", "1")?;
        Ok(Self {
            faults_only,
            pods: RefCell::default(),
            probe: RefCell::default(),
            arguments: RefCell::default(),
        })
    }

    /// Whether findings are not looked at in this run.
    pub fn faults_only(&self) -> bool {
        self.faults_only
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

    /// Starts `stallprobe watch -o json` on the node and waits until it watches. With
    /// `--faults-only`, gives a probe that agrees with everything.
    pub fn probe(&self, args: &[&str]) -> Result<Rc<Probe>> {
        let all = [self.arguments.borrow().as_slice(), args].concat();
        let probe = Rc::new(if self.faults_only { Probe::absent() } else { Probe::start(&all)? });
        *self.probe.borrow_mut() = Some(Rc::clone(&probe));
        Ok(probe)
    }

    /// The stallprobe that runs, or ran; none with `--faults-only`.
    pub fn started(&self) -> Option<Rc<Probe>> {
        if self.faults_only { None } else { self.probe.borrow().clone() }
    }

    /// Gives stallprobe these arguments too, when it starts.
    pub fn with_arguments(&self, arguments: &[&'static str]) {
        self.arguments.borrow_mut().extend(arguments);
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
        let order = ["certain", "likely", "possible"];
        order.into_iter().find(|c| named.iter().any(|n| n == c)).map(str::to_owned)
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
