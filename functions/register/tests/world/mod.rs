//! The API with its stores in memory and a scripted cluster.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, LazyLock, Mutex},
};

use async_trait::async_trait;
use kubernetes::{AddressPolicy, Rules};
use monitor::{
    check::Settings,
    memory::{
        MemoryDeployments, MemoryEvents, MemoryExecutions, MemoryRegistry, MemoryVault, NoEks, NoMetrics,
    },
    namespaces::Namespaces,
    ports::{Credentials, Prober, SystemClock},
    probe::{Findings, Permission, ProbeFailure, ProbeReason, Scope},
    register::Registrar,
};
use register::Api;

/// A cluster that answers as it is told, else as a good one.
#[derive(Default)]
pub(crate) struct Script {
    answers: Mutex<VecDeque<Result<Findings, ProbeFailure>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    pub(crate) fn next(&self, answer: Result<Findings, ProbeFailure>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    pub(crate) fn fail(&self, reason: ProbeReason) {
        self.next(Err(ProbeFailure {
            reason,
            detail: format!("{reason:?} was met"),
            help: "look there".to_owned(),
        }));
    }

    /// The addresses that were asked, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Prober for Script {
    async fn probe(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<Findings, ProbeFailure> {
        self.asked.lock().unwrap().push(credentials.api_url.clone());
        let scripted = self.answers.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| Ok(findings(namespaces)))
    }
}

pub(crate) fn findings(namespaces: &Namespaces) -> Findings {
    let scope = |namespace: Option<&String>| Scope {
        namespace: namespace.cloned(),
        get_helm_releases: Permission::Allowed,
        list_secrets: Permission::Denied,
        beyond: Vec::new(),
        rules: None,
    };
    let patterns = namespaces.patterns();
    Findings {
        kubernetes_version: "v1.36.3".to_owned(),
        flux_installed: Some(true),
        server_certificate_not_after: Some("2050-01-02T00:00:00Z".parse().unwrap()),
        scopes: if patterns.is_empty() {
            vec![scope(None)]
        } else {
            patterns.iter().map(|it| scope(Some(it))).collect()
        },
    }
}

pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) registry: Arc<MemoryRegistry>,
    pub(crate) vault: Arc<MemoryVault>,
    pub(crate) deployments: Arc<MemoryDeployments>,
    pub(crate) executions: Arc<MemoryExecutions>,
    pub(crate) events: Arc<MemoryEvents>,
    pub(crate) script: Arc<Script>,
}

impl World {
    pub(crate) fn new() -> Self {
        let registry = Arc::new(MemoryRegistry::default());
        let vault = Arc::new(MemoryVault::default());
        let deployments = Arc::new(MemoryDeployments::default());
        let executions = Arc::new(MemoryExecutions::default());
        let events = Arc::new(MemoryEvents::default());
        let script = Arc::new(Script::default());
        let registrar = Registrar {
            registry: registry.clone(),
            environments: registry.clone(),
            vault: vault.clone(),
            eks: Arc::new(NoEks),
            prober: script.clone(),
            events: events.clone(),
            metrics: Arc::new(NoMetrics),
            rules: Arc::new(Rules::new(AddressPolicy::default())),
            clock: Arc::new(SystemClock),
        };
        let api = Api::new(registrar, deployments.clone(), executions.clone(), Settings::default());
        Self { api, registry, vault, deployments, executions, events, script }
    }
}

/// A sole subscriber is asked on its own thread alone whether a call site matters, and another thread that comes to the
/// call site first turns it off for all (tracing-core's `callsite`, `has_just_one`). Beside a second one all are asked.
static SECOND: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// As long as the guard lives, this thread's log.
    pub(crate) fn begin(&self) -> tracing::subscriber::DefaultGuard {
        LazyLock::force(&SECOND);
        let writer = self.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
