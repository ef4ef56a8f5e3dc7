#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use proptest::prelude::*;

use super::*;

const KALLSYMS: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000100 t helper
ffffffff81000200 T nf_hook_slow
ffffffff81000280 D some_data
ffffffff81000400 t helper
ffffffff81000500 W weak_one
ffffffff81000600 T _etext
ffffffffc0a01000 t nf_conntrack_in\t[nf_conntrack]
ffffffffc0a02000 d nf_conntrack_data\t[nf_conntrack]
ffffffffc0b01000 t ip_vs_nat_xmit\t[ip_vs]
ffffffffc0a01800 t early_drop\t[nf_conntrack]
";

fn read(text: &str) -> Result<Symbols, SymbolError> {
    Symbols::read(text.as_bytes(), Path::new("kallsyms"))
}

fn place(symbols: &Symbols, address: u64) -> Option<String> {
    symbols.locate(address).map(|location| location.to_string())
}

#[test]
fn addresses_become_places() {
    let symbols = read(KALLSYMS).unwrap();
    assert!(!symbols.addresses_hidden());
    assert_eq!(place(&symbols, 0xffff_ffff_8100_0200).unwrap(), "nf_hook_slow+0x0");
    assert_eq!(place(&symbols, 0xffff_ffff_8100_027f).unwrap(), "nf_hook_slow+0x7f");
    assert_eq!(
        place(&symbols, 0xffff_ffff_8100_0280),
        None,
        "data behind a function is not that function"
    );
    assert_eq!(
        place(&symbols, 0xffff_ffff_c0a0_1010).unwrap(),
        "nf_conntrack_in+0x10 [nf_conntrack]"
    );
    assert_eq!(place(&symbols, 0xffff_ffff_c0a0_1fff).unwrap(), "early_drop+0x7ff [nf_conntrack]");
    assert_eq!(place(&symbols, 0xffff_ffff_8100_0008).unwrap(), "_text+0x8", "first name wins");
    assert_eq!(place(&symbols, 0x1000), None);
    assert_eq!(place(&symbols, 0), None);
}

#[test]
fn the_last_function_has_no_known_end() {
    let symbols = read(KALLSYMS).unwrap();
    assert_eq!(place(&symbols, 0xffff_ffff_c0b0_1000).unwrap(), "ip_vs_nat_xmit+0x0 [ip_vs]");
    assert_eq!(place(&symbols, 0xffff_ffff_c0b0_1001), None);
    assert_eq!(symbols.range("ip_vs_nat_xmit"), None);
}

#[test]
fn a_gap_between_modules_is_no_function() {
    let symbols = read(KALLSYMS).unwrap();
    // _etext is followed by the modules' area, far away.
    assert!(place(&symbols, 0xffff_ffff_8100_0600 + MAX_FUNCTION - 1).is_some());
    assert_eq!(place(&symbols, 0xffff_ffff_8100_0600 + MAX_FUNCTION), None);
}

#[test]
fn ranges_end_at_the_next_symbol() {
    let symbols = read(KALLSYMS).unwrap();
    assert_eq!(symbols.range("nf_hook_slow"), Some(0xffff_ffff_8100_0200..0xffff_ffff_8100_0280));
    assert_eq!(
        symbols.range("_stext"),
        Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0100),
        "a second name at the same address does not end it"
    );
    assert_eq!(symbols.range("helper"), None, "two functions share this name");
    assert_eq!(symbols.functions("helper").count(), 2);
    assert_eq!(symbols.range("some_data"), None);
    assert_eq!(symbols.range("absent"), None);
}

#[test]
fn functions_know_their_module() {
    let symbols = read(KALLSYMS).unwrap();
    let module = |name: &str| {
        symbols.functions(name).next().map(|function| function.module.map(str::to_owned))
    };
    assert_eq!(module("early_drop"), Some(Some("nf_conntrack".to_owned())));
    assert_eq!(module("nf_hook_slow"), Some(None));
    assert_eq!(module("nf_nat_setup_info"), None);
    assert!(symbols.has("weak_one"));
    assert!(!symbols.has("nf_conntrack_data"), "data is not kept");
}

