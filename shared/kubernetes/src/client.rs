//! The transport: asks, waits no longer than allowed, reads no more than allowed.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{
    HeaderValue, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE},
};
use jiff::Timestamp;
use monitor::ports::{Clusters, Credentials, Dated};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use verdict::{AskError, AskErrorKind, HelmRelease, Payload, Revision};

use crate::{
    AddressPolicy,
    bodies::{Body, Budget, LARGEST, TooLarge},
    endpoint::{Endpoint, Endpoints, Tls},
    parsing::{self, Answer},
    payload::PACKED_BYTES,
    redaction::fit,
    requests::{self, BadName, PAGE},
    trouble,
};

/// etcd takes 1.5 MiB.
const HELM_RELEASE_BYTES: usize = 2 * 1024 * 1024;

/// A page of 500 secrets' metadata is 0.5 MiB, managedFields included.
const PAGE_BYTES: usize = LARGEST;

/// 12,500 revisions; Helm keeps ten.
const PAGES: usize = 25;

/// A payload is base64 twice, which makes it 16/9 of its size; 1/4 above that for
/// what stands around it.
const PAYLOAD_BYTES: usize = PACKED_BYTES as usize * 2;

/// Of an answer that is no 200 only a sentence is needed.
pub(crate) const REFUSAL_BYTES: usize = 64 * 1024;

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection: name, TCP and TLS. 2 s, so that a second try still fits.
    pub connect: Duration,
    /// For a whole question, all pages of a list included. 4 s, because a check
    /// has 4.5 s for all its targets. A probe, with its many questions, may take
    /// twice as long.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), request: Duration::from_secs(4) }
    }
}

/// The cryptography can't do what TLS needs.
#[derive(Debug, thiserror::Error)]
#[error("TLS can't be set up")]
pub struct SetupError(#[from] rustls::Error);

/// Asks clusters over HTTPS. One for the whole process: it keeps the connections.
pub struct KubernetesClient {
    pub(crate) endpoints: Endpoints,
    pub(crate) timeouts: Timeouts,
    pub(crate) budget: Budget,
}

impl fmt::Debug for KubernetesClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesClient").field("timeouts", &self.timeouts).finish_non_exhaustive()
    }
}

impl KubernetesClient {
    /// A client that connects only where the policy allows.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn new(policy: AddressPolicy) -> Result<Self, SetupError> {
        Self::with_timeouts(policy, Timeouts::default())
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn with_timeouts(policy: AddressPolicy, timeouts: Timeouts) -> Result<Self, SetupError> {
        let endpoints = Endpoints::new(Tls::new()?, policy, timeouts);
        Ok(Self { endpoints, timeouts, budget: Budget::new() })
    }

    async fn ask_helm_release(
        &self,
        credentials: &Credentials,
        namespace: &str,
        name: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        let request = requests::helm_release(namespace, name).map_err(bad_name)?;
        let came = self.session(credentials)?.fetch(&request, HELM_RELEASE_BYTES).await?;
        Ok(Dated { value: parsing::helm_release(came.answer(), namespace, name)?, date: came.date })
    }

    async fn ask_revisions(
        &self,
        credentials: &Credentials,
        namespace: &str,
        release: &str,
    ) -> Result<Dated<Vec<Revision>>, AskError> {
        let session = self.session(credentials)?;
        let mut revisions = Vec::new();
        let mut next = None;
        for _ in 0..PAGES {
            let request = requests::revisions(namespace, release, next.as_deref()).map_err(bad_name)?;
            let came = session.fetch(&request, PAGE_BYTES).await?;
            let page = parsing::page(came.answer(), namespace, release)?;
            revisions.extend(page.revisions);
            parsing::keep_highest(&mut revisions);
            next = page.next;
            if next.is_none() {
                return Ok(Dated { value: revisions, date: came.date });
            }
        }
        Err(parsing::not_kubernetes(format!("there are more than {} revisions", PAGES * PAGE as usize)))
    }

    async fn ask_payload(
        &self,
        credentials: &Credentials,
        namespace: &str,
        secret: &str,
    ) -> Result<Dated<Payload>, AskError> {
        let request = requests::payload(namespace, secret).map_err(bad_name)?;
        let came = match self.session(credentials)?.fetch(&request, PAYLOAD_BYTES).await {
            Ok(came) => came,
            Err(Trouble::TooLarge { bound, date }) => {
                let why = format!("the payload of {secret} is larger than {}", size(bound));
                return Ok(Dated { value: Payload::Unreadable(why), date });
            }
            Err(Trouble::Ask(error)) => return Err(error),
        };
        Ok(Dated { value: parsing::payload(came.answer(), secret)?, date: came.date })
    }

    /// Everything that one question needs; its time begins now.
    pub(crate) fn session(&self, credentials: &Credentials) -> Result<Session<'_>, AskError> {
        Ok(Session {
            endpoint: self.endpoints.get(credentials)?,
            bearer: bearer(credentials)?,
            budget: &self.budget,
            deadline: Instant::now() + self.timeouts.request,
            patience: self.timeouts.request,
        })
    }
}

#[async_trait]
impl Clusters for KubernetesClient {
    async fn helm_release(
        &self,
        credentials: &Credentials,
        namespace: &str,
        name: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        let mut came = self
            .ask_helm_release(credentials, namespace, name)
            .await
            .map_err(|e| fit_to_show(e, credentials))?;
        came.value.iter_mut().for_each(|object| make_release_fit(object, credentials));
        Ok(came)
    }

    async fn revisions(
        &self,
        credentials: &Credentials,
        namespace: &str,
        release: &str,
    ) -> Result<Dated<Vec<Revision>>, AskError> {
        self.ask_revisions(credentials, namespace, release).await.map_err(|e| fit_to_show(e, credentials))
    }

