//! The simulated cluster's certificates, made anew at each start.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use serde::{Deserialize, Serialize};

/// Which certificate the server shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateKind {
    /// One that the cluster's CA issued, for the address it is served at.
    #[default]
    Good,
    /// One that the CA issued, and that ended yesterday.
    Expired,
    /// One that the CA issued, for another host.
    WrongName,
    /// One for the right address that another CA issued.
    OtherIssuer,
}

/// Why no certificates could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Making or signing one failed.
    #[error("a certificate can't be made")]
    Made(#[from] rcgen::Error),
    /// The TLS library does not take it.
    #[error("a certificate can't be served")]
    Served(#[from] rustls::Error),
    /// No client's certificate could be verified by it.
    #[error("a CA can't be trusted")]
    Trusted(#[from] VerifierBuilderError),
}

/// All kinds, ready to serve.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) ca_pem: String,
    pub(crate) other_ca_pem: String,
    /// Of the account: certificate and key.
    pub(crate) client_pem: (String, String),
    good: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    wrong_name: Arc<ServerConfig>,
    other_issuer: Arc<ServerConfig>,
}

impl Certificates {
    pub(crate) fn new(more_names: &[String]) -> Result<Self, CertificateError> {
        let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned(), "kubernetes".to_owned()];
        names.extend_from_slice(more_names);
        let elsewhere = ["elsewhere.invalid".to_owned()];
        let (ca_der, ca_pem, ca) = authority("kubernetes")?;
        let (_, other_ca_pem, other) = authority("another-cluster")?;
        let mut clients = RootCertStore::empty();
        clients.add(ca_der)?;
        let clients = Arc::new(clients);
        Ok(Self {
            good: served(&ca, &clients, &names, days(365))?,
            expired: served(&ca, &clients, &names, days(-1))?,
            wrong_name: served(&ca, &clients, &elsewhere, days(365))?,
            other_issuer: served(&other, &clients, &names, days(365))?,
            client_pem: client(&ca)?,
            ca_pem,
            other_ca_pem,
        })
    }

    pub(crate) fn of(&self, kind: CertificateKind) -> Arc<ServerConfig> {
        Arc::clone(match kind {
            CertificateKind::Good => &self.good,
            CertificateKind::Expired => &self.expired,
            CertificateKind::WrongName => &self.wrong_name,
            CertificateKind::OtherIssuer => &self.other_issuer,
        })
    }
}

type Authority = (CertificateDer<'static>, String, Issuer<'static, KeyPair>);

fn authority(common_name: &str) -> Result<Authority, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    valid(&mut params, days(-400), days(3650));
    let certificate = params.self_signed(&key)?;
    Ok((certificate.der().clone(), certificate.pem(), Issuer::new(params, key)))
}

/// A client's certificate and its key, as kubeconfigs of administrators have them.
fn client(ca: &Issuer<'static, KeyPair>) -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named("kubernetes-admin");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    valid(&mut params, days(-30), days(365));
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}

fn served(
    ca: &Issuer<'static, KeyPair>,
    clients: &Arc<RootCertStore>,
    names: &[String],
    until: Date,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named("kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, days(-30), until);
    let certificate = params.signed_by(&key, ca)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(aws_lc_rs::default_provider());
    // As the real one does: it asks for a certificate, and does without.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(clients), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid(params: &mut CertificateParams, from: Date, until: Date) {
    let at =
        |it: Date| date_time_ymd(i32::from(it.year()), it.month().unsigned_abs(), it.day().unsigned_abs());
    params.not_before = at(from);
    params.not_after = at(until);
}

fn days(from_now: i64) -> Date {
    let now = Timestamp::now();
    let then = now.checked_add(SignedDuration::from_hours(24 * from_now)).unwrap_or(now);
    TimeZone::UTC.to_datetime(then).date()
}
