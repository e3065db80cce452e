//! Asking clusters: before they are stored, when somebody wants to know, and all of
//! them once a day.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    RETRY_SOON_SECS, RegisterError, Registered, Registrar, Swept, WORK_LIMIT,
    fields::{Settled, ending},
    in_time,
};
use crate::{
    check::chain,
    cluster::{ClusterRow, RowState},
    namespaces::Namespaces,
    ports::{Auth, ClusterSecret, Credentials, EksError, Expected, Probed, StoreError},
    probe::{Attention, LastProbe, ProbeFailure, ProbeReason},
};

/// How long EKS may take to tell of a cluster. With [`PROBE_LIMIT`] it leaves 5 s of
/// [`WORK_LIMIT`] to the stores, which answer in milliseconds.
const EKS_LIMIT: Duration = Duration::from_secs(5);

/// How long a cluster may take to answer all questions of a probe. Longer, and a
/// registration could end in the middle of its writing; shorter, and fifty
/// namespaces on a slow cluster can't be asked about.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// How many clusters are asked at the same time by the daily probe: each is a TLS
/// handshake and a few answers in memory.
const AT_ONCE: usize = 16;

/// Rows a page of the daily probe: the most that the registry gives.
const PAGE: usize = 100;

impl Registrar {
    /// The credentials that open a cluster now.
    pub(super) async fn enter(&self, auth: &Auth) -> Result<Credentials, RegisterError> {
        let cluster = match auth {
            Auth::Token(credentials) => return Ok(credentials.clone()),
            Auth::Eks(cluster) => cluster,
        };
        let silent = |source| RegisterError::Unavailable {
            retry_after_secs: RETRY_SOON_SECS,
            source: StoreError::Transient("EKS", source),
        };
        match timeout(EKS_LIMIT, self.eks.credentials(cluster)).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(EksError::Refused(detail))) => Err(RegisterError::ProbeFailed(ProbeFailure {
                reason: ProbeReason::EksRefused,
                detail,
                help: "check clusterName, region and roleArn of auth.eks, and that this stack, or the role, may \
                       call eks:DescribeCluster there"
                    .to_owned(),
            })),
            Ok(Err(EksError::Transient(source))) => Err(silent(source)),
            Err(elapsed) => Err(silent(Box::new(elapsed))),
        }
    }

    /// What came of asking the cluster.
    pub(super) async fn ask(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<LastProbe, RegisterError> {
        match timeout(PROBE_LIMIT, self.prober.probe(credentials, namespaces)).await {
            Ok(Ok(findings)) => Ok(LastProbe::of(&findings, self.now())),
            Ok(Err(failure)) => Err(RegisterError::ProbeFailed(failure)),
            Err(_) => Err(RegisterError::ProbeFailed(ProbeFailure {
                reason: ProbeReason::TimedOut,
                detail: format!(
                    "the cluster did not answer all questions within {} s",
                    PROBE_LIMIT.as_secs()
                ),
                help: "try again, and see whether the API server is overloaded".to_owned(),
            })),
        }
    }

    /// Probes a cluster as it is stored, and keeps what came of it. `updated_at`
    /// stays: nothing was registered.
    ///
    /// # Errors
    /// [`RegisterError::ProbeFailed`] with the reason, which is kept, too; `Unknown`;
    /// `Busy` where it is being registered or removed; `Unfinished` where that broke
    /// off; `Invalid` where its credentials are gone.
    pub async fn probe(&self, id: &str) -> Result<Registered, RegisterError> {
        in_time(self.probe_stored(id)).await
    }

    async fn probe_stored(&self, id: &str) -> Result<Registered, RegisterError> {
        let row = self.get(id).await?;
        if !row.state.is_usable() {
            self.refuse_if_at_work(&row)?;
            return Err(RegisterError::unfinished(&row));
        }
        let secret = self.vault.get(id).await.map_err(RegisterError::before_writing)?;
        let Some(secret) = secret else { return Err(self.without_credentials(&row).await) };
        let settled = Settled::of_stored(secret, &row, &*self.rules, self.now());
        let entered = self.enter_and_ask(&settled.secret).await;
        match entered {
            Ok((credentials, last_probe)) => {
                self.keep(&row, &last_probe).await;
                // The row keeps what was registered; what is warned of is what is there now.
                let (_, mut warnings) =
                    settled.describe(Some(&credentials), row.clone(), &*self.rules, self.now());
                warnings.extend(last_probe.warnings.clone());
                tracing::info!(cluster = %id, "probed");
                Ok(Registered { row: ClusterRow { last_probe: Some(last_probe), ..row }, warnings })
            }
            Err(error) => {
                if let RegisterError::ProbeFailed(failure) = &error {
                    self.keep(&row, &LastProbe::failed(failure, self.now())).await;
                    tracing::info!(
                        cluster = %id,
                        reason = ?failure.reason,
                        detail = failure.detail,
                        "the probe failed"
                    );
                }
                Err(error)
            }
        }
    }

    async fn enter_and_ask(&self, secret: &ClusterSecret) -> Result<(Credentials, LastProbe), RegisterError> {
        let credentials = self.enter(&secret.auth).await?;
        let last_probe = self.ask(&credentials, &secret.namespaces).await?;
        Ok((credentials, last_probe))
    }

    /// Why there are none: the cluster was removed a moment ago, or they were lost.
    async fn without_credentials(&self, row: &ClusterRow) -> RegisterError {
        match self.get(&row.id).await {
            Ok(now) if now.nonce == row.nonce => RegisterError::credentials_gone(),
            Ok(_) => super::taken_over(&row.id),
            Err(error) => error,
        }
    }

    /// Keeps what a probe came to, where the row is still the one that was read. The
    /// nonce stays: who changes the cluster meanwhile has asked for more, and is not
    /// to lose against a probe. Two probes at once differ in nothing else.
    async fn keep(&self, row: &ClusterRow, last_probe: &LastProbe) {
        if row.state != RowState::Active {
            return;
        }
        let probed = ClusterRow { last_probe: Some(last_probe.clone()), ..row.clone() };
        // Somebody else's change is newer than this probe, so nothing is lost by losing.
        if let Err(error) = self.registry.put(&probed, Expected::Nonce(&row.nonce)).await {
            tracing::warn!(cluster = %row.id, error = %chain(&error), "the probe was not kept");
        }
    }

    /// Probes every cluster, the one first whose last probe is the oldest, and tells of
    /// those that can't be reached and of what ends soon.
    ///
    /// # Errors
    /// What became of the registry. A cluster that fails is told of, and no error.
    pub async fn probe_all(&self) -> Result<Swept, RegisterError> {
        let deadline = Instant::now() + WORK_LIMIT;
        let mut rows = timeout_at(deadline, self.usable()).await.unwrap_or_else(|elapsed| {
            Err(RegisterError::before_writing(StoreError::Transient("the registry", Box::new(elapsed))))
        })?;
        rows.sort_by(|a, b| oldest_first(a).cmp(&oldest_first(b)));
        let mut swept = Swept { probed: 0, attention: 0, left: rows.len() };
        let mut probes = stream::iter(rows).map(|row| self.sweep(row)).buffer_unordered(AT_ONCE);
        // Who is not done at the deadline has kept nothing, and so comes first next time.
        while let Ok(Some(attention)) = timeout_at(deadline, probes.next()).await {
            if let Some(attention) = attention {
                swept.probed += 1;
                swept.left -= 1;
                swept.attention += usize::from(attention);
            }
        }
        tracing::info!(
            probed = swept.probed,
            attention = swept.attention,
            left = swept.left,
            "all clusters probed"
        );
        Ok(swept)
    }

    async fn usable(&self) -> Result<Vec<ClusterRow>, RegisterError> {
        let mut rows: Vec<ClusterRow> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.list(PAGE, after.as_deref()).await?;
            let last = page.rows.last().map(|row| row.id.clone());
            rows.extend(page.rows.into_iter().filter(|row| row.state.is_usable()));
            // A page without rows can't be followed by another one.
            if !page.more || last.is_none() {
                return Ok(rows);
            }
            after = last;
        }
    }

    /// Probes one, and tells of it. Whether somebody was told to look at it; `None`
    /// where it was not probed.
    async fn sweep(&self, row: ClusterRow) -> Option<bool> {
        let secret = match self.vault.get(&row.id).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                if let RegisterError::Invalid(_) = self.without_credentials(&row).await {
                    let gone = LastProbe::failed(
                        &ProbeFailure {
                            reason: ProbeReason::CredentialsGone,
                            detail: format!("the stored credentials of {} are gone", row.id),
                            help: "give them again with PUT, or remove the cluster".to_owned(),
                        },
                        self.now(),
                    );
                    return Some(self.tell(&row, &row, &gone).await);
                }
                return None;
            }
            Err(error) => {
                tracing::warn!(cluster = %row.id, error = %chain(&error), "not probed");
                return None;
            }
        };
        let settled = Settled::of_stored(secret, &row, &*self.rules, self.now());
        let (credentials, last_probe) = match self.enter(&settled.secret.auth).await {
            Ok(credentials) => {
                let asked = self.ask(&credentials, &settled.secret.namespaces).await;
                (Some(credentials), asked)
            }
            Err(error) => (None, Err(error)),
        };
        let now = self.now();
        let last_probe = match last_probe {
            Ok(last_probe) => last_probe,
            Err(RegisterError::ProbeFailed(failure)) => LastProbe::failed(&failure, now),
            Err(error) => {
                tracing::warn!(cluster = %row.id, error = %chain(&error), "not probed");
                return None;
            }
        };
        let (shown, _) = settled.describe(credentials.as_ref(), row.clone(), &*self.rules, now);
        Some(self.tell(&row, &shown, &last_probe).await)
    }

    /// Leaves the figures of a probe, tells of it where somebody should look, and keeps
    /// it. `shown` is the row as it would show what was just entered with. Whether
    /// somebody was told.
    async fn tell(&self, row: &ClusterRow, shown: &ClusterRow, last_probe: &LastProbe) -> bool {
        let now = self.now();
        let attention = attention(shown, last_probe, now);
        let ends = Ends::of(shown, last_probe);
        let secs_left = |end: Option<Timestamp>| end.map(|end| end.duration_since(now).as_secs());
        self.metrics.cluster_probed(&Probed {
            cluster: &row.id,
            reached: last_probe.reason.is_none(),
            token_secs_left: secs_left(ends.token),
            certificate_secs_left: secs_left(ends.certificate),
        });
        if let Some(attention) = &attention {
            // The cluster is told of again tomorrow.
            if let Err(error) = self.events.cluster_needs_attention(attention).await {
                tracing::warn!(cluster = %row.id, error = %chain(&error), "the event was not published");
            }
        }
        // Kept last: what was not told of is not taken for done.
        self.keep(row, last_probe).await;
        attention.is_some()
    }
}