    async fn payload(
        &self,
        credentials: &Credentials,
        namespace: &str,
        secret: &str,
    ) -> Result<Dated<Payload>, AskError> {
        let mut came = self
            .ask_payload(credentials, namespace, secret)
            .await
            .map_err(|e| fit_to_show(e, credentials))?;
        make_payload_fit(&mut came.value, credentials);
        Ok(came)
    }
}

pub(crate) fn make_release_fit(object: &mut HelmRelease, credentials: &Credentials) {
    for condition in &mut object.status.conditions {
        make_fit(&mut condition.message, credentials);
    }
}

pub(crate) fn make_payload_fit(payload: &mut Payload, credentials: &Credentials) {
    if let Payload::Read(release) = payload {
        make_fit(&mut release.info.description, credentials);
    }
}

/// Controllers and Helm quote what they were told: data that lies beside the fault,
/// and the token must not be shown whoever quotes it.
fn make_fit(text: &mut String, credentials: &Credentials) {
    *text = fit(text, credentials.token.expose_secret());
}

/// One question to one API server.
pub(crate) struct Session<'a> {
    endpoint: Arc<Endpoint>,
    bearer: Option<HeaderValue>,
    budget: &'a Budget,
    deadline: Instant,
    patience: Duration,
}

/// What came.
pub(crate) struct Came {
    status: u16,
    content_type: Option<String>,
    date: Option<Timestamp>,
    body: Body,
}

impl Came {
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, content_type: self.content_type.as_deref(), body: self.body.bytes() }
    }
}

pub(crate) enum Trouble {
    TooLarge { bound: usize, date: Option<Timestamp> },
    Ask(AskError),
}

impl From<AskError> for Trouble {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

impl From<Trouble> for AskError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::TooLarge { bound, .. } => {
                parsing::not_kubernetes(format!("the answer is larger than {}", size(bound)))
            }
            Trouble::Ask(error) => error,
        }
    }
}

impl Session<'_> {
    pub(crate) async fn fetch(&self, request: &Request<Vec<u8>>, bound: usize) -> Result<Came, Trouble> {
        let Ok(_turn) = timeout_at(self.deadline, self.endpoint.turn()).await else {
            return Err(self.slow("has so many open questions that this one could not be asked").into());
        };
        let response = self.send(request).await?;
        let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let status = response.status().as_u16();
        let content_type = text(CONTENT_TYPE).map(str::to_owned);
        let date = text(DATE).and_then(parsing::date);
        let bound = if status == 200 { bound } else { REFUSAL_BYTES };
        let body = match timeout_at(self.deadline, self.read(response, bound)).await {
            Ok(Ok(body)) => body,
            // The status says enough.
            Ok(Err(Trouble::TooLarge { .. })) if status != 200 => self.budget.begin(0, None).await,
            Ok(Err(Trouble::TooLarge { bound, .. })) => return Err(Trouble::TooLarge { bound, date }),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(self.slow("did not end its answer").into()),
        };
        Ok(Came { status, content_type, date, body })
    }

    async fn send(&self, request: &Request<Vec<u8>>) -> Result<reqwest::Response, AskError> {
        let mut tries = 0;
        loop {
            let mut asked = self.endpoint.request(request)?;
            if let Some(bearer) = &self.bearer {
                asked = asked.header(AUTHORIZATION, bearer.clone());
            }
            tries += 1;
            match timeout_at(self.deadline, asked.send()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if tries == 1 && trouble::may_retry(&error) => {}
                Ok(Err(error)) => return Err(trouble::told(&error.without_url(), &self.endpoint)),
                Err(_) => return Err(self.slow("did not answer")),
            }
        }
    }

    async fn read(&self, mut response: reqwest::Response, bound: usize) -> Result<Body, Trouble> {
        if response.content_length().is_some_and(|announced| announced > bound as u64) {
            return Err(Trouble::TooLarge { bound, date: None });
        }
        let mut body = self.budget.begin(bound, response.content_length()).await;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    body.push(&chunk).await.map_err(|TooLarge| Trouble::TooLarge { bound, date: None })?
                }
                Ok(None) => return Ok(body),
                Err(error) => return Err(trouble::told(&error.without_url(), &self.endpoint).into()),
            }
        }
    }

    fn slow(&self, what: &str) -> AskError {
        trouble::slow(format!("{} {what} within {} s", self.endpoint.server, self.patience.as_secs_f32()))
    }
}

/// The header that lets us in; marked, so that nobody prints it. `None` where a client
/// certificate does instead.
pub(crate) fn bearer(credentials: &Credentials) -> Result<Option<HeaderValue>, AskError> {
    let refused = |message: &str| AskError { kind: AskErrorKind::Unauthorized, message: message.to_owned() };
    // A line end at the end comes from a file or a decoded Secret.
    let token = credentials.token.expose_secret().trim();
    if token.is_empty() {
        if credentials.personal.as_ref().is_some_and(|it| it.identity.is_some()) {
            return Ok(None);
        }
        return Err(refused("the registered token is empty"));
    }
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| refused("the registered token holds characters that no HTTP header can carry"))?;
    bearer.set_sensitive(true);
    Ok(Some(bearer))
}

pub(crate) fn bad_name(error: BadName) -> AskError {
    parsing::not_kubernetes(error.to_string())
}

/// Every error leaves through here. Redacted first: a cut could leave a part of a
/// token that is no longer recognised.
pub(crate) fn fit_to_show(error: AskError, credentials: &Credentials) -> AskError {
    let message = verdict::clean(&fit(&error.message, credentials.token.expose_secret()));
    AskError { kind: error.kind, message }
}

pub(crate) fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}
