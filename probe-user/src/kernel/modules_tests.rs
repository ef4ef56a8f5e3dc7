#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const LIVE: &str = "nf_conntrack 172032 3 nf_nat,xt_conntrack,ip_vs, Live 0xffffffffc0a00000";

/// A root directory with `/proc/modules` and `/sys/module`.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn proc_modules(&self, text: &str) {
        let path = self.root.path().join("proc");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("modules"), text).unwrap();
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.path().join("sys/module").join(name)
    }

    fn load(&self, name: &str) {
        fs::create_dir_all(self.directory(name)).unwrap();
        fs::write(self.directory(name).join("initstate"), "live\n").unwrap();
    }

    /// A reload: the old directory is kept aside so that the new one surely has another inode.
    fn reload(&self, name: &str) {
        fs::rename(self.directory(name), self.root.path().join("old")).unwrap();
        self.load(name);
    }

    fn watch(&self, symbols: Option<&Symbols>) -> ModuleWatch {
        ModuleWatch::new(self.root.path(), &WATCHED, "6.12.0", symbols).unwrap()
    }
}

fn change(name: &'static str, change: Change) -> Vec<ModuleChange> {
    vec![ModuleChange { name, change }]
}

#[test]
fn a_module_is_followed_through_load_unload_and_reload() {
    let node = Node::new();
    node.proc_modules("");
    let mut watch = node.watch(None);
    assert_eq!(watch.state("nf_conntrack"), ModuleState::NotLoaded);
    assert_eq!(watch.poll().unwrap(), []);

    node.load("nf_conntrack");
    node.proc_modules(LIVE);
    assert_eq!(watch.poll().unwrap(), change("nf_conntrack", Change::Loaded));
    assert_eq!(watch.poll().unwrap(), []);
    assert!(watch.state("nf_conntrack").is_present());

    node.reload("nf_conntrack");
    assert_eq!(watch.poll().unwrap(), change("nf_conntrack", Change::Reloaded));
    assert_eq!(watch.poll().unwrap(), []);

    node.proc_modules("");
    assert_eq!(watch.poll().unwrap(), change("nf_conntrack", Change::Unloaded));
    assert_eq!(watch.state("nf_conntrack"), ModuleState::NotLoaded);
}

#[test]
fn what_is_loaded_at_the_start_is_no_change() {
    let node = Node::new();
    node.load("nf_conntrack");
    node.proc_modules(LIVE);
    let mut watch = node.watch(None);
    assert!(matches!(watch.state("nf_conntrack"), ModuleState::Live { .. }));
    assert_eq!(watch.poll().unwrap(), []);
}

#[test]
fn only_live_counts() {
    let node = Node::new();
    node.load("nf_conntrack");
    for state in ["Loading", "Unloading"] {
        node.proc_modules(&LIVE.replace("Live", state));
        assert_eq!(node.watch(None).state("nf_conntrack"), ModuleState::NotLoaded, "{state}");
    }
}

#[test]
fn a_listed_module_whose_directory_is_gone_is_on_its_way_out() {
    let node = Node::new();
    node.proc_modules(LIVE);
    assert_eq!(node.watch(None).state("nf_conntrack"), ModuleState::NotLoaded);
}

#[test]
fn lines_are_matched_by_the_whole_name() {
    assert!(is_live(LIVE, "nf_conntrack"));
    assert!(!is_live(LIVE, "nf_nat"), "a user of the module is not the module");
    assert!(!is_live(LIVE, "nf_conn"));
    assert!(is_live("a 1 0 - Live 0x0\nip_vs 2 0 - Live 0x0 (OE)\n", "ip_vs"));
    assert!(!is_live("ip_vs 2\n\nip_vs\n", "ip_vs"));
}

#[test]
fn built_in_is_seen_in_each_of_three_places() {
    let built_in = |node: &Node, symbols: Option<&Symbols>| {
        node.watch(symbols).state("nf_conntrack") == ModuleState::BuiltIn
    };
    let node = Node::new();
    assert!(!built_in(&node, None), "without any sign");

    fs::create_dir_all(node.directory("nf_conntrack").join("parameters")).unwrap();
    assert!(built_in(&node, None), "a directory that no loadable module has");
    node.proc_modules(&LIVE.replace("Live", "Loading"));
    assert!(!built_in(&node, None), "a module that is just being loaded");
    node.load("nf_conntrack");
    assert!(!built_in(&node, None), "a loadable module's directory");

    let node = Node::new();
    let list = node.root.path().join("lib/modules/6.12.0");
    fs::create_dir_all(&list).unwrap();
    fs::write(list.join("modules.builtin"), "kernel/net/netfilter/nf-conntrack.ko\n").unwrap();
    assert!(built_in(&node, None), "listed, with a dash");

    let node = Node::new();
    let read = |line: &str| Symbols::read(line.as_bytes(), Path::new("kallsyms")).unwrap();
    let kernel = read("ffffffff81000000 T nf_conntrack_in\n");
    let module = read("ffffffffc1000000 T nf_conntrack_in\t[nf_conntrack]\n");
    assert!(built_in(&node, Some(&kernel)));
    assert!(!built_in(&node, Some(&module)));
}

#[test]
fn built_in_never_changes() {
    let node = Node::new();
    fs::create_dir_all(node.directory("nf_conntrack")).unwrap();
    let mut watch = node.watch(None);
    node.reload("nf_conntrack");
    node.proc_modules(LIVE);
    assert_eq!(watch.poll().unwrap(), []);
    assert_eq!(watch.state("nf_conntrack"), ModuleState::BuiltIn);
}

#[test]
fn unreadable_files_are_named() {
    let node = Node::new();
    fs::create_dir_all(node.root.path().join("proc/modules")).unwrap();
    let result = ModuleWatch::new(node.root.path(), &WATCHED, "6.12.0", None);
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("proc/modules"), "{error}");
}
