use std::collections::BTreeMap;

use aws_sdk_dynamodb::config::SharedHttpClient;
use aws_smithy_http_client::test_util::NeverClient;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    Aws,
    functions::replay::{access, saying},
};

const ROLE: &str = "arn:aws:iam::210987654321:role/dag-monitor";
const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn cluster(role: Option<&str>) -> EksCluster {
    EksCluster {
        cluster_name: "prod-1".to_owned(),
        region: "eu-west-1".to_owned(),
        role_arn: role.map(str::to_owned),
    }
}

fn described(changes: &[(&str, Value)]) -> (u16, String) {
    let mut cluster = json!({
        "name": "prod-1",
        "status": "ACTIVE",
        "endpoint": "https://0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com/",
        "certificateAuthority": {"data": STANDARD.encode(CA)},
    });
    for (name, value) in changes {
        cluster[*name] = value.clone();
    }
    (200, json!({"cluster": cluster}).to_string())
}

fn assumed() -> (u16, String) {
    let credentials = "<AccessKeyId>AKIDOFROLE</AccessKeyId><SecretAccessKey>secret-of-role</SecretAccessKey>\
                       <SessionToken>session/of+role=</SessionToken><Expiration>2026-11-23T19:30:45Z</Expiration>";
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <Credentials>{credentials}</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    );
    (200, body)
}

fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, json!({"__type": code, "message": "the words of EKS"}).to_string())
}

fn refusal_of_sts(status: u16, code: &str) -> (u16, String) {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>the words of STS</Message></Error></ErrorResponse>"
    );
    (status, body)
}

fn minter(aws: &Aws) -> EksMinter {
    aws.eks(&[ROLE.to_owned()], Some("stack-4711"))
}

async fn asked(role: Option<&str>, answers: Vec<(u16, String)>) -> Result<Credentials, EksError> {
    let (aws, _wire) = saying(answers);
    minter(&aws).credentials(&cluster(role)).await
}

fn sentence(result: Result<Credentials, EksError>) -> String {
    match result {
        Err(EksError::Refused(sentence)) => sentence,
        other => panic!("{other:?}"),
    }
}

/// What is signed in a token: the address, and its query with the values decoded.
fn opened(token: &str) -> (String, Vec<(String, String)>) {
    let url = URL_SAFE_NO_PAD.decode(token.strip_prefix("k8s-aws-v1.").unwrap()).unwrap();
    let url = String::from_utf8(url).unwrap();
    let (address, query) = url.split_once('?').unwrap();
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap());
    (address.to_owned(), pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect())
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104, so that the signature is not proven by the code that made it.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { sha256(key) } else { key.to_vec() };
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    sha256(&[pad(0x5c), sha256(&[pad(0x36), message.to_vec()].concat())].concat())
}

/// Signature Version 4 by its published steps, over a `GET /` without a body.
fn signature(secret: &str, host: &str, cluster_name: &str, query: &[(String, String)]) -> String {
    let encoded = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let mut pairs: Vec<String> = query
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    let canonical = format!(
        "GET\n/\n{}\nhost:{host}\nx-k8s-aws-id:{cluster_name}\n\nhost;x-k8s-aws-id\n{}",
        pairs.join("&"),
        hex(&sha256(b""))
    );
    let of = |name: &str| query.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let (date, credential) = (of("X-Amz-Date"), of("X-Amz-Credential"));
    let scope = credential.split_once('/').unwrap().1;
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
    let key =
        scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    hex(&hmac(&key, to_sign.as_bytes()))
}

