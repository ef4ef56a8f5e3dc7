//! What the runtimes write down of a container on disk: names, by its id.
//!
//! | runtime | file below the root | checked on |
//! |---|---|---|
//! | containerd (also of k3s, RKE2, k0s, MicroK8s) | `run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json` | annotations of `internal/cri/annotations` |
//! | CRI-O | `run/containers/storage/overlay-containers/ID/userdata/config.json` | `pkg/annotations` |
//! | Docker | `var/lib/docker/containers/ID/config.v2.json` | labels of cri-dockerd's `core/helpers.go` |
//! | podman | `var/lib/containers/storage/overlay-containers/containers.json` | containers/storage's `containers.go` |

use std::{collections::HashMap, path::Path};

use log::debug;
use serde::Deserialize;

use super::{
    super::procfs::{inside, printable, read_optional},
    PodName,
};
use crate::event::Sandbox;

/// A pod with many mounts and variables has 100 KB.
const FILE_MAX: u64 = 4 << 20;
/// A path.
const SHIM_MAX: u64 = 4096;
/// Longest name of a container that is taken over.
const NAME_MAX: usize = 128;

/// Folders of containerd's state.
const CONTAINERD: &[&str] = &[
    "run/containerd",
    "run/k3s/containerd",
    "run/k0s/containerd",
    "var/snap/microk8s/common/run/containerd",
];
/// Folders of containers/storage: CRI-O's and podman's.
const STORAGE: &[&str] = &["run/containers/storage", "var/lib/containers/storage"];

/// What is written of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub pod: Option<PodName>,
    /// The pod's UID.
    pub uid: Option<String>,
    /// Its name in the pod, or in Docker or podman; none for a pod's sandbox.
    pub name: Option<String>,
    /// What it runs in, where that is no plain container.
    pub sandbox: Option<Sandbox>,
}

/// Looks for a container in the files of each runtime; empty when none has it.
pub fn container(root: &Path, id: &str) -> Container {
    let bundles = CONTAINERD
        .iter()
        .map(|dir| format!("{dir}/io.containerd.runtime.v2.task/k8s.io/{id}/config.json"))
        .chain(STORAGE.iter().map(|d| format!("{d}/overlay-containers/{id}/userdata/config.json")));
    for bundle in bundles {
        let Some(Bundle { annotations }) = read(root, &bundle) else { continue };
        let found = by_keys(&annotations);
        if found.pod.is_some() {
            let sandbox = sandbox(root, &bundle, &annotations);
            return Container { sandbox, ..found };
        }
    }
    if let Some(docker) =
        read::<Docker>(root, &format!("var/lib/docker/containers/{id}/config.v2.json"))
    {
        let path = format!("var/lib/docker/containers/{id}/hostconfig.json");
        let sandbox = read::<HostConfig>(root, &path).and_then(|host| of_handler(&host.runtime));
        let found = by_keys(&docker.config.labels.unwrap_or_default());
        if found.pod.is_some() {
            return Container { sandbox, ..found };
        }
        // Docker's names begin with a slash.
        let name = name(docker.name.trim_start_matches('/'));
        return Container { name, sandbox, ..Container::default() };
    }
    let listed = "var/lib/containers/storage/overlay-containers/containers.json";
    let all: Vec<Podman> = read(root, listed).unwrap_or_default();
    let names = all.into_iter().find(|one| one.id == id).map(|one| one.names).unwrap_or_default();
    Container { name: names.first().and_then(|first| name(first)), ..Container::default() }
}

/// An OCI bundle's `config.json`.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Docker {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "Config")]
    config: DockerConfig,
}

