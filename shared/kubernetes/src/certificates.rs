//! The certificates that a registration gives: `caCert`.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use monitor::ports::CaCert;
use rustls::RootCertStore;
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The secret that keeps them holds 64 KiB, with token and address beside them.
const PEM_BYTES: usize = 32 * 1024;

/// Text around the certificates, and base64, may make it longer.
const TEXT_BYTES: usize = 128 * 1024;

/// Checks the certificates, and keeps nothing else of what was given.
pub(crate) fn check(text: &str) -> Result<CaCert, String> {
    let certificates = read(text)?;
    let Some(first) = certificates.first() else {
        return Err("caCert holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
    };
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| broken(1))?;
    // "Never" is written as the year 9999, some hours of which are beyond `Timestamp`.
    let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
    roots(&certificates)?;
    let pem: String = certificates.iter().map(armoured).collect();
    if pem.len() > PEM_BYTES {
        return Err(format!("caCert holds more than {} KiB of certificates", PEM_BYTES >> 10));
    }
    let digest = Sha256::digest(first);
    let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    Ok(CaCert { pem, fingerprint, not_after })
}

/// The certificates as what alone is trusted.
pub(crate) fn trust(text: &str) -> Result<RootCertStore, String> {
    let certificates = read(text)?;
    if certificates.is_empty() {
        return Err("caCert holds no certificate".to_owned());
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
    format!("certificate {number} of caCert is broken: its contents are no X.509 certificate")
}

fn read(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.len() > TEXT_BYTES {
        return Err(format!("caCert is larger than {} KiB", TEXT_BYTES >> 10));
    }
    let decoded;
    let pem = if text.contains("-----BEGIN ") {
        text
    } else {
        decoded = from_base64(text)?;
        &decoded
    };
    if pem.contains("PRIVATE KEY-----") {
        return Err("caCert holds a private key: give certificates only, and replace that key, \
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
                return Err("caCert is broken PEM: each certificate stands between its BEGIN and END \
                            line, and the lines need real line ends"
                    .to_owned());
            }
        }
    }
    Ok(certificates)
}

/// PEM from base64 of it, as kubeconfigs carry it.
fn from_base64(text: &str) -> Result<String, String> {
    const NEITHER: &str = "caCert is neither PEM (-----BEGIN CERTIFICATE-----) nor base64 of PEM";
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(packed).map_err(|_| NEITHER.to_owned())?;
    if X509Certificate::from_der(&bytes).is_ok() {
        return Err("caCert is base64 of a certificate without its PEM lines: put -----BEGIN \
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
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn ca(last_year: i32) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(last_year, 12, 31);
        (params.self_signed(&key).unwrap().pem(), key)
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
    fn several_certificates_are_kept_and_the_first_is_told() {
        let ((first, _), (second, _)) = (ca(2030), ca(2031));
        let both = check(&format!("{first}{second}")).unwrap();
        assert_eq!(both.not_after, "2030-12-31T00:00:00Z".parse().unwrap());
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
            (&pem.replace("CERTIFICATE", "PUBLIC KEY"), "no certificate"),
            (&pem.replace("-----END", "END"), "broken PEM"),
            (&pem.replace('\n', "\\n"), "broken PEM"),
            (&pem.replacen("MII", "%II", 1), "broken PEM"),
            (&armour(b"not DER"), "certificate 1 of caCert is broken"),
            (&armour(&der[..der.len() - 1]), "certificate 1 of caCert is broken"),
            (&armour(&[&der[..], b"x"].concat()), "certificate 1 of caCert is broken"),
            (&format!("{pem}{}", armour(&der[..100])), "certificate 2 of caCert is broken"),
            (&"x".repeat(TEXT_BYTES + 1), "larger than"),
        ] {
            let told = check(text).expect_err(why);
            assert!(told.contains(why), "{why}: {told}");
            assert!(trust(text).is_err(), "{why}");
        }
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
