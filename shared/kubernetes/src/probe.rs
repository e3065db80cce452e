//! What a cluster is, and what an account may do there: the adapter of
//! `monitor::ports::Prober`.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http::{
    HeaderValue, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION},
};
use monitor::{
    namespaces::Namespaces,
    ports::{Credentials, Prober},
    probe::{Findings, Permission, ProbeFailure, ProbeReason, Rule, Rules, Scope},
};
use reqwest::Response;
use rustls::CertificateError;
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use url::Url;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use crate::{
    KubernetesClient,
    bodies::{Body, Budget, TooLarge},
    client::{REFUSAL_BYTES, bearer, size},
    endpoint::{Endpoint, ResolveError},
    parsing::{self, Answer},
    recorder::{Recorder, Shown},
    redaction::{Pieces, fit, forms},
    registration,
    requests::{self, Access, FLUX_GROUP},
    trouble::{self, Cause},
};

/// How many questions are on their way at once. A cluster may carry 50 patterns, with
/// a dozen questions each; a server's share for one account is not much more.
const AT_ONCE: usize = 16;

/// A probe takes at most as long as so many questions of a verdict: 8 s.
const PATIENCE: u32 = 2;

/// `/version` is 400 bytes; what is larger is none.
const VERSION_BYTES: usize = 64 * 1024;

/// A group's resources; each has half a kilobyte.
const RESOURCES_BYTES: usize = 256 * 1024;

/// A review with what it was asked.
const REVIEW_BYTES: usize = 64 * 1024;

/// The rules of an account with very many roles; where there are more, it is told
/// what was asked one by one.
const RULES_BYTES: usize = 256 * 1024;

/// What is kept of the rules: as many rules, entries of a list, characters of an entry.
const RULES: usize = 1000;
const ENTRIES: usize = 100;
const ENTRY_CHARS: usize = 300;

/// A version's longest; the longest vendor's has 40 characters.
const VERSION_CHARS: usize = 100;

/// How many of a certificate's names are told.
const NAMES: usize = 10;

const fn access(verb: &'static str, group: &'static str, resource: &'static str) -> Access {
    Access { verb, group, resource, subresource: "" }
}

const fn access_sub(verb: &'static str, resource: &'static str, subresource: &'static str) -> Access {
    Access { verb, group: "", resource, subresource }
}

/// What `flux` needs.
const GET_HELM_RELEASES: Access = access("get", FLUX_GROUP, "helmreleases");
/// What `plain` needs.
const LIST_SECRETS: Access = access("list", "", "secrets");

/// What a stolen token would be worth most with. Asked one by one, because the list of
/// rules may be incomplete (webhook authorizers, as those of clouds, can't list theirs).
/// As `monitor::probe` reads them: the verb, and the resource with its group.
const BEYOND: [(&str, Access); 12] = [
    // cluster-admin, or as good as that.
    ("* *.*", access("*", "*", "*")),
    // Secrets by name, and those to come.
    ("get secrets", access("get", "", "secrets")),
    ("watch secrets", access("watch", "", "secrets")),
    // Another account's token is made by writing a secret.
    ("create secrets", access("create", "", "secrets")),
    ("update secrets", access("update", "", "secrets")),
    ("patch secrets", access("patch", "", "secrets")),
    ("delete secrets", access("delete", "", "secrets")),
    // A pod runs as any account of its namespace; one that runs can be entered.
    ("create pods", access("create", "", "pods")),
    ("create pods/exec", access_sub("create", "pods", "exec")),
    ("create serviceaccounts/token", access_sub("create", "serviceaccounts", "token")),
    // Deploys anything, by Flux's account.
    ("patch helmreleases.helm.toolkit.fluxcd.io", access("patch", FLUX_GROUP, "helmreleases")),
    ("impersonate users", access("impersonate", "", "users")),
];

