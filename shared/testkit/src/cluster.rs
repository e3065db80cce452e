//! The simulated cluster as tests and the demo hold it.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use verdict::HelmType;

use crate::{
    api::World,
    certificates::{CertificateError, CertificateKind, Certificates},
    clock::FixedClock,
    fault::Fault,
    rewrite::{Rewrite, Shift, is_dns_name},
    rules::{Rule, User},
    scenario::{Recording, Scenario, ScenarioError, Secrets},
    server::{self, Command, Logged, Shared, Traffic, lock},
    store::{Store, Timeline},
};

/// No test and no demo waits longer for a push.
const FURTHEST_PUSH: Duration = Duration::from_secs(3600);

/// How a simulated cluster begins.
#[derive(Debug, Clone)]
pub struct Config {
    /// The port on 127.0.0.1; 0: any that is free.
    pub port: u16,
    /// Further names in the server's certificate, beside `127.0.0.1`,
    /// `localhost` and `kubernetes`.
    pub server_names: Vec<String>,
    /// The token that is accepted; `None`: a random one.
    pub token: Option<SecretString>,
    /// The namespace of the service account whose token it is.
    pub account_namespace: String,
    /// The service account's name.
    pub account_name: String,
    /// What it may do.
    pub rules: Vec<Rule>,
    /// Whether Flux's HelmRelease is known here.
    pub flux_installed: bool,
    /// Whether a request without a token is that of `system:anonymous`
    /// (forbidden), or unauthorized.
    pub anonymous: bool,
    /// Whether answers carry `Date`.
    pub date_header: bool,
    /// The clock that the cluster goes by, instead of this machine's: a test that
    /// moves it replays minutes without waiting for them.
    pub clock: Option<FixedClock>,
    /// How far the cluster's clock is ahead of that: in `Date`, and in the stamps
    /// of what is replayed.
    pub clock_offset: SignedDuration,
    /// Above how many bytes an answer is packed, if the client takes that.
    pub gzip_above: Option<usize>,
    /// What `/version` says.
    pub git_version: String,
}

impl Default for Config {
    /// A cluster as the guide sets it up.
    fn default() -> Self {
        Self {
            port: 0,
            server_names: Vec::new(),
            token: None,
            account_namespace: "dag-monitor".to_owned(),
            account_name: "dag-monitor".to_owned(),
            rules: Rule::guide(),
            flux_installed: true,
            anonymous: true,
            date_header: true,
            clock: None,
            clock_offset: SignedDuration::ZERO,
            gzip_above: Some(128 * 1024),
            git_version: "v1.36.3".to_owned(),
        }
    }
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or may not be used.
    #[error("port {port} on 127.0.0.1 can't be opened")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// No certificates.
    #[error("the cluster has no certificates")]
    Certificates(#[from] CertificateError),
}

/// Why a fault was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Somebody took the port while it was closed.
    #[error("the port can't be opened again")]
    Port(#[source] io::Error),
    /// The cluster was shut down.
    #[error("the cluster is shut down")]
    Stopped,
    /// A refused connection is no request: it can't be counted, and has no path.
    #[error("\"refuse\" holds until it is cleared: it takes neither a number of times nor a path")]
    RefuseIsForAll,
    /// A connection has no path.
    #[error("{0:?} is a fault of connections: it takes no path")]
    NoPath(Fault),
}

/// A scenario that is being replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Played {
    /// When the push is, or was, on this machine's clock or [`Config::clock`]. What the cluster did
    /// because of it is later.
    pub pushed_at: Timestamp,
    /// What a check asks for: path, and query where there is one.
    pub path: String,
    /// How Helm is driven.
    pub helm_type: HelmType,
    /// The namespace.
    pub namespace: String,
    /// The HelmRelease or Helm release.
    #[serde(rename = "name")]
    pub release: String,
}

