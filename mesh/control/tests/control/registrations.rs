//! The registry: leases, health, discovery, restarts.

use std::net::SocketAddr;
use std::time::Duration;

use chassis::Process;
use mesh_control::registry::spec::{CheckKind, CheckSpec, Health, InstanceSpec};
use mesh_control::registry::table::{Denied, MAX_INSTANCES, Refused, Table};
use sagamesh_api::mesh::v1::check::Kind;
use sagamesh_api::mesh::v1::{
    self as api, Check, Choice, DiscoverRequest, GrpcCheck, ListInstancesRequest, PodRef,
    RegisterRequest, RenewRequest, WatchRequest,
};
use tokio::time::Instant;
use tonic::Code;
use tonic::service::Routes;

use crate::rig::{Rig, by};

/// A registration of a pod without checks.
pub(crate) fn instance(service: &str, pod: &str, ip: &str) -> RegisterRequest {
    RegisterRequest {
        instance: Some(api::InstanceSpec {
            service: service.to_owned(),
            instance_id: pod.to_owned(),
            address: ip.to_owned(),
            port: 50051,
            pod: Some(PodRef {
                name: pod.to_owned(),
                ..PodRef::default()
            }),
            ..api::InstanceSpec::default()
        }),
    }
}

/// A registration outside of the mesh.
fn outside(service: &str, id: &str, address: SocketAddr, checks: Vec<Check>) -> RegisterRequest {
    RegisterRequest {
        instance: Some(api::InstanceSpec {
            service: service.to_owned(),
            instance_id: id.to_owned(),
            address: address.ip().to_string(),
            port: u32::from(address.port()),
            checks,
            ..api::InstanceSpec::default()
        }),
    }
}

fn grpc_check() -> Check {
    Check {
        interval: Some(chassis::timestamp::from_duration(Duration::from_millis(
            100,
        ))),
        kind: Some(Kind::Grpc(GrpcCheck::default())),
        ..Check::default()
    }
}

fn discover(service: &str, choice: Choice, limit: i32) -> DiscoverRequest {
    DiscoverRequest {
        service: service.to_owned(),
        choice: choice.into(),
        limit,
        ..DiscoverRequest::default()
    }
}

#[tokio::test]
async fn health_is_followed_up_and_down() {
    let mut rig = Rig::started().await;
    let served = Process::for_test("orders");
    let (address, tasks) = (served.grpc_addr(), served.tasks.clone());
    let running = tokio::spawn(served.serve(Routes::default(), &[]));

    let mut watch = rig
        .registry()
        .watch(WatchRequest {
            service: "orders".to_owned(),
            tag: String::new(),
        })
        .await
        .expect("a stream")
        .into_inner();
    let mut next = async || {
        watch
            .message()
            .await
            .expect("no error")
            .expect("a message")
            .instances
    };
    assert!(next().await.is_empty());
    let registered = rig
        .registry()
        .register(outside("orders", "orders-a", address, vec![grpc_check()]))
        .await
        .expect("registered")
        .into_inner()
        .instance
        .expect("an instance");
    assert_eq!(
        registered.health(),
        api::Health::Critical,
        "not checked yet"
    );
    let up = next().await;
    assert_eq!(up[0].health(), api::Health::Passing);
    let found = rig
        .registry()
        .discover(discover("orders", Choice::Random, 0))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(found.instances.len(), 1);

    tasks.begin_drain();
    assert!(
        next().await.is_empty(),
        "an instance that does not serve is withdrawn"
    );
    running.await.expect("no panic").expect("no error");
    let found = rig
        .registry()
        .discover(discover("orders", Choice::Random, 0))
        .await
        .expect("an answer")
        .into_inner();
    assert!(found.instances.is_empty());
    let listed = rig
        .registry()
        .list_instances(ListInstancesRequest::default())
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(listed.instances[0].health(), api::Health::Critical);
    rig.drain().await;
}

