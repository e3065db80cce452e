//! What a probe of a cluster finds, and what it says of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The first Kubernetes minor that Flux 2.3 supports, which is the first Flux with
/// HelmRelease `helm.toolkit.fluxcd.io/v2`: "v1.28: >= 1.28.0", says the table
/// "Kubernetes compatibility" of its release notes
/// (<https://github.com/fluxcd/flux2/releases/tag/v2.3.0>).
const OLDEST: (u32, u32) = (1, 28);

/// How long before its end a certificate is warned of.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many warnings a probe gives; what is more is counted.
const MAX_WARNINGS: usize = 20;

/// How many pairs of group and resource are looked at: a server may send any rules.
const MAX_PAIRS: usize = 2_000;

/// How many words of a list are shown in a sentence.
const SHOWN: usize = 8;

/// What dag-monitor needs, and what every authenticated account may do: verb, group
/// and resource.
const NEEDED: [(&str, &str, &str); 7] = [
    ("get", "helm.toolkit.fluxcd.io", "helmreleases"),
    ("list", "", "secrets"),
    // Optional: its message is quoted while nothing changes.
    ("get", "kustomize.toolkit.fluxcd.io", "kustomizations"),
    // The ClusterRole system:basic-user.
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
    ("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
    ("create", "authorization.k8s.io", "selfsubjectreviews"),
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
];

/// Why a cluster could not be probed. A closed list: callers tell them apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProbeReason {
    /// The name can't be resolved.
    DnsFailed,
    /// The name, or the address, is one that must not be connected to.
    AddressRefused,
    /// Nobody listens there.
    ConnectionRefused,
    /// No route, or the connection broke off.
    Unreachable,
    /// No connection, or no answer, in time.
    TimedOut,
    /// The server's certificate was issued by nobody who is trusted.
    CertificateNotTrusted,
    /// The server's certificate has ended, or has not begun.
    CertificateExpired,
    /// The server's certificate is for another name.
    CertificateForAnotherName,
    /// The TLS handshake broke off for another reason. A server that speaks no TLS at
    /// all is `NotKubernetes`.
    TlsFailed,
    /// 401: the token was not accepted.
    Unauthorized,
    /// 403 on a question that any authenticated account may ask.
    Forbidden,
    /// What answers is no Kubernetes API.
    NotKubernetes,
    /// HTML came: a login page or a dashboard.
    HtmlAnswered,
    /// A redirect came, which is never followed.
    Redirected,
    /// 429 or 5xx: the API server is there and can't answer now.
    ServerError,
    /// EKS gave no address, CA or token for the cluster.
    EksRefused,
    /// The stored credentials are gone: somebody removed the secret beside the API.
    CredentialsGone,
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// The kind.
    pub reason: ProbeReason,
    /// What was met, one sentence; never a secret.
    pub detail: String,
    /// What to do about it, one sentence.
    pub help: String,
}

/// Whether something is allowed. `Unknown`: the question itself was refused, or
/// can't be asked for a pattern of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Allowed.
    Allowed,
    /// Denied.
    Denied,
    /// Not known.
    Unknown,
}

/// What a cluster answered to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// `/version`'s `gitVersion`, as sent: `v1.36.3`, `v1.33.1-eks-1234567`.
    pub kubernetes_version: String,
    /// Whether `helm.toolkit.fluxcd.io/v2` is served; `None`: not known.
    pub flux_installed: Option<bool>,
    /// When the certificate that the server showed ends.
    pub server_certificate_not_after: Option<Timestamp>,
    /// What the account may do: in all namespaces, or one by one.
    pub scopes: Vec<Scope>,
}

/// What the account may do in one namespace, or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The namespace, or the pattern that was asked about; `None`: all namespaces.
    pub namespace: Option<String>,
    /// `get helmreleases.helm.toolkit.fluxcd.io`.
    pub get_helm_releases: Permission,
    /// `list secrets`.
    pub list_secrets: Permission,
    /// What it may do beyond the need, as asked one by one: the verb, and the
    /// resource with its group, as in `create pods` or `patch deployments.apps`;
    /// `* *.*` is everything.
    pub beyond: Vec<String>,
    /// Every rule that applies, by SelfSubjectRulesReview; `None`: not told.
    pub rules: Option<Rules>,
}

