//! Instances that are pods: only who has the pod's token changes them.

use std::time::Duration;

use sagamesh_api::mesh::v1::check::Kind;
use sagamesh_api::mesh::v1::{
    Check, CheckResult, DeregisterRequest, Health, ListInstancesRequest, RegisterRequest,
    RenewRequest, TcpCheck, TtlCheck,
};
use tonic::{Code, Request, Status};

use crate::registrations::instance;
use crate::rig::{Rig, SECRET, with_token};

/// The pod `orders-0`, which reports one check and has another one run.
fn registration() -> RegisterRequest {
    let mut request = instance("orders", "orders-0", "127.77.0.2");
    let check = |id: &str, kind| Check {
        check_id: id.to_owned(),
        kind: Some(kind),
        ..Check::default()
    };
    let ttl = TtlCheck {
        ttl: Some(chassis::timestamp::from_duration(Duration::from_secs(60))),
    };
    request.instance.as_mut().expect("an instance").checks = vec![
        check("alive", Kind::Ttl(ttl)),
        check("open", Kind::Tcp(TcpCheck::default())),
    ];
    request
}

fn report(check: &str, health: Health) -> RenewRequest {
    RenewRequest {
        instance_id: "orders-0".to_owned(),
        load: None,
        reports: vec![CheckResult {
            check_id: check.to_owned(),
            health: health.into(),
            output: String::new(),
        }],
    }
}

fn removal() -> DeregisterRequest {
    DeregisterRequest {
        instance_id: "orders-0".to_owned(),
    }
}

fn sent<T>(token: Option<&str>, message: T) -> Request<T> {
    match token {
        Some(token) => with_token(token, message),
        None => Request::new(message),
    }
}

/// All three, with this token.
async fn attempts(rig: &Rig, token: Option<&str>) -> [Result<(), Status>; 3] {
    let mut registry = rig.registry();
    let registered = registry.register(sent(token, registration())).await;
    let critical = report("alive", Health::Critical);
    let renewed = registry.renew(sent(token, critical)).await;
    let removed = registry.deregister(sent(token, removal())).await;
    [registered.map(drop), renewed.map(drop), removed.map(drop)]
}

/// The health that the pod's check `alive` last reported.
async fn alive(rig: &Rig) -> Option<Health> {
    let listed = rig
        .registry()
        .list_instances(ListInstancesRequest::default())
        .await
        .expect("a list")
        .into_inner();
    let pod = listed.instances.first()?;
    pod.checks.first().map(CheckResult::health)
}

#[tokio::test]
async fn a_pod_is_changed_by_itself_alone() {
    let mut rig = Rig::started().await;
    let own = format!("Bearer orders-0.{SECRET}");
    let other = format!("Bearer payments-0.{SECRET}");
    let scheme = format!("Basic orders-0.{SECRET}");
    let wrong = [
        (None, Code::Unauthenticated),
        (Some(scheme.as_str()), Code::Unauthenticated),
        (
            Some("Bearer orders-0.fedcba9876543210"),
            Code::Unauthenticated,
        ),
        (Some("Bearer orders-0"), Code::Unauthenticated),
        (Some(other.as_str()), Code::PermissionDenied),
    ];
    // There is nothing yet that could be renewed or removed; the place is not taken by others.
    for (token, code) in wrong {
        let [registered, ..] = attempts(&rig, token).await;
        assert_eq!(registered.expect_err("refused").code(), code, "{token:?}");
        assert_eq!(alive(&rig).await, None, "{token:?}");
    }
    let mut registry = rig.registry();
    registry
        .register(sent(Some(&own), registration()))
        .await
        .expect("registered");
    registry
        .renew(sent(Some(&own), report("alive", Health::Passing)))
        .await
        .expect("renewed");
    assert_eq!(alive(&rig).await, Some(Health::Passing));
    for (token, code) in wrong {
        for outcome in attempts(&rig, token).await {
            let status = outcome.expect_err("refused");
            assert_eq!(status.code(), code, "{token:?}: {status}");
            assert!(!status.message().is_empty(), "{token:?}");
            assert!(!status.message().contains(SECRET), "{token:?}");
        }
        assert_eq!(alive(&rig).await, Some(Health::Passing), "{token:?}");
    }
    for outcome in attempts(&rig, Some(&own)).await {
        outcome.expect("its own token");
    }
    assert_eq!(alive(&rig).await, None, "gone");
    rig.drain().await;
}

#[tokio::test]
async fn only_checks_that_wait_for_reports_take_them() {
    let mut rig = Rig::started().await;
    let own = format!("Bearer orders-0.{SECRET}");
    let mut registry = rig.registry();
    registry
        .register(sent(Some(&own), registration()))
        .await
        .expect("registered");
    for check in ["open", "nothing"] {
        let mut request = report("alive", Health::Passing);
        request
            .reports
            .extend(report(check, Health::Passing).reports);
        let status = registry
            .renew(sent(Some(&own), request))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{check}");
        assert!(status.message().contains(check), "{status}");
        let fields = chassis::problem::fields(&status);
        assert_eq!(fields[0].0, "reports[1].check_id");
        assert_eq!(alive(&rig).await, Some(Health::Critical), "all or nothing");
    }
    rig.drain().await;
}
