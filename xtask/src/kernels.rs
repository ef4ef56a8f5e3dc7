//! The kernels stallprobe is tried on: pinned Debian cloud kernels.
//!
//! Security pools drop old versions, so each series has a second pin from an archive that keeps
//! its versions longer, and the suites where a newer one of the series would be.
use crate::{apt::archive::Archive, arch::Arch};

/// One .deb of a kernel.
pub struct Deb {
    pub archive: Archive,
    pub path: &'static str,
    pub sha256: &'static str,
}

/// Start and end of a package's name; what is between them is the same in all packages of a version.
pub struct Name(pub &'static str, pub &'static str);

impl Name {
    /// What is between start and end of a package's name.
    pub fn version<'a>(&self, package: &'a str) -> Option<&'a str> {
        package.strip_prefix(self.0)?.strip_suffix(self.1)
    }
}

/// One pinned version of a series: what `uname -r` says, and the packages it is made of.
pub struct Pin {
    pub release: &'static str,
    pub debs: &'static [Deb],
}

/// A kernel series by the short name used on the command line.
pub struct Series {
    pub name: &'static str,
    pub arch: Arch,
    /// Best first.
    pub pins: &'static [Pin],
    /// Where to look for any version of the series when no pin can be had.
    pub suites: &'static [(Archive, &'static str)],
    /// How the packages of a version are called, one after the other, in this series, and in the
    /// series that are taken for this one when nothing is left of it.
    pub names: &'static [&'static [Name]],
    /// Tests fail without it, and everything is run there. Others are left out, which is said, when
    /// they cannot be had.
    pub required: bool,
}

impl Series {
    /// Whether this is the version it stands for: 6.12 for `6.12-arm64`.
    pub fn is_called(&self, version: &str) -> bool {
        self.name.split('-').next() == Some(version)
    }
}

pub fn by_name(name: &str) -> Option<&'static Series> {
    SERIES.iter().find(|series| series.name == name)
}

/// The names of all series, for help and errors.
pub fn names() -> Vec<&'static str> {
    SERIES.iter().map(|series| series.name).collect()
}

/// `6.12` → (6, 12), for the order of kernels; `6.12-arm64` stands behind `6.12`.
pub fn version(name: &str) -> Vec<u32> {
    name.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect()
}

