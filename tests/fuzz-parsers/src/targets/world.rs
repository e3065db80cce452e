//! What the targets share: a deployment that is judged, and the stores in memory.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kubernetes::{AddressPolicy, Rules, fuzzing};
use monitor::{
    check::Settings,
    memory::{
        MemoryDeployments, MemoryEvents, MemoryExecutions, MemoryRegistry, MemoryVault, NoEks, NoMetrics,
    },
    namespaces::Namespaces,
    ports::{Clock, Credentials, Prober},
    probe::{Findings, Permission, ProbeFailure, Scope},
    register::Registrar,
};
use register::Api;
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};
use verdict::{
    Decision, Expect, FailOn, HelmType, Look, Payload, Question, Reason, Seen, Status, TargetState, decide,
    expire,
};

use crate::{input::Heard, promises};

/// How many looks of an input are taken.
pub(crate) const LOOKS: usize = 8;

/// What is kept of one target, in bytes, whatever its server says: an item of 400 KB holds 40 of usual ones, a tenth of
/// that, and some whose server lies.
const STATE_BYTES: usize = 16 << 10;

/// A question, as far as an input can choose it.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Asked {
    pub(crate) namespace: String,
    pub(crate) release: String,
    expect: Expect,
    pushed_at: Option<Timestamp>,
    fail_on: FailOn,
    allow_unchanged: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            namespace: "apps".to_owned(),
            release: "x".to_owned(),
            expect: Expect::default(),
            pushed_at: None,
            fail_on: FailOn::Final,
            allow_unchanged: false,
        }
    }
}

impl Asked {
    /// What can't be read is the usual question: the answers are what this is about. Names are of a request, which
    /// bounds them.
    pub(crate) fn read(line: &[u8]) -> Self {
        let asked: Self = serde_json::from_slice(line).unwrap_or_default();
        let fits = asked.namespace.len() <= 63 && asked.release.len() <= 253;
        if fits { asked } else { Self::default() }
    }

    fn question(&self, helm_type: HelmType) -> Question<'_> {
        Question {
            helm_type,
            cluster: "prod",
            namespace: &self.namespace,
            release: &self.release,
            expect: &self.expect,
            pushed_at: self.pushed_at,
            started_at: promises::start(),
            deadline: promises::start() + SignedDuration::from_secs(300),
            timeout_secs: 300,
            fail_on: self.fail_on,
            allow_unchanged: self.allow_unchanged,
        }
    }
}

/// A target that is looked at, again and again.
pub(crate) struct Looked<'a> {
    question: Question<'a>,
    state: TargetState,
}

impl<'a> Looked<'a> {
    pub(crate) fn new(helm_type: HelmType, asked: &'a Asked) -> Self {
        Self { question: asked.question(helm_type), state: TargetState::new(promises::start()) }
    }

