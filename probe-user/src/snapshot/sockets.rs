//! `/proc/PID/net/tcp` and `tcp6` (`net/ipv4/tcp_ipv4.c`, `tcp4_seq_show`; `net/ipv6/tcp_ipv6.c`,
//! `tcp6_seq_show`). Listening sockets come first, then all others. A node may have 100,000 of them
//! (15 MB), so reading stops where the budget ends.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::Result;

use super::lines::{self, Budget};

/// `include/net/tcp_states.h`.
pub const ESTABLISHED: u8 = 1;
pub const SYN_SENT: u8 = 2;
pub const LISTEN: u8 = 10;

/// Sockets kept of one table.
const MOST: usize = 4096;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// IPv4 addresses in IPv6 sockets are given as IPv4.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    /// Of a listening socket: connections that wait for accept().
    pub rx_queue: u32,
    /// Timeouts in a row (`icsk_retransmits`): of a connect, SYNs sent again.
    pub retransmits: u32,
    /// 0 of half-open connections.
    pub ino: u64,
}

/// What was read of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub sockets: Vec<Socket>,
    /// There is more.
    pub cut: bool,
}

/// Reads the sockets that `wanted` asks for; with `listening` only the listening ones, which is
/// cheap however many others there are. Lines that are not understood are passed over.
///
/// # Errors
/// When the file cannot be read. A file that does not exist (no IPv6) is an empty table.
pub fn read(
    path: &Path,
    listening: bool,
    budget: &Budget,
    wanted: impl Fn(&Socket) -> bool,
) -> Result<Table> {
    let mut table = Table::default();
    table.cut = lines::read(path, budget, |line| {
        let Some(socket) = parse(line) else { return true };
        if listening && socket.state != LISTEN {
            return false;
        }
        if wanted(&socket) {
            table.sockets.push(socket);
        }
        table.sockets.len() < MOST
    })?;
    table.cut |= table.sockets.len() >= MOST;
    Ok(table)
}

/// `  0: 0200F40A:9C40 0A00600A:0050 02 00000001:00000000 01:00000042 00000001  0  0 4711 2 …`
pub fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_suffix(':')?;
    let (local, remote) = (end(words.next()?)?, end(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (_, rx_queue) = words.next()?.split_once(':')?;
    let rx_queue = u32::from_str_radix(rx_queue, 16).ok()?;
    let _timer = words.next()?;
    let retransmits = u32::from_str_radix(words.next()?, 16).ok()?;
    let (_uid, _timeout) = (words.next()?, words.next()?);
    let ino = words.next()?.parse().ok()?;
    Some(Socket { local, remote, state, rx_queue, retransmits, ino })
}

/// Each 32 bits of the address as one hexadecimal number in the machine's byte order; the port as
/// people write it.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{
        fs,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                        retrnsmt   uid  timeout inode\n";
    const LISTENING: &str = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000002 00:00000000 \
                             00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n";
    const TRYING: &str = "   1: 0201F40A:9C40 0202F40A:1F90 02 00000001:00000000 01:000000A6 \
                          00000001     0        0 4712 2 0000000000000000 400 0 0 1 7\n";

    fn long() -> Budget {
        Budget::new(1 << 20, Duration::from_secs(60))
    }

    #[test]
    fn a_listener_and_a_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tcp");
        fs::write(&path, [HEAD, LISTENING, TRYING].concat()).unwrap();
        let all = read(&path, false, &long(), |_| true).unwrap();
        let [listener, trying] = all.sockets.as_slice() else { unreachable!("{all:?}") };
        assert_eq!((listener.state, listener.rx_queue, listener.ino), (LISTEN, 2, 4711));
        assert_eq!(listener.local, "0.0.0.0:8080".parse().unwrap());
        assert_eq!((trying.state, trying.retransmits), (SYN_SENT, 1));
        assert_eq!(trying.local, "10.244.1.2:40000".parse().unwrap());
        assert_eq!(trying.remote, "10.244.2.2:8080".parse().unwrap());
        assert!(!all.cut);
        let listening = read(&path, true, &long(), |_| true).unwrap();
        assert_eq!(listening.sockets, [*listener]);
        assert_eq!(read(&dir.path().join("tcp6"), false, &long(), |_| true).unwrap().sockets, []);
    }

    #[test]
    fn ipv6_and_ipv4_in_it() {
        let v6 = "1: 0000000000000000FFFF00000201F40A:9C40 000000FD000000000000000001000000:0050 \
                  02 0:0 01:0 00000003 0 0 9";
        let socket = parse(v6).unwrap();
        assert_eq!(socket.local, "10.244.1.2:40000".parse().unwrap());
        assert_eq!(socket.remote, "[fd00::1]:80".parse().unwrap());
        assert_eq!(socket.retransmits, 3);
    }

    #[test]
    fn the_budget_cuts_a_table_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tcp");
        fs::write(&path, [HEAD.to_owned(), TRYING.repeat(1000)].concat()).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        let budget = Budget::new(length / 2, Duration::from_secs(60));
        let table = read(&path, false, &budget, |_| true).unwrap();
        assert!(table.cut && (400..500).contains(&table.sockets.len()));
        assert_eq!(budget.left(), 0);
        let late = Budget::new(u64::MAX, Duration::ZERO);
        let table = read(&path, false, &late, |_| true).unwrap();
        assert!(table.cut && table.sockets.len() < 256);
        fs::write(&path, [HEAD, LISTENING, TRYING].concat()).unwrap();
        assert!(!read(&path, false, &late, |_| true).unwrap().cut, "a short one is read whole");
    }

    #[test]
    fn the_real_proc() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let path = Path::new("/proc/self/net/tcp");
        let table = read(path, true, &long(), |socket| socket.local == at).unwrap();
        assert_eq!(table.sockets.len(), 1);
        assert_eq!(table.sockets[0].rx_queue, 0);
    }

    #[test]
    #[ignore = "opens thousands of sockets, prints times"]
    #[expect(clippy::print_stderr, reason = "prints times")]
    fn cost() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let connect = |_| (std::net::TcpStream::connect(at).unwrap(), listener.accept().unwrap());
        let _open: Vec<_> = (0..8000).map(connect).collect();
        let path = Path::new("/proc/self/net/tcp");
        for (what, listening, bytes) in [
            ("whole table", false, u64::MAX),
            ("2 MB", false, 2 << 20),
            ("listeners", true, u64::MAX),
        ] {
            let start = Instant::now();
            let budget = Budget::new(bytes, Duration::from_secs(60));
            let table = read(path, listening, &budget, |s| s.state == SYN_SENT).unwrap();
            eprintln!("{what}: {:?}, cut {}", start.elapsed(), table.cut);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "([0-9A-F]{1,32}|:| |\\PC){0,60}") {
            let _ = parse(&line);
        }

        #[test]
        fn any_file_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000), most in 0..3000_u64) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("tcp");
            fs::write(&path, [TRYING.as_bytes(), &bytes].concat()).unwrap();
            let budget = Budget::new(most, Duration::from_secs(60));
            let table = read(&path, false, &budget, |_| true).unwrap();
            prop_assert!(table.sockets.len() <= bytes.len() + 1);
        }
    }
}
