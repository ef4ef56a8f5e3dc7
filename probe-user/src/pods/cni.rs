//! Addresses that CNI plugins gave to a pod, for pods whose own namespace does not have them: gVisor
//! takes them off the device, a virtual machine behind a bridge has them inside.
//!
//! libcni keeps the result of each call until the pod goes, for containerd, CRI-O and cri-dockerd alike,
//! as `/var/lib/cni/results/NETWORK-SANDBOX-DEVICE` (`libcni/api.go`, `getCacheFilePath`).

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use log::debug;
use serde::Deserialize;

use super::procfs::read_optional;

/// A file has the plugin's configuration too.
const FILE_MAX: u64 = 256 << 10;
/// A few for each pod; left-overs of old ones may stay.
const MOST: usize = 16384;
/// Networks of one pod.
const NETWORKS: usize = 16;

/// The addresses of the pod with this sandbox, as its container id; none where libcni kept nothing.
pub fn addresses(root: &Path, sandbox: &str) -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    for path in files(root, sandbox) {
        match read_optional(&path, FILE_MAX) {
            Ok(text) => found.extend(parse(&text.unwrap_or_default())),
            Err(error) => debug!("{error:#}"),
        }
    }
    found.into_iter().collect()
}

fn files(root: &Path, sandbox: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("var/lib/cni/results")) else { return Vec::new() };
    let part = format!("-{sandbox}-");
    // Links and folders are no results.
    let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    let of_pod = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.contains(&part)) && is_file(entry)
    };
    let entries = entries.take(MOST).flatten().filter(of_pod);
    entries.map(|entry| entry.path()).take(NETWORKS).collect()
}

#[derive(Deserialize)]
struct Cached {
    result: CniResult,
}

/// Of CNI 0.3.0 and later.
#[derive(Deserialize)]
struct CniResult {
    #[serde(default)]
    ips: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    /// `10.244.1.7/24`.
    address: String,
}

fn parse(text: &str) -> Vec<IpAddr> {
    let cached: Cached = match serde_json::from_str(text) {
        Ok(cached) => cached,
        Err(error) => {
            debug!("cannot understand a CNI result: {error}");
            return Vec::new();
        }
    };
    let ips = cached.result.ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse().ok());
    ips.filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const RESULT: &str = r#"{"kind":"cniCacheV1","containerId":"ID","config":"e30=","ifName":"eth0",
        "networkName":"cbr0","cniArgs":[["K8S_POD_NAMESPACE","shop"]],"result":{"cniVersion":"1.0.0",
        "interfaces":[{"name":"eth0","sandbox":"/var/run/netns/cni-0b8a"}],"ips":[
        {"interface":2,"address":"10.244.1.7/24","gateway":"10.244.1.1"},
        {"address":"fd00:244::7/64"},{"address":"127.0.0.1/8"},{"address":"odd"}]}}"#;

    #[test]
    fn the_sandbox_own_results() {
        let root = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|digit| digit.repeat(64));
        assert!(addresses(root.path(), &a).is_empty(), "no such folder");
        let dir = root.path().join("var/lib/cni/results");
        fs::create_dir_all(dir.join(format!("odd-{a}-net1"))).unwrap();
        fs::write(dir.join(format!("cbr0-{a}-eth0")), RESULT).unwrap();
        let other = RESULT.replace("10.244.1.7", "10.244.1.8");
        fs::write(dir.join(format!("cbr0-{b}-eth0")), &other).unwrap();
        fs::write(root.path().join("elsewhere"), &other).unwrap();
        symlink("../../../../elsewhere", dir.join(format!("link-{a}-eth0"))).unwrap();
        fs::write(dir.join(format!("garbled-{a}-eth0")), "{").unwrap();
        let expected: [IpAddr; 2] = ["10.244.1.7".parse().unwrap(), "fd00:244::7".parse().unwrap()];
        assert_eq!(addresses(root.path(), &a), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(\\PC|\\{|\"result\":|\"ips\":\\[){0,40}") {
            let _ = parse(&text);
        }
    }
}