#[tokio::test]
async fn the_registry_outlives_its_process() {
    let mut rig = Rig::started().await;
    let served = Process::for_test("orders");
    let (address, tasks) = (served.grpc_addr(), served.tasks.clone());
    let running = tokio::spawn(served.serve(Routes::default(), &[]));
    let mut watch = rig
        .registry()
        .watch(WatchRequest {
            service: "orders".to_owned(),
            tag: String::new(),
        })
        .await
        .expect("a stream")
        .into_inner();
    rig.registry()
        .register(outside("orders", "orders-a", address, vec![grpc_check()]))
        .await
        .expect("registered");
    while watch
        .message()
        .await
        .expect("no error")
        .expect("a message")
        .instances
        .is_empty()
    {}
    rig.registry()
        .register(by(
            "inventory-0",
            instance("inventory", "inventory-0", "127.77.0.3"),
        ))
        .await
        .expect("registered");
    rig.kill().await;
    rig.start().await;
    // Healthy at once, before any check has run again: nothing is withdrawn by a restart.
    for service in ["orders", "inventory"] {
        let found = rig
            .registry()
            .discover(discover(service, Choice::Random, 10))
            .await
            .expect("an answer")
            .into_inner();
        assert_eq!(found.instances.len(), 1, "{service}");
    }
    tasks.begin_drain();
    running.await.expect("no panic").expect("no error");
    rig.drain().await;
}

#[tokio::test]
async fn discovery_prefers_the_least_loaded() {
    let mut rig = Rig::started().await;
    for (id, load) in [("a", 3.0), ("b", 1.0), ("c", 2.0)] {
        let address = SocketAddr::from(([127, 0, 0, 1], 1000));
        rig.registry()
            .register(outside("shop", id, address, Vec::new()))
            .await
            .expect("registered");
        rig.registry()
            .renew(RenewRequest {
                instance_id: id.to_owned(),
                load: Some(load),
                reports: Vec::new(),
            })
            .await
            .expect("renewed");
    }
    let found = rig
        .registry()
        .discover(discover("shop", Choice::LeastLoaded, 10))
        .await
        .expect("an answer")
        .into_inner();
    let ids: Vec<String> = found
        .instances
        .into_iter()
        .filter_map(|one| Some(one.spec?.instance_id))
        .collect();
    assert_eq!(ids, ["b", "c", "a"]);
    let first = rig
        .registry()
        .list_instances(ListInstancesRequest {
            page_size: 2,
            ..ListInstancesRequest::default()
        })
        .await
        .expect("a page")
        .into_inner();
    assert_eq!(first.instances.len(), 2);
    let second = rig
        .registry()
        .list_instances(ListInstancesRequest {
            page_size: 2,
            page_token: first.next_page_token,
            ..ListInstancesRequest::default()
        })
        .await
        .expect("a page")
        .into_inner();
    assert_eq!(second.instances.len(), 1);
    assert!(second.next_page_token.is_empty());
    rig.drain().await;
}

