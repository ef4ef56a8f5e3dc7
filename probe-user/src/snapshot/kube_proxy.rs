//! How kube-proxy works here, recognised from files only. Asking netfilter for its rules could load
//! modules, and that would change the node.

use std::{fs, io::Read as _, path::Path};

use crate::pods::{
    procfs::{TEXT_MAX, open, pids, read_text},
    services,
};

/// Modes of kube-proxy on Linux (`--proxy-mode`); empty means the default, iptables.
const MODES: [&str; 3] = ["iptables", "ipvs", "nftables"];

/// A command line longer than this is cut off.
const CMDLINE_MAX: u64 = 16 << 10;

/// "iptables", "ipvs", "nftables", or empty when it cannot be told. In this order: the command line
/// of the process `kube-proxy`, the configuration file it names, the interface that only IPVS mode
/// makes, and the default of a kube-proxy that says nothing.
pub fn read(root: &Path) -> String {
    let process = process(root);
    let told = match &process {
        Some((pid, args)) => match option(args, "--proxy-mode") {
            Some(mode) => told(mode),
            None => match option(args, "--config") {
                Some(config) => config_mode(root, *pid, config),
                None => Told::Default,
            },
        },
        None => Told::Nothing,
    };
    match told {
        Told::Mode(mode) => mode,
        Told::Default => "iptables",
        Told::Nothing if services::has_device(&root.join("proc/1/net")) => "ipvs",
        Told::Nothing => "",
    }
    .to_owned()
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Mode(&'static str),
    /// It runs and says nothing of a mode.
    Default,
    /// It does not run, or what it says could not be read.
    Nothing,
}

fn told(mode: &str) -> Told {
    match MODES.into_iter().find(|known| *known == mode) {
        Some(mode) => Told::Mode(mode),
        None if mode.is_empty() => Told::Default,
        None => Told::Nothing,
    }
}

/// Process id and arguments of the first process that is called kube-proxy.
fn process(root: &Path) -> Option<(u32, Vec<String>)> {
    let pids = pids(root).ok()?;
    pids.into_iter().find_map(|pid| {
        let dir = root.join(format!("proc/{pid}"));
        if fs::read(dir.join("comm")).ok()?.trim_ascii() != b"kube-proxy" {
            return None;
        }
        let mut bytes = Vec::new();
        open(&dir.join("cmdline")).ok()?.take(CMDLINE_MAX).read_to_end(&mut bytes).ok()?;
        let args = bytes.split(|byte| *byte == 0);
        Some((pid, args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()))
    })
}

/// Value of `--name=value`, `--name value`, or the same with one dash.
fn option<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(rest) = arg.strip_prefix(name).or_else(|| arg.strip_prefix(name.get(1..)?)) else {
            continue;
        };
        if rest.is_empty() {
            return args.next().map(String::as_str);
        }
        if let Some(value) = rest.strip_prefix('=') {
            return Some(value);
        }
    }
    None
}

/// `mode:` in the configuration file, as the process itself sees that path.
fn config_mode(root: &Path, pid: u32, config: &str) -> Told {
    let inner = config.trim_start_matches('/');
    // A plain path only: it is a container that wrote it.
    if inner.split('/').any(|part| part == "..") {
        return Told::Nothing;
    }
    let path = root.join(format!("proc/{pid}/root")).join(inner);
    match read_text(&path, TEXT_MAX) {
        Ok(text) => yaml_mode(&text),
        Err(_) => Told::Nothing,
    }
}

/// The top-level key `mode` of a `KubeProxyConfiguration`.
fn yaml_mode(text: &str) -> Told {
    text.lines().find_map(|line| line.strip_prefix("mode:")).map_or(Told::Default, |value| {
        let value = value.split(" #").next().unwrap_or_default().trim();
        told(value.trim_matches(|c| c == '"' || c == '\''))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The mode told of a node where kube-proxy runs with these arguments and this file.
    fn mode(args: &str, config: &str) -> String {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/1/comm", "init\n");
        write(root.path(), "proc/9/comm", "kube-proxy\n");
        write(root.path(), "proc/9/cmdline", &args.replace(' ', "\0"));
        write(root.path(), "proc/9/root/var/lib/kube-proxy/config.conf", config);
        read(root.path())
    }

    #[test]
    fn from_the_command_line() {
        assert_eq!(mode("kube-proxy --v=2 --proxy-mode=ipvs", ""), "ipvs");
        assert_eq!(mode("kube-proxy --proxy-mode nftables --v=2", ""), "nftables");
        assert_eq!(mode("kube-proxy -proxy-mode=iptables", ""), "iptables");
        assert_eq!(mode("kube-proxy --proxy-mode-x=ipvs", ""), "iptables");
        assert_eq!(mode("kube-proxy", ""), "iptables");
        assert_eq!(mode("kube-proxy --proxy-mode=kernelspace", ""), "");
    }

    #[test]
    fn from_the_configuration_file() {
        let args = "kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=n";
        assert_eq!(mode(args, "kind: K\nmode: \"ipvs\" # fast\n"), "ipvs");
        assert_eq!(mode(args, "mode: \"\"\n"), "iptables");
        assert_eq!(mode(args, "kind: K\niptables:\n  mode: ipvs\n"), "iptables");
        assert_eq!(mode(args, "mode: 'nftables'\n"), "nftables");
        assert_eq!(mode(args, "mode: userspace\n"), "");
        assert_eq!(mode("kube-proxy --config=/gone", ""), "");
        assert_eq!(mode("kube-proxy --config=/var/../var/lib/kube-proxy/config.conf", ""), "");
    }

    #[test]
    fn from_the_interface() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()), "", "no kube-proxy");
        write(root.path(), "proc/1/net/dev", "Inter-|\n  eth0: 0 0\n  kube-ipvs0: 0 0\n");
        assert_eq!(read(root.path()), "ipvs");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(mode:|ipvs|[\"'# \\n]|\\PC){0,50}") {
            let _ = yaml_mode(&text);
            let args: Vec<String> = text.split('#').map(str::to_owned).collect();
            let _ = option(&args, "--proxy-mode");
        }
    }
}
