//! Running the node's own tools.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs a command, waits for it, and gives back what it printed. Its failure is an error that
/// quotes it.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    finish(Command::new(program).args(args), program, args)
}

/// As [`run`], for a command that was prepared by the caller.
pub fn finish(command: &mut Command, program: &str, args: &[&str]) -> Result<String> {
    let shown = || format!("{program} {}", args.join(" "));
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown()))?;
    if !out.status.success() {
        bail!("`{}` failed: {}", shown(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a command with `input` on its standard input.
pub fn feed(program: &str, args: &[&str], input: &str) -> Result<()> {
    let shown = || format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that gives up early says why itself, below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().with_context(|| format!("cannot wait for `{}`", shown()))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed: {}\nits input was:\n{input}", shown(), why.trim());
    }
    Ok(())
}
