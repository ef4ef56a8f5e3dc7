//! Pods are called as the kube API calls them: by cgroup path, log folder and the runtime's files.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::accept_queue::{LISTENER, PORT, refuse_syn};
use crate::{kubelet::Kubernetes, lab::Lab, process::Process, tcp};

const STALL: Duration = Duration::from_secs(20);

/// The server is there before stallprobe, the client comes after it: made by a runtime that draws
/// names for namespaces.
pub fn kubernetes(lab: &Lab) -> Result<()> {
    let shop = Kubernetes::new("shop", "api-7d4f9c-x2x5k", 'a')?;
    let server = lab.pod(&shop.netns())?;
    let to = SocketAddr::new(server.address(false), PORT);
    let listener = tcp::listen(&server, LISTENER, ([0, 0, 0, 0], PORT).into(), 1, false)?;
    shop.add("api", &listener)?;
    let probe = lab.probe(&[])?;

    let web = Kubernetes::new("shop", "web-0", 'b')?;
    let client = lab.pod(&web.netns())?;
    let pause = Process::container(&client, Vec::new())?;
    web.add("pause", &pause)?;
    let _connects = refuse_syn(&client, &server, to)?;

    let finding = probe.cause("accept-queue-overflow", "shop/web-0", STALL)?;
    finding
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/culprit/process", LISTENER)?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}