pub const SERIES: &[Series] = &[
    Series {
        name: "6.12",
        arch: Arch::X86_64,
        pins: &[
            Pin {
                release: "6.12.117+deb13-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Security,
                    path: "pool/updates/main/l/linux/linux-image-6.12.117+deb13-cloud-amd64-unsigned_6.12.117-1_amd64.deb",
                    sha256: "4113a615a1f1535ed4356ca03d428c74536b00f6ccb58e049a2ffd6a1cb3f1ad",
                }],
            },
            Pin {
                release: "6.12.107+deb13-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux/linux-image-6.12.107+deb13-cloud-amd64-unsigned_6.12.107-1_amd64.deb",
                    sha256: "e7124608fd6bbfa1ab73149dc67ecc82d098597d75cf1e540291d8ca71140fe0",
                }],
            },
        ],
        suites: &[(Archive::Security, "trixie-security"), (Archive::Main, "trixie")],
        names: &[&[Name("linux-image-6.12.", "-cloud-amd64-unsigned")]],
        required: true,
    },
    Series {
        name: "6.1",
        arch: Arch::X86_64,
        pins: &[
            Pin {
                release: "6.1.0-56-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Security,
                    path: "pool/updates/main/l/linux/linux-image-6.1.0-56-cloud-amd64-unsigned_6.1.192-2_amd64.deb",
                    sha256: "7ff7fc8da85d313242c20698c6b34542aea447673c7c1975b0d38bd6005100b5",
                }],
            },
            Pin {
                release: "6.1.0-50-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux/linux-image-6.1.0-50-cloud-amd64-unsigned_6.1.176-1_amd64.deb",
                    sha256: "4f217f710203cdfedde21f836bc66a0a4d773752d7fe8e5e13f701f891788945",
                }],
            },
        ],
        suites: &[(Archive::Security, "bookworm-security"), (Archive::Main, "bookworm")],
        names: &[&[Name("linux-image-6.1.0-", "-cloud-amd64-unsigned")]],
        required: true,
    },
    Series {
        name: "5.10",
        arch: Arch::X86_64,
        pins: &[
            Pin {
                release: "5.10.0-43-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Security,
                    path: "pool/updates/main/l/linux/linux-image-5.10.0-43-cloud-amd64-unsigned_5.10.251-5_amd64.deb",
                    sha256: "f1d1c1e4aeab51b6b92177fcbe9a69f781d6e095288844f6fd2f264e44e2fddf",
                }],
            },
            Pin {
                release: "5.10.0-32-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux/linux-image-5.10.0-32-cloud-amd64-unsigned_5.10.223-1_amd64.deb",
                    sha256: "b1fb8d34c26105a2ba1271a3df868a9eea460657df98c77fd08822ef4908c9db",
                }],
            },
        ],
        suites: &[(Archive::Security, "bullseye-security"), (Archive::Main, "bullseye")],
        names: &[&[Name("linux-image-5.10.0-", "-cloud-amd64-unsigned")]],
        required: false,
    },
    Series {
        name: "6.18",
        arch: Arch::X86_64,
        pins: &[
            Pin {
                release: "6.18.15+deb13-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux-signed-amd64/linux-image-6.18.15+deb13-cloud-amd64_6.18.15-1~bpo13+1_amd64.deb",
                    sha256: "5a507681ea8c978d02265a7fec2f02c9588fb48b54b7f71edc1059e86007f3ec",
                }],
            },
            Pin {
                release: "6.18.12+deb13-cloud-amd64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux-signed-amd64/linux-image-6.18.12+deb13-cloud-amd64_6.18.12-1~bpo13+1_amd64.deb",
                    sha256: "c5d56922f7a68b73c87250461bc97409fed9b810c17ea8f03ab7d50ec2b78601",
                }],
            },
        ],
        suites: &[(Archive::Main, "trixie-backports")],
        names: &[
            &[Name("linux-image-6.18.", "-cloud-amd64")],
            &[Name("linux-image-6.", "-cloud-amd64")],
        ],
        required: false,
    },
    Series {
        name: "7.2",
        arch: Arch::X86_64,
        pins: &[
            Pin {
                release: "7.2.13+deb14-cloud-amd64",
                debs: &[
                    Deb {
                        archive: Archive::Main,
                        path: "pool/main/l/linux-signed-amd64/linux-binary-7.2.13+deb14-cloud-amd64_7.2.13-1_amd64.deb",
                        sha256: "03e41f1c34c16583462f029e81944a85ebcdb78098c258dedfa1cfdd680a27f8",
                    },
                    Deb {
                        archive: Archive::Main,
                        path: "pool/main/l/linux/linux-modules-7.2.13+deb14-cloud-amd64_7.2.13-1_amd64.deb",
                        sha256: "97d79546041e3fdfb44dccff180938894d1bf8eb298f091f88539c1b37080bef",
                    },
                ],
            },
            Pin {
                release: "7.2.12+deb13-cloud-amd64",
                debs: &[
                    Deb {
                        archive: Archive::Main,
                        path: "pool/main/l/linux-signed-amd64/linux-binary-7.2.12+deb13-cloud-amd64_7.2.12-1~bpo13+1_amd64.deb",
                        sha256: "aa6720823145e351d3c817c95fe58d89995a2bcba4978ad2418c36a1c272f795",
                    },
                    Deb {
                        archive: Archive::Main,
                        path: "pool/main/l/linux/linux-modules-7.2.12+deb13-cloud-amd64_7.2.12-1~bpo13+1_amd64.deb",
                        sha256: "2f15b42b88ae56836b5fb3ac74c6cb795047891a5a25e5e69dedf8805b54017d",
                    },
                ],
            },
        ],
        suites: &[(Archive::Main, "sid"), (Archive::Main, "trixie-backports")],
        names: &[
            &[
                Name("linux-binary-7.2.", "-cloud-amd64"),
                Name("linux-modules-7.2.", "-cloud-amd64"),
            ],
            &[Name("linux-binary-7.", "-cloud-amd64"), Name("linux-modules-7.", "-cloud-amd64")],
        ],
        required: false,
    },
    // One kernel is enough for another architecture: what differs from series to series is shown above.
    Series {
        name: "6.12-arm64",
        arch: Arch::Aarch64,
        pins: &[
            Pin {
                release: "6.12.117+deb13-cloud-arm64",
                debs: &[Deb {
                    archive: Archive::Security,
                    path: "pool/updates/main/l/linux/linux-image-6.12.117+deb13-cloud-arm64-unsigned_6.12.117-1_arm64.deb",
                    sha256: "e0261b7e2ab499379b8b2c384fc28d9a51f762f40d071c8ed51e05e6e83ba879",
                }],
            },
            Pin {
                release: "6.12.107+deb13-cloud-arm64",
                debs: &[Deb {
                    archive: Archive::Main,
                    path: "pool/main/l/linux/linux-image-6.12.107+deb13-cloud-arm64-unsigned_6.12.107-1_arm64.deb",
                    sha256: "26e8cba299e701c5e7d0d35ffabf83cf8e315e594a834a3b8832e03a0f9787cf",
                }],
            },
        ],
        suites: &[(Archive::Security, "trixie-security"), (Archive::Main, "trixie")],
        names: &[&[Name("linux-image-6.12.", "-cloud-arm64-unsigned")]],
        required: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_in_the_order_of_their_versions() {
        let mut names = ["7.2", "6.12-arm64", "6.12", "5.10", "6.1"];
        names.sort_by_key(|name| version(name));
        assert_eq!(names, ["5.10", "6.1", "6.12", "6.12-arm64", "7.2"]);
    }
}
