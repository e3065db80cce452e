//! What a checking process takes of memory while clusters are hostile. The
//! figure is the kernel's, of a process of its own: the clusters are not in it.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use monitor::ports::{Credentials, SystemClock};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testkit::{Fault, SimulatedCluster, release_secret};
use verdict::Reason;

mod world;

/// A fourth of what the function has.
const MOST_KIB: u64 = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "shop";

/// What a process is to check.
#[derive(Serialize, Deserialize)]
struct Task {
    api_url: String,
    token: String,
    ca_cert: String,
    event: Value,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    answer: Value,
    peak_kib: u64,
}

/// The most that this process ever had in memory, in KiB (proc_pid_status(5)).
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The checking process: this binary again, told by its standard input.
#[tokio::test]
#[ignore = "a part of the others, in a process of its own"]
async fn checking_process() {
    let mut task = String::new();
    std::io::stdin().read_to_string(&mut task).unwrap();
    let task: Task = serde_json::from_str(&task).expect("a task; run by itself it has none");
    let credentials = Credentials {
        api_url: task.api_url,
        token: task.token.into(),
        ca_cert: Some(task.ca_cert),
        tls_server_name: None,
        personal: None,
    };
    let targets = task.event["targets"].as_array().unwrap().len();
    let registered = (0..targets).map(|n| (format!("hostile-{n}"), credentials.clone()));
    let checker = world::patient_checker(registered, Arc::new(SystemClock), LIMIT).await;
    let answer = check::handle(&checker, task.event).await.unwrap().unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    println!("\n{}", serde_json::to_string(&Done { answer, peak_kib: peak_kib() }).unwrap());
}

/// What a hostile cluster does to so many targets. Where what is kept of an
/// answer matters, or what is under way of forty, it is forty; where it is the
/// reading of one, a few, since one is read after the other.
struct Case {
    what: &'static str,
    fault: Option<Fault>,
    targets: usize,
    helm_type: &'static str,
    /// Put there as the secrets of the release.
    secrets: Vec<Value>,
    /// What is said of each target: that it was read.
    said: Reason,
}

impl Case {
    fn flux(what: &'static str, fault: Fault, said: Reason) -> Self {
        Self { what, fault: Some(fault), targets: 4, helm_type: "flux", secrets: Vec::new(), said }
    }

    fn of_forty(self) -> Self {
        Self { targets: 40, ..self }
    }

    fn plain(what: &'static str, fault: Fault, said: Reason) -> Self {
        Self { helm_type: "plain", ..Self::flux(what, fault, said) }
    }

    /// A release that came after the push, with such a payload.
    fn payload(what: &'static str, payload: &Value, said: Reason) -> Self {
        let made = Timestamp::now();
        let secret = release_secret(NAMESPACE, "checkout", 2, "deployed", made, Some(payload));
        Self { fault: None, secrets: vec![secret], ..Self::plain(what, Fault::Empty, said) }
    }
}

/// A HelmRelease of nearly 2 MiB, most of it made of one thing.
fn helm_release(metadata: &str, spec: &str, status: &str) -> Fault {
    let object = |metadata: &str, spec: &str, status: &str| {
        format!(
            r#"{{"apiVersion":"helm.toolkit.fluxcd.io/v2","kind":"HelmRelease","metadata":{{"name":"checkout","namespace":"{NAMESPACE}","uid":"u","generation":1{metadata}}},"spec":{{"suspend":false{spec}}},"status":{{"observedGeneration":1{status}}}}}"#
        )
    };
    let text = object(metadata, spec, status);
    assert!((1_900_000..2 << 20).contains(&text.len()), "{}", text.len());
    Fault::Body { text }
}

/// A list of such things, of so many bytes.
fn list(item: &str, bytes: usize) -> String {
    let mut items = format!("{item},").repeat(bytes / (item.len() + 1));
    items.pop();
    format!("[{items}]")
}

const HELM_RELEASE: usize = 2_000_000;
const PAGE: usize = 8_300_000;

