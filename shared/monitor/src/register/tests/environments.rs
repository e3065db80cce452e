//! A cluster that an environment names stays, whatever happens at the same time.

use super::*;
use crate::{
    environments::{EnvironmentDesk, EnvironmentError},
    request::{EnvironmentSpec, parse_environment},
};

fn spec() -> EnvironmentSpec {
    let target = serde_json::json!({"cluster": "Prod EU", "namespace": "shop", "release": "checkout"});
    parse_environment(&serde_json::json!({"helmType": "flux", "targets": [target]})).unwrap()
}

async fn put<R>(registry: Arc<R>, clock: Arc<Hand>) -> Result<(), EnvironmentError>
where
    R: Registry + Environments + 'static,
{
    let desk = EnvironmentDesk { registry: registry.clone(), environments: registry, clock };
    desk.put("checkout", "production", spec()).await.map(drop)
}

impl World {
    async fn names_it(&self) {
        put(self.registry.clone(), self.clock.clone()).await.unwrap();
    }

    async fn is_named(&self) -> bool {
        self.registry.environment("checkout", "production").await.unwrap().is_some()
    }

    async fn is_usable(&self, what: &str) {
        assert!(self.row().await.unwrap_or_else(|| panic!("{what}: gone")).state.is_usable(), "{what}");
        self.is_settled(what).await;
    }
}

fn in_use(result: Result<(), RegisterError>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(error.retry_after_secs(), None);
    assert_eq!(
        error.to_string(),
        "prod-eu is named by checkout/production; change or remove them first",
        "{what}"
    );
}

#[tokio::test]
async fn a_cluster_that_is_named_stays_as_it_is() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    world.names_it().await;
    let before = world.snapshot().await;
    in_use(registrar.remove("prod-eu").await, "named");
    assert_eq!(world.snapshot().await, before, "who asks in vain disturbs nobody");
    world.registry.remove_environment("checkout", "production").await.unwrap();
    registrar.remove("prod-eu").await.unwrap();
    world.is_settled("removed").await;
    assert_eq!(world.row().await, None);
}

