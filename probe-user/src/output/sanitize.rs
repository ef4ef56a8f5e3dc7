//! Untrusted bytes made safe for a terminal: DNS names and process names are chosen by whoever
//! runs in a pod.

use std::fmt::Write as _;

use crate::event::Container;

/// Printable form of `bytes`: 0x21 to 0x7e stay as they are, a space too, except that a backslash
/// is doubled; all else becomes `\xNN`. So no escape sequence, control character or look-alike
/// letter reaches the terminal, and two different inputs never print the same.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        push(&mut out, byte);
    }
    out
}

/// As [`printable`], up to the first zero byte: for C strings in fixed fields such as `comm`.
pub fn c_string(bytes: &[u8]) -> String {
    printable(bytes.split(|b| *b == 0).next().unwrap_or_default())
}

/// A DNS name in wire format (length, label, …) as text, without the final dot; `.` for the root.
/// A name that was cut or is malformed ends with `...`. Dots and backslashes inside a label, and
/// spaces, are escaped as well.
pub fn dns_name(mut wire: &[u8]) -> String {
    let mut out = String::new();
    loop {
        match wire.split_first() {
            Some((0, _)) if out.is_empty() => return ".".to_owned(),
            Some((0, _)) => return out,
            Some((&len, rest)) if usize::from(len) <= 63 && usize::from(len) <= rest.len() => {
                if !out.is_empty() {
                    out.push('.');
                }
                let (label, rest) = rest.split_at(usize::from(len));
                for &byte in label {
                    if byte == b'.' || byte == b' ' {
                        let _ = write!(out, "\\x{byte:02x}");
                    } else {
                        push(&mut out, byte);
                    }
                }
                wire = rest;
            }
            _ => {
                out.push_str("...");
                return out;
            }
        }
    }
}

/// Text that came from elsewhere (a recording, another tool), made printable.
pub fn text(text: &str) -> String {
    printable(text.as_bytes())
}

/// Text of a recording that should be printable already, as live made it when it entered the stream
/// (`pods::procfs::printable`): what is not is escaped now. `None` when it is as it should be. A
/// backslash stays alone, so that what was escaped once stays the same.
///
/// All text goes through [`text`] once more. The header in `output::json` does not (version, kube-proxy's
/// mode, why there is no eBPF, hooks and why they are not attached): it relies on this.
pub fn again(text: &str) -> Option<String> {
    let stays = |c: char| {
        matches!(c, ' '..='~') || {
            let mut escaped = c.escape_debug();
            escaped.next() == Some(c) && escaped.next().is_none()
        }
    };
    if text.chars().all(stays) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if stays(c) {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    Some(out)
}

/// A name as it may stand in a command that a person pastes into a shell; `None` of any other: whoever runs
/// in a pod may ask for `$(reboot)`, or for `-f` and a file.
pub fn shell_word(name: &str) -> Option<&str> {
    let begins = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let goes_on = |byte| begins(byte) || byte == b'-';
    (name.bytes().next().is_some_and(begins) && name.bytes().all(goes_on)).then_some(name)
}

fn push(out: &mut String, byte: u8) {
    match byte {
        b'\\' => out.push_str("\\\\"),
        0x20..=0x7e => out.push(char::from(byte)),
        _ => {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

/// A container whose id and name are fit to be printed.
pub fn container(of: &Container) -> Container {
    Container { id: text(&of.id), name: of.name.as_deref().map(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_do_not_survive() {
        assert_eq!(printable(b"a\x1b[31mb\\"), "a\\x1b[31mb\\\\");
        assert_eq!(c_string(b"nginx\0\0\0garbage"), "nginx");
        assert_eq!(c_string("b\u{e9}".as_bytes()), "b\\xc3\\xa9");
    }

    #[test]
    fn words_for_a_shell() {
        for word in ["eth0", "ens5.100", "_dmarc.a-b.example", "."] {
            assert_eq!(shell_word(word), Some(word));
        }
        let odd =
            ["", "-f", "+x", "@a", "a b", "a`b", "$(x)", "a;b", "a\\x20", "a'b", "a/b", "\u{e4}"];
        for word in odd {
            assert_eq!(shell_word(word), None, "{word}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(dns_name(b"\x03svc\x07cluster\x05local\0"), "svc.cluster.local");
        assert_eq!(dns_name(b"\0"), ".");
        assert_eq!(dns_name(b"\x03a.b\0"), "a\\x2eb");
        assert_eq!(dns_name(b"\x03abc\x20cut"), "abc...");
        assert_eq!(dns_name(b""), "...");
        assert_eq!(dns_name(b"\xc0\x0c"), "...");
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_printable_ascii(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for out in [printable(&bytes), c_string(&bytes), dns_name(&bytes)] {
                prop_assert!(out.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{}", out);
            }
        }
    }
}
