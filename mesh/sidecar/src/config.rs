//! Configuration: the environment variables of linkerd2-proxy, so that a launcher sets one environment for either.
//!
//! Variables of linkerd2-proxy that have no meaning here (original destinations, tap, profiles) are ignored, as a
//! launcher sets them for the other proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What is wrong with the environment.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that the sidecar cannot work without.
    #[error("{0} is not set")]
    Missing(String),
    /// A variable that says something unusable.
    #[error("{name} is `{value}`: {expected}")]
    Invalid {
        /// The variable.
        name: String,
        /// Its text.
        value: String,
        /// What is accepted.
        expected: String,
    },
}

/// Everything that the sidecar is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane's APIs are.
    pub control: ControlConfig,
    /// Who this workload is.
    pub identity: IdentityConfig,
    /// The side that peers call.
    pub inbound: InboundConfig,
    /// The side that the app calls.
    pub outbound: OutboundConfig,
    /// Where /live, /ready and /metrics are served.
    pub admin_listen: SocketAddr,
    /// At shutdown, how long requests under way may take before they are cut off.
    pub shutdown_grace: Duration,
    /// Which events are logged, as `level` or `target=level,...`.
    pub log: String,
    /// Log lines as JSON objects instead of text.
    pub log_json: bool,
    /// Data path threads, one runtime each.
    pub cores: usize,
    /// Shut down when stdin ends: a child so never outlives the launcher.
    pub exit_with_parent: bool,
}

/// Where the control plane's APIs are. All on loopback, in plain HTTP/2.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The Destination API.
    pub destination: SocketAddr,
    /// The OutboundPolicies and InboundServerPolicies APIs.
    pub policy: SocketAddr,
    /// The Identity API.
    pub identity: SocketAddr,
    /// Sent with each policy lookup, opaque to the sidecar.
    pub workload: String,
    /// Sent with each destination lookup, opaque to the sidecar.
    pub destination_context: String,
}

/// Who this workload is.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// The file whose bytes prove to the control plane who this is. Read again at each renewal.
    pub token_file: PathBuf,
    /// The certificates that the mesh trusts, in PEM.
    pub trust_anchors: String,
    /// The name in the certificate: `<sa>.<ns>.serviceaccount.identity.linkerd.<trust domain>`.
    pub local_name: String,
}

/// The side that peers call.
#[derive(Clone, Debug)]
pub struct InboundConfig {
    /// Where peers connect.
    pub listen: SocketAddr,
    /// The pod's addresses. The first is where the app listens and the source of connections to peers.
    pub ips: Vec<IpAddr>,
    /// Ports of the app, whose policies are watched from the start.
    pub ports: Vec<u16>,
    /// What applies to a port until the control plane has answered.
    pub default_policy: DefaultPolicy,
    /// Requests under way at one time; above it requests are refused. No peer may have more than half of them.
    pub max_in_flight: usize,
    /// Connections at one time whose peers have shown who they are; above it others are refused. No peer may have more
    /// than half of them.
    pub max_connections: usize,
    /// Connections at one time whose peers have not; above it the oldest is closed for the newest.
    pub max_handshakes: usize,
}

/// The side that the app calls.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// Where the app connects.
    pub listen: Vec<SocketAddr>,
    /// How long what was learned of a destination is kept without requests.
    pub discovery_idle: Duration,
    /// Requests under way at one time; above it requests are refused.
    pub max_in_flight: usize,
    /// Connections at one time; above it others wait.
    pub max_connections: usize,
}

/// What applies to an inbound port until the control plane has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// Every client is let in.
    AllUnauthenticated,
    /// Every client of the mesh is let in.
    AllAuthenticated,
    /// Nobody is let in.
    Deny,
}

