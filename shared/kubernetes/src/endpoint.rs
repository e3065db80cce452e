//! One API server: where it is, whom to trust there, and its open connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, header::HOST};
use monitor::ports::{Credentials, Identity, Personal};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    client::{WantsClientCert, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::{Host, Url};
use verdict::{AskError, AskErrorKind};

use crate::{
    AddressPolicy, RefusedAddress, certificates,
    client::{SetupError, Timeouts},
    recorder::Recorder,
    registration, trouble,
};

/// How many API servers are remembered. Above, the one used longest ago is
/// forgotten, which costs a handshake at its next use.
const REMEMBERED: usize = 256;

/// How long an idle connection is kept. A deployment polls every 5 s; after 350 s
/// AWS' load balancers and NAT gateways forget a connection without a word.
const IDLE: Duration = Duration::from_secs(90);

/// How many questions one process asks an API server at once; further ones wait for their
/// turn within their own time. As many as a deployment has targets at most, so that one
/// deployment never waits for itself. Without it, hundreds of deployments in one process
/// open a connection each, all at once and at every poll again: the handshakes then take
/// longer than the answers, and time out before anybody is asked.
const AT_ONCE: usize = 40;

/// Whatever was opened is kept.
const IDLE_CONNECTIONS: usize = AT_ONCE;

/// After this long without an acknowledgement a kept connection is dead (a NAT
/// gateway may have forgotten it); a new one still fits into the request's time.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_millis(1500);

/// An API server, ready to be asked.
#[derive(Debug)]
pub(crate) struct Endpoint {
    client: reqwest::Client,
    /// Who holds a permit may ask.
    turns: Semaphore,
    /// What a request's path is appended to.
    base: String,
    /// The `Host` header, where the URL does not name the host.
    host: Option<HeaderValue>,
    /// Host and port, for messages.
    pub(crate) server: String,
    /// Whether a CA of its own is trusted.
    pub(crate) own_ca: bool,
}

/// Resolving failed, or the policy refused what came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("the name {host} can't be resolved: {source}")]
    Failed { host: String, source: io::Error },
    #[error("the name {0} has no address")]
    Empty(String),
    #[error("{host} is not connected to: {why}")]
    Refused { host: String, why: RefusedAddress },
}

