//! The part of the README that is made from a run.
use anyhow::{Context as _, Result, ensure};

use crate::kernels::Series;

const BEGIN: &str = "<!-- matrix: made by `cargo xtask vm --matrix --write-readme` -->\n";
const END: &str = "<!-- end of matrix -->\n";

/// Refuses a table that would lack a kernel.
pub fn every_kernel(chosen: &[String], left_out: &[(&'static Series, String)]) -> Result<()> {
    ensure!(
        chosen.is_empty(),
        "--write-readme renews the whole table: leave out --kernel, or leave out --write-readme"
    );
    let missing: Vec<String> =
        left_out.iter().map(|(series, why)| format!("{}: {why}", series.name)).collect();
    ensure!(
        missing.is_empty(),
        "--write-readme renews the whole table, and these kernels cannot be had ({}): \
         try again later, or leave out --write-readme",
        missing.join("; ")
    );
    Ok(())
}

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
    fn a_table_that_lacks_a_kernel_is_refused() {
        every_kernel(&[], &[]).unwrap();
        assert!(every_kernel(&["6.1".to_owned()], &[]).is_err());
        let series = crate::kernels::by_name("7.2").unwrap();
        let error = every_kernel(&[], &[(series, "no mirror".to_owned())]).unwrap_err();
        assert!(error.to_string().contains("(7.2: no mirror)"), "{error}");
    }

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
