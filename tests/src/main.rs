//! stallprobe's lab: pods as network namespaces, faults made for real, findings checked.
//!
//! Runs as root inside a throw-away virtual machine; `cargo xtask test` starts it there. Only `lab kills`
//! runs anywhere.

mod again;
mod args;
mod background;
mod bpf;
mod case;
mod cleanup;
mod cli;
mod command;
mod containerd;
mod counters;
mod cri;
mod demo;
mod dns;
mod finding;
mod in_pod;
mod ipvs;
mod kills;
mod kube_proxy;
mod kubelet;
mod lab;
mod netns;
mod nfqueue;
mod probe;
mod process;
mod race;
mod raw;
mod recorder;
mod recording;
mod rung;
mod runner;
mod scenarios;
mod services;
mod snapshot;
mod sysctl;
mod tcp;
mod time;
mod two_nodes;
mod uplink;
mod wait;
mod web;
mod wire;

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    match cli::run() {
        Ok(status) => status,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "lab: {error:#}");
            ExitCode::from(2)
        }
    }
}
