//! Addresses of services as pods know them: the variables that the kubelet puts into the environment
//! of each container, and the nameserver of a pod that asks the cluster's DNS service. Nothing else
//! of an environment is kept.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use probe_common::net::{IPPROTO_TCP, IPPROTO_UDP};

use super::procfs::{open, printable};
use crate::event::Service;

/// Bytes of an environment, and of a resolv.conf, that are looked at.
const ENVIRON_MAX: u64 = 256 << 10;
const RESOLV_CONF_MAX: u64 = 16 << 10;
/// Services taken from one process.
const MOST: usize = 4096;

/// The services that the process knows; nothing when it is gone or may not be looked at.
pub fn read(root: &Path, pid: u32) -> Vec<Service> {
    let dir = root.join(format!("proc/{pid}"));
    let mut bytes = Vec::new();
    let environ = open(&dir.join("environ"));
    let _ = environ.and_then(|file| file.take(ENVIRON_MAX).read_to_end(&mut bytes));
    let mut found = links(&bytes, pid);
    let resolv_conf = beneath(&dir.join("root"), c"etc/resolv.conf");
    let mut bytes = Vec::new();
    if resolv_conf.and_then(|f| f.take(RESOLV_CONF_MAX).read_to_end(&mut bytes)).is_ok() {
        found.extend(cluster_dns(&String::from_utf8_lossy(&bytes), pid));
    }
    found
}

/// `SHOP_SERVICE_HOST=10.96.0.20` and `SHOP_PORT_80_TCP=tcp://10.96.0.20:80`
/// (kubernetes/kubernetes, pkg/kubelet/envvars). Both must agree: people set variables like one of
/// them by hand.
fn links(environ: &[u8], pid: u32) -> Vec<Service> {
    let variables = || {
        environ.split(|byte| *byte == 0).filter_map(|variable| {
            let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
            Some((name, value))
        })
    };
    let hosts: HashMap<&str, IpAddr> = variables()
        .filter_map(|(name, value)| {
            Some((name.strip_suffix("_SERVICE_HOST")?, value.parse().ok()?))
        })
        .collect();
    let service = |(variable, value): (&str, &str)| {
        let (rest, proto) = variable.rsplit_once('_')?;
        let (name, port) = rest.rsplit_once("_PORT_")?;
        let (proto, scheme) = match proto {
            "TCP" => (IPPROTO_TCP, "tcp://"),
            "UDP" => (IPPROTO_UDP, "udp://"),
            _ => return None,
        };
        let address: SocketAddr = value.strip_prefix(scheme)?.parse().ok()?;
        let agrees = hosts.get(name) == Some(&address.ip()) && port.parse() == Ok(address.port());
        let name = printable(name.to_ascii_lowercase().replace('_', "-").as_bytes());
        agrees.then_some(Service { proto, address, name: Some(name), pid })
    };
    variables().filter_map(service).take(MOST).collect()
}

/// The nameservers of a pod that asks the cluster's DNS first: its search list begins with its
/// namespace and `svc.`. A link-local one is a cache on the node and no service.
fn cluster_dns(text: &str, pid: u32) -> Vec<Service> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?.to_owned(), words.map(str::to_owned).collect::<Vec<_>>()))
    };
    let lines: Vec<(String, Vec<String>)> = text.lines().filter_map(line).collect();
    let searches = lines.iter().filter(|(key, _)| key == "search").flat_map(|(_, words)| words);
    if !searches.clone().any(|domain| domain.starts_with("svc.")) {
        return Vec::new();
    }
    // Those that follow may be written by hand (dnsConfig) and be no service.
    let servers = lines.iter().filter(|(key, _)| key == "nameserver").take(1);
    let addresses = servers.filter_map(|(_, words)| words.first()?.parse::<IpAddr>().ok());
    addresses
        .filter(|ip| match ip {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
        })
        .flat_map(|ip| {
            [IPPROTO_UDP, IPPROTO_TCP].map(|proto| Service {
                proto,
                address: SocketAddr::new(ip, 53),
                name: None,
                pid,
            })
        })
        .collect()
}

