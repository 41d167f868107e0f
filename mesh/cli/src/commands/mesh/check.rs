//! `sagamesh mesh check`: looks for what is wrong, and says what to do.

use std::process::ExitCode;

use futures_util::future::join_all;
use sagamesh_api::mesh::v1::Health;

use super::{policy, top, who};
use crate::args::Common;
use crate::failure::Exit;
use crate::launcher::ready;
use crate::metrics::{self, Sample};
use crate::output::{self, Format};
use crate::system::{Mesh, Process, Role, System};

/// A certificate that has only this part of its life left should have been renewed.
const LATE: i64 = 6;

/// How one question was answered.
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    subject: String,
    /// What was found, and what to do.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Good to know.
    Note,
    Bad,
}

pub(super) async fn run(common: &Common, system: &System, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let mut findings = processes(system).await;
    findings.push(policies(mesh).await);
    findings.extend(certificates(system).await);
    findings.extend(instances(mesh).await);
    findings.extend(edges(system).await);
    findings.push(doors(system, mesh));
    let bad = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad)
        .count();
    match common.output {
        Format::Json => output::line(&serde_json::to_string_pretty(&json(&findings))?),
        Format::Table => {
            for finding in &findings {
                let mark = match finding.verdict {
                    Verdict::Good => "ok  ",
                    Verdict::Note => "note",
                    Verdict::Bad => "BAD ",
                };
                let text = finding.text.replace('\n', "\n      ");
                output::line(&format!("{mark}  {}: {text}", finding.subject));
            }
            output::line(&match bad {
                0 => "\nThe mesh is well.".to_owned(),
                1 => "\nOne thing is wrong.".to_owned(),
                many => format!("\n{many} things are wrong."),
            });
        }
    }
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        Exit::Failed.into()
    })
}

fn good(subject: impl Into<String>, text: impl Into<String>) -> Finding {
    finding(Verdict::Good, subject, text)
}

fn bad(subject: impl Into<String>, text: impl Into<String>) -> Finding {
    finding(Verdict::Bad, subject, text)
}

fn finding(verdict: Verdict, subject: impl Into<String>, text: impl Into<String>) -> Finding {
    Finding {
        verdict,
        subject: subject.into(),
        text: text.into(),
    }
}

/// Whether the control plane, the sidecars and the services are ready.
async fn processes(system: &System) -> Vec<Finding> {
    let asked = system.processes.iter().map(|process| async move {
        let admin = process.admin.trim_start_matches("http://");
        (process, ready::is_ready(admin).await)
    });
    let answers = join_all(asked).await;
    let kinds = [
        (
            Role::Control,
            "control plane",
            "Calls go on with what the sidecars know; policies and addresses do not change meanwhile.",
        ),
        (
            Role::Sidecar,
            "sidecars",
            "A sidecar is not ready before the control plane has certified it.",
        ),
        (
            Role::Service,
            "services",
            "Others do not find it meanwhile.",
        ),
    ];
    let mut findings = Vec::new();
    for (role, subject, consequence) in kinds {
        let mine = answers.iter().filter(|(process, _)| process.role == role);
        let away: Vec<&Process> = mine
            .clone()
            .filter(|(_, ready)| !ready)
            .map(|(process, _)| *process)
            .collect();
        if away.is_empty() {
            let text = match mine.count() {
                1 => "ready".to_owned(),
                many => format!("all {many} ready"),
            };
            findings.push(good(subject, text));
        }
        for process in away {
            let state = match process.pid {
                Some(pid) => format!("process {pid} is not ready"),
                None => "it is being started again".to_owned(),
            };
            findings.push(bad(
                &process.label,
                format!("{state}. {consequence}\nIts log: {}", process.log.display()),
            ));
        }
    }
    findings
}

/// Whether the policy files are in force.
async fn policies(mesh: &Mesh) -> Finding {
    match policy::status(mesh).await {
        Err(error) => bad("policy", error.to_string()),
        Ok(status) if status.current => good(
            "policy",
            format!(
                "{} files of {} are in force",
                status.files.len(),
                status.folder
            ),
        ),
        Ok(status) => {
            let mut text = format!(
                "the files in {} were refused, those of {} UTC stay in force:",
                status.folder,
                output::time(status.load_time.as_ref())
            );
            for error in &status.errors {
                text.push('\n');
                text.push_str(&policy::sentence(error));
            }
            bad("policy", text)
        }
    }
}