/// The rules that apply to the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The rules on resources.
    pub resources: Vec<Rule>,
    /// Whether there may be more, which the server can't list.
    pub incomplete: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `*` is all.
    pub verbs: Vec<String>,
    /// The core group is empty, `*` is all.
    pub api_groups: Vec<String>,
    /// In the plural, `*` is all; `pods/exec` is a subresource.
    pub resources: Vec<String>,
    /// Only these, where there are any.
    pub resource_names: Vec<String>,
}

/// The last probe of a cluster, as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastProbe {
    /// When.
    pub at: Timestamp,
    /// `None`: it went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ProbeReason>,
    /// One sentence for a person.
    pub message: String,
    /// `gitVersion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// Which helmTypes the account serves; empty where the probe failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<ScopePermissions>,
    /// When the certificate that the server showed ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_certificate_not_after: Option<Timestamp>,
    /// What the operator should know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Which helmTypes can be judged in one namespace, or in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopePermissions {
    /// The namespace or pattern; `None`: all namespaces.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Whether `flux` can be judged.
    pub flux: Permission,
    /// Whether `plain` can be judged.
    pub plain: Permission,
}

/// A cluster that somebody should look at, as the daily probe tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attention {
    /// The cluster's id.
    pub cluster: String,
    /// The cluster's name.
    pub name: String,
    /// When it was probed.
    pub probed_at: Timestamp,
    /// Why the probe failed; `None`: it went well, and there are warnings about ends.
    pub reason: Option<ProbeReason>,
    /// One sentence for a person.
    pub message: String,
    /// When the token ends, where that is known.
    pub token_expires_at: Option<Timestamp>,
    /// When the first of the certificates ends, the server's and the CA's.
    pub certificate_not_after: Option<Timestamp>,
}

impl LastProbe {
    /// What is kept of a probe that went well.
    #[must_use]
    pub fn of(findings: &Findings, now: Timestamp) -> Self {
        let missing = findings.flux_installed == Some(false);
        // `flux` needs the one, `plain` the other.
        let permissions: Vec<_> = findings
            .scopes
            .iter()
            .map(|scope| ScopePermissions {
                namespace: scope.namespace.clone(),
                flux: if missing { Permission::Denied } else { scope.get_helm_releases },
                plain: scope.list_secrets,
            })
            .collect();
        Self {
            at: now,
            reason: None,
            message: message(&findings.kubernetes_version, &permissions),
            kubernetes_version: Some(findings.kubernetes_version.clone()),
            warnings: warnings(findings, &permissions, now),
            permissions,
            server_certificate_not_after: findings.server_certificate_not_after,
        }
    }

    /// What is kept of a probe that failed.
    #[must_use]
    pub fn failed(failure: &ProbeFailure, now: Timestamp) -> Self {
        Self {
            at: now,
            reason: Some(failure.reason),
            message: verdict::clean(&format!("{}; {}", failure.detail, failure.help)),
            kubernetes_version: None,
            permissions: Vec::new(),
            server_certificate_not_after: None,
            warnings: Vec::new(),
        }
    }
}

fn message(version: &str, permissions: &[ScopePermissions]) -> String {
    let judged = |name: &str, of: fn(&ScopePermissions) -> Permission| {
        let allowed = permissions.iter().filter(|it| of(it) == Permission::Allowed).count();
        let unknown = permissions.iter().any(|it| of(it) == Permission::Unknown);
        match (permissions, allowed) {
            ([one], 1) => match &one.namespace {
                None => format!("{name} can be judged in all namespaces"),
                Some(namespace) => format!("{name} can be judged in {namespace}"),
            },
            (_, 0) if unknown || permissions.is_empty() => {
                format!("whether {name} can be judged is not known")
            }
            (_, 0) => format!("{name} can't be judged"),
            (all, allowed) => {
                format!("{name} can be judged in {allowed} of {} namespaces or patterns", all.len())
            }
        }
    };
    let (flux, plain) = (judged("flux", |it| it.flux), judged("plain", |it| it.plain));
    verdict::clean(&format!("Kubernetes {version} answers; {flux}, {plain}"))
}