/// Opens a plain file below a folder that a container may have filled as it likes: links stay
/// inside (openat2(2), since 5.6), and what is no plain file is not opened.
fn beneath(folder: &Path, path: &std::ffi::CStr) -> io::Result<File> {
    let folder = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)?;
    // SAFETY: all zeros is a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::try_from(libc::O_PATH | libc::O_CLOEXEC).unwrap_or(0);
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a valid descriptor, a NUL-terminated path, a valid open_how and its size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            folder.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::Other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let place = unsafe { File::from_raw_fd(fd) };
    if !place.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // An O_PATH descriptor cannot be read: this opens the same file for reading.
    File::open(format!("/proc/self/fd/{fd}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    fn environ(variables: &[&str]) -> Vec<u8> {
        variables.join("\0").into_bytes()
    }

    fn shown(found: &[Service]) -> Vec<String> {
        let one =
            |s: &Service| format!("{} {} {}", s.proto, s.address, s.name.as_deref().unwrap_or("-"));
        found.iter().map(one).collect()
    }

    #[test]
    fn variables_as_the_kubelet_writes_them() {
        let environ = environ(&[
            "PATH=/bin",
            "SHOP_API_SERVICE_HOST=10.96.0.20",
            "SHOP_API_SERVICE_PORT=80",
            "SHOP_API_PORT=tcp://10.96.0.20:80",
            "SHOP_API_PORT_80_TCP=tcp://10.96.0.20:80",
            "SHOP_API_PORT_80_TCP_PROTO=tcp",
            "SHOP_API_PORT_53_UDP=udp://10.96.0.20:53",
            "DB_SERVICE_HOST=fd00:96::7",
            "DB_PORT_5432_TCP=tcp://[fd00:96::7]:5432",
        ]);
        assert_eq!(
            shown(&links(&environ, 7)),
            ["6 10.96.0.20:80 shop-api", "17 10.96.0.20:53 shop-api", "6 [fd00:96::7]:5432 db"]
        );
    }

    #[test]
    fn variables_that_only_look_so() {
        let environ = environ(&[
            "REDIS_PORT_6379_TCP=tcp://10.244.1.9:6379",
            "A_SERVICE_HOST=10.96.0.20",
            "A_PORT_80_TCP=tcp://10.96.0.21:80",
            "A_PORT_81_TCP=tcp://10.96.0.20:80",
            "A_PORT_80_SCTP=sctp://10.96.0.20:80",
            "A_PORT_80_TCP",
            "_PORT__TCP=tcp://",
        ]);
        assert_eq!(shown(&links(&environ, 7)), Vec::<String>::new());
    }

    #[test]
    fn the_nameserver_of_a_pod() {
        let conf = "search default.svc.cluster.local svc.cluster.local cluster.local\n\
                    nameserver 10.96.0.10\nnameserver 169.254.20.10\noptions ndots:5\n";
        assert_eq!(shown(&cluster_dns(conf, 7)), ["17 10.96.0.10:53 -", "6 10.96.0.10:53 -"]);
        assert!(cluster_dns("nameserver 10.0.0.2\nsearch example.com\n", 7).is_empty());
        assert!(cluster_dns("nameserver 10.0.0.2\n", 7).is_empty());
    }

    #[test]
    fn a_container_cannot_lead_out_of_its_root() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("proc/7/root/etc");
        fs::create_dir_all(&etc).unwrap();
        let conf = "search svc.cluster.local\nnameserver 10.96.0.10\n";
        fs::write(root.path().join("secret"), conf).unwrap();
        symlink(root.path().join("secret"), etc.join("resolv.conf")).unwrap();
        assert!(read(root.path(), 7).is_empty());
        fs::remove_file(etc.join("resolv.conf")).unwrap();
        fs::create_dir(etc.join("resolv.conf")).unwrap();
        assert!(read(root.path(), 7).is_empty());
        fs::remove_dir(etc.join("resolv.conf")).unwrap();
        fs::write(etc.join("other"), conf).unwrap();
        symlink("/etc/other", etc.join("resolv.conf")).unwrap();
        assert_eq!(read(root.path(), 7).len(), 2, "a link inside is followed there");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, text in "(search|nameserver|svc\\.|[ \n.:a1]){0,40}") {
            let _ = links(&bytes, 1);
            let _ = cluster_dns(&text, 1);
        }
    }
}
