//! The guide's manifests (`infra/kubernetes`): the account in a cluster that dag-monitor
//! enters it by.

use std::{
    io,
    process::{ExitStatus, Stdio},
};

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::cli::{Register, Rights};

pub(crate) const NAMESPACE: &str = "dag-monitor";
/// The Secret that the cluster puts the account's token into.
pub(crate) const SECRET: &str = "dag-monitor-token";

const BASE: [&str; 2] = [
    include_str!("../../kubernetes/base/namespace.yaml"),
    include_str!("../../kubernetes/base/service-account.yaml"),
];
const TOKEN: &str = include_str!("../../kubernetes/base/token.yaml");
const CLUSTER_ROLE: &str = include_str!("../../kubernetes/base/cluster-role.yaml");
const CLUSTER_ROLE_BINDING: &str = include_str!("../../kubernetes/base/cluster-role-binding.yaml");
/// Of the namespace `shop`, as an example.
const NAMESPACED: &str = include_str!("../../kubernetes/overlays/namespaced/rights.yaml");

/// The manifests, as one YAML text. The overlays are patches for `kubectl apply -k`; what
/// they make of the base is made here from the same texts.
///
/// # Errors
/// A sentence where the namespaces are none that a Role can be made for.
pub(crate) fn manifests(rights: Rights, namespaces: &[String]) -> Result<String, String> {
    let mut documents: Vec<String> = BASE.map(str::to_owned).to_vec();
    match rights {
        Rights::Cluster => documents.extend([CLUSTER_ROLE, CLUSTER_ROLE_BINDING].map(str::to_owned)),
        Rights::FluxOnly => {
            documents.extend([without_secrets(CLUSTER_ROLE), CLUSTER_ROLE_BINDING.to_owned()]);
        }
        Rights::Namespaced => {
            if namespaces.is_empty() {
                return Err("--rights namespaced needs the namespaces, as -n shop -n pay".to_owned());
            }
            for namespace in namespaces {
                if !monitor::request::is_label(namespace) {
                    return Err(format!(
                        "--rights namespaced makes a Role in each namespace of -n, and {namespace:?} is no namespace's \
                         name"
                    ));
                }
                documents.push(NAMESPACED.replace("namespace: shop\n", &format!("namespace: {namespace}\n")));
            }
        }
    }
    documents.push(TOKEN.to_owned());
    Ok(documents.iter().map(|it| it.trim()).collect::<Vec<_>>().join("\n---\n") + "\n")
}

/// A ClusterRole without its rule on secrets, and what is said of that.
fn without_secrets(role: &str) -> String {
    let (head, rules) = role.split_once("rules:\n").unwrap_or((role, ""));
    let flux = rules.find("  - apiGroups: [helm.toolkit.fluxcd.io]").map_or("", |at| &rules[at..]);
    format!("{head}rules:\n{flux}")
}

/// Applies the manifests by `kubectl`, with the kubeconfig and the context that are
/// registered. By kubectl, because whoever may make ClusterRoles has it, because the guide
/// goes on with `kubectl apply -k`, and two ways of applying would each claim the fields,
/// and because it says what it does in words that people know.
///
/// # Errors
/// A sentence that says what to do.
pub(crate) async fn apply(arguments: &Register, context: &str, manifests: &str) -> Result<(), String> {
    let mut command = Command::new("kubectl");
    command.args(["apply", "-f", "-", "--context", context]);
    if let Some(path) = &arguments.kubeconfig {
        command.arg("--kubeconfig").arg(path);
    }
    // The standard output is for what the API answers.
    command.stdin(Stdio::piped()).stdout(Stdio::from(io::stderr())).kill_on_drop(true);
    match applied(command, manifests).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "kubectl could not apply the manifests ({status}); your account must be allowed to make namespaces and \
             roles. Or have somebody else apply them: kubectl apply -k infra/kubernetes"
        )),
        Err(error) => Err(format!(
            "kubectl can't be run ({error}), and the manifests are applied by it; install it, or apply them otherwise"
        )),
    }
}

async fn applied(mut command: Command, manifests: &str) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why itself.
        let _ = stdin.write_all(manifests.as_bytes()).await;
    }
    child.wait().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(manifests: &str) -> Vec<&str> {
        manifests.lines().filter_map(|line| line.strip_prefix("kind: ")).collect()
    }

    #[test]
    fn each_kind_of_rights_has_its_manifests_the_token_last() {
        let all = manifests(Rights::Cluster, &[]).unwrap();
        let whole = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Secret"];
        assert_eq!(kinds(&all), whole);
        assert_eq!(all.matches("\n---\n").count(), 4);
        assert!(all.contains("    resources: [secrets]\n    verbs: [list]\n"), "{all}");

        let flux = manifests(Rights::FluxOnly, &["team-*".to_owned()]).unwrap();
        assert_eq!(kinds(&flux), whole);
        assert!(!flux.contains("resources: [secrets]"), "{flux}");
        let role = "  name: dag-monitor\nrules:\n  - apiGroups: [helm.toolkit.fluxcd.io]\n    resources: \
                    [helmreleases]\n    verbs: [get]\n---\n";
        assert!(flux.contains(role), "{flux}");

        let two = manifests(Rights::Namespaced, &["pay".to_owned(), "shop".to_owned()]).unwrap();
        assert_eq!(
            kinds(&two),
            ["Namespace", "ServiceAccount", "Role", "RoleBinding", "Role", "RoleBinding", "Secret"]
        );
        assert_eq!(
            (two.matches("namespace: pay\n").count(), two.matches("namespace: shop\n").count()),
            (2, 2)
        );
        for (namespaces, named) in [(&[][..], "-n shop"), (&["team-*".to_owned()], "team-*")] {
            let told = manifests(Rights::Namespaced, namespaces).unwrap_err();
            assert!(told.contains(named), "{told}");
        }
    }
}