#[test]
fn the_hmac_of_this_test_is_the_published_one() {
    // RFC 4231, test cases 2 and 6.
    assert_eq!(
        hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    assert_eq!(
        hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    );
}

#[test]
fn a_token_is_a_presigned_question_who_we_are() {
    let now: Timestamp = "2026-11-23T19:15:45Z".parse().unwrap();
    let now = SystemTime::try_from(now).unwrap();
    for session in [Some("session/with+signs=="), None] {
        let identity = Identity::new("AKIDEXAMPLE", "secret-key", session.map(str::to_owned), None, "test");
        let token =
            token("https://sts.eu-west-1.amazonaws.com", "eu-west-1", "prod-1", &identity, now).unwrap();
        let token = token.expose_secret();
        assert!(!token.contains(['=', '+', '/']) && token.len() <= 4096, "{token}");

        let (address, query) = opened(token);
        assert_eq!(address, "https://sts.eu-west-1.amazonaws.com/");
        let mut of: BTreeMap<&str, &str> =
            query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(of.len(), query.len(), "each once");
        let signed = signature("secret-key", "sts.eu-west-1.amazonaws.com", "prod-1", &query);
        assert_eq!(of.remove("X-Amz-Signature"), Some(signed.as_str()));
        assert_eq!(of.remove("X-Amz-Security-Token"), session);
        // Nothing else: an authenticator refuses every parameter that it doesn't know.
        let wanted = BTreeMap::from([
            ("Action", "GetCallerIdentity"),
            ("Version", "2011-06-15"),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", "AKIDEXAMPLE/20261123/eu-west-1/sts/aws4_request"),
            ("X-Amz-Date", "20261123T191545Z"),
            ("X-Amz-Expires", "60"),
            ("X-Amz-SignedHeaders", "host;x-k8s-aws-id"),
        ]);
        assert_eq!(of, wanted);
        // Another cluster's authenticator puts in its own name.
        assert_ne!(signature("secret-key", "sts.eu-west-1.amazonaws.com", "prod-2", &query), signed);
    }
}

#[tokio::test]
async fn the_host_is_the_regional_one_of_the_partition() {
    for (region, host) in [
        ("us-east-1", "https://sts.us-east-1.amazonaws.com"),
        ("eu-west-1", "https://sts.eu-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
    ] {
        assert_eq!(endpoint("sts", region).await.as_deref(), Some(host));
    }
}

#[tokio::test]
async fn address_and_ca_are_those_that_eks_tells() {
    for status in ["ACTIVE", "UPDATING"] {
        let (aws, wire) = saying(vec![described(&[("status", json!(status))])]);
        let credentials = minter(&aws).credentials(&cluster(None)).await.unwrap();
        assert_eq!(credentials.api_url, "https://0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com");
        assert_eq!(credentials.ca_cert.as_deref(), Some(CA));
        assert_eq!(credentials.tls_server_name, None);
        let asked = wire.texts();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].0, "GET");
        assert_eq!(asked[0].1, "https://eks.eu-west-1.amazonaws.com/clusters/prod-1");
        let scope = &wire.credentials()[0];
        assert!(
            scope.starts_with("AKIDEXAMPLE/") && scope.ends_with("/eu-west-1/eks/aws4_request"),
            "{scope}"
        );
        // The token is of the same identity.
        let (address, query) = opened(credentials.token.expose_secret());
        assert_eq!(address, "https://sts.eu-west-1.amazonaws.com/");
        let signed = signature("secret-key", "sts.eu-west-1.amazonaws.com", "prod-1", &query);
        assert!(query.contains(&("X-Amz-Signature".to_owned(), signed)));
        assert!(query.contains(&("X-Amz-Security-Token".to_owned(), "session-token".to_owned())));
    }
}

#[tokio::test]
async fn a_role_is_taken_with_the_external_id_and_for_all_that_follows() {
    let (aws, wire) = saying(vec![assumed(), described(&[])]);
    let credentials = minter(&aws).credentials(&cluster(Some(ROLE))).await.unwrap();
    let asked = wire.texts();
    // Where we are ourselves, not where the cluster is.
    assert_eq!(
        (asked[0].0.as_str(), asked[0].1.as_str()),
        ("POST", "https://sts.eu-central-1.amazonaws.com/")
    );
    let mut form: Vec<&str> = asked[0].2.split('&').collect();
    form.sort_unstable();
    assert_eq!(
        form,
        [
            "Action=AssumeRole",
            "DurationSeconds=900",
            "ExternalId=stack-4711",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fdag-monitor",
            "RoleSessionName=dag-monitor",
            "Version=2011-06-15",
        ]
    );
    let scopes = wire.credentials();
    assert!(scopes[0].starts_with("AKIDEXAMPLE/") && scopes[1].starts_with("AKIDOFROLE/"), "{scopes:?}");
    let (_, query) = opened(credentials.token.expose_secret());
    let signed = signature("secret-of-role", "sts.eu-west-1.amazonaws.com", "prod-1", &query);
    assert!(query.contains(&("X-Amz-Signature".to_owned(), signed)));
    assert!(query.contains(&("X-Amz-Security-Token".to_owned(), "session/of+role=".to_owned())));
}

