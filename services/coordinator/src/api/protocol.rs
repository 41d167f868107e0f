//! Which version of the participants' protocol a stream speaks: the lower of the newest ones that the two sides speak.
//!
//! So either side may be updated first, as long as each still speaks the other's version. A version is left behind only after
//! everybody has the next one.

use std::ops::RangeInclusive;

use chassis::Problem;
use sagamesh_api::saga::v1::Hello;
use tonic::Code;

use crate::problems::ERRORS;

/// The versions that this coordinator speaks, the oldest to the newest.
pub(crate) const VERSIONS: RangeInclusive<u32> = 1..=1;

/// The version for a stream that begins with `hello`.
pub(super) fn agree(ours: &RangeInclusive<u32>, hello: &Hello) -> Result<u32, Problem> {
    // Whoever says nothing was made before versions had numbers.
    let newest = hello.protocol_version.max(1);
    let oldest = hello.minimum_protocol_version.max(1);
    let participant = &hello.participant;
    if oldest > newest {
        let message =
            format!("is {oldest}, and protocol_version is {newest}: it may be that at most");
        return Err(ERRORS.invalid_field("hello.minimum_protocol_version", message));
    }
    if newest < *ours.start() {
        let message = format!(
            "participant {participant:?} speaks versions of the protocol up to {newest}, and this coordinator none before {}: \
             update the participant's library, or keep a coordinator that speaks version {newest} until that is done",
            ours.start()
        );
        return Err(ERRORS.problem(
            Code::FailedPrecondition,
            "PROTOCOL_VERSION_TOO_OLD",
            message,
        ));
    }
    if oldest > *ours.end() {
        let message = format!(
            "participant {participant:?} requires version {oldest} of the protocol, and this coordinator speaks versions up to {}: \
             update the coordinator first, or keep a participant that does with version {}",
            ours.end(),
            ours.end()
        );
        return Err(ERRORS.problem(
            Code::FailedPrecondition,
            "PROTOCOL_VERSION_TOO_NEW",
            message,
        ));
    }
    Ok(newest.min(*ours.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(minimum: u32, newest: u32) -> Hello {
        Hello {
            participant: "a".into(),
            protocol_version: newest,
            minimum_protocol_version: minimum,
            ..Hello::default()
        }
    }

    #[test]
    fn the_lower_of_both_newest_versions_is_spoken() {
        for (ours, theirs, spoken) in [
            (1..=1, (0, 0), 1),
            (1..=2, (0, 0), 1),
            (1..=2, (1, 1), 1),
            (1..=2, (1, 2), 2),
            (1..=2, (2, 3), 2),
            (2..=3, (1, 2), 2),
            (1..=1, (1, 7), 1),
        ] {
            let agreed = agree(&ours, &hello(theirs.0, theirs.1));
            assert_eq!(agreed.ok(), Some(spoken), "{ours:?} and {theirs:?}");
        }
    }

    #[test]
    fn without_a_common_version_the_refusal_says_who_has_to_be_updated() {
        let old = agree(&(2..=3), &hello(0, 0)).expect_err("too old");
        let old = tonic::Status::from(old);
        assert_eq!(old.code(), Code::FailedPrecondition);
        assert_eq!(
            old.message(),
            "participant \"a\" speaks versions of the protocol up to 1, and this coordinator none before 2: update the participant's \
             library, or keep a coordinator that speaks version 1 until that is done"
        );
        let new = agree(&(1..=2), &hello(3, 4)).expect_err("too new");
        let new = tonic::Status::from(new);
        assert_eq!(new.code(), Code::FailedPrecondition);
        assert_eq!(
            new.message(),
            "participant \"a\" requires version 3 of the protocol, and this coordinator speaks versions up to 2: update the \
             coordinator first, or keep a participant that does with version 2"
        );
        let absurd = agree(&(1..=2), &hello(2, 1)).expect_err("no range");
        assert_eq!(absurd.code(), Code::InvalidArgument);
    }
}
