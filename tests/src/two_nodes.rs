//! `lab node ROLE`: one of two machines whose first network cards are connected. Each is a node with pods
//! of its own and a stallprobe that records; what the recordings say together is looked at elsewhere.
//!
//! ```text
//! client-node 172.30.0.2                      172.30.0.1 server-node
//!   client          10.244.20.2  ── direct ──▶ shop    10.244.10.2:8080, its queue full
//!   client-nodeport 10.244.21.2  ─ NodePort ─▶   the same, its source translated on the way
//!   client-other    10.244.22.2  ── direct ──▶ shop    10.244.10.2:8081, a rule drops the SYN
//! ```
//!
//! Both roles talk by one connection between the nodes: the server says when it is ready, the client when
//! it has seen enough.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    args::Flags,
    cli::say,
    command::{feed, run},
    lab::Lab,
    netns::Pod,
    probe::{Heed, Probe},
    process::hostname,
    rung::Rung,
    runner,
    scenarios::accept_queue::{LISTENER, PORT, any, queued},
    tcp::{self, Attempt},
    wait::until,
};

const SERVER_NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const CLIENT_NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The pods of each node are a part of 10.244.0.0/16.
const SERVER_PODS: &str = "10.244.0.0/20";
const CLIENT_PODS: &str = "10.244.16.0/20";
const SHOP: u8 = 10;
const CRAWLER: u8 = 11;
/// What connects from the client's node, by the number of its pod.
const CLIENT: (&str, u8) = ("client", 20);
const BY_NODE_PORT: (&str, u8) = ("client-nodeport", 21);
const OTHER: (&str, u8) = ("client-other", 22);
/// The shop's second listener accepts; nobody is kept waiting by it.
const WELL: u16 = PORT + 1;
const NODE_PORT: u16 = 30080;
/// Where the server's node waits for the client's.
const MEETING: u16 = 7000;
/// The other machine may boot again meanwhile, and its stallprobe attaches.
const PATIENCE: Duration = Duration::from_secs(200);
/// A stall without a cause is told after the SYN was sent a few times.
const STALL: Duration = Duration::from_secs(60);

/// Plays a role and says how it went. The recording follows as a line of its own.
pub fn main(flags: &Flags) -> Result<()> {
    runner::throw_away_only()?;
    let role = *flags.words(&[]).first().context("lab node server|client")?;
    let lab = Lab::new(Heed::All, Rung::Fentry, None)?;
    let play = match role {
        "server" => server,
        "client" => client,
        _ => bail!("a node is server or client, not {role:?}"),
    };
    say(&format!("case {role} ... begins"))?;
    play(&lab).map_err(|error| error.context(lab.report()))?;
    say(&format!("the {role}'s node has recorded"))
}

fn server(lab: &Lab) -> Result<()> {
    connect("server-node", SERVER_NODE, CLIENT_PODS, CLIENT_NODE)?;
    let (shop, crawler) = (Pod::create("shop", SHOP)?, Pod::create("crawler", CRAWLER)?);
    let at = SocketAddr::new(shop.v4.into(), PORT);
    let _full = tcp::listen(&shop, LISTENER, any(false), 1, false)?;
    let well = SocketAddr::new(shop.v4.into(), WELL);
    let _well = tcp::listen(&shop, "shop-web", well, 128, true)?;
    let other = address(OTHER.1).to_string();
    shop.run("iptables", &["-A", "INPUT", "-s", &other, "-j", "DROP"])?;
    node_port(at)?;
    let _queued = queued(&crawler, at, 2)?;

    let meeting = SocketAddr::new(SERVER_NODE.into(), MEETING);
    let listener =
        TcpListener::bind(meeting).with_context(|| format!("cannot listen on {meeting}"))?;
    listener.set_nonblocking(true).context("cannot wait for the client's node")?;
    let accepted = until("the client's node connects", PATIENCE, || Ok(listener.accept().ok()))?;
    let mut friend = Friend::new(accepted.0)?;
    let probe = lab.probe(&[])?;
    friend.say("ready")?;
    friend.hears("done")?;
    for from in [address(CLIENT.1), Ipv4Addr::new(10, 244, SHOP, 1)] {
        let from = from.to_string();
        probe
            .told(&format!("the queue refused {from}"), STALL, |f| {
                f["cause"] == "accept-queue-overflow" && f["flow"]["src"] == from.as_str()
            })?
            .is("/confidence", "certain")?
            .is("/culprit/pod", "shop")?
            .is("/details/process", LISTENER)?;
    }
    probe.stop()?;
    probe.only(&["accept-queue-overflow", "unknown"])
}

