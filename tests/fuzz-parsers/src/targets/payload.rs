//! The payload of a revision: base64 of base64 of gzip of JSON.
//!
//! The first byte says where the rest is put, so that the fuzzer need not learn to pack.

use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use kubernetes::fuzzing::{Sent, unpack};
use verdict::{Payload, Release};

use super::world;
use crate::{Heap, Target, fixtures, promises};

/// `targets/payload.rs` says what it is given.
pub const PAYLOAD: Target = Target {
    name: "payload",
    seeds,
    run,
    // 16 MiB may be unpacked of 2 MiB, of which the values stand in memory twice while their buffer grows, and as a
    // tree where they are at most 1 MiB.
    heap: Heap { fixed: 80 << 20, times: 16 },
};

/// As it stands in the secret.
const AS_IT_IS: u8 = b'0';
/// The JSON, as the oldest ones have it.
const JSON: u8 = b'j';
/// The JSON as well, to be packed.
const PACKED: u8 = b'g';
/// What gzip made of it.
const GZIP: u8 = b'z';
/// The answer around it.
const ANSWER: u8 = b'a';

const SECRET: &str = "sh.helm.release.v1.x.v1";

/// What is packed is at most so large.
const PACKED_BYTES: usize = 2 << 20;

fn seed(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind], rest].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, recording) in fixtures::folder("tests/fixtures/helm") {
        for secret in recording["full_list_at_end"]["items"].as_array().into_iter().flatten() {
            let data = secret["data"]["release"].as_str().unwrap();
            seeds.push(seed(AS_IT_IS, data.as_bytes()));
            let gzip = STANDARD.decode(STANDARD.decode(data).unwrap()).unwrap();
            seeds.push(seed(GZIP, &gzip));
            let mut json = Vec::new();
            GzDecoder::new(&*gzip).read_to_end(&mut json).unwrap();
            seeds.push(seed(PACKED, &json));
            seeds.push(seed(JSON, &json));
            let mut item = secret.clone();
            item["metadata"]["name"] = SECRET.into();
            let list = serde_json::json!({"kind": "SecretList", "items": [item]});
            seeds.push(seed(ANSWER, list.to_string().as_bytes()));
        }
    }
    seeds.push(seed(ANSWER, &fixtures::body(&fixtures::answer("one-secret-by-field-selector"))));
    // More than may be unpacked, of little.
    seeds.push(seed(GZIP, &gzip(&vec![b' '; (16 << 20) + 2])));
    // As many values as are kept, and some more.
    for count in [300_000, 400_000] {
        let values = format!(r#"{{"config":[{}0]}}"#, "[],".repeat(count));
        seeds.push(seed(GZIP, &gzip(values.as_bytes())));
    }
    seeds.push(seed(PACKED, format!(r#"{{"config":{}"#, "[".repeat(20_000)).as_bytes()));
    seeds
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn pack(bytes: &[u8]) -> String {
    STANDARD.encode(STANDARD.encode(bytes))
}

fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let read = match *kind {
        AS_IT_IS => unpack(rest),
        GZIP => unpack(pack(rest).as_bytes()),
        JSON | PACKED => {
            let (plain, packed) = (pack(rest), pack(&gzip(rest)));
            let (plain, packed) = (unpack(plain.as_bytes()), unpack(packed.as_bytes()));
            // What looks packed is unpacked once more; what is larger is refused unpacked alone.
            if !rest.starts_with(&[0x1f, 0x8b, 0x08]) && rest.len() <= PACKED_BYTES {
                assert_eq!(plain, packed, "packed or not, it is the same release");
            }
            packed
        }
        _ => {
            let sent = Sent { status: 200, content_type: None, location: None, body: rest };
            match kubernetes::fuzzing::payload(sent, &world::credentials(), SECRET) {
                Ok(Payload::Read(release)) => Ok(*release),
                Ok(Payload::Unreadable(why)) => Err(why),
                Err(error) => {
                    promises::is_message(&error.message);
                    Err(error.message)
                }
            }
        }
    };
    match read {
        Ok(release) => is_small(&release),
        Err(why) => promises::is_detail(&why),
    }
}

fn is_small(release: &Release) {
    assert!(release.info.description.len() <= 16 << 10);
    let chart = &release.chart.metadata;
    for word in [&chart.name, &chart.version, &chart.app_version] {
        assert!(word.as_ref().is_none_or(|word| word.len() <= 512), "{word:?}");
    }
}
