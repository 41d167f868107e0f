//! Who may call: networks and identities.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use linkerd2_proxy_api::inbound as proto;

use super::convert::Invalid;
use super::meta::Meta;

/// A reason to let a client in.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    /// The resource that says so.
    pub(crate) meta: Arc<Meta>,
    networks: Vec<Network>,
    clients: Clients,
}

#[derive(Clone, Debug)]
struct Network {
    net: IpNet,
    except: Vec<IpNet>,
}

#[derive(Clone, Debug)]
enum Clients {
    /// Also those without a certificate.
    Anyone,
    /// Those with a certificate of the mesh.
    AnyOfMesh,
    /// Those with one of these names.
    Named {
        identities: Vec<String>,
        suffixes: Vec<String>,
    },
}

impl Authorization {
    /// Lets every client in, or every client of the mesh.
    pub(crate) fn of_default(name: &str, authenticated: bool) -> Self {
        let any = ["0.0.0.0/0", "::/0"]
            .iter()
            .filter_map(|net| net.parse().ok());
        Self {
            meta: Arc::new(Meta::named("", "default", "", name)),
            networks: any
                .map(|net| Network {
                    net,
                    except: Vec::new(),
                })
                .collect(),
            clients: if authenticated {
                Clients::AnyOfMesh
            } else {
                Clients::Anyone
            },
        }
    }

    /// What the control plane says.
    pub(crate) fn from_proto(authz: proto::Authz) -> Result<Self, Invalid> {
        use proto::authn::{Permit, permit_mesh_tls};
        let meta = match authz.metadata {
            Some(meta) => Meta::from_proto(Some(meta))?,
            None => {
                let label = |name: &str| authz.labels.get(name).cloned().unwrap_or_default();
                Meta::named(&label("group"), &label("kind"), "", &label("name"))
            }
        };
        if authz.networks.is_empty() {
            return Err(Invalid::missing("networks of an authorization"));
        }
        let networks = authz
            .networks
            .into_iter()
            .map(network)
            .collect::<Result<_, _>>()?;
        let permit = authz.authentication.and_then(|authn| authn.permit);
        let clients = match permit.ok_or(Invalid::missing("authentication"))? {
            Permit::Unauthenticated(_) => Clients::Anyone,
            Permit::MeshTls(tls) => {
                match tls.clients.ok_or(Invalid::missing("clients of meshTLS"))? {
                    permit_mesh_tls::Clients::Unauthenticated(_) => Clients::AnyOfMesh,
                    permit_mesh_tls::Clients::Identities(named) => Clients::Named {
                        identities: named
                            .identities
                            .into_iter()
                            .map(|identity| identity.name)
                            .collect(),
                        suffixes: named
                            .suffixes
                            .into_iter()
                            .map(|suffix| {
                                if suffix.parts.is_empty() {
                                    String::new()
                                } else {
                                    format!(".{}", suffix.parts.join("."))
                                }
                            })
                            .collect(),
                    },
                }
            }
        };
        Ok(Self {
            meta: Arc::new(meta),
            networks,
            clients,
        })
    }

    /// Whether it lets this client in.
    pub(crate) fn admits(&self, ip: IpAddr, identity: Option<&str>) -> bool {
        let near = self.networks.iter().any(|network| {
            network.net.contains(&ip) && !network.except.iter().any(|net| net.contains(&ip))
        });
        near && match (&self.clients, identity) {
            (Clients::Anyone, _) | (Clients::AnyOfMesh, Some(_)) => true,
            (Clients::AnyOfMesh | Clients::Named { .. }, None) => false,
            (
                Clients::Named {
                    identities,
                    suffixes,
                },
                Some(identity),
            ) => {
                identities.iter().any(|name| name == identity)
                    || suffixes
                        .iter()
                        .any(|suffix| identity.len() > suffix.len() && identity.ends_with(suffix))
            }
        }
    }
}

fn network(network: proto::Network) -> Result<Network, Invalid> {
    let parse = |net: linkerd2_proxy_api::net::IpNetwork| {
        IpNet::try_from(net).map_err(|error| Invalid::value("network", error))
    };
    Ok(Network {
        net: parse(network.net.ok_or(Invalid::missing("network"))?)?,
        except: network
            .except
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(identities: &[&str], suffixes: &[&str]) -> Authorization {
        Authorization {
            clients: Clients::Named {
                identities: identities.iter().map(ToString::to_string).collect(),
                suffixes: suffixes.iter().map(ToString::to_string).collect(),
            },
            ..Authorization::of_default("test", true)
        }
    }

    #[test]
    fn names_and_suffixes() {
        let ip = "127.0.1.5".parse().unwrap();
        let authz = named(&["orders.shop"], &[".bank"]);
        assert!(authz.admits(ip, Some("orders.shop")));
        assert!(authz.admits(ip, Some("payments.bank")));
        assert!(!authz.admits(ip, Some("orders.shop.evil")));
        assert!(!authz.admits(ip, Some("bank")));
        assert!(!authz.admits(ip, Some(".bank")));
        assert!(!authz.admits(ip, None));
        assert!(named(&[], &[""]).admits(ip, Some("anyone")));
    }

    #[test]
    fn networks_and_exceptions() {
        let mut authz = Authorization::of_default("test", false);
        authz.networks = vec![Network {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        }];
        assert!(authz.admits("10.2.0.1".parse().unwrap(), None));
        assert!(!authz.admits("10.1.0.1".parse().unwrap(), None));
        // No exception for localhost: on a shared machine everything is local.
        assert!(!authz.admits("127.0.0.1".parse().unwrap(), None));
    }
}
