//! Linkerd's annotations: retries, timeouts, failure accrual.

use std::time::Duration;

use super::document::Document;
use super::fault::{Fault, Path, at};
use super::model::{Accrual, GrpcConditions, Retry, Timeouts};
use super::value::some_duration;

/// What the annotations of an object say.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    pub(super) accrual: Option<Accrual>,
}

/// Which annotations an object may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Retries and failure accrual.
    Service,
    /// Retries and timeouts.
    OutboundRoute,
    /// None.
    Nothing,
}

const RETRY_GRPC: &str = "retry.linkerd.io/grpc";
const RETRY_HTTP: &str = "retry.linkerd.io/http";
const RETRY_LIMIT: &str = "retry.linkerd.io/limit";
const RETRY_TIMEOUT: &str = "retry.linkerd.io/timeout";
const TIMEOUT_REQUEST: &str = "timeout.linkerd.io/request";
const TIMEOUT_RESPONSE: &str = "timeout.linkerd.io/response";
const TIMEOUT_IDLE: &str = "timeout.linkerd.io/idle";
const ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";
const ACCRUAL_MAX: &str = "balancer.linkerd.io/failure-accrual-consecutive-max-failures";
const ACCRUAL_MIN_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-min-penalty";
const ACCRUAL_MAX_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-max-penalty";
const ACCRUAL_JITTER: &str = "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio";

/// Linkerd's own defaults.
const DEFAULT_ACCRUAL: Accrual = Accrual {
    max_failures: 7,
    min_penalty: Duration::from_secs(1),
    max_penalty: Duration::from_secs(60),
    jitter: 0.5,
};

/// Reads a document's annotations.
pub(super) fn annotations(
    document: &Document,
    allowed: Allowed,
    faults: &mut Vec<Fault>,
) -> Annotations {
    let mut read = Annotations::default();
    let mut retry = Retry {
        limit: 1,
        ..Retry::default()
    };
    let (mut retries, mut accrues) = (false, false);
    let mut accrual = DEFAULT_ACCRUAL;
    for (name, text) in &document.manifest.metadata().annotations {
        let path = place(name);
        let retry_allowed = allowed != Allowed::Nothing;
        let outcome = match name.as_str() {
            RETRY_GRPC if retry_allowed => {
                retries = true;
                grpc_conditions(text).map(|conditions| retry.grpc = conditions)
            }
            RETRY_HTTP if retry_allowed => {
                retries = true;
                http_conditions(text).map(|ranges| retry.http = ranges)
            }
            RETRY_LIMIT if retry_allowed => {
                number(text, 1..=u32::from(u16::MAX)).map(|limit| {
                    retry.limit = u16::try_from(limit).unwrap_or(u16::MAX);
                })
            }
            RETRY_TIMEOUT if retry_allowed => {
                some_duration(text).map(|timeout| retry.timeout = Some(timeout))
            }
            TIMEOUT_REQUEST if allowed == Allowed::OutboundRoute => {
                some_duration(text).map(|timeout| read.timeouts.request = Some(timeout))
            }
            TIMEOUT_RESPONSE if allowed == Allowed::OutboundRoute => {
                some_duration(text).map(|timeout| read.timeouts.response = Some(timeout))
            }
            TIMEOUT_IDLE if allowed == Allowed::OutboundRoute => {
                some_duration(text).map(|timeout| read.timeouts.idle = Some(timeout))
            }
            TIMEOUT_REQUEST | TIMEOUT_RESPONSE | TIMEOUT_IDLE if allowed == Allowed::Service => {
                Err("is on a Service, where every route without timeouts of its own inherits it, those of long-lived streams too: \
                     put it on the routes".to_owned())
            }
            ACCRUAL if allowed == Allowed::Service => match text.as_str() {
                "consecutive" => {
                    accrues = true;
                    Ok(())
                }
                other => Err(format!("`{other}` is not understood here: write consecutive")),
            },
            ACCRUAL_MAX if allowed == Allowed::Service => {
                number(text, 1..=1_000_000).map(|max| accrual.max_failures = max)
            }
            ACCRUAL_MIN_PENALTY if allowed == Allowed::Service => {
                some_duration(text).map(|penalty| accrual.min_penalty = penalty)
            }
            ACCRUAL_MAX_PENALTY if allowed == Allowed::Service => {
                some_duration(text).map(|penalty| accrual.max_penalty = penalty)
            }
            ACCRUAL_JITTER if allowed == Allowed::Service => {
                ratio(text).map(|jitter| accrual.jitter = jitter)
            }
            _ => Err(format!("is not understood on a {}", document.manifest.kind())),
        };
        if let Err(message) = outcome {
            faults.push(document.fault(&path, message));
        }
    }
    let has = |name: &str| document.manifest.metadata().annotations.contains_key(name);
    if retries {
        read.retry = Some(retry);
    } else if let Some(alone) = [RETRY_LIMIT, RETRY_TIMEOUT]
        .into_iter()
        .find(|name| has(name))
        && allowed != Allowed::Nothing
    {
        let message = format!("means nothing without {RETRY_GRPC} or {RETRY_HTTP}");
        faults.push(document.fault(&place(alone), message));
    }
    if accrues {
        if accrual.min_penalty > accrual.max_penalty {
            let message = "the shortest penalty is longer than the longest";
            faults.push(document.fault(&place(ACCRUAL_MIN_PENALTY), message));
        }
        read.accrual = Some(accrual);
    } else if let Some(alone) = [
        ACCRUAL_MAX,
        ACCRUAL_MIN_PENALTY,
        ACCRUAL_MAX_PENALTY,
        ACCRUAL_JITTER,
    ]
    .into_iter()
    .find(|name| has(name))
        && allowed == Allowed::Service
        && !has(ACCRUAL)
    {
        let message = format!("means nothing without {ACCRUAL}");
        faults.push(document.fault(&place(alone), message));
    }
    read
}

