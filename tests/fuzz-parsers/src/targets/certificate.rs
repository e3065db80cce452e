//! `caCert`: PEM, or base64 of PEM.
//!
//! The first byte says how the rest is wrapped, so that the fuzzer need not learn base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use kubernetes::{AddressPolicy, Rules, fuzzing};
use monitor::ports::{CaCert, RegistrationRules};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::{Heap, Target, input, promises};

/// `targets/certificate.rs` says what it is given.
pub const CERTIFICATE: Target =
    Target { name: "certificate", seeds, run, heap: Heap { fixed: 1 << 20, times: 64 } };

/// As it is given.
const TEXT: u8 = b't';
/// To be encoded once more, as kubeconfigs have it.
const ENCODED: u8 = b'b';
/// DER, to be put between the lines of PEM.
const DER: u8 = b'd';

/// The secret that keeps them holds 64 KiB.
const PEM_BYTES: usize = 32 * 1024;

/// A CA's certificate, one that is none, and one that ended.
pub(super) fn ders() -> Vec<Vec<u8>> {
    let key = KeyPair::generate().unwrap();
    let params = |is_ca| {
        let mut params = CertificateParams::new(vec!["kubernetes.default.svc".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params
    };
    let ca = params(IsCa::Ca(BasicConstraints::Unconstrained));
    let mut ended = ca.clone();
    ended.not_after = rcgen::date_time_ymd(2020, 1, 1);
    [ca, params(IsCa::ExplicitNoCa), params(IsCa::NoCa), ended]
        .into_iter()
        .map(|params| params.self_signed(&key).unwrap().der().to_vec())
        .collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let ders = ders();
    let mut seeds: Vec<_> = ders.iter().map(|der| [&[DER], der.as_slice()].concat()).collect();
    let pems: Vec<String> = ders.iter().map(|der| pem(der)).collect();
    let all = pems.concat();
    for text in pems.iter().chain([&all]) {
        seeds.push(format!("t{text}").into_bytes());
        seeds.push(format!("b# the CA\r\n{text}").into_bytes());
    }
    seeds.push(format!("t-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n{all}").into_bytes());
    seeds.push(b"t-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n".to_vec());
    seeds
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = match *kind {
        ENCODED => STANDARD.encode(rest),
        DER => pem(rest),
        TEXT => input::text(rest).into_owned(),
        _ => return,
    };
    let rules = Rules::new(AddressPolicy::default());
    let now = promises::start();
    match rules.ca_cert(&text, now) {
        Ok(ca) => {
            assert!(ca.pem.len() <= PEM_BYTES && ca.pem.is_ascii());
            assert!(!ca.pem.contains("PRIVATE KEY"), "{}", ca.pem);
            let fingerprint: Vec<&str> = ca.fingerprint.split(':').collect();
            let is_byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
            assert!(fingerprint.len() == 32 && fingerprint.iter().all(is_byte), "{}", ca.fingerprint);
            assert!(ca.not_after >= now, "one that ended is of no use: {}", ca.not_after);
            assert!(ca.warnings.len() <= 6, "{:?}", ca.warnings);
            ca.warnings.iter().for_each(|warning| promises::is_detail(warning));
            // What is stored is what is given where it is read again, and what connections trust.
            let CaCert { pem, fingerprint, not_after, .. } = rules.ca_cert(&ca.pem, now).unwrap();
            assert_eq!((pem, fingerprint, not_after), (ca.pem.clone(), ca.fingerprint, ca.not_after));
            fuzzing::trust(&ca.pem).unwrap();
        }
        Err(why) => promises::is_detail(&why),
    }
    // Whatever stands in a secret: it may be older than the rules.
    let _ = fuzzing::trust(&text);
}
