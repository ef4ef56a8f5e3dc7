//! A connect leaves the node by its network card, and nothing comes back. Look-alikes: the answer comes
//! in and is lost on the node; the SYN goes where no card is.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::{
    command::run,
    finding::Finding,
    lab::Lab,
    netns::Pod,
    probe::Probe,
    services,
    tcp::{self, Attempt, State},
    uplink,
};

const PORT: u16 = 443;
/// SYNs are sent after 1, 3, 7 and 15 seconds before 6.5, and an emulated machine arms late.
const LATER_SYNS: Duration = Duration::from_secs(45);
/// Connects that may be told before one of their SYNs is followed.
const TRIES: usize = 4;

/// The node's address takes the place of the pod's on the way.
pub fn masqueraded(lab: &Lab) -> Result<()> {
    services::masquerade(None)?;
    silence(lab, false, |_| Ok(uplink::NODE[0].to_owned()))
}

pub fn routed_v6(lab: &Lab) -> Result<()> {
    silence(lab, true, |client| Ok(client.v6.to_string()))
}

fn silence(lab: &Lab, v6: bool, leaves_as: impl Fn(&Pod) -> Result<String>) -> Result<()> {
    let client = lab.pod("client")?;
    uplink::up()?;
    let to = SocketAddr::new(uplink::far_address(v6)?, PORT);
    let probe = lab.probe(&["--events"])?;

    let attempt = Attempt::start(&client, to)?;
    let source = leaves_as(&client)?;
    // On a loaded machine it may be told as unknown first, and be looked at with a later SYN.
    let is_it = |f: &Value| f["cause"] == "left-the-node" && f["victim"]["pod"] == "client";
    probe
        .told("left-the-node with victim client", LATER_SYNS, is_it)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "likely")?
        .is("/details/interface", uplink::CARD)?
        .is("/details/link", "")?
        .is("/details/sent_to", to.to_string())?
        .check("/details/sent_from", "the address it left with", |from| {
            let from = from.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
            from.is_some_and(|from| from.ip().to_string() == source)
        })?
        .at_least("/details/looked_ms", 500)?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "somebody answered");
    probe.stop()?;
    probe.only(&["left-the-node", "unknown"])
}

/// The answer comes in by the card, and is forwarded to where nobody is.
pub fn answer_lost_here(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    services::masquerade(None)?;
    uplink::up()?;
    let far = uplink::far()?;
    let _server = tcp::listen(&far, "shop-api", ([0u8; 4], PORT).into(), 128, true)?;
    uplink::answers_into_pit()?;
    let found = stalled(lab, &client, "an answer came in from outside")?;
    found.check("/evidence", "an answer that came in", |lines| {
        let texts = lines.as_array().into_iter().flatten().filter_map(|line| line["text"].as_str());
        texts.into_iter().any(|text| text.contains("came in by eth0"))
    })?;
    Ok(())
}

/// The SYN is routed to a device that takes it and sends nothing.
pub fn never_left(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    uplink::pit()?;
    let to = uplink::far_address(false)?.to_string();
    run("ip", &["route", "add", &format!("{to}/32"), "dev", uplink::PIT])?;
    stalled(lab, &client, "no physical interface")?;
    Ok(())
}

/// A connect that stalls for an unknown cause, which is not that it left: it was looked at.
fn stalled(lab: &Lab, client: &Pod, why: &str) -> Result<Finding> {
    for _ in 0..TRIES {
        let probe: std::rc::Rc<Probe> = lab.probe(&["--events"])?;
        let to = SocketAddr::new(uplink::far_address(false)?, PORT);
        let attempt = Attempt::start(client, to)?;
        let found = probe.unknown("connect-stall", "client")?;
        ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "it did not stall");
        probe.stop()?;
        probe.only(&["unknown"])?;
        let said = |list: &str| -> Option<String> {
            let line = found.line.as_ref()?[list].as_array()?;
            let of_it = line.iter().find(|n| n["cause"] == "left-the-node")?;
            of_it["why"].as_str().map(str::to_owned)
        };
        match (said("ruled_out"), said("not_seen")) {
            (Some(text), _) if text.contains(why) => return Ok(found),
            // Armed too late for this connect.
            (None, Some(_)) => {}
            other => bail!("of left-the-node it is said: {other:?}, expected {why:?}"),
        }
    }
    bail!("of {TRIES} connects none was followed in time")
}
