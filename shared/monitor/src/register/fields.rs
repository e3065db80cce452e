//! What the fields of a registration may be.

use base64::{Engine, engine::general_purpose};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde_json::Value;

use super::{Change, MAX_NAME_CHARS, NewCluster, NewEks};
use crate::{
    cluster::{ClusterRow, EksCluster},
    namespaces::Namespaces,
    ports::{Auth, CaCert, ClusterSecret, Credentials, Eks, RegistrationRules},
    request::Refusal,
    slug::slug,
};

const NAME: &str = "/name";
const API_URL: &str = "/apiUrl";
const TOKEN: &str = "/serviceAccountToken";
const CA_CERT: &str = "/caCert";
const TLS_SERVER_NAME: &str = "/tlsServerName";
const NAMESPACES: &str = "/namespaces";
const AUTH: &str = "/auth";
const EKS_CLUSTER_NAME: &str = "/auth/eks/clusterName";
const EKS_REGION: &str = "/auth/eks/region";
const EKS_ROLE_ARN: &str = "/auth/eks/roleArn";

/// The longest token. Bound ones are about 1 KiB, and Go's HTTP server, which the
/// API server is, reads at most 1 MiB of headers; a secret holds 64 KiB in all.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long before its end something is warned of.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How much of a token's `iss` and `sub` is shown. Real ones are half as long.
const MAX_CLAIM_CHARS: usize = 200;

/// Longest name of an EKS cluster (EKS API reference, CreateCluster).
const MAX_EKS_NAME_CHARS: usize = 100;

/// Longer than any region's name; it becomes a part of a host's.
const MAX_REGION_CHARS: usize = 40;

/// Longest ARN of a role (IAM API reference, Role).
const MAX_ROLE_ARN_CHARS: usize = 2048;

/// How much of a refused value is told.
const MAX_SHOWN_CHARS: usize = 60;

/// Why nothing stands beside `auth.eks`.
const BESIDE_EKS: &str =
    "can't stand beside auth.eks: address, CA and token come from EKS at each use; leave one of them out";

/// What the vault should have held.
const GONE: &str = "is missing; the stored credentials are gone, so it is needed again";

/// What is wrong, field by field.
#[derive(Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn refuse(&mut self, pointer: &str, detail: impl Into<String>) {
        self.0.push(Refusal { pointer: pointer.to_owned(), detail: detail.into() });
    }

    /// What was found good; what was not is noted.
    fn note<T>(&mut self, pointer: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|detail| self.refuse(pointer, detail)).ok()
    }

    fn namespaces(&mut self, patterns: Vec<String>) -> Option<Namespaces> {
        Namespaces::parse(patterns)
            .map_err(|(index, detail)| match index {
                Some(index) => self.refuse(&format!("{NAMESPACES}/{index}"), detail),
                None => self.refuse(NAMESPACES, detail),
            })
            .ok()
    }

    /// `null` opens all.
    fn changed_namespaces(&mut self, given: Option<Option<Vec<String>>>) -> Option<Namespaces> {
        match given? {
            None => Some(Namespaces::default()),
            Some(patterns) => self.namespaces(patterns),
        }
    }

    fn eks(&mut self, given: NewEks, eks: &dyn Eks) -> Option<EksCluster> {
        let name = required(given.cluster_name, "the cluster's name in EKS").and_then(check_eks_name);
        let name = self.note(EKS_CLUSTER_NAME, name);
        let region = required(given.region, "an AWS region like \"eu-central-1\"").and_then(check_region);
        let region = self.note(EKS_REGION, region);
        let role = given.role_arn.map(|arn| self.note(EKS_ROLE_ARN, check_role_arn(arn, eks)));
        match (name, region, role) {
            (Some(cluster_name), Some(region), None) => {
                Some(EksCluster { cluster_name, region, role_arn: None })
            }
            (Some(cluster_name), Some(region), Some(Some(role))) => {
                Some(EksCluster { cluster_name, region, role_arn: Some(role) })
            }
            _ => None,
        }
    }
}

/// A new cluster, every field checked.
pub(super) struct NewGiven {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) settled: Settled,
}