fn place(name: &str) -> Path {
    at("metadata.annotations").key(name)
}

fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a whole number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

fn ratio(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|ratio| (0.0..=100.0).contains(ratio))
        .ok_or_else(|| format!("`{text}` is not a number from 0 to 100, for example 0.5"))
}

fn grpc_conditions(text: &str) -> Result<GrpcConditions, String> {
    let mut conditions = GrpcConditions::default();
    for condition in text.split(',') {
        let flag = match condition {
            "cancelled" => &mut conditions.cancelled,
            "deadline-exceeded" => &mut conditions.deadline_exceeded,
            "internal" => &mut conditions.internal,
            "resource-exhausted" => &mut conditions.resource_exhausted,
            "unavailable" => &mut conditions.unavailable,
            other => {
                return Err(format!(
                    "`{other}` is not understood: write cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, \
                     with commas and no spaces between them"
                ));
            }
        };
        *flag = true;
    }
    Ok(conditions)
}

fn http_conditions(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let wrong = |condition: &str| {
        format!(
            "`{condition}` is not understood: write 5xx, gateway-error, a status or a range such as 500-504"
        )
    };
    text.split(',')
        .map(|condition| match condition {
            "5xx" => Ok((500, 599)),
            "gateway-error" => Ok((502, 504)),
            other => {
                let (from, to) = other.split_once('-').unwrap_or((other, other));
                let status = |text: &str| {
                    text.parse()
                        .ok()
                        .filter(|status: &u16| (100..600).contains(status))
                        .ok_or_else(|| wrong(other))
                };
                let range = (status(from)?, status(to)?);
                if range.0 > range.1 {
                    return Err(wrong(other));
                }
                Ok(range)
            }
        })
        .collect()
}

/// A duration in words, as manifests write it.
pub(super) fn in_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::duration;
    use super::*;

    #[test]
    fn conditions() {
        let both = grpc_conditions("unavailable,internal").expect("two conditions");
        assert!(both.unavailable && both.internal && !both.cancelled);
        assert!(grpc_conditions("unavailable, internal").is_err());
        assert!(grpc_conditions("").is_err());
        assert_eq!(
            http_conditions("5xx,429,500-504"),
            Ok(vec![(500, 599), (429, 429), (500, 504)])
        );
        assert!(http_conditions("504-500").is_err());
        assert!(http_conditions("9xx").is_err());
    }

    #[test]
    fn words_are_read_back() {
        for text in ["300ms", "5s", "60s"] {
            assert_eq!(duration(text).map(in_words).as_deref(), Ok(text));
        }
    }
}