/// Whether everybody can prove who they are, and will still be able to in a while: as the sidecars themselves say, which
/// know it also when the control plane has been started again.
async fn certificates(system: &System) -> Vec<Finding> {
    let sidecars = system
        .processes
        .iter()
        .filter(|process| process.role == Role::Sidecar);
    let asked = sidecars.map(|process| async move {
        let samples = metrics::read(&process.admin).await.unwrap_or_default();
        (process, Certificate::of(&samples))
    });
    let now = who::now_millis();
    let mut findings = Vec::new();
    let mut least: Option<i64> = None;
    for (process, certificate) in join_all(asked).await {
        // One that shows none is not ready, and that was said.
        let Some(certificate) = certificate else {
            continue;
        };
        let left = certificate.end - now;
        if left <= certificate.life() / LATE {
            findings.push(bad(
                format!("certificate of {}", process.label),
                format!(
                    "it ends in {} and was not renewed, although that begins at 70 % of its life\nIts log: {}",
                    output::span(left),
                    process.log.display()
                ),
            ));
        }
        least = Some(least.map_or(left, |least| least.min(left)));
    }
    if let Some(left) = least.filter(|_| findings.is_empty()) {
        findings.push(good(
            "certificates",
            format!(
                "the first one ends in {}, and is renewed before",
                output::span(left)
            ),
        ));
    }
    findings
}

/// From when until when a certificate is valid, in milliseconds since 1970.
struct Certificate {
    begin: i64,
    end: i64,
}

impl Certificate {
    fn of(samples: &[Sample]) -> Option<Certificate> {
        let of = |name: &str| {
            let found = samples.iter().find(|sample| sample.name == name)?;
            // Seconds since 1970 fit by far.
            Some((found.value * 1_000.0) as i64)
        };
        Some(Certificate {
            begin: of("control_identity_cert_refresh_timestamp_seconds")?,
            end: of("control_identity_cert_expiration_timestamp_seconds")?,
        })
    }

    fn life(&self) -> i64 {
        self.end - self.begin
    }
}

/// Whether every instance is found by others.
async fn instances(mesh: &Mesh) -> Vec<Finding> {
    let instances = match who::all_instances(mesh).await {
        Ok(instances) => instances,
        Err(error) => return vec![bad("registry", error.to_string())],
    };
    let sick = instances
        .iter()
        .filter(|one| one.health() == Health::Critical);
    let findings: Vec<_> = sick
        .map(|one| {
            let spec = one.spec.clone().unwrap_or_default();
            bad(
                format!("instance {}", spec.instance_id),
                format!("others do not find it: {}", who::complaint(one)),
            )
        })
        .collect();
    if findings.is_empty() {
        return vec![good(
            "registry",
            format!("all {} instances are healthy", instances.len()),
        )];
    }
    findings
}

/// Whether all calls between workloads were encrypted, and so subject to policy. Sidecars that show nothing are not ready,
/// and that was said.
async fn edges(system: &System) -> Vec<Finding> {
    let Ok(edges) = top::look(system).await else {
        return Vec::new();
    };
    let plain: Vec<_> = edges
        .iter()
        // A workload's calls to itself do not leave it.
        .filter(|(edge, _)| edge.to.split('-').next() != Some(&*edge.from))
        .filter(|(_, counts)| counts.mtls() == Some(false))
        .map(|(edge, _)| {
            bad(
                format!("calls from {} to {}", edge.from, edge.to),
                "they went without mTLS: nobody asked who calls, and no policy applied. Restart the system; if they still do, the sidecars' logs say what they connect to",
            )
        })
        .collect();
    if plain.is_empty() {
        return vec![good("calls", "all that were answered went over mTLS")];
    }
    plain
}

/// What the mesh cannot keep anybody from.
fn doors(system: &System, mesh: &Mesh) -> Finding {
    if mesh.own_network {
        let text = "the services are in a network of their own: what does not join it cannot go past the mesh";
        return good("doors", text);
    }
    let open: Vec<_> = system
        .services()
        .filter(|process| process.service != "gateway")
        .map(|process| process.url.trim_start_matches("http://"))
        .collect();
    finding(
        Verdict::Note,
        "doors",
        format!(
            "programs of this machine can go past the mesh and dial a service itself ({}): on one machine nothing keeps them from it. In a cluster the pods' network does",
            open.join(", ")
        ),
    )
}

fn json(findings: &[Finding]) -> serde_json::Value {
    let one = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Good => "GOOD",
            Verdict::Note => "NOTE",
            Verdict::Bad => "BAD",
        };
        serde_json::json!({
            "verdict": verdict,
            "subject": finding.subject,
            "text": finding.text,
        })
    };
    serde_json::json!({ "findings": findings.iter().map(one).collect::<Vec<_>>() })
}