#[tokio::test]
async fn only_the_roles_of_the_stack_are_taken_and_never_without_an_external_id() {
    let other = "arn:aws:iam::210987654321:role/dag-monitor-admin";
    let (aws, wire) = saying(vec![]);
    assert_eq!(minter(&aws).role_allowed(ROLE), Ok(()));
    for (minter, role) in [
        (minter(&aws), other),
        (minter(&aws), ""),
        (aws.eks(&[ROLE.to_owned()], None), ROLE),
        (aws.eks(&[], Some("stack-4711")), ROLE),
    ] {
        let refused = minter.role_allowed(role).unwrap_err();
        assert!(refused.contains("EksRoleArns"), "{refused}");
        assert_eq!(sentence(minter.credentials(&cluster(Some(role))).await), refused);
    }
    assert!(wire.texts().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let describe = |answer| asked(None, vec![answer]);
    assert_eq!(
        sentence(describe(refusal(403, "AccessDeniedException")).await),
        "the EKS cluster prod-1 in eu-west-1 can't be described: the role of dag-monitor's function needs \
         eks:DescribeCluster on it"
    );
    assert_eq!(
        sentence(describe(refusal(404, "ResourceNotFoundException")).await),
        "the EKS cluster prod-1 in eu-west-1 is not there: the role of dag-monitor's function sees no such \
         cluster in its account"
    );
    assert_eq!(
        sentence(describe(refusal(403, "UnrecognizedClientException")).await),
        "the EKS cluster prod-1 in eu-west-1 can't be described: EKS refused (UnrecognizedClientException)"
    );
    let by_role = asked(Some(ROLE), vec![assumed(), refusal(403, "AccessDeniedException")]).await;
    assert_eq!(
        sentence(by_role),
        format!(
            "the EKS cluster prod-1 in eu-west-1 can't be described: {ROLE} needs eks:DescribeCluster on it"
        )
    );
    let denied = sentence(asked(Some(ROLE), vec![refusal_of_sts(403, "AccessDenied")]).await);
    assert!(denied.contains(ROLE) && denied.contains("prod-1 in eu-west-1"), "{denied}");
    assert!(denied.contains("trust policy") && denied.contains("ExternalId"), "{denied}");
    assert!(!denied.contains("stack-4711") && !denied.contains("the words of STS"), "{denied}");
    let disabled = sentence(asked(Some(ROLE), vec![refusal_of_sts(403, "RegionDisabledException")]).await);
    assert!(disabled.ends_with("(RegionDisabledException)"), "{disabled}");
}

#[tokio::test]
async fn what_is_not_ready_or_not_whole_is_refused() {
    for (changes, words) in [
        (("status", json!("CREATING")), "EKS says CREATING"),
        (("status", json!("DELETING")), "EKS says DELETING"),
        (("status", Value::Null), "EKS says nothing of its status"),
        (("endpoint", Value::Null), "no address or no CA"),
        (("endpoint", json!("http://0123.eks.amazonaws.com")), "no address or no CA"),
        (("certificateAuthority", Value::Null), "no address or no CA"),
        (("certificateAuthority", json!({"data": "no base64"})), "no address or no CA"),
        (("certificateAuthority", json!({"data": STANDARD.encode("no PEM")})), "no address or no CA"),
    ] {
        let refused = sentence(asked(None, vec![described(&[changes])]).await);
        assert!(refused.contains(words) && refused.contains("prod-1 in eu-west-1"), "{refused}");
    }
}

#[tokio::test]
async fn a_name_or_region_that_could_bend_an_address_is_never_asked_for() {
    let (aws, wire) = saying(vec![]);
    for (cluster_name, region) in [
        ("", "eu-west-1"),
        ("a/b", "eu-west-1"),
        ("a\nb", "eu-west-1"),
        ("-a", "eu-west-1"),
        ("prod", ""),
        ("prod", "eu-west-1.example.com"),
        ("prod", "eu/west"),
        ("prod", "EU-WEST-1"),
    ] {
        let cluster =
            EksCluster { cluster_name: cluster_name.to_owned(), region: region.to_owned(), role_arn: None };
        sentence(minter(&aws).credentials(&cluster).await);
    }
    assert!(wire.texts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn outages_may_pass() {
    for (role, answers) in [
        (None, vec![refusal(500, "ServerException"); 3]),
        (None, vec![refusal(429, "ThrottlingException"); 3]),
        (None, vec![refusal(503, "ServiceUnavailableException"); 3]),
        (None, vec![(200, "<html>".to_owned())]),
        (None, vec![(200, "{}".to_owned())]),
        (Some(ROLE), vec![(200, "<html></html>".to_owned())]),
        (Some(ROLE), vec![(200, String::new())]),
        (Some(ROLE), vec![refusal_of_sts(400, "Throttling"); 3]),
        (Some(ROLE), vec![refusal_of_sts(503, "ServiceUnavailable"); 3]),
    ] {
        let result = asked(role, answers).await;
        assert!(matches!(result, Err(EksError::Transient(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_is_given_up_in_time() {
    for role in [None, Some(ROLE)] {
        let aws = Aws::with_http_client(&access(), SharedHttpClient::new(NeverClient::new()));
        let began = tokio::time::Instant::now();
        let result = minter(&aws).credentials(&cluster(role)).await;
        assert!(matches!(result, Err(EksError::Transient(_))), "{result:?}");
        assert!(began.elapsed() <= MINT, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_secret() {
    let (aws, _wire) = saying(vec![assumed(), described(&[])]);
    let credentials = minter(&aws).credentials(&cluster(Some(ROLE))).await.unwrap();
    let text = format!("{credentials:?}");
    assert!(!text.contains("k8s-aws-v1") && !text.contains("session") && !text.contains("secret"), "{text}");
}