impl Config {
    /// The process's environment.
    ///
    /// # Errors
    /// Names the variable and what it accepts.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads variables through `lookup`; an empty one counts as unset.
    ///
    /// # Errors
    /// Names the variable and what it accepts.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let vars = Vars(&lookup);
        let inbound_listen = vars.address("INBOUND_LISTEN_ADDR", (Ipv4Addr::UNSPECIFIED, 4143))?;
        let mut ips: Vec<IpAddr> =
            vars.list("INBOUND_IPS", "a comma-separated list of addresses")?;
        if ips.is_empty() {
            ips.push(match inbound_listen.ip() {
                ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                ip => ip,
            });
        }
        let mut listen: Vec<SocketAddr> = vars.list("OUTBOUND_LISTEN_ADDRS", ADDRESSES)?;
        if listen.is_empty() {
            listen.push(vars.address("OUTBOUND_LISTEN_ADDR", (Ipv4Addr::LOCALHOST, 4140))?);
        }
        Ok(Self {
            control: ControlConfig {
                destination: vars.control("DESTINATION_SVC_ADDR")?,
                policy: vars.control("POLICY_SVC_ADDR")?,
                identity: vars.control("IDENTITY_SVC_ADDR")?,
                workload: vars.required("POLICY_WORKLOAD")?,
                destination_context: vars.get("DESTINATION_CONTEXT").unwrap_or_default(),
            },
            identity: IdentityConfig {
                token_file: vars.required("IDENTITY_TOKEN_FILE")?.into(),
                trust_anchors: vars.required("IDENTITY_TRUST_ANCHORS")?,
                local_name: vars
                    .get("IDENTITY_SERVER_ID")
                    .map_or_else(|| vars.required("IDENTITY_LOCAL_NAME"), Ok)?,
            },
            inbound: InboundConfig {
                listen: inbound_listen,
                ips,
                ports: vars.list("INBOUND_PORTS", "a comma-separated list of ports")?,
                default_policy: vars.default_policy()?,
                max_in_flight: vars.parse("INBOUND_MAX_IN_FLIGHT", "a number", 10_000)?,
                max_connections: MAX_CONNECTIONS,
                max_handshakes: MAX_HANDSHAKES,
            },
            outbound: OutboundConfig {
                listen,
                discovery_idle: vars
                    .duration("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", Duration::from_secs(5))?,
                max_in_flight: vars.parse("OUTBOUND_MAX_IN_FLIGHT", "a number", 10_000)?,
                max_connections: MAX_CONNECTIONS,
            },
            admin_listen: vars.address("ADMIN_LISTEN_ADDR", (Ipv4Addr::LOCALHOST, 4191))?,
            shutdown_grace: vars.duration("SHUTDOWN_GRACE_PERIOD", Duration::from_secs(120))?,
            log: vars.get("LOG").unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_json: vars
                .get("LOG_FORMAT")
                .is_some_and(|format| format.eq_ignore_ascii_case("json")),
            cores: vars.cores()?,
            exit_with_parent: lookup("SAGAMESH_EXIT_WITH_PARENT").is_some_and(|text| {
                !matches!(
                    text.to_ascii_lowercase().as_str(),
                    "" | "0" | "false" | "no" | "off" | "n" | "f"
                )
            }),
        })
    }
}

const PREFIX: &str = "LINKERD2_PROXY_";
const DEFAULT_LOG: &str =
    "info,h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,rustls=warn";
const ADDRESSES: &str = "write for example 127.0.0.1:4140";
const MAX_CORES: usize = 64;
/// Connections at one time, on each side. Linkerd's proxy has no variable for it.
const MAX_CONNECTIONS: usize = 8192;
/// Unfinished handshakes at one time: well below the open files that a process may have.
const MAX_HANDSHAKES: usize = 512;

struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(&format!("{PREFIX}{name}")).filter(|text| !text.trim().is_empty())
    }

    fn required(&self, name: &str) -> Result<String, ConfigError> {
        self.get(name)
            .ok_or_else(|| ConfigError::Missing(format!("{PREFIX}{name}")))
    }

    fn parse<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text
                .trim()
                .parse()
                .map_err(|_| invalid(name, &text, expected)),
        }
    }

    fn address(&self, name: &str, default: (Ipv4Addr, u16)) -> Result<SocketAddr, ConfigError> {
        self.parse(name, ADDRESSES, default.into())
    }

    fn list<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Vec<T>, ConfigError> {
        let text = self.get(name).unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(|_| invalid(name, &text, expected)))
            .collect()
    }

    /// Control planes off this machine would need TLS, which this sidecar does not speak to them.
    fn control(&self, name: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.required(name)?;
        let address = text
            .trim()
            .trim_start_matches("localhost.")
            .trim_start_matches("localhost");
        let address = if address.starts_with(':') {
            format!("127.0.0.1{address}")
        } else {
            address.to_owned()
        };
        let expected =
            "the control plane is reached in plain HTTP/2 on loopback, for example 127.0.0.1:8086";
        let address: SocketAddr = address
            .parse()
            .map_err(|_| invalid(name, &text, expected))?;
        if address.ip().is_loopback() {
            Ok(address)
        } else {
            Err(invalid(name, &text, expected))
        }
    }

    fn duration(&self, name: &str, default: Duration) -> Result<Duration, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => parse_duration(text.trim())
                .ok_or_else(|| invalid(name, &text, "write for example 250ms, 5s, 2m, 1h or 1d")),
        }
    }

    fn default_policy(&self) -> Result<DefaultPolicy, ConfigError> {
        let text = self.get("INBOUND_DEFAULT_POLICY");
        match text.as_deref().map(str::trim) {
            // Not Linkerd's default, which lets everybody in: a mesh that is meshed from its start has no reason to.
            None | Some("deny") => Ok(DefaultPolicy::Deny),
            Some("all-unauthenticated") => Ok(DefaultPolicy::AllUnauthenticated),
            Some("all-authenticated") => Ok(DefaultPolicy::AllAuthenticated),
            Some(other) => Err(invalid(
                "INBOUND_DEFAULT_POLICY",
                other,
                "one of all-unauthenticated, all-authenticated, deny",
            )),
        }
    }

    fn cores(&self) -> Result<usize, ConfigError> {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let max = self.parse("CORES_MAX", "a number", available)?;
        let cores = self.parse("CORES", "a number", max)?;
        Ok(cores.clamp(1, MAX_CORES))
    }
}

fn invalid(name: &str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Invalid {
        name: format!("{PREFIX}{name}"),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// Linkerd's form: an integer and a unit; a bare `0` is allowed.
fn parse_duration(text: &str) -> Option<Duration> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..at].parse().ok()?;
    let millis = match &text[at..] {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(extra: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut vars: HashMap<String, String> = [
            ("DESTINATION_SVC_ADDR", "127.0.0.1:8086"),
            ("POLICY_SVC_ADDR", "localhost.:8090"),
            ("IDENTITY_SVC_ADDR", "127.0.0.1:8080"),
            ("POLICY_WORKLOAD", "{}"),
            ("IDENTITY_TOKEN_FILE", "/token"),
            ("IDENTITY_TRUST_ANCHORS", "PEM"),
            ("IDENTITY_LOCAL_NAME", "orders.sagamesh"),
        ]
        .into_iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()))
        .collect();
        vars.extend(
            extra
                .iter()
                .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())),
        );
        Config::from_lookup(|name| vars.get(name).cloned())
    }

    #[test]
    fn defaults_are_linkerds() {
        let config = read(&[]).unwrap();
        assert_eq!(config.inbound.listen.port(), 4143);
        assert_eq!(config.outbound.listen, ["127.0.0.1:4140".parse().unwrap()]);
        assert_eq!(config.control.policy, "127.0.0.1:8090".parse().unwrap());
        assert_eq!(config.inbound.ips, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(config.shutdown_grace, Duration::from_secs(120));
    }

    #[test]
    fn nobody_is_let_in_unless_a_policy_says_so() {
        assert_eq!(
            read(&[]).unwrap().inbound.default_policy,
            DefaultPolicy::Deny
        );
        let config = read(&[("INBOUND_DEFAULT_POLICY", "all-authenticated")]).unwrap();
        assert_eq!(
            config.inbound.default_policy,
            DefaultPolicy::AllAuthenticated
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = read(&[("INBOUND_PORTS", "50051,x")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("LINKERD2_PROXY_INBOUND_PORTS"), "{error}");
        let error = read(&[("POLICY_SVC_ADDR", "10.0.0.1:8090")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("loopback"), "{error}");
        let error = read(&[("POLICY_WORKLOAD", " ")]).unwrap_err().to_string();
        assert_eq!(error, "LINKERD2_PROXY_POLICY_WORKLOAD is not set");
    }

    #[test]
    fn durations_are_an_integer_and_a_unit() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5s"), None);
        assert_eq!(parse_duration("5"), None);
    }
}
