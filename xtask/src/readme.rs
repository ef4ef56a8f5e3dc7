//! The parts of the README that are made from a run.
use anyhow::{Context as _, Result, ensure};

use crate::{arch::Arch, kernels::Series};

/// The lines around a table.
pub struct Markers {
    begin: &'static str,
    end: &'static str,
}

/// Causes and kernels.
pub const KERNELS: Markers = Markers {
    begin: "<!-- matrix: made by `cargo xtask vm --matrix --write-readme` -->\n",
    end: "<!-- end of matrix -->\n",
};

/// Causes and rungs of the ladder.
pub const RUNGS: Markers = Markers {
    begin: "<!-- rungs: made by `cargo xtask vm --matrix --write-readme` -->\n",
    end: "<!-- end of rungs -->\n",
};

/// Refuses a table that would lack a kernel.
pub fn every_kernel(chosen: &[String], left_out: &[(&'static Series, String)]) -> Result<()> {
    ensure!(
        chosen.is_empty(),
        "--write-readme renews the whole table: leave out --kernel, or leave out --write-readme"
    );
    // The tables have one architecture.
    let missing: Vec<String> = left_out
        .iter()
        .filter(|(series, _)| series.arch == Arch::X86_64)
        .map(|(series, why)| format!("{}: {why}", series.name))
        .collect();
    ensure!(
        missing.is_empty(),
        "--write-readme renews the whole table, and these kernels cannot be had ({}): \
         try again later, or leave out --write-readme",
        missing.join("; ")
    );
    Ok(())
}

/// The text with what is between the two markers replaced.
pub fn replace(text: &str, markers: &Markers, table: &str) -> Result<String> {
    let &Markers { begin, end } = markers;
    let missing = |marker: &str| format!("there is no line {:?}", marker.trim_end());
    let (before, rest) = text.split_once(begin).with_context(|| missing(begin))?;
    let (_, after) = rest.split_once(end).with_context(|| missing(end))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", table.trim()))
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
        let Markers { begin, end } = RUNGS;
        let old = format!("a\n{begin}old\n{end}b\n");
        let new = replace(&old, &RUNGS, "| new |\n").unwrap();
        assert_eq!(new, format!("a\n{begin}\n| new |\n\n{end}b\n"));
        assert_eq!(replace(&new, &RUNGS, "| new |\n").unwrap(), new);
        assert!(replace(&new, &KERNELS, "x").is_err());
        assert!(replace("a\n", &RUNGS, "x").is_err());
        assert!(replace(&format!("{end}{begin}"), &RUNGS, "x").is_err());
    }

    #[test]
    fn the_readme_has_a_place_for_each_table() {
        let path = crate::artifacts::root().join("README.md");
        let text = std::fs::read_to_string(path).unwrap();
        for markers in [KERNELS, RUNGS] {
            replace(&text, &markers, "x").unwrap();
        }
    }
}