/// A change, every field checked.
pub(super) struct Given {
    api_url: Option<String>,
    token: Option<SecretString>,
    ca_cert: Option<Option<CaCert>>,
    tls_server_name: Option<Option<String>>,
    namespaces: Option<Namespaces>,
    eks: Option<EksCluster>,
}

/// What is written: the secret whole, and what the row shows of it.
pub(super) struct Settled {
    pub(super) secret: ClusterSecret,
    /// Of the CA that stands in the secret.
    ca: Shown,
    /// Whether the cluster is reached or entered otherwise than before.
    pub(super) moved: bool,
}

/// What is shown of a CA.
#[derive(Default)]
struct Shown {
    fingerprint: Option<String>,
    not_after: Option<Timestamp>,
    warnings: Vec<String>,
}

impl Shown {
    /// Its PEM beside what is shown of it.
    fn of(ca: Option<CaCert>) -> (Option<String>, Self) {
        ca.map_or((None, Self::default()), |CaCert { pem, fingerprint, not_after, warnings }| {
            (Some(pem), Self { fingerprint: Some(fingerprint), not_after: Some(not_after), warnings })
        })
    }

    /// Of what is stored: read once more rather than copied from the row, which a
    /// change that broke off may have left behind what the vault holds.
    fn of_stored(pem: Option<&str>, row: &ClusterRow, rules: &dyn RegistrationRules, now: Timestamp) -> Self {
        match pem.map(|pem| rules.ca_cert(pem, now)) {
            None => Self::default(),
            Some(Ok(ca)) => Self::of(Some(ca)).1,
            // Accepted once, refused by today's rules: not what this is about.
            Some(Err(_)) => Self {
                fingerprint: row.ca_fingerprint.clone(),
                not_after: row.ca_not_after,
                warnings: Vec::new(),
            },
        }
    }
}

