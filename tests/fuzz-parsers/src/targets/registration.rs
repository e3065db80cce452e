//! The other fields of a registration: the token, which may be a JWT, the name, and the namespaces' patterns.
//!
//! Lines: patterns with commas between them, a namespace, the cluster's name, and the token; claims that begin with `{`
//! are made a token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use monitor::{
    namespaces::{MAX_PATTERNS, Namespaces},
    register::{NewCluster, Probing, RegisterError, Registered},
    slug::slug,
};

use super::world;
use crate::{Heap, Target, input, promises};

/// `targets/registration.rs` says what it is given.
pub const REGISTRATION: Target =
    Target { name: "registration", seeds, run, heap: Heap { fixed: 512 << 10, times: 64 } };

/// How much of a token's claims is shown.
const CLAIM_CHARS: usize = 200;

fn seeds() -> Vec<Vec<u8>> {
    [
        "shop,team-*\nteam-a\nProd EU\n{\"iss\":\"https://kubernetes.default.svc\",\"sub\":\"system:serviceaccount:dag-monitor:dag-monitor\",\"exp\":1900000000}",
        "*\nshop\nÜñï prod\n{\"exp\":1000000000}",
        "*a*b*\nxaybz\nfirst\n{\"exp\":1e300,\"iss\":\"a\\nb\",\"sub\":1}",
        "a**b,**\naab\n---\nnot-a-real-token-but-long",
        "A,shop\nshop\nx\nZXlKaGJHY2lPaUpTVXpJMU5pSjkuZTMwLmMybG4=",
        "shop,shop\n\nx\neyJhbGciOiJSUzI1NiJ9.e30.c2ln\n",
        "*********************************a\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nx\n{}",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}

fn run(data: &[u8]) {
    let [patterns, namespace, name, token] = input::lines(data).map(|line| input::text(line));
    let patterns: Vec<String> = patterns.split(',').map(str::to_owned).collect();
    match Namespaces::parse(patterns.clone()) {
        Ok(namespaces) => {
            let fits = patterns.iter().any(|pattern| fits(pattern.as_bytes(), namespace.as_bytes()));
            assert_eq!(namespaces.allows(&namespace), fits, "{patterns:?} {namespace}");
            assert!(!namespaces.is_open() || fits, "all are open");
            let stored = serde_json::to_string(&namespaces).unwrap();
            assert_eq!(serde_json::from_str::<Namespaces>(&stored).unwrap(), namespaces);
        }
        Err((index, why)) => {
            assert!(index.is_some_and(|index| index < patterns.len()) || patterns.len() > MAX_PATTERNS);
            promises::is_detail(&why);
        }
    }

    let id = slug(&name);
    assert_eq!(slug(&id), id, "an id is its own");
    assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));

    // As a refusal shows it.
    let elsewhere: String =
        format!("{}{name}", patterns.concat()).chars().filter(|c| !c.is_control()).collect();
    let token = if token.starts_with('{') {
        format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(&*token))
    } else {
        token.into_owned()
    };
    let new = NewCluster {
        name: Some(name.into_owned()),
        api_url: Some("https://prod.example.com".to_owned()),
        service_account_token: Some(token.clone().into()),
        ca_cert: None,
        tls_server_name: None,
        namespaces: Some(patterns),
        eks: None,
    };
    let registrar = world::api().registrar;
    let registered = world::runtime().block_on(registrar.register(new, Probing::Skipped));
    let told = match registered {
        Ok(Registered { row, warnings }) => {
            assert_eq!(row.id, id);
            assert!(
                row.token_expires_at.is_none_or(|end| end > promises::start()),
                "one that ended is refused"
            );
            for claim in row.token_issuer.iter().chain(&row.token_subject) {
                assert!(
                    claim.chars().count() <= CLAIM_CHARS && !claim.contains(char::is_control),
                    "{claim:?}"
                );
            }
            warnings.iter().for_each(|warning| promises::is_detail(warning));
            format!("{}{warnings:?}", serde_json::to_string(&row).unwrap())
        }
        Err(RegisterError::Invalid(refusals)) => {
            assert!(!refusals.is_empty());
            refusals.iter().for_each(|refusal| promises::is_detail(&refusal.detail));
            format!("{refusals:?}")
        }
        Err(other) => panic!("{other:?}"),
    };
    // A shorter one may be a word of the answer.
    let is_secret = token.len() >= 48 && !elsewhere.contains(&token);
    assert!(!is_secret || !told.contains(&token), "{token:?} is in {told}");
}

/// A glob, told once more: which ends of the text the rest of the pattern may begin at.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let mut at = vec![false; text.len() + 1];
    at[0] = true;
    for piece in pattern {
        if *piece == b'*' {
            let first = at.iter().position(|it| *it).unwrap_or(at.len());
            at[first..].fill(true);
        } else {
            for index in (0..text.len()).rev() {
                at[index + 1] = at[index] && text[index] == *piece;
            }
            at[0] = false;
        }
    }
    at[text.len()]
}
