//! Where the loaded module ip_vs keeps what the kernel programs read of it.

use std::path::Path;

use probe_common::{
    ipvs::{LAYOUT_5_10, Layout},
    offsets::ABSENT,
};

use super::btf::{Btf, LoadError, load_module, load_vmlinux};

/// Members that older kernels do not have.
const OPTIONAL: [&str; 1] = ["dest_cflags"];

/// Asks the module's BTF, or that of vmlinux where IPVS is built in. Kernel 5.10 has no BTF of
/// modules: what Debian's has is built in here, for `release` (`uname -r`) 5.10 on amd64 alone.
///
/// # Errors
/// Why it is not known, in words.
pub fn layout(root: &Path, release: &str, machine: &str) -> Result<Layout, String> {
    let vmlinux = load_vmlinux(root).map_err(|err| err.to_string())?;
    match load_module(root, "ip_vs", &vmlinux) {
        Ok(module) => from(&module),
        Err(LoadError::Missing { .. }) if vmlinux.struct_size("ip_vs_conn").is_ok() => {
            from(&vmlinux)
        }
        Err(LoadError::Missing { .. }) if release.starts_with("5.10.") && machine == "x86_64" => {
            Ok(LAYOUT_5_10)
        }
        Err(err) => Err(err.to_string()),
    }
}

fn from(btf: &Btf) -> Result<Layout, String> {
    Layout::resolve(|field, strukt, path| match btf.member(strukt, path) {
        Ok(found) => u16::try_from(found.byte_offset)
            .map_err(|_| format!("{path} of struct {strukt} lies farther than expected")),
        Err(_) if OPTIONAL.contains(&field) => Ok(ABSENT),
        Err(err) => Err(err.to_string()),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::kernel::btf::build::Builder;

    /// ip_vs's structs with these members of `ip_vs_dest`.
    fn module(dest: &[(&str, u32)]) -> Btf {
        let mut b = Builder::new();
        let leaf = b.int("__int128", 16);
        let mut strukt = |name: &str, members: &[(&str, u32)]| {
            let members: Vec<_> = members.iter().map(|&(name, at)| (name, leaf, at)).collect();
            b.strukt(name, 300, &members);
        };
        strukt("ip_vs_service", &[("addr", 40), ("port", 56), ("num_dests", 104)]);
        let conn = [("dport", 18), ("vport", 20), ("vaddr", 40), ("daddr", 56), ("state", 148)];
        strukt("ip_vs_conn", &[&conn[..], &[("dest", 184), ("in_pkts", 192)]].concat());
        strukt("ip_vs_dest", dest);
        Btf::parse(&b.bytes()).unwrap()
    }

    #[test]
    fn the_flag_is_where_the_kernel_keeps_it() {
        let old = from(&module(&[("flags", 52), ("weight", 60)])).unwrap();
        assert_eq!(old, LAYOUT_5_10);
        let new = from(&module(&[("flags", 52), ("weight", 60), ("cflags", 64)])).unwrap();
        assert_eq!(new, Layout { dest_cflags: 64, ..LAYOUT_5_10 });
    }

    #[test]
    fn a_missing_member_is_said() {
        let err = from(&module(&[("flags", 52)])).unwrap_err();
        assert_eq!(err, "struct ip_vs_dest has no member weight in this kernel's BTF");
    }
}