impl Settled {
    /// What is stored, as it is.
    pub(super) fn of_stored(
        secret: ClusterSecret,
        row: &ClusterRow,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> Self {
        let ca = match &secret.auth {
            Auth::Token(credentials) => Shown::of_stored(credentials.ca_cert.as_deref(), row, rules, now),
            Auth::Eks(_) => Shown::default(),
        };
        Self { secret, ca, moved: false }
    }

    /// The row, showing this secret, and what the operator should know of it.
    /// `told` is what EKS says of the cluster, where it was asked; where it was
    /// not, the row keeps what it said before.
    pub(super) fn describe(
        &self,
        told: Option<&Credentials>,
        row: ClusterRow,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> (ClusterRow, Vec<String>) {
        let row = ClusterRow { namespaces: self.secret.namespaces.clone(), ..row };
        let (row, ca_warnings) = match &self.secret.auth {
            Auth::Token(credentials) => {
                let claims = Claims::of(&credentials.token);
                let row = ClusterRow {
                    api_url: credentials.api_url.clone(),
                    tls_server_name: credentials.tls_server_name.clone(),
                    ca_fingerprint: self.ca.fingerprint.clone(),
                    ca_not_after: self.ca.not_after,
                    token_expires_at: claims.expires_at,
                    token_issuer: claims.issuer,
                    token_subject: claims.subject,
                    eks: None,
                    ..row
                };
                (row, self.ca.warnings.clone())
            }
            Auth::Eks(cluster) => by_eks(cluster, told, row, rules, now),
        };
        let mut warnings = ends(&row, now);
        warnings.extend(ca_warnings);
        (row, warnings)
    }
}

/// The row of an EKS cluster, and what should be known of its CA.
fn by_eks(
    cluster: &EksCluster,
    told: Option<&Credentials>,
    row: ClusterRow,
    rules: &dyn RegistrationRules,
    now: Timestamp,
) -> (ClusterRow, Vec<String>) {
    let row = ClusterRow {
        // Made anew at each use.
        token_expires_at: None,
        token_issuer: None,
        token_subject: None,
        ..row
    };
    let Some(told) = told else {
        if row.eks.as_ref() == Some(cluster) {
            return (row, Vec::new());
        }
        // Of another cluster, or of a token.
        let row = ClusterRow {
            api_url: String::new(),
            tls_server_name: None,
            ca_fingerprint: None,
            ca_not_after: None,
            eks: Some(cluster.clone()),
            ..row
        };
        return (row, Vec::new());
    };
    let ca = match told.ca_cert.as_deref().map(|pem| rules.ca_cert(pem, now)) {
        None => Shown::default(),
        Some(Ok(ca)) => Shown::of(Some(ca)).1,
        // The probe tells what comes of it.
        Some(Err(why)) => {
            let warnings = vec![format!("the CA that EKS told is not accepted: {why}")];
            Shown { warnings, ..Shown::default() }
        }
    };
    let row = ClusterRow {
        api_url: told.api_url.clone(),
        tls_server_name: told.tls_server_name.clone(),
        ca_fingerprint: ca.fingerprint,
        ca_not_after: ca.not_after,
        eks: Some(cluster.clone()),
        ..row
    };
    (row, ca.warnings)
}

impl NewGiven {
    pub(super) fn check(
        new: NewCluster,
        rules: &dyn RegistrationRules,
        eks: &dyn Eks,
        now: Timestamp,
    ) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        let NewCluster {
            name,
            api_url,
            service_account_token,
            ca_cert,
            tls_server_name,
            namespaces,
            eks: by_eks,
        } = new;
        let name = required(name, "1 to 100 characters").and_then(|name| check_name(&name).map(|()| name));
        let name = refusals.note(NAME, name);
        let entry = if let Some(by_eks) = by_eks {
            for (given, pointer) in [
                (api_url.is_some(), API_URL),
                (service_account_token.is_some(), TOKEN),
                (ca_cert.is_some(), CA_CERT),
                (tls_server_name.is_some(), TLS_SERVER_NAME),
            ] {
                if given {
                    refusals.refuse(pointer, BESIDE_EKS);
                }
            }
            refusals.eks(by_eks, eks).map(|cluster| (Auth::Eks(cluster), Shown::default()))
        } else {
            let api_url = required(api_url, "an https address").and_then(|url| rules.api_url(&url));
            let api_url = refusals.note(API_URL, api_url);
            let token = required(service_account_token, "the token of a service account")
                .and_then(|token| check_token(&token, now).map(|()| token));
            let token = refusals.note(TOKEN, token);
            let ca = ca_cert.and_then(|pem| refusals.note(CA_CERT, rules.ca_cert(&pem, now)));
            let tls_server_name = tls_server_name
                .and_then(|name| refusals.note(TLS_SERVER_NAME, rules.tls_server_name(&name).map(|()| name)));
            api_url.zip(token).map(|(api_url, token)| {
                let (ca_cert, shown) = Shown::of(ca);
                (Auth::Token(Credentials { api_url, token, ca_cert, tls_server_name, personal: None }), shown)
            })
        };
        let namespaces =
            namespaces.map_or_else(|| Some(Namespaces::default()), |patterns| refusals.namespaces(patterns));
        match (name, entry, namespaces) {
            (Some(name), Some((auth, ca)), Some(namespaces)) if refusals.0.is_empty() => Ok(Self {
                id: slug(&name),
                name,
                settled: Settled { secret: ClusterSecret { auth, namespaces }, ca, moved: true },
            }),
            _ => Err(refusals.0),
        }
    }
}

impl Given {
    pub(super) fn check(
        change: Change,
        rules: &dyn RegistrationRules,
        eks: &dyn Eks,
        now: Timestamp,
    ) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        let Change {
            mut api_url,
            mut service_account_token,
            mut ca_cert,
            mut tls_server_name,
            namespaces,
            eks: by_eks,
        } = change;
        if api_url.is_none()
            && service_account_token.is_none()
            && ca_cert.is_none()
            && tls_server_name.is_none()
            && namespaces.is_none()
            && by_eks.is_none()
        {
            refusals.refuse(
                "",
                "nothing came that could be changed; give apiUrl, serviceAccountToken, caCert, tlsServerName, \
                 namespaces or auth",
            );
        }
        let by_eks = by_eks.and_then(|given| {
            for (given, pointer) in [
                (api_url.take().is_some(), API_URL),
                (service_account_token.take().is_some(), TOKEN),
                // Removing what goes anyway is no contradiction.
                (ca_cert.take().flatten().is_some(), CA_CERT),
                (tls_server_name.take().flatten().is_some(), TLS_SERVER_NAME),
            ] {
                if given {
                    refusals.refuse(pointer, BESIDE_EKS);
                }
            }
            refusals.eks(given, eks)
        });
        let api_url = api_url.and_then(|url| refusals.note(API_URL, rules.api_url(&url)));
        let token = service_account_token
            .and_then(|token| refusals.note(TOKEN, check_token(&token, now).map(|()| token)));
        let ca_cert = ca_cert.map(|pem| pem.and_then(|pem| refusals.note(CA_CERT, rules.ca_cert(&pem, now))));
        let tls_server_name = tls_server_name.map(|name| {
            name.and_then(|name| refusals.note(TLS_SERVER_NAME, rules.tls_server_name(&name).map(|()| name)))
        });
        let namespaces = refusals.changed_namespaces(namespaces);
        if refusals.0.is_empty() {
            Ok(Self { api_url, token, ca_cert, tls_server_name, namespaces, eks: by_eks })
        } else {
            Err(refusals.0)
        }
    }