/// Docker's `hostconfig.json` (`daemon/container`).
#[derive(Deserialize)]
struct HostConfig {
    #[serde(rename = "Runtime", default)]
    runtime: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(rename = "Labels", default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Podman {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// Annotations or labels that name namespace, pod and container.
const KEYS: &[[&str; 3]] = &[
    [
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.container-name",
    ],
    ["io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name"],
    [
        "io.kubernetes.cri-o.Namespace",
        "io.kubernetes.cri-o.KubeName",
        "io.kubernetes.container.name",
    ],
];

/// Those that have the pod's UID: containerd's, and the kubelet's in CRI-O and Docker.
const UIDS: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];

fn by_keys(map: &HashMap<String, String>) -> Container {
    let found = KEYS.iter().find_map(|[namespace, pod, container]| {
        let pod = PodName::new(map.get(*namespace)?, map.get(*pod)?)?;
        // The sandbox calls itself POD.
        let name = map.get(*container).filter(|name| *name != "POD").and_then(|text| name(text));
        let uid = UIDS.iter().find_map(|key| map.get(*key)).cloned();
        Some(Container { pod: Some(pod), uid, name, sandbox: None })
    });
    found.unwrap_or_default()
}

/// By the file in which containerd keeps the path of its shim (since 1.6, `core/runtime/v2/shim_manager.go`),
/// and CRI-O's annotation for the name that its configuration gives to the runtime. A pod can write neither.
fn sandbox(root: &Path, bundle: &str, annotations: &HashMap<String, String>) -> Option<Sandbox> {
    let shim =
        bundle.strip_suffix("config.json").map(|dir| inside(root, dir).join("shim-binary-path"));
    let shim = shim.and_then(|path| read_optional(&path, SHIM_MAX).ok()?);
    let handler = annotations.get("io.kubernetes.cri-o.RuntimeHandler");
    match shim.as_deref().map(str::trim).map(|path| path.rsplit('/').next().unwrap_or(path)) {
        Some(shim) if shim.starts_with("containerd-shim-runsc") => Some(Sandbox::GVisor),
        Some(shim) if shim.starts_with("containerd-shim-kata") => Some(Sandbox::Kata),
        Some(_) => None,
        None => of_handler(handler?),
    }
}

/// By what the runtime is called in CRI-O's or Docker's configuration.
fn of_handler(handler: &str) -> Option<Sandbox> {
    match handler {
        _ if ["runsc", "gvisor"].iter().any(|name| handler.contains(name)) => Some(Sandbox::GVisor),
        _ => handler.contains("kata").then_some(Sandbox::Kata),
    }
}

fn name(text: &str) -> Option<String> {
    let short: String = text.chars().take(NAME_MAX).collect();
    (!short.is_empty()).then(|| printable(short.as_bytes()))
}

/// `None` when there is no such file, or it is not what it should be: it may be just written.
fn read<T: for<'a> Deserialize<'a>>(root: &Path, path: &str) -> Option<T> {
    let text = match read_optional(&inside(root, path), FILE_MAX) {
        Ok(text) => text?,
        Err(error) => {
            debug!("{error:#}");
            return None;
        }
    };
    serde_json::from_str(&text).map_err(|error| debug!("cannot understand {path}: {error}")).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    fn id() -> String {
        "c".repeat(64)
    }

    /// What is found when the node has this one file.
    fn found(path: &str, text: &str) -> (Option<String>, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(path.replace("ID", &id()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("ID", &id())).unwrap();
        let Container { pod, name, .. } = container(root.path(), &id());
        (pod.map(|pod| pod.to_string()), name)
    }

    fn some(pod: &str, name: &str) -> (Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(pod), some(name))
    }

    #[test]
    fn containerd() {
        let config = r#"{"ociVersion":"1.1.0","process":{"args":["nginx"]},"annotations":{
            "io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.sandbox-id":"ffff","io.kubernetes.cri.sandbox-name":"web-1",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"u"}}"#;
        for dir in CONTAINERD {
            let path = format!("{dir}/io.containerd.runtime.v2.task/k8s.io/ID/config.json");
            assert_eq!(found(&path, config), some("shop/web-1", "nginx"), "{dir}");
        }
        let sandbox = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
            "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
        let path = "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json";
        assert_eq!(found(path, sandbox), some("shop/web-1", ""));
        for broken in ["", "{", "[]", r#"{"annotations":{}}"#, r#"{"annotations":{"a":7}}"#, "{}"] {
            assert_eq!(found(path, broken), some("", ""), "{broken}");
        }
    }

