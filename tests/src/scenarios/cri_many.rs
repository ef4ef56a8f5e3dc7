//! As many pods as a full node has, at once.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::pods_command::rows;
use crate::{
    case::Skip,
    cli::say,
    containerd,
    cri::{Kind, Pod, in_parallel},
    lab::Lab,
};

const PODS: u32 = 24;

pub fn names(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("looks at stallprobe itself".to_owned()).into());
    }
    containerd::provide()?;
    let numbers: Vec<u32> = (1..=PODS).collect();
    let start = Instant::now();
    in_parallel(&numbers, |&number| {
        Pod::run("many", &format!("web-{number}"), number, Kind::Plain)
    })?;
    say(&format!("{PODS} pods in {:.1} s", start.elapsed().as_secs_f32()))?;
    let all = rows(&[])?;
    for number in numbers {
        let name = format!("many/web-{number}");
        ensure!(all.iter().any(|row| row["pod"] == name.as_str()), "{name} is not listed");
    }
    Ok(())
}