/// Those never probed come before all others, and the id makes the order a fixed one.
fn oldest_first(row: &ClusterRow) -> (Option<Timestamp>, &str) {
    (row.last_probe.as_ref().map(|probe| probe.at), &row.id)
}

/// When what a cluster is entered with ends.
struct Ends {
    token: Option<Timestamp>,
    /// The first of the CA's and the server's.
    certificate: Option<Timestamp>,
}

impl Ends {
    fn of(row: &ClusterRow, probe: &LastProbe) -> Self {
        let certificate = row.ca_not_after.into_iter().chain(probe.server_certificate_not_after).min();
        Self { token: row.token_expires_at, certificate }
    }
}

/// What somebody should look at, where there is anything: the cluster can't be asked,
/// or something of it ends within 30 days.
fn attention(row: &ClusterRow, probe: &LastProbe, now: Timestamp) -> Option<Attention> {
    let mut ending_soon = super::fields::ends(row, now);
    let server = ending("the API server's certificate", "renew it", probe.server_certificate_not_after, now);
    ending_soon.extend(server);
    if probe.reason.is_none() && ending_soon.is_empty() {
        return None;
    }
    let message = if probe.reason.is_some() { probe.message.clone() } else { ending_soon.join("; ") };
    let ends = Ends::of(row, probe);
    Some(Attention {
        cluster: row.id.clone(),
        name: row.name.clone(),
        probed_at: probe.at,
        reason: probe.reason,
        message,
        token_expires_at: ends.token,
        certificate_not_after: ends.certificate,
    })
}
