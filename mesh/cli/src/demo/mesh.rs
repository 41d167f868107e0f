//! What the mesh does, on the stage: it forbids, it listens to a changed policy, it renews certificates, and it lets its control
//! plane die.

use std::time::Duration;

use anyhow::Context as _;
use sagamesh_api::mesh::v1::ExplainRequest;
use sagamesh_api::mesh::v1::mesh_service_client::MeshServiceClient;
use sagamesh_api::shop::payments::v1::GetPaymentRequest;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use tonic::{Code, Status};

use super::scenarios::CONFIRMED;
use super::stage::Stage;
use crate::connect;
use crate::failure::from_status;
use crate::metrics;
use crate::output;
use crate::system::{Mesh, Role};

/// The longest that a change may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks at what changes by itself.
const LOOK: Duration = Duration::from_millis(100);

/// Who may not ask payments, and what they ask.
const STRANGER: &str = "notifications";
const METHOD: &str = "shop.payments.v1.PaymentService/GetPayment";

/// Lets the stranger in: a policy file of the demo's own.
const PERMISSION: &str = "\
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata:
  name: demo-stranger
  namespace: sagamesh
spec:
  identityRefs:
    - kind: ServiceAccount
      name: notifications
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: demo-stranger
  namespace: sagamesh
spec:
  targetRef:
    group: policy.linkerd.io
    kind: Server
    name: payments-grpc
  requiredAuthenticationRefs:
    - group: policy.linkerd.io
      kind: MeshTLSAuthentication
      name: demo-stranger
";

/// A call that policy forbids.
pub(super) async fn forbidden(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let status = ask(stage).await?;
    output::line(&format!(
        "   {STRANGER} calls {METHOD}: {:?}, {}",
        status.code(),
        status.message()
    ));
    let request = ExplainRequest {
        source: STRANGER.into(),
        service: "payments".into(),
        method: METHOD.into(),
        port: 0,
    };
    let mesh = mesh(stage)?;
    let explained = MeshServiceClient::new(connect::channel(&mesh.control))
        .explain(connect::request(request))
        .await
        .map_err(|status| from_status("meshd", "explaining the call", &status))?
        .into_inner();
    output::line(&format!("   why: {}", explained.reason));
    let mut complaints = Vec::new();
    if status.code() != Code::PermissionDenied {
        complaints.push(format!("the call was not denied but {:?}", status.code()));
    }
    if explained.allowed {
        complaints.push("the control plane says that it is allowed".to_owned());
    }
    Ok(complaints)
}

/// The same call, while a policy file comes and goes.
pub(super) async fn edited(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let file = mesh(stage)?.policy_dir.join("demo-stranger.yaml");
    let mut complaints = Vec::new();
    for (done, code) in [
        ("written", Code::NotFound),
        ("removed", Code::PermissionDenied),
    ] {
        let changed = if done == "written" {
            std::fs::write(&file, PERMISSION)
        } else {
            std::fs::remove_file(&file)
        };
        changed.with_context(|| format!("cannot change {}", file.display()))?;
        let begun = std::time::Instant::now();
        let mut seen = ask(stage).await?.code();
        while seen != code && begun.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
            seen = ask(stage).await?.code();
        }
        output::line(&format!(
            "   demo-stranger.yaml is {done}: {seen:?} after {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
        if seen != code {
            complaints.push(format!("the answer is {seen:?} and not {code:?}"));
        }
    }
    Ok(complaints)
}

/// Orders, until every certificate has been renewed.
pub(super) async fn renewed(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let before = renewals(stage).await?;
    let begun = std::time::Instant::now();
    let (mut orders, mut complaints) = (0_usize, Vec::new());
    loop {
        let order = stage.place(&[("mouse", 1)], "pm_ok").await?;
        let ended = stage.shop.until_ended(&order.order_id).await?;
        orders += 1;
        if ended.status() != CONFIRMED.0 {
            complaints.push(format!("order {} was not confirmed", order.order_id));
        }
        let now = renewals(stage).await?;
        if before.iter().zip(&now).all(|(before, now)| now > before) {
            output::line(&format!(
                "   {orders} orders in {:.1} s, {} of them confirmed; each of {} certificates was renewed meanwhile",
                begun.elapsed().as_secs_f64(),
                orders - complaints.len(),
                now.len()
            ));
            return Ok(complaints);
        }
        if begun.elapsed() > PATIENCE {
            complaints.push(format!("certificates are not renewed: {before:?}, {now:?}"));
            return Ok(complaints);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The control plane is killed; whoever knows the way goes on.
pub(super) async fn headless(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let back = stage.kill("meshd")?;
    let order = stage.place(&[("keyboard", 1)], "pm_ok").await?;
    let complaints = stage.settle(&order, CONFIRMED).await?;
    back.wait().await?;
    Ok(complaints)
}

/// A payment that is not there, asked for by who may not.
async fn ask(stage: &Stage) -> anyhow::Result<Status> {
    let sidecar = stage
        .system
        .processes
        .iter()
        .find(|process| process.role == Role::Sidecar && process.service == STRANGER)
        .context("notifications has no sidecar")?;
    let outbound = sidecar.url.trim_start_matches("http://").parse()?;
    let channel = connect::through(&stage.system, outbound, "payments")?;
    let request = GetPaymentRequest {
        payment_id: uuid::Uuid::now_v7().to_string(),
        min_position: 0,
    };
    let answer = PaymentServiceClient::new(channel)
        .get_payment(connect::request(request))
        .await;
    answer
        .err()
        .context("there is no such payment, and yet an answer")
}

/// How often each sidecar has got a certificate.
async fn renewals(stage: &Stage) -> anyhow::Result<Vec<f64>> {
    let mut counts = Vec::new();
    for process in &stage.system.processes {
        if process.role == Role::Sidecar {
            let samples = metrics::read(&process.admin).await?;
            let count = samples.iter().find(|sample| {
                sample.name == "control_identity_cert_refreshes_total"
                    && sample.label("result") != "error"
            });
            counts.push(count.map_or(0.0, |sample| sample.value));
        }
    }
    Ok(counts)
}

pub(super) fn mesh(stage: &Stage) -> anyhow::Result<Mesh> {
    stage.system.mesh.clone().context("the system has no mesh")
}