    /// Whether it replaces everything, so that nothing stored is needed.
    pub(super) fn is_complete(&self) -> bool {
        let by_token = self.api_url.is_some()
            && self.token.is_some()
            && self.ca_cert.is_some()
            && self.tls_server_name.is_some();
        self.namespaces.is_some() && (by_token || self.eks.is_some())
    }

    /// The secret after the change. What is stored and goes to a new destination is
    /// refused; so is filling in what the vault should hold, and does not, from the
    /// row, which is only for showing. `stored` is `None` where there is nothing or
    /// nothing of it is needed.
    pub(super) fn settle(
        mut self,
        stored: Option<ClusterSecret>,
        row: &ClusterRow,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> Result<Settled, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        let (auth, open) = stored.map_or((None, None), |it| (Some(it.auth), Some(it.namespaces)));
        let namespaces = self.namespaces.take().or(open);
        if namespaces.is_none() && !row.namespaces.patterns().is_empty() {
            refusals.refuse(NAMESPACES, GONE);
        }
        let namespaces = namespaces.unwrap_or_default();
        let (auth, ca, moved) = match (self.eks.take(), auth) {
            (Some(cluster), stored) => {
                let moved = !matches!(stored, Some(Auth::Eks(stored)) if stored == cluster);
                (Some(Auth::Eks(cluster)), Shown::default(), moved)
            }
            (None, Some(Auth::Eks(cluster))) if !self.names_a_token_form() => {
                (Some(Auth::Eks(cluster)), Shown::default(), false)
            }
            (None, Some(Auth::Eks(_))) => {
                for (missing, pointer) in [(self.api_url.is_none(), API_URL), (self.token.is_none(), TOKEN)] {
                    if missing {
                        refusals.refuse(
                            pointer,
                            "is missing; the cluster is entered by auth.eks, and a stored token instead needs \
                             apiUrl and serviceAccountToken",
                        );
                    }
                }
                self.token_form(None, row, rules, now)
            }
            (None, Some(Auth::Token(stored))) => {
                let new = self.new_destination(&stored);
                if !new.is_empty() && self.token.is_none() {
                    refusals.refuse(
                        TOKEN,
                        format!(
                            "is missing; another {} needs it in the same request, because a stored token is \
                             never sent to a new destination",
                            new.join(" or ")
                        ),
                    );
                }
                self.token_form(Some(stored), row, rules, now)
            }
            (None, None) if row.eks.is_some() && !self.names_a_token_form() => {
                refusals.refuse(AUTH, GONE);
                (None, Shown::default(), true)
            }
            (None, None) => {
                let was = row.eks.is_none();
                for (missing, pointer) in [
                    (self.api_url.is_none(), API_URL),
                    (self.token.is_none(), TOKEN),
                    (was && self.ca_cert.is_none() && row.ca_fingerprint.is_some(), CA_CERT),
                    (was && self.tls_server_name.is_none() && row.tls_server_name.is_some(), TLS_SERVER_NAME),
                ] {
                    if missing {
                        refusals.refuse(pointer, GONE);
                    }
                }
                self.token_form(None, row, rules, now)
            }
        };
        match auth {
            Some(auth) if refusals.0.is_empty() => {
                Ok(Settled { secret: ClusterSecret { auth, namespaces }, ca, moved })
            }
            _ => Err(refusals.0),
        }
    }