#[async_trait]
impl Prober for KubernetesClient {
    async fn probe(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<Findings, ProbeFailure> {
        fit_to_show(self.find_out(credentials, namespaces).await, credentials)
    }
}

/// Nothing leaves with the token in it.
fn fit_to_show(
    found: Result<Findings, ProbeFailure>,
    credentials: &Credentials,
) -> Result<Findings, ProbeFailure> {
    let secret = credentials.token.expose_secret();
    match found {
        Ok(findings) => Ok(presentable(findings, secret)),
        Err(failure) => Err(ProbeFailure {
            reason: failure.reason,
            detail: verdict::clean(&fit(&failure.detail, secret)),
            help: verdict::clean(&fit(&failure.help, secret)),
        }),
    }
}

impl KubernetesClient {
    async fn find_out(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<Findings, ProbeFailure> {
        self.probing(credentials)?.find_out(namespaces).await
    }

    /// Everything that one probe needs; its time begins now.
    fn probing(&self, credentials: &Credentials) -> Result<Session<'_>, ProbeFailure> {
        self.endpoints.check(credentials).map_err(|why| {
            failure(ProbeReason::AddressRefused, format!("the address can't be connected to: {why}"), POLICY)
        })?;
        let recorder = Arc::new(Recorder::default());
        let unusable = |error: verdict::AskError| {
            let help = "give caCert and tlsServerName again, as kubectl uses them for this address";
            failure(ProbeReason::TlsFailed, error.message, help)
        };
        let endpoint =
            self.endpoints.probing(credentials, self.timeouts.connect, &recorder).map_err(unusable)?;
        let bearer = bearer(credentials)
            .map_err(|error| failure(ProbeReason::Unauthorized, error.message, NEW_TOKEN))?;
        let now = Instant::now();
        Ok(Session {
            endpoint,
            recorder,
            bearer,
            budget: &self.budget,
            timeouts: self.timeouts.request,
            end: now + self.timeouts.request * PATIENCE,
        })
    }
}

/// One probe of one server.
struct Session<'a> {
    endpoint: Endpoint,
    recorder: Arc<Recorder>,
    bearer: Option<HeaderValue>,
    budget: &'a Budget,
    /// For one question.
    timeouts: std::time::Duration,
    /// Of all questions.
    end: Instant,
}

/// What came.
struct Came {
    status: u16,
    content_type: Option<String>,
    location: Option<String>,
    body: Body,
}

impl Came {
    fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, content_type: self.content_type.as_deref(), body: self.body.bytes() }
    }
}

/// A question about a place, which is a namespace or, empty, all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    HelmReleases,
    Secrets,
    Rules,
    Beyond(usize),
}

/// What is known of a place.
#[derive(Debug, Clone)]
struct Known {
    get_helm_releases: Permission,
    list_secrets: Permission,
    beyond: Vec<usize>,
    rules: Option<Rules>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            get_helm_releases: Permission::Unknown,
            list_secrets: Permission::Unknown,
            beyond: Vec::new(),
            rules: None,
        }
    }
}

enum Told {
    Flux(Option<bool>),
    Place(usize, Question, Permission),
    Rules(usize, Option<Rules>),
}

