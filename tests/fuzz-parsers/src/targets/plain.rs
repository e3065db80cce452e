//! Pages of a release's secrets, the payloads of its revisions, and the verdicts on them.
//!
//! The first line is a question, the second the JSON of the release that every payload holds, each further one a page.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use verdict::{HelmType, Payload, Releases, Seen};

use super::world::{self, Asked};
use crate::{Heap, Target, fixtures, input, promises};

/// `targets/plain.rs` says what it is given.
pub const PLAIN: Target = Target { name: "plain", seeds, run, heap: Heap { fixed: 256 << 10, times: 64 } };

/// What names a next page is a part of the next request's address.
const CONTINUE_BYTES: usize = 8 * 1024;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let releases = [
        json!({"info": {"description": "Upgrade complete"}, "chart": {"metadata": {"name": "demo", "version": "1.1.0", "appVersion": "2"}}, "config": {"a": 1}}),
        json!({"info": {"description": "Rollback to 1", "rollback_revision": 1}, "chart": {"metadata": {"version": "1.0.0"}}}),
        json!({"info": {"description": format!("Upgrade \"x\" failed: parsing time \"{}\"", promises::TOKEN)}}),
    ];
    for (number, (name, recording)) in fixtures::folder("tests/fixtures/helm").iter().enumerate() {
        let mut question = json!({"namespace": fixtures::namespace(recording), "release": name});
        match number % 3 {
            0 => {}
            1 => question["expect"] = json!({"chartVersion": "1.1.0", "values": {"/a": 1}}),
            _ => question["pushedAt"] = json!("2026-11-23T19:00:00Z"),
        }
        let head = format!("{question}\n{}", releases[number % releases.len()]);
        for few in fixtures::frames(recording).chunks(4) {
            let mut seed = head.clone().into_bytes();
            for (index, frame) in (0..).zip(few) {
                seed.push(b'\n');
                seed.extend(fixtures::line(index * 5, frame));
            }
            seeds.push(seed);
        }
    }
    for (name, namespace, release) in [
        ("empty-namespace-secret-metadata", "nowhere", "x"),
        ("metadata-list-chunked", "plain", "helm3-upgrade"),
        ("bad-label-selector", "plain", "x"),
        ("anonymous", "plain", "x"),
    ] {
        let mut seed =
            format!("{}\nnull\n", json!({"namespace": namespace, "release": release})).into_bytes();
        seed.extend(fixtures::line(0, &fixtures::answer(name)));
        seeds.push(seed);
    }
    seeds
}

fn run(data: &[u8]) {
    let [question, release, looks] = input::lines(data);
    let asked = Asked::read(question);
    let credentials = world::credentials();
    let packed = STANDARD.encode(STANDARD.encode(release));
    let payload = |name: &str| {
        let item =
            json!({"metadata": {"name": name, "labels": {"owner": "helm"}}, "data": {"release": packed}});
        let body = json!({"kind": "SecretList", "items": [item]}).to_string();
        let mut sent = input::heard(b"\t\t200").sent;
        sent.body = body.as_bytes();
        let payload = kubernetes::fuzzing::payload(sent, &credentials, name).unwrap();
        if let Payload::Read(release) = &payload {
            promises::tells_no_token(&release.info.description);
        }
        payload
    };
    let mut looked = world::Looked::new(HelmType::Plain, &asked);
    for line in looks.split(|byte| *byte == b'\n').take(world::LOOKS) {
        let heard = input::heard(line);
        let seen = match kubernetes::fuzzing::revisions(
            heard.sent,
            &credentials,
            &asked.namespace,
            &asked.release,
        ) {
            Ok((revisions, next)) => {
                assert!(next.is_none_or(|token| (1..=CONTINUE_BYTES).contains(&token.len())));
                for revision in &revisions {
                    assert!(revision.version >= 0, "{revision:?}");
                    assert!(revision.name.len() <= 253 && revision.uid.len() <= 253, "{revision:?}");
                }
                Seen::Releases(Releases { revisions, payloads: Default::default() })
            }
            Err(error) => {
                promises::is_message(&error.message);
                promises::tells_no_token(&error.message);
                Seen::Failed(error)
            }
        };
        looked.look(&heard, seen, payload);
    }
    looked.end();
}
