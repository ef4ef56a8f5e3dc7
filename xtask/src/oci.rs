//! An OCI image archive with one file in it, made without a container engine: what `ctr images import`,
//! `podman load` and `skopeo copy oci-archive:…` take (OCI image-spec 1.1, image-layout).
//!
//! The same binary gives the same archive, byte for byte: no times, no users.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A program for one kind of machine.
pub struct Program {
    /// As Go and OCI call it: `amd64` or `arm64`.
    pub architecture: &'static str,
    pub bytes: Vec<u8>,
}

/// A blob and its descriptor.
struct Blob {
    digest: String,
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let hash: String =
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest: hash, media_type, bytes }
    }

    fn of(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The archive: an image for each program, all under one name such as `stallprobe:0.1.0`. The program is
/// `/NAME` in it and is what a container runs.
///
/// # Errors
/// When the archive cannot be put together.
pub fn archive(name: &str, version: &str, programs: &[Program]) -> Result<Vec<u8>> {
    let mut blobs = Vec::new();
    let mut manifests = Vec::new();
    for program in programs {
        let layer = Blob::new(LAYER, tar(&[(name, 0o755, &program.bytes)])?);
        let config = Blob::of(
            CONFIG,
            &json!({
                "architecture": program.architecture,
                "os": "linux",
                "config": { "Entrypoint": [format!("/{name}")], "Env": ["PATH=/"] },
                "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
            }),
        );
        let manifest = Blob::of(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
            }),
        );
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = json!({ "architecture": program.architecture, "os": "linux" });
        manifests.push(descriptor);
        blobs.extend([layer, config, manifest]);
    }
    let index =
        Blob::of(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }));
    let mut top = index.descriptor();
    // containerd takes the whole name, others the tag.
    top["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/{name}:{version}"),
        "org.opencontainers.image.ref.name": version,
    });
    blobs.push(index);
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [top] }).to_string();
    let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();

    let paths: Vec<String> =
        blobs.iter().map(|blob| format!("blobs/sha256/{}", blob.digest)).collect();
    let mut files =
        vec![("oci-layout", 0o644, layout.as_bytes()), ("index.json", 0o644, top.as_bytes())];
    files.extend(
        paths.iter().zip(&blobs).map(|(path, blob)| (path.as_str(), 0o644, &blob.bytes[..])),
    );
    tar(&files)
}

/// Files with their modes, of root and without a time.
fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        archive
            .append_data(&mut header, path, *bytes)
            .with_context(|| format!("cannot put {path} into an archive"))?;
    }
    archive.into_inner().context("cannot end an archive")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{collections::HashMap, io::Read as _};

    use super::*;

    fn files(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry: tar::Entry<'_, &[u8]> = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    /// The blob of a descriptor, whose digest and size must be its own.
    fn blob<'a>(files: &'a HashMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &files[&format!("blobs/sha256/{digest}")];
        assert_eq!(descriptor["size"], bytes.len());
        assert_eq!(Blob::new(LAYER, bytes.clone()).digest, digest);
        bytes
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn every_descriptor_leads_to_its_blob() {
        let programs = [("amd64", b"x86"), ("arm64", b"arm")]
            .map(|(architecture, bytes)| Program { architecture, bytes: bytes.to_vec() });
        let archive = archive("stallprobe", "0.1.0", &programs).unwrap();
        let files = files(&archive);
        assert_eq!(parse(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let top = parse(&files["index.json"]);
        let name = &top["manifests"][0]["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "docker.io/library/stallprobe:0.1.0");
        let index = parse(blob(&files, &top["manifests"][0]));
        for (at, program) in programs.iter().enumerate() {
            let descriptor = &index["manifests"][at];
            assert_eq!(descriptor["platform"]["architecture"], program.architecture);
            let manifest = parse(blob(&files, descriptor));
            let config = parse(blob(&files, &manifest["config"]));
            assert_eq!(config["architecture"], program.architecture);
            assert_eq!(config["config"]["Entrypoint"][0], "/stallprobe");
            let layer = blob(&files, &manifest["layers"][0]);
            assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
            assert_eq!(self::files(layer)["stallprobe"], program.bytes);
        }
        // Two of each program's blobs, an index, and two files beside them; all are reached.
        assert_eq!(files.len(), 2 * 3 + 1 + 2);
    }

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        let make = || {
            let programs = [Program { architecture: "amd64", bytes: vec![7; 1000] }];
            archive("stallprobe", "0.1.0", &programs).unwrap()
        };
        assert_eq!(make(), make());
    }
}