impl Session<'_> {
    async fn find_out(&self, namespaces: &Namespaces) -> Result<Findings, ProbeFailure> {
        let came = self.fetch(&requests::version(), VERSION_BYTES).await?;
        let kubernetes_version = self.version(&came)?;

        let places = places(namespaces);
        // The needs of all places first: what is late is told as not known.
        let mut questions: Vec<(usize, Option<Question>)> = vec![(0, None)];
        for question in [Question::HelmReleases, Question::Secrets, Question::Rules]
            .into_iter()
            .chain((0..BEYOND.len()).map(Question::Beyond))
        {
            questions.extend((0..places.len()).map(|place| (place, Some(question))));
        }
        let places = &places;
        let open = namespaces.is_open();
        let mut answers = stream::iter(questions)
            .map(|(place, question)| async move {
                match question {
                    None => self.flux().await.map(Told::Flux),
                    Some(question) => {
                        self.ask(place, places.get(place).map_or("", String::as_str), question, open).await
                    }
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut known = vec![Known::default(); places.len()];
        let mut flux_installed = None;
        while let Some(told) = answers.next().await {
            match told? {
                Told::Flux(installed) => flux_installed = installed,
                Told::Rules(place, rules) => known[place].rules = rules,
                Told::Place(place, Question::HelmReleases, it) => known[place].get_helm_releases = it,
                Told::Place(place, Question::Secrets, it) => known[place].list_secrets = it,
                Told::Place(place, Question::Beyond(which), Permission::Allowed) => {
                    known[place].beyond.push(which);
                }
                Told::Place(..) => {}
            }
        }
        Ok(Findings {
            kubernetes_version,
            flux_installed,
            server_certificate_not_after: self.recorder.shown().map(|shown| shown.not_after),
            scopes: scopes(namespaces, places, &known),
        })
    }

    /// Whether Flux's HelmRelease is served in the version that is asked for here.
    async fn flux(&self) -> Result<Option<bool>, ProbeFailure> {
        match self.fetch(&requests::flux_resources(), RESOURCES_BYTES).await {
            Ok(came) => self.let_in(&came).map(|()| flux_installed(came.answer())),
            Err(_) => Ok(None),
        }
    }

    async fn ask(
        &self,
        place: usize,
        namespace: &str,
        question: Question,
        open: bool,
    ) -> Result<Told, ProbeFailure> {
        let access = match question {
            Question::HelmReleases => GET_HELM_RELEASES,
            Question::Secrets => LIST_SECRETS,
            Question::Beyond(which) => BEYOND[which].1,
            Question::Rules => {
                // It has no answer for all namespaces: one that every cluster has
                // stands for them, where all are open.
                let namespace = match namespace {
                    "" if open => "default",
                    "" => return Ok(Told::Rules(place, None)),
                    namespace => namespace,
                };
                return Ok(match self.fetch(&requests::rules_review(namespace), RULES_BYTES).await {
                    Ok(came) => {
                        self.let_in(&came)?;
                        Told::Rules(place, rules(came.answer()))
                    }
                    Err(_) => Told::Rules(place, None),
                });
            }
        };
        let allowed = match self.fetch(&requests::access_review(access, namespace), REVIEW_BYTES).await {
            Ok(came) => {
                self.let_in(&came)?;
                permission(came.answer())
            }
            // The server was there a moment ago: only this answer is missing.
            Err(_) => Permission::Unknown,
        };
        Ok(Told::Place(place, question, allowed))
    }

    /// 401 is 401 wherever it comes.
    fn let_in(&self, came: &Came) -> Result<(), ProbeFailure> {
        if came.status == 401 { Err(self.unauthorized(came.answer())) } else { Ok(()) }
    }

    async fn fetch(&self, request: &Request<Vec<u8>>, bound: usize) -> Result<Came, ProbeFailure> {
        let deadline = self.end.min(Instant::now() + self.timeouts);
        let response = self.send(request, deadline).await?;
        let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let status = response.status();
        let content_type = text(CONTENT_TYPE).map(str::to_owned);
        let location = text(LOCATION).map(str::to_owned);
        let bound = if status.is_success() { bound } else { bound.min(REFUSAL_BYTES) };
        let body = match timeout_at(deadline, self.read(response, bound)).await {
            Ok(Ok(Some(body))) => body,
            // The status says enough.
            Ok(Ok(None)) if !status.is_success() => self.budget.begin(0, None).await,
            Ok(Ok(None)) => {
                let met =
                    format!("{} sent more than {} where little was asked for", self.server(), size(bound));
                return Err(failure(ProbeReason::NotKubernetes, met, ADDRESS));
            }
            Ok(Err(failed)) => return Err(failed),
            Err(_) => return Err(self.late("did not end its answer")),
        };
        Ok(Came { status: status.as_u16(), content_type, location, body })
    }

    async fn send(&self, request: &Request<Vec<u8>>, deadline: Instant) -> Result<Response, ProbeFailure> {
        let mut tries = 0;
        loop {
            let built = self
                .endpoint
                .request(request)
                .map_err(|error| failure(ProbeReason::Unreachable, error.message, ADDRESS))?;
            let asked = match &self.bearer {
                Some(bearer) => built.header(AUTHORIZATION, bearer.clone()),
                None => built,
            };
            tries += 1;
            match timeout_at(deadline, asked.send()).await {
                Ok(Ok(response)) => return Ok(response),
                // A review changes nothing, so it can be sent again as a read can.
                Ok(Err(error)) if tries == 1 && trouble::may_retry(&error) => {}
                Ok(Err(error)) => return Err(self.broken(&error.without_url())),
                Err(_) => return Err(self.late("did not answer")),
            }
        }
    }

    /// The body; `None` where it is larger than that.
    async fn read(&self, mut response: Response, bound: usize) -> Result<Option<Body>, ProbeFailure> {
        if response.content_length().is_some_and(|announced| announced > bound as u64) {
            return Ok(None);
        }
        let mut body = self.budget.begin(bound, response.content_length()).await;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => match body.push(&chunk).await {
                    Ok(()) => {}
                    Err(TooLarge) => return Ok(None),
                },
                Ok(None) => return Ok(Some(body)),
                Err(error) => return Err(self.broken(&error.without_url())),
            }
        }
    }

    fn server(&self) -> &str {
        &self.endpoint.server
    }

    fn late(&self, what: &str) -> ProbeFailure {
        let met = format!("{} {what} within {} s", self.server(), self.timeouts.as_secs_f32());
        failure(ProbeReason::TimedOut, met, SLOW)
    }

    /// The transport failed.
    fn broken(&self, error: &reqwest::Error) -> ProbeFailure {
        let cause = trouble::diagnose(error);
        let met = cause.words(&self.endpoint);
        let (reason, help) = match &cause {
            Cause::Resolve(ResolveError::Refused { .. }) => (ProbeReason::AddressRefused, POLICY),
            Cause::Resolve(_) => (ProbeReason::DnsFailed, DNS),
            Cause::Certificate(error) => return self.not_trusted(error, met),
            Cause::NotTls => (
                ProbeReason::NotKubernetes,
                "it answers without TLS, as a plain HTTP port does; give the port that speaks https, most often \
                 6443 or 443",
            ),
            Cause::Tls(_) => (
                ProbeReason::TlsFailed,
                "the server must speak TLS 1.2 or 1.3 and ask for no client certificate; see whether a proxy stands \
                 before it",
            ),
            Cause::NotHttp | Cause::BrokenGzip => (ProbeReason::NotKubernetes, ADDRESS),
            Cause::NoConnectionInTime | Cause::StoppedAnswering => (ProbeReason::TimedOut, SLOW),
            Cause::Refused => (
                ProbeReason::ConnectionRefused,
                "see whether the port of apiUrl is the API server's, most often 6443 or 443, and whether it runs",
            ),
            Cause::Reset | Cause::NoRoute | Cause::NoConnection(_) | Cause::BrokeOff(_) => {
                (ProbeReason::Unreachable, SLOW)
            }
        };
        failure(reason, met, help)
    }

    /// The certificate was refused. What is told of it was not verified, so it is
    /// only words: it helps an operator to see who answered.
    fn not_trusted(&self, error: &CertificateError, met: String) -> ProbeFailure {
        let shown = self.recorder.shown();
        let own_ca = self.endpoint.own_ca;
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => failure(
                ProbeReason::CertificateExpired,
                met,
                "renew the API server's certificate (kubeadm certs renew, or as your distribution does it)",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => failure(
                ProbeReason::CertificateExpired,
                met,
                "see whether the clock was right where the certificate was made, or wait until it begins",
            ),
            CertificateError::NotValidForName => {
                failure(ProbeReason::CertificateForAnotherName, met, &another_name(&[]))
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let shown =
                    presented.iter().take(NAMES).map(|it| trouble::name_alone(it)).collect::<Vec<_>>();
                let more = if presented.len() > NAMES { ", …" } else { "" };
                let names = if shown.is_empty() { "no name".to_owned() } else { shown.join(", ") + more };
                let met = format!(
                    "the certificate of {} is not for {}; it is for {names}",
                    self.server(),
                    expected.to_str(),
                );
                failure(ProbeReason::CertificateForAnotherName, met, &another_name(presented))
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => failure(
                ProbeReason::CertificateNotTrusted,
                issued(met, shown),
                if own_ca {
                    "give the CA that issued it as caCert (in a kubeconfig certificate-authority-data), after \
                     comparing the fingerprint with the server's own; if it is another server's, mend apiUrl"
                } else {
                    "give the CA that issued it as caCert (in a kubeconfig certificate-authority-data), after \
                     comparing the fingerprint with the server's own"
                },
            ),
            other if trouble::is_ca_itself(other) => failure(
                ProbeReason::CertificateNotTrusted,
                issued(met, shown),
                "give the server a certificate of its own, issued by that CA",
            ),
            _ => failure(
                ProbeReason::TlsFailed,
                issued(met, shown),
                "give the API server a certificate for servers (extended key usage serverAuth) that is not revoked, \
                 signed with RSA of 2048 bits or more, ECDSA or Ed25519",
            ),
        }
    }

    /// `gitVersion`.
    fn version(&self, came: &Came) -> Result<String, ProbeFailure> {
        let (answer, server) = (came.answer(), self.server());
        let not_kubernetes =
            |what: String| failure(ProbeReason::NotKubernetes, format!("{server}: {what}"), ADDRESS);
        match came.status {
            300..=399 => return Err(self.redirected(came)),
            429 | 500..=599 => {
                let met = format!("{server}: {}", parsing::told(answer, "the API server can't answer now"));
                let help =
                    "wait until the API server, or the load balancer before it, is well, and try again";
                return Err(failure(ProbeReason::ServerError, met, help));
            }
            _ if parsing::is_html(answer) => {
                let met = format!("{server} answered with a web page (HTTP {})", came.status);
                let help = "it is a login page, a dashboard or a proxy; give the API server's own address, as \
                            `kubectl cluster-info` shows it, with its path where there is one";
                return Err(failure(ProbeReason::HtmlAnswered, met, help));
            }
            401 => return Err(self.unauthorized(answer)),
            403 => {
                let met = format!("{server}: {}", parsing::told(answer, "the token may not read /version"));
                if self.endpoint.has_path() {
                    let help = "apiUrl has a path, which is right only behind a proxy that serves the API server \
                                there, as Rancher does; mend it, as `kubectl cluster-info` shows the address, or \
                                let the account read /version there";
                    return Err(failure(ProbeReason::Forbidden, met, help));
                }
                let help = "any account may read /version by default, and some clusters close it to who is not \
                            authenticated: where the message names system:anonymous, a proxy dropped the token; \
                            else bind the ClusterRole system:public-info-viewer to the account";
                return Err(failure(ProbeReason::Forbidden, met, help));
            }
            200 => {}
            _ => return Err(not_kubernetes(parsing::told(answer, "no Kubernetes API answers so"))),
        }
        let version: Version = serde_json::from_slice(answer.body).map_err(|error| {
            not_kubernetes(format!(
                "asked for its version, but the answer {}",
                parsing::unlike(answer, &error)
            ))
        })?;
        version
            .git_version
            .filter(|version| !version.trim().is_empty())
            .ok_or_else(|| not_kubernetes("its answer to /version names no gitVersion".to_owned()))
    }

    fn unauthorized(&self, answer: Answer<'_>) -> ProbeFailure {
        let met = format!("{}: {}", self.server(), parsing::told(answer, "the token was not accepted"));
        failure(ProbeReason::Unauthorized, met, NEW_TOKEN)
    }

    fn redirected(&self, came: &Came) -> ProbeFailure {
        let base = Url::parse(&format!("https://{}/version", self.server())).ok();
        let to = came.location.as_deref().and_then(|to| match &base {
            Some(base) => base.join(to).ok(),
            None => Url::parse(to).ok(),
        });
        // The host alone: a login page's address carries one-time secrets.
        let to = to.as_ref().and_then(Url::host_str).unwrap_or("an address that can't be read");
        let met = format!("{} redirects to {to} (HTTP {})", self.server(), came.status);
        let help =
            "redirects are never followed, as the token would go along; give the API server's own address";
        failure(ProbeReason::Redirected, met, help)
    }
}

const POLICY: &str = "give the address that the API server has in its network; which ones are allowed is the \
                      parameter AllowedApiServerCidrs of the stack";
const DNS: &str = "see whether the host of apiUrl is spelled right, and whether its name is known where this runs: a \
                   private zone is known only in its own network";
const SLOW: &str = "see whether firewalls, security groups and routes let this network reach the API server, and \
                    whether its list of allowed sources names it";
const ADDRESS: &str = "give the API server's own address as apiUrl, as `kubectl cluster-info` shows it, with its path where there is one";
const NEW_TOKEN: &str = "give a token that this very cluster issued and that is still good; the guide's manifests make \
                         one, and deleting its secret or account ends it";

fn failure(reason: ProbeReason, detail: String, help: &str) -> ProbeFailure {
    ProbeFailure { reason, detail, help: help.to_owned() }
}

fn issued(met: String, shown: Option<Shown>) -> String {
    match shown {
        Some(Shown { issuer, fingerprint, .. }) => {
            format!("{met}; it was issued by \"{issuer}\", and its SHA-256 fingerprint is {fingerprint}")
        }
        None => met,
    }
}

/// What to do where the certificate carries these names, as rustls tells them.
fn another_name(presented: &[String]) -> String {
    let names = presented.iter().map(|name| trouble::name_alone(name));
    let mut fit = names.filter(|name| registration::tls_server_name(name).is_ok());
    match fit.next() {
        Some(name) => format!(
            "give \"tlsServerName\": \"{name}\" if this is the server that is meant, or an apiUrl by one of these names"
        ),
        None => "give an apiUrl by a name or an address that the certificate carries, or a certificate that carries \
                 this one"
            .to_owned(),
    }
}

/// Which places are asked about: all namespaces where they are open, else each by its
/// name, and all of them once where there is a pattern.
fn places(namespaces: &Namespaces) -> Vec<String> {
    if namespaces.is_open() {
        return vec![String::new()];
    }
    let (patterns, mut names): (Vec<_>, Vec<_>) =
        namespaces.patterns().iter().cloned().partition(|pattern| pattern.contains('*'));
    if !patterns.is_empty() {
        names.push(String::new());
    }
    names
}

/// What is known of the places, as it is told for what was registered.
fn scopes(namespaces: &Namespaces, places: &[String], known: &[Known]) -> Vec<Scope> {
    let known: HashMap<&str, &Known> = places.iter().map(String::as_str).zip(known).collect();
    let scope = |namespace: Option<&String>| {
        let pattern = namespace.is_some_and(|it| it.contains('*'));
        let place = namespace.filter(|_| !pattern).map_or("", String::as_str);
        let Known { get_helm_releases, list_secrets, beyond, rules } =
            known.get(place).map_or_else(Known::default, |it| (*it).clone());
        // Denied in all namespaces is not denied in each of some that aren't known.
        let of = |it| if pattern && it == Permission::Denied { Permission::Unknown } else { it };
        let mut beyond = beyond;
        beyond.sort_unstable();
        Scope {
            namespace: namespace.cloned(),
            get_helm_releases: of(get_helm_releases),
            list_secrets: of(list_secrets),
            beyond: beyond.into_iter().map(|which| BEYOND[which].0.to_owned()).collect(),
            rules,
        }
    };
    if namespaces.is_open() {
        vec![scope(None)]
    } else {
        namespaces.patterns().iter().map(|pattern| scope(Some(pattern))).collect()
    }
}

/// A review's answer. Whatever is none leaves it unknown.
fn permission(answer: Answer<'_>) -> Permission {
    #[derive(Deserialize)]
    struct Review {
        kind: String,
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        allowed: bool,
    }
    match (answer.status, serde_json::from_slice::<Review>(answer.body)) {
        (200..=299, Ok(review)) if review.kind == "SelfSubjectAccessReview" => {
            if review.status.allowed {
                Permission::Allowed
            } else {
                Permission::Denied
            }
        }
        _ => Permission::Unknown,
    }
}

/// Whether HelmReleases are among the resources; `None` where the answer does not say.
fn flux_installed(answer: Answer<'_>) -> Option<bool> {
    #[derive(Deserialize)]
    struct List {
        kind: String,
        resources: Option<Vec<Resource>>,
    }
    #[derive(Deserialize)]
    struct Resource {
        name: String,
    }
    match answer.status {
        404 if parsing::is_html(answer) => None,
        404 => Some(false),
        200 => {
            let list: List = serde_json::from_slice(answer.body).ok()?;
            let resources = list.resources.filter(|_| list.kind == "APIResourceList")?;
            Some(resources.iter().any(|it| it.name == "helmreleases"))
        }
        _ => None,
    }
}

/// The rules, as far as they are kept.
fn rules(answer: Answer<'_>) -> Option<Rules> {
    #[derive(Deserialize)]
    struct Review {
        kind: String,
        status: Status,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        resource_rules: Option<Vec<One>>,
        #[serde(default)]
        incomplete: bool,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct One {
        verbs: Option<Vec<String>>,
        api_groups: Option<Vec<String>>,
        resources: Option<Vec<String>>,
        resource_names: Option<Vec<String>>,
    }
    if !(200..=299).contains(&answer.status) {
        return None;
    }
    let review: Review = serde_json::from_slice(answer.body).ok()?;
    if review.kind != "SelfSubjectRulesReview" {
        return None;
    }
    let all = review.status.resource_rules.unwrap_or_default();
    let mut incomplete = review.status.incomplete || all.len() > RULES;
    let mut kept = |list: Option<Vec<String>>| -> Vec<String> {
        let list = list.unwrap_or_default();
        incomplete |= list.len() > ENTRIES;
        list.into_iter().take(ENTRIES).collect()
    };
    let resources = all
        .into_iter()
        .take(RULES)
        .map(|one| Rule {
            verbs: kept(one.verbs),
            api_groups: kept(one.api_groups),
            resources: kept(one.resources),
            resource_names: kept(one.resource_names),
        })
        .collect();
    Some(Rules { resources, incomplete })
}

/// Nothing of a server's own words leaves with the token in it, or longer than it
/// can be.
fn presentable(mut findings: Findings, secret: &str) -> Findings {
    let forms = forms(secret.trim());
    let pieces = Pieces::of(&forms);
    let shorten = |text: &mut String, chars: usize| {
        let clean: String = pieces.redact(text).chars().filter(|c| !c.is_control()).take(chars).collect();
        *text = clean;
    };
    shorten(&mut findings.kubernetes_version, VERSION_CHARS);
    for rule in findings.scopes.iter_mut().flat_map(|it| &mut it.rules).flat_map(|it| &mut it.resources) {
        for list in [&mut rule.verbs, &mut rule.api_groups, &mut rule.resources, &mut rule.resource_names] {
            list.iter_mut().for_each(|entry| shorten(entry, ENTRY_CHARS));
        }
    }
    findings
}

/// Of `/version` what is needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: Option<String>,
}
