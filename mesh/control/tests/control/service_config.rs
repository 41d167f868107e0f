//! The service config for clients outside of the mesh.

use std::path::Path;

use mesh_control::policy;
use mesh_control::service_config::service_config;

use crate::rig::real_policy;

/// The one in `clients/`, which clients copy, says what the policy files say.
#[test]
fn the_published_service_config_is_that_of_the_policy_files() {
    let derived = service_config(&policy::read(&real_policy()).expect("a policy"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/service-config.json");
    let text = std::fs::read_to_string(path).expect("clients/service-config.json");
    let published: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        published == derived,
        "clients/service-config.json is not what the policy files say: run `make service-config`"
    );
}

#[test]
fn methods_have_the_timeouts_and_retries_of_their_routes_and_streams_have_none() {
    let config = service_config(&policy::read(&real_policy()).expect("a policy"));
    let of = |service: &str, method: &str| {
        let name = serde_json::json!({ "service": service, "method": method });
        let methods = config["methodConfig"].as_array().expect("a list");
        let mut found = methods.iter().filter(|config| {
            let names = config["name"].as_array().expect("names");
            names.contains(&name)
        });
        let one = found.next().cloned();
        assert!(found.next().is_none(), "{name} is there twice");
        one
    };
    let place = of("shop.orders.v1.OrderService", "PlaceOrder").expect("PlaceOrder");
    assert_eq!(place["timeout"], "10s");
    assert_eq!(place["retryPolicy"]["maxAttempts"], 3);
    assert_eq!(
        place["retryPolicy"]["retryableStatusCodes"],
        serde_json::json!(["UNAVAILABLE"])
    );
    // It may come without a request id: never repeated.
    let cancel = of("shop.orders.v1.OrderService", "CancelOrder").expect("CancelOrder");
    assert_eq!(cancel["timeout"], "10s");
    assert!(cancel.get("retryPolicy").is_none());
    assert!(of("shop.orders.v1.OrderService", "WatchOrder").is_none());
    assert!(of("saga.v1.ParticipantService", "Participate").is_none());
}