/// A Kubernetes API server on this machine.
///
/// Dropped, it stops at once; [`SimulatedCluster::shutdown`] lets requests finish.
pub struct SimulatedCluster {
    shared: Arc<Shared>,
    certificates: Certificates,
    address: SocketAddr,
    clock_offset: SignedDuration,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for SimulatedCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedCluster").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SimulatedCluster {
    /// Starts one, with a CA and certificates made for it.
    ///
    /// # Errors
    /// Where the port can't be opened.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let certificates = Certificates::new(&config.server_names)?;
        let port = config.port;
        let opened = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let opened = opened.and_then(|it| it.local_addr().map(|address| (it, address)));
        let (listener, address) = opened.map_err(|source| StartError::Port { port, source })?;
        let world = World {
            store: Store::default(),
            tokens: vec![config.token.clone().unwrap_or_else(random_token)],
            rules: config.rules.clone(),
            service_account: User::ServiceAccount {
                namespace: config.account_namespace.clone(),
                name: config.account_name.clone(),
            },
            flux_installed: config.flux_installed,
            anonymous: config.anonymous,
            git_version: config.git_version.clone(),
            oldest_version: 0,
        };
        let tls = certificates.of(CertificateKind::Good);
        let shared = Arc::new(Shared::new(world, tls, &config));
        let (commands, received) = mpsc::channel(1);
        let serving = tokio::spawn(server::serve(listener, address, Arc::clone(&shared), received));
        Ok(Self {
            shared,
            certificates,
            address,
            clock_offset: config.clock_offset,
            commands: Mutex::new(Some(commands)),
            serving: Mutex::new(Some(serving)),
        })
    }

    /// Where it is: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA's certificate, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.certificates.ca_pem
    }

    /// The certificate of the CA behind [`CertificateKind::OtherIssuer`], in PEM.
    #[must_use]
    pub fn other_ca_pem(&self) -> &str {
        &self.certificates.other_ca_pem
    }

    /// A client certificate of the account that the token is for, and its key, in PEM.
    #[must_use]
    pub fn client_pem(&self) -> (&str, &str) {
        let (certificate, key) = &self.certificates.client_pem;
        (certificate, key)
    }

    /// A token that is accepted now; an empty one, if none is.
    #[must_use]
    pub fn token(&self) -> SecretString {
        lock(&self.shared.world).tokens.first().cloned().unwrap_or_default()
    }

    /// What the cluster's clock shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = self.shared.clock.now();
        now.checked_add(self.clock_offset).unwrap_or(now)
    }

    /// Stops accepting, lets requests finish for a moment, and closes the rest.
    pub async fn shutdown(&self) {
        drop(lock(&self.commands).take());
        let serving = lock(&self.serving).take();
        if let Some(serving) = serving {
            // Only a panic of a connection's own could end it with an error.
            let _ = serving.await;
        }
    }

    /// Replays a scenario as the release `name` in `namespace`, where given, or
    /// as it was recorded. The push is `push_in` from now, or up to a second
    /// later: so that the stamps of whole seconds in the answers move by whole
    /// seconds and stay true.
    ///
    /// Until the push the cluster shows what it showed right before; what was
    /// there under that name is gone. Where the push is so far ahead that the
    /// stamps of before it would lie in the future, those are moved back further.
    ///
    /// # Errors
    /// Where no object can have that name, or the push is more than an hour ahead.
    pub fn play(
        &self,
        scenario: &Scenario,
        namespace: Option<&str>,
        name: Option<&str>,
        push_in: Duration,
    ) -> Result<Played, ScenarioError> {
        self.play_at_speed(scenario, namespace, name, push_in, 1.0)
    }

    /// The same, `speed` times as fast as it was recorded: 0.2 for someone who
    /// wants to watch. Stamps are moved with what they tell of, so none is in
    /// the future and none of after the push is before it; texts that name a
    /// duration stay.
    ///
    /// # Errors
    /// As [`SimulatedCluster::play`], and for a speed outside of 0.01 to 100.
    pub fn play_at_speed(
        &self,
        scenario: &Scenario,
        namespace: Option<&str>,
        name: Option<&str>,
        push_in: Duration,
        speed: f64,
    ) -> Result<Played, ScenarioError> {
        let namespace = namespace.unwrap_or(scenario.namespace());
        let name = name.unwrap_or(scenario.release());
        if !is_dns_name(namespace) || namespace.contains('.') || namespace.len() > 63 {
            return Err(ScenarioError::Rename(namespace.to_owned()));
        }
        if !is_dns_name(name) {
            return Err(ScenarioError::Rename(name.to_owned()));
        }
        if !(0.01..=100.0).contains(&speed) {
            return Err(ScenarioError::Speed(speed));
        }
        if push_in > FURTHEST_PUSH {
            return Err(ScenarioError::TooFarAhead);
        }

        let recording = &scenario.recording;
        let now = self.shared.clock.now();
        let offset = i64::try_from(self.clock_offset.as_millis()).unwrap_or_default();
        let earliest = now.as_millisecond() + 1 + i64::try_from(push_in.as_millis()).unwrap_or_default();
        let pushed_ms = earliest + (recording.pushed_ms - earliest - offset).rem_euclid(1000);
        let pushed_at = Timestamp::from_millisecond(pushed_ms).unwrap_or(now);

        let shift = Shift {
            recorded_ms: recording.pushed_ms,
            replayed_ms: pushed_ms + offset,
            speed,
            first_seen: &recording.first_seen,
            earlier: 0,
        };
        let shift = shift.settled_by(now.as_millisecond() + offset);
        let rewrite = Rewrite::new(shift, (scenario.namespace(), namespace), (scenario.release(), name));
        let (helm_releases, secrets) = moved(recording, &rewrite);
        let mut world = lock(&self.shared.world);
        world.store.remove(namespace, name);
        if !helm_releases.is_empty() {
            world.store.put_helm_release(namespace, name, Timeline::new(pushed_at, helm_releases));
        }
        if !secrets.is_empty() {
            world.store.put_secrets(namespace, name, Timeline::new(pushed_at, secrets));
        }
        drop(world);

        let path = match scenario.helm_type() {
            HelmType::Flux => {
                format!("/apis/helm.toolkit.fluxcd.io/v2/namespaces/{namespace}/helmreleases/{name}")
            }
            HelmType::Plain => {
                format!("/api/v1/namespaces/{namespace}/secrets?labelSelector=owner%3Dhelm%2Cname%3D{name}")
            }
        };
        Ok(Played {
            pushed_at,
            path,
            helm_type: scenario.helm_type(),
            namespace: namespace.to_owned(),
            release: name.to_owned(),
        })
    }

    /// Puts a HelmRelease there, as it is; it replaces what had that name.
    pub fn put_helm_release(&self, namespace: &str, name: &str, object: Value) {
        let timeline = Timeline::constant(Some(Arc::new(object)));
        lock(&self.shared.world).store.put_helm_release(namespace, name, timeline);
    }

    /// Puts the secrets of a release there, instead of those it had. One without
    /// `data` is listed by its metadata only. See [`crate::release_secret`].
    pub fn put_secrets(&self, namespace: &str, release: &str, secrets: Vec<Value>) {
        let secrets = Secrets { resource_version: None, items: secrets };
        let timeline = Timeline::constant(Arc::new(secrets));
        lock(&self.shared.world).store.put_secrets(namespace, release, timeline);
    }

    /// Puts an object of another kind there, for `get` by an account that may;
    /// `group` and `resource` as in `kustomize.toolkit.fluxcd.io`, `kustomizations`.
    pub fn put_object(&self, group: &str, resource: &str, namespace: &str, name: &str, object: Value) {
        lock(&self.shared.world).store.put_other(group, resource, namespace, name, object);
    }

    /// Removes the HelmRelease and the secrets of a release.
    pub fn remove(&self, namespace: &str, name: &str) {
        lock(&self.shared.world).store.remove(namespace, name);
    }

    /// Accepts these tokens and no others.
    pub fn accept_tokens(&self, tokens: Vec<SecretString>) {
        lock(&self.shared.world).tokens = tokens;
    }

    /// Grants this to the account, and nothing else.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        lock(&self.shared.world).rules = rules;
    }

    /// Installs Flux's HelmRelease, or removes it.
    pub fn set_flux_installed(&self, installed: bool) {
        lock(&self.shared.world).flux_installed = installed;
    }

    /// Makes every `continue` that was handed out too old.
    pub fn expire_continue_tokens(&self) {
        let mut world = lock(&self.shared.world);
        world.oldest_version = world.store.advance();
    }

    /// Shows another certificate from now on. Open connections are closed: a
    /// client must meet it.
    pub fn set_certificate(&self, kind: CertificateKind) {
        *lock(&self.shared.tls) = self.certificates.of(kind);
        self.drop_connections();
    }

    /// Closes all open connections, as a server that restarts does.
    pub fn drop_connections(&self) {
        self.shared.close.send_replace(());
    }

    /// Spoils all requests from now on, instead of what was set before; `None`:
    /// all is well again.
    ///
    /// # Errors
    /// Where the port can't be opened again.
    pub async fn set_fault(&self, fault: Option<Fault>) -> Result<(), FaultError> {
        lock(&self.shared.faults).clear();
        if fault == Some(Fault::Refuse) {
            return self.command(Command::Refuse).await;
        }
        if let Some(fault) = fault {
            lock(&self.shared.faults).arm(fault, None, None);
        }
        self.command(Command::Listen).await?.map_err(FaultError::Port)
    }

    /// Spoils the next `times` requests (`None`: all) to `path` (`None`: any;
    /// with a star at its end: any that begins so; without the query). Of
    /// several that fit, the one queued first is used first.
    ///
    /// # Errors
    /// For a fault of connections with a path, and for [`Fault::Refuse`] with
    /// either.
    pub async fn queue_fault(
        &self,
        fault: Fault,
        times: Option<u32>,
        path: Option<&str>,
    ) -> Result<(), FaultError> {
        if fault == Fault::Refuse {
            if times.is_some() || path.is_some() {
                return Err(FaultError::RefuseIsForAll);
            }
            return self.set_fault(Some(fault)).await;
        }
        if fault.is_of_connections() && path.is_some() {
            return Err(FaultError::NoPath(fault));
        }
        lock(&self.shared.faults).arm(fault, times, path.map(str::to_owned));
        Ok(())
    }

    /// The latest requests, oldest first. No header is kept, so no token is.
    #[must_use]
    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.shared.log).iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.shared.log).clear();
    }

    /// What went over the wire since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.traffic()
    }

    async fn command<T>(&self, command: fn(oneshot::Sender<T>) -> Command) -> Result<T, FaultError> {
        let commands = lock(&self.commands).clone().ok_or(FaultError::Stopped)?;
        let (done, waiting) = oneshot::channel();
        commands.send(command(done)).await.map_err(|_| FaultError::Stopped)?;
        waiting.await.map_err(|_| FaultError::Stopped)
    }
}

