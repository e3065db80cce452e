//! What Helm stores of a release: JSON, packed, twice in base64.

use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compress, Compression, Crc, FlushCompress, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde_json::{Value, json};

/// More than any recorded payload unpacks to; a broken fixture can't fill the memory.
const UNPACKED_MAX: u64 = 64 << 20;

/// What of a bomb is packed before it is repeated.
const PIECE: u64 = 256 << 10;

/// `data.release` of a secret, from the release as JSON.
#[must_use]
pub fn release_payload(release: &Value) -> String {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory can't fail.
    let _ = packer.write_all(release.to_string().as_bytes());
    encode(&packer.finish().unwrap_or_default())
}

/// A secret of Helm's as `put_secrets` takes it; without a payload only its
/// metadata can be listed.
#[must_use]
pub fn release_secret(
    namespace: &str,
    release: &str,
    revision: u32,
    status: &str,
    created: Timestamp,
    payload: Option<&Value>,
) -> Value {
    let created = Timestamp::from_second(created.as_second()).unwrap_or(created);
    let mut secret = json!({
        "metadata": {
            "name": format!("sh.helm.release.v1.{release}.v{revision}"),
            "namespace": namespace,
            "uid": format!("00000000-0000-4000-8000-{revision:012}"),
            "resourceVersion": revision.to_string(),
            "creationTimestamp": created.to_string(),
            "labels": {
                "modifiedAt": created.as_second().to_string(),
                "name": release,
                "owner": "helm",
                "status": status,
                "version": revision.to_string(),
            },
        },
        "type": "helm.sh/release.v1",
    });
    if let Some(payload) = payload {
        secret["data"] = json!({ "release": release_payload(payload) });
    }
    secret
}

/// The release in `data.release`; `None` where it is something else.
pub(crate) fn unpack(data: &str) -> Option<Value> {
    let packed = STANDARD.decode(STANDARD.decode(data).ok()?).ok()?;
    let mut json = Vec::new();
    GzDecoder::new(packed.as_slice()).take(UNPACKED_MAX).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A `data.release` that unpacks to so many bytes.
pub(crate) fn bomb(bytes: u64) -> String {
    encode(&gzip_of(br#"{"info":{"description":""#, bytes))
}

/// `start`, and then so many bytes of the letter a, packed.
///
/// A piece is packed once and repeated: packing a gigabyte would take a test's
/// whole time.
pub(crate) fn gzip_of(start: &[u8], bytes: u64) -> Vec<u8> {
    let piece = vec![b'a'; usize::try_from(bytes.min(PIECE)).unwrap_or_default()];
    let rest = vec![b'a'; usize::try_from(bytes % PIECE).unwrap_or_default()];
    let pieces = if bytes < PIECE { 0 } else { bytes / PIECE };

    // The header: gzip, deflate, no name, no time, an unknown system.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut sum = Crc::new();
    let mut add = |bytes: &[u8], times: u64| {
        let (block, mut block_sum) = (deflated(bytes), Crc::new());
        block_sum.update(bytes);
        for _ in 0..times {
            packed.extend_from_slice(&block);
            sum.combine(&block_sum);
        }
    };
    add(start, 1);
    add(&piece, pieces);
    add(&rest, 1);
    // A last block with nothing in it, the checksum, and the length modulo 2^32.
    packed.extend_from_slice(&[3, 0]);
    packed.extend_from_slice(&sum.sum().to_le_bytes());
    packed.extend_from_slice(&sum.amount().to_le_bytes());
    packed
}

/// Whole blocks that stand for themselves, wherever they are put.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut packer = Compress::new(Compression::best(), false);
    let mut packed = Vec::with_capacity(bytes.len() + 1024);
    // The room is enough for bytes that can't be packed at all: one call does it.
    let _ = packer.compress_vec(bytes, &mut packed, FlushCompress::Full);
    packed
}

/// As an API server packs long answers.
pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::new(4));
    let _ = packer.write_all(body);
    packer.finish().unwrap_or_default()
}

fn encode(packed: &[u8]) -> String {
    STANDARD.encode(STANDARD.encode(packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_what_it_packed() {
        let release = json!({"name": "shop", "version": 3, "info": {"description": "Upgrade complete"}});
        assert_eq!(unpack(&release_payload(&release)), Some(release));
        assert_eq!(unpack("bm90aGluZw=="), None);
        assert_eq!(unpack("not base64"), None);
    }

    #[test]
    fn a_bomb_is_small_while_it_is_packed() {
        assert!(bomb(64 << 20).len() < 300_000);
        for bytes in [0, 1, PIECE, 3 * PIECE + 5] {
            let mut unpacked = Vec::new();
            GzDecoder::new(gzip_of(b"<", bytes).as_slice()).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked.len() as u64, bytes + 1);
            assert!(unpacked.starts_with(b"<") && unpacked[1..].iter().all(|it| *it == b'a'));
        }
    }
}
