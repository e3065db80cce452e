//! Clusters that are entered by an AWS identity, and which namespaces are open.

use super::*;

fn patterns(all: &[&str]) -> Vec<String> {
    all.iter().map(|it| (*it).to_owned()).collect()
}

fn namespaces(all: &[&str]) -> Change {
    Change { namespaces: Some(Some(patterns(all))), ..Change::default() }
}

fn cluster() -> EksCluster {
    EksCluster {
        cluster_name: "Prod_EU-1".to_owned(),
        region: "eu-central-1".to_owned(),
        role_arn: Some(ROLE.to_owned()),
    }
}

#[tokio::test]
async fn namespaces_stand_in_the_secret_and_are_shown() {
    let world = World::new();
    let registrar = world.registrar();
    let narrow = NewCluster { namespaces: Some(patterns(&["shop", "team-*"])), ..new("Prod EU", "t") };
    let row = registrar.enrol(narrow).await.unwrap().row;
    assert_eq!(row.namespaces.patterns(), ["shop", "team-*"]);
    assert_eq!(world.prober.asked()[0].1, row.namespaces, "the probe asks about these");
    world.is_settled("narrow").await;

    // A rotation leaves them, and they alone need no token.
    registrar.alter("prod-eu", rotation("second")).await.unwrap();
    assert_eq!(world.secret().await.unwrap().namespaces.patterns(), ["shop", "team-*"]);
    registrar.alter("prod-eu", namespaces(&["team-b"])).await.unwrap();
    assert_eq!(world.secret().await.unwrap().namespaces.patterns(), ["team-b"]);
    world.is_settled("narrower").await;
    let open = Change { namespaces: Some(None), ..Change::default() };
    let row = registrar.alter("prod-eu", open).await.unwrap().row;
    assert!(row.namespaces.is_open());
    assert_eq!(world.token().await.as_deref(), Some("second"));
    world.is_settled("open").await;

    let refused = registrar.alter("prod-eu", namespaces(&["a", "b", "a/b"])).await;
    assert_eq!(pointers(refused), ["/namespaces/2"]);
    assert_eq!(pointers(registrar.alter("prod-eu", namespaces(&[])).await), ["/namespaces"]);
    let none = NewCluster { namespaces: Some(Vec::new()), ..new("Other", "t") };
    assert_eq!(pointers(registrar.enrol(none).await), ["/namespaces"]);
}