#[tokio::test]
async fn bad_registrations_are_refused() {
    let mut rig = Rig::started().await;
    let address = SocketAddr::from(([127, 0, 0, 1], 1000));
    let with = |change: &dyn Fn(&mut api::InstanceSpec)| {
        let mut request = outside("shop", "a", address, Vec::new());
        change(request.instance.as_mut().expect("an instance"));
        request
    };
    let cases: Vec<(&str, RegisterRequest)> = vec![
        (
            "instance.service",
            with(&|spec| spec.service = "a/b".to_owned()),
        ),
        (
            "instance.instance_id",
            with(&|spec| spec.instance_id = String::new()),
        ),
        (
            "instance.address",
            with(&|spec| spec.address = "a b".to_owned()),
        ),
        ("instance.port", with(&|spec| spec.port = 70_000)),
        (
            "instance.tags",
            with(&|spec| spec.tags = vec!["x".to_owned(); 33]),
        ),
        (
            "instance.lease_ttl",
            with(&|spec| {
                spec.lease_ttl = Some(chassis::timestamp::from_duration(Duration::from_millis(1)));
            }),
        ),
        (
            "instance.checks",
            with(&|spec| spec.checks = vec![grpc_check(); 9]),
        ),
        (
            "instance.checks[0].kind",
            with(&|spec| spec.checks = vec![Check::default()]),
        ),
        (
            "instance.checks[0].interval",
            with(&|spec| {
                let mut check = grpc_check();
                check.interval = Some(chassis::timestamp::from_duration(Duration::from_nanos(1)));
                spec.checks = vec![check];
            }),
        ),
    ];
    for (field, request) in cases {
        let status = rig.registry().register(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let fields: Vec<String> = chassis::problem::fields(&status)
            .into_iter()
            .map(|(field, _)| field)
            .collect();
        assert!(fields.contains(&field.to_owned()), "{field}: {fields:?}");
    }
    // Nobody takes a pod's place.
    for (pod, ip, code, reason) in [
        (
            "nobody-0",
            "127.77.0.2",
            Code::Unauthenticated,
            "TOKEN_REFUSED",
        ),
        (
            "../orders-0",
            "127.77.0.2",
            Code::Unauthenticated,
            "TOKEN_REFUSED",
        ),
        (
            "orders-0",
            "127.0.0.1",
            Code::FailedPrecondition,
            "POD_MISMATCH",
        ),
    ] {
        let mut request = instance("orders", pod, ip);
        if let Some(spec) = request.instance.as_mut() {
            spec.instance_id = "x".to_owned();
        }
        let status = rig
            .registry()
            .register(by(pod, request))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(chassis::problem::reason(&status).as_deref(), Some(reason));
    }
    let unknown = RenewRequest {
        instance_id: "nobody".to_owned(),
        ..RenewRequest::default()
    };
    let status = rig.registry().renew(unknown).await.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    rig.drain().await;
}

fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        service: "shop".to_owned(),
        id: id.to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 1000,
        tags: Vec::new(),
        meta: Default::default(),
        checks: Vec::new(),
        pod: None,
        lease: None,
    }
}

#[test]
fn leases_and_reports_run_out() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut table = Table::default();
    let mut leased = spec("leased");
    leased.lease = Some(Duration::from_secs(10));
    let mut reported = spec("reported");
    reported.checks = vec![CheckSpec {
        critical_limit: None,
        id: "alive".to_owned(),
        name: String::new(),
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        initial: Health::Critical,
        kind: CheckKind::Ttl {
            ttl: Duration::from_secs(5),
        },
    }];
    table.register(leased, 0, now).expect("taken");
    table.register(reported, 0, now).expect("taken");
    let health = |table: &Table| table.get("reported").map(|entry| entry.health());
    assert_eq!(health(&table), Some(Health::Critical), "not reported yet");
    assert_eq!(table.report_ttl("alive", Health::Passing, "", now), Ok(()));
    assert_eq!(
        table.report_ttl("other", Health::Passing, "", now),
        Err(Denied::Unknown)
    );
    assert_eq!(health(&table), Some(Health::Passing));
    assert!(table.expire(later(4)).is_empty());
    assert_eq!(health(&table), Some(Health::Passing));
    assert!(table.expire(later(5)).is_empty());
    assert_eq!(health(&table), Some(Health::Critical));
    let mut ill = spec("ill");
    ill.checks = table.get("reported").expect("there").spec.checks.clone();
    ill.checks[0].critical_limit = Some(Duration::from_secs(8));
    table.register(ill, 0, later(5)).expect("taken");
    assert!(table.expire(later(6)).is_empty());
    table
        .renew("leased", None, None, &[], later(9))
        .expect("there");
    assert!(table.expire(later(13)).is_empty());
    assert_eq!(table.expire(later(14)), ["ill"], "critical since 6");
    assert!(table.expire(later(18)).is_empty());
    assert_eq!(table.expire(later(19)), ["leased"]);
    assert!(table.get("leased").is_none());
}

