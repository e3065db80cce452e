use monitor::{
    contract,
    namespaces::Namespaces,
    ports::{Auth, Credentials},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::functions::replay::{Wire, answering, is_transient, refusal, told};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.payload.signature";
const NAME: &str = "stack/clusters/prod/credentials";

fn body(id: &str) -> Value {
    let credentials = contract::credentials(TOKEN);
    json!({
        "id": id,
        "apiUrl": credentials.api_url,
        "token": TOKEN,
        "caCert": credentials.ca_cert,
        "tlsServerName": credentials.tls_server_name,
        "namespaces": [],
    })
}

fn holding(text: &str) -> (u16, Value) {
    (200, json!({"ARN": "arn", "Name": NAME, "SecretString": text, "VersionId": "v"}))
}

fn done() -> (u16, Value) {
    (200, json!({"ARN": "arn", "Name": NAME}))
}

fn exists() -> (u16, Value) {
    (400, refusal("ResourceExistsException", "The operation failed because the secret already exists."))
}

fn missing() -> (u16, Value) {
    (400, refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret."))
}

fn scheduled() -> (u16, Value) {
    let words =
        "You can't create this secret because a secret with this name is already scheduled for deletion.";
    (400, refusal("InvalidRequestException", words))
}

fn marked() -> (u16, Value) {
    let words = "You can't perform this operation on the secret because it was marked for deletion.";
    (400, refusal("InvalidRequestException", words))
}

async fn get(answer: (u16, Value)) -> Result<Option<ClusterSecret>, StoreError> {
    let (aws, wire) = answering(vec![answer]);
    let found = aws.vault("stack/clusters/", None).get("prod").await;
    assert_eq!(wire.request("GetSecretValue"), json!({"SecretId": NAME}));
    found
}

async fn put(answers: Vec<(u16, Value)>) -> (Result<(), StoreError>, Wire) {
    let (aws, wire) = answering(answers);
    (aws.vault("stack/clusters/", None).put("prod", &contract::credentials(TOKEN).into()).await, wire)
}

fn secret_string(request: &Value) -> Value {
    serde_json::from_str(request["SecretString"].as_str().unwrap()).unwrap()
}

fn token_of(secret: ClusterSecret) -> Credentials {
    match secret.auth {
        Auth::Token(credentials) => credentials,
        Auth::Eks(cluster) => panic!("{cluster:?}"),
    }
}

#[tokio::test]
async fn reads_the_credentials() {
    let mut narrow = body("prod");
    narrow["namespaces"] = json!(["shop", "team-*"]);
    let found = get(holding(&narrow.to_string())).await.unwrap().unwrap();
    assert_eq!(found.namespaces.patterns(), ["shop", "team-*"]);
    let found = token_of(found);
    assert_eq!(found.token.expose_secret(), TOKEN);
    assert_eq!(found.api_url, "https://api.example.com:6443/k8s/clusters/c-x1");
}

#[tokio::test]
async fn reads_what_was_written_before_there_were_namespaces() {
    let found = get(holding(&json!({"id": "prod", "apiUrl": "https://a", "token": "t"}).to_string())).await;
    let found = found.unwrap().unwrap();
    assert_eq!(found.namespaces, Namespaces::default());
    assert_eq!(token_of(found).ca_cert, None);
}

#[tokio::test]
async fn an_eks_cluster_is_kept_without_address_and_token() {
    let text = json!({
        "id": "prod",
        "auth": {"eks": {"clusterName": "prod", "region": "eu-central-1", "roleArn": "arn:aws:iam::1:role/r"}},
        "namespaces": ["shop"],
    });
    let found = get(holding(&text.to_string())).await.unwrap().unwrap();
    assert!(matches!(&found.auth, Auth::Eks(cluster) if cluster.region == "eu-central-1"), "{found:?}");
    let (aws, wire) = answering(vec![done()]);
    aws.vault("stack/clusters/", None).put("prod", &found).await.unwrap();
    assert_eq!(secret_string(&wire.request("CreateSecret")), text);
}

#[test]
fn a_body_is_written_in_one_piece() {
    let text = write("prod", &contract::credentials(&TOKEN.repeat(100)).into()).unwrap();
    assert_eq!(text.capacity(), text.len(), "it grew, and left a piece of the token behind");
    assert!(text.contains(&TOKEN.repeat(100)));
}

#[tokio::test]
async fn with_a_key_the_secret_is_written_with_it_whichever_it_had() {
    let key = "arn:aws:kms:eu-central-1:123456789012:key/k";
    let (aws, wire) = answering(vec![done(), exists(), done(), scheduled(), done(), done()]);
    let vault = aws.vault("stack/clusters/", Some(key));
    for _ in 0..3 {
        vault.put("prod", &contract::credentials(TOKEN).into()).await.unwrap();
    }
    assert_eq!(
        wire.operations(),
        ["CreateSecret", "CreateSecret", "UpdateSecret", "CreateSecret", "RestoreSecret", "UpdateSecret"]
    );
    for (operation, request) in wire.requests().into_iter().filter(|(name, _)| name != "RestoreSecret") {
        assert_eq!(request["KmsKeyId"], key, "{operation}");
        assert_eq!(secret_string(&request), body("prod"), "{operation}");
    }
    assert_eq!(wire.requests()[2].1["SecretId"], NAME);
}

#[tokio::test]
async fn what_is_not_there_or_is_to_be_deleted_is_none() {
    assert!(get(missing()).await.unwrap().is_none());
    assert!(get(marked()).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_this_clusters_is_broken_and_never_quoted() {
    for text in [
        body("other").to_string(),
        TOKEN.to_owned(),
        json!(TOKEN).to_string(),
        json!({"id": "prod", "apiUrl": "https://a", "token": [TOKEN]}).to_string(),
        json!({"id": "prod", "apiUrl": TOKEN}).to_string(),
        json!({"id": "prod", "apiUrl": "https://a", "token": TOKEN, "auth": {"eks": {"clusterName": "c", "region": "r"}}})
            .to_string(),
        json!({"id": "prod", "auth": {TOKEN: {}}}).to_string(),
        String::new(),
    ] {
        let result = get(holding(&text)).await;
        assert!(!is_transient(&result), "{text}");
        let told = told(&result.unwrap_err());
        assert!(told.contains(NAME) && !told.contains("eyJ"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_is_never_quoted() {
    for answer in [json!({"SecretString": [TOKEN]}), json!(TOKEN), json!({"SecretString": {"token": TOKEN}})]
    {
        let (aws, _wire) = answering(vec![(200, answer); 3]);
        let result = aws.vault("stack/clusters/", None).get("prod").await;
        let told = told(&result.unwrap_err());
        assert!(!told.contains("eyJ"), "{told}");
    }
}

#[tokio::test]
async fn another_invalid_request_is_no_deletion() {
    let (code, words) = ("InvalidRequestException", "You must enable rotation.");
    let result = get((400, refusal(code, words))).await;
    assert!(!is_transient(&result));
    assert!(told(&result.unwrap_err()).contains(words));
}

#[tokio::test]
async fn creates_a_secret() {
    let (result, wire) = put(vec![done()]).await;
    result.unwrap();
    let request = wire.request("CreateSecret");
    assert_eq!(request["Name"], NAME);
    assert_eq!(request.get("KmsKeyId"), None);
    assert_eq!(secret_string(&request), body("prod"));
    assert!(request["ClientRequestToken"].is_string());
}

#[tokio::test]
async fn puts_over_one_that_exists() {
    let (result, wire) = put(vec![exists(), done()]).await;
    result.unwrap();
    let requests = wire.requests();
    assert_eq!(requests[1].0, "PutSecretValue");
    assert_eq!(requests[1].1["SecretId"], NAME);
    assert_eq!(secret_string(&requests[1].1), body("prod"));
}

#[tokio::test]
async fn restores_one_that_is_to_be_deleted() {
    let (result, wire) = put(vec![scheduled(), done(), done()]).await;
    result.unwrap();
    assert_eq!(wire.operations(), ["CreateSecret", "RestoreSecret", "PutSecretValue"]);
    assert_eq!(wire.requests()[1].1, json!({"SecretId": NAME}));

    let (result, wire) = put(vec![exists(), marked(), done(), done()]).await;
    result.unwrap();
    assert_eq!(wire.operations(), ["CreateSecret", "PutSecretValue", "RestoreSecret", "PutSecretValue"]);
}

#[tokio::test(start_paused = true)]
async fn begins_again_where_somebody_changed_it_in_between() {
    // Deleted for good between our create and our put; then somebody else's.
    let (result, wire) = put(vec![exists(), missing(), exists(), done()]).await;
    result.unwrap();
    assert_eq!(wire.operations(), ["CreateSecret", "PutSecretValue", "CreateSecret", "PutSecretValue"]);
    // Deleted again between our restore and our put.
    let (result, _wire) = put(vec![scheduled(), done(), marked(), scheduled(), done(), done()]).await;
    result.unwrap();

    let (result, wire) = put(std::iter::repeat_n([exists(), missing()], 4).flatten().collect()).await;
    assert!(is_transient(&result));
    assert_eq!(wire.requests().len(), 8);
}

#[tokio::test]
async fn a_refusal_never_quotes_the_token() {
    let quoting = refusal("ValidationException", &format!("Value '{TOKEN}' at 'secretString' failed"));
    let (result, _wire) = put(vec![(400, quoting)]).await;
    assert!(!is_transient(&result));
    let told = told(&result.unwrap_err());
    assert!(told.contains("ValidationException") && !told.contains("eyJ"), "{told}");

    let denied = refusal("AccessDeniedException", "not authorized to perform: secretsmanager:CreateSecret");
    let (result, _wire) = put(vec![(400, denied)]).await;
    assert!(!is_transient(&result));
    assert!(crate::functions::replay::told(&result.unwrap_err()).contains("secretsmanager:CreateSecret"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_transient() {
    let (result, wire) = put(vec![(500, refusal("InternalServiceError", "sorry")); 3]).await;
    assert!(is_transient(&result));
    // The same token each time, so that a create that was done is not refused.
    let tokens: Vec<_> = wire.requests().iter().map(|(_, body)| body["ClientRequestToken"].clone()).collect();
    assert!(tokens.len() == 3 && tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
}

#[tokio::test]
async fn deletes_with_the_shortest_recovery_window() {
    let already = "You tried to perform the operation on a secret that's currently marked deleted.";
    for answer in [done(), missing(), marked(), (400, refusal("InvalidRequestException", already))] {
        let (aws, wire) = answering(vec![answer]);
        aws.vault("stack/clusters/", None).delete("prod").await.unwrap();
        assert_eq!(wire.request("DeleteSecret"), json!({"SecretId": NAME, "RecoveryWindowInDays": 7}));
    }
}

#[tokio::test]
async fn an_id_can_t_bend_the_name() {
    let (aws, wire) = answering(vec![]);
    let vault = aws.vault("stack/clusters/", None);
    for id in ["", "a/b", "../x", "a b", "ü", "a*"] {
        assert!(!is_transient(&vault.get(id).await), "{id}");
        assert!(!is_transient(&vault.delete(id).await), "{id}");
        assert!(!is_transient(&vault.put(id, &contract::credentials(TOKEN).into()).await), "{id}");
    }
    assert!(wire.requests().is_empty());
}

#[test]
fn whatever_stands_in_a_secret_it_is_read_or_refused_without_the_token() {
    let text = write("prod", &contract::credentials(TOKEN).into()).unwrap();
    let mut whole = 0;
    for (at, char) in text.char_indices() {
        for other in ["", "\"", "0", "-", "{", "null", "\\", "\u{7f}"] {
            let changed = format!("{}{other}{}", &text[..at], &text[at + char.len_utf8()..]);
            match read(NAME, "prod", &changed) {
                Ok(secret) => {
                    let written = write("prod", &secret).unwrap();
                    let again = read(NAME, "prod", &written).unwrap();
                    assert_eq!(*write("prod", &again).unwrap(), *written);
                    whole += 1;
                }
                Err(error) => {
                    let told = format!("{error} {error:?}");
                    assert!(!told.contains("eyJhb") && !told.contains("signature"), "{told}");
                }
            }
        }
    }
    assert!(whole > 100, "{whole}");
}
