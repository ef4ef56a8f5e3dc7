//! Reasons in words. They are stallprobe's own, but an error in them may name an address, a file or the
//! node.

use std::net::{IpAddr, SocketAddr};

use super::Redactor;

/// First folders of paths that are the same on every node.
const COMMON: &[&str] =
    &["bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tmp", "usr", "var"];

impl Redactor {
    /// Words that are addresses, names already known or files of somebody's own are replaced.
    pub(super) fn text(&mut self, text: &str) -> String {
        let is_between = |c: char| c.is_whitespace() || "\"'`(),;=<>".contains(c);
        let mut out = String::with_capacity(text.len());
        for piece in text.split_inclusive(is_between) {
            let word = piece.trim_end_matches(|c| is_between(c) || c == ':' || c == '.');
            out.push_str(&self.word(word));
            out.push_str(piece.get(word.len()..).unwrap_or_default());
        }
        out
    }

    fn word(&mut self, word: &str) -> String {
        if let Some(new) = self.names.known(word) {
            return new.clone();
        }
        if let Ok(ip) = word.parse::<IpAddr>() {
            return self.ip(ip).to_string();
        }
        if let Ok(socket) = word.parse::<SocketAddr>() {
            return self.socket(socket).to_string();
        }
        if let Some((ip, length)) = word.split_once('/')
            && let Ok(ip) = ip.parse::<IpAddr>()
        {
            return format!("{}/{length}", self.ip(ip));
        }
        match word.strip_prefix('/').and_then(|path| path.split('/').next()) {
            Some(first) if !COMMON.contains(&first) => "/...".to_owned(),
            _ => word.to_owned(),
        }
    }
}
