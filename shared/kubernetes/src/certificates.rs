//! The certificates that a registration gives: `caCert`.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use monitor::ports::CaCert;
use rustls::{RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use sha2::{Digest, Sha256};
use x509_parser::{
    prelude::{FromDer, X509Certificate, X509Version},
    public_key::PublicKey,
};

/// The secret that keeps them holds 64 KiB, with token and address beside them.
const PEM_BYTES: usize = 32 * 1024;

/// How many certificates are told of in words.
const TOLD: usize = 5;

/// Text around the certificates, and base64, may make it longer.
const TEXT_BYTES: usize = 128 * 1024;

/// RSA keys that rustls' verifier takes; Go, and so kubectl, takes 1024 and more.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What a certificate is good for at an instant.
enum Use {
    /// Servers can be trusted by it, with what should be known of it.
    Good(Option<String>),
    /// None can, and why not.
    None(String),
}

/// Checks the certificates, and keeps nothing else of what was given. Refused is
/// what `kubectl` would fail with as well, or our verifier can't use; one of several
/// of that kind is warned of, as the others serve.
pub(crate) fn check(text: &str, now: Timestamp) -> Result<CaCert, String> {
    let certificates = read(text)?;
    let Some(first) = certificates.first() else {
        return Err("no certificate is in it (-----BEGIN CERTIFICATE-----)".to_owned());
    };
    roots(&certificates)?;
    let (mut ends, mut useless, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (number, der) in (1..).zip(&certificates) {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| broken(number))?;
        let which = if certificates.len() == 1 { "it".to_owned() } else { format!("certificate {number}") };
        match usefulness(&certificate, &which, now) {
            Use::Good(warning) => {
                ends.push(not_after(&certificate));
                warnings.extend(warning);
            }
            Use::None(why) => useless.push(why),
        }
    }
    let Some(not_after) = ends.into_iter().min() else {
        let shown = useless.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
        return Err(format!("no server can be trusted by what came: {shown}"));
    };
    warnings.extend(useless.into_iter().map(|why| format!("{why}; the others are used")));
    if warnings.len() > TOLD {
        let more = warnings.len() - TOLD;
        warnings.truncate(TOLD);
        warnings.push(format!("{more} more of its certificates have something like that"));
    }
    let pem: String = certificates.iter().map(armoured).collect();
    if pem.len() > PEM_BYTES {
        return Err(format!("more than {} KiB of certificates came", PEM_BYTES >> 10));
    }
    let warnings = warnings.into_iter().map(|warning| format!("caCert: {warning}")).collect();
    Ok(CaCert { pem, fingerprint: fingerprint(first), not_after, warnings })
}

fn usefulness(certificate: &X509Certificate<'_>, which: &str, now: Timestamp) -> Use {
    let begins =
        Timestamp::from_second(certificate.validity().not_before.timestamp()).unwrap_or(Timestamp::MIN);
    if begins > now {
        return Use::None(format!("{which} is not valid before {begins}"));
    }
    let ends = not_after(certificate);
    if ends < now {
        return Use::None(format!("{which} expired at {ends}"));
    }
    if let Err(why) = strong(certificate) {
        return Use::None(format!("{which} {why}"));
    }
    let is_ca = certificate.basic_constraints().ok().flatten().map(|it| it.value.ca);
    // Certificates before version 3 have no extensions, so they can't say it; Go and
    // webpki take them for a CA's.
    if is_ca == Some(true) || is_ca.is_none() && certificate.version() != X509Version::V3 {
        return Use::Good(None);
    }
    Use::Good(Some(if certificate.issuer() == certificate.subject() {
        format!(
            "{which} does not say that it is a CA's (basicConstraints): kubectl trusts by it only a server \
             that shows this very certificate"
        )
    } else {
        format!(
            "{which} is not a CA's (basicConstraints) but one that a CA issued: no server is trusted by it \
             here, not even one that shows it; give its issuer's certificate"
        )
    }))
}

/// Whether our verifier can use the key.
fn strong(certificate: &X509Certificate<'_>) -> Result<(), String> {
    let key = certificate.public_key();
    if let Ok(PublicKey::RSA(rsa)) = key.parsed() {
        let bits = bits(rsa.modulus);
        return if RSA_BITS.contains(&bits) {
            Ok(())
        } else {
            Err(format!(
                "has an RSA key of {bits} bits; {} to {} can be verified",
                RSA_BITS.start(),
                RSA_BITS.end()
            ))
        };
    }
    let algorithm = contents(key.raw).and_then(contents).unwrap_or_default();
    let provider = aws_lc_rs::default_provider();
    let known = provider.signature_verification_algorithms.all;
    if known.iter().any(|it| it.public_key_alg_id().as_ref() == algorithm) {
        return Ok(());
    }
    Err("has a kind of key that can't be verified; RSA, ECDSA on P-256, P-384 and P-521, and Ed25519 can"
        .to_owned())
}

/// How long a number is that stands first with its highest byte.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match &number[zeros..] {
        [] => 0,
        rest @ [first, ..] => rest.len() * 8 - first.leading_zeros() as usize,
    }
}

