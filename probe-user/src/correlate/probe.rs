//! Health probes: connects of the kubelet to a pod of this node. Where the kubelet is a part of another
//! program (k3s, MicroK8s) its probes cannot be told from what else that program asks of pods, and are
//! called connects.

use super::{
    rules::client_ports_exhausted::EADDRNOTAVAIL,
    symptom::{Side, Symptom, seconds},
    world::World,
};
use crate::finding::{Party, SymptomKind};

/// The pod that is probed; `None` when it is no probe. What the kubelet asks elsewhere, such as the
/// API server, is none, and neither is a probe of a hostNetwork pod told from that.
pub fn probed(symptom: &Symptom, world: &World) -> Option<Party> {
    let is_connect =
        matches!(symptom.kind, SymptomKind::ConnectStall | SymptomKind::ConnectRefused);
    // Without a local port nothing was sent: that is the node's own trouble.
    let of_kubelet = symptom.side == Side::Client
        && symptom.netns == world.node.netns
        && symptom.err != EADDRNOTAVAIL
        && world.is_kubelet(symptom.pid);
    let server = symptom.server();
    let pod = world.pods.owner(server.ip(), symptom.first).filter(|_| is_connect && of_kubelet)?;
    (pod.netns != world.node.netns)
        .then(|| world.party(server.ip(), Some(server.port()), symptom.first))
}

/// What became of it, in one sentence.
pub fn headline(symptom: &Symptom, world: &World, probed: &Party) -> String {
    let pod = probed.pod.as_deref().unwrap_or("?");
    let what = format!("the kubelet's probe of pod {pod}, port {}", symptom.server().port());
    let waited = seconds(symptom.waited(world.now));
    match (symptom.kind, symptom.answered, symptom.ended) {
        (SymptomKind::ConnectRefused, ..) => format!("{what}, was refused"),
        _ if symptom.err != 0 => {
            format!("{what}, failed after {waited} (error {})", symptom.err)
        }
        (_, Some(_), _) => format!("{what}, was connected only after {waited}"),
        (_, None, Some(_)) => format!("{what}, could not connect and gave up after {waited}"),
        (_, None, None) => format!("{what}, has tried to connect for {waited}"),
    }
}
