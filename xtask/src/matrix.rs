//! `cargo xtask vm --matrix`: which cause is named on which kernel, from a real fault in each cell.
use std::{collections::BTreeMap, fs, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    artifacts::{self, Artifacts},
    kernels,
    lab::{self, Done, Job},
    progress::note,
    readme, setup, vm,
};

/// What became of one cause's faults on one kernel.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Confidences with which cases named it, best first.
    named: Vec<Confidence>,
    /// Why it cannot be seen there.
    unseen: Option<String>,
    /// Why a case of it cannot be made there.
    absent: Option<String>,
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Confidence {
    Certain,
    Likely,
    Possible,
}

/// Causes in the order in which the lab has them, and kernels from old to new.
#[derive(Debug, Default)]
pub struct Matrix {
    causes: Vec<String>,
    kernels: Vec<String>,
    cells: BTreeMap<(String, String), Cell>,
}

/// Runs the lab on these kernels, all by default, and prints the table.
pub fn run(options: &vm::Options) -> Result<ExitCode> {
    let wanted = setup::prepare_named(&options.kernels)?;
    if options.write_readme {
        readme::every_kernel(&options.kernels, &wanted.left_out)?;
    }
    let artifacts = Artifacts::provide(options.no_build)?;
    // Only the cases that show a cause; `cargo xtask test` runs look-alikes and all else.
    let arguments = vec!["--causes-only".to_owned()];
    let job = |series| Job::on(series, arguments.clone(), "causes only");
    let jobs: Vec<Job> = wanted.ready.iter().copied().map(job).collect();
    let done = lab::run(&jobs, &artifacts, &options.machine, options.at_once);
    let mut matrix = Matrix::default();
    let mut failed = false;
    for (job, done) in jobs.iter().zip(&done) {
        matrix.add_done(job, done.as_ref());
        let why = match done {
            Ok(done) if done.is_good() => continue,
            Ok(done) => format!("the lab ended with status {}", done.report.status),
            Err(error) => format!("{error:#}"),
        };
        note(&format!("kernel {}: {why}", job.series.name));
        failed = true;
    }
    for (series, _) in &wanted.left_out {
        matrix.add(series.name, "");
    }
    vm::pass_on(format!("\n{}", matrix.text()).as_bytes());
    if failed {
        return Ok(ExitCode::FAILURE);
    }
    if options.write_readme {
        matrix.write_readme()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Matrix {
    /// Takes in what came of a job.
    pub fn add_done(&mut self, job: &Job, done: Result<&Done, &anyhow::Error>) {
        match done {
            Ok(done) => self.add(&done.series(), &String::from_utf8_lossy(&done.report.output)),
            Err(_) => self.add(job.series.name, ""),
        }
    }

    /// Takes in what the lab printed on a kernel: lines `named CAUSE CONFIDENCE`,
    /// `unseen CAUSE WHY`, `absent CAUSE WHY` and `failed CAUSE` among others.
    pub fn add(&mut self, kernel: &str, output: &str) {
        self.kernels.push(kernel.to_owned());
        self.kernels.sort_by_key(|name| kernels::version(name));
        for line in output.lines() {
            let mut words = line.trim_end().splitn(3, ' ');
            let (Some(what), Some(cause)) = (words.next(), words.next()) else { continue };
            let rest = words.next().unwrap_or_default();
            let mut cell = Cell::default();
            match what {
                "named" => cell.named.extend(Confidence::of(rest)),
                "unseen" if !rest.is_empty() => cell.unseen = Some(rest.to_owned()),
                "absent" if !rest.is_empty() => cell.absent = Some(rest.to_owned()),
                "failed" if rest.is_empty() => cell.failed = true,
                _ => continue,
            }
            if cell == Cell::default() {
                continue;
            }
            if !self.causes.iter().any(|known| known == cause) {
                self.causes.push(cause.to_owned());
            }
            let key = (cause.to_owned(), kernel.to_owned());
            self.cells.entry(key).or_default().join(cell);
        }
    }

    /// Puts the table into README.md.
    pub fn write_readme(&self) -> Result<()> {
        let path = artifacts::root().join("README.md");
        let old =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = readme::replace(&old, &self.markdown())
            .with_context(|| format!("{} cannot take the table", path.display()))?;
        fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
        note("the table in README.md is new");
        Ok(())
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let longest = self.causes.iter().map(String::len).max().unwrap_or(0);
        let mut notes = Vec::new();
        let mut out = format!("{:longest$}", "");
        for kernel in &self.kernels {
            out.push_str(&format!("  {kernel:<16}"));
        }
        out = format!("{}\n", out.trim_end());
        for cause in &self.causes {
            let mut line = format!("{cause:<longest$}");
            for kernel in &self.kernels {
                line.push_str(&format!("  {:<16}", self.cell(cause, kernel, &mut notes)));
            }
            out.push_str(&format!("{}\n", line.trim_end()));
        }
        for (number, why) in notes.iter().enumerate() {
            out.push_str(&format!("({}) {why}\n", number + 1));
        }
        out
    }

    /// For the README.
    pub fn markdown(&self) -> String {
        let mut notes = Vec::new();
        let mut out = format!("| cause | {} |\n|---|", self.kernels.join(" | "));
        out.push_str(&format!("{}\n", "---|".repeat(self.kernels.len())));
        for cause in &self.causes {
            let cells = self.kernels.iter().map(|kernel| self.cell(cause, kernel, &mut notes));
            let cells: Vec<String> = cells.collect();
            out.push_str(&format!("| `{cause}` | {} |\n", cells.join(" | ")));
        }
        for (number, why) in notes.iter().enumerate() {
            out.push_str(&format!("\n({}) {why}\n", number + 1));
        }
        out
    }

    fn cell(&self, cause: &str, kernel: &str, notes: &mut Vec<String>) -> String {
        let mut note = |why: &String| {
            let known = notes.iter().position(|note| note == why);
            1 + known.unwrap_or_else(|| {
                notes.push(why.clone());
                notes.len() - 1
            })
        };
        match self.cells.get(&(cause.to_owned(), kernel.to_owned())) {
            None => "not run".to_owned(),
            Some(cell) if cell.failed => "FAILED".to_owned(),
            Some(Cell { named, unseen: Some(why), .. }) => {
                let seen = if named.is_empty() { "not seen".to_owned() } else { words(named) };
                format!("{seen} ({})", note(why))
            }
            // Only when no other case of the cause ran there.
            Some(Cell { named, absent: Some(why), .. }) if named.is_empty() => {
                format!("not there ({})", note(why))
            }
            Some(Cell { named, .. }) => words(named),
        }
    }
}

impl Cell {
    fn join(&mut self, other: Self) {
        self.named.extend(other.named);
        self.named.sort_unstable();
        self.named.dedup();
        self.unseen = self.unseen.take().or(other.unseen);
        self.absent = self.absent.take().or(other.absent);
        self.failed |= other.failed;
    }
}

impl Confidence {
    fn of(word: &str) -> Option<Self> {
        match word {
            "certain" => Some(Self::Certain),
            "likely" => Some(Self::Likely),
            "possible" => Some(Self::Possible),
            _ => None,
        }
    }
}

fn words(named: &[Confidence]) -> String {
    let words: Vec<&str> = named
        .iter()
        .map(|confidence| match confidence {
            Confidence::Certain => "certain",
            Confidence::Likely => "likely",
            Confidence::Possible => "possible",
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let mut matrix = Matrix::default();
        matrix.add(
            "5.10",
            "case a ... ok (1.0 s)\nnamed no-listener likely\nnamed no-listener certain\r\n\
             named no-listener certain\nunseen rp-filter no reasons there\nnamed x nonsense\n\
             failed attempt here\n",
        );
        matrix
            .add("6.1", "failed no-listener\nnamed no-listener certain\nnamed rp-filter certain\n");
        matrix
    }

    #[test]
    fn every_cell_comes_from_a_line_of_the_lab() {
        assert_eq!(
            matrix().text(),
            "             5.10              6.1\n\
             no-listener  certain, likely   FAILED\n\
             rp-filter    not seen (1)      certain\n\
             (1) no reasons there\n"
        );
    }

    #[test]
    fn as_markdown() {
        assert_eq!(
            matrix().markdown(),
            "| cause | 5.10 | 6.1 |\n|---|---|---|\n\
             | `no-listener` | certain, likely | FAILED |\n\
             | `rp-filter` | not seen (1) | certain |\n\
             \n(1) no reasons there\n"
        );
    }

    #[test]
    fn a_fault_that_cannot_be_made_is_said_when_no_other_was() {
        let mut matrix = Matrix::default();
        matrix.add("6.12", "named a certain\nnamed b certain\n");
        matrix.add("5.10", "absent a too old\nabsent b too old\nnamed b likely\n");
        assert_eq!(
            matrix.text(),
            "   5.10              6.12\n\
             a  not there (1)     certain\n\
             b  likely            certain\n\
             (1) too old\n"
        );
    }

    #[test]
    fn a_kernel_that_said_nothing_was_not_run() {
        let mut matrix = matrix();
        matrix.add("7.2", "");
        assert_eq!(matrix.text().matches("not run").count(), 2);
    }
}
