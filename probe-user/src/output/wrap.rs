//! Lines broken at words, under a heading in the left margin.

/// Appends `heading`, padded to `indent` columns, then `text`, broken so that lines are at most
/// `width` columns where words allow; later lines begin at column `indent`.
pub fn block(out: &mut String, heading: &str, indent: usize, text: &str, width: usize) {
    out.push_str(&format!("{heading:indent$}"));
    let mut column = indent.max(columns(heading));
    let mut is_first = true;
    for word in text.split(' ') {
        let len = columns(word);
        if !is_first && column + 1 + len > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
        is_first = false;
    }
    out.push('\n');
}

/// Columns a text takes: colours take none.
fn columns(text: &str) -> usize {
    let mut is_colour = false;
    text.chars()
        .filter(|c| {
            let hidden = is_colour || *c == '\x1b';
            is_colour = hidden && *c != 'm';
            !hidden
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_at_words_and_keeps_long_ones_whole() {
        let mut out = String::new();
        block(&mut out, "  fix", 6, "one two three-is-very-long four", 12);
        assert_eq!(out, "  fix one\n      two\n      three-is-very-long\n      four\n");
    }
}
