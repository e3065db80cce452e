//! Signature Version 4 by its published steps ("Create a signed AWS API request", IAM user
//! guide), so that a signature is not proven by the code that made it.

use hyper::HeaderMap;
use sha2::{Digest as _, Sha256};

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104, with keys of at most a block.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = key.to_vec();
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    sha256(&[pad(0x5c), sha256(&[pad(0x36), message.to_vec()].concat())].concat())
}

/// Whether a request is signed with this secret, for this service: the scope's key id and
/// region, else what is wrong. Paths and queries here hold nothing that is encoded.
pub(crate) fn check(
    (method, path, query): (&str, &str, &str),
    headers: &HeaderMap,
    body: &[u8],
    secret: &str,
    service: &str,
) -> Result<(String, String), String> {
    let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).map(str::trim);
    let authorization = header("authorization").ok_or("Missing Authentication Token")?;
    let part = |name: &str| {
        let found = authorization.split([' ', ',']).find_map(|it| it.strip_prefix(name));
        found.ok_or_else(|| format!("no {name}"))
    };
    let (credential, names, signature) = (part("Credential=")?, part("SignedHeaders=")?, part("Signature=")?);
    let (key_id, scope) = credential.split_once('/').ok_or("no scope")?;
    let [date, region, of, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(format!("the scope is {scope}"));
    };
    if of != service {
        return Err(format!("signed for {of}, not for {service}"));
    }
    let mut canonical = String::new();
    for name in names.split(';') {
        canonical.push_str(&format!("{name}:{}\n", header(name).ok_or_else(|| format!("no header {name}"))?));
    }
    for needed in ["host", "x-amz-date"] {
        if !names.split(';').any(|name| name == needed) {
            return Err(format!("{needed} is not signed"));
        }
    }
    let mut pairs: Vec<&str> = query.split('&').filter(|it| !it.is_empty()).collect();
    pairs.sort_unstable();
    let request =
        format!("{method}\n{path}\n{}\n{canonical}\n{names}\n{}", pairs.join("&"), hex(&sha256(body)));
    let at = header("x-amz-date").unwrap_or_default();
    let to_sign = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&sha256(request.as_bytes())));
    let key = [date, region, of, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    if hex(&hmac(&key, to_sign.as_bytes())) == signature {
        Ok((key_id.to_owned(), region.to_owned()))
    } else {
        Err("The request signature we calculated does not match the signature you provided.".to_owned())
    }
}

/// That a check can fail: the example of the IAM user guide, and what comes near it.
#[test]
fn the_published_example_is_taken_and_nothing_else() {
    let mut headers = HeaderMap::new();
    let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date, Signature={signature}"
    );
    for (name, value) in [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", "20150830T123600Z"),
        ("authorization", &authorization),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let asked = ("GET", "/", "Action=ListUsers&Version=2010-05-08");
    let signer = ("AKIDEXAMPLE".to_owned(), "us-east-1".to_owned());
    assert_eq!(check(asked, &headers, b"", secret, "iam"), Ok(signer));
    assert!(check(asked, &headers, b"x", secret, "iam").is_err());
    assert!(check(asked, &headers, b"", "another", "iam").is_err());
    assert!(check(asked, &headers, b"", secret, "execute-api").is_err());
    assert!(check(("POST", asked.1, asked.2), &headers, b"", secret, "iam").is_err());
    assert!(check(asked, &HeaderMap::new(), b"", secret, "iam").is_err());
}