#[test]
fn hidden_addresses_are_recognised_and_names_remain() {
    let text: String =
        KALLSYMS.lines().map(|line| format!("{:016x}{}\n", 0, line.get(16..).unwrap())).collect();
    let symbols = read(&text).unwrap();
    assert!(symbols.addresses_hidden());
    assert!(symbols.has("early_drop"));
    assert_eq!(symbols.range("nf_hook_slow"), None);
    assert_eq!(symbols.locate(0), None);
    assert!(!read("").unwrap().addresses_hidden(), "an empty file hides nothing");
}

#[test]
fn what_is_not_kallsyms_is_refused_with_its_line() {
    for bad in [
        "hello\n",
        "ffffffff81000000 T\n",
        "ffffffff81000000 TT name\n",
        "xyz T name\n",
        "ffffffff81000000 T name module\n",
        "ffffffff81000000 T name [module] more\n",
        "\n",
    ] {
        let error = read(&format!("{KALLSYMS}{bad}")).unwrap_err();
        assert_eq!(error.to_string(), "line 14 of kallsyms is not a kernel symbol", "{bad:?}");
    }
    let endless = "f".repeat(5_000_000);
    assert!(matches!(read(&endless), Err(SymbolError::Line { line: 1, .. })));
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "([0-9a-f]{1,16} [tTdA] [a-z]{1,3}(\\s\\[[a-z]\\])?\n){0,20}.{0,20}",
        address in any::<u64>())
    {
        if let Ok(symbols) = read(&text) {
            let _ = symbols.locate(address);
            let _ = symbols.range("a");
        }
    }

    /// Against the plain definition: the closest text symbol at or below, unless another symbol
    /// lies between.
    #[test]
    fn locate_agrees_with_a_linear_search(
        lines in prop::collection::vec((0_u64..64, any::<bool>()), 1..12), address in 0_u64..70,
    ) {
        prop_assume!(lines.iter().any(|&(at, text)| text && at != 0));
        let text: String = lines.iter().enumerate()
            .map(|(i, (at, text))| format!("{at:x} {} s{i}\n", if *text { 't' } else { 'd' }))
            .collect();
        let symbols = read(&text).unwrap();
        let below = lines.iter().map(|&(at, _)| at).filter(|&at| at <= address).max();
        let last = lines.iter().map(|&(at, _)| at).max();
        let expected = below.filter(|_| below != last || below == Some(address)).and_then(|at| {
            let index = lines.iter().position(|&(other, text)| text && other == at)?;
            Some((format!("s{index}"), address - at))
        });
        let found = symbols.locate(address).map(|l| (l.symbol.to_owned(), l.offset));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn the_running_kernel_is_readable() {
    let Ok(symbols) = Symbols::load(Path::new("/")) else {
        println!("skipped: no readable /proc/kallsyms");
        return;
    };
    assert!(symbols.has("tcp_conn_request"));
    if symbols.addresses_hidden() {
        println!("skipped: addresses are hidden (kernel.kptr_restrict)");
        return;
    }
    let range = symbols.range("nf_hook_slow").unwrap();
    assert_eq!(place(&symbols, range.start + 1).unwrap(), "nf_hook_slow+0x1");
}

#[test]
fn variables_that_are_kept() {
    let text = "ffffffff81000000 T _stext\nffffffff82a00008 D page_offset_base\n\
                ffffffffc0300000 d vmemmap_base\t[other]\n";
    let symbols = Symbols::read(text.as_bytes(), Path::new("kallsyms")).unwrap();
    assert_eq!(symbols.variable("page_offset_base"), Some(0xffff_ffff_82a0_0008));
    assert_eq!(symbols.variable("vmemmap_base"), None, "a module's own");
    assert_eq!(symbols.variable("jiffies"), None);
}
