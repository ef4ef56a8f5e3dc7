//! Names of pods, containers, processes, services and the node.

use super::key::{Domain, Key};
use crate::pods::naming::{BEFORE_HOSTNAME, without_hostname};

/// Programs that every node of some kind has. Their names tell nothing of whose node it is, and much
/// of what happened.
const COMMON: &[&str] = &[
    "kubelet",
    "kubelite",
    "k3s",
    "k3s-server",
    "k3s-agent",
    "rke2",
    "kube-proxy",
    "kube-apiserver",
    "coredns",
    "node-cache",
    "dnsmasq",
    "systemd-resolve",
    "containerd",
    "crio",
    "dockerd",
];

/// A pod's name, or what stands for one (`Pod::name`). What correlation knows it by stays: `host`, and
/// the beginnings `netns:` and `pod:`.
pub fn pod(key: &Key, name: &str) -> String {
    let base = without_hostname(name);
    let hostname = name.get(base.len()..).and_then(|rest| rest.strip_prefix(BEFORE_HOSTNAME));
    let mut out = match (base.split_once(':'), base.split_once('/')) {
        _ if matches!(base, "" | "host" | "netns:host") => base.to_owned(),
        // An inode number is a number like others.
        (Some(("netns", number)), _) if number.bytes().all(|b| b.is_ascii_digit()) => {
            base.to_owned()
        }
        (Some((kind @ ("netns" | "pod"), rest)), _) => {
            format!("{kind}:{}", key.word(Domain::Name, rest.as_bytes()))
        }
        (_, Some((namespace, name))) => format!(
            "ns-{}/pod-{}",
            key.word(Domain::Namespace, namespace.as_bytes()),
            // Pods of one name in two namespaces have nothing in common.
            key.word(Domain::Pod, [namespace, name].join("/").as_bytes()),
        ),
        _ => format!("name-{}", key.word(Domain::Name, base.as_bytes())),
    };
    if let Some(hostname) = hostname {
        let hostname = hostname.strip_suffix(')').unwrap_or(hostname);
        out.push_str(BEFORE_HOSTNAME);
        out.push_str("host-");
        out.push_str(&key.word(Domain::Host, hostname.as_bytes()));
        out.push(')');
    }
    out
}

/// A word behind what it is; nothing stays nothing.
pub fn called(key: &Key, domain: Domain, what: &str, name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("{what}-{}", key.word(domain, name.as_bytes()))
    }
}

/// As many hexadecimal digits as it had, 64 at most.
pub fn container_id(key: &Key, id: &str) -> String {
    let hash = key.hash(Domain::ContainerId, 0, id.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(id.len()).collect()
}

/// The name of a program, of 15 bytes at most as the kernel has it.
pub fn process(key: &Key, comm: &str) -> String {
    if COMMON.contains(&comm) {
        comm.to_owned()
    } else {
        called(key, Domain::Process, "proc", comm)
    }
}

/// `uname -r`: numbers, and words of distributions and clouds, stay. What else is in it somebody chose
/// who built the kernel.
pub fn kernel(release: &str) -> String {
    const WORDS: &[&str] = &[
        "generic",
        "amd",
        "arm",
        "aws",
        "azure",
        "gcp",
        "gke",
        "oracle",
        "cloud",
        "el",
        "fc",
        "amzn",
        "lts",
        "rc",
        "deb",
        "bpo",
        "rt",
        "lowlatency",
        "flatcar",
        "talos",
        "cos",
        "cm",
        "x",
        "aarch",
        "default",
        "virt",
        "microsoft",
        "standard",
        "linuxkit",
        "stable",
    ];
    let mut out = String::new();
    let mut word = String::new();
    for letter in release.chars().chain(['\0']) {
        if letter.is_ascii_alphabetic() {
            word.push(letter);
            continue;
        }
        if !word.is_empty() {
            out.push_str(if WORDS.contains(&word.as_str()) { &word } else { "x" });
            word.clear();
        }
        if letter.is_ascii_digit() || matches!(letter, '.' | '-' | '_' | '+') {
            out.push(letter);
        }
    }
    out
}