    /// Decides on what was seen, and holds the decision to what is promised of it.
    pub(crate) fn look(&mut self, heard: &Heard<'_>, seen: Seen, mut payload: impl FnMut(&str) -> Payload) {
        let at = promises::start() + SignedDuration::from_secs(heard.secs.clamp(-100_000, 100_000));
        let cluster_date = heard.date.and_then(fuzzing::date);
        let mut look = Look { at, cluster_date, seen };
        // The rules need three rounds.
        for _ in 0..4 {
            let decision = decide(&self.question, &self.state, &look);
            assert_eq!(decision, decide(&self.question, &self.state, &look), "the same is decided again");
            match decision {
                Decision::Known(next) => return self.next(*next, at),
                Decision::NeedsPayloads(names) => {
                    let Seen::Releases(releases) = &mut look.seen else { panic!("{names:?} of no release") };
                    assert!(!names.is_empty(), "something is needed");
                    for name in names {
                        let revision = releases.revisions.iter().find(|it| it.name == name);
                        let uid =
                            revision.unwrap_or_else(|| panic!("{name} is none of the secrets")).uid.clone();
                        releases.payloads.insert(uid, payload(&name));
                    }
                }
            }
        }
        // Names are unique in a namespace; where a server says otherwise, one of them has no payload, and the look none.
        let Seen::Releases(releases) = &look.seen else { panic!("payloads of no release") };
        let mut names: Vec<&str> = releases.revisions.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).any(|pair| pair[0] == pair[1]), "payloads are asked for without end");
    }

    fn next(&mut self, next: TargetState, at: Timestamp) {
        if self.state.status.is_terminal() {
            assert_eq!(next, self.state, "a verdict stays");
        }
        self.holds(&next);
        let in_time = at < self.question.deadline;
        assert!(next.status != Status::Pending || in_time, "nothing is pending after the deadline");
        if next != self.state && in_time {
            assert_ne!(next.reason, Reason::Timeout, "nothing times out before the deadline");
        }
        self.state = next;
    }

    fn holds(&self, state: &TargetState) {
        promises::is_message(&state.message);
        assert!(!state.message.is_empty());
        match state.status {
            Status::Pending => assert_eq!(state.evidence, None, "{state:?}"),
            Status::Succeeded => assert!(state.evidence.is_some(), "{state:?}"),
            Status::Failed => {
                assert!(state.reason != Reason::Timeout || state.evidence.is_none(), "{state:?}")
            }
        }
        let stored = serde_json::to_string(state).unwrap();
        let read: TargetState = serde_json::from_str(&stored).unwrap();
        assert_eq!(&read, state, "what is stored is read back");
        assert!(stored.len() <= STATE_BYTES, "{} bytes: {stored}", stored.len());
    }

    /// The deadline passes.
    pub(crate) fn end(self) {
        let end = expire(&self.question, &self.state, self.question.deadline);
        assert!(end.status.is_terminal());
        self.holds(&end);
    }
}

/// With what everything is asked.
pub(crate) fn credentials() -> Credentials {
    Credentials {
        api_url: "https://prod.example.com:6443".to_owned(),
        token: promises::TOKEN.into(),
        ca_cert: None,
        tls_server_name: None,
        personal: None,
    }
}

/// A clock that stands still.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        promises::start()
    }
}

/// A cluster that serves everything.
struct Good;

#[async_trait]
impl Prober for Good {
    async fn probe(&self, _: &Credentials, namespaces: &Namespaces) -> Result<Findings, ProbeFailure> {
        let scope = |namespace: Option<&String>| Scope {
            namespace: namespace.cloned(),
            get_helm_releases: Permission::Allowed,
            list_secrets: Permission::Denied,
            beyond: Vec::new(),
            rules: None,
        };
        let patterns = namespaces.patterns();
        Ok(Findings {
            kubernetes_version: "v1.36.3".to_owned(),
            flux_installed: Some(true),
            server_certificate_not_after: None,
            scopes: if patterns.is_empty() {
                vec![scope(None)]
            } else {
                patterns.iter().map(|it| scope(Some(it))).collect()
            },
        })
    }
}

/// The API with its stores in memory.
pub(crate) fn api() -> Api {
    let registry = Arc::new(MemoryRegistry::default());
    let registrar = Registrar {
        registry: registry.clone(),
        environments: registry,
        vault: Arc::new(MemoryVault::default()),
        eks: Arc::new(NoEks),
        prober: Arc::new(Good),
        events: Arc::new(MemoryEvents::default()),
        metrics: Arc::new(NoMetrics),
        rules: Arc::new(Rules::new(AddressPolicy::default())),
        clock: Arc::new(Still),
    };
    let deployments = Arc::new(MemoryDeployments::new(Arc::new(Still)));
    Api::new(registrar, deployments, Arc::new(MemoryExecutions::default()), Settings::default())
}

/// What runs the asynchronous parts; one for each input, so that none inherits another's timers.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}