    /// By a token, with what is stored where nothing else was given; `None` where
    /// address or token is missing.
    fn token_form(
        self,
        stored: Option<Credentials>,
        row: &ClusterRow,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> (Option<Auth>, Shown, bool) {
        // A given token counts as another one: telling whether it is the stored one
        // would answer whoever guesses.
        let moved = match &stored {
            Some(stored) => self.token.is_some() || !self.new_destination(stored).is_empty(),
            None => true,
        };
        let (api_url, token, ca_pem, tls_server_name) = match stored {
            Some(it) => (Some(it.api_url), Some(it.token), it.ca_cert, it.tls_server_name),
            None => (None, None, None, None),
        };
        let (Some(api_url), Some(token)) = (self.api_url.or(api_url), self.token.or(token)) else {
            return (None, Shown::default(), moved);
        };
        let (ca_cert, shown) = match self.ca_cert {
            Some(given) => Shown::of(given),
            None => {
                let shown = Shown::of_stored(ca_pem.as_deref(), row, rules, now);
                (ca_pem, shown)
            }
        };
        let tls_server_name = self.tls_server_name.unwrap_or(tls_server_name);
        (
            Some(Auth::Token(Credentials { api_url, token, ca_cert, tls_server_name, personal: None })),
            shown,
            moved,
        )
    }

    /// Whether something came that only a cluster with a stored token has.
    fn names_a_token_form(&self) -> bool {
        self.api_url.is_some()
            || self.token.is_some()
            || matches!(self.ca_cert, Some(Some(_)))
            || matches!(self.tls_server_name, Some(Some(_)))
    }

    /// What would lead the stored token elsewhere, or let somebody else answer it.
    fn new_destination(&self, stored: &Credentials) -> Vec<&'static str> {
        let pem = |ca: &Option<CaCert>| ca.as_ref().map(|ca| ca.pem.clone());
        let mut new = Vec::new();
        if self.api_url.as_ref().is_some_and(|url| *url != stored.api_url) {
            new.push("apiUrl");
        }
        if self.ca_cert.as_ref().is_some_and(|ca| pem(ca) != stored.ca_cert) {
            new.push("caCert");
        }
        if self.tls_server_name.as_ref().is_some_and(|name| *name != stored.tls_server_name) {
            new.push("tlsServerName");
        }
        new
    }
}

fn required<T>(field: Option<T>, awaited: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("is missing; {awaited} is awaited"))
}

fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&length) {
        return Err(format!("{length} characters came; 1 to {MAX_NAME_CHARS} are allowed"));
    }
    if name.chars().any(char::is_control) {
        return Err("a control character came; a name has none".to_owned());
    }
    if slug(name).is_empty() {
        return Err("it has neither an ASCII letter nor a digit, so no id can be made of it".to_owned());
    }
    Ok(())
}

/// As it is told back: a wrong field may hold anything.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}

/// `^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$` (EKS API reference, CreateCluster).
fn check_eks_name(name: String) -> Result<String, String> {
    let fits = name.len() <= MAX_EKS_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits {
        return Ok(name);
    }
    Err(format!(
        "\"{}\" came; 1-{MAX_EKS_NAME_CHARS} of A-Z a-z 0-9 - and _ are awaited, a letter or digit first",
        shown(&name)
    ))
}

/// Words of small letters and a number, as in `us-gov-west-1`. The first word has two
/// letters, but for the European Sovereign Cloud's `eusc-de-east-1`.
fn check_region(region: String) -> Result<String, String> {
    let mut words: Vec<&str> = region.split('-').collect();
    let number = words.pop().unwrap_or_default();
    let small = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let fits = region.len() <= MAX_REGION_CHARS
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
        && words.len() >= 2
        && words.iter().all(small)
        && words.first().is_some_and(|word| (2..=4).contains(&word.len()));
    if fits {
        return Ok(region);
    }
    Err(format!("\"{}\" came; an AWS region like \"eu-central-1\" is awaited", shown(&region)))
}

/// `arn:aws:iam::123456789012:role/path/name`, in any partition, and one that may be
/// taken.
fn check_role_arn(arn: String, eks: &dyn Eks) -> Result<String, String> {
    let fits = arn.len() <= MAX_ROLE_ARN_CHARS && is_role_arn(&arn);
    if !fits {
        return Err(format!(
            "\"{}\" came; the ARN of a role like \"arn:aws:iam::123456789012:role/name\" is awaited",
            shown(&arn)
        ));
    }
    eks.role_allowed(&arn)?;
    Ok(arn)
}