#[test]
fn only_a_check_that_says_so_ends_an_instance_that_is_critical() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut table = Table::default();
    let check = |id: &str, limit: Option<u64>, ttl| CheckSpec {
        id: id.to_owned(),
        name: id.to_owned(),
        interval: Duration::ZERO,
        timeout: Duration::from_secs(1),
        initial: Health::Passing,
        critical_limit: limit.map(Duration::from_secs),
        kind: CheckKind::Ttl {
            ttl: Duration::from_secs(ttl),
        },
    };
    let mut ill = spec("ill");
    ill.checks = vec![check("silent", None, 1), check("limited", Some(60), 100)];
    table.register(ill, 0, now).expect("taken");
    assert!(table.expire(later(1)).is_empty());
    assert!(table.expire(later(90)).is_empty(), "the other one is well");
    assert!(table.expire(later(100)).is_empty());
    assert!(table.expire(later(159)).is_empty());
    assert_eq!(table.expire(later(160)), ["ill"], "critical since 100");
}

#[test]
fn strangers_do_not_keep_pods_out() {
    let now = Instant::now();
    let mut table = Table::default();
    for number in 0..MAX_INSTANCES {
        let stranger = spec(&number.to_string());
        table.register(stranger, 0, now).expect("taken");
    }
    let refused = table.register(spec("one more"), 0, now);
    assert_eq!(refused.err(), Some(Refused::Full));
    let mut pod = spec("orders-0");
    pod.pod = Some("orders-0".into());
    table.register(pod, 0, now).expect("a pod");
}

#[test]
fn the_same_registration_again_changes_nothing() {
    let now = Instant::now();
    let mut table = Table::default();
    table.register(spec("a"), 0, now).expect("taken");
    let index = table.index();
    assert!(!table.register(spec("a"), 5, now).expect("taken").is_new);
    assert_eq!(table.index(), index);
    let mut other = spec("a");
    other.tags = vec!["new".to_owned()];
    let replaced = table.register(other, 5, now).expect("taken");
    assert!(replaced.is_new);
    assert_eq!(replaced.entry.registered_at, 0);
    // What an older check found is not listened to.
    table.report("a", index, "x", Health::Critical, "", now);
    assert_eq!(
        table.get("a").map(|entry| entry.health()),
        Some(Health::Passing)
    );
}

#[test]
fn a_pod_is_replaced_by_itself_alone() {
    let now = Instant::now();
    let mut table = Table::default();
    let mut pod = spec("orders-0");
    pod.pod = Some("orders-0".to_owned());
    table.register(pod.clone(), 0, now).expect("taken");
    assert_eq!(
        table.register(spec("orders-0"), 0, now).err(),
        Some(Refused::IsPod)
    );
    pod.tags = vec!["new".to_owned()];
    assert!(table.register(pod, 0, now).is_ok());
}

#[test]
fn time_in_which_nobody_could_renew_does_not_count() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut table = Table::default();
    let mut leased = spec("leased");
    leased.lease = Some(Duration::from_secs(10));
    table.register(leased, 0, now).expect("taken");
    table.stood_still(Duration::from_secs(60));
    assert!(table.expire(later(69)).is_empty());
    assert_eq!(table.expire(later(70)), ["leased"]);
}

#[test]
fn the_registry_has_an_end() {
    let now = Instant::now();
    let mut table = Table::default();
    for number in 0..MAX_INSTANCES {
        table
            .register(spec(&number.to_string()), 0, now)
            .expect("taken");
    }
    assert_eq!(
        table.register(spec("more"), 0, now).err(),
        Some(Refused::Full)
    );
    assert!(
        table.register(spec("0"), 0, now).is_ok(),
        "known ones go on"
    );
}
