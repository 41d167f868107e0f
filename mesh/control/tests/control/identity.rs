//! Certificates: who gets one, and who does not.

use linkerd2_proxy_api::identity::CertifyRequest;
use rcgen::{CertificateParams, DnType, KeyPair};
use sagamesh_api::mesh::v1::ListWorkloadsRequest;
use tonic::Code;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::rig::{Rig, SECRET};

const ORDERS: &str = "orders.sagamesh.serviceaccount.identity.linkerd.cluster.local";
const PAYMENTS: &str = "payments.sagamesh.serviceaccount.identity.linkerd.cluster.local";

fn request(names: &[&str], common_name: Option<&str>) -> Vec<u8> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let request = params.serialize_request(&key).expect("a request");
    request.der().to_vec()
}

fn certify(identity: &str, token: &str, request: Vec<u8>) -> CertifyRequest {
    CertifyRequest {
        identity: identity.to_owned(),
        token: token.as_bytes().to_vec(),
        certificate_signing_request: request,
    }
}

#[tokio::test]
async fn a_workload_is_certified_as_what_it_is() {
    let mut rig = Rig::started().await;
    let token = format!("orders-0.{SECRET}");
    let answer = rig
        .identity()
        .certify(certify(ORDERS, &token, request(&[ORDERS], Some(ORDERS))))
        .await
        .expect("certified")
        .into_inner();
    let (_, leaf) = X509Certificate::from_der(&answer.leaf_certificate).expect("a certificate");
    let anchors = std::fs::read(rig.data_dir().join("mesh/ca.crt")).expect("the anchor");
    let (_, pem) = x509_parser::pem::parse_x509_pem(&anchors).expect("PEM");
    let anchor = pem.parse_x509().expect("a certificate");
    leaf.verify_signature(Some(anchor.public_key()))
        .expect("signed by the anchor");
    assert_eq!(leaf.issuer(), anchor.subject());
    let names = leaf
        .subject_alternative_name()
        .expect("readable")
        .expect("there");
    assert_eq!(
        format!("{:?}", names.value.general_names),
        format!("[DNSName(\"{ORDERS}\")]")
    );
    assert!(!leaf.is_ca());
    let until = answer.valid_until.expect("an end");
    assert_eq!(leaf.validity().not_after.timestamp(), until.seconds);
    let lifetime = until.seconds - leaf.validity().not_before.timestamp();
    assert_eq!(lifetime, 3600 + 60);

    let workloads = rig
        .operator()
        .list_workloads(ListWorkloadsRequest {})
        .await
        .expect("workloads")
        .into_inner()
        .workloads;
    let orders = workloads
        .iter()
        .find(|one| one.pod == "orders-0")
        .expect("orders");
    assert_eq!(
        orders
            .certificate_expire_time
            .as_ref()
            .map(|time| time.seconds),
        Some(until.seconds)
    );

    // The authority is the same after a restart, and its key is for its owner alone.
    rig.kill().await;
    rig.start().await;
    let again = std::fs::read(rig.data_dir().join("mesh/ca.crt")).expect("the anchor");
    assert_eq!(anchors, again);
    use std::os::unix::fs::PermissionsExt as _;
    let key = std::fs::metadata(rig.data_dir().join("mesh/ca.key")).expect("the key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    rig.drain().await;
}

#[tokio::test]
async fn nobody_is_certified_as_another() {
    let mut rig = Rig::started().await;
    let good = format!("orders-0.{SECRET}");
    let csr = || request(&[ORDERS], None);
    let mut broken = csr();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let long = "x".repeat(5000);
    let cases = [
        (
            "a wrong secret",
            ORDERS,
            "orders-0.fedcba9876543210",
            csr(),
            Code::Unauthenticated,
        ),
        (
            "no secret",
            ORDERS,
            "orders-0.",
            csr(),
            Code::Unauthenticated,
        ),
        ("no token", ORDERS, "", csr(), Code::Unauthenticated),
        (
            "a token that is too long",
            ORDERS,
            long.as_str(),
            csr(),
            Code::Unauthenticated,
        ),
        (
            "an unknown pod",
            ORDERS,
            "nobody-0.0123456789abcdef",
            csr(),
            Code::Unauthenticated,
        ),
        (
            "a path",
            ORDERS,
            "../workloads/orders-0.0123456789abcdef",
            csr(),
            Code::Unauthenticated,
        ),
        (
            "another identity",
            PAYMENTS,
            good.as_str(),
            request(&[PAYMENTS], None),
            Code::PermissionDenied,
        ),
        (
            "a request of another name",
            ORDERS,
            good.as_str(),
            request(&[PAYMENTS], None),
            Code::InvalidArgument,
        ),
        (
            "a request of two names",
            ORDERS,
            good.as_str(),
            request(&[ORDERS, PAYMENTS], None),
            Code::InvalidArgument,
        ),
        (
            "a request of another common name",
            ORDERS,
            good.as_str(),
            request(&[ORDERS], Some(PAYMENTS)),
            Code::InvalidArgument,
        ),
        (
            "a request of no name",
            ORDERS,
            good.as_str(),
            request(&[], Some(ORDERS)),
            Code::InvalidArgument,
        ),
        (
            "a request whose signature is wrong",
            ORDERS,
            good.as_str(),
            broken,
            Code::InvalidArgument,
        ),
        (
            "no request",
            ORDERS,
            good.as_str(),
            Vec::new(),
            Code::InvalidArgument,
        ),
        (
            "a request that is too large",
            ORDERS,
            good.as_str(),
            vec![0; 20_000],
            Code::InvalidArgument,
        ),
    ];
    for (what, identity, token, csr, code) in cases {
        let status = rig
            .identity()
            .certify(certify(identity, token, csr))
            .await
            .expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        assert!(chassis::problem::reason(&status).is_some(), "{what}");
        assert!(!status.message().contains(SECRET), "{what}");
    }
    rig.drain().await;
}
