//! What the service account may do, and the words of who may not.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Answer;

/// The group that Flux's HelmRelease is in.
pub(crate) const FLUX: &str = "helm.toolkit.fluxcd.io";

const REVIEWS: &str = "authorization.k8s.io";

/// One rule of a Role or ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// API groups; the core group is empty, `*` is all.
    pub api_groups: Vec<String>,
    /// Resources in the plural; `*` is all, `pods/exec` a subresource, `*/scale` one
    /// of any resource.
    pub resources: Vec<String>,
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// The namespaces in which a Role grants it; `None`: a ClusterRole, everywhere.
    #[serde(default)]
    pub namespaces: Option<Vec<String>>,
    /// Only objects of these names, where there are any.
    #[serde(default)]
    pub resource_names: Vec<String>,
}

impl Rule {
    /// Everywhere.
    #[must_use]
    pub fn new(api_groups: &[&str], resources: &[&str], verbs: &[&str]) -> Self {
        let owned = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect();
        Self {
            api_groups: owned(api_groups),
            resources: owned(resources),
            verbs: owned(verbs),
            namespaces: None,
            resource_names: Vec::new(),
        }
    }

    /// The same in these namespaces alone.
    #[must_use]
    pub fn within(mut self, namespaces: &[&str]) -> Self {
        self.namespaces = Some(namespaces.iter().map(|it| (*it).to_owned()).collect());
        self
    }

    /// The same for objects of these names alone.
    #[must_use]
    pub fn named(mut self, names: &[&str]) -> Self {
        self.resource_names = names.iter().map(|it| (*it).to_owned()).collect();
        self
    }

    /// Everything: the rule of the ClusterRole `cluster-admin`.
    #[must_use]
    pub fn cluster_admin() -> Self {
        Self::new(&["*"], &["*"], &["*"])
    }

    /// `list secrets`, of the guide's ClusterRole.
    #[must_use]
    pub fn list_secrets() -> Self {
        Self::new(&[""], &["secrets"], &["list"])
    }

    /// `get helmreleases`, of the guide's ClusterRole.
    #[must_use]
    pub fn get_helm_releases() -> Self {
        Self::new(&[FLUX], &["helmreleases"], &["get"])
    }

    /// The guide's ClusterRole.
    #[must_use]
    pub fn guide() -> Vec<Self> {
        vec![Self::list_secrets(), Self::get_helm_releases()]
    }

