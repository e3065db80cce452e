//! The commands that talk to the deployed API, as a person or a CI job starts them: the
//! real program, an AWS that looks at every signature, the real API behind it, and
//! simulated clusters over TLS.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of these tests are tests themselves")]

mod support;

use std::{fs, path::Path, process::Command};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    Served,
    front::{ACCOUNT, Fate, Front, KEY_ID, REGION, ROLE, SECRET, SESSION, SSO_TOKEN, STACK},
    program::{Ended, Folder, Program, Push, appear, kubeconfig, play, show, text, until},
};
use testkit::{Config, Logged, Rule, SimulatedCluster};

/// A person's token, which is not the one that is registered.
const PERSONAL: &str = "t0k3n-of-a-person";

/// A cluster whose guide was applied, and a person's kubeconfig for it.
struct World {
    front: Front,
    cluster: SimulatedCluster,
    folder: Folder,
    kubeconfig: String,
}

impl World {
    async fn new() -> Self {
        let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
        let personal = SecretString::from(PERSONAL);
        cluster.accept_tokens(vec![cluster.token(), personal]);
        let mut rules = Config::default().rules;
        rules.push(Rule::new(&[""], &["secrets"], &["get"]));
        cluster.set_rules(rules);
        let folder = Folder::new();
        let config = kubeconfig(&cluster, "prod-eu", &json!({"token": PERSONAL}));
        let kubeconfig = text(&folder.write("config", &config.to_string())).to_owned();
        Self { front: Front::start(), cluster, folder, kubeconfig }
    }

    /// The same, and the cluster is registered as `Prod EU`.
    async fn registered() -> Self {
        let world = Self::new().await;
        world.put_secret(&json!({"token": world.encoded()}));
        world.run(&["register", "Prod EU"]).with(0, &["prod-eu"], &[]);
        world
    }

    fn token(&self) -> String {
        self.cluster.token().expose_secret().to_owned()
    }

    fn encoded(&self) -> String {
        BASE64_STANDARD.encode(self.token())
    }

    /// What the guide's Secret holds.
    fn put_secret(&self, data: &Value) {
        let name = "dag-monitor-token";
        let secret = json!({
            "metadata": {"name": name, "namespace": "dag-monitor"}, "data": data,
            "type": "kubernetes.io/service-account-token",
        });
        self.cluster.put_secrets("dag-monitor", name, vec![secret]);
    }

    fn start(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Program {
        Program::start(arguments, |command| {
            command.envs([
                ("AWS_ENDPOINT_URL", self.front.url().as_str()),
                ("AWS_ACCESS_KEY_ID", KEY_ID),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
                ("AWS_REGION", REGION),
                ("AWS_EC2_METADATA_DISABLED", "true"),
                ("DAG_MONITOR_STACK", STACK),
                ("KUBECONFIG", &self.kubeconfig),
            ]);
            change(command);
        })
    }

    /// Runs it to its end; no secret is shown, whatever happens.
    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, |_| ())
    }

    fn run_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Ended {
        self.start(arguments, change).end().without(&[&self.token(), &self.encoded(), PERSONAL, SECRET])
    }

    /// A release that is as it was after its upgrade, and a run that judges it as it is.
    fn judged<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        show(&self.cluster, Push::After);
        let run = ["run", "--target", "Prod EU/shop/checkout", "--allow-unchanged", "--timeout", "30s"];
        [&run[..], more].concat()
    }

    async fn end(self) {
        self.cluster.shutdown().await;
    }
}

const KEYS: &[&str] = &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

fn without(names: &'static [&'static str]) -> impl Fn(&mut Command) {
    move |command| {
        for name in names {
            command.env_remove(name);
        }
    }
}

