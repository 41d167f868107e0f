//! Values that are text in a manifest.

use std::net::IpAddr;
use std::time::Duration;

use super::model::Cidr;

/// A duration as Linkerd writes it: a whole number and ms, s, m, h or d.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration: write a whole number and ms, s, m, h or d, for example 300ms or 5s"
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        "" if number == 0 => Some(0),
        _ => return Err(wrong()),
    };
    // Beyond a year nothing is meant, and protobuf's durations end somewhere.
    millis
        .filter(|millis| *millis <= 366 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is longer than a year"))
}

/// A duration that is not zero.
pub(super) fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no time at all: leave it out")),
        some => Ok(some),
    }
}

/// An address, or an address and a prefix.
pub(super) fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || format!("`{text}` is not a network: write for example 10.0.0.0/8 or ::/0");
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => most,
        Some(prefix) => prefix.parse().map_err(|_| wrong())?,
    };
    if prefix > most {
        return Err(wrong());
    }
    Ok(Cidr { ip, prefix })
}

/// Whether `text` is a name of Kubernetes: 1 to 63 of [a-z0-9-], letters or digits at both ends.
pub(super) fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` can be the name of a gRPC service or method.
pub(super) fn is_rpc_name(text: &str) -> bool {
    (1..=1024).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "5",
            "1.5s",
            "5 s",
            "-1s",
            "s",
            "5w",
            "99999999999999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(some_duration("0s").is_err());
    }

    #[test]
    fn networks() {
        assert_eq!(cidr("10.0.0.0/8").map(|net| net.prefix), Ok(8));
        assert_eq!(cidr("::1").map(|net| net.prefix), Ok(128));
        for wrong in ["10.0.0.0/33", "10/8", "x", "10.0.0.0/"] {
            assert!(cidr(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names() {
        assert!(is_name("coordinator-0"));
        for wrong in ["", "-a", "a-", "A", "a.b"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
