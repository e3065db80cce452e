//! Answers to `GET` of a HelmRelease, and the verdicts on them.
//!
//! The first line is a question, each further one an answer.

use serde_json::json;
use verdict::{HelmType, Seen};

use super::world::{self, Asked};
use crate::{Heap, Target, fixtures, input, promises};

/// `targets/flux.rs` says what it is given.
pub const FLUX: Target = Target {
    name: "flux",
    seeds,
    run,
    // A tree of values takes twenty times its text, and a look is decided on twice.
    heap: Heap { fixed: 256 << 10, times: 64 },
};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let question = |namespace: &str, name: &str, more: serde_json::Value| {
        let mut question = json!({"namespace": namespace, "release": name});
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        question.to_string().into_bytes()
    };
    for (number, (name, recording)) in fixtures::folder("tests/fixtures/flux").iter().enumerate() {
        let namespace = fixtures::namespace(recording);
        let more = match number % 3 {
            0 => json!({}),
            1 => json!({"expect": {"chartVersion": "1.1.0", "values": {"/a": 1}}, "failOn": "first"}),
            _ => json!({"pushedAt": "2026-11-23T19:00:00Z", "allowUnchanged": true}),
        };
        let question = question(namespace, name, more);
        let frames = fixtures::frames(recording);
        for few in frames.chunks(4) {
            let mut seed = question.clone();
            for (index, frame) in (0..).zip(few) {
                seed.push(b'\n');
                seed.extend(fixtures::line(index * 5, frame));
            }
            seeds.push(seed);
        }
    }
    for name in ["helmrelease-not-found", "crd-not-installed", "anonymous", "unauthorized-bad-token"] {
        let mut seed = question("apps", "x", json!({}));
        for secs in [0, 5, 10] {
            seed.push(b'\n');
            seed.extend(fixtures::line(secs, &fixtures::answer(name)));
        }
        seeds.push(seed);
    }
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "UpgradeFailed",
        "message": format!("parsing time \"{0}\": Authorization: Bearer {0} error found in #10 byte of ...|{0}|...", promises::TOKEN)
    });
    let object = json!({
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"namespace": "apps", "name": "x", "generation": 1}, "status": {"conditions": [condition]}
    });
    let mut seed = question("apps", "x", json!({}));
    seed.push(b'\n');
    seed.extend(fixtures::line(0, &json!({"status": 200, "body": object})));
    seeds.push(seed);
    seeds
}

fn run(data: &[u8]) {
    let (question, looks) = input::line(data);
    let asked = Asked::read(question);
    let credentials = world::credentials();
    let mut looked = world::Looked::new(HelmType::Flux, &asked);
    for line in looks.split(|byte| *byte == b'\n').take(world::LOOKS) {
        let heard = input::heard(line);
        let (namespace, name) = (&asked.namespace, &asked.release);
        let seen = match kubernetes::fuzzing::helm_release(heard.sent, &credentials, namespace, name) {
            Ok(object) => {
                for condition in object.iter().flat_map(|it| &it.status.conditions) {
                    promises::tells_no_token(&condition.message);
                }
                Seen::HelmRelease(object)
            }
            Err(error) => {
                promises::is_message(&error.message);
                promises::tells_no_token(&error.message);
                Seen::Failed(error)
            }
        };
        looked.look(&heard, seen, |_| unreachable!("a HelmRelease has no payloads"));
    }
    looked.end();
}