fn variable<'a>(name: &'a str, value: &'a str) -> impl FnOnce(&mut Command) + use<'a> {
    move |command| {
        command.env(name, value);
    }
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_registered_used_and_removed() {
    let world = World::new().await;
    world.put_secret(&json!({"token": world.encoded(), "ca.crt": "x"}));
    let ended = world.run(&["register", "Prod EU", "-n", "shop", "--namespace", "team-*"]);
    let shown =
        ["Name:        Prod EU", "prod-eu", &world.cluster.api_url(), "shop, team-*", "Last probe:", "ok,"];
    let ended = ended.with(0, &shown, &[]);
    for words in ["NAMESPACE  FLUX  PLAIN", "shop       yes   yes", "Warning: "] {
        assert!(ended.out.contains(words), "{words}: {}", ended.out);
    }
    let asked = world.front.asked("POST /clusters");
    assert_eq!(asked.len(), 1);
    let body = &asked[0].body;
    assert_eq!(
        (body["name"].as_str(), body["serviceAccountToken"].as_str()),
        (Some("Prod EU"), Some(&*world.token()))
    );
    assert_eq!(body["apiUrl"], world.cluster.api_url());
    assert!(body["caCert"].as_str().unwrap().contains("BEGIN CERTIFICATE"));

    // The context's name is the cluster's, and the API's answer is there for programs.
    let ended = world.run(&["register", "--context", "prod-eu", "--no-probe", "-o", "json"]);
    let ended = ended.with(3, &[], &["belongs to a registered cluster", "--replace"]);
    assert_eq!(ended.out, "");
    let ended = world.run(&["register", "--replace", "-o", "json"]).with(0, &[], &[]);
    assert_eq!(object(&ended.out)["id"], "prod-eu");
    let put = world.front.asked("PUT /clusters/prod-eu").remove(0).body;
    assert!(
        put["serviceAccountToken"].is_string() && put.get("name").is_none() && put["tlsServerName"].is_null()
    );
    let queries: Vec<_> = world.front.asked("POST /clusters").into_iter().map(|it| it.query).collect();
    assert_eq!(queries, ["", "probe=false", ""]);

    let listed = world.run(&["clusters", "list"]).with(0, &["NAME     ID       API SERVER"], &[]);
    assert!(listed.out.contains("Prod EU  prod-eu  https://127.0.0.1:"), "{}", listed.out);
    world.run(&["clusters", "show", "Prod EU"]).with(0, &["Prod EU", "CA:", "Token ends:"], &[]);
    let probed = world.run(&["clusters", "probe", "prod-eu", "-o", "json"]).with(0, &[], &[]);
    assert_eq!(object(&probed.out)["lastProbe"]["ok"], true);
    world.run(&["clusters", "show", "other"]).with(3, &[], &["There is no such cluster"]);

    let set = [
        "environments",
        "set",
        "checkout",
        "production",
        "--target",
        "Prod EU/shop/checkout",
        "--timeout",
        "60s",
    ];
    world.run(&set).with(0, &["Targets:      Prod EU/shop/checkout", "60 s"], &[]);
    world.run(&["environments", "list", "checkout"]).with(0, &["production   flux       1        60 s"], &[]);
    let shown =
        world.run(&["environments", "show", "checkout", "production", "-o", "json"]).with(0, &[], &[]);
    assert_eq!(object(&shown.out)["targets"][0]["release"], "checkout");
    world.run(&["environments", "list", "nothing"]).with(0, &[], &["There are no environments."]);
    world.run(&["clusters", "delete", "Prod EU", "--yes"]).with(3, &[], &["Environments name the cluster"]);

    show(&world.cluster, Push::After);
    let run = ["run", "--app", "checkout", "--environment", "production", "--allow-unchanged"];
    for id in ["checkout-1", "checkout-2", "checkout-3"] {
        let execution = format!("Its execution: arn:aws:states:eu-central-1:1:execution:m:{id}");
        let started = format!("Started the deployment {id} at http");
        let said = [&*started, &*execution, "Prod EU/shop/checkout", "Deployed, after"];
        world.run(&[&run[..], &["--deployment-id", id]].concat()).with(0, &said, &[]);
    }
    let history = ["deployments", "list", "--app", "checkout", "--environment", "production"];
    let all = world.run(&history).with(0, &["checkout-1  succeeded", "checkout-3  succeeded"], &[]);
    assert!(all.out.find("checkout-3") < all.out.find("checkout-1"), "{}", all.out);
    // Page by page, as far as is asked for.
    let two = world.run(&[&history[..], &["--limit", "2", "-o", "json"]].concat());
    let two = two.with(0, &[], &["There are more; --limit"]);
    assert_eq!(object(&two.out)["deployments"].as_array().unwrap().len(), 2);
    let shown = world.run(&["deployments", "show", "checkout-2"]);
    let shown = shown.with(0, &["production of checkout", "succeeded, ", "✓ Prod EU/shop/checkout"], &[]);
    assert!(shown.out.contains("chart"), "{}", shown.out);
    let shown = world.run(&["deployments", "show", "checkout-2", "-o", "json"]).with(0, &[], &[]);
    assert_eq!(object(&shown.out)["status"], "succeeded");
    world.run(&["deployments", "show", "other"]).with(3, &[], &["There is no such deployment"]);

    // Nobody sits there who could be asked.
    world.run(&["environments", "delete", "checkout", "production"]).with(3, &[], &["--yes"]);
    world.run(&["environments", "delete", "checkout", "production", "-y"]).with(
        0,
        &["Deleted the environment"],
        &[],
    );
    world.run(&["clusters", "delete", "Prod EU"]).with(3, &[], &["--yes"]);
    world.run(&["clusters", "delete", "Prod EU", "--yes"]).with(0, &["Deleted Prod EU."], &[]);
    world.run(&["clusters", "list", "--limit", "5"]).with(0, &[], &["There are no clusters."]);
    world.end().await;
}

/// A `kubectl` that keeps what it is given, and ends so.
fn kubectl(folder: &Folder, code: u8) -> String {
    let [words, manifests] = ["words", "manifests"].map(|name| folder.0.join(name));
    let script = format!(
        "echo applied by kubectl; cat > {0}.part; echo \"$@\" > {1}; mv {0}.part {0}; exit {code}",
        manifests.display(),
        words.display()
    );
    let kubectl = folder.script(&format!("bin-{code}/kubectl"), &script);
    format!("{}:{}", kubectl.parent().unwrap().display(), std::env::var_os("PATH").unwrap().to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_manifests_are_shown_and_applied_where_they_are_missing() {
    let world = World::new().await;
    // Nobody sits there who could agree.
    let ended = world.run(&["register", "--rights", "namespaced", "-n", "shop", "-n", "pay"]);
    let shown = ["There is no Secret dag-monitor-token", "kind: RoleBinding", "namespace: pay", "--apply"];
    let ended = ended.with(3, &[], &shown);
    assert!(!ended.err.contains("ClusterRole") && ended.out.is_empty(), "{}", ended.err);
    assert!(world.front.asked("POST").is_empty());
    world.run(&["register", "--rights", "namespaced"]).with(3, &[], &["-n shop"]);

    // One that is not there, and one that may not.
    let nowhere = variable("PATH", "/nonexistent");
    world.run_with(&["register", "--apply"], nowhere).with(3, &[], &["kubectl can't be run", "install it"]);
    let path = kubectl(&world.folder, 1);
    let ended = world.run_with(&["register", "--apply"], variable("PATH", &path));
    ended.with(3, &[], &["could not apply", "your account must be allowed"]);
    assert!(world.front.asked("POST").is_empty());
    let manifests = world.folder.0.join("manifests");
    fs::remove_file(&manifests).unwrap();

    let path = kubectl(&world.folder, 0);
    let config = world.kubeconfig.clone();
    let arguments =
        ["register", "--yes", "--rights", "flux-only", "--kubeconfig", &config, "--context", "prod-eu"];
    let arguments = [&arguments[..], &["-o", "json"]].concat();
    let running = world.start(&arguments, variable("PATH", &path));
    appear(&manifests).await;
    // The Secret is there before the cluster has filled it in.
    world.put_secret(&json!({"ca.crt": "x"}));
    let token = json!({"token": world.encoded()});
    let is_found =
        |it: &Logged| it.status == Some(200) && it.path_and_query.ends_with("/secrets/dag-monitor-token");
    until(|| world.cluster.requests().iter().any(is_found)).await;
    world.put_secret(&token);
    let ended = running.end().without(&[&world.token(), &world.encoded(), PERSONAL]);
    let ended = ended.with(0, &[], &["There is no Secret", "kind: ClusterRole", "applied by kubectl"]);
    assert_eq!(object(&ended.out)["name"], "prod-eu");
    let words = fs::read_to_string(world.folder.0.join("words")).unwrap();
    assert_eq!(words, format!("apply -f - --context prod-eu --kubeconfig {config}\n"));
    let applied = fs::read_to_string(&manifests).unwrap();
    assert!(applied.contains("kind: Secret") && !applied.contains("resources: [secrets]"), "{applied}");
    assert!(ended.err.contains(applied.trim()), "what is applied is what was shown: {}", ended.err);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_cluster_from_being_registered_is_told() {
    let world = World::new().await;
    world.put_secret(&json!({"token": BASE64_STANDARD.encode("another-token")}));
    let ended = world.run(&["register"]).with(3, &[], &["The cluster can't be asked (Unauthorized)"]);
    assert!(ended.out.is_empty() && !ended.err.contains("another-token"), "{}", ended.err);
    world.run(&["register", "東京"]).with(3, &[], &["/name"]);
    world.run(&["register", "--context", "prod-us"]).with(3, &[], &["prod-us", "prod-eu"]);
    world.cluster.set_rules(Vec::new());
    world.run(&["register"]).with(3, &[], &["can't be read", "kubectl -n dag-monitor get secret"]);
    // The clusters of EKS are asked for by nobody on this machine; the request is what counts.
    let eks =
        ["register", "--eks-cluster", "prod", "--eks-role-arn", "arn:aws:iam::123456789012:role/dag-monitor"];
    world.run(&eks).with(3, &[], &["/auth/eks"]);
    let body = world.front.asked("POST /clusters").pop().unwrap().body;
    let auth = json!({"eks": {
        "clusterName": "prod", "region": REGION, "roleArn": "arn:aws:iam::123456789012:role/dag-monitor",
    }});
    assert_eq!(body, json!({"name": "prod", "auth": auth}));
    world.run(&["register", "--eks-cluster", "prod", "--eks-region", "us-east-1"]).with(3, &[], &[]);
    let body = world.front.asked("POST /clusters").pop().unwrap().body;
    assert_eq!(body["auth"]["eks"]["region"], "us-east-1");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_is_found_as_the_aws_cli_finds_it() {
    let world = World::new().await;
    let list = ["clusters", "list"];
    let none = "There are no clusters.";
    world.run(&list).with(0, &[], &[none]);
    world.run_with(&list, without(KEYS)).with(3, &[], &["no AWS credentials", "aws sso login"]);
    world.run_with(&list, without(&["AWS_REGION"])).with(3, &[], &["no AWS region", "--region"]);
    let region = [&list[..], &["--region", REGION]].concat();
    world.run_with(&region, without(&["AWS_REGION"])).with(0, &[], &[none]);
    // The front refuses what is signed for elsewhere.
    let elsewhere = [&list[..], &["--region", "us-east-1"]].concat();
    world.run(&elsewhere).with(3, &[], &["us-east-1", "ReaderPolicyArn"]);
    let wrong = || variable("AWS_SECRET_ACCESS_KEY", "another");
    world.run_with(&list, wrong()).with(3, &[], &["SignatureDoesNotMatch"]);
    let endpoint = format!("{}/v1", world.front.url());
    let at = [&list[..], &["--endpoint", &endpoint]].concat();
    world.run_with(&at, wrong()).with(
        3,
        &[],
        &["HTTP 403", "does not match", "ReaderPolicyArn", "get-caller-identity"],
    );
    for (stack, words) in
        [("other", ["there is no stack other in", "--stack"]), ("forbidden", ["AccessDenied", "--endpoint"])]
    {
        world.run(&[&list[..], &["--stack", stack]].concat()).with(3, &[], &words);
    }

    // A key is for this machine only, and takes the place of every AWS credential.
    let key = |command: &mut Command| {
        without(KEYS)(command);
        command.env("DAG_MONITOR_KEY", "k3y-0f-s3rv3").env("DAG_MONITOR_ENDPOINT", &endpoint);
    };
    world.run_with(&list, key).with(0, &[], &[none]).without(&["k3y-0f-s3rv3"]);
    assert_eq!(world.front.asked("GET /clusters").pop().unwrap().authorization, "Bearer k3y-0f-s3rv3");
    world.front.fate("GET /clusters", Fate::Answered(403, json!({"message": "another key"})));
    world.run_with(&list, key).with(3, &[], &["does not take the key", "DAG_MONITOR_KEY"]);
    // What answers is something else.
    world.front.fate("GET /clusters", Fate::Answered(200, json!({"hello": "world"})));
    world.run(&list).with(3, &[], &["can't be read"]);
    world.front.fate("GET /clusters", Fate::Closed { done: false });
    world.run(&list).with(3, &[], &["the API gave no answer"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_of_a_proxy_that_opens_tls_is_taken_from_a_file() {
    let world = World::new().await;
    let endpoint = format!("{}/v1", world.cluster.api_url());
    let list = ["clusters", "list", "--endpoint", &endpoint];
    world.run(&list).with(3, &[], &["the API gave no answer", "certificate"]);
    assert!(world.cluster.requests().is_empty());
    let file = |name, ca: &str| world.folder.write(name, ca);
    let (right, other) = (file("ca", world.cluster.ca_pem()), file("other", world.cluster.other_ca_pem()));
    world.run_with(&list, variable("SSL_CERT_FILE", text(&other))).with(3, &[], &["certificate"]);
    assert!(world.cluster.requests().is_empty());
    // What answers is no API, but it is asked.
    world.run_with(&list, variable("SSL_CERT_FILE", text(&right))).with(3, &[], &["HTTP 4"]);
    assert!(!world.cluster.requests().is_empty());
    world.end().await;
}

/// Each profile gives credentials that end, in its own way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_profile_that_the_aws_cli_knows_signs() {
    const LOGIN: &str = "arn:aws:sts::123456789012:assumed-role/Deployer/me";
    // The names of the AWS CLI's caches: the SHA-1 of the session's name, the SHA-256 of its ARN.
    const SSO_CACHE: &str = ".aws/sso/cache/34c6fceca75e456f25e7e99531e2425c6c1de443.json";
    let hash: String = Sha256::digest(LOGIN).iter().map(|byte| format!("{byte:02x}")).collect();
    let login_cache = format!(".aws/login/cache/{hash}.json");
    let world = World::new().await;
    let given = json!({
        "Version": 1, "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "SessionToken": SESSION,
        "Expiration": "2999-01-01T00:00:00Z",
    });
    let process = world.folder.script("process", &format!("echo '{given}'"));
    let sso = json!({"accessToken": SSO_TOKEN, "expiresAt": "2999-01-01T00:00:00Z"});
    world.folder.write(SSO_CACHE, &sso.to_string());
    let login = json!({
        "accessToken": {
            "accessKeyId": KEY_ID, "secretAccessKey": SECRET, "sessionToken": SESSION, "accountId": ACCOUNT,
            "expiresAt": "2999-01-01T00:00:00Z",
        },
        "tokenType": "aws_sigv4", "refreshToken": "r", "clientId": "arn:aws:signin:::devtools/same-device",
        "dpopKey": "only for a refresh",
    });
    world.folder.write(&login_cache, &login.to_string());
    let config = format!(
        "[profile process]\nregion = {REGION}\ncredential_process = {}\n\
         [sso-session dev]\nsso_region = {REGION}\nsso_start_url = https://dev.awsapps.com/start\n\
         [profile sso]\nregion = {REGION}\nsso_session = dev\nsso_account_id = {ACCOUNT}\nsso_role_name = {ROLE}\n\
         [profile login]\nregion = {REGION}\nlogin_session = {LOGIN}\n\
         [profile base]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n\
         [profile role]\nregion = {REGION}\nsource_profile = base\n\
         role_arn = arn:aws:iam::{ACCOUNT}:role/{ROLE}\n",
        process.display()
    );
    world.folder.write(".aws/config", &config);
    let at_home = |command: &mut Command| {
        without(KEYS)(command);
        command.env_remove("AWS_REGION").env("HOME", &world.folder.0);
    };
    let list = ["clusters", "list"];
    for (number, profile) in ["process", "sso", "login", "role"].into_iter().enumerate() {
        let option = [&list[..], &["--profile", profile]].concat();
        let none = "There are no clusters.";
        world.run_with(&option, at_home).with(0, &[], &[none]).without(&[SESSION, SSO_TOKEN]);
        let asked = world.front.asked("GET /clusters");
        assert_eq!(asked.len(), number + 1, "{profile}");
        assert_eq!(asked[number].session.as_deref(), Some(SESSION), "{profile}");
    }
    let chosen = |command: &mut Command| {
        at_home(command);
        command.env("AWS_PROFILE", "login");
    };
    world.run_with(&list, chosen).with(0, &[], &[]);
    let unknown = [&list[..], &["--profile", "play"]].concat();
    world.run_with(&unknown, at_home).with(3, &[], &["play", "--profile"]);
    // A session that has ended is somebody's to begin anew.
    world.folder.write(SSO_CACHE, "{}");
    let ended = [&list[..], &["--profile", "sso"]].concat();
    world.run_with(&ended, at_home).with(3, &[], &["no AWS credentials", "aws sso login"]);
    world.end().await;
}

/// `serve` itself, without anything between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_this_machine_is_asked_by_its_key() {
    let world = World::new().await;
    let served = Served::start(&["--allow-cidr", "127.0.0.0/8"]);
    served.register_simulated("Prod EU", &world.cluster).await;
    let endpoint = format!("http://{}", served.address);
    let list = |key: &str| {
        world.run_with(&["clusters", "list", "--endpoint", &endpoint], variable("DAG_MONITOR_KEY", key))
    };
    list(&served.key).with(0, &["Prod EU"], &[]).without(&[&served.key]);
    list("another").with(3, &[], &["DAG_MONITOR_KEY"]);
    // A variable that a pipeline left empty is none; what is none of an address is told with its name.
    let named = |value: &str| world.run_with(&["clusters", "list"], variable("DAG_MONITOR_ENDPOINT", value));
    named("").with(0, &[], &[]);
    named("nowhere").with(3, &[], &["DAG_MONITOR_ENDPOINT"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_starts_nothing_twice_and_a_dropped_connection_ends_nothing() {
    let world = World::registered().await;
    let unavailable = Fate::Answered(503, json!({"message": "Service Unavailable"}));
    for fate in [Fate::Closed { done: false }, unavailable, Fate::Closed { done: true }] {
        world.front.fate("POST /deployments", fate);
    }
    let ended = world.run(&world.judged(&[]));
    let told = ["the API gave no answer", "Service Unavailable; trying again"];
    let ended = ended.with(0, &["succeeded", "Deployed, after"], &told);
    assert!(!ended.out.contains("trying again"), "{}", ended.out);
    assert_eq!(world.front.fates_left(), 0);
    let starts = world.front.asked("POST /deployments");
    assert_eq!(starts.len(), 4);
    assert!(starts.iter().all(|it| it.body == starts[0].body), "{starts:?}");
    let id = starts[0].body["deploymentId"].as_str().unwrap();
    assert!(id.starts_with("checkout-") && ended.out.contains(id), "{id}: {}", ended.out);

    // Between two looks, once it is known what is judged.
    play(&world.cluster, "flux/chart-upgrade", "cart");
    let waiting = [
        "run",
        "--target",
        "Prod EU/shop/cart",
        "--timeout",
        "60s",
        "-o",
        "json",
        "--deployment-id",
        "cart-1",
    ];
    let running = world.start(&waiting, |_| ());
    until(|| world.front.asked("GET /deployments/cart-1").len() > 1).await;
    let slow_down = Fate::Answered(429, json!({"message": "Too Many Requests"}));
    let expired =
        Fate::Answered(403, json!({"message": "The security token included in the request is expired"}));
    for fate in [Fate::Closed { done: true }, slow_down, expired] {
        world.front.fate("GET /deployments/cart-1", fate);
    }
    let told = [
        "NoAnswer: the API gave no answer",
        "Too Many Requests); trying again",
        "aws sso login`; trying again",
    ];
    let ended = running.end().with(0, &[], &told);
    assert_eq!(world.front.fates_left(), 0);
    let last = object(ended.out.lines().last().unwrap());
    assert_eq!(
        (last["status"].as_str(), last["reason"].as_str()),
        (Some("succeeded"), Some("UpgradeSucceeded"))
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_goes_on_and_is_followed_again() {
    let world = World::registered().await;
    show(&world.cluster, Push::Before);
    let run = ["run", "--target", "Prod EU/shop/checkout", "--helm-type", "flux", "--deployment-id"];
    for (id, signal) in [("first", "INT"), ("second", "TERM")] {
        let ended =
            world.start(&[&run[..], &[id]].concat(), |_| ()).interrupt_after("WaitingForChange", signal);
        ended.with(130, &[], &["the deployment goes on on AWS", &format!("dag-monitor run --follow {id}")]);
    }
    show(&world.cluster, Push::After);
    world.run(&["run", "--follow", "other"]).with(3, &[], &["There is no such deployment"]);
    let ended = world.run(&["run", "--follow", "first", "-o", "github"]);
    let shown = ["Following the deployment first", "::notice title=Prod EU/shop/checkout is deployed"];
    let ended = ended.with(0, &shown, &[]);
    assert!(ended.out.contains("UpgradeSucceeded"), "{}", ended.out);
    // What has ended is told at once, as often as it is asked for.
    world.run(&["run", "--follow", "second"]).with(0, &["Deployed, after"], &[]);
    assert_eq!(world.front.asked("POST /deployments").len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_has_the_codes_of_watch() {
    let world = World::registered().await;
    play(&world.cluster, "flux/upgrade-fails-rolled-back", "bad");
    let running = ["--target", "Prod EU/shop/bad", "--fail-on", "first", "--fail-fast", "--timeout", "2m"];
    let failing = world.start(&[&["run"], &running[..]].concat(), |_| ());
    let late = ["run", "--target", "Prod EU/shop/none", "--timeout", "10s"];
    let late = world.start(&late, |_| ());

    // Started only, and by name: the id is all that is printed.
    let detached = world.judged(&["--detach", "--deployment-id", "checkout-1"]);
    let ended = world.run(&detached).with(0, &[], &[]);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("checkout-1\n", ""));
    let ended = world.run(&[&detached[..], &["-o", "json"]].concat()).with(0, &[], &[]);
    assert_eq!(object(&ended.out)["deploymentId"], "checkout-1");
    let mut other = detached.clone();
    other.push("--fail-fast");
    world.run(&other).with(3, &[], &["The id was used for another request"]);

    // Nobody could judge: it was closed, with targets or without.
    let closed = |reason: &str, targets: Value| {
        Fate::Answered(
            200,
            json!({
                "deploymentId": "checkout-1", "status": "failed", "reason": reason, "lastReason": null,
                "evidence": null, "message": "it was stopped", "startedAt": "2026-11-23T19:15:45Z",
                "deadline": "2026-11-23T19:20:45Z", "checkedAt": "2026-11-23T19:15:45Z",
                "finishedAt": "2026-11-23T19:16:45Z", "polls": 0, "targets": targets,
            }),
        )
    };
    for reason in ["MonitorError", "InvalidRequest"] {
        world.front.fate("GET /deployments/checkout-1", closed(reason, json!([])));
        let ended = world.run(&["run", "--follow", "checkout-1"]).with(3, &[reason, "Could not look"], &[]);
        assert!(ended.out.contains("it was stopped"), "{}", ended.out);
    }

    late.end().with(2, &["Not deployed, timed out", "Hint: look at the target's namespace"], &[]);
    failing.end().with(1, &["failed  UpgradeFailed", "Not deployed, after"], &[]);
    let unknown = ["run", "--target", "other/shop/checkout"];
    world.run(&unknown).with(3, &[], &["/targets/0/cluster", "other"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_run_by_it_is_judged_from_before_it() {
    let world = World::registered().await;
    let pushed = world.folder.0.join("pushed");
    let push = format!("echo pushed; touch {}", pushed.display());
    let push = ["--", "sh", "-c", &push];
    // Nothing is pushed of which nothing can come.
    let nowhere = ["run", "--app", "checkout", "--environment", "production"];
    world.run(&[&nowhere[..], &push].concat()).with(3, &[], &["no such environment", "command was not run"]);
    let wrong = ["run", "--target", "Prod EU/Shop/checkout"];
    world.run(&[&wrong[..], &push].concat()).with(3, &[], &["--target: "]);
    let set = ["environments", "set", "checkout", "production", "--target", "Prod EU/shop/checkout"];
    world.run(&set).with(0, &[], &[]);
    world.front.fate("GET /deployments/used", Fate::Answered(200, json!({})));
    let used = [&nowhere[..], &["--deployment-id", "used"], &push].concat();
    world.run(&used).with(3, &[], &["there is a deployment used already", "command was not run"]);
    assert!(!Path::new(&pushed).exists());

    let failed = [&nowhere[..], &["--", "sh", "-c", "exit 7"]].concat();
    world.run(&failed).with(4, &[], &["exit status: 7", "nothing was judged"]);
    assert!(world.front.asked("POST /deployments").is_empty());
    let interrupted = [&nowhere[..], &["--", "sh", "-c", "echo begun; exec sleep 100"]].concat();
    world.start(&interrupted, |_| ()).interrupt_after("begun", "INT").with(
        130,
        &[],
        &["nothing was started"],
    );

    show(&world.cluster, Push::Before);
    let good = [&nowhere[..], &["--expect-chart", "1.1.0", "--timeout", "60s", "-o", "json"], &push].concat();
    let running = world.start(&good, |_| ());
    appear(&pushed).await;
    // Until it was seen as it was before.
    let is_seen =
        |it: &Logged| it.status == Some(200) && it.path_and_query.ends_with("/helmreleases/checkout");
    until(|| world.cluster.requests().iter().any(is_seen)).await;
    show(&world.cluster, Push::After);
    let ended = running.end().with(0, &[], &["Running sh -c", "\npushed\n"]);
    let answers: Vec<Value> = ended.out.lines().map(object).collect();
    assert_eq!(answers.last().unwrap()["status"], "succeeded");
    let start = world.front.asked("POST /deployments").remove(0).body;
    assert_eq!((&start["app"], &start["environment"]), (&json!("checkout"), &json!("production")));
    assert!(start["pushedAt"].is_string() && start["expect"] == json!({"chartVersion": "1.1.0"}), "{start}");

    // In a detached run the command's output is not the id.
    let push = ["--detach", "--deployment-id", "last", "--", "echo", "pushed"];
    let ended = world.run(&[&nowhere[..], &push].concat()).with(0, &[], &["pushed"]);
    assert_eq!(ended.out, "last\n");
    world.end().await;
}