/// What stands in a DER value, and whatever follows it. All that is given here was
/// read whole by a parser before.
fn contents(der: &[u8]) -> Option<&[u8]> {
    let length = *der.get(1)?;
    // From 128 on the length has bytes of its own, so many.
    let bytes = usize::from(length).checked_sub(128);
    let start = 2 + bytes.unwrap_or(0);
    match bytes {
        Some(_) => der.get(start..),
        None => der.get(start..start + usize::from(length)),
    }
}

/// SHA-256 of a certificate, in hex with colons, as browsers and openssl show it.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// "Never" is written as the year 9999, some hours of which are beyond `Timestamp`.
pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
}

/// The certificates as what alone is trusted.
pub(crate) fn trust(text: &str) -> Result<RootCertStore, String> {
    let certificates = read(text)?;
    if certificates.is_empty() {
        return Err("no certificate is in it".to_owned());
    }
    roots(&certificates)
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates) {
        let whole = X509Certificate::from_der(certificate).is_ok_and(|(rest, _)| rest.is_empty());
        if !whole || roots.add(certificate.clone()).is_err() {
            return Err(broken(number));
        }
    }
    Ok(roots)
}

fn broken(number: usize) -> String {
    format!("certificate {number} is broken: its contents are no X.509 certificate")
}

fn read(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.len() > TEXT_BYTES {
        return Err(format!("it is larger than {} KiB", TEXT_BYTES >> 10));
    }
    let decoded;
    let pem = if text.contains("-----BEGIN ") {
        text
    } else {
        decoded = from_base64(text)?;
        &decoded
    };
    if pem.contains("PRIVATE KEY-----") {
        return Err("a private key is in it: give certificates only, and replace that key, \
                    for it has left its place"
            .to_owned());
    }
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) => certificates.push(CertificateDer::from(der)),
            // A request, a list of revoked ones: what stands in such files, too.
            Ok(_) => {}
            Err(_) => {
                return Err("it is broken PEM: each certificate stands between its BEGIN and END \
                            line, and the lines need real line ends"
                    .to_owned());
            }
        }
    }
    Ok(certificates)
}

/// PEM from base64 of it, as kubeconfigs carry it.
fn from_base64(text: &str) -> Result<String, String> {
    const NEITHER: &str = "it is neither PEM (-----BEGIN CERTIFICATE-----) nor base64 of PEM";
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(packed).map_err(|_| NEITHER.to_owned())?;
    if X509Certificate::from_der(&bytes).is_ok() {
        return Err("it is base64 of a certificate without its PEM lines: put -----BEGIN \
                    CERTIFICATE----- before and -----END CERTIFICATE----- after it"
            .to_owned());
    }
    String::from_utf8(bytes).ok().filter(|pem| pem.contains("-----BEGIN ")).ok_or_else(|| NEITHER.to_owned())
}

