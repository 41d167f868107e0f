//! Messages in protobuf's JSON, and what of them is expected.

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use sagamesh_api::saga::v1::{
    Hello, ParticipateRequest, ParticipateResponse, participate_request as to,
    participate_response as from,
};
use serde_json::Value;

fn descriptor(name: &str) -> prost_reflect::MessageDescriptor {
    let pool = DescriptorPool::decode(sagamesh_api::FILE_DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name(name).unwrap()
}

/// A message of the coordinator's; none when it is empty.
pub(crate) fn response(json: &Value) -> Option<from::Message> {
    let descriptor = descriptor("saga.v1.ParticipateResponse");
    let message = DynamicMessage::deserialize(descriptor, json).unwrap();
    ParticipateResponse::decode(message.encode_to_vec().as_slice())
        .unwrap()
        .message
}

/// A message of the participant's, every field of it.
pub(crate) fn in_json(message: to::Message) -> Value {
    let request = ParticipateRequest {
        message: Some(message),
    };
    let bytes = request.encode_to_vec();
    let message =
        DynamicMessage::decode(descriptor("saga.v1.ParticipateRequest"), bytes.as_slice()).unwrap();
    let options = SerializeOptions::new().skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}

/// A Hello, every field of it.
pub(crate) fn hello_in_json(hello: &Hello) -> Value {
    in_json(to::Message::Hello(hello.clone()))["hello"].take()
}

/// Whether what came has all that is expected; lists are compared without their order.
pub(crate) fn contains(actual: &Value, expected: &Value) -> bool {
    let sorted = |list: &[Value]| {
        let mut list: Vec<String> = list.iter().map(Value::to_string).collect();
        list.sort();
        list
    };
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => expected.iter().all(|(name, value)| {
            actual
                .get(name)
                .is_some_and(|actual| contains(actual, value))
        }),
        (Value::Array(actual), Value::Array(expected)) => sorted(actual) == sorted(expected),
        _ => actual == expected,
    }
}

#[test]
fn only_what_is_expected_is_compared() {
    let actual = serde_json::json!({"a": {"b": 1, "c": ["x", "y"]}});
    for expected in [r#"{}"#, r#"{"a": {"b": 1}}"#, r#"{"a": {"c": ["y", "x"]}}"#] {
        assert!(contains(&actual, &serde_json::from_str(expected).unwrap()));
    }
    for wrong in [
        r#"{"b": 1}"#,
        r#"{"a": {"b": 2}}"#,
        r#"{"a": {"c": ["x"]}}"#,
        r#"{"a": 1}"#,
    ] {
        assert!(!contains(&actual, &serde_json::from_str(wrong).unwrap()));
    }
}
