//! `dag-monitor watch` as a person or a CI job starts it: the real program, kubeconfigs
//! as they are written by others, and simulated clusters over TLS.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of these tests are tests themselves")]

mod support;

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use support::program::{
    Ended, Folder, NAMESPACE, Program, Push, appear, cluster, kubeconfig, play, show, text, token,
};
use testkit::{Config, Fault, Rule, SimulatedCluster};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// Runs it to its end.
fn watch(arguments: &[&str]) -> Ended {
    Program::start(&[&["watch"], arguments].concat(), |_| ()).end()
}

/// Each way to be let in; what is there is looked at once, and judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_account_is_let_in() {
    let cluster = cluster().await;
    show(&cluster, Push::Before);
    let folder = Folder::new();
    let secret = cluster.token().expose_secret().to_owned();
    let (certificate, key) = cluster.client_pem();
    let token_file = folder.write("token", &format!("{secret}\n"));
    let ca_file = folder.write("ca.crt", cluster.ca_pem());
    let credential = |version: &str, status: Value| {
        let api_version = format!("client.authentication.k8s.io/{version}");
        json!({"apiVersion": api_version, "kind": "ExecCredential", "status": status}).to_string()
    };
    let exec = |version: &str, command: &Path| {
        json!({"exec": {
            "apiVersion": format!("client.authentication.k8s.io/{version}"), "command": command,
            "args": ["get-token"], "env": [{"name": "TOKEN", "value": "x"}], "interactiveMode": "IfAvailable",
        }})
    };
    let by_token = credential("v1beta1", json!({"token": secret}));
    let by_token = folder.script("by-token", &format!("test \"$1$TOKEN\" = get-tokenx && echo '{by_token}'"));
    let status = json!({"clientCertificateData": certificate, "clientKeyData": key});
    let by_certificate =
        folder.script("by-certificate", &format!("cat <<'E'\n{}\nE", credential("v1", status)));
    let (certificate_file, key_file) = (folder.write("c", certificate), folder.write("k", key));
    let users = [
        token(&cluster),
        json!({"tokenFile": "token"}),
        json!({
            "client-certificate-data": BASE64_STANDARD.encode(certificate),
            "client-key-data": BASE64_STANDARD.encode(key),
        }),
        json!({"client-certificate": certificate_file, "client-key": key_file}),
        exec("v1beta1", &by_token),
        exec("v1", &by_certificate),
    ];
    let mut running = Vec::new();
    for (index, user) in users.iter().enumerate() {
        let config = kubeconfig(&cluster, "prod", user);
        let path = folder.write(&format!("config-{index}"), &config.to_string());
        let arguments =
            ["watch", "checkout", "--allow-unchanged", "--timeout", "30s", "--kubeconfig", text(&path)];
        running.push(Program::start(&arguments, |_| ()));
    }
    let [url, token, ca] = [&cluster.api_url(), text(&token_file), text(&ca_file)];
    let by_address = ["--api-url", url, "--token-file", token, "--ca-file", ca];
    let by_alias = ["--server", url, "--token-file", token, "--certificate-authority", ca];
    for address in [by_address, by_alias] {
        let arguments = ["watch", "checkout", "-n", NAMESPACE, "--allow-unchanged", "--timeout", "30s"];
        running.push(Program::start(&[&arguments[..], &address].concat(), |_| ()));
    }
    for (index, program) in running.into_iter().enumerate() {
        let ended = program.end().with(0, &["shop/checkout", "succeeded", "Deployed, after"], &[]);
        assert_eq!(ended.err, "", "{index}");
        ended.without(&[&secret, key]);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_run_by_it_is_judged() {
    let cluster = cluster().await;
    let folder = Folder::new();
    show(&cluster, Push::Before);
    let config = folder.write("config", &kubeconfig(&cluster, "prod", &token(&cluster)).to_string());
    let files = ["first", "second", "third"].map(|name| folder.0.join(name));
    let start = |arguments: &[&str], file: &Path| {
        let push = format!("echo pushed; touch {}; sleep 11", file.display());
        let push = ["--kubeconfig", text(&config), "--", "sh", "-c", &push];
        Program::start(&[&["watch", "checkout"], arguments, &push].concat(), |_| ())
    };
    let good = start(&["--expect-chart", "1.1.0"], &files[0]);
    let values = start(&["-o", "json"], &files[1]);
    // Needs a second poll, and would have no time left if the command's were counted.
    let slow = start(&["--timeout", "10s"], &files[2]);
    for file in &files {
        appear(file).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    show(&cluster, Push::After);

    let ended = good.end().with(0, &["Watching shop/checkout on prod (https://127.0.0.1:"], &[]);
    for line in [
        "Before the command: shop/checkout has chart 1.0.0, revision ",
        "Running sh -c echo pushed",
        "\npushed\n",
    ] {
        assert!(ended.out.contains(line), "{}", ended.out);
    }
    let position = |word: &str| ended.out.find(word).unwrap_or_else(|| panic!("{word}: {}", ended.out));
    assert!(position("Before the command") < position("\npushed"));
    assert!(position("\npushed") < position("succeeded  UpgradeSucceeded: "));
    ended.without(&[cluster.token().expose_secret()]);
    slow.end().with(0, &["pending", "succeeded"], &[]);

    let ended = values.end().with(0, &[], &["pushed", "Running sh"]);
    let answers: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answers.len() > 1, "{}", ended.out);
    let fields =
        |answer: &Value| (answer["status"].clone(), answer["reason"].clone(), answer["message"].clone());
    assert!(answers.windows(2).all(|two| fields(&two[0]) != fields(&two[1])), "{}", ended.out);
    let last = answers.last().unwrap();
    assert_eq!((&last["status"], &last["reason"]), (&json!("succeeded"), &json!("UpgradeSucceeded")));
    assert_eq!(last["targets"][0]["cluster"], "prod");
    assert_eq!(last["targets"][0]["observed"]["chartVersion"], "1.1.0");
    assert!(last["deadline"].is_string() && last["finishedAt"].is_string() && last["polls"].is_u64());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_itself_is_judged_by_its_secrets() {
    let cluster = cluster().await;
    let folder = Folder::new();
    let config = folder.write("config", &kubeconfig(&cluster, "prod", &token(&cluster)).to_string());
    let start = |release: &str, pushed_at: &str| {
        let arguments = ["watch", release, "--helm-type", "plain", "-n", NAMESPACE, "--pushed-at", pushed_at];
        let config = ["--timeout", "1m30s", "--kubeconfig", text(&config)];
        Program::start(&[&arguments[..], &config].concat(), |_| ())
    };
    let good = start("invoices", &play(&cluster, "helm/helm4-upgrade", "invoices"));
    let bad = start("mailer", &play(&cluster, "helm/helm4-upgrade-times-out", "mailer"));
    good.end().with(0, &["shop/invoices  plain  succeeded  Deployed: "], &[]);
    bad.end().with(1, &["shop/mailer  plain  failed  UpgradeFailed: ", "Not deployed, after"], &[]);
    cluster.shutdown().await;
}

/// Two clusters at once, for GitHub Actions: one release fails, the other succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clusters_are_watched_at_once() {
    let (eu, us) = (cluster().await, cluster().await);
    let folder = Folder::new();
    let arn = "arn:aws:eks:us-east-1:123456789012:cluster/prod-us";
    // The one earlier by milliseconds is not later than the other's.
    let pushed_at = play(&eu, "flux/chart-upgrade", "checkout");
    play(&us, "flux/upgrade-fails-no-retry", "checkout");
    let first = folder.write("eu", &kubeconfig(&eu, "prod-eu", &token(&eu)).to_string());
    let second = folder.write("us", &kubeconfig(&us, arn, &token(&us)).to_string());
    let kubeconfigs =
        format!("{}:{}:{}", folder.0.join("missing").display(), first.display(), second.display());
    let summary = folder.write("summary", "before\n");
    let us_target = format!("{arn}/shop/checkout");
    let targets = ["--target", "prod-eu/shop/checkout", "--target", &us_target];
    let start = |arguments: &[&str]| {
        Program::start(
            &[&["watch", "--timeout", "90", "--pushed-at", &pushed_at][..], &targets, arguments].concat(),
            |command| {
                command.env("KUBECONFIG", &kubeconfigs).env("GITHUB_STEP_SUMMARY", &summary);
            },
        )
    };
    let github = start(&["-o", "github"]);
    let fast = start(&["--fail-fast", "--fail-on", "first"]);

    let annotations = [
        "::notice title=prod-eu/shop/checkout is deployed::",
        "::error title=prod-us/shop/checkout is not deployed%3A UpgradeFailed::",
    ];
    let ended = github.end().with(1, &annotations, &[]);
    assert!(ended.out.contains("1 of 2 releases deployed, after"), "{}", ended.out);
    let written = fs::read_to_string(&summary).unwrap();
    assert!(written.starts_with("before\n### dag-monitor\n"), "{written}");
    assert!(written.contains("| ✅ | prod\\-eu/shop/checkout | deployed | UpgradeSucceeded |"), "{written}");
    assert!(written.contains("| ❌ | prod\\-us/shop/checkout | not deployed | UpgradeFailed |"), "{written}");
    for cluster in [&eu, &us] {
        assert!(!ended.out.contains(cluster.token().expose_secret()));
        assert!(!written.contains(cluster.token().expose_secret()));
    }
    fast.end().with(1, &["prod-us/shop/checkout  flux  failed  UpgradeFailed: "], &[]);
    eu.shutdown().await;
    us.shutdown().await;
}

/// What is not there in time, what can't be looked at, and what comes to an early end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_end_has_its_code() {
    let cluster = cluster().await;
    let denied =
        SimulatedCluster::start(Config { rules: Vec::<Rule>::new(), ..Config::default() }).await.unwrap();
    let silent = self::cluster().await;
    silent.set_fault(Some(Fault::Refuse)).await.unwrap();
    let folder = Folder::new();
    show(&cluster, Push::Before);
    let secret = cluster.token().expose_secret().to_owned();
    let write = |name: &str, cluster: &SimulatedCluster, user: &Value| {
        folder.write(name, &kubeconfig(cluster, name, user).to_string())
    };
    let good = write("good", &cluster, &token(&cluster));
    let wrong = write("wrong", &cluster, &json!({"token": "S3CR3T-of-nobody"}));
    let denied_config = write("denied", &denied, &token(&denied));
    let silent_config = write("silent", &silent, &token(&silent));
    let pushed = folder.0.join("pushed");
    let touch = format!("touch {}", pushed.display());
    let start = |config: &Path, arguments: &[&str]| {
        Program::start(&[&["watch", "checkout", "--kubeconfig", text(config)], arguments].concat(), |_| ())
    };
    let late = start(&good, &["--timeout", "10s"]);
    let other = start(&good, &["--timeout", "10s", "--expect-value", "/message=three", "--expect-app", "9"]);
    let before =
        start(&good, &["--timeout", "10s", "--pushed-at", "2020-01-01T00:00:00Z", "--expect-chart", "7.0.0"]);
    let unknown = start(&wrong, &["--timeout", "1m"]);
    let forbidden = start(&denied_config, &["--timeout", "1m", "-o", "json"]);
    let unreachable = start(&silent_config, &["--timeout", "10s"]);
    let not_pushed = start(&silent_config, &["--timeout", "1m", "--", "sh", "-c", &touch]);
    let failing = start(&good, &["--timeout", "1m", "--", "sh", "-c", "exit 7"]);
    let missing = start(&good, &["--timeout", "1m", "--", "no-such-command"]);
    let again = start(&good, &["--allow-unchanged", "--", "echo", "pushed"]);
    let interrupted = start(&good, &["--timeout", "1m"]);
    let terminated = start(&good, &["--timeout", "1m"]);
    let during = start(&good, &["--timeout", "1m", "--", "sleep", "2"]);

    interrupted.interrupt_after("pending", "INT").with(130, &[], &["Interrupted"]);
    terminated.interrupt_after("pending", "TERM").with(130, &[], &["Interrupted"]);
    during.interrupt_after("Running sleep", "INT").with(130, &[], &["Interrupted"]);
    again.end().with(0, &["\npushed\n", "it was already there before the push"], &[]);
    late.end().with(
        2,
        &["failed  Timeout: ", "Not deployed, timed out", "Hint: a push that was quicker"],
        &[],
    );
    other.end().with(2, &["failed  Timeout: "], &[]);
    before.end().with(2, &["failed  Timeout: ", "7.0.0"], &[]);
    unknown.end().with(3, &["failed  Unauthorized: ", "Hint: log in"], &[]).without(&["S3CR3T-of-nobody"]);
    let ended = forbidden.end().with(3, &["\"reason\":\"Forbidden\""], &["Hint: the account needs"]);
    assert!(ended.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", ended.out);
    unreachable.end().with(3, &["failed  Timeout: ", "Hint: is the VPN up"], &[]);
    not_pushed.end().with(
        3,
        &["Before the command: shop/checkout: ClusterUnreachable: ", "The command was not run."],
        &[],
    );
    assert!(!pushed.exists());
    failing.end().with(4, &[], &["the command sh -c exit 7 failed (exit status: 7); nothing was judged"]);
    missing.end().with(4, &[], &["no-such-command can't be started"]).without(&[&secret]);
    cluster.shutdown().await;
    denied.shutdown().await;
    silent.shutdown().await;
}

/// The token of a plugin or a file ends meanwhile: another one is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ended_is_asked_for_again() {
    let tokens: Vec<SecretString> = vec!["first-S3CR3T".into(), "second-S3CR3T".into()];
    let cluster = SimulatedCluster::start(Config { token: Some(tokens[0].clone()), ..Config::default() });
    let cluster = cluster.await.unwrap();
    show(&cluster, Push::Before);
    let folder = Folder::new();
    let token_file = folder.write("token", tokens[0].expose_secret());
    let plugin = folder.script(
        "get-token",
        &format!(
            "printf '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\
             \"status\":{{\"token\":\"%s\",\"expirationTimestamp\":\"2020-01-01T00:00:00Z\"}}}}' \"$(cat {})\"",
            token_file.display()
        ),
    );
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin}});
    let mut running = Vec::new();
    for (name, user) in [("file", json!({"tokenFile": token_file})), ("plugin", exec)] {
        let config = folder.write(name, &kubeconfig(&cluster, name, &user).to_string());
        let arguments = ["watch", "checkout", "--timeout", "60", "--kubeconfig", text(&config)];
        running.push(Program::start(&arguments, |_| ()));
    }
    while cluster.requests().len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fs::write(&token_file, tokens[1].expose_secret()).unwrap();
    cluster.accept_tokens(vec![tokens[1].clone()]);
    show(&cluster, Push::After);
    for program in running {
        program.end().with(0, &["succeeded"], &[]).without(&["first-S3CR3T", "second-S3CR3T"]);
    }
    let refused = cluster.requests().iter().filter(|it| it.status == Some(401)).count();
    assert_eq!(refused, 2, "each was refused once, and asked again at once");
    cluster.shutdown().await;
}