fn armoured(certificate: &CertificateDer<'_>) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut encoded = STANDARD.encode(certificate);
    while !encoded.is_empty() {
        let rest = encoded.split_off(encoded.len().min(64));
        pem.push_str(&encoded);
        pem.push('\n');
        encoded = rest;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
        PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
        RsaKeySize, SignatureAlgorithm, date_time_ymd,
    };
    use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T00:00:00Z".parse().unwrap()
    }

    fn check(text: &str) -> Result<CaCert, String> {
        super::check(text, now())
    }

    fn ca(last_year: i32) -> (String, KeyPair) {
        valid(2000, last_year)
    }

    fn valid(first_year: i32, last_year: i32) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = params("ca", IsCa::Ca(BasicConstraints::Unconstrained));
        params.not_before = date_time_ymd(first_year, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        (params.self_signed(&key).unwrap().pem(), key)
    }

    fn params(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params
    }

    /// Whether a client that trusts this lets in a server that shows that.
    fn trusts(pem: &str, shown: &Certificate) -> Result<(), rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(trust(pem).unwrap());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap();
        let name = ServerName::try_from("api.example.com").unwrap();
        let seconds = u64::try_from(now().as_second()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_server_cert(shown.der(), &[], &name, &[], at).map(|_| ())
    }

    #[test]
    fn pem_and_base64_of_pem_are_the_same() {
        let (pem, _) = ca(2040);
        let from_pem = check(&format!("subject=CN = x\n\n{}\nbye", pem.replace('\n', "\r\n"))).unwrap();
        assert_eq!(from_pem.not_after, "2040-12-31T00:00:00Z".parse().unwrap());
        assert_eq!(from_pem.pem, pem.replace("\r\n", "\n"));
        assert_eq!(from_pem.fingerprint.len(), 95);
        assert!(
            from_pem
                .fingerprint
                .bytes()
                .all(|b| b == b':' || b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
        );

        let packed = STANDARD.encode(&pem);
        assert_eq!(check(&packed).unwrap(), from_pem);
        let (left, right) = packed.split_at(76);
        assert_eq!(check(&format!(" {left}\n{right}\n")).unwrap(), from_pem);
        assert_eq!(check(&from_pem.pem).unwrap(), from_pem, "what is kept is accepted again");
        assert_eq!(trust(&from_pem.pem).unwrap().len(), 1);
    }

    #[test]
    fn several_certificates_are_kept_and_the_first_end_is_told() {
        let ((first, _), (second, _)) = (ca(2031), ca(2030));
        let both = check(&format!("{first}{second}")).unwrap();
        assert_eq!(both.not_after, "2030-12-31T00:00:00Z".parse().unwrap());
        assert_eq!(both.warnings, Vec::<String>::new());
        assert_eq!(both.fingerprint, check(&first).unwrap().fingerprint);
        assert_eq!(trust(&both.pem).unwrap().len(), 2);
        let many: String = std::iter::repeat_n(first, 90).collect();
        assert!(check(&many).unwrap_err().contains("more than 32 KiB"));
    }

    #[test]
    fn a_certificate_without_an_end_has_one() {
        assert!(check(&ca(9999).0).unwrap().not_after > "9999-12-30T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (pem, key) = ca(2040);
        let der = STANDARD.decode(pem.lines().filter(|l| !l.starts_with('-')).collect::<String>()).unwrap();
        let armour = |der: &[u8]| armoured(&CertificateDer::from(der.to_vec()));
        for (text, why) in [
            ("", "neither PEM"),
            ("hello", "neither PEM"),
            ("aGVsbG8=", "neither PEM"),
            (&key.serialize_pem(), "private key"),
            (&format!("{pem}{}", key.serialize_pem()), "private key"),
            (&pem.replace("CERTIFICATE", "ENCRYPTED PRIVATE KEY"), "private key"),
            (&STANDARD.encode(format!("{pem}{}", key.serialize_pem())), "private key"),
            (&STANDARD.encode(&der), "without its PEM lines"),
            (&pem.replace("CERTIFICATE", "PUBLIC KEY"), "no certificate is in it"),
            (&pem.replace("-----END", "END"), "broken PEM"),
            (&pem.replace('\n', "\\n"), "broken PEM"),
            (&pem.replacen("MII", "%II", 1), "broken PEM"),
            (&armour(b"not DER"), "certificate 1 is broken"),
            (&armour(&der[..der.len() - 1]), "certificate 1 is broken"),
            (&armour(&[&der[..], b"x"].concat()), "certificate 1 is broken"),
            (&format!("{pem}{}", armour(&der[..100])), "certificate 2 is broken"),
            (&"x".repeat(TEXT_BYTES + 1), "larger than"),
        ] {
            let told = check(text).expect_err(why);
            assert!(told.contains(why) && !told.starts_with("caCert"), "{why}: {told}");
            assert!(trust(text).is_err(), "{why}");
        }
    }

    #[test]
    fn what_has_ended_or_not_begun_is_refused_where_nothing_else_is_there() {
        let ((old, _), (coming, _), (good, _)) = (ca(2025), valid(2027, 2040), ca(2030));
        assert_eq!(
            check(&old).unwrap_err(),
            "no server can be trusted by what came: it expired at 2025-12-31T00:00:00Z"
        );
        let told = check(&format!("{old}{coming}")).unwrap_err();
        assert!(
            told.contains("certificate 1 expired at 2025") && told.contains("2 is not valid before 2027"),
            "{told}"
        );
        let kept = check(&format!("{old}{good}{coming}")).unwrap();
        assert_eq!(kept.not_after, "2030-12-31T00:00:00Z".parse().unwrap(), "of those that are valid");
        assert_eq!(
            kept.warnings,
            [
                "caCert: certificate 1 expired at 2025-12-31T00:00:00Z; the others are used",
                "caCert: certificate 3 is not valid before 2027-01-01T00:00:00Z; the others are used",
            ]
        );
        assert_eq!(trust(&kept.pem).unwrap().len(), 3, "kept as given");
        let many = format!("{good}{}", old.repeat(9));
        let warnings = check(&many).unwrap().warnings;
        assert_eq!(warnings.len(), TOLD + 1);
        assert!(warnings[TOLD].contains("4 more"), "{warnings:?}");
    }

    /// What stands in the sentences, held against the verifier that decides.
    #[test]
    fn a_certificate_that_is_no_cas_is_warned_of_as_it_fares() {
        let (key, ca_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        // Its own issuer.
        let alone = params("server", IsCa::NoCa).self_signed(&key).unwrap();
        let explicit = params("server", IsCa::ExplicitNoCa).self_signed(&key).unwrap();
        for certificate in [&alone, &explicit] {
            let told = check(&certificate.pem()).unwrap();
            assert!(
                matches!(&told.warnings[..], [one] if one.starts_with("caCert: it does not say that it is a CA's")),
                "{told:?}"
            );
            assert_eq!(trusts(&certificate.pem(), certificate), Ok(()));
        }
        // A CA's, and one that it issued.
        let authority = params("ca", IsCa::Ca(BasicConstraints::Unconstrained));
        let root = authority.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(authority, ca_key);
        let leaf = params("server", IsCa::NoCa).signed_by(&key, &issuer).unwrap();
        assert!(check(&root.pem()).unwrap().warnings.is_empty());
        assert_eq!(trusts(&root.pem(), &leaf), Ok(()));
        let told = check(&leaf.pem()).unwrap();
        assert!(
            matches!(&told.warnings[..], [one] if one.contains("give its issuer's certificate")),
            "{told:?}"
        );
        assert!(trusts(&leaf.pem(), &leaf).is_err(), "not even one that shows it");
        let both = check(&format!("{}{}", root.pem(), leaf.pem())).unwrap();
        assert!(both.warnings[0].contains("certificate 2 is not a CA's"), "{both:?}");
    }

    /// A key that nobody has, of any length.
    struct RsaOf(usize);

    impl PublicKeyData for RsaOf {
        fn der_bytes(&self) -> &[u8] {
            // SEQUENCE { INTEGER modulus, INTEGER 65537 }, the lengths in two bytes.
            let bytes = self.0 / 8;
            let length = |n: usize| [0x82, (n >> 8) as u8, n as u8];
            let mut der = vec![0x30];
            der.extend(length(4 + 1 + bytes + 5));
            der.push(0x02);
            der.extend(length(1 + bytes));
            der.push(0);
            der.extend(vec![0xC5; bytes]);
            der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
            der.leak()
        }

        fn algorithm(&self) -> &'static SignatureAlgorithm {
            &PKCS_RSA_SHA256
        }
    }

    #[test]
    fn a_key_that_cannot_be_verified_with_is_refused_where_nothing_else_is_there() {
        let authority = || params("ca", IsCa::Ca(BasicConstraints::Unconstrained));
        let signer = Issuer::new(authority(), KeyPair::generate().unwrap());
        let good = ca(2030).0;
        for bits in [512, 1024, 1536, 2040, 8200, 16384] {
            let weak = authority().signed_by(&RsaOf(bits), &signer).unwrap().pem();
            let told = check(&weak).expect_err("too weak");
            assert!(told.contains(&format!("RSA key of {bits} bits; 2048 to 8192")), "{told}");
            let kept = check(&format!("{good}{weak}")).unwrap();
            assert!(
                matches!(&kept.warnings[..], [one] if one.contains(&format!("certificate 2 has an RSA key of {bits}"))),
                "{kept:?}"
            );
        }
        for bits in [2048, 3072, 4096, 8192] {
            assert!(check(&authority().signed_by(&RsaOf(bits), &signer).unwrap().pem()).is_ok(), "{bits}");
        }
        let real = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        assert!(check(&authority().self_signed(&real).unwrap().pem()).is_ok());
        for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert!(check(&authority().self_signed(&key).unwrap().pem()).is_ok(), "{algorithm:?}");
        }
        // P-192 (prime192v1) in the place of P-256 (prime256v1).
        let (p256, p192) = (b"\x2A\x86\x48\xCE\x3D\x03\x01\x07", b"\x2A\x86\x48\xCE\x3D\x03\x01\x01");
        let mut der = authority().self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let at = der.windows(8).position(|window| window == p256).unwrap();
        der[at..at + 8].copy_from_slice(p192);
        let told = check(&armoured(&CertificateDer::from(der))).unwrap_err();
        assert!(told.contains("a kind of key that can't be verified"), "{told}");
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "\\PC*", der in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&text);
            let _ = check(&armoured(&CertificateDer::from(der.clone())));
            let _ = check(&STANDARD.encode(&der));
            let _ = check(&format!("-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----"));
        }
    }
}
