//! A query that is sent once more when stallprobe looks at its flow: what resolvers do after five
//! seconds, without the wait.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    dns::{
        A,
        client::{self, Outcome},
    },
    lab::Lab,
    netns::Pod,
    probe::Probe,
    wait::{SOON, until},
};

/// How long an answer may take: long enough for one, and for stallprobe to call it a stall.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A client's socket, connected to a server from one and the same port.
pub struct Asker {
    socket: UdpSocket,
}

impl Asker {
    pub fn new(pod: &Pod, server: SocketAddr) -> Result<Self> {
        Ok(Self { socket: pod.inside(|| client::connect(server, 0))? })
    }

    pub fn port(&self) -> Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Sends a query for a name.
    pub fn send(&self, name: &str) -> Result<()> {
        client::send(&self.socket, client::id_of(name, A), name, A).map(drop)
    }

    pub fn wait(&self, name: &str) -> Result<Outcome> {
        client::wait(&self.socket, client::id_of(name, A), PATIENCE)
    }

    /// Asks until there is an answer: neighbours may have to be found first.
    pub fn answered(&self, name: &str) -> Result<()> {
        until(&format!("an answer for {name}"), SOON, || {
            self.send(name)?;
            Ok((self.wait(name)? == Outcome::Answered).then_some(()))
        })
    }

    /// Asks in vain, and again in vain once stallprobe is armed.
    pub fn stalled(&self, lab: &Lab, probe: &Probe, name: &str) -> Result<()> {
        self.send(name)?;
        silent(self.wait(name)?)?;
        armed(lab, probe)?;
        self.send(name)?;
        silent(self.wait(name)?)
    }
}

fn silent(outcome: Outcome) -> Result<()> {
    ensure!(outcome == Outcome::Silent, "the query was {outcome:?}");
    Ok(())
}

/// Waits until stallprobe, started with `--events`, looks at what conntrack does.
pub fn armed(lab: &Lab, probe: &Probe) -> Result<()> {
    if lab.faults_only() {
        return Ok(());
    }
    let what = "stallprobe is armed with conntrack-entry";
    probe
        .wait_line(what, SOON, |line| {
            line["type"] == "event"
                && line["event"] == "armed"
                && line["set"] == "conntrack-entry"
                && line["step"] == "armed"
        })
        .map(drop)
}

/// Waits until stallprobe, started with `--events`, knows that a pod is gone.
pub fn gone(lab: &Lab, probe: &Probe) -> Result<()> {
    if lab.started().is_none() {
        return Ok(());
    }
    let is_gone = |line: &serde_json::Value| line["type"] == "event" && line["event"] == "pod-gone";
    probe.wait_line("stallprobe knows that a pod is gone", SOON, is_gone).map(drop)
}
