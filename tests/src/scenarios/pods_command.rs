//! `stallprobe pods`: what runs and listens where, with the accept queues.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    accept_queue::{LISTENER, PORT, queued},
    pod_names::Api,
};
use crate::{
    command::run, kubelet::Kubernetes, lab::Lab, probe::STALLPROBE, process::Process, tcp,
};

pub fn run_case(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let Api { server, to, listener } = Api::new(lab)?;
    let client = lab.pod("client")?;
    let stray = tcp::listen(&client, "stray", ([0, 0, 0, 0], PORT).into(), 5, false)?;
    let _queued = queued(&client, to, 2)?;
    let agent = Kubernetes::new("kube-system", "agent-x1", 'c')?;
    let idle = Process::on_node(&["idle", "--name", "agent"])?;
    agent.add("agent", &idle)?;

    let safe = Kubernetes::new("shop", "safe-0", 'd')?;
    let sandbox = Process::on_node(&["idle", "--name", "exe", "--hostname", "safe-0"])?;
    safe.add("sentry", &sandbox)?;
    safe.started_by("sentry", "containerd-shim-runsc-v1")?;
    let nameless = Process::on_node(&["idle", "--name", "idle", "--hostname", "web-7"])?;

    let rows = rows(&[])?;
    let row = of(&rows, "shop/api-7d4f9c-x2x5k")?;
    is(row, "/addresses/0", server.v4.to_string())?;
    is(row, "/veth/0", server.host_link())?;
    is(row, "/listeners/0/address", format!("0.0.0.0:{PORT}"))?;
    is(row, "/listeners/0/queue", 2)?;
    is(row, "/listeners/0/pid", listener.pid())?;
    is(row, "/processes/0/comm", LISTENER)?;
    is(row, "/processes/0/container", "api")?;
    let row = of(&rows, "client")?;
    is(row, "/listeners/0/pid", stray.pid())?;
    is(row, "/processes/0/contained", false)?;
    let row = of(&rows, "shop/safe-0")?;
    is(row, "/sandbox", "gvisor")?;
    is(row, "/named_by", "pod")?;
    let by_hostname = |row: &&Value| row["processes"][0]["pid"] == nameless.pid();
    let row = rows.iter().find(by_hostname).context("the nameless one is not listed")?;
    is(row, "/pod", format!("netns:{} (host name web-7)", row["netns"]))?;
    is(row, "/named_by", "hostname")?;
    let of_agent = |process: &&Value| process["pid"] == idle.pid();
    let processes = of(&rows, "host")?["processes"].as_array().context("processes")?;
    let process = processes.iter().find(of_agent).context("the agent is not listed")?;
    is(process, "/pod", "kube-system/agent-x1")?;

    let some = self::rows(&["-n", "shop", "-p", "api"])?;
    ensure!(some.len() == 1, "the filter shows {} rows", some.len());
    let by_pid = self::rows(&["--netns", &listener.pid().to_string()])?;
    ensure!(by_pid.len() == 1 && by_pid == some, "another row by process id");
    for container in ["api", "containerd://aaaaaaaaaaaa"] {
        let some = self::rows(&["--container", container])?;
        ensure!(some == by_pid, "{container} shows {} rows", some.len());
    }
    let some = self::rows(&["-p", "kube-system/agent"])?;
    let [of_node] = some.as_slice() else { bail!("{} rows", some.len()) };
    is(of_node, "/pod", "host")?;
    is(of_node, "/processes/0/pid", idle.pid())?;
    is(of_node, "/processes/1", Value::Null)?;
    let table = run(STALLPROBE, &["pods"])?;
    ensure!(table.contains("in no container"), "odd table:\n{table}");
    Ok(())
}

pub fn rows(filters: &[&str]) -> Result<Vec<Value>> {
    let all = run(STALLPROBE, &[&["pods", "-o", "json"], filters].concat())?;
    all.lines().map(|line| serde_json::from_str(line).context("no JSON")).collect()
}

pub fn of<'a>(rows: &'a [Value], pod: &str) -> Result<&'a Value> {
    rows.iter().find(|row| row["pod"] == pod).with_context(|| format!("{pod} is not listed"))
}

pub fn is(row: &Value, at: &str, wanted: impl Into<Value>) -> Result<()> {
    let (found, wanted) = (row.pointer(at).unwrap_or(&Value::Null), wanted.into());
    ensure!(*found == wanted, "{at} is {found}, not {wanted}\n  {row}");
    Ok(())
}
