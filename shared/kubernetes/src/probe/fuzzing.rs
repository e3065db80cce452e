//! A probe that is answered by the fuzzer instead of a server.

use futures_util::FutureExt;

use super::*;

/// What a server says to one question.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header, where it is text.
    pub content_type: Option<&'a str>,
    /// The header, where it is text.
    pub location: Option<&'a str>,
    /// The bytes, decompressed.
    pub body: &'a [u8],
}

/// What a server says to the questions of a probe; to all access reviews the same.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// To `/version`.
    pub version: Sent<'a>,
    /// To what is served of Flux.
    pub flux: Sent<'a>,
    /// To whether the account may do something.
    pub access: Sent<'a>,
    /// To what the account may do.
    pub rules: Sent<'a>,
    /// The certificate that it shows, in DER.
    pub certificate: &'a [u8],
}

/// As `Prober::probe`.
///
/// # Errors
/// As `Prober::probe`.
pub fn probe(
    client: &KubernetesClient,
    credentials: &Credentials,
    namespaces: &Namespaces,
    said: Said<'_>,
) -> Result<Findings, ProbeFailure> {
    let found = client.probing(credentials).and_then(|session| session.hear(namespaces, said));
    fit_to_show(found, credentials)
}

impl Session<'_> {
    fn hear(&self, namespaces: &Namespaces, said: Said<'_>) -> Result<Findings, ProbeFailure> {
        self.recorder.note(&said.certificate.into());
        let version = self.version(&self.came(said.version))?;
        let [flux, access, rules_told] = [said.flux, said.access, said.rules].map(|sent| self.came(sent));
        for came in [&flux, &access, &rules_told] {
            self.let_in(came)?;
        }
        let allowed = permission(access.answer());
        let places = places(namespaces);
        let known = Known {
            get_helm_releases: allowed,
            list_secrets: allowed,
            beyond: if allowed == Permission::Allowed { (0..BEYOND.len()).collect() } else { Vec::new() },
            rules: rules(rules_told.answer()),
        };
        Ok(Findings {
            kubernetes_version: version,
            flux_installed: flux_installed(flux.answer()),
            server_certificate_not_after: self.recorder.shown().map(|shown| shown.not_after),
            scopes: scopes(namespaces, &places, &vec![known; places.len()]),
        })
    }

    /// What is too large for the memory is no answer, as where it is really read.
    fn came(&self, sent: Sent<'_>) -> Came {
        let begun = |bound| self.budget.begin(bound, None).now_or_never();
        let mut body = begun(RULES_BYTES);
        if let Some(read) = &mut body
            && read.push(sent.body).now_or_never() != Some(Ok(()))
        {
            body = begun(0);
        }
        Came {
            status: sent.status,
            content_type: sent.content_type.map(str::to_owned),
            location: sent.location.map(str::to_owned),
            // invariant: nobody else reads, so there is memory for the smallest.
            body: body.unwrap_or_else(|| unreachable!()),
        }
    }
}
