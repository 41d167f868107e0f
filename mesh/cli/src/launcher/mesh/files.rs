//! What the control plane and the sidecars find in the data folder: who the workloads are, and how they prove it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use tonic::metadata::{Ascii, MetadataValue};

use super::{NAMESPACE, Workload, folder, policy};
use crate::system::private_folder;

/// Writes the workloads' records and new tokens, and the policy files where there are none yet. What an earlier system of
/// this folder recorded and this one does not have is forgotten. Returns the folder of the policy files.
pub(crate) fn prepare(
    data_dir: &Path,
    workloads: &[Workload],
    policy_dir: Option<&Path>,
    with_keys: bool,
) -> anyhow::Result<PathBuf> {
    let (records, tokens) = (records(data_dir), tokens(data_dir));
    for folder in [&records, &tokens, &identities(data_dir)] {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
            }
            _ => {}
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    for workload in workloads {
        let secret = secret()?;
        let path = token(data_dir, workload);
        private(&path, format!("{}.{secret}", workload.pod).as_bytes())?;
        if with_keys {
            key(&identity(data_dir, workload), &workload.identity())?;
        }
        let path = records.join(format!("{}.json", workload.pod));
        let text = serde_json::to_string_pretty(&record(workload, &secret))? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match policy_dir {
        Some(given) => given
            .canonicalize()
            .with_context(|| format!("there is no folder {}", given.display())),
        None => policy::unpack(&folder(data_dir).join("policy")),
    }
}

/// The certificates that every sidecar trusts, as PEM: made by the control plane on its first start.
pub(crate) fn trust_anchors(data_dir: &Path) -> anyhow::Result<String> {
    let path = folder(data_dir).join("ca.crt");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The file of the token by which a workload's sidecar proves who it is.
pub(super) fn token(data_dir: &Path, workload: &Workload) -> PathBuf {
    tokens(data_dir).join(&workload.pod)
}

/// The folder of the key that a workload's sidecar is given. (This project's own makes one itself, and keeps it to itself.)
pub(super) fn identity(data_dir: &Path, workload: &Workload) -> PathBuf {
    identities(data_dir).join(&workload.pod)
}

/// Makes what Linkerd's proxy finds there: its key, and the request for a certificate that it hands on.
fn key(folder: &Path, identity: &str) -> anyhow::Result<()> {
    private_folder(folder)?;
    let pair = rcgen::KeyPair::generate().context("cannot make a key")?;
    private(&folder.join("key.p8"), pair.serialized_der())?;
    let mut request = rcgen::CertificateParams::new(vec![identity.to_owned()])
        .context("an identity that no certificate can have")?;
    let name = rcgen::DnValue::Utf8String(identity.to_owned());
    request
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let request = request
        .serialize_request(&pair)
        .context("cannot sign the request for a certificate")?;
    private(&folder.join("csr.der"), request.der())
}

fn identities(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("identity")
}

/// What a pod's instance in the registry is changed with: the pod's token, as metadata of a request.
pub(crate) fn bearer(data_dir: &Path, pod: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let path = tokens(data_dir).join(pod);
    let token = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .with_context(|| format!("{} is no token", path.display()))?;
    // Not for logs.
    value.set_sensitive(true);
    Ok(value)
}

fn tokens(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("tokens")
}

fn records(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("workloads")
}

fn record(workload: &Workload, secret: &str) -> serde_json::Value {
    serde_json::json!({
        "pod": workload.pod,
        "namespace": NAMESPACE,
        "service_account": workload.service,
        "labels": workload.labels(),
        "ip": workload.at.ip(),
        "ports": workload.ports,
        "inbound_port": workload.at.inbound.port(),
        "token_sha256": hex(digest(&SHA256, secret.as_bytes()).as_ref()),
    })
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)
        .ok()
        .context("the operating system gives no random bytes")?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that its owner alone can read.
fn private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::addresses::Addresses;

    fn mesh_key(data_dir: &Path) -> PathBuf {
        data_dir.join("mesh/identity/coordinator-0/key.p8")
    }

    #[test]
    fn a_token_and_its_record_belong_together() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let addresses = Addresses::for_test(true);
        let workloads = [
            Workload::service(&addresses, "coordinator", 0, 50_051),
            Workload::operator(&addresses),
        ];
        let policy = prepare(folder.path(), &workloads, None, true)?;
        assert!(mesh_key(folder.path()).is_file());
        assert!(policy.join("orders.yaml").is_file());
        let mesh = folder.path().join("mesh");
        let token = std::fs::read_to_string(mesh.join("tokens/coordinator-0"))?;
        let secret = token.strip_prefix("coordinator-0.").unwrap_or_default();
        assert_eq!(secret.len(), 64);
        let bearer = bearer(folder.path(), "coordinator-0")?;
        assert_eq!(bearer.to_str()?, format!("Bearer {token}"));
        let record = std::fs::read_to_string(mesh.join("workloads/coordinator-0.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        assert_eq!(
            record["token_sha256"],
            hex(digest(&SHA256, secret.as_bytes()).as_ref())
        );
        assert_eq!(record["ip"], "127.70.9.10");
        assert_eq!(
            record["ports"],
            serde_json::json!({"grpc": 50_051, "admin": 9_090})
        );
        assert_eq!(
            record["labels"]["statefulset.kubernetes.io/pod-name"],
            "coordinator-0"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(mesh.join("tokens/operator-0"))?.permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
        // The next start: other tokens, the same policy files, edited or not.
        std::fs::write(policy.join("orders.yaml"), "# mine\n")?;
        prepare(folder.path(), &workloads[..1], None, false)?;
        assert!(!mesh_key(folder.path()).exists());
        assert_ne!(
            std::fs::read_to_string(mesh.join("tokens/coordinator-0"))?,
            token
        );
        assert!(!mesh.join("tokens/operator-0").exists());
        let orders = std::fs::read_to_string(policy.join("orders.yaml"))?;
        assert_eq!(orders, "# mine\n");
        Ok(())
    }
}