#[tokio::test]
async fn an_eks_cluster_is_registered_without_a_token() {
    for probing in [Probing::First, Probing::Skipped] {
        let world = World::new();
        let registered = world.registrar().register(new_by_eks("Prod EU"), probing).await.unwrap();
        let row = registered.row;
        assert_eq!(row.eks, Some(cluster()));
        assert_eq!(row.api_url, EKS_URL);
        assert_eq!(row.ca_fingerprint, Some(format!("sum of {EKS_CA}")));
        assert_eq!(row.ca_not_after, Some("2035-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!((row.token_expires_at, row.token_issuer, row.token_subject), (None, None, None));
        assert!(matches!(world.secret().await.unwrap().auth, Auth::Eks(stored) if stored == cluster()));
        world.is_settled("by EKS").await;
        let asked = world.prober.asked();
        assert_eq!(asked.len(), usize::from(probing == Probing::First));
        assert!(asked.iter().all(|(credentials, _)| credentials.api_url == EKS_URL));
    }
    let world = World::new();
    let own = NewEks { role_arn: None, ..eks() };
    let row =
        world.registrar().enrol(NewCluster { eks: Some(own), ..new_by_eks("Prod EU") }).await.unwrap().row;
    assert_eq!(row.eks.unwrap().role_arn, None);
}

#[tokio::test]
async fn nothing_stands_beside_eks() {
    let world = World::new();
    let registrar = world.registrar();
    let all = NewCluster {
        api_url: Some(URL.to_owned()),
        service_account_token: Some("t".into()),
        ca_cert: Some("PEM until 2036-01-01T00:00:00Z".to_owned()),
        tls_server_name: Some("kubernetes".to_owned()),
        ..new_by_eks("Prod EU")
    };
    let four = ["/apiUrl", "/serviceAccountToken", "/caCert", "/tlsServerName"];
    let refusals = refused(registrar.enrol(all).await);
    assert_eq!(refusals.iter().map(|(pointer, _)| pointer.as_str()).collect::<Vec<_>>(), four);
    assert!(refusals.iter().all(|(_, detail)| detail.contains("beside auth.eks")), "{refusals:?}");

    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    let before = world.snapshot().await;
    let all = Change {
        api_url: Some(URL.to_owned()),
        service_account_token: Some("t".into()),
        ca_cert: Some(Some("PEM until 2036-01-01T00:00:00Z".to_owned())),
        tls_server_name: Some(Some("kubernetes".to_owned())),
        ..by_eks()
    };
    assert_eq!(pointers(registrar.alter("prod-eu", all).await), four);
    assert_eq!(world.snapshot().await, before);
    let removing = Change { ca_cert: Some(None), tls_server_name: Some(None), ..by_eks() };
    registrar.alter("prod-eu", removing).await.unwrap();
    world.is_settled("removed what goes anyway").await;
}

#[test]
fn the_shapes_of_an_eks_cluster() {
    let world = World::new();
    let registrar = world.registrar();
    let review = |eks: NewEks| -> Vec<String> {
        let new = NewCluster { eks: Some(eks.clone()), ..new_by_eks("Prod EU") };
        let of_new: Vec<String> = registrar.review(new).into_iter().map(|it| it.pointer).collect();
        let change = Change { eks: Some(eks), ..Change::default() };
        let of_change: Vec<String> =
            registrar.review_change(change).into_iter().map(|it| it.pointer).collect();
        assert_eq!(of_new, of_change);
        of_new
    };
    assert_eq!(review(eks()), [""; 0]);
    assert_eq!(review(NewEks::default()), ["/auth/eks/clusterName", "/auth/eks/region"]);

    let name = |name: &str| NewEks { cluster_name: Some(name.to_owned()), ..eks() };
    for good in ["a", "0", "Prod_EU-1", &"x".repeat(100)] {
        assert_eq!(review(name(good)), [""; 0], "{good}");
    }
    for wrong in ["", "-a", "_a", "a.b", "a/b", "a b", "ü", "a\n", "a?x=y", &"x".repeat(101)] {
        assert_eq!(review(name(wrong)), ["/auth/eks/clusterName"], "{wrong:?}");
    }
    let region = |region: &str| NewEks { region: Some(region.to_owned()), ..eks() };
    for good in
        ["eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "ap-southeast-10", "eusc-de-east-1"]
    {
        assert_eq!(review(region(good)), [""; 0], "{good}");
    }
    let long = format!("eu-{}-1", "x".repeat(40));
    for wrong in [
        "",
        "eu",
        "eu-1",
        "eu-central",
        "EU-central-1",
        "eu-central-1a",
        "eu--1",
        "eu-central-",
        "-central-1",
        "e-central-1",
        "europe-central-1",
        "eu.central-1",
        "eu-central-1.evil.example",
        "eu-central-1\n",
        &long,
    ] {
        assert_eq!(review(region(wrong)), ["/auth/eks/region"], "{wrong:?}");
    }
    let role = |arn: &str| NewEks { role_arn: Some(arn.to_owned()), ..eks() };
    let long = format!("{ROLE}{}", "x".repeat(64));
    for wrong in [
        "",
        "dag-monitor",
        "arn:aws:iam::12345678901:role/x",
        "arn:aws:iam::12345678901x:role/x",
        "arn:aws:iam:eu-central-1:123456789012:role/x",
        "arn:aws:sts::123456789012:role/x",
        "arn:awful:iam::123456789012:role/x".replace("awful", "gcp").as_str(),
        "arn:aws:iam::123456789012:user/x",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role/a b",
        "arn:aws:iam::123456789012:role/*",
        "arn:aws:iam::123456789012:role/x\n",
        &long,
    ] {
        let refusals = registrar.review(NewCluster { eks: Some(role(wrong)), ..new_by_eks("Prod EU") });
        assert_eq!(refusals.len(), 1, "{wrong:?}");
        assert_eq!(refusals[0].pointer, "/auth/eks/roleArn");
        assert!(refusals[0].detail.contains("the ARN of a role"), "{wrong:?}: {}", refusals[0].detail);
    }
    // A good shape, and not one of ours.
    for other in ["arn:aws:iam::123456789012:role/other", "arn:aws-cn:iam::123456789012:role/a/b/c+=,.@-_"] {
        let refusals = registrar.review(NewCluster { eks: Some(role(other)), ..new_by_eks("Prod EU") });
        assert_eq!(refusals[0].pointer, "/auth/eks/roleArn");
        assert_eq!(refusals[0].detail, "it is not one of EksRoleArns");
    }
}

#[tokio::test]
async fn a_cluster_goes_from_its_token_to_eks_and_back() {
    let world = World::new();
    let registrar = world.registrar();
    let first = NewCluster {
        ca_cert: Some("PEM until 2036-01-01T00:00:00Z".to_owned()),
        tls_server_name: Some("kubernetes".to_owned()),
        namespaces: Some(patterns(&["shop"])),
        ..new("Prod EU", &jwt(r#"{"iss":"kubernetes","sub":"a","exp":1900000000}"#))
    };
    registrar.enrol(first).await.unwrap();
    let row = registrar.alter("prod-eu", by_eks()).await.unwrap().row;
    assert_eq!((row.token_issuer, row.token_subject, row.token_expires_at), (None, None, None));
    assert_eq!(world.token().await, None, "the token is kept no longer than needed");
    assert_eq!(world.secret().await.unwrap().namespaces.patterns(), ["shop"]);
    world.is_settled("by EKS").await;

    // What concerns both forms, or removes what isn't there, is no switch.
    for change in [
        namespaces(&["team-*"]),
        Change { ca_cert: Some(None), ..Change::default() },
        Change { tls_server_name: Some(None), ..Change::default() },
    ] {
        registrar.alter("prod-eu", change).await.unwrap();
        assert!(world.row().await.unwrap().eks.is_some());
    }
    let url = |token: Option<&str>| Change {
        api_url: Some(OTHER_URL.to_owned()),
        service_account_token: token.map(Into::into),
        ..Change::default()
    };
    let ca = Change { ca_cert: Some(Some("PEM until 2036-01-01T00:00:00Z".to_owned())), ..Change::default() };
    let before = world.snapshot().await;
    assert_eq!(pointers(registrar.alter("prod-eu", url(None)).await), ["/serviceAccountToken"]);
    assert_eq!(pointers(registrar.alter("prod-eu", rotation("t")).await), ["/apiUrl"]);
    assert_eq!(pointers(registrar.alter("prod-eu", ca).await), ["/apiUrl", "/serviceAccountToken"]);
    assert_eq!(world.snapshot().await, before);
    let row = registrar.alter("prod-eu", url(Some("t"))).await.unwrap().row;
    assert_eq!((row.eks, row.ca_fingerprint, row.tls_server_name), (None, None, None));
    assert_eq!(world.token().await.as_deref(), Some("t"));
    assert_eq!(row.namespaces.patterns(), ["team-*"]);
    world.is_settled("back").await;
}

#[tokio::test]
async fn lost_credentials_of_an_eks_cluster_are_given_anew() {
    let world = World::new();
    let registrar = world.registrar();
    let narrow = NewCluster { namespaces: Some(patterns(&["shop"])), ..new_by_eks("Prod EU") };
    registrar.enrol(narrow).await.unwrap();
    world.vault.delete("prod-eu").await.unwrap();
    assert_eq!(pointers(registrar.alter("prod-eu", namespaces(&["shop"])).await), ["/auth"]);
    // What was closed is not opened in silence.
    assert_eq!(pointers(registrar.alter("prod-eu", by_eks()).await), ["/namespaces"]);
    assert_eq!(pointers(registrar.alter("prod-eu", rotation("t")).await), ["/namespaces", "/apiUrl"]);
    let probed = registrar.probe("prod-eu").await;
    assert!(refused(probed)[0].1.contains("gone"));
    let whole = Change { namespaces: Some(Some(patterns(&["shop"]))), ..by_eks() };
    registrar.alter("prod-eu", whole).await.unwrap();
    world.is_settled("given anew").await;
}

#[tokio::test]
async fn what_eks_refuses_or_leaves_unanswered_is_stored_nowhere() {
    for (says, probing) in [
        (Says::Refused, Probing::First),
        (Says::Refused, Probing::Skipped),
        (Says::Nothing, Probing::First),
        (Says::Nothing, Probing::Skipped),
    ] {
        let world = World::new();
        let registrar = world.registrar();
        world.eks.says(says);
        let check = |result: Result<Registered, RegisterError>| match result.unwrap_err() {
            RegisterError::ProbeFailed(failure) => {
                assert_eq!(says, Says::Refused);
                assert_eq!(failure.reason, ProbeReason::EksRefused);
                assert_eq!(failure.detail, "no cluster Prod_EU-1");
                assert!(failure.help.contains("eks:DescribeCluster"));
            }
            error @ RegisterError::Unavailable { .. } => {
                assert_eq!((says, error.retry_after_secs()), (Says::Nothing, Some(5)));
            }
            other => panic!("{other:?}"),
        };
        check(registrar.register(new_by_eks("Prod EU"), probing).await);
        assert_eq!(world.row().await, None);
        assert!(world.secret().await.is_none());
        registrar.enrol(new("Prod EU", "first")).await.unwrap();
        let before = world.snapshot().await;
        check(registrar.change("prod-eu", by_eks(), probing).await);
        assert_eq!(world.snapshot().await, before);
    }
}

#[tokio::test]
async fn a_ca_of_eks_that_can_not_be_read_is_warned_of() {
    struct Odd;
    #[async_trait]
    impl Eks for Odd {
        async fn credentials(&self, _: &EksCluster) -> Result<Credentials, EksError> {
            let ca_cert = Some("odd".to_owned());
            Ok(Credentials {
                api_url: EKS_URL.to_owned(),
                token: "t".into(),
                ca_cert,
                tls_server_name: None,
                personal: None,
            })
        }
        fn role_allowed(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
    }
    let world = World::new();
    let registrar = Registrar { eks: Arc::new(Odd), ..world.registrar() };
    let registered = registrar.enrol(new_by_eks("Prod EU")).await.unwrap();
    assert_eq!(registered.row.ca_fingerprint, None);
    assert!(
        registered.warnings.iter().any(|it| it.contains("no certificate came")),
        "{:?}",
        registered.warnings
    );
}
