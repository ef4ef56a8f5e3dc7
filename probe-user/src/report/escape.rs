//! Text of a recording made safe for a page and for Markdown. Names of pods, processes and DNS are
//! chosen by whoever runs in a pod, and a recording may come from anybody.

use std::fmt::Write as _;

/// Appends `text` for HTML, as text or in a double-quoted attribute.
pub fn html(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => push_visible(out, c),
        }
    }
}

/// What a reader sees is what is there: characters that show nothing, or change how others are
/// shown, become `\u{…}`.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_visible(&mut out, c));
    out
}

fn push_visible(out: &mut String, c: char) {
    if is_hidden(c) {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// Control characters, other spaces than the plain one, and what Unicode calls format characters or
/// ignores by default: direction marks and overrides, joiners, fillers, variation selectors, tags;
/// and characters that have no meaning of their own.
fn is_hidden(c: char) -> bool {
    (c.is_whitespace() && c != ' ')
        || matches!(u32::from(c),
            0..=0x1f | 0x7f..=0x9f | 0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f
            | 0x890..=0x891 | 0x8e2 | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x2800 | 0x3164
            | 0xe000..=0xf8ff | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
            | 0xe0000..=0x10_ffff)
}

/// One line of Markdown that shows `text` and does nothing else, wherever a line's text may stand.
/// A pair of backticks in it stays a code span. Every other word that is not plain becomes one: it
/// could be a link, a mention, an emoji, a tag or emphasis in one of the many dialects of tickets,
/// and names and addresses read well so.
pub fn markdown(text: &str) -> String {
    let mut out = String::new();
    let text = text.trim_matches(' ');
    // Even pieces are outside of backticks. A last one without its pair is an odd word like others.
    let pieces: Vec<&str> = text.split('`').collect();
    let is_paired = pieces.len() % 2 == 1;
    for (n, piece) in pieces.iter().enumerate() {
        let is_code = n % 2 == 1;
        if is_code && (is_paired || n + 1 < pieces.len()) {
            code_span(&mut out, piece);
        } else {
            if is_code {
                code_span(&mut out, "`");
            }
            words(&mut out, piece);
        }
    }
    out
}

/// As [`markdown`], for the cell of a table, where a pipe would begin the next one even in code.
pub fn cell(text: &str) -> String {
    markdown(&text.replace('|', "\\u{7c}"))
}

/// Lines shown as they are. The fence is longer than any run of backticks in them.
pub fn fenced(lines: &[String]) -> String {
    let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    let mut out = format!("{fence}text\n");
    for line in lines {
        out.push_str(&visible(line));
        out.push('\n');
    }
    out.push_str(&fence);
    out.push('\n');
    out
}

fn words(out: &mut String, text: &str) {
    for (n, word) in text.split(' ').enumerate() {
        if n > 0 {
            out.push(' ');
        }
        // At the beginning a dash or a number could begin a list.
        let is_first = out.is_empty();
        let (before, core, after) = trimmed(word);
        let may_be_item = is_first && after.starts_with(['.', ')']);
        if is_plain(core, is_first) && !(may_be_item && core.bytes().all(|b| b.is_ascii_digit())) {
            out.push_str(word);
        } else {
            out.push_str(before);
            code_span(out, core);
            out.push_str(after);
        }
    }
}

/// Punctuation that a sentence has around its words.
fn trimmed(word: &str) -> (&str, &str, &str) {
    let core = word.trim_start_matches(['(', '"', '\'']);
    let before = &word[..word.len() - core.len()];
    let mut end = core;
    loop {
        let is_closed = end.matches(')').count() <= end.matches('(').count();
        let shorter = end.strip_suffix([',', '.', ';', ':', '"', '\'', '?', '%']);
        // `accept()` is one word.
        match shorter.or_else(|| end.strip_suffix(')').filter(|_| !is_closed)) {
            Some(shorter) => end = shorter,
            None => break,
        }
    }
    (before, end, &core[end.len()..])
}

/// Letters and digits, with dashes between them; a number; a time; or a sign that stands alone.
fn is_plain(core: &str, is_first: bool) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    let is_number = core.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let is_two = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    let is_time = core.contains(':') && core.split(':').all(is_two);
    let is_word = core.chars().all(|c| is_letter(c) || c == '-' || c == '\'')
        && core.starts_with(is_letter)
        && core.ends_with(is_letter);
    match core {
        "" => true,
        "-" | "+" | "/" | "=" | "->" | "·" | "→" => !is_first,
        _ if is_number || is_time => true,
        _ => is_word && !core.starts_with("GH-"),
    }
}

/// Code, in as many backticks as it takes. What is in it is shown as it is.
fn code_span(out: &mut String, text: &str) {
    let text = visible(text);
    // A span of nothing is none, and one of spaces alone shows none.
    let text = if text.trim().is_empty() { "\u{b7}" } else { text.trim() };
    let ticks = "`".repeat(longest_run(text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    // Two spans side by side would be one.
    if out.ends_with('`') {
        out.push(' ');
    }
    let _ = write!(out, "{ticks}{pad}{text}{pad}{ticks}");
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    /// What is left of a line when its code spans are taken out as CommonMark does: a run of
    /// backticks is closed by the next run of the same length.
    fn outside_code(line: &str) -> String {
        let bytes = line.as_bytes();
        let run = |at: usize| bytes[at..].iter().take_while(|b| **b == b'`').count();
        let (mut out, mut at) = (String::new(), 0);
        while at < bytes.len() {
            let ticks = run(at);
            if ticks == 0 {
                let c = line[at..].chars().next().unwrap_or(' ');
                out.push(c);
                at += c.len_utf8();
                continue;
            }
            let mut end = at + ticks;
            while end < bytes.len() && run(end) != ticks {
                end += run(end).max(1);
            }
            assert!(end < bytes.len(), "no end of the code at {at} of {line:?}");
            at = end + ticks;
            // Nothing of this place is text.
            out.push('\u{1}');
        }
        out
    }

    fn check(line: &str) -> Result<(), TestCaseError> {
        prop_assert!(!line.chars().any(is_hidden), "{line:?}");
        let outside = outside_code(line);
        for bad in ["`", "*", "_", "[", "]", "<", "&", "|", "#", "@", "~", "$", "\\", "//", "www."]
        {
            prop_assert!(!outside.contains(bad), "{bad} in {line:?}");
        }
        prop_assert!(!outside.starts_with(['-', '+', '>', '=']), "{line:?}");
        let digits = outside.trim_start_matches(|c: char| c.is_ascii_digit());
        let after = digits.strip_prefix(['.', ')']);
        let is_item = digits.len() < outside.len()
            && after.is_some_and(|after| after.is_empty() || after.starts_with(' '));
        prop_assert!(!is_item, "{line:?}");
        // `:name:` is an emoji; a name with a dot, or an address, is a link somewhere.
        for word in outside.split([' ', '\u{1}']) {
            let inner: Vec<char> = word.chars().collect();
            let links = inner.windows(3).any(|w| {
                let is = |c: char| c.is_alphanumeric();
                is(w[0])
                    && matches!(w[1], '.' | ':' | '/')
                    && is(w[2])
                    && !(w[0].is_ascii_digit() && w[2].is_ascii_digit() && w[1] != '/')
            });
            prop_assert!(!links, "{word} in {line:?}");
        }
        Ok(())
    }

    #[test]
    fn sentences_stay_readable() {
        for (text, wanted) in [
            ("two queries left, in 1.4 s (pid 812).", "two queries left, in 1.4 s (pid 812)."),
            ("pod shop/web-0 (getent 812)", "pod `shop/web-0` (getent 812)"),
            ("sent to 10.96.0.10:53, and", "sent to `10.96.0.10:53`, and"),
            ("`conntrack -S` (rises)", "`conntrack -S` (rises)"),
            ("udp a:1 -> b:2", "udp `a:1` -> `b:2`"),
            ("nf_ct_resolve_clash", "`nf_ct_resolve_clash`"),
            (
                "1 stall at 12:00:00 UTC, 100% (by accept()).",
                "1 stall at 12:00:00 UTC, 100% (by `accept()`).",
            ),
        ] {
            assert_eq!(markdown(text), wanted);
        }
    }

    #[test]
    fn nothing_of_markdown_survives() {
        for text in [
            "# heading",
            "- item",
            "+ item",
            "1. item",
            "1) item",
            "> quote",
            "    code",
            "***",
            "---",
            "===",
            "[a](http://x)",
            "![a](b)",
            "<b>x</b>",
            "<!-- x",
            "&lt;b&gt;",
            "a|b",
            "http://x.de",
            "www.x.de",
            "me@x.de",
            "@team",
            "#12",
            "GH-12",
            "a/b#1",
            ":bug:",
            "*a*",
            "_a_",
            "~~a~~",
            "$a$",
            "\\",
            "`",
            "``",
            "```",
            "a`b",
            "a``b`c",
            "` `",
            "`a",
            "x\ny",
            "\u{202e}x",
            "`\n`",
            "javascript:alert(1)",
            "\t- x",
            "fd00::1",
            "a `` b ` c",
        ] {
            check(&markdown(text)).unwrap_or_else(|err| panic!("{text:?}: {err}"));
            assert!(!cell(text).contains('|'), "{text:?}");
        }
        let lines = ["a ``` b".to_owned(), "````".to_owned(), "\n# x".to_owned()];
        assert_eq!(fenced(&lines), "`````text\na ``` b\n````\n\\u{a}# x\n`````\n");
    }

    #[test]
    fn characters_that_hide_are_seen() {
        let text = "a\u{1b}[2J\u{202e}b\u{200b}\u{feff}\u{ad}\u{a0}\u{e0041}\u{2066}\n";
        assert_eq!(
            visible(text),
            "a\\u{1b}[2J\\u{202e}b\\u{200b}\\u{feff}\\u{ad}\\u{a0}\\u{e0041}\\u{2066}\\u{a}"
        );
        assert_eq!(visible("größe → ok"), "größe → ok");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_without_markup(text in any::<String>()) {
            check(&markdown(&text))?;
            check(&cell(&text))?;
        }

        #[test]
        fn any_punctuation_is_one_line_without_markup(text in "[-`|\\\\ ab1.:/@<>&*_#\\[\\]()!\n]{0,24}") {
            check(&markdown(&text))?;
            check(&cell(&text))?;
            prop_assert!(!cell(&text).contains('|'));
        }

        #[test]
        fn html_has_no_character_of_markup(text in any::<String>()) {
            let mut out = String::new();
            html(&mut out, &text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            let entities = ["amp;", "lt;", "gt;", "quot;", "#39;"];
            for after in out.split('&').skip(1) {
                prop_assert!(entities.iter().any(|entity| after.starts_with(entity)), "{out}");
            }
            prop_assert!(!out.chars().any(is_hidden));
        }
    }
}
