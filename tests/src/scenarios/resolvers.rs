//! Each kind of resolver against a server that forgets the first query for every name, and against
//! one that forgets none.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    dns::{
        lookup::{self, Lookup},
        server::{self, Behaviour},
    },
    lab::Lab,
    netns::Pod,
    wait::SOON,
};

/// How a resolver looks a name up in a pod.
type Resolve = fn(&Pod, SocketAddr, &str) -> Result<Lookup>;

const GLIBC: Resolve = |pod, _, name| lookup::glibc(pod, name);
const MUSL: Resolve = |pod, _, name| lookup::musl(pod, name);
/// Go waits 5 s by default; `options timeout:2` is as good.
const GO: Resolve = |pod, server, name| lookup::go(pod, server, name, Duration::from_secs(2));

pub fn glibc(lab: &Lab) -> Result<()> {
    forgetful(lab, GLIBC, "getent")
}

pub fn musl(lab: &Lab) -> Result<()> {
    forgetful(lab, MUSL, "resolve")
}

pub fn go(lab: &Lab) -> Result<()> {
    forgetful(lab, GO, "lab")
}

/// One stall for each of two lookups, no more and no fewer.
fn forgetful(lab: &Lab, resolve: Resolve, process: &str) -> Result<()> {
    let (client, dns) = (lab.pod("client")?, lab.pod("dns")?);
    let _server = server::start(
        &dns,
        "forgetful-dns",
        Behaviour { drop_first: true, ..Behaviour::default() },
    )?;
    lab.resolv_conf(&client, &format!("nameserver {}\n", dns.v4))?;
    let server = SocketAddr::new(dns.v4.into(), 53);
    let probe = lab.probe(&[])?;

    for name in ["first.example.com", "second.example.com"] {
        let Lookup { found, took } = resolve(&client, server, name)?;
        ensure!(found, "{name} was not found");
        ensure!(took > Duration::from_secs(1), "{name} took only {took:?}");
    }
    probe
        .finding("a dns-stall of client", SOON, |f| {
            f["symptom"] == "dns-stall" && f["victim"]["pod"] == "client"
        })?
        .is("/victim/process", process)?;
    probe.stop()?;
    if !lab.faults_only() {
        let stalls = probe.stalls(|_| true);
        ensure!(stalls == 2, "two lookups stalled, {stalls} stalls were told");
    }
    Ok(())
}

/// musl asks both nameservers at once; the dead one costs nothing. Asked one after the other, it
/// would cost seconds each time; a busy machine costs something now and then.
pub fn musl_dead_nameserver(lab: &Lab) -> Result<()> {
    let (client, dead, dns) = (lab.pod("client")?, lab.pod("dead")?, lab.pod("dns")?);
    let _servers = [
        server::start(&dead, "dead-dns", Behaviour { silent: true, ..Behaviour::default() })?,
        server::start(&dns, "dns", Behaviour::default())?,
    ];
    lab.resolv_conf(&client, &format!("nameserver {}\nnameserver {}\n", dead.v4, dns.v4))?;
    let probe = lab.probe(&[])?;

    let mut quick = 0;
    for i in 0..20 {
        let Lookup { found, took } = lookup::musl(&client, &format!("n{i}.example.com"))?;
        ensure!(found, "n{i}.example.com was not found");
        quick += usize::from(took < Duration::from_secs(1));
        if quick == 5 {
            break;
        }
    }
    ensure!(quick == 5, "only {quick} of 20 lookups did not wait for the dead nameserver");
    probe.stop()?;
    probe.only(&[])
}

/// A server that answers at once: nothing to tell, whoever asks.
pub fn answered(lab: &Lab) -> Result<()> {
    let (client, dns) = (lab.pod("client")?, lab.pod("dns")?);
    let _server = server::start(&dns, "dns", Behaviour::default())?;
    lab.resolv_conf(&client, &format!("nameserver {}\n", dns.v4))?;
    let server = SocketAddr::new(dns.v4.into(), 53);
    let probe = lab.probe(&[])?;

    for resolve in [GLIBC, MUSL, GO] {
        for i in 0..5 {
            let found = resolve(&client, server, &format!("n{i}.example.com"))?.found;
            ensure!(found, "a name was not found");
        }
    }
    probe.stop()?;
    probe.only(&[])
}