fn is_role_arn(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else { return false };
    let partition = partition.strip_prefix("aws").unwrap_or("?");
    let Some(path) = resource.strip_prefix("role/") else { return false };
    let name = path.rsplit('/').next().unwrap_or_default();
    partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && path.bytes().all(|b| b.is_ascii_graphic())
        && (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

/// No detail ever holds a part of the token.
fn check_token(token: &SecretString, now: Timestamp) -> Result<(), String> {
    let text = token.expose_secret();
    let refused = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_TOKEN_BYTES {
        return Err(format!("{} bytes came; at most {MAX_TOKEN_BYTES} are allowed", text.len()));
    } else if text.ends_with(['\n', '\r']) {
        "it ends with a newline, as files and commands often do; give the token alone (`tr -d '\\n'` removes it)"
    } else if text.contains(char::is_whitespace) {
        "it holds a space or a line break; give the token alone, on one line and without \"Bearer\""
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it holds a control character or one that is not ASCII; no token has any"
    } else if is_encoded_jwt(text) {
        "it is a token encoded in base64 once more, as a Secret carries it; decode it (`base64 -d`)"
    } else {
        return match Claims::of(token).expires_at {
            Some(expiry) if expiry <= now => Err(format!("it expired at {expiry}; create another one")),
            _ => Ok(()),
        };
    };
    Err(refused.to_owned())
}

/// What a token that is a JWT says of itself. Nothing is verified: the API server
/// does that; this is only to tell people in time.
#[derive(Default)]
struct Claims {
    expires_at: Option<Timestamp>,
    issuer: Option<String>,
    subject: Option<String>,
}

impl Claims {
    fn of(token: &SecretString) -> Self {
        Self::read(token.expose_secret()).unwrap_or_default()
    }

    fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = decoded(&general_purpose::URL_SAFE_NO_PAD, payload)?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        // RFC 7519 allows a fraction. Beyond what a timestamp can hold the token never
        // ends; `as` saturates, and `from_second` refuses that.
        #[allow(clippy::cast_possible_truncation, reason = "a fraction of a second is of no matter here")]
        let expires_at =
            claims.get("exp").and_then(Value::as_f64).and_then(|exp| Timestamp::from_second(exp as i64).ok());
        let text = |claim: &str| {
            let text = claims.get(claim)?.as_str()?;
            let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_CLAIM_CHARS).collect();
            (!text.is_empty()).then_some(text)
        };
        Some(Self { expires_at, issuer: text("iss"), subject: text("sub") })
    }
}

fn is_encoded_jwt(text: &str) -> bool {
    let Some(decoded) = decoded(&general_purpose::STANDARD, text) else { return false };
    decoded.starts_with(b"eyJ") && decoded.iter().filter(|byte| **byte == b'.').count() == 2
}

/// A part of a token, in memory that is wiped, also where it is cut short.
fn decoded(engine: &impl Engine, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = engine.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// What of a row ends soon, or has ended since it was given.
pub(super) fn ends(row: &ClusterRow, now: Timestamp) -> Vec<String> {
    let (ca, mend) = match &row.eks {
        None => ("caCert", "replace it"),
        Some(_) => ("the EKS cluster's CA", "see to it in EKS"),
    };
    let token = ending("serviceAccountToken", "replace it", row.token_expires_at, now);
    token.into_iter().chain(ending(ca, mend, row.ca_not_after, now)).collect()
}

/// A sentence, where it has ended or does so within 30 days.
pub(super) fn ending(what: &str, mend: &str, end: Option<Timestamp>, now: Timestamp) -> Option<String> {
    let end = end?;
    let left = end.duration_since(now);
    if left > WARN_BEFORE {
        return None;
    }
    Some(match left.as_hours() {
        _ if end <= now => format!("{what} expired at {end}; {mend}"),
        ..24 => format!("{what} expires at {end}, in less than a day; {mend} before"),
        24..48 => format!("{what} expires at {end}, in a day; {mend} before"),
        hours => format!("{what} expires at {end}, in {} days; {mend} before", hours / 24),
    })
}
