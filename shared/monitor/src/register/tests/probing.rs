//! Probes: before a cluster is stored, when somebody asks for one, and all once a day.

use super::*;
use crate::{
    answer::Answer,
    probe::{Attention, LastProbe},
};

const FAULTS: [Fault; 5] =
    [Fault::Before, Fault::After, Fault::CrashBefore, Fault::CrashAfter, Fault::Outage];

/// A cluster that never answers.
struct Silent;

#[async_trait]
impl Prober for Silent {
    async fn probe(&self, _: &Credentials, _: &Namespaces) -> Result<Findings, ProbeFailure> {
        pending().await
    }
}

#[async_trait]
impl Eks for Silent {
    async fn credentials(&self, _: &EksCluster) -> Result<Credentials, EksError> {
        pending().await
    }
    fn role_allowed(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn last_probe(world: &World) -> LastProbe {
    LastProbe::of(&findings(), world.clock.now())
}

#[tokio::test]
async fn a_cluster_is_probed_with_exactly_what_is_stored() {
    let world = World::new();
    let registrar = world.registrar();
    let first = NewCluster { tls_server_name: Some("kubernetes".to_owned()), ..new("Prod EU", "first") };
    let registered = registrar.enrol(first).await.unwrap();
    assert_eq!(registered.row.last_probe, Some(last_probe(&world)));
    assert_eq!(world.row().await.unwrap(), registered.row);
    world.clock.advance(5);
    let change = Change { api_url: Some(OTHER_URL.to_owned()), ..rotation("second") };
    let row = registrar.alter("prod-eu", change).await.unwrap().row;
    assert_eq!(row.last_probe, Some(last_probe(&world)));
    let asked: Vec<(String, String)> = world
        .prober
        .asked()
        .into_iter()
        .map(|(it, _)| {
            assert_eq!(it.tls_server_name.as_deref(), Some("kubernetes"));
            (it.api_url.clone(), it.token.expose_secret().to_owned())
        })
        .collect();
    let pair = |url: &str, token: &str| (url.to_owned(), token.to_owned());
    assert_eq!(asked, [pair(URL, "first"), pair(OTHER_URL, "second")]);
}

#[tokio::test]
async fn no_token_is_sent_anywhere_when_the_registration_is_refused_anyway() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    world.prober.asked();
    assert!(registrar.enrol(new("prod eu", "second")).await.is_err());
    assert!(registrar.enrol(NewCluster { api_url: None, ..new("Other", "t") }).await.is_err());
    assert!(registrar.alter("other", rotation("t")).await.is_err());
    let elsewhere = Change { api_url: Some(OTHER_URL.to_owned()), ..Change::default() };
    assert!(registrar.alter("prod-eu", elsewhere).await.is_err());
    for state in [RowState::Registering, RowState::Updating, RowState::Deleting] {
        world.leave(state).await;
        assert!(registrar.enrol(new("Prod EU", "second")).await.is_err());
        assert!(registrar.alter("prod-eu", rotation("second")).await.is_err());
        if state != RowState::Updating {
            assert!(registrar.enrol(new_by_eks("Prod EU")).await.is_err());
            assert!(registrar.probe("prod-eu").await.is_err());
        }
    }
    assert_eq!(world.prober.asked().len(), 0);
    assert_eq!(world.eks.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_changes_nothing_whatever_there_was() {
    let change = Job::Change("second");
    let register = Job::Register("second");
    for (job, left) in [
        (register, None),
        (register, Some(RowState::Registering)),
        (register, Some(RowState::Deleting)),
        (change, Some(RowState::Active)),
        (change, Some(RowState::Updating)),
        (Job::Enter, Some(RowState::Active)),
    ] {
        for silent in [false, true] {
            let what = format!("{job:?} of {left:?}, silent: {silent}");
            let world = World::new();
            if let Some(state) = left {
                world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
                world.leave(state).await;
                world.clock.advance(60);
            }
            let before = world.snapshot().await;
            world.prober.fails();
            let registrar = if silent {
                Registrar { prober: Arc::new(Silent), ..world.registrar() }
            } else {
                world.registrar()
            };
            let error = job.run(&registrar).await.expect_err(&what);
            assert_eq!(error.retry_after_secs(), None);
            let RegisterError::ProbeFailed(failed) = &error else { panic!("{what}: {error:?}") };
            if silent {
                assert_eq!(failed.reason, ProbeReason::TimedOut, "{what}");
            } else {
                assert_eq!(*failed, failure());
                assert_eq!(
                    error.to_string(),
                    "the cluster can't be asked: the API server answered 401; create another token"
                );
            }
            assert_eq!(world.snapshot().await, before, "{what}");
            assert!(world.events.attention().is_empty());

            // Nor does it stand in the way of the next try.
            world.prober.goes_well();
            job.run(&world.registrar()).await.expect(&what);
            world.is_settled(&what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_eks_that_hangs_ends_in_an_answer() {
    let world = World::new();
    let registrar = Registrar { eks: Arc::new(Silent), ..world.registrar() };
    let error = registrar.enrol(new_by_eks("Prod EU")).await.unwrap_err();
    assert!(matches!(error, RegisterError::Unavailable { retry_after_secs: 5, .. }), "{error:?}");
    assert_eq!(world.row().await, None);
}

#[tokio::test]
async fn without_a_probe_nothing_is_asked_and_that_is_told() {
    let world = World::new();
    let registrar = world.registrar();
    let skip = Probing::Skipped;
    let registered = registrar.register(new("Prod EU", "first"), skip).await.unwrap();
    assert_eq!(registered.row.last_probe, None);
    assert_eq!(registered.warnings, [NOT_PROBED]);
    let probed = registrar.probe("prod-eu").await.unwrap().row.last_probe;
    assert!(probed.is_some());
    world.prober.asked();

    // It stays true as long as the cluster is reached and entered as it was then.
    let namespaces = || Change { namespaces: Some(Some(vec!["shop".to_owned()])), ..Change::default() };
    let same = Change { api_url: Some(URL.to_owned()), ..Change::default() };
    for change in [namespaces(), same] {
        let changed = registrar.change("prod-eu", change, skip).await.unwrap();
        assert_eq!(changed.row.last_probe, probed);
        assert_eq!(changed.warnings, [NOT_PROBED]);
    }
    // Whether a token is the stored one is told to nobody.
    for change in [
        rotation("first"),
        rotation("second"),
        Change { api_url: Some(OTHER_URL.to_owned()), ..rotation("second") },
        Change { ca_cert: Some(Some(EKS_CA.to_owned())), ..rotation("second") },
        by_eks(),
    ] {
        registrar.probe("prod-eu").await.unwrap();
        assert!(world.row().await.unwrap().last_probe.is_some());
        let row = registrar.change("prod-eu", change, skip).await.unwrap().row;
        assert_eq!(row.last_probe, None);
        assert_eq!(world.row().await.unwrap(), row);
        world.prober.asked();
    }
    registrar.probe("prod-eu").await.unwrap();
    let row = registrar.change("prod-eu", by_eks(), skip).await.unwrap().row;
    assert!(row.last_probe.is_some(), "the same EKS cluster");
    // Of a change that broke off nobody knows which of both was probed.
    world.leave(RowState::Updating).await;
    world.clock.advance(60);
    let row = registrar.change("prod-eu", namespaces(), skip).await.unwrap().row;
    assert_eq!(row.last_probe, None);
}

#[tokio::test]
async fn warnings_come_from_the_fields_the_ca_and_the_probe() {
    let world = World::new();
    let registrar = world.registrar();
    let soon = NewCluster {
        ca_cert: Some("weak PEM until 2026-11-25T11:00:00Z".to_owned()),
        ..new("Prod EU", &expiring("2026-12-23T12:00:00Z"))
    };
    let of_fields = [
        "serviceAccountToken expires at 2026-12-23T12:00:00Z, in 30 days; replace it before",
        "caCert expires at 2026-11-25T11:00:00Z, in a day; replace it before",
        "the CA is weak",
    ];
    let mut found = findings();
    found.scopes[0].beyond = vec!["create pods".to_owned()];
    *world.prober.answer.lock().unwrap() = Ok(found.clone());
    let of_probe = LastProbe::of(&found, world.clock.now()).warnings;
    let all: Vec<String> = of_fields.iter().map(|it| (*it).to_owned()).chain(of_probe).collect();
    assert_eq!(registrar.enrol(soon).await.unwrap().warnings, all);
    assert_eq!(registrar.probe("prod-eu").await.unwrap().warnings, all);
    let change = Change { namespaces: Some(None), ..Change::default() };
    assert_eq!(registrar.alter("prod-eu", change).await.unwrap().warnings, all);
}

#[tokio::test]
async fn what_a_token_says_of_itself_is_shown_and_the_token_never() {
    let world = World::new();
    let registrar = world.registrar();
    for (n, (claims, issuer, subject)) in [
        (
            r#"{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:dag-monitor:reader"}"#
                .to_owned(),
            Some("https://kubernetes.default.svc".to_owned()),
            Some("system:serviceaccount:dag-monitor:reader".to_owned()),
        ),
        (r#"{"iss":"a\n\u001b[31mb","sub":"\u0000"}"#.to_owned(), Some("a[31mb".to_owned()), None),
        (format!(r#"{{"iss":"{}","sub":7}}"#, "ü".repeat(300)), Some("ü".repeat(200)), None),
        (r#"{"iss":"","sub":null,"exp":"x"}"#.to_owned(), None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let row = registrar.enrol(new(&format!("c{n}"), &jwt(&claims))).await.unwrap().row;
        assert_eq!((row.token_issuer, row.token_subject), (issuer, subject), "{n}");
    }
    // What can't be read of one claim hides no other.
    let odd = jwt(r#"{"iss":[],"sub":"x","exp":1900000000}"#);
    let row = registrar.enrol(new("odd", &odd)).await.unwrap().row;
    assert_eq!((row.token_issuer, row.token_subject.as_deref()), (None, Some("x")));
    assert!(row.token_expires_at.is_some());
    let row = registrar.alter("odd", rotation("opaque")).await.unwrap().row;
    assert_eq!((row.token_subject, row.token_expires_at), (None, None));
}

#[tokio::test]
async fn a_probe_is_kept_and_changes_nothing_else() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    let (before, secret) = world.snapshot().await;
    let before = before.unwrap();
    world.clock.advance(600);
    let probed = registrar.probe("prod-eu").await.unwrap();
    assert_eq!(probed.row, ClusterRow { last_probe: Some(last_probe(&world)), ..before.clone() });
    assert_eq!(world.snapshot().await, (Some(probed.row), secret.clone()));
    world.clock.advance(600);
    world.prober.fails();
    let failed = registrar.probe("prod-eu").await;
    assert!(matches!(failed, Err(RegisterError::ProbeFailed(it)) if it == failure()));
    let kept = LastProbe::failed(&failure(), world.clock.now());
    assert_eq!(kept.reason, Some(ProbeReason::Unauthorized));
    let row = ClusterRow { last_probe: Some(kept), ..before };
    assert_eq!(world.snapshot().await, (Some(row), secret));
    for id in ["other", "Prod EU", ""] {
        assert!(matches!(registrar.probe(id).await, Err(RegisterError::Unknown)));
    }
}

#[tokio::test]
async fn an_eks_cluster_is_probed_as_eks_tells_of_it() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new_by_eks("Prod EU")).await.unwrap();
    world.prober.asked();
    registrar.probe("prod-eu").await.unwrap();
    assert_eq!(world.prober.asked()[0].0.api_url, EKS_URL);
    world.eks.says(Says::Refused);
    let refused = registrar.probe("prod-eu").await;
    assert!(matches!(refused, Err(RegisterError::ProbeFailed(it)) if it.reason == ProbeReason::EksRefused));
    let kept = world.row().await.unwrap().last_probe.unwrap();
    assert_eq!(kept.reason, Some(ProbeReason::EksRefused));
    world.eks.says(Says::Nothing);
    let silent = registrar.probe("prod-eu").await.unwrap_err();
    assert!(matches!(silent, RegisterError::Unavailable { retry_after_secs: 5, .. }));
    assert_eq!(world.row().await.unwrap().last_probe, Some(kept), "no answer says nothing of the cluster");
}

#[tokio::test]
async fn only_a_cluster_that_is_in_use_is_probed() {
    for (state, usable) in
        [(RowState::Updating, true), (RowState::Registering, false), (RowState::Deleting, false)]
    {
        let world = World::new();
        let registrar = world.registrar();
        registrar.enrol(new("Prod EU", "first")).await.unwrap();
        world.leave(state).await;
        let left = world.snapshot().await;
        let at_once = registrar.probe("prod-eu").await;
        world.clock.advance(60);
        let later = registrar.probe("prod-eu").await;
        if usable {
            assert!(at_once.is_ok() && later.is_ok());
        } else {
            assert!(matches!(at_once, Err(RegisterError::Busy { .. })), "{at_once:?}");
            assert!(matches!(later, Err(RegisterError::Unfinished { .. })), "{later:?}");
        }
        assert_eq!(world.snapshot().await, left, "who is at work is not disturbed");
    }
}

#[tokio::test]
async fn wherever_a_probe_breaks_off_the_cluster_stays_as_it_was() {
    let mut cases = 0;
    for by_eks in [false, true] {
        for fault in FAULTS {
            for at in 1.. {
                let what = format!("by EKS: {by_eks}, {fault:?} at call {at}");
                let world = World::new();
                let first = if by_eks { new_by_eks("Prod EU") } else { new("Prod EU", "first") };
                world.registrar().enrol(first).await.unwrap();
                let (before, secret) = world.snapshot().await;
                let calls = Arc::new(AtomicUsize::new(0));
                let result = world.faulty(&calls, at, fault).probe("prod-eu").now_or_never();
                if calls.load(Ordering::SeqCst) < at {
                    assert!(result.unwrap().is_ok(), "{what}");
                    break;
                }
                cases += 1;
                let (mut after, secret_after) = world.snapshot().await;
                if let (Some(after), Some(before)) = (&mut after, &before) {
                    after.last_probe.clone_from(&before.last_probe);
                }
                assert_eq!((after, secret_after), (before, secret), "{what}");
                world.is_settled(&what).await;
                // What is not kept is told nevertheless.
                let told = result.is_none_or(|it| {
                    matches!(
                        it,
                        Ok(_) | Err(RegisterError::Unavailable { .. } | RegisterError::ProbeFailed(_))
                    )
                });
                assert!(told, "{what}");
                world.registrar().probe("prod-eu").await.expect(&what);
            }
        }
    }
    assert_eq!(cases, (4 + 5) * 5);
}

#[tokio::test]
async fn a_probe_takes_nothing_from_whoever_changes_the_cluster_meanwhile() {
    for (job, steps) in [(Job::Change("second"), 6), (Job::Enter, 7), (Job::Remove, 6)] {
        for order in orders(steps, 4) {
            let what = format!("{job:?} {order:?}");
            let world = World::new();
            world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
            world.clock.advance(5);
            let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
            let [changing, probing] = [0, 1].map(|who| world.stepped(&gates[who]));
            let changing = tokio::spawn(async move { job.run(&changing).await });
            let probing = tokio::spawn(async move { probing.probe("prod-eu").await });
            for who in order {
                gates[who].add_permits(1);
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
            gates.iter().for_each(|gate| gate.add_permits(10));
            changing.await.unwrap().expect(&what);
            let probed = probing.await.unwrap();
            assert!(
                matches!(probed, Ok(_) | Err(RegisterError::Busy { .. } | RegisterError::Unknown)),
                "{what}: {probed:?}"
            );
            world.is_settled(&what).await;
            assert_eq!(world.row().await.is_none(), job == Job::Remove, "{what}");
            assert_eq!(world.token().await.as_deref(), job.leaves(), "{what}");
        }
    }
}

/// Each step of a change of the token, of the address, or of both at once: whoever
/// looks sees a cluster in use, with the old secret or the new one, whole.
#[tokio::test]
async fn a_rotation_has_no_gap() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let stepped = world.stepped(&gate);
    let changing = tokio::spawn(async move { Job::Change("second").run(&stepped).await });
    let mut seen = Vec::new();
    for _ in 0..12 {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        assert!(world.row().await.unwrap().state.is_usable());
        let credentials = world.credentials().await.unwrap();
        seen.push((credentials.api_url.clone(), credentials.token.expose_secret().to_owned()));
        gate.add_permits(1);
    }
    changing.await.unwrap().unwrap();
    seen.dedup();
    let pair = |url: &str, token: &str| (url.to_owned(), token.to_owned());
    assert_eq!(seen, [pair(URL, "first"), pair(OTHER_URL, "second")]);
    world.is_settled("rotated").await;
}

#[tokio::test]
async fn all_are_probed_and_of_what_needs_it_somebody_is_told() {
    let world = World::new();
    let registrar = world.registrar();
    for (name, token) in [
        ("fine", expiring("2027-11-23T12:00:00Z")),
        ("opaque", "t".to_owned()),
        ("ends", expiring("2026-12-23T12:00:00Z")),
    ] {
        registrar.enrol(new(name, &token)).await.unwrap();
    }
    registrar.enrol(new_by_eks("eks")).await.unwrap();
    let ca = NewCluster { ca_cert: Some("PEM until 2026-11-25T12:00:00Z".to_owned()), ..new("ca", "t") };
    registrar.enrol(ca).await.unwrap();
    for row in world.registry.list(100, None).await.unwrap().rows {
        assert!(row.last_probe.is_some());
    }
    world.clock.advance(60);
    let swept = registrar.probe_all().await.unwrap();
    assert_eq!(swept, Swept { probed: 5, attention: 2, left: 0 });
    let mut told = world.events.attention();
    told.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    assert_eq!(
        told,
        [
            Attention {
                cluster: "ca".to_owned(),
                name: "ca".to_owned(),
                probed_at: world.clock.now(),
                reason: None,
                message: "caCert expires at 2026-11-25T12:00:00Z, in a day; replace it before".to_owned(),
                token_expires_at: None,
                certificate_not_after: Some("2026-11-25T12:00:00Z".parse().unwrap()),
            },
            Attention {
                cluster: "ends".to_owned(),
                name: "ends".to_owned(),
                probed_at: world.clock.now(),
                reason: None,
                message: "serviceAccountToken expires at 2026-12-23T12:00:00Z, in 29 days; replace it before"
                    .to_owned(),
                token_expires_at: Some("2026-12-23T12:00:00Z".parse().unwrap()),
                certificate_not_after: Some("2028-01-01T00:00:00Z".parse().unwrap()),
            },
        ]
    );
    for row in world.registry.list(100, None).await.unwrap().rows {
        assert_eq!(row.last_probe.unwrap().at, world.clock.now(), "{}", row.id);
    }
    let secs = |at: &str| at.parse::<Timestamp>().unwrap().duration_since(world.clock.now()).as_secs();
    let server = secs("2028-01-01T00:00:00Z");
    let mut figures = world.figures.0.lock().unwrap().clone();
    figures.sort();
    assert_eq!(
        figures,
        [
            format!("ca true None Some({})", secs("2026-11-25T12:00:00Z")),
            format!("eks true None Some({server})"),
            format!("ends true Some({}) Some({server})", secs("2026-12-23T12:00:00Z")),
            format!("fine true Some({}) Some({server})", secs("2027-11-23T12:00:00Z")),
            format!("opaque true None Some({server})"),
        ]
    );
}

#[tokio::test]
async fn a_cluster_that_fails_and_a_bus_that_is_down_stop_no_sweep() {
    struct Down;
    #[async_trait]
    impl Events for Down {
        async fn deployment_finished(&self, _: &Answer) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn cluster_needs_attention(&self, _: &Attention) -> Result<(), StoreError> {
            Err(StoreError::Transient("the bus", "down".into()))
        }
    }
    let world = World::new();
    let registrar = Registrar { events: Arc::new(Down), ..world.registrar() };
    for n in 0..40 {
        registrar.enrol(new(&format!("c{n:02}"), "t")).await.unwrap();
    }
    registrar.enrol(new_by_eks("eks")).await.unwrap();
    registrar.enrol(new("lost", "t")).await.unwrap();
    world.vault.delete("lost").await.unwrap();
    world.prober.fails();
    world.eks.says(Says::Nothing);
    let swept = registrar.probe_all().await.unwrap();
    assert_eq!(swept, Swept { probed: 41, attention: 41, left: 1 });
    assert!(world.events.attention().is_empty());
    let figures = world.figures.0.lock().unwrap().clone();
    assert_eq!(figures.len(), 41);
    assert!(figures.contains(&"lost false None None".to_owned()), "{figures:?}");
    assert!(figures.contains(&"c39 false None None".to_owned()), "{figures:?}");
    world.eks.says(Says::Refused);
    let swept = world.registrar().probe_all().await.unwrap();
    assert_eq!(swept, Swept { probed: 42, attention: 42, left: 0 });
    let told = world.events.attention();
    let lost = told.iter().find(|it| it.cluster == "lost").unwrap();
    assert_eq!(lost.reason, Some(ProbeReason::CredentialsGone));
    assert!(lost.message.contains("PUT"), "{}", lost.message);
    let by_eks = told.iter().find(|it| it.cluster == "eks").unwrap();
    assert_eq!(by_eks.reason, Some(ProbeReason::EksRefused));
    assert!(by_eks.message.contains("no cluster Prod_EU-1"), "{}", by_eks.message);
    let by_token = told.iter().find(|it| it.cluster == "c00").unwrap();
    assert_eq!(by_token.reason, Some(ProbeReason::Unauthorized));
    assert!(by_token.message.contains("401"), "{}", by_token.message);
}

#[tokio::test(start_paused = true)]
async fn those_probed_longest_ago_come_first_and_who_is_not_reached_comes_next_time() {
    /// Takes ten seconds each.
    struct Slow(Arc<Script>, Mutex<[usize; 2]>);
    #[async_trait]
    impl Prober for Slow {
        async fn probe(&self, credentials: &Credentials, of: &Namespaces) -> Result<Findings, ProbeFailure> {
            {
                let mut running = self.1.lock().unwrap();
                running[0] += 1;
                running[1] = running[1].max(running[0]);
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            self.1.lock().unwrap()[0] -= 1;
            self.0.probe(credentials, of).await
        }
    }
    let world = World::new();
    let registrar = world.registrar();
    // 115 clusters, two pages: the last 15 were never probed, the others one by one,
    // the last of them first.
    for n in 0..115 {
        let cluster = new(&format!("c{n:03}"), &format!("t{n:03}"));
        registrar.register(cluster, Probing::Skipped).await.unwrap();
    }
    for n in (0..100).rev() {
        world.clock.advance(1);
        registrar.probe(&format!("c{n:03}")).await.unwrap();
    }
    world.prober.asked();
    world.clock.advance(86_400);
    let slow = Arc::new(Slow(world.prober.clone(), Mutex::default()));
    let swept = Registrar { prober: slow.clone(), ..registrar }.probe_all().await.unwrap();
    assert_eq!(swept, Swept { probed: 32, attention: 0, left: 83 });
    assert_eq!(slow.1.lock().unwrap()[1], 16);
    let mut asked: Vec<String> =
        world.prober.asked().iter().map(|(it, _)| it.token.expose_secret().to_owned()).collect();
    asked.sort();
    let expected: Vec<String> = (83..115).map(|n| format!("t{n:03}")).collect();
    assert_eq!(asked, expected);
    // Nobody who was not reached looks as if he had been.
    let mut stale = 0;
    for n in 0..115 {
        let row = world.registrar().get(&format!("c{n:03}")).await.unwrap();
        let fresh = row.last_probe.is_some_and(|it| it.at == world.clock.now());
        assert_eq!(fresh, n >= 83, "{n}");
        stale += usize::from(!fresh);
    }
    assert_eq!(stale, 83);
}

#[tokio::test]
async fn a_sweep_without_a_registry_is_an_error_and_of_no_clusters_none() {
    let world = World::new();
    assert_eq!(world.registrar().probe_all().await.unwrap(), Swept { probed: 0, attention: 0, left: 0 });
    let down = world.faulty(&Arc::default(), 1, Fault::Outage);
    assert!(matches!(down.probe_all().await, Err(RegisterError::Unavailable { retry_after_secs: 5, .. })));
}

#[tokio::test]
async fn a_sweep_passes_over_what_is_not_in_use() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    for state in [RowState::Registering, RowState::Deleting] {
        world.leave(state).await;
        assert_eq!(registrar.probe_all().await.unwrap(), Swept { probed: 0, attention: 0, left: 0 });
    }
    // Nor does it disturb a change.
    world.leave(RowState::Updating).await;
    let left = world.snapshot().await;
    world.clock.advance(5);
    assert_eq!(registrar.probe_all().await.unwrap(), Swept { probed: 1, attention: 0, left: 0 });
    assert_eq!(world.snapshot().await, left);
}