fn client(lab: &Lab) -> Result<()> {
    connect("client-node", CLIENT_NODE, SERVER_PODS, SERVER_NODE)?;
    let [client, by_node_port, other] =
        [CLIENT, BY_NODE_PORT, OTHER].map(|(name, number)| Pod::create(name, number));
    let (client, by_node_port, other) = (client?, by_node_port?, other?);
    let meeting = SocketAddr::new(SERVER_NODE.into(), MEETING);
    let connected = until("the server's node accepts", PATIENCE, || {
        Ok(TcpStream::connect_timeout(&meeting, Duration::from_secs(1)).ok())
    })?;
    let mut friend = Friend::new(connected)?;
    let probe = lab.probe(&[])?;
    friend.hears("ready")?;

    let shop = address(SHOP);
    let _direct = Attempt::start(&client, SocketAddr::new(shop.into(), PORT))?;
    // One stall is looked at more closely at a time: this one is told before the others begin.
    let what = format!("the connect of {} leaves this node", client.name);
    probe.told(&what, STALL, |f| {
        f["cause"] == "left-the-node" && f["victim"]["pod"] == client.name.as_str()
    })?;
    let _node_port = Attempt::start(&by_node_port, SocketAddr::new(SERVER_NODE.into(), NODE_PORT))?;
    let _dropped = Attempt::start(&other, SocketAddr::new(shop.into(), WELL))?;
    for pod in [&by_node_port, &other] {
        stalled(&probe, pod)?;
    }
    friend.say("done")?;
    probe.stop()?;
    // This node cannot know more.
    probe.only(&["unknown", "left-the-node"])
}

/// Waits until a pod's connect is told to stall.
fn stalled(probe: &Probe, pod: &Pod) -> Result<()> {
    let finding = probe.finding(&format!("the connect of {} stalls", pod.name), STALL, |f| {
        f["victim"]["pod"] == pod.name.as_str()
    })?;
    finding.is("/symptom", "connect-stall").map(drop)
}

/// The address of a pod by its number, on whichever node it is.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 2)
}

/// Names this node and leads to the pods of the other one.
fn connect(name: &str, own: Ipv4Addr, pods: &str, by: Ipv4Addr) -> Result<()> {
    hostname(name)?;
    feed(
        "ip",
        &["-batch", "-"],
        &format!("addr add {own}/24 dev eth0\nlink set eth0 up\nroute add {pods} via {by}\n"),
    )
}

/// What kube-proxy writes for a NodePort whose policy is Cluster, in short: the node's own address is the
/// source then.
fn node_port(backend: SocketAddr) -> Result<()> {
    let (port, to) = (NODE_PORT.to_string(), backend.to_string());
    let dnat = ["-A", "PREROUTING", "-p", "tcp", "--dport", &port, "-j", "DNAT", "--to", &to];
    let snat = ["-A", "POSTROUTING", "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE"];
    for rule in [&dnat[..], &snat[..]] {
        run("iptables", &[&["-w", "-t", "nat"], rule].concat())?;
    }
    Ok(())
}

/// The lab on the other node.
struct Friend {
    lines: BufReader<TcpStream>,
}

impl Friend {
    fn new(stream: TcpStream) -> Result<Self> {
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .context("cannot set up the connection to the other node")?;
        Ok(Self { lines: BufReader::new(stream) })
    }

    fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.lines.get_mut(), "{word}").context("cannot write to the other node")
    }

    fn hears(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("cannot read from the other node")?;
        ensure!(line.trim_end() == word, "the other node said {line:?}, not {word}");
        Ok(())
    }
}
