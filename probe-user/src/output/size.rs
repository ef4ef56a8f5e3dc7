//! Sizes of files in words.

/// `512 bytes`, `1.2 kB`, `34 MB`: by thousands, as `--max-size` takes them.
pub fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1000 => return super::time::counted(bytes, "byte"),
        1000..1_000_000 => (1000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    match bytes / unit {
        n @ 0..10 => format!("{n}.{} {name}", bytes % unit * 10 / unit),
        n => format!("{n} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let said: Vec<_> =
            [1, 999, 1000, 1250, 12_500, 999_999, 34_000_000, 2_100_000_000].map(size).to_vec();
        let want =
            ["1 byte", "999 bytes", "1.0 kB", "1.2 kB", "12 kB", "999 kB", "34 MB", "2.1 GB"];
        assert_eq!(said, want);
    }
}
