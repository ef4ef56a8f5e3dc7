//! The beginning of a request that a probe's server did not read: correlation reads its method, its
//! path and who asks; the rest is nobody's business.

use super::{Redactor, label};

/// What correlation looks for stays wherever it is (`correlate/probe`).
const KEPT: [&[u8]; 2] = [b"User-Agent: kube-probe/", b"User-Agent: kube-lifecycle/"];
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A handshake record of TLS, and how long its own header is.
const TLS: &[u8] = &[0x16, 3];
const TLS_HEADER: usize = 5;

/// Headers whose names everybody uses; values are replaced all the same.
const HEADERS: &[&[u8]] = &[b"Host", b"User-Agent", b"Accept", b"Connection", b"Accept-Encoding"];
/// Words of paths that everybody uses.
const PATHS: &[&[u8]] = &[
    b"healthz",
    b"livez",
    b"readyz",
    b"health",
    b"healthy",
    b"live",
    b"liveness",
    b"ready",
    b"readiness",
    b"startup",
    b"status",
    b"ping",
    b"metrics",
    b"actuator",
    b"api",
    b"v1",
    b"v2",
];

impl Redactor {
    pub(super) fn request(&mut self, bytes: &mut [u8]) {
        let old = bytes.to_vec();
        if old.starts_with(&HTTP2[..16]) {
            keep(bytes, HTTP2.iter().zip(&old).take_while(|(a, b)| a == b).count());
        } else if old.starts_with(TLS) {
            keep(bytes, TLS_HEADER);
        } else if let Some(method) = method(&old) {
            self.http(bytes, method);
        } else {
            keep(bytes, 0);
        }
        for kept in KEPT {
            for at in 0..old.len() {
                if old.get(at..).is_some_and(|rest| rest.starts_with(kept))
                    && let Some(place) = bytes.get_mut(at..at + kept.len())
                {
                    place.copy_from_slice(kept);
                }
            }
        }
    }

    fn http(&mut self, bytes: &mut [u8], method: usize) {
        let (_, rest) = bytes.split_at_mut(method + 1);
        let end = rest.iter().position(|b| matches!(b, b' ' | b'\r')).unwrap_or(rest.len());
        let (path, rest) = rest.split_at_mut(end);
        for word in path.split_mut(|b| !b.is_ascii_alphanumeric()) {
            if !PATHS.contains(&&*word) {
                let new = label::label(&self.key, word);
                word.copy_from_slice(&new);
            }
        }
        for byte in path.iter_mut() {
            if !byte.is_ascii_alphanumeric() && !b"/-_.~%?&=:,;@+".contains(byte) {
                *byte = b'~';
            }
        }
        for (n, line) in rest.split_mut(|b| *b == b'\n').enumerate() {
            if n == 0 {
                blot(line, if line.starts_with(b" HTTP/1.") { 9 } else { 0 });
                continue;
            }
            let name = line.iter().position(|b| *b == b':').unwrap_or(0);
            let is_known = line.get(..name).is_some_and(|name| HEADERS.contains(&name));
            blot(line, if is_known { name } else { 0 });
        }
    }
}

/// How long the method is, of a request that correlation would tell.
fn method(bytes: &[u8]) -> Option<usize> {
    let methods: [&[u8]; 3] = [b"GET", b"HEAD", b"POST"];
    methods
        .into_iter()
        .find(|m| {
            bytes.starts_with(m) && bytes.get(m.len()..).is_some_and(|r| r.starts_with(b" /"))
        })
        .map(<[u8]>::len)
}

/// Only so many first bytes stay.
fn keep(bytes: &mut [u8], count: usize) {
    if let Some(rest) = bytes.get_mut(count..) {
        rest.fill(0);
    }
}

/// Behind the first bytes, letters and digits become `x`, and bytes that are no signs of a header.
fn blot(line: &mut [u8], kept: usize) {
    for byte in line.iter_mut().skip(kept) {
        if !matches!(*byte, b' ' | b'\r' | b':' | b'.' | b'/') {
            *byte = b'x';
        }
    }
}