impl Endpoint {
    /// With a recorder, the certificate that the server shows is noted there.
    fn new(
        tls: &Tls,
        policy: &AddressPolicy,
        connect: Duration,
        credentials: &Credentials,
        recorder: Option<&Arc<Recorder>>,
    ) -> Result<Self, AskError> {
        // Judged again, not only when it was registered: the policy may have
        // become narrower, and an address that is no name never sees the resolver.
        let url = registration::api_url(policy, &credentials.api_url)
            .map_err(|e| trouble::unreachable(format!("the registered apiUrl: {e}")))?;
        let port = url.port_or_known_default().unwrap_or(443);
        let server = format!("{}:{port}", url.host_str().unwrap_or_default());
        let refused = |message| AskError { kind: AskErrorKind::Tls, message };
        let roots = match &credentials.ca_cert {
            Some(pem) => {
                certificates::trust(pem).map_err(|e| refused(format!("the registered caCert: {e}")))?
            }
            None => tls.public.clone(),
        };
        let config = match recorder {
            None => tls.builder.clone().with_root_certificates(roots),
            Some(recorder) => {
                let usual =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&tls.provider))
                        .build()
                        .map_err(|e| refused(format!("no certificate can be verified: {e}")))?;
                let verifier: Arc<dyn ServerCertVerifier> = Recorder::around(recorder, usual);
                let builder = tls.builder.clone().dangerous();
                builder.with_custom_certificate_verifier(verifier)
            }
        };
        let personal = credentials.personal.as_deref().unwrap_or(&NOTHING_PERSONAL);
        let config = match &personal.identity {
            None => config.with_no_client_auth(),
            Some(identity) => identified(config, identity).map_err(refused)?,
        };

        // The name asked for in the handshake (SNI) and held against the
        // certificate is the URL's host. So where `tlsServerName` is given it takes
        // the host's place, the resolver answers for the real host, and the `Host`
        // header names it: no verifier of our own is needed.
        let (base, host, real) = match &credentials.tls_server_name {
            Some(_) if personal.proxy.is_some() => {
                return Err(trouble::unreachable(
                    "a proxy would be asked for the server name instead of the host: tlsServerName and a proxy \
                     can't go together"
                        .to_owned(),
                ));
            }
            Some(name) => {
                let name = registration::tls_server_name(name)
                    .map_err(|e| refused(format!("the registered tlsServerName: {e}")))?;
                let mut named = url.clone();
                named.set_host(Some(&name)).map_err(|e| refused(format!("tlsServerName: {e}")))?;
                (named, Some(authority(&url)), Some(resolvable(&url)))
            }
            None => (url, None, None),
        };
        let host = host.map(HeaderValue::try_from).transpose().map_err(|_| {
            trouble::unreachable("apiUrl has a host that no HTTP header can carry".to_owned())
        })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            // One request a look: HTTP/2 would gain nothing, and brings flow
            // control and a larger binary.
            .http1_only()
            .https_only(true)
            // Never one from the environment.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("dag-monitor/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Resolver { policy: policy.clone(), real, lookup })
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true);
        #[cfg(target_os = "linux")]
        let client = client.tcp_user_timeout(UNACKNOWLEDGED);
        let client = match &personal.proxy {
            None => client,
            // Its URL may hold a password, so the error is not quoted.
            Some(proxy) => client.proxy(reqwest::Proxy::all(proxy).map_err(|_| {
                trouble::unreachable("the proxy's address is no URL as http://host:port".to_owned())
            })?),
        };
        let client = client
            .build()
            .map_err(|e| trouble::unreachable(format!("no client for {server}: {}", e.without_url())))?;
        let base = registration::without_slash(&base).to_owned();
        let turns = Semaphore::new(AT_ONCE);
        Ok(Self { client, turns, base, host, server, own_ca: credentials.ca_cert.is_some() })
    }

    /// Waits until this server may be asked one more question: until the turn is dropped.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        match self.turns.acquire().await {
            Ok(turn) => turn,
            // Only a closed semaphore refuses, and nobody closes this one.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the registered address has a path.
    pub(crate) fn has_path(&self) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.path() != "/")
    }

    /// The request as it is sent to this server, still without the token.
    pub(crate) fn request(&self, request: &Request<Vec<u8>>) -> Result<reqwest::RequestBuilder, AskError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let url = Url::parse(&format!("{}{path}", self.base))
            .map_err(|_| trouble::unreachable(format!("no URL of {} has this path", self.server)))?;
        let mut builder =
            self.client.request(request.method().clone(), url).headers(request.headers().clone());
        if !request.body().is_empty() {
            builder = builder.body(request.body().clone());
        }
        if let Some(host) = &self.host {
            builder = builder.header(HOST, host);
        }
        Ok(builder)
    }
}

/// What is personal in every registered cluster.
static NOTHING_PERSONAL: Personal = Personal { identity: None, proxy: None };

/// The configuration with a client certificate. The error names neither of its parts.
fn identified(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: &Identity,
) -> Result<ClientConfig, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| "the client certificate is no PEM".to_owned())?;
    if chain.is_empty() {
        return Err("the client certificate is no PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose_secret().as_bytes())
        .map_err(|_| "the key of the client certificate is no PEM, or is encrypted".to_owned())?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(|e| format!("the client certificate can't be used with its key: {e}"))
}

/// `host[:port]`, as a `Host` header has it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The host as a resolver takes it: an address without brackets.
fn resolvable(url: &Url) -> String {
    match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => url.host_str().unwrap_or_default().to_owned(),
    }
}

/// Resolves names, and lets only addresses through that the policy allows. Asked
/// at each new connection, so a name can't turn to another address afterwards.
struct Resolver {
    policy: AddressPolicy,
    /// The host that is meant, whatever name the URL carries.
    real: Option<String>,
    lookup: Lookup,
}

type Looked = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Who is asked for a host's addresses: the system, or a test.
type Lookup = fn(String) -> Looked;