    #[test]
    fn sandboxes() {
        let path = "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID";
        let crio = "run/containers/storage/overlay-containers/ID/userdata";
        let config = |handler: &str| {
            format!(
                r#"{{"annotations":{{"io.kubernetes.cri-o.RuntimeHandler":"{handler}",
                "io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop"}}}}"#
            )
        };
        let (gvisor, kata) = (Some(Sandbox::GVisor), Some(Sandbox::Kata));
        for (dir, handler, shim, expected) in [
            (path, "", Some("/usr/local/bin/containerd-shim-runsc-v1"), gvisor),
            (path, "", Some("/opt/kata/bin/containerd-shim-kata-v2\n"), kata),
            (path, "", Some("containerd-shim-kata-cc-v2"), kata),
            (path, "", Some("/usr/bin/containerd-shim-runc-v2"), None),
            (path, "kata", Some("/usr/bin/containerd-shim-runc-v2"), None),
            (path, "", None, None),
            (crio, "runsc", None, gvisor),
            (crio, "kata-qemu", None, kata),
            (crio, "", None, None),
            (crio, "runc", None, None),
        ] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join(dir.replace("ID", &id()));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("config.json"), config(handler)).unwrap();
            if let Some(shim) = shim {
                fs::write(dir.join("shim-binary-path"), shim).unwrap();
            }
            assert_eq!(container(root.path(), &id()).sandbox, expected, "{handler} {shim:?}");
        }
        for (runtime, expected) in
            [("runsc", gvisor), ("io.containerd.kata.v2", kata), ("runc", None)]
        {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("var/lib/docker/containers").join(id());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("config.v2.json"), r#"{"Name":"/x","Config":{}}"#).unwrap();
            fs::write(dir.join("hostconfig.json"), format!(r#"{{"Runtime":"{runtime}"}}"#))
                .unwrap();
            assert_eq!(container(root.path(), &id()).sandbox, expected, "{runtime}");
        }
    }

    #[test]
    fn cri_o() {
        let path = "run/containers/storage/overlay-containers/ID/userdata/config.json";
        let container = r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":"container",
            "io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.container.name":"nginx"}}"#;
        assert_eq!(found(path, container), some("shop/web-1", "nginx"));
        let sandbox = r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":"sandbox",
            "io.kubernetes.cri-o.KubeName":"web-1","io.kubernetes.cri-o.Namespace":"shop",
            "io.kubernetes.container.name":"POD"}}"#;
        assert_eq!(found(path, sandbox), some("shop/web-1", ""));
    }

    #[test]
    fn docker() {
        let path = "var/lib/docker/containers/ID/config.v2.json";
        let pod = r#"{"ID":"ID","Name":"/k8s_nginx_web-1_shop_u_0","Config":{"Hostname":"web-1","Labels":{
            "io.kubernetes.container.name":"nginx","io.kubernetes.docker.type":"container",
            "io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop"}}}"#;
        assert_eq!(found(path, pod), some("shop/web-1", "nginx"));
        let plain = r#"{"Name":"/registry","Config":{"Labels":null}}"#;
        assert_eq!(found(path, plain), some("", "registry"));
    }

    #[test]
    fn podman() {
        let path = "var/lib/containers/storage/overlay-containers/containers.json";
        let all =
            r#"[{"id":"other","names":["no"]},{"id":"ID","names":["we\u001bb"],"layer":"l"}]"#;
        assert_eq!(found(path, all), some("", "we\\u{1b}b"));
        assert_eq!(found(path, "[]"), some("", ""));
    }
}
