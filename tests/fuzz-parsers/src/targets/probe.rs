//! A probe's answers, and the certificate that the server showed.
//!
//! Lines: patterns of namespaces with commas between them; the path of apiUrl; the answers to `/version`, to what is
//! served of Flux, to access reviews and to the rules review; the rest is a certificate in DER.

use kubernetes::{
    AddressPolicy, KubernetesClient,
    fuzzing::{self, Said},
};
use monitor::{
    namespaces::Namespaces,
    ports::Credentials,
    probe::{LastProbe, Rule},
};
use serde_json::json;

use super::{certificate, world};
use crate::{Heap, Target, fixtures, input, promises};

/// `targets/probe.rs` says what it is given.
pub const PROBE: Target = Target {
    name: "probe",
    seeds,
    run,
    // A client is made for each probe, with the public roots.
    heap: Heap { fixed: 4 << 20, times: 64 },
};

/// What is kept of a server's words.
const VERSION_CHARS: usize = 100;
const RULES: usize = 1_000;
const ENTRIES: usize = 100;
const ENTRY_CHARS: usize = 300;
const WARNINGS: usize = 20;

fn seeds() -> Vec<Vec<u8>> {
    let answer = fixtures::answer;
    let group = json!({"status": 200, "body": {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "helm.toolkit.fluxcd.io/v2",
        "resources": [{"name": "helmreleases", "kind": "HelmRelease", "namespaced": true, "verbs": ["get"]}]
    }});
    let page = json!({"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<!doctype html><title>Sign in</title>"});
    let echo = json!({"status": 500, "headers": {"Content-Type": "text/plain"}, "body": format!("Bearer {} is not known", promises::TOKEN)});
    let cluster_admin = json!({"status": 201, "body": {"kind": "SelfSubjectRulesReview", "status": {
        "incomplete": true, "nonResourceRules": [],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec"], "resourceNames": ["x"]}]
    }}});
    let der = certificate::ders().swap_remove(0);
    let mut moved = json!({"status": 302, "body": ""});
    moved["headers"] = json!({"Location": "https://login.example.com/?state=x"});
    let mut seeds = Vec::new();
    for (namespaces, path, [version, flux, access, rules]) in [
        (
            "",
            "",
            [answer("version"), group.clone(), answer("ssar-list-secrets-allowed"), answer("rules-review")],
        ),
        (
            "shop,team-*",
            "/k8s/clusters/c-x1",
            [
                answer("version"),
                answer("crd-not-installed"),
                answer("ssar-delete-pods-denied"),
                cluster_admin.clone(),
            ],
        ),
        (
            "a*b,shop",
            "",
            [answer("version"), group.clone(), answer("ssar-bad-token"), answer("ssar-bad-token")],
        ),
        ("*", "", [answer("anonymous"), group.clone(), answer("anonymous"), answer("anonymous")]),
        ("", "/x", [page, group.clone(), cluster_admin.clone(), cluster_admin.clone()]),
        ("", "", [echo, group.clone(), answer("version"), answer("version")]),
        ("", "", [moved, group, answer("version"), cluster_admin]),
    ] {
        let mut seed = format!("{namespaces}\n{path}\n").into_bytes();
        for answer in [version, flux, access, rules] {
            seed.extend(fixtures::line(0, &answer));
            seed.push(b'\n');
        }
        seed.extend(&der);
        seeds.push(seed);
    }
    seeds
}

fn run(data: &[u8]) {
    let [patterns, path, version, flux, access, rules, certificate] = input::lines(data);
    let patterns: Vec<String> = input::text(patterns).split(',').map(str::to_owned).collect();
    let namespaces = Namespaces::parse(patterns).unwrap_or_default();
    let credentials = world::credentials();
    let api_url = format!("{}{}", credentials.api_url, input::text(path));
    let credentials = Credentials { api_url, ..credentials };
    let client = KubernetesClient::new(AddressPolicy::default()).unwrap();
    let [version, flux, access, rules] = [version, flux, access, rules].map(|line| input::heard(line).sent);
    let said = Said { version, flux, access, rules, certificate };
    let last = match fuzzing::probe(&client, &credentials, &namespaces, said) {
        Ok(findings) => {
            is_short(&findings.kubernetes_version, VERSION_CHARS);
            let awaited = if namespaces.is_open() { 1 } else { namespaces.patterns().len() };
            assert_eq!(findings.scopes.len(), awaited, "each pattern is told of");
            for rules in findings.scopes.iter().filter_map(|scope| scope.rules.as_ref()) {
                assert!(rules.resources.len() <= RULES);
                for Rule { verbs, api_groups, resources, resource_names } in &rules.resources {
                    for list in [verbs, api_groups, resources, resource_names] {
                        assert!(list.len() <= ENTRIES);
                        list.iter().for_each(|entry| is_short(entry, ENTRY_CHARS));
                    }
                }
            }
            let last = LastProbe::of(&findings, promises::start());
            assert!(last.warnings.len() <= WARNINGS, "{:?}", last.warnings);
            last.warnings.iter().for_each(|warning| is_told(warning));
            last
        }
        Err(failure) => {
            is_told(&failure.detail);
            is_told(&failure.help);
            LastProbe::failed(&failure, promises::start())
        }
    };
    is_told(&last.message);
    let stored = serde_json::to_string(&last).unwrap();
    assert_eq!(serde_json::from_str::<LastProbe>(&stored).unwrap(), last, "what is stored is read back");
}

fn is_told(text: &str) {
    promises::is_message(text);
    promises::tells_no_token(text);
}

fn is_short(text: &str, chars: usize) {
    assert!(text.chars().count() <= chars && !text.contains(char::is_control), "{text:?}");
    promises::tells_no_token(text);
}