fn warnings(findings: &Findings, permissions: &[ScopePermissions], now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    if findings.flux_installed == Some(false) {
        warnings.push(
            "Flux's HelmRelease (helm.toolkit.fluxcd.io/v2) is not installed in the cluster, so helmType flux \
             can't be judged; install Flux 2.3 or newer where it is used"
                .to_owned(),
        );
    }
    let denied = (Permission::Denied, Permission::Denied);
    let neither = permissions.iter().filter(|it| (it.flux, it.plain) == denied);
    let neither: Vec<_> = neither.map(|it| it.namespace.clone()).collect();
    if !neither.is_empty() {
        warnings.push(format!(
            "neither helmType can be judged{}; apply the guide's manifests, or bind their role to this account",
            within(&neither)
        ));
    }
    if minor(&findings.kubernetes_version).is_some_and(|is| is < OLDEST) {
        warnings.push(format!(
            "the API server is {}, older than {}.{}, which the first Flux with HelmRelease v2 (2.3) needs",
            findings.kubernetes_version, OLDEST.0, OLDEST.1
        ));
    }
    if let Some(end) = findings.server_certificate_not_after
        && end.duration_since(now) <= WARN_BEFORE
    {
        let when = match end.duration_since(now).as_hours() / 24 {
            _ if end <= now => format!("expired at {end}; renew it"),
            0 => format!("expires at {end}, in less than a day; renew it before"),
            1 => format!("expires at {end}, in a day; renew it before"),
            days => format!("expires at {end}, in {days} days; renew it before"),
        };
        warnings.push(format!("the API server's certificate {when}"));
    }
    excess(&findings.scopes, &mut warnings);
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - (MAX_WARNINGS - 1);
        warnings.truncate(MAX_WARNINGS - 1);
        warnings.push(format!("and {more} more of that kind"));
    }
    warnings.iter().map(|warning| verdict::clean(warning)).collect()
}

/// The permissions beyond the need, a warning for each resource.
fn excess(scopes: &[Scope], warnings: &mut Vec<String>) {
    let mut admin = Vec::new();
    // By what may be done, where: a permission in forty namespaces is one warning.
    let mut places: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for scope in scopes {
        let rules = scope.rules.as_ref().map_or(&[][..], |rules| &rules.resources);
        if scope.beyond.iter().any(|it| it == "* *.*") || rules.iter().any(is_everything) {
            admin.push(scope.namespace.clone());
            continue;
        }
        for (resource, verbs) in beyond_need(&scope.beyond, rules) {
            let verbs = if verbs.contains("*") {
                "do everything with".to_owned()
            } else {
                listed(verbs.iter().map(String::as_str))
            };
            places.entry(format!("{verbs} {resource}")).or_default().push(scope.namespace.clone());
        }
    }
    if !admin.is_empty() {
        warnings.push(format!(
            "the account is cluster-admin{}, or as good as that: whoever has the token can do everything, where \
             dag-monitor needs only to get helmreleases and to list secrets; bind the guide's role instead",
            within(&admin)
        ));
    }
    for (may, scopes) in places {
        warnings.push(format!("the account may {may}{}, which dag-monitor does not need", within(&scopes)));
    }
}

fn is_everything(rule: &Rule) -> bool {
    let all = |list: &[String]| list.iter().any(|it| it == "*");
    all(&rule.verbs) && all(&rule.api_groups) && all(&rule.resources) && rule.resource_names.is_empty()
}

/// The verbs beyond the need, by resource as it is told.
fn beyond_need(beyond: &[String], rules: &[Rule]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for permission in beyond {
        if let Some((verb, resource)) = permission.split_once(' ') {
            found.entry(resource.to_owned()).or_default().insert(verb.to_owned());
        }
    }
    let pairs = rules.iter().flat_map(|rule| {
        let groups = rule.api_groups.iter();
        groups.flat_map(move |group| rule.resources.iter().map(move |resource| (rule, group, resource)))
    });
    for (rule, group, resource) in pairs.take(MAX_PAIRS) {
        let needed = |verb: &&String| NEEDED.contains(&(verb.as_str(), group.as_str(), resource.as_str()));
        let verbs: BTreeSet<_> = rule.verbs.iter().filter(|verb| !needed(verb)).cloned().collect();
        if !verbs.is_empty() {
            found.entry(named(group, resource, &rule.resource_names)).or_default().extend(verbs);
        }
    }
    found
}

