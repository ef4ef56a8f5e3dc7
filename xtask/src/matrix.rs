//! `cargo xtask vm --matrix`: which cause is named on which kernel, and on one kernel on which rung of
//! the ladder, from a real fault in each cell.
use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;

use crate::{
    arch::Arch,
    artifacts::Artifacts,
    lab::{self, Job},
    ladder::{self, MAIN},
    progress::note,
    readme, setup,
    tables::Tables,
    vm,
};

/// What became of one cause's faults in one column's run.
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

/// Causes in the order in which the lab has them; a column is a kernel or a rung.
#[derive(Debug, Default)]
pub struct Matrix {
    causes: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(String, String), Cell>,
}

/// Runs the lab on these kernels, all by default, and prints the tables.
pub fn run(options: &vm::Options) -> Result<ExitCode> {
    let wanted = setup::prepare_named(&options.kernels)?;
    if options.write_readme {
        readme::every_kernel(&options.kernels, &wanted.left_out)?;
    }
    let ready = wanted.ready.iter().copied().filter(|series| series.arch == Arch::X86_64);
    let artifacts = Artifacts::provide(options.no_build, [Arch::X86_64])?;
    // Only the cases that show a cause; `cargo xtask test` runs look-alikes and all else.
    let job = |series| Job::on(series, Vec::new(), "").causes_only();
    let main = wanted.ready.iter().copied().find(|series| series.name == MAIN);
    let main = main.filter(|_| options.kernels.is_empty());
    let rungs = main.into_iter().flat_map(|series| ladder::jobs(series, true));
    let rungs = rungs.map(Job::causes_only);
    let jobs: Vec<Job> = ready.map(job).chain(rungs).collect();
    let done = lab::run(&jobs, &artifacts, &options.machine, options.at_once);
    let mut tables = Tables::default();
    let mut failed = false;
    for (job, done) in jobs.iter().zip(&done) {
        tables.add_done(job, done.as_ref());
        let why = match done {
            Ok(done) if done.is_good() => continue,
            Ok(done) => format!("the lab ended with status {}", done.report.status),
            Err(error) => format!("{error:#}"),
        };
        note(&format!("kernel {}: {why}", job.name));
        failed = true;
    }
    for (series, _) in &wanted.left_out {
        tables.add_left_out(series);
    }
    vm::pass_on(format!("\n{}", tables.text()).as_bytes());
    if failed {
        return Ok(ExitCode::FAILURE);
    }
    if options.write_readme {
        tables.write_readme()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Matrix {
    /// Takes in what the lab printed in a column's run: lines `named CAUSE CONFIDENCE`,
    /// `unseen CAUSE WHY`, `absent CAUSE WHY` and `failed CAUSE` among others. Columns stand in the
    /// order that their names have.
    pub fn add<K: Ord>(&mut self, column: &str, output: &str, order: impl Fn(&str) -> K) {
        self.columns.push(column.to_owned());
        self.columns.sort_by_key(|name| order(name));
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
            let key = (cause.to_owned(), column.to_owned());
            self.cells.entry(key).or_default().join(cell);
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let longest = self.causes.iter().map(String::len).max().unwrap_or(0);
        let mut notes = Vec::new();
        let mut out = format!("{:longest$}", "");
        for column in &self.columns {
            out.push_str(&format!("  {column:<16}"));
        }
        out = format!("{}\n", out.trim_end());
        for cause in &self.causes {
            let mut line = format!("{cause:<longest$}");
            for column in &self.columns {
                line.push_str(&format!("  {:<16}", self.cell(cause, column, &mut notes)));
            }
            out.push_str(&format!("{}\n", line.trim_end()));
        }
        for (number, why) in notes.iter().enumerate() {
            out.push_str(&format!("({}) {why}\n", number + 1));
        }
        out
    }

    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// For the README.
    pub fn markdown(&self) -> String {
        let mut notes = Vec::new();
        let mut out = format!("| cause | {} |\n|---|", self.columns.join(" | "));
        out.push_str(&format!("{}\n", "---|".repeat(self.columns.len())));
        for cause in &self.causes {
            let cells = self.columns.iter().map(|column| self.cell(cause, column, &mut notes));
            let cells: Vec<String> = cells.collect();
            out.push_str(&format!("| `{cause}` | {} |\n", cells.join(" | ")));
        }
        for (number, why) in notes.iter().enumerate() {
            out.push_str(&format!("\n({}) {why}\n", number + 1));
        }
        out
    }

    fn cell(&self, cause: &str, column: &str, notes: &mut Vec<String>) -> String {
        let mut note = |why: &String| {
            let known = notes.iter().position(|note| note == why);
            1 + known.unwrap_or_else(|| {
                notes.push(why.clone());
                notes.len() - 1
            })
        };
        match self.cells.get(&(cause.to_owned(), column.to_owned())) {
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

    fn add(matrix: &mut Matrix, kernel: &str, output: &str) {
        matrix.add(kernel, output, crate::kernels::version);
    }

    fn matrix() -> Matrix {
        let mut matrix = Matrix::default();
        add(
            &mut matrix,
            "5.10",
            "case a ... ok (1.0 s)\nnamed no-listener likely\nnamed no-listener certain\r\n\
             named no-listener certain\nunseen rp-filter no reasons there\nnamed x nonsense\n\
             failed attempt here\n",
        );
        add(
            &mut matrix,
            "6.1",
            "failed no-listener\nnamed no-listener certain\nnamed rp-filter certain\n",
        );
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
        add(&mut matrix, "6.12", "named a certain\nnamed b certain\n");
        add(&mut matrix, "5.10", "absent a too old\nabsent b too old\nnamed b likely\n");
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
        add(&mut matrix, "7.2", "");
        assert_eq!(matrix.text().matches("not run").count(), 2);
    }
}