fn cases() -> Vec<Case> {
    use Reason::{BadAnswer, Deployed, NotFound, PayloadUnreadable, WaitingForChange};
    let long = "a".repeat(HELM_RELEASE);
    let word = "w".repeat(250);
    // As much as is kept of each part, and then small objects to the end.
    let entry =
        format!(r#"{{"name":"{word}","status":"{word}","chartVersion":"{word}","appVersion":"{word}"}}"#);
    let condition = format!(r#"{{"type":"Ready","reason":"{word}","message":"{}"}}"#, "m".repeat(8_000));
    let manager = format!(r#"{{"manager":"{word}","subresource":"{word}","fieldsV1":{{"f:spec":{{}}}}}}"#);
    let full = helm_release(
        &format!(r#","managedFields":{}"#, list(&manager, 200_000)),
        &format!(r#","values":{}"#, list(r#"{"":0}"#, 1_300_000)),
        &format!(r#","history":{},"conditions":{}"#, list(&entry, 200_000), list(&condition, 250_000)),
    );
    let page = |items: &str| Fault::Body {
        text: format!(
            r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"1"}},"items":{items}}}"#
        ),
    };
    let mut revisions = String::new();
    for version in 1..=10_000 {
        let comma = if version == 1 { "" } else { "," };
        revisions += &format!(
            r#"{comma}{{"metadata":{{"name":"sh.helm.release.v1.checkout.v{version}","namespace":"{NAMESPACE}","uid":"00000000-0000-4000-8000-{version:012}","resourceVersion":"{version}","creationTimestamp":"2026-11-23T19:15:45Z","labels":{{"modifiedAt":"1795461343","name":"checkout","owner":"helm","status":"superseded","version":"{version}"}},"managedFields":[{{"manager":"helm","operation":"Update","apiVersion":"v1","time":"2026-11-23T19:15:45Z","fieldsType":"FieldsV1"}}]}}}}"#
        );
    }
    let long_names = format!(
        r#"{{"metadata":{{"name":"{0}","uid":"{1}","labels":{{"owner":"helm","name":"checkout","version":"1"}}}}}}"#,
        "n".repeat(250),
        "u".repeat(160)
    );
    let values: Value =
        serde_json::from_str(&format!(r#"{{"many":{}}}"#, list(r#"{"":0}"#, 1_000_000))).unwrap();
    let chart = json!({"metadata": {"name": "checkout", "version": "1.1.0"}});
    vec![
        Case::flux("a body without an end", Fault::Endless, BadAnswer).of_forty(),
        Case::flux("a body of 100 MiB", Fault::Huge { bytes: 100 << 20 }, BadAnswer).of_forty(),
        Case::flux("a body that unpacks to 1 GiB", Fault::GzipBody { bytes: 1 << 30 }, BadAnswer).of_forty(),
        Case::flux("a body of brackets", Fault::DeepNesting { depth: 1_000_000 }, BadAnswer),
        Case::flux("a kind of 2 MB", Fault::Body { text: format!(r#"{{"kind":"{long}"}}"#) }, BadAnswer)
            .of_forty(),
        Case::flux("a HelmRelease that is full of all", full, WaitingForChange).of_forty(),
        Case::flux(
            "values of small objects",
            helm_release("", &format!(r#","values":{}"#, list(r#"{"":0}"#, HELM_RELEASE)), ""),
            WaitingForChange,
        ),
        Case::flux(
            "a history of empty entries",
            helm_release("", "", &format!(r#","history":{}"#, list("{}", HELM_RELEASE))),
            WaitingForChange,
        ),
        Case::flux(
            "conditions without a message",
            helm_release("", "", &format!(r#","conditions":{}"#, list(r#"{"type":"Ready"}"#, HELM_RELEASE))),
            WaitingForChange,
        ),
        Case::flux(
            "managers without a name",
            helm_release(
                &format!(r#","managedFields":{}"#, list(r#"{"fieldsV1":{"f:spec":{}}}"#, HELM_RELEASE)),
                "",
                "",
            ),
            WaitingForChange,
        ),
        Case::flux(
            "a time that is a tree",
            helm_release(
                "",
                "",
                &format!(r#","history":[{{"lastDeployed":{}}}]"#, list(r#"{"":0}"#, HELM_RELEASE)),
            ),
            WaitingForChange,
        ),
        Case::flux(
            "a revision of 2 MB",
            helm_release("", "", &format!(r#","lastAttemptedRevision":"{long}""#)),
            WaitingForChange,
        )
        .of_forty(),
        Case::plain("10,000 revisions", page(&format!("[{revisions}]")), WaitingForChange).of_forty(),
        Case::plain("a page of empty items", page(&list("{}", PAGE)), NotFound),
        Case::plain(
            "a page of managers",
            page(&format!(r#"[{{"metadata":{{"managedFields":{}}}}}]"#, list("{}", PAGE))),
            NotFound,
        ),
        Case::plain("a page of long names", page(&list(&long_names, PAGE)), WaitingForChange),
        Case::plain("a list without an end", Fault::Endless, BadAnswer),
        Case::plain("a list that unpacks to 1 GiB", Fault::GzipBody { bytes: 1 << 30 }, BadAnswer),
        Case::payload(
            "a payload with values of small objects",
            &json!({"info": {"description": "Upgrade complete"}, "chart": chart, "config": values}),
            Deployed,
        ),
        Case::payload(
            "a payload with a description of 15 MB",
            &json!({"info": {"description": "d".repeat(15_000_000)}, "chart": chart}),
            Deployed,
        ),
        Case::payload(
            "a payload with values of 15 MB",
            &json!({"info": {"description": ""}, "chart": chart, "config": {"a": "v".repeat(15_000_000)}}),
            PayloadUnreadable,
        ),
        Case::payload(
            "a payload with a key of 15 MB",
            &json!({"info": {"description": ""}, "chart": chart, "k".repeat(15_000_000): 1}),
            Deployed,
        ),
        Case {
            fault: Some(Fault::GzipPayload { bytes: 1 << 30 }),
            ..Case::payload("a payload that unpacks to 1 GiB", &json!({}), PayloadUnreadable)
        },
    ]
}

/// Checks in a process of its own.
async fn measured(case: &Case) -> Done {
    let cluster = SimulatedCluster::start(testkit::Config::default()).await.unwrap();
    cluster.put_secrets(NAMESPACE, "checkout", case.secrets.clone());
    cluster.set_fault(case.fault.clone()).await.unwrap();
    let credentials = world::credentials(&cluster);
    let targets: Vec<Value> = (0..case.targets)
        .map(|n| json!({"cluster": format!("hostile-{n}"), "namespace": NAMESPACE, "release": "checkout"}))
        .collect();
    let mut event = json!({
        "deploymentId": "d", "helmType": case.helm_type, "targets": targets, "timeoutSecs": 60,
        "pushedAt": (Timestamp::now() - SignedDuration::from_hours(1)).to_string(),
    });
    // The values are looked into: what is expected stands at the end of them.
    if case.helm_type == "flux" {
        event["expect"] = json!({"values": {"/no": {"such": ["value"]}}});
    }
    let task = Task {
        api_url: credentials.api_url,
        token: credentials.token.expose_secret().to_owned(),
        ca_cert: cluster.ca_pem().to_owned(),
        event,
    };
    let task = serde_json::to_string(&task).unwrap();
    let done = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checking_process", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(task.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let done = said.lines().find(|line| line.starts_with("{\"answer\""));
        serde_json::from_str(done.unwrap_or_else(|| panic!("{said}"))).unwrap()
    });
    let done = tokio::time::timeout(LIMIT, done).await.expect("within the time limit").unwrap();
    cluster.shutdown().await;
    done
}

#[tokio::test]
async fn hostile_answers_of_all_targets_at_once_fit_into_64_mib() {
    let mut over = Vec::new();
    for case in cases() {
        let done = measured(&case).await;
        let targets = done.answer["targets"].as_array().unwrap();
        for target in targets {
            assert_eq!(target["reason"], json!(case.said), "{}: {}", case.what, target["message"]);
        }
        println!("{:6} KiB for {} × {}", done.peak_kib, case.targets, case.what);
        if done.peak_kib > MOST_KIB {
            over.push(format!("{}: {} KiB", case.what, done.peak_kib));
        }
    }
    assert!(over.is_empty(), "{over:?}");
}
