//! kube-proxy in IPVS mode puts the addresses of all services on one interface of the node. They
//! look like the node's own, and findings would call every service "host".

use std::{
    collections::BTreeSet,
    ffi::CStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    ptr,
};

use super::procfs::{TEXT_MAX, read_text};

/// That interface.
pub const DEVICE: &str = "kube-ipvs0";

/// Whether the namespace shown by `net` (`/proc/PID/net`) has [`DEVICE`].
pub fn has_device(net: &Path) -> bool {
    read_text(&net.join("dev"), TEXT_MAX).is_ok_and(|text| {
        text.lines().any(|line| {
            line.trim_start().strip_prefix(DEVICE).is_some_and(|rest| rest.starts_with(':'))
        })
    })
}

/// The addresses that only [`DEVICE`] has in the namespace of the calling thread.
///
/// # Errors
/// When the kernel does not tell the addresses.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(only_on(DEVICE, &by_device()?))
}

fn only_on(device: &str, all: &[(String, IpAddr)]) -> BTreeSet<IpAddr> {
    let of = |wanted: bool| {
        all.iter().filter(move |(name, _)| (name == device) == wanted).map(|(_, address)| *address)
    };
    let others: BTreeSet<IpAddr> = of(false).collect();
    of(true).filter(|address| !others.contains(address)).collect()
}

/// All addresses of the namespace of the calling thread with the names of their interfaces.
fn by_device() -> io::Result<Vec<(String, IpAddr)>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `list` is a place for one pointer; it is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: each `ifa_next` of the list is null or a valid entry until freeifaddrs.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: the list owns the address, null or as long as its family says.
        let Some(address) = (unsafe { ip(entry.ifa_addr) }) else { continue };
        // SAFETY: the name is a C string that lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        found.push((name.to_string_lossy().into_owned(), address));
    }
    // SAFETY: the list came from getifaddrs, and nothing in `found` points into it.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address that is as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and each socket address begins with its family.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: of this family it is a sockaddr_in; alignment is not assumed.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a sockaddr_in6; alignment is not assumed.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_another_interface_has_too_is_not_a_service() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = [
            ("eth0".to_owned(), ip("192.0.2.1")),
            (DEVICE.to_owned(), ip("10.96.0.1")),
            (DEVICE.to_owned(), ip("192.0.2.1")),
            (DEVICE.to_owned(), ip("fd00::1")),
        ];
        assert_eq!(only_on(DEVICE, &all), BTreeSet::from([ip("10.96.0.1"), ip("fd00::1")]));
    }

    #[test]
    fn our_own_addresses() {
        let found = by_device().unwrap();
        let text = std::fs::read_to_string("/proc/self/net/fib_trie").unwrap();
        for address in crate::pods::addresses::fib_trie(&text) {
            assert!(found.iter().any(|(_, found)| *found == address), "{address}");
        }
    }

    #[test]
    fn finds_the_interface_by_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_device(dir.path()));
        std::fs::write(dir.path().join("dev"), "Inter-|\n kube-ipvs01: 0\n xkube-ipvs0: 0\n")
            .unwrap();
        assert!(!has_device(dir.path()));
        std::fs::write(dir.path().join("dev"), "Inter-|\n  kube-ipvs0: 0 0\n").unwrap();
        assert!(has_device(dir.path()));
    }
}
