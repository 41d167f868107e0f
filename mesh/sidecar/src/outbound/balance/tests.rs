//! The balancer's limits, in paused time.

use tokio::runtime::Handle;

use super::*;
use crate::control::Control;
use crate::http::RequestBody;
use crate::identity::Identity;
use crate::metrics::Registry;
use crate::outbound::Breakers;

const FAILFAST: Duration = Duration::from_secs(3);

fn shared() -> Arc<Shared> {
    let authority = rcgen::generate_simple_self_signed(vec!["authority".to_owned()]).unwrap();
    let config = crate::Config::from_lookup(|name| {
        let value = match name.trim_start_matches("LINKERD2_PROXY_") {
            "DESTINATION_SVC_ADDR" | "POLICY_SVC_ADDR" | "IDENTITY_SVC_ADDR" => "127.0.0.1:1",
            name if name.starts_with("IDENTITY_") || name == "POLICY_WORKLOAD" => "workload",
            _ => return None,
        };
        Some(value.to_owned())
    });
    let config = config.unwrap();
    let registry = Registry::default();
    let control = Control::new(&config, &registry, Handle::current(), Default::default());
    Arc::new(Shared {
        control,
        identity: Arc::new(Identity::new("workload", &authority.cert.pem()).unwrap()),
        registry,
        source: None,
        local_ips: Vec::new(),
        inbound_port: 4143,
        discovery_idle: FAILFAST,
        max_in_flight: 1,
        in_flight: Arc::default(),
        breakers: Breakers::default(),
    })
}

/// A balancer of an endpoint that sends nothing, or of none.
fn balancer(gone: bool) -> Arc<Balancer> {
    let shared = shared();
    let key = BalancerKey {
        path: "path".into(),
        http2: true,
        accrual: None,
        default_rtt: Duration::from_millis(30),
        decay: Duration::from_secs(10),
        queue: 10,
        failfast: FAILFAST,
    };
    let updates = watch::channel(Arc::default()).1;
    let balancer = Balancer::new(&shared, &"orders:1".into(), key, updates, &Labels::new());
    if gone {
        let endpoint = Arc::new(Endpoint::gone(&shared));
        let mut state = balancer.state.lock().unwrap();
        state.endpoints.push((([127, 0, 0, 1], 1).into(), endpoint));
        state.new = false;
    }
    balancer
}

async fn fails_after(balancer: &Balancer) -> Duration {
    let since = Instant::now();
    let request = Box::new(http::Request::new(RequestBody::empty()));
    let error = balancer.call(request).await.unwrap_err();
    assert!(matches!(error, ProxyError::FailFast(_)), "{error}");
    since.elapsed()
}

#[tokio::test(start_paused = true)]
async fn without_endpoints_requests_wait_once_and_then_fail_at_once() {
    let balancer = balancer(false);
    assert_eq!(fails_after(&balancer).await, FAILFAST);
    assert_eq!(fails_after(&balancer).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_sent_is_not_tried_for_good() {
    let balancer = balancer(true);
    // The balancer only yields meanwhile, with which paused time stands still.
    let clock = tokio::spawn(async {
        loop {
            tokio::time::advance(FAILFAST / 10).await;
        }
    });
    let after = fails_after(&balancer).await;
    clock.abort();
    assert!(after >= FAILFAST && after < 2 * FAILFAST, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn more_than_the_queue_holds_are_shed() {
    let balancer = balancer(false);
    let call = || {
        let balancer = Arc::clone(&balancer);
        async move {
            let request = Box::new(http::Request::new(RequestBody::empty()));
            balancer.call(request).await.unwrap_err()
        }
    };
    let calls = futures_util::future::join_all((0..=MIN_QUEUE).map(|_| call())).await;
    let shed = calls
        .iter()
        .filter(|error| matches!(error, ProxyError::LoadShed(_)));
    assert_eq!(shed.count(), 1);
}

#[tokio::test]
async fn a_pod_at_the_same_address_behind_another_proxy_is_another_pod() {
    let mut shared = Arc::into_inner(shared()).unwrap();
    let ip = std::net::IpAddr::from([127, 0, 0, 1]);
    shared.local_ips = vec![ip];
    assert!(shared.is_self(ip, Some(shared.inbound_port)));
    assert!(shared.is_self(ip, None));
    assert!(!shared.is_self(ip, Some(shared.inbound_port + 1)));
    assert!(!shared.is_self([127, 0, 0, 2].into(), Some(shared.inbound_port)));
}
