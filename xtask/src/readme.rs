//! The part of the README that is made from a run.
use anyhow::{Context as _, Result};

const BEGIN: &str = "<!-- matrix: made by `cargo xtask vm --matrix --write-readme` -->\n";
const END: &str = "<!-- end of matrix -->\n";

/// The text with what is between the two markers replaced.
pub fn replace(text: &str, table: &str) -> Result<String> {
    let missing = |marker: &str| format!("there is no line {:?}", marker.trim_end());
    let (before, rest) = text.split_once(BEGIN).with_context(|| missing(BEGIN))?;
    let (_, after) = rest.split_once(END).with_context(|| missing(END))?;
    Ok(format!("{before}{BEGIN}\n{}\n\n{END}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = format!("a\n{BEGIN}old\n{END}b\n");
        let new = replace(&old, "| new |\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| new |\n\n{END}b\n"));
        assert_eq!(replace(&new, "| new |\n").unwrap(), new);
        assert!(replace("a\n", "x").is_err());
        assert!(replace(&format!("{END}{BEGIN}"), "x").is_err());
    }
}
