//! The certificate that a server showed, for a probe to tell of it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificates;

/// How much of an issuer's name is told, in characters. A server chooses it.
const ISSUER_CHARS: usize = 200;

/// Where the certificate is noted that the last handshake met.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Option<CertificateDer<'static>>>);

/// What is told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The issuer's distinguished name; a server chooses it, so it is only words.
    pub(crate) issuer: String,
    /// SHA-256 of the DER, in hex with colons.
    pub(crate) fingerprint: String,
    /// When it ends.
    pub(crate) not_after: Timestamp,
}

impl Recorder {
    /// The verifier of rustls, which alone decides, with a note of what it is shown.
    pub(crate) fn around(recorder: &Arc<Self>, usual: Arc<WebPkiServerVerifier>) -> Arc<Recording> {
        Arc::new(Recording { usual, recorder: Arc::clone(recorder) })
    }

    /// Notes what a handshake met.
    pub(crate) fn note(&self, certificate: &CertificateDer<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone().into_owned());
    }

    /// What was shown last; `None` where no handshake came so far, or it is no certificate.
    pub(crate) fn shown(&self) -> Option<Shown> {
        let der = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let issuer = certificate.issuer().to_string();
        let issuer = issuer.chars().filter(|c| !c.is_control()).take(ISSUER_CHARS).collect();
        Some(Shown {
            issuer,
            fingerprint: certificates::fingerprint(&der),
            not_after: certificates::not_after(&certificate),
        })
    }
}

/// See [`Recorder::around`].
#[derive(Debug)]
pub(crate) struct Recording {
    usual: Arc<WebPkiServerVerifier>,
    recorder: Arc<Recorder>,
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.recorder.note(end_entity);
        self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.usual.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[rustls::DistinguishedName]> {
        self.usual.root_hint_subjects()
    }
}