fn lookup(host: String) -> Looked {
    Box::pin(async move { tokio::net::lookup_host((host, 0)).await.map(Vec::from_iter) })
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = self.real.clone().unwrap_or_else(|| name.as_str().to_owned());
        let policy = self.policy.clone();
        let found = (self.lookup)(host.clone());
        Box::pin(async move {
            let allowed = match found.await {
                Ok(found) => allowed(&policy, host, found)?,
                Err(source) => return Err(ResolveError::Failed { host, source }.into()),
            };
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The allowed ones of a name's addresses; where there are none, why.
fn allowed(
    policy: &AddressPolicy,
    host: String,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut refused = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match policy.check(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match refused {
        _ if !allowed.is_empty() => Ok(allowed),
        Some(why) => Err(ResolveError::Refused { host, why }),
        None => Err(ResolveError::Empty(host)),
    }
}

/// What all TLS connections share.
#[derive(Debug)]
pub(crate) struct Tls {
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    provider: Arc<CryptoProvider>,
    /// The public roots, compiled in: `provided.al2023` promises no store of
    /// certificates, and an image without one would trust nobody.
    public: RootCertStore,
}

impl Tls {
    /// # Errors
    /// Where the cryptography can't do what TLS 1.2 and 1.3 need.
    pub(crate) fn new() -> Result<Self, SetupError> {
        // Named, not the process-wide default: that is whichever library came first.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let public = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        Ok(Self { builder, provider, public })
    }
}

/// The endpoints in use. The token is no part of what names one: a rotated token
/// keeps its connections.
#[derive(Debug)]
pub(crate) struct Endpoints {
    tls: Tls,
    policy: AddressPolicy,
    timeouts: Timeouts,
    /// The one used last at the end.
    remembered: Mutex<Vec<(Key, Arc<Endpoint>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    api_url: String,
    ca_cert: Option<String>,
    tls_server_name: Option<String>,
    /// The client certificate, which belongs to one key, and the proxy.
    personal: (Option<String>, Option<String>),
}

impl Endpoints {
    pub(crate) fn new(tls: Tls, policy: AddressPolicy, timeouts: Timeouts) -> Self {
        Self { tls, policy, timeouts, remembered: Mutex::new(Vec::new()) }
    }

    /// The endpoint of these credentials.
    pub(crate) fn get(&self, credentials: &Credentials) -> Result<Arc<Endpoint>, AskError> {
        let key = Key {
            api_url: credentials.api_url.clone(),
            ca_cert: credentials.ca_cert.clone(),
            tls_server_name: credentials.tls_server_name.clone(),
            personal: credentials.personal.as_deref().map_or((None, None), |personal| {
                let certificate = personal.identity.as_ref().map(|it| it.certificate.clone());
                (certificate, personal.proxy.clone())
            }),
        };
        if let Some(found) = self.recall(&key, None) {
            return Ok(found);
        }
        // Made outside the lock; a rival's is taken where it was quicker.
        let made =
            Arc::new(Endpoint::new(&self.tls, &self.policy, self.timeouts.connect, credentials, None)?);
        Ok(self.recall(&key, Some(&made)).unwrap_or(made))
    }

    /// An endpoint for one probe, with connections of its own, which notes the
    /// certificate that it meets. `connect` as in [`Timeouts`].
    pub(crate) fn probing(
        &self,
        credentials: &Credentials,
        connect: Duration,
        recorder: &Arc<Recorder>,
    ) -> Result<Endpoint, AskError> {
        Endpoint::new(&self.tls, &self.policy, connect, credentials, Some(recorder))
    }

    /// Whether the address may be connected to, as far as it tells.
    pub(crate) fn check(&self, credentials: &Credentials) -> Result<(), String> {
        registration::api_url(&self.policy, &credentials.api_url).map(|_| ())
    }

    /// The endpoint that is remembered, or else this new one.
    fn recall(&self, key: &Key, new: Option<&Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match remembered.iter().position(|(known, _)| known == key) {
            Some(at) => remembered.remove(at).1,
            None => Arc::clone(new?),
        };
        if remembered.len() >= REMEMBERED {
            remembered.remove(0);
        }
        remembered.push((key.clone(), Arc::clone(&found)));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn credentials(api_url: &str) -> Credentials {
        Credentials {
            api_url: api_url.to_owned(),
            token: "t".into(),
            ca_cert: None,
            tls_server_name: None,
            personal: None,
        }
    }

    fn endpoints(policy: &str) -> Endpoints {
        let policy = AddressPolicy::parse(policy).unwrap();
        Endpoints::new(Tls::new().unwrap(), policy, Timeouts::default())
    }

    #[test]
    fn a_names_addresses_are_judged_each() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
        };
        let judge = |list: &[&str]| {
            allowed(&AddressPolicy::default(), "h".to_owned(), addresses(list)).map_err(|e| e.to_string())
        };
        assert_eq!(judge(&["10.0.0.1", "127.0.0.1", "::1"]), Ok(addresses(&["10.0.0.1"])));
        assert_eq!(
            judge(&["169.254.169.254"]).unwrap_err(),
            "h is not connected to: 169.254.169.254 is the instance metadata, and refused"
        );
        assert_eq!(judge(&[]).unwrap_err(), "the name h has no address");
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_refused_when_connecting() {
        let real = Some("127.0.0.1".to_owned());
        let resolver = Resolver { policy: AddressPolicy::default(), real, lookup };
        let error = resolver.resolve("kubernetes.example".parse().unwrap()).await.err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(ResolveError::Refused { .. })), "{error}");
    }

    /// A name that has an allowed address when it is looked at, and this machine's
    /// when it is used: each connection asks and judges anew.
    #[tokio::test]
    async fn a_name_that_turns_to_this_machine_is_refused_at_the_next_connection() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn rebinding(_: String) -> Looked {
            // 0.0.0.0/8 is never routed, so nothing leaves this machine.
            let first = ASKED.fetch_add(1, Ordering::SeqCst) == 0;
            let ip = if first { [0, 0, 0, 1] } else { [127, 0, 0, 1] };
            Box::pin(async move { Ok(vec![SocketAddr::from((ip, 0))]) })
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://rebinding.example:{}/", listener.local_addr().unwrap().port());
        let tls = Tls::new().unwrap();
        let config = tls.builder.with_root_certificates(tls.public).with_no_client_auth();
        let policy = AddressPolicy::parse("0.0.0.1").unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .dns_resolver(Resolver { policy, real: None, lookup: rebinding })
            .build()
            .unwrap();
        for (asked, is_refused) in [(1, false), (2, true)] {
            let error = client.get(&url).send().await.unwrap_err();
            assert_eq!(ASKED.load(Ordering::SeqCst), asked);
            let refused =
                matches!(trouble::diagnose(&error), trouble::Cause::Resolve(ResolveError::Refused { .. }));
            assert_eq!(refused, is_refused, "{error:?}");
        }
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock, "no connection was made");
    }

    #[test]
    fn an_address_is_judged_when_it_is_used_too() {
        for url in [
            "https://127.0.0.1:6443",
            "https://[::ffff:127.0.0.1]",
            "https://2130706433",
            "http://example.com",
        ] {
            let error = endpoints("").get(&credentials(url)).unwrap_err();
            assert_eq!(error.kind, AskErrorKind::Unreachable, "{url}");
        }
        assert!(endpoints("127.0.0.1").get(&credentials("https://127.0.0.1")).is_ok());
    }

    #[test]
    fn a_prefix_is_kept_and_a_path_appended() {
        let request = crate::requests::helm_release("ns", "x").unwrap();
        for (url, sent) in [
            ("https://example.com", "https://example.com/apis/helm"),
            ("https://example.com:6443/", "https://example.com:6443/apis/helm"),
            ("https://example.com/k8s/clusters/c-1/", "https://example.com/k8s/clusters/c-1/apis/helm"),
        ] {
            let endpoint = endpoints("").get(&credentials(url)).unwrap();
            let built = endpoint.request(&request).unwrap().build().unwrap();
            assert!(built.url().as_str().starts_with(sent), "{}", built.url());
            assert_eq!(built.headers()["accept"], "application/json");
        }
    }

    #[test]
    fn a_server_name_takes_the_hosts_place_and_the_host_header_stays() {
        let mut with_name = credentials("https://[2001:db8::1]:6443/x");
        with_name.tls_server_name = Some("Kubernetes.default.svc".to_owned());
        let endpoint = endpoints("").get(&with_name).unwrap();
        let request = crate::requests::helm_release("ns", "x").unwrap();
        let built = endpoint.request(&request).unwrap().build().unwrap();
        assert!(built.url().as_str().starts_with("https://kubernetes.default.svc:6443/x/apis/"));
        assert_eq!(built.headers()["host"], "[2001:db8::1]:6443");
        assert_eq!(endpoint.server, "[2001:db8::1]:6443");
    }

    #[test]
    fn endpoints_are_remembered_by_all_that_names_them_and_the_oldest_is_forgotten() {
        let endpoints = endpoints("");
        let first = endpoints.get(&credentials("https://example.com")).unwrap();
        let mut rotated = credentials("https://example.com");
        rotated.token = "another".into();
        assert!(Arc::ptr_eq(&first, &endpoints.get(&rotated).unwrap()));
        rotated.tls_server_name = Some("name".to_owned());
        assert!(!Arc::ptr_eq(&first, &endpoints.get(&rotated).unwrap()));
        for n in 0..REMEMBERED {
            endpoints.get(&credentials(&format!("https://example.com/{n}"))).unwrap();
        }
        assert_eq!(endpoints.remembered.lock().unwrap().len(), REMEMBERED);
        assert!(!Arc::ptr_eq(&first, &endpoints.get(&credentials("https://example.com")).unwrap()));
    }

    #[test]
    fn what_is_personal_names_an_endpoint_too_and_is_told_where_it_is_broken() {
        let endpoints = endpoints("");
        let usual = credentials("https://example.com");
        let first = endpoints.get(&usual).unwrap();
        let with = |personal| Credentials { personal: Some(Arc::new(personal)), ..usual.clone() };
        let proxied = with(Personal { proxy: Some("http://proxy:3128".to_owned()), identity: None });
        assert!(!Arc::ptr_eq(&first, &endpoints.get(&proxied).unwrap()));

        let named = Credentials { tls_server_name: Some("name".to_owned()), ..proxied };
        let error = endpoints.get(&named).unwrap_err();
        assert!(error.message.contains("can't go together"), "{error:?}");
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        let identified = |certificate: &str, key: &str| {
            let identity = Identity { certificate: certificate.to_owned(), key: key.into() };
            with(Personal { identity: Some(identity), proxy: None })
        };
        let good = endpoints.get(&identified(&certificate, &key.serialize_pem())).unwrap();
        assert!(!Arc::ptr_eq(&first, &good));
        let other = KeyPair::generate().unwrap().serialize_pem();
        for (broken, key, why) in [
            ("S3CR3T", key.serialize_pem(), "no PEM"),
            (certificate.as_str(), "S3CR3T".to_owned(), "no PEM"),
            (certificate.as_str(), other, "can't be used with its key"),
        ] {
            // Another certificate each time: an endpoint is remembered by it.
            let error = self::endpoints("").get(&identified(broken, &key)).unwrap_err();
            assert!(error.kind == AskErrorKind::Tls && error.message.contains(why), "{error:?}");
            assert!(!error.message.contains("S3CR3T"), "{error:?}");
        }
        // Without a token the certificate does; without both nothing is asked.
        let nobody = Credentials { token: "".into(), ..identified(&certificate, "k") };
        assert!(crate::client::bearer(&nobody).unwrap().is_none());
        assert!(crate::client::bearer(&Credentials { personal: None, ..nobody }).is_err());
    }

    #[test]
    fn broken_certificates_and_names_are_told() {
        let mut broken = credentials("https://example.com");
        broken.ca_cert = Some("nothing".to_owned());
        let error = endpoints("").get(&broken).unwrap_err();
        assert!(error.kind == AskErrorKind::Tls && error.message.contains("caCert"), "{error:?}");
        let mut broken = credentials("https://example.com");
        broken.tls_server_name = Some("10.0.0.1".to_owned());
        let error = endpoints("").get(&broken).unwrap_err();
        assert!(error.kind == AskErrorKind::Tls && error.message.contains("tlsServerName"), "{error:?}");
    }
}
