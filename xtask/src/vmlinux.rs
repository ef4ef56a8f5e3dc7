//! Finds the compressed kernel inside a bzImage.
//!
//! Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": the 32-bit code starts after
//! the set-up sectors, `payload_offset` and `payload_length` (protocol 2.08) are relative to it.
//! The payload ends with four bytes that hold the uncompressed size.
use anyhow::{Context as _, Result, bail, ensure};

/// Compressed data and the program that decompresses it.
#[derive(Debug)]
pub struct Payload<'a> {
    pub program: &'static str,
    pub data: &'a [u8],
}

pub fn payload(image: &[u8]) -> Result<Payload<'_>> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage: no HdrS");
    let sectors = match image.get(0x1f1) {
        Some(0) | None => 4,
        Some(&count) => usize::from(count),
    };
    let start = (sectors + 1) * 512 + word(image, 0x248)?;
    let length = word(image, 0x24c)?;
    let data = image
        .get(start..)
        .and_then(|rest| rest.get(..length))
        .and_then(|data| data.split_last_chunk::<4>())
        .map(|(data, _size)| data)
        .context("the bzImage is cut off")?;
    let program = match data {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("unknown compression of the kernel"),
    };
    Ok(Payload { program, data })
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the bzImage is cut off")?;
    let bytes: [u8; 4] = bytes.try_into().context("four bytes")?;
    usize::try_from(u32::from_le_bytes(bytes)).context("offset too large")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 512 * 3];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.truncate(1024 + 16);
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn finds_the_payload_without_its_size() {
        let image = image(b"\x28\xb5\x2f\xfdabc\x07\0\0\0");
        let found = payload(&image).unwrap();
        assert_eq!(found.program, "zstd");
        assert_eq!(found.data, b"\x28\xb5\x2f\xfdabc");
    }

    #[test]
    fn damaged_images_are_errors() {
        let whole = image(b"\x02\x21\x4c\x18abc\x07\0\0\0");
        for length in 0..whole.len() {
            assert!(payload(&whole[..length]).is_err(), "{length}");
        }
        assert!(payload(&image(b"??")).is_err());
    }
}