#[tokio::test]
async fn of_an_environment_and_a_removal_at_once_one_wins_in_whatever_order_they_step() {
    let mut both = [0, 0];
    for order in orders(6, 3) {
        let what = format!("{order:?}");
        let world = World::new();
        world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
        let before = world.row().await.unwrap();
        let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
        let registrar = world.stepped(&gates[0]);
        let removal = tokio::spawn(async move { registrar.remove("prod-eu").await });
        let environment = tokio::spawn(put(Stepped::new(&world.registry, &gates[1]), world.clock.clone()));
        for who in order {
            gates[who].add_permits(1);
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        gates.iter().for_each(|gate| gate.add_permits(10));
        let (removal, environment) = (removal.await.unwrap(), environment.await.unwrap());
        if environment.is_ok() {
            both[0] += 1;
            in_use(removal, &what);
            world.is_usable(&what).await;
            let after = world.row().await.unwrap();
            assert_eq!(ClusterRow { nonce: before.nonce.clone(), ..after }, before, "{what}");
        } else {
            both[1] += 1;
            removal.expect(&what);
            assert!(
                matches!(environment, Err(EnvironmentError::Invalid(_) | EnvironmentError::Busy)),
                "{what}"
            );
            assert!(!world.is_named().await, "{what}");
            assert_eq!(world.row().await, None, "{what}");
            world.is_settled(&what).await;
        }
    }
    assert!(both.iter().all(|count| *count > 5), "{both:?}");
}

/// The environment is stored, or not, once the removal has made some steps; then the
/// removal breaks off at a later one.
#[tokio::test]
async fn wherever_a_removal_breaks_off_no_environment_names_what_is_gone() {
    let mut cases = [0, 0];
    for fault in [Fault::Before, Fault::After, Fault::CrashBefore, Fault::CrashAfter, Fault::Outage] {
        for (steps, at) in (0..7).flat_map(|steps| (1..9).map(move |at| (steps, at))) {
            let what = format!("{fault:?} at call {at}, the environment after {steps} steps");
            // A task that never waits is made to by tokio, and would look like one that hangs.
            tokio::task::yield_now().await;
            let world = World::new();
            world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
            let (gate, calls) = (Arc::new(Semaphore::new(steps)), Arc::new(AtomicUsize::new(0)));
            let registrar = world.through(
                Faulty::new(&Stepped::new(&world.registry, &gate), &calls, at, fault),
                Faulty::new(&Stepped::new(&world.vault, &gate), &calls, at, fault),
            );
            let mut removal = Box::pin(registrar.remove("prod-eu"));
            let early = (&mut removal).now_or_never();
            let environment = put(world.registry.clone(), world.clock.clone()).await;
            gate.add_permits(20);
            let removed = early.or_else(|| removal.now_or_never());
            world.no_stray_credentials(&what).await;

            let named = world.is_named().await;
            assert_eq!(named, environment.is_ok(), "{what}");
            cases[usize::from(named)] += 1;
            world.clock.advance(60);
            if named {
                assert!(!matches!(removed, Some(Ok(()))), "{what}");
                let registrar = world.registrar();
                in_use(registrar.remove("prod-eu").await, &what);
                world.is_usable(&what).await;
                assert_eq!(world.token().await.as_deref(), Some("first"), "{what}");
                world.registry.remove_environment("checkout", "production").await.unwrap();
                registrar.remove("prod-eu").await.expect(&what);
            } else if let Err(error) = world.registrar().remove("prod-eu").await {
                assert!(matches!(error, RegisterError::Unknown), "{what}: {error:?}");
            }
            assert_eq!(world.row().await, None, "{what}");
            world.is_settled(&what).await;
        }
    }
    assert!(cases.iter().all(|count| *count > 50), "{cases:?}");
}

#[tokio::test]
async fn whatever_breaks_off_over_a_broken_removal_the_named_cluster_keeps_its_row() {
    for left in [RowState::Deleting, RowState::Registering] {
        for fault in [Fault::Before, Fault::After, Fault::CrashBefore, Fault::CrashAfter, Fault::Outage] {
            for (job, at) in [Job::Register("second"), Job::Remove]
                .into_iter()
                .flat_map(|job| (1..9).map(move |at| (job, at)))
            {
                let what = format!("{job:?} of {left:?}, {fault:?} at call {at}");
                let world = World::new();
                world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
                world.names_it().await;
                world.leave(left).await;
                world.clock.advance(60);
                let _ = job.run(&world.faulty(&Arc::default(), at, fault)).now_or_never();
                assert!(world.row().await.is_some(), "{what}");
                assert!(world.secret().await.is_some(), "{what}");

                // And it can be mended: by removing in vain what was half removed, by
                // registering what was half registered.
                world.clock.advance(60);
                in_use(world.registrar().remove("prod-eu").await, &what);
                if !world.row().await.unwrap().state.is_usable() {
                    world.registrar().enrol(new("Prod EU", "second")).await.expect(&what);
                }
                world.is_usable(&what).await;
            }
        }
    }
}

#[tokio::test]
async fn a_removal_that_broke_off_is_shown_as_the_vault_holds_it() {
    for by_eks in [false, true] {
        let world = World::new();
        let registrar = world.registrar();
        let first = if by_eks { new_by_eks("Prod EU") } else { new("Prod EU", "first") };
        registrar.enrol(first).await.unwrap();
        world.names_it().await;
        world.leave(RowState::Deleting).await;
        // As a registration that broke off before it came to the vault would leave it.
        let row = world.row().await.unwrap();
        let nonce = row.nonce.clone();
        let row = ClusterRow { tls_server_name: None, namespaces: Namespaces::default(), ..row };
        let row = if by_eks { row } else { ClusterRow { api_url: OTHER_URL.to_owned(), ..row } };
        assert_eq!(world.registry.put(&row, Expected::Nonce(&nonce)).await.unwrap(), Stored::Yes);
        world.clock.advance(60);
        in_use(registrar.remove("prod-eu").await, "restored");
        world.is_usable("restored").await;
    }
}

#[tokio::test]
async fn a_named_cluster_without_credentials_waits_for_a_registration() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    world.names_it().await;
    world.leave(RowState::Deleting).await;
    world.vault.delete("prod-eu").await.unwrap();
    world.clock.advance(60);
    in_use(registrar.remove("prod-eu").await, "without credentials");
    assert_eq!(world.row().await.unwrap().state, RowState::Deleting);
    registrar.enrol(new("Prod EU", "second")).await.unwrap();
    world.is_usable("registered again").await;
}
