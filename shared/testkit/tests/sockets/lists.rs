//! Lists of secrets: selectors, pages, forms, and many of them.

use std::collections::BTreeSet;

use http::header;
use jiff::Timestamp;
use reqwest::Client;
use serde_json::{Value, json};
use testkit::{SimulatedCluster, release_secret};

use crate::{METADATA, client, get, limited, start};

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn put(cluster: &SimulatedCluster, release: &str, revisions: u32) {
    let created: Timestamp = "2026-11-23T19:15:45Z".parse().unwrap();
    let payload = json!({"name": release, "info": {"description": "Upgrade complete"}});
    let secrets =
        (1..=revisions).map(|it| release_secret("shop", release, it, "superseded", created, Some(&payload)));
    cluster.put_secrets("shop", release, secrets.collect());
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|it| it["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn pages(client: &Client, cluster: &SimulatedCluster, path: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut next = String::new();
    loop {
        let got = get(client, cluster, &format!("{path}&continue={next}"), METADATA).await.unwrap();
        assert_eq!(got.status, 200, "{}", got.text);
        let page = got.json();
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        pages.push(page);
        if next.is_empty() {
            return pages;
        }
    }
}

#[tokio::test]
async fn ten_thousand_revisions_come_in_pages() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        put(&cluster, "checkout", 10_000);
        put(&cluster, "cart", 3);
        let path = format!("{SECRETS}?labelSelector=owner%3Dhelm%2Cname%3Dcheckout&limit=500");
        let pages = pages(&client, &cluster, &path).await;
        assert_eq!(pages.len(), 20);
        let names: Vec<String> = pages.iter().flat_map(names).collect();
        assert_eq!((names.len(), names.iter().collect::<BTreeSet<_>>().len()), (10_000, 10_000));
        // By key, not by number.
        assert!(names.is_sorted());
        let versions: BTreeSet<_> =
            pages.iter().map(|it| it["metadata"]["resourceVersion"].to_string()).collect();
        assert_eq!(versions.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_asked_for_too_late_is_gone() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        put(&cluster, "checkout", 3);
        let first = get(&client, &cluster, &format!("{SECRETS}?limit=1"), METADATA).await.unwrap().json();
        let next = first["metadata"]["continue"].as_str().unwrap();
        let path = format!("{SECRETS}?limit=1&continue={next}");
        assert_eq!(names(&get(&client, &cluster, &path, METADATA).await.unwrap().json()).len(), 1);
        cluster.expire_continue_tokens();
        let gone = get(&client, &cluster, &path, METADATA).await.unwrap();
        assert_eq!((gone.status.as_u16(), gone.json()["reason"].as_str()), (410, Some("Expired")));
        let garbled = get(&client, &cluster, &format!("{SECRETS}?continue=x"), METADATA).await.unwrap();
        assert_eq!((garbled.status.as_u16(), garbled.json()["reason"].as_str()), (400, Some("BadRequest")));
    })
    .await;
}

#[tokio::test]
async fn selectors_choose() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        put(&cluster, "checkout", 2);
        put(&cluster, "cart", 2);
        let list = async |query: &str| {
            get(&client, &cluster, &format!("{SECRETS}?{query}"), METADATA).await.unwrap()
        };
        let all = list("labelSelector=owner%3Dhelm").await.json();
        assert_eq!(names(&all).len(), 4);
        let one = list(
            "labelSelector=owner=helm,name==cart&fieldSelector=metadata.name%3Dsh.helm.release.v1.cart.v2",
        );
        assert_eq!(names(&one.await.json()), ["sh.helm.release.v1.cart.v2"]);
        let typed = list("fieldSelector=type%3Dhelm.sh%2Frelease.v1&labelSelector=name%3Dcart").await.json();
        assert_eq!(names(&typed).len(), 2);
        assert!(list("labelSelector=name%3Dnobody").await.json()["items"].is_null());
        let too_long = format!("labelSelector=name%3D{}", "a".repeat(64));
        for bad in [
            "labelSelector=name%20in%20(a,b)",
            "labelSelector=!name",
            "labelSelector=name!%3Dx",
            "labelSelector=%3Dx",
            "labelSelector=name%3Da%2Fb",
            "fieldSelector=data%3Dx",
            "limit=many",
            &too_long,
        ] {
            let refused = list(bad).await;
            assert_eq!(
                (refused.status.as_u16(), refused.json()["reason"].as_str()),
                (400, Some("BadRequest")),
                "{bad}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn forms_differ_in_payloads_and_in_how_nothing_looks() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        put(&cluster, "checkout", 1);
        let whole = get(&client, &cluster, SECRETS, "application/json").await.unwrap().json();
        assert_eq!(whole["kind"], "SecretList");
        assert!(whole["items"][0]["data"]["release"].is_string());
        assert!(whole["items"][0].get("kind").is_none());
        let metadata = get(&client, &cluster, SECRETS, METADATA).await.unwrap().json();
        assert_eq!(metadata["items"][0]["kind"], "PartialObjectMetadata");
        assert!(metadata["items"][0].get("data").is_none());
        let none = get(&client, &cluster, "/api/v1/namespaces/empty/secrets", "*/*").await.unwrap().json();
        assert_eq!(none["items"], json!([]));
        let page = get(&client, &cluster, SECRETS, "text/html").await.unwrap();
        assert_eq!((page.status.as_u16(), page.json()["reason"].as_str()), (406, Some("NotAcceptable")));
    })
    .await;
}

#[tokio::test]
async fn long_answers_are_packed_for_who_takes_that() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        put(&cluster, "checkout", 2_000);
        let url = format!("{}{SECRETS}", cluster.api_url());
        let token = cluster.token();
        let packed = async |query: &str| {
            let request = client.get(format!("{url}{query}")).header(header::ACCEPT_ENCODING, "gzip");
            let response =
                request.bearer_auth(secrecy::ExposeSecret::expose_secret(&token)).send().await.unwrap();
            let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
            (encoding.map(|it| it.to_str().unwrap().to_owned()), response.bytes().await.unwrap())
        };
        let (encoding, body) = packed("").await;
        assert_eq!(encoding.as_deref(), Some("gzip"));
        assert_eq!(&body[..2], [0x1f, 0x8b]);
        assert_eq!(packed("?limit=2").await.0, None);
        assert!(
            get(&client, &cluster, SECRETS, "*/*")
                .await
                .unwrap()
                .headers
                .get(header::CONTENT_ENCODING)
                .is_none()
        );
    })
    .await;
}
