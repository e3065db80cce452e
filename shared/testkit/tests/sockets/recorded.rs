//! Each single answer that was recorded of a real server, asked again.

use std::fs;

use http::{Method, header};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use testkit::{Config, Rule, SimulatedCluster};

use crate::{METADATA, client, fixtures, get, limited, send, start};

fn answers() -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join("api/answers.json")).unwrap()).unwrap()
}

/// The cluster in the state in which it was recorded, as far as the answers show it.
async fn recorded() -> SimulatedCluster {
    let config = Config { account_namespace: "dag".to_owned(), ..Config::default() };
    let cluster = SimulatedCluster::start(config).await.unwrap();
    let answers = answers();
    let one = &answers["one-secret-by-field-selector"]["body"]["items"];
    cluster.put_secrets("plain", "helm3-upgrade-times-out", one.as_array().unwrap().clone());
    for item in answers["metadata-list-chunked"]["body"]["items"].as_array().unwrap() {
        let release = item["metadata"]["labels"]["name"].as_str().unwrap();
        cluster.put_secrets("plain", release, vec![item.clone()]);
    }
    cluster
}

#[tokio::test]
async fn every_recorded_answer_is_given_again() {
    limited(async {
        let cluster = recorded().await;
        let client = client(cluster.ca_pem());
        let token = cluster.token();
        for (name, recorded) in answers().as_object().unwrap() {
            let request = &recorded["request"];
            let token = match name.as_str() {
                "anonymous" => None,
                it if it.ends_with("bad-token") => Some("wrong"),
                _ => Some(token.expose_secret()),
            };
            let method: Method = request["method"].as_str().unwrap().parse().unwrap();
            let (path, accept) = (request["path"].as_str().unwrap(), request["accept"].as_str().unwrap());
            let body = Some(&request["body"]).filter(|it| !it.is_null());
            let got = send(&client, &cluster, method, path, accept, token, body).await.unwrap();

            assert_eq!(u64::from(got.status.as_u16()), recorded["status"].as_u64().unwrap(), "{name}");
            for header in ["Cache-Control", "Content-Type", "X-Content-Type-Options"] {
                let sent = got.headers.get(header).map(|it| it.to_str().unwrap());
                assert_eq!(sent, recorded["headers"][header].as_str(), "{name}: {header}");
            }
            assert!(got.headers.contains_key(header::DATE), "{name}");
            if let Some(text) = recorded["body"].as_str() {
                assert_eq!(got.text, text, "{name}");
                continue;
            }
            let (mut is, mut was) = (got.json(), recorded["body"].clone());
            match name.as_str() {
                // Says which server it is: only the form is the same.
                "version" => {
                    let keys = |it: &Value| it.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                    assert_eq!(keys(&is), keys(&was));
                    continue;
                }
                // How much was written to a cluster is its own affair.
                _ => {
                    for body in [&mut is, &mut was] {
                        if let Some(metadata) = body["metadata"].as_object_mut() {
                            metadata.remove("resourceVersion");
                            metadata.remove("continue");
                        }
                    }
                }
            }
            assert_eq!(is, was, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn without_anonymous_requests_a_missing_token_is_unauthorized() {
    limited(async {
        let config = Config { anonymous: false, ..Config::default() };
        let cluster = SimulatedCluster::start(config).await.unwrap();
        let client = client(cluster.ca_pem());
        let got = send(&client, &cluster, Method::GET, "/version", "*/*", None, None).await.unwrap();
        assert_eq!(got.status, 401);
        assert_eq!(got.json()["message"], "Unauthorized");
    })
    .await;
}

#[tokio::test]
async fn tokens_are_replaced_while_it_runs() {
    limited(async {
        let cluster = recorded().await;
        let client = client(cluster.ca_pem());
        let old = cluster.token();
        cluster.accept_tokens(vec!["new".into(), "other".into()]);
        let status = async |token: &str| {
            send(&client, &cluster, Method::GET, "/version", "*/*", Some(token), None)
                .await
                .unwrap()
                .status
                .as_u16()
        };
        assert_eq!(status(old.expose_secret()).await, 401);
        assert_eq!(status("new").await, 200);
        assert_eq!(status("other").await, 200);
        assert_eq!(cluster.token().expose_secret(), "new");
    })
    .await;
}

#[tokio::test]
async fn only_what_the_rules_grant_is_allowed() {
    limited(async {
        let cluster = recorded().await;
        let client = client(cluster.ca_pem());
        let flux = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/apps/helmreleases/x";
        let secrets = "/api/v1/namespaces/apps/secrets";
        let status = async |path: &str| get(&client, &cluster, path, "*/*").await.unwrap().status.as_u16();
        assert_eq!((status(flux).await, status(secrets).await), (404, 200));
        assert_eq!(status("/api/v1/namespaces/apps/pods").await, 403);
        assert_eq!(status("/api/v1/secrets").await, 200);
        // The path is decoded before it is split, as by the real server.
        assert_eq!(status("/api/v1/namespaces/apps%2Fsecrets").await, 200);

        cluster.set_rules(vec![Rule::get_helm_releases()]);
        let refused = get(&client, &cluster, secrets, "*/*").await.unwrap();
        assert_eq!(refused.status, 403);
        assert_eq!(
            refused.json()["message"],
            "secrets is forbidden: User \"system:serviceaccount:dag:dag-monitor\" cannot list resource \"secrets\" in \
             API group \"\" in the namespace \"apps\""
        );

        cluster.set_rules(vec![Rule::list_secrets().within(&["apps"])]);
        assert_eq!((status(flux).await, status(secrets).await), (403, 200));
        assert_eq!(status("/api/v1/namespaces/other/secrets").await, 403);
        assert_eq!(status("/api/v1/secrets").await, 403);
        let token = cluster.token();
        let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", "namespace": "apps"}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let token = Some(token.expose_secret());
        let got = send(&client, &cluster, Method::POST, path, "*/*", token, Some(&review)).await.unwrap();
        assert_eq!(got.json()["status"]["allowed"], true);
        assert!(got.json()["status"]["reason"].as_str().unwrap().contains("RoleBinding \"dag-monitor/apps\""));
    })
    .await;
}

#[tokio::test]
async fn reviews_are_those_of_rbac() {
    limited(async {
        let cluster = start().await;
        cluster.set_rules(vec![
            Rule::new(&[""], &["pods/exec", "*/scale"], &["create"]),
            Rule::new(&[""], &["pods"], &["get"]),
            Rule::new(&[""], &["secrets"], &["get"]).named(&["one"]),
            Rule::new(&["*"], &["*"], &["list"]).within(&["shop"]),
        ]);
        let client = client(cluster.ca_pem());
        let token = cluster.token();
        let token = Some(token.expose_secret());
        let allowed = async |cluster: &SimulatedCluster, attributes: Value| {
            let review = json!({"spec": {"resourceAttributes": attributes}});
            let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
            let got = send(&client, cluster, Method::POST, path, "*/*", token, Some(&review)).await.unwrap();
            got.json()["status"]["allowed"].as_bool().unwrap()
        };
        for (attributes, expected) in [
            (json!({"verb": "create", "resource": "pods", "subresource": "exec"}), true),
            (json!({"verb": "create", "resource": "deployments", "subresource": "scale"}), true),
            (json!({"verb": "create", "resource": "pods", "subresource": "log"}), false),
            (json!({"verb": "get", "resource": "pods", "subresource": "exec"}), false),
            (json!({"verb": "get", "resource": "pods"}), true),
            (json!({"verb": "get", "resource": "secrets", "name": "one"}), true),
            (json!({"verb": "get", "resource": "secrets", "name": "two"}), false),
            (json!({"verb": "get", "resource": "secrets"}), false),
            (json!({"verb": "list", "resource": "pods", "namespace": "shop", "subresource": "log"}), true),
            (json!({"verb": "list", "resource": "pods"}), false),
            (json!({"verb": "*", "group": "*", "resource": "*"}), false),
        ] {
            assert_eq!(allowed(&cluster, attributes.clone()).await, expected, "{attributes}");
        }
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let review = json!({"spec": {"namespace": "default"}});
        let got = send(&client, &cluster, Method::POST, path, "*/*", token, Some(&review)).await.unwrap();
        let rules = got.json()["status"]["resourceRules"].clone();
        assert_eq!(rules.as_array().unwrap().len(), 5, "without the Role of another namespace");
        assert_eq!(rules[2]["resourceNames"], json!(["one"]));
        assert!(rules[1].get("resourceNames").is_none());
        cluster.set_rules(vec![Rule::cluster_admin()]);
        assert!(allowed(&cluster, json!({"verb": "*", "group": "*", "resource": "*"})).await);
    })
    .await;
}

#[tokio::test]
async fn what_flux_serves_can_be_discovered() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let path = "/apis/helm.toolkit.fluxcd.io/v2";
        let got = get(&client, &cluster, path, "*/*").await.unwrap().json();
        assert_eq!(
            (got["kind"].as_str(), got["groupVersion"].as_str()),
            (Some("APIResourceList"), Some(&path[6..]))
        );
        assert_eq!(got["resources"][0]["name"], "helmreleases");
        let anonymous = send(&client, &cluster, Method::GET, path, "*/*", None, None).await.unwrap();
        assert_eq!(anonymous.status, 403);
        cluster.set_flux_installed(false);
        let got = get(&client, &cluster, path, "*/*").await.unwrap();
        assert_eq!((got.status.as_u16(), got.text.as_str()), (404, "404 page not found\n"));
    })
    .await;
}

#[tokio::test]
async fn without_flux_there_is_no_such_path() {
    limited(async {
        let config = Config { flux_installed: false, ..Config::default() };
        let cluster = SimulatedCluster::start(config).await.unwrap();
        let client = client(cluster.ca_pem());
        let flux = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/apps/helmreleases/x";
        let got = get(&client, &cluster, flux, "application/json").await.unwrap();
        assert_eq!((got.status.as_u16(), got.text.as_str()), (404, "404 page not found\n"));
        cluster.set_flux_installed(true);
        let got = get(&client, &cluster, flux, "application/json").await.unwrap();
        assert_eq!(got.json()["reason"], "NotFound");
    })
    .await;
}

#[tokio::test]
async fn requests_are_logged_without_what_was_in_their_headers() {
    limited(async {
        let cluster = recorded().await;
        let client = client(cluster.ca_pem());
        get(&client, &cluster, "/version", "*/*").await.unwrap();
        get(&client, &cluster, "/api/v1/namespaces/apps/secrets?limit=1", METADATA).await.unwrap();
        let requests = cluster.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[1].status, requests[1].connection), (Some(200), 1));
        assert_eq!(requests[1].path_and_query, "/api/v1/namespaces/apps/secrets?limit=1");
        let written = serde_json::to_string(&requests).unwrap() + &format!("{cluster:?} {requests:?}");
        assert!(!written.contains(cluster.token().expose_secret()));
        let traffic = cluster.traffic();
        // Kept alive: both came on one connection.
        assert_eq!((traffic.accepted, traffic.handshakes), (1, 1));
        assert!(traffic.bytes_out > 300);
        cluster.forget_requests();
        assert!(cluster.requests().is_empty());
    })
    .await;
}