impl Drop for SimulatedCluster {
    fn drop(&mut self) {
        if let Some(serving) = lock(&self.serving).take() {
            serving.abort();
        }
    }
}

type Steps<T> = Vec<(i64, T)>;

/// The recording, moved to its new time and names.
fn moved(recording: &Recording, rewrite: &Rewrite<'_>) -> (Steps<Option<Arc<Value>>>, Steps<Arc<Secrets>>) {
    let at = |recorded: i64| rewrite.shift.after_push(recorded);
    let helm_releases = recording.helm_releases.iter().map(|(after_push, object)| {
        let object = object.clone().map(|mut object| {
            rewrite.object(&mut object);
            Arc::new(object)
        });
        (at(*after_push), object)
    });
    // Most secrets stay the same from one step to the next, and packing is slow.
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    let secrets = recording.secrets.iter().map(|(after_push, secrets)| {
        let items = secrets.items.iter().map(|item| {
            let moved = done.entry(item.to_string()).or_insert_with(|| {
                let mut item = item.clone();
                rewrite.object(&mut item);
                item
            });
            moved.clone()
        });
        let secrets = Secrets { resource_version: secrets.resource_version, items: items.collect() };
        (at(*after_push), Arc::new(secrets))
    });
    (helm_releases.collect(), secrets.collect())
}

