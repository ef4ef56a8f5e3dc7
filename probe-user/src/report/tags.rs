//! Writes HTML. Tags and names of attributes are those of our own code; text and values are escaped
//! here and nowhere else, so that there is no way to write them raw.

use super::escape;

/// A tag's attributes: names and values.
pub type Attributes<'a> = &'a [(&'static str, &'a str)];

/// A page that grows at its end.
#[derive(Debug, Default)]
pub struct Html {
    out: String,
}

impl Html {
    /// The page begun, in which everything else is.
    pub fn document() -> Self {
        Self { out: "<!DOCTYPE html>\n".to_owned() }
    }

    /// A tag with whatever `inside` writes.
    pub fn tag(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        inside(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        if !IN_LINES.contains(&name) {
            self.out.push('\n');
        }
    }

    /// A tag with text in it.
    pub fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: &str) {
        self.tag(name, attributes, |html| html.text(text));
    }

    /// A tag that has no end (`meta`).
    pub fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.open(name, attributes);
        self.out.push('\n');
    }

    pub fn text(&mut self, text: &str) {
        escape::html(&mut self.out, text);
    }

    /// Text in which a pair of backticks makes code.
    pub fn prose(&mut self, text: &str) {
        let pieces: Vec<&str> = text.split('`').collect();
        for (n, piece) in pieces.iter().enumerate() {
            if n % 2 == 1 && n + 1 < pieces.len() {
                self.leaf("code", &[], piece);
            } else {
                self.text(if n % 2 == 1 { "`" } else { "" });
                self.text(piece);
            }
        }
    }

    /// The style sheet, which is ours and not escaped: within `style` nothing would be.
    pub fn style(&mut self, css: &'static str) {
        self.open("style", &[]);
        self.out.push_str(css);
        self.out.push_str("</style>\n");
    }

    pub fn finish(self) -> String {
        self.out
    }

    fn open(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.out.push('<');
        self.out.push_str(name);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape::html(&mut self.out, value);
            self.out.push('"');
        }
        self.out.push('>');
    }
}

/// Tags in lines of text, after which a line break would be a space.
const IN_LINES: [&str; 6] = ["a", "code", "span", "b", "small", "strong"];