/// As `kubectl` writes it: `deployments.apps`.
fn named(group: &str, resource: &str, names: &[String]) -> String {
    let resource = match (resource, group) {
        ("*", "*") => "all resources".to_owned(),
        ("*", "") => "all resources of the core group".to_owned(),
        ("*", group) => format!("all resources of {group}"),
        (resource, "") => resource.to_owned(),
        (resource, "*") => format!("{resource} of every group"),
        (resource, group) => format!("{resource}.{group}"),
    };
    if names.is_empty() {
        resource
    } else {
        format!("{resource} named {}", listed(names.iter().map(String::as_str)))
    }
}

fn listed<'a>(words: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = words.len().saturating_sub(SHOWN);
    let shown = words.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Where, as a part of a sentence; nothing for all namespaces.
fn within(scopes: &[Option<String>]) -> String {
    let names: Vec<_> = scopes.iter().flatten().map(String::as_str).collect();
    if names.len() < scopes.len() { String::new() } else { format!(" in {}", listed(names.into_iter())) }
}

/// Major and minor of a `gitVersion`, whatever a vendor has put behind them. One that
/// was built from no tag calls itself `v0.0.0`, which tells nothing.
fn minor(version: &str) -> Option<(u32, u32)> {
    let version = version.trim();
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = parts.next()?.parse().ok().filter(|major| *major > 0)?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T00:00:00Z".parse().unwrap()
    }

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Rule {
            verbs: owned(verbs),
            api_groups: owned(groups),
            resources: owned(resources),
            resource_names: Vec::new(),
        }
    }

    fn scope(namespace: Option<&str>, rules: Vec<Rule>) -> Scope {
        Scope {
            namespace: namespace.map(str::to_owned),
            get_helm_releases: Permission::Allowed,
            list_secrets: Permission::Allowed,
            beyond: Vec::new(),
            rules: Some(Rules { resources: rules, incomplete: false }),
        }
    }

    /// The guide's account, with what every account may do.
    fn guide() -> Vec<Rule> {
        let reviews = &["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
        vec![
            rule(&["list"], &[""], &["secrets"]),
            rule(&["get"], &["helm.toolkit.fluxcd.io"], &["helmreleases"]),
            rule(&["get"], &["kustomize.toolkit.fluxcd.io"], &["kustomizations"]),
            rule(&["create"], &["authorization.k8s.io"], reviews),
            rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
        ]
    }

    fn found(scopes: Vec<Scope>) -> Findings {
        Findings {
            kubernetes_version: "v1.36.3".to_owned(),
            flux_installed: Some(true),
            server_certificate_not_after: "2027-11-24T00:00:00Z".parse().ok(),
            scopes,
        }
    }

    fn warned(scopes: Vec<Scope>) -> Vec<String> {
        LastProbe::of(&found(scopes), now()).warnings
    }

    fn more(rules: &[Rule]) -> Vec<Scope> {
        vec![scope(None, guide().into_iter().chain(rules.iter().cloned()).collect())]
    }

    #[test]
    fn the_guides_account_is_told_without_a_warning() {
        let probe = LastProbe::of(&found(vec![scope(None, guide())]), now());
        assert_eq!(probe.warnings, Vec::<String>::new());
        assert_eq!(
            probe.message,
            "Kubernetes v1.36.3 answers; flux can be judged in all namespaces, plain can be judged in all \
             namespaces"
        );
        assert_eq!((probe.at, probe.reason), (now(), None));
        let both =
            ScopePermissions { namespace: None, flux: Permission::Allowed, plain: Permission::Allowed };
        assert_eq!(probe.permissions, [both]);
        let mut incomplete = scope(None, guide());
        incomplete.rules.as_mut().unwrap().incomplete = true;
        assert!(warned(vec![incomplete]).is_empty(), "a list that isn't whole is no warning");
        let mut named = guide();
        named[0].resource_names = vec!["one".to_owned()];
        assert!(warned(vec![scope(Some("shop"), named)]).is_empty(), "less than the need");
    }

    #[test]
    fn each_permission_beyond_the_need_is_a_warning() {
        let flux = "helm.toolkit.fluxcd.io";
        for (rule, told) in [
            (rule(&["get"], &[""], &["secrets"]), "the account may get secrets, which dag-monitor"),
            (rule(&["list", "watch"], &[""], &["secrets"]), "may watch secrets,"),
            (rule(&["patch", "create"], &[""], &["secrets"]), "may create, patch secrets,"),
            (rule(&["list"], &[flux], &["helmreleases"]), "may list helmreleases.helm.toolkit.fluxcd.io,"),
            (rule(&["get"], &[""], &["helmreleases"]), "may get helmreleases,"),
            (rule(&["get"], &["*"], &["helmreleases"]), "may get helmreleases of every group,"),
            (rule(&["*"], &[""], &["secrets"]), "may do everything with secrets,"),
            (rule(&["get"], &[""], &["*"]), "may get all resources of the core group,"),
            (rule(&["get", "list"], &["*"], &["*"]), "may get, list all resources,"),
            (rule(&["create"], &[""], &["pods/exec"]), "may create pods/exec,"),
            (rule(&["delete"], &["apps"], &["deployments"]), "may delete deployments.apps,"),
            (rule(&["*"], &["apps"], &["*"]), "may do everything with all resources of apps,"),
            (
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
                "may create subjectaccessreviews.authorization.k8s.io,",
            ),
        ] {
            let warnings = warned(more(&[rule]));
            assert!(matches!(&warnings[..], [one] if one.contains(told)), "{told}: {warnings:?}");
        }
        let mut named = rule(&["get"], &[""], &["secrets"]);
        named.resource_names = vec!["a".to_owned(), "b".to_owned()];
        assert!(warned(more(&[named]))[0].contains("get secrets named a, b,"));
    }

    #[test]
    fn what_was_asked_one_by_one_and_the_rules_are_told_once() {
        let mut scopes = more(&[rule(&["create", "get"], &[""], &["pods"])]);
        scopes[0].beyond = vec!["create pods".to_owned(), "create pods/exec".to_owned()];
        let told = [
            "the account may create pods/exec, which dag-monitor does not need",
            "the account may create, get pods, which dag-monitor does not need",
        ];
        assert_eq!(warned(scopes.clone()), told);
        scopes[0].rules = None;
        assert_eq!(warned(scopes).len(), 2, "the rules are not needed for that");
    }

    #[test]
    fn cluster_admin_is_named_and_the_rest_is_not() {
        let all = rule(&["*"], &["*"], &["*"]);
        let by_rule = warned(more(&[all.clone(), rule(&["create"], &[""], &["pods"])]));
        let told = "the account is cluster-admin, or";
        assert!(matches!(&by_rule[..], [one] if one.starts_with(told)), "{by_rule:?}");
        let mut asked = scope(Some("shop"), guide());
        asked.beyond = vec!["* *.*".to_owned(), "create pods".to_owned()];
        let by_answer = warned(vec![asked]);
        let told = "cluster-admin in shop,";
        assert!(matches!(&by_answer[..], [one] if one.contains(told)), "{by_answer:?}");
        let mut only_named = all;
        only_named.resource_names = vec!["x".to_owned()];
        assert!(warned(more(&[only_named]))[0].contains("do everything with all resources named x"));
    }

    #[test]
    fn one_permission_in_many_namespaces_is_one_warning() {
        let pods = || vec![rule(&["create"], &[""], &["pods"])];
        let names: Vec<String> = (0..12).map(|n| format!("team-{n}")).collect();
        let warnings = warned(names.iter().map(|name| scope(Some(name), pods())).collect());
        let [one] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(one.contains("create pods in team-0, team-1") && one.contains("and 4 more,"), "{one}");
    }

    #[test]
    fn warnings_are_bounded_and_the_rest_is_counted() {
        let many: Vec<Rule> = (0..500).map(|n| rule(&["get"], &[""], &[&format!("kind{n:03}")])).collect();
        let warnings = warned(more(&many));
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert_eq!(warnings.last().unwrap(), "and 481 more of that kind");
        let wide = rule(&["get"; 300], &["a"; 300], &["b"; 300]);
        assert_eq!(warned(more(&vec![wide; 100])).len(), 1);
    }

    #[test]
    fn a_cluster_without_flux_can_only_judge_plain() {
        let mut findings = found(vec![scope(None, guide())]);
        findings.flux_installed = Some(false);
        let probe = LastProbe::of(&findings, now());
        let [only] = &probe.permissions[..] else { panic!("{probe:?}") };
        assert_eq!((only.flux, only.plain), (Permission::Denied, Permission::Allowed));
        assert!(
            matches!(&probe.warnings[..], [one] if one.contains("not installed")),
            "{:?}",
            probe.warnings
        );
        assert!(probe.message.contains("flux can't be judged, plain can be judged"), "{}", probe.message);
        findings.flux_installed = None;
        let probe = LastProbe::of(&findings, now());
        assert!(probe.permissions[0].flux == Permission::Allowed && probe.warnings.is_empty());
    }

    #[test]
    fn neither_helm_type_is_a_warning_where_it_is() {
        let mut denied = scope(Some("shop"), Vec::new());
        (denied.get_helm_releases, denied.list_secrets) = (Permission::Denied, Permission::Denied);
        let mut unknown = scope(Some("team-*"), Vec::new());
        (unknown.get_helm_releases, unknown.list_secrets) = (Permission::Unknown, Permission::Denied);
        let unasked = LastProbe::of(&found(vec![unknown.clone()]), now());
        assert!(unasked.message.ends_with("whether flux can be judged is not known, plain can't be judged"));
        let probe = LastProbe::of(&found(vec![denied, unknown, scope(Some("web"), guide())]), now());
        assert!(
            matches!(&probe.warnings[..], [one] if one.contains("judged in shop;")),
            "{:?}",
            probe.warnings
        );
        assert_eq!(
            probe.message,
            "Kubernetes v1.36.3 answers; flux can be judged in 1 of 3 namespaces or patterns, plain can be judged \
             in 1 of 3 namespaces or patterns"
        );
    }

    #[test]
    fn an_api_server_older_than_flux_needs_is_a_warning_whatever_its_vendor_appends() {
        for (version, old) in [
            ("v1.36.3", false),
            ("v1.28.0", false),
            ("v1.27.16", true),
            ("v1.33.1-eks-1234567", false),
            ("v1.27.3+k3s1", true),
            ("v1.30.5-gke.1", false),
            ("v1.27+", true),
            ("1.9", true),
            ("v2.0.0", false),
            ("v1.28.2-rc.1+rke2r1", false),
            ("v0.0.0-master+$Format:%H$", false),
            ("", false),
            ("unknown", false),
            ("v1", false),
            ("v1.x", false),
            ("v1.99999999999999999999", false),
        ] {
            let mut findings = found(vec![scope(None, guide())]);
            findings.kubernetes_version = version.to_owned();
            let warnings = LastProbe::of(&findings, now()).warnings;
            assert_eq!(warnings.iter().any(|it| it.contains("older than 1.28")), old, "{version}");
        }
    }

    #[test]
    fn a_server_certificate_that_ends_soon_is_a_warning() {
        for (end, told) in [
            ("2026-12-24T00:00:00Z", Some("in 30 days")),
            ("2026-12-24T00:00:01Z", None),
            ("2026-11-25T12:00:00Z", Some("in a day")),
            ("2026-11-24T12:00:00Z", Some("less than a day")),
            ("2026-11-24T00:00:00Z", Some("expired at")),
            ("2020-01-01T00:00:00Z", Some("expired at")),
        ] {
            let mut findings = found(vec![scope(None, guide())]);
            findings.server_certificate_not_after = end.parse().ok();
            let probe = LastProbe::of(&findings, now());
            assert_eq!(probe.server_certificate_not_after, end.parse().ok());
            match told {
                None => assert!(probe.warnings.is_empty(), "{end}: {:?}", probe.warnings),
                Some(told) => assert!(probe.warnings[0].contains(told), "{end}: {:?}", probe.warnings),
            }
        }
    }

    #[test]
    fn a_failed_probe_keeps_its_reason_and_what_to_do() {
        let failure = ProbeFailure {
            reason: ProbeReason::DnsFailed,
            detail: "the name x can't be resolved".to_owned(),
            help: "see whether it is spelled right".to_owned(),
        };
        let probe = LastProbe::failed(&failure, now());
        assert_eq!(probe.reason, Some(ProbeReason::DnsFailed));
        assert_eq!(probe.message, "the name x can't be resolved; see whether it is spelled right");
        assert!(
            probe.permissions.is_empty() && probe.warnings.is_empty() && probe.kubernetes_version.is_none()
        );
    }
}
