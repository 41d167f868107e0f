use super::*;

fn refused(only: &[&str], replicas: &[(&str, u32)], postgres: bool) -> String {
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    let replicas: Vec<_> = replicas
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    Plan::new(&only, &replicas, postgres)
        .map(|plan| format!("{plan:?}"))
        .unwrap_or_else(|failure| failure.message)
}

#[test]
fn replicas_need_a_shared_database() {
    assert!(refused(&[], &[("orders", 2)], false).contains("needs --postgres"));
    assert!(refused(&[], &[("coordinator", 2)], false).contains("needs --postgres"));
    assert!(refused(&[], &[("coordinator", 4)], true).contains("1 to 3"));
    assert!(refused(&[], &[("gateway", 2)], false).starts_with("Plan"));
    assert!(refused(&[], &[("orders", 0)], true).contains("1 to 5"));
    assert!(refused(&[], &[("order", 2)], true).contains("no service named order"));
    assert!(refused(&["gatway"], &[], true).contains("no service named gatway"));
}

fn place<'a>(addresses: &'a Addresses, mesh: Option<&'a Layout>) -> Place<'a> {
    Place {
        data_dir: Path::new("/data"),
        addresses,
        postgres: None,
        mesh,
    }
}

fn layout() -> Layout {
    Layout {
        policy_dir: "/data/mesh/policy".into(),
        consul: ([127, 0, 0, 1], 8_500).into(),
        certificate_lifetime: None,
        proxy: None,
    }
}

#[test]
fn what_the_launcher_sets_is_never_inherited() -> Result<(), Failure> {
    let plan = Plan::new(&[], &[], false)?;
    let addresses = Addresses::for_test(true);
    for mesh in [None, Some(&layout())] {
        for instance in plan.instances(place(&addresses, mesh)) {
            for name in instance.environment.keys() {
                assert!(
                    OWN_VARIABLES.contains(&name.as_str()) || name.starts_with(SIDECAR_VARIABLES),
                    "{name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn each_replica_has_its_own_address_log_and_one_database() -> Result<(), Failure> {
    let plan = Plan::new(&["orders".into()], &[("orders".into(), 2)], true)?;
    let urls = BTreeMap::from([("orders", "postgres://localhost/sagamesh_orders".to_owned())]);
    let addresses = Addresses::for_test(true);
    let instances = plan.instances(Place {
        postgres: Some(&urls),
        ..place(&addresses, None)
    });
    assert_eq!(instances.len(), 2);
    assert_eq!(instances[1].log, Path::new("/data/logs/orders-1.log"));
    assert_ne!(instances[0].listen, instances[1].listen);
    assert_eq!(
        instances[0].environment["SAGAMESH_DATABASE_URL"],
        instances[1].environment["SAGAMESH_DATABASE_URL"]
    );
    assert_eq!(
        instances[0].environment["SAGAMESH_COORDINATOR"],
        format!("http://{}", addresses.pod("coordinator", 0).grpc)
    );
    Ok(())
}

#[test]
fn in_a_mesh_every_process_has_a_sidecar_and_peers_have_names() -> Result<(), Failure> {
    let plan = Plan::new(&[], &[("orders".into(), 2)], true)?;
    let addresses = Addresses::for_test(true);
    let layout = layout();
    let instances = plan.instances(place(&addresses, Some(&layout)));
    let of = |role| instances.iter().filter(move |one| one.role == role);
    assert_eq!(of(Role::Control).count(), 1);
    assert_eq!(
        of(Role::Sidecar).count(),
        of(Role::Service).count() + 1,
        "and the operator's"
    );
    for service in of(Role::Service) {
        let pod = addresses.pod(service.service, service.replica);
        let environment = &service.environment;
        assert_eq!(
            environment["SAGAMESH_MESH_OUTBOUND"],
            pod.outbound.to_string()
        );
        assert_eq!(
            environment["SAGAMESH_ORDERS"],
            "http://orders.sagamesh.svc.cluster.local:50051"
        );
    }
    let labels: std::collections::BTreeSet<_> = instances.iter().map(|one| &one.log).collect();
    assert_eq!(labels.len(), instances.len(), "each has its own log");
    Ok(())
}

#[test]
fn several_gateways_are_pods_behind_the_public_port() -> Result<(), Failure> {
    let addresses = Addresses::for_test(true);
    let layout = layout();
    let place = place(&addresses, Some(&layout));
    for (count, shared) in [(1, false), (2, true)] {
        let plan = Plan::new(&[], &[("gateway".into(), count)], false)?;
        let at_public = plan
            .instances(place)
            .iter()
            .filter(|one| one.listen == addresses.public())
            .count();
        assert_eq!(at_public == 0, shared, "{count}");
        for replica in 0..count {
            let pod = addresses.pod("gateway", replica);
            let workloads = plan.workloads(&addresses);
            let workload = workloads
                .iter()
                .find(|one| one.pod == format!("gateway-{replica}"));
            let port = workload.and_then(|one| one.ports.get("http").copied());
            let expected = if shared { pod.http } else { addresses.public() };
            assert_eq!(port, Some(expected.port()));
        }
        // Whoever holds it, that it is free is looked at.
        let wanted = plan.listens(place);
        let public = wanted.iter().filter(|(_, at)| *at == addresses.public());
        assert_eq!(public.count(), 1, "{wanted:?}");
    }
    Ok(())
}

#[test]
fn each_replica_of_the_coordinator_has_a_name_and_participants_know_all() -> Result<(), Failure> {
    let plan = Plan::new(&[], &[("coordinator".into(), 3)], true)?;
    let addresses = Addresses::for_test(true);
    let layout = layout();
    for mesh in [None, Some(&layout)] {
        let instances = plan.instances(place(&addresses, mesh));
        let own: Vec<_> = instances
            .iter()
            .filter(|one| one.role == Role::Service && one.service == "coordinator")
            .map(|one| one.environment["SAGAMESH_REPLICA_ADDRESS"].clone())
            .collect();
        let names: Vec<_> = instances
            .iter()
            .filter_map(|one| one.environment.get("SAGAMESH_REPLICA"))
            .collect();
        assert_eq!(names, ["coordinator-0", "coordinator-1", "coordinator-2"]);
        let orders = instances.iter().find(|one| one.label == "orders");
        assert_eq!(
            orders.map(|one| one.environment["SAGAMESH_COORDINATOR_REPLICAS"].as_str()),
            Some(own.join(",").as_str())
        );
    }
    Ok(())
}
