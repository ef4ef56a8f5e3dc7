//! The two tables of a run: causes and kernels, and on one kernel causes and rungs of the ladder.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    artifacts, kernels,
    kernels::Series,
    lab::{Done, Job},
    ladder::{MAIN, Rung},
    matrix::Matrix,
    progress::note,
    readme,
};

#[derive(Default)]
pub struct Tables {
    kernels: Matrix,
    rungs: Matrix,
}

impl Tables {
    /// Takes in what came of a job. What was to run on [`MAIN`] with everything stands in both tables.
    /// A few cases on another architecture would be a column of gaps.
    pub fn add_done(&mut self, job: &Job, done: Result<&Done, &anyhow::Error>) {
        if job.series.arch != Arch::X86_64 {
            return;
        }
        let (series, output) = match done {
            Ok(done) => (done.series(), String::from_utf8_lossy(&done.report.output)),
            Err(_) => (job.series.name.to_owned(), "".into()),
        };
        self.add(job, &series, &output);
    }

    fn add(&mut self, job: &Job, series: &str, output: &str) {
        if job.rung == Rung::Fentry {
            self.kernels.add(series, output, kernels::version);
        }
        if job.series.name == MAIN {
            self.rungs.add(job.rung.name(), output, |name| {
                Rung::ALL.iter().position(|rung| rung.name() == name)
            });
        }
    }

    /// A kernel that cannot be had.
    pub fn add_left_out(&mut self, series: &Series) {
        if series.arch == Arch::X86_64 {
            self.kernels.add(series.name, "", kernels::version);
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        if self.rungs.columns() < 2 {
            return self.kernels.text();
        }
        format!(
            "{}\non {MAIN}, by the rungs of the ladder:\n{}",
            self.kernels.text(),
            self.rungs.text()
        )
    }

    /// Puts the tables into README.md.
    pub fn write_readme(&self) -> Result<()> {
        let path = artifacts::root().join("README.md");
        let old =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = readme::replace(&old, &readme::KERNELS, &self.kernels.markdown())
            .and_then(|text| readme::replace(&text, &readme::RUNGS, &self.rungs.markdown()))
            .with_context(|| format!("{} cannot take the tables", path.display()))?;
        fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
        note("the tables in README.md are new");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::ladder;

    #[test]
    fn the_kernel_of_the_ladder_is_in_both_tables() {
        let mut tables = Tables::default();
        let series = |name| kernels::by_name(name).unwrap();
        let mut other = Job::on(series("7.2"), Vec::new(), "");
        tables.add(&other, "7.2", "named a certain\n");
        // From the lowest rung to the topmost.
        for job in ladder::jobs(series(MAIN), true).iter().rev() {
            let told = match job.rung {
                Rung::Snapshot => "unseen a no hooks\nnamed b likely\n",
                Rung::Tracepoint => "",
                _ => "named a certain\nfailed b\n",
            };
            tables.add(job, MAIN, told);
        }
        other.series = series(MAIN);
        tables.add(&other, MAIN, "named a certain\nnamed b certain\n");
        assert_eq!(
            tables.text(),
            "   6.12              7.2\n\
             a  certain           certain\n\
             b  certain           not run\n\
             \n\
             on 6.12, by the rungs of the ladder:\n\
             \x20  fentry            kprobe            tracepoint        snapshot\n\
             a  certain           certain           not run           not seen (1)\n\
             b  certain           FAILED            not run           likely\n\
             (1) no hooks\n"
        );
    }

    #[test]
    fn one_rung_makes_no_table() {
        let mut tables = Tables::default();
        let job = Job::on(kernels::by_name(MAIN).unwrap(), Vec::new(), "");
        tables.add(&job, MAIN, "named a certain\n");
        assert_eq!(tables.text(), "   6.12\na  certain\n");
    }
}