/// A kubeconfig's proxy: the API server is reached through it, by `CONNECT`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_kubeconfig_is_used() {
    let cluster = cluster().await;
    show(&cluster, Push::Before);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let address = cluster.address();
    let proxying = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        let mut lines = tokio::io::BufReader::new(&mut client).lines();
        while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
            asked.push_str(&format!("{line}\n"));
        }
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let mut server = TcpStream::connect(address).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut server).await;
        asked
    });
    let folder = Folder::new();
    let mut config = kubeconfig(&cluster, "prod", &token(&cluster));
    config["clusters"][0]["cluster"]["proxy-url"] = json!(proxy);
    let config = folder.write("config", &config.to_string());
    let arguments =
        ["watch", "checkout", "--allow-unchanged", "--timeout", "10s", "--kubeconfig", text(&config)];
    let program = Program::start(&arguments, |_| ());
    let ended = tokio::task::spawn_blocking(|| program.end()).await.unwrap();
    ended.with(0, &["succeeded"], &[]);
    let asked = proxying.await.unwrap();
    assert!(asked.starts_with(&format!("CONNECT {address} HTTP/1.1")), "{asked}");
    assert!(!asked.contains(cluster.token().expose_secret()), "the proxy sees no token");
    cluster.shutdown().await;
}