    fn allows(&self, asked: &Asked) -> bool {
        let one_of = |list: &[String], it: &str| list.iter().any(|each| each == "*" || each == it);
        // As Kubernetes' `ResourceMatches` (pkg/apis/rbac/v1/evaluation_helpers.go).
        let resource = if asked.subresource.is_empty() {
            one_of(&self.resources, &asked.resource)
        } else {
            one_of(&self.resources, &format!("{}/{}", asked.resource, asked.subresource))
                || self.resources.contains(&format!("*/{}", asked.subresource))
        };
        one_of(&self.verbs, &asked.verb)
            && one_of(&self.api_groups, &asked.group)
            && resource
            && (self.resource_names.is_empty() || self.resource_names.contains(&asked.name))
            && self.namespaces.as_ref().is_none_or(|list| list.contains(&asked.namespace))
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    ServiceAccount { namespace: String, name: String },
    Anonymous,
}

impl User {
    fn name(&self) -> String {
        match self {
            Self::ServiceAccount { namespace, name } => format!("system:serviceaccount:{namespace}:{name}"),
            Self::Anonymous => "system:anonymous".to_owned(),
        }
    }
}

/// What somebody wants to do. Empty where it does not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// The reason why it is allowed, as a review gives it; `None` where it is not.
pub(crate) fn allowed(rules: &[Rule], user: &User, asked: &Asked) -> Option<String> {
    let User::ServiceAccount { namespace, name } = user else { return None };
    // Any authenticated account may ask what it may do.
    if asked.group == REVIEWS
        && asked.verb == "create"
        && matches!(asked.resource.as_str(), "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
    {
        let role = "system:basic-user";
        return Some(format!(
            "RBAC: allowed by ClusterRoleBinding \"{role}\" of ClusterRole \"{role}\" to Group \"system:authenticated\""
        ));
    }
    let rule = rules.iter().find(|it| it.allows(asked))?;
    let binding = match &rule.namespaces {
        None => format!("ClusterRoleBinding \"{name}\" of ClusterRole"),
        Some(_) => format!("RoleBinding \"{name}/{}\" of Role", asked.namespace),
    };
    Some(format!("RBAC: allowed by {binding} \"{name}\" to ServiceAccount \"{name}/{namespace}\""))
}

/// Whether anybody may get a path that is no resource.
pub(crate) fn is_public(path: &str) -> bool {
    matches!(path.trim_end_matches('/'), "/version" | "/healthz" | "/livez" | "/readyz")
}

/// The answer to who may not.
pub(crate) fn forbidden(user: &User, asked: &Asked) -> Answer {
    let resource = qualified(&asked.group, &asked.resource);
    let name = if asked.name.is_empty() { String::new() } else { format!(" \"{}\"", asked.name) };
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let mut resource_asked = asked.resource.clone();
    if !asked.subresource.is_empty() {
        resource_asked = format!("{resource_asked}/{}", asked.subresource);
    }
    let message = format!(
        "{resource}{name} is forbidden: User \"{}\" cannot {} resource \"{resource_asked}\" in API group \"{}\" {place}",
        user.name(),
        asked.verb,
        asked.group,
    );
    Answer::status(403, "Forbidden", &message, Some(details(asked)))
}

/// The answer to who may not get a path that is no resource.
pub(crate) fn forbidden_path(user: &User, verb: &str, path: &str) -> Answer {
    let message = format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name());
    Answer::status(403, "Forbidden", &message, Some(json!({})))
}

/// The answer where there is no such object.
pub(crate) fn not_found(asked: &Asked) -> Answer {
    let message = format!("{} \"{}\" not found", qualified(&asked.group, &asked.resource), asked.name);
    Answer::status(404, "NotFound", &message, Some(details(asked)))
}

/// The answer to a SelfSubjectAccessReview.
pub(crate) fn access_review(rules: &[Rule], user: &User, body: &[u8]) -> Answer {
    let Some(review) = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object) else {
        return Answer::bad_request(
            "the object provided is unrecognized (must be of type SelfSubjectAccessReview)",
        );
    };
    let spec = &review["spec"];
    let reason = if let Some(path) = spec.pointer("/nonResourceAttributes/path").and_then(Value::as_str) {
        is_public(path)
            .then(|| "RBAC: allowed by ClusterRoleBinding \"system:public-info-viewer\"".to_owned())
    } else {
        let attributes = spec["resourceAttributes"].clone();
        let Some(asked) = serde_json::from_value::<Asked>(attributes).ok() else {
            let message = "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: \
                           Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Answer::status(422, "Invalid", message, None);
        };
        allowed(rules, user, &asked)
    };
    let status = match reason {
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    };
    Answer::json(
        201,
        &json!({
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": spec,
            "status": status,
        }),
    )
}

/// The answer to a SelfSubjectRulesReview.
pub(crate) fn rules_review(rules: &[Rule], body: &[u8]) -> Answer {
    let review: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(namespace) =
        review.pointer("/spec/namespace").and_then(Value::as_str).filter(|it| !it.is_empty())
    else {
        return Answer::bad_request("no namespace on request");
    };
    let mut resource_rules: Vec<Value> = rules
        .iter()
        .filter(|it| it.namespaces.as_ref().is_none_or(|list| list.iter().any(|each| each == namespace)))
        .map(|it| {
            let mut rule = json!({"verbs": it.verbs, "apiGroups": it.api_groups, "resources": it.resources});
            if !it.resource_names.is_empty() {
                rule["resourceNames"] = it.resource_names.as_slice().into();
            }
            rule
        })
        .collect();
    resource_rules.push(json!({
        "verbs": ["create"],
        "apiGroups": [REVIEWS],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    }));
    resource_rules.push(json!({
        "verbs": ["create"],
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["selfsubjectreviews"],
    }));
    let openid = [
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ];
    let public = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    Answer::json(
        201,
        &json!({
            "kind": "SelfSubjectRulesReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": {},
            "status": {
                "resourceRules": resource_rules,
                "nonResourceRules": [
                    {"verbs": ["get"], "nonResourceURLs": openid},
                    {"verbs": ["get"], "nonResourceURLs": public},
                    {"verbs": ["get"], "nonResourceURLs": discovery},
                ],
                "incomplete": false,
            },
        }),
    )
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(asked: &Asked) -> Value {
    let mut details = serde_json::Map::new();
    for (key, value) in [("name", &asked.name), ("group", &asked.group), ("kind", &asked.resource)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), value.as_str().into());
        }
    }
    details.into()
}