/// Hard enough to guess for a server on the loopback interface.
fn random_token() -> SecretString {
    let random = || RandomState::new().hash_one(Instant::now());
    format!("simulated-{:016x}{:016x}", random(), random()).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::rewrite::for_each_stamp;

    fn stamps(value: &Value) -> Vec<i64> {
        let mut found = Vec::new();
        for_each_stamp(value, &mut |stamp| found.push(stamp.as_millisecond()));
        found
    }

    /// Every answer of a scenario and when it is shown, in milliseconds since 1970.
    fn shown(pushed_ms: i64, answers: (Steps<Option<Arc<Value>>>, Steps<Arc<Secrets>>)) -> Vec<(i64, Value)> {
        let releases = answers.0.into_iter().filter_map(|(at, it)| Some((at, it?.as_ref().clone())));
        let secrets = answers
            .1
            .into_iter()
            .map(|(at, it)| (at, it.items.iter().map(|it| it["metadata"].clone()).collect()));
        releases.chain(secrets).map(|(at, it)| (pushed_ms + at, it)).collect()
    }

    fn all() -> Vec<Scenario> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let names = Scenario::list(&fixtures);
        assert!(names.len() > 30, "{names:?}");
        names.iter().map(|it| Scenario::load(&fixtures, it).unwrap()).collect()
    }

    #[test]
    fn no_stamp_runs_ahead_of_the_clock_at_any_speed() {
        for scenario in all() {
            for speed in [1.0, 0.2, 7.0] {
                // Some instant with the fraction of the recorded push.
                let replayed_ms = 1_900_000_000_000 + scenario.recording.pushed_ms.rem_euclid(1000);
                let shift = Shift {
                    recorded_ms: scenario.recording.pushed_ms,
                    replayed_ms,
                    speed,
                    first_seen: &scenario.recording.first_seen,
                    earlier: 0,
                };
                let names = (scenario.namespace(), scenario.release());
                let rewrite = Rewrite::new(shift, (names.0, "elsewhere"), (names.1, "other"));
                let answers = shown(replayed_ms, moved(&scenario.recording, &rewrite));
                assert!(!answers.is_empty());
                let latest = |it: &Value| stamps(it).into_iter().max();
                for (at, answer) in &answers {
                    assert!(latest(answer).is_none_or(|it| it <= *at), "{} at {speed}", scenario.name());
                }
                // What no answer before the push showed was not before the push's second.
                let before: Vec<i64> =
                    answers.iter().filter(|it| it.0 <= replayed_ms).flat_map(|it| stamps(&it.1)).collect();
                let known = before.iter().max().copied().unwrap_or(i64::MIN);
                for (_, answer) in answers.iter().filter(|it| it.0 > replayed_ms) {
                    let fresh = stamps(answer).into_iter().filter(|it| *it > known);
                    fresh.for_each(|it| assert!(it >= replayed_ms - 999, "{} at {speed}", scenario.name()));
                }
                if (speed - 1.0).abs() < f64::EPSILON {
                    let was = shown(
                        scenario.recording.pushed_ms,
                        (
                            scenario
                                .recording
                                .helm_releases
                                .iter()
                                .map(|it| (it.0, it.1.clone().map(Arc::new)))
                                .collect(),
                            scenario
                                .recording
                                .secrets
                                .iter()
                                .map(|it| (it.0, Arc::new(it.1.clone())))
                                .collect(),
                        ),
                    );
                    let by = replayed_ms - scenario.recording.pushed_ms;
                    assert_eq!(by % 1000, 0);
                    for ((_, was), (_, is)) in was.iter().zip(&answers) {
                        let expected: Vec<i64> = stamps(was).iter().map(|it| it + by).collect();
                        assert_eq!(stamps(is), expected, "{}", scenario.name());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_shown_before_a_push_is_of_the_past() {
        for scenario in all() {
            let recording = &scenario.recording;
            let replayed_ms = 1_900_000_000_000 + recording.pushed_ms.rem_euclid(1000);
            let now_ms = replayed_ms - 60_000;
            let shift = Shift {
                recorded_ms: recording.pushed_ms,
                replayed_ms,
                speed: 1.0,
                first_seen: &recording.first_seen,
                earlier: 0,
            };
            let names = (scenario.namespace(), scenario.release());
            let rewrite = Rewrite::new(shift.settled_by(now_ms), (names.0, names.0), (names.1, names.1));
            let answers = shown(replayed_ms, moved(recording, &rewrite));
            let (before, after): (Vec<_>, Vec<_>) = answers.into_iter().partition(|it| it.0 < replayed_ms);
            assert!(before.len() <= 2, "{}", scenario.name());
            let push_second = replayed_ms / 1000 * 1000;
            for stamp in before.iter().flat_map(|it| stamps(&it.1)) {
                assert!(stamp <= now_ms || stamp >= push_second, "{}", scenario.name());
            }
            for stamp in after.iter().flat_map(|it| stamps(&it.1)) {
                assert!(stamp <= now_ms || stamp >= push_second, "{}", scenario.name());
            }
        }
    }

    #[test]
    fn the_time_of_a_push_is_that_which_was_recorded() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let pushed = |name: &str| {
            let scenario = Scenario::load(&fixtures, name).unwrap();
            Timestamp::from_millisecond(scenario.recording.pushed_ms).unwrap().to_string()
        };
        assert_eq!(pushed("flux/chart-upgrade"), "2026-11-23T19:46:13.23Z");
        assert_eq!(pushed("helm/helm3-upgrade"), "2026-11-23T19:15:45Z");
        // Recorded as :10, but 334 ms later there was a secret of :11.
        assert_eq!(pushed("helm/helm4-upgrade-times-out"), "2026-11-23T19:16:10.666Z");
    }
}