/// Nothing is asked where the arguments or the kubeconfig can't be used: 3, and what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_used_is_told_before_anybody_is_asked() {
    let cluster = cluster().await;
    let folder = Folder::new();
    let secret = cluster.token().expose_secret().to_owned();
    let config = kubeconfig(&cluster, "prod-eu", &token(&cluster));
    let good = folder.write("good", &config.to_string());
    let mut insecure = config.clone();
    insecure["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = json!(true);
    let insecure = folder.write("insecure", &insecure.to_string());
    let mut elsewhere = config.clone();
    elsewhere["clusters"][0]["cluster"]["certificate-authority-data"] = json!("bm8=");
    let elsewhere = folder.write("elsewhere", &elsewhere.to_string());
    let broken = folder.write("broken", &format!("users:\n- name: x\n  user: {{token: {secret}\n"));
    let plugin = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin", "installHint": "brew install it",
    }});
    let plugin = folder.write("plugin", &kubeconfig(&cluster, "prod-eu", &plugin).to_string());
    let failing = folder.script("failing", "echo S3CR3T; echo you are logged out >&2; exit 1");
    let failing = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": failing}});
    let failing = folder.write("failing-config", &kubeconfig(&cluster, "prod-eu", &failing).to_string());
    let [good, insecure, elsewhere, broken, plugin, failing] =
        [&good, &insecure, &elsewhere, &broken, &plugin, &failing].map(|it| text(it));
    for (arguments, told) in [
        (&["checkout", "--kubeconfig", good, "--context", "prod-us"][..], &["Did you mean \"prod-eu\"?"][..]),
        (&["--kubeconfig", good, "--target", "prod-us/shop/checkout"], &["\"prod-us\"", "prod-eu"]),
        (&["checkout", "--kubeconfig", "/nonexistent/config"], &["/nonexistent/config can't be read"]),
        (&["checkout"], &["there is no kubeconfig", "--api-url"]),
        (
            &["checkout", "--kubeconfig", insecure],
            &["insecure-skip-tls-verify", "certificate-authority-data"],
        ),
        (&["checkout", "--kubeconfig", elsewhere], &["certificate authority"]),
        (&["checkout", "--kubeconfig", broken], &["is no kubeconfig", "line"]),
        (&["checkout", "--kubeconfig", plugin], &["no-such-plugin", "brew install it"]),
        (&["checkout", "--kubeconfig", failing], &["you are logged out", "stands above", "Run it by hand"]),
        (&["checkout", "-n", "Shop", "--kubeconfig", good], &["-n, --target", "\"Shop\""]),
        (&["Checkout", "--kubeconfig", good], &["RELEASE, --target", "\"Checkout\""]),
        (&["checkout", "--kubeconfig", good, "--pushed-at", "2999-01-01T00:00:00Z"], &["--pushed-at"]),
        (&["checkout", "--kubeconfig", good, "--timeout", "3h"], &["10s to 2h"]),
        (&["checkout", "--kubeconfg", good], &["--kubeconfig"]),
        (&[], &["RELEASE"]),
    ] {
        let ended = watch(arguments).with(3, &[], told);
        assert_eq!(ended.out, "", "{arguments:?}");
        ended.without(&[&secret, "S3CR3T"]);
    }
    assert!(cluster.requests().is_empty(), "nobody was asked");
    cluster.shutdown().await;
}

#[test]
fn help_completions_and_pages_are_printed() {
    let program = |arguments: &[&str]| Program::start(arguments, |_| ()).end();
    program(&["watch", "--help"]).with(0, &["Examples:", "-- git push", "Exit codes:", "130"], &[]);
    program(&["watch", "-h"]).with(0, &["--expect-chart", "See --help"], &[]);
    program(&["--help"]).with(0, &["watch", "completions", "Examples:"], &[]);
    program(&["--version"]).with(0, &["dag-monitor "], &[]);
    program(&["completions", "bash"]).with(0, &["complete -F", "--expect-value"], &[]);
    program(&["completions", "tcsh"]).with(3, &[], &["tcsh", "bash"]);
    program(&["man"]).with(0, &[".TH dag-monitor 1"], &[]);
    program(&["man", "watch"]).with(0, &[".TH dag-monitor-watch 1", "expect\\-chart", "git push"], &[]);
    program(&["man", "wacth"]).with(3, &[], &["wacth", "watch"]);
}
