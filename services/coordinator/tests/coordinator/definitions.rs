//! Definitions: registered, activated, paused, deleted, refused.

use sagamesh_api::saga::v1::*;

use crate::support::*;

#[tokio::test]
async fn a_version_is_registered_once_and_activated_by_compare_and_set() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let mut client = system.definitions.clone();
    let first = system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let register = |definition: Definition| {
        let mut client = client.clone();
        async move {
            client
                .register_definition(RegisterDefinitionRequest {
                    definition: Some(definition),
                })
                .await
                .expect("valid")
                .into_inner()
                .version
                .expect("a version")
        }
    };
    let same = register(definition("order", vec![step("a", "one", &[])])).await;
    assert_eq!((same.hash.as_str(), same.active), (first.as_str(), true));
    assert_eq!(
        same.warnings.len(),
        2,
        "nobody is connected: {:?}",
        same.warnings
    );
    let second = register(definition(
        "order",
        vec![step("a", "one", &[]), step("b", "two", &["one"])],
    ))
    .await;
    assert_ne!(second.hash, first);
    assert!(!second.active, "registering never activates");

    let activate = |hash: &str, expected: &str| {
        let request = ActivateDefinitionRequest {
            name: "order".to_owned(),
            hash: hash.to_owned(),
            expected_active_hash: expected.to_owned(),
        };
        let mut client = client.clone();
        async move { client.activate_definition(request).await }
    };
    let lost = activate(&second.hash, "")
        .await
        .expect_err("another is active");
    assert_eq!(
        (lost.code(), reason(&lost).as_str()),
        (tonic::Code::Aborted, "ACTIVE_VERSION_CHANGED")
    );
    activate(&second.hash, &first).await.expect("activated");
    let missing = activate(&"0".repeat(64), &second.hash)
        .await
        .expect_err("no such version");
    assert_eq!(reason(&missing), "DEFINITION_VERSION_NOT_FOUND");

    // A running saga keeps its version.
    let mut old = start("order", "s-1");
    old.definition_hash.clone_from(&first);
    let saga = system
        .try_start(old)
        .await
        .expect("started")
        .saga
        .expect("a saga");
    assert_eq!(
        (saga.definition_hash.as_str(), saga.steps.len()),
        (first.as_str(), 1)
    );

    let delete = |hash: &str| {
        let request = DeleteDefinitionRequest {
            name: "order".to_owned(),
            hash: hash.to_owned(),
        };
        let mut client = client.clone();
        async move { client.delete_definition(request).await }
    };
    assert_eq!(
        reason(&delete(&first).await.expect_err("in use")),
        "DEFINITION_IN_USE"
    );
    assert_eq!(
        reason(&delete(&second.hash).await.expect_err("active")),
        "DEFINITION_ACTIVE"
    );
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    system.ended("s-1").await;
    delete(&first).await.expect("deleted");
    assert_eq!(
        system.get("s-1").await.state(),
        SagaState::Completed,
        "its history is still readable"
    );

    let page = client
        .list_definitions(ListDefinitionsRequest {
            page_size: 1,
            ..ListDefinitionsRequest::default()
        })
        .await
        .expect("a page")
        .into_inner();
    assert_eq!(
        (
            page.versions.len(),
            page.versions[0].hash.as_str(),
            page.next_page_token.as_str()
        ),
        (1, second.hash.as_str(), "")
    );
}

#[tokio::test]
async fn a_paused_definition_takes_no_new_sagas() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    system.start_saga("order", "s-1").await;
    let mut client = system.definitions.clone();
    client
        .pause_definition(PauseDefinitionRequest {
            name: "order".to_owned(),
            reason: "stocktaking".to_owned(),
        })
        .await
        .expect("paused");
    let refused = system
        .try_start(start("order", "s-2"))
        .await
        .expect_err("paused");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::FailedPrecondition, "DEFINITION_PAUSED")
    );
    assert!(
        !system
            .try_start(start("order", "s-1"))
            .await
            .expect("it is there already")
            .created
    );
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    assert_eq!(
        system.ended("s-1").await.state(),
        SagaState::Completed,
        "running ones go on"
    );
    client
        .resume_definition(ResumeDefinitionRequest {
            name: "order".to_owned(),
        })
        .await
        .expect("resumed");
    system.start_saga("order", "s-2").await;
}

#[tokio::test]
async fn bad_definitions_are_refused_field_by_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let refused = |definition: Definition| {
        let mut client = system.definitions.clone();
        async move {
            let status = client
                .register_definition(RegisterDefinitionRequest {
                    definition: Some(definition),
                })
                .await
                .expect_err("refused");
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            chassis::problem::fields(&status)
        }
    };
    let names = |fields: Vec<(String, String)>| {
        fields
            .into_iter()
            .map(|(field, _)| field)
            .collect::<Vec<_>>()
    };
    let cycle = definition(
        "order",
        vec![step("a", "one", &["two"]), step("a", "two", &["one"])],
    );
    assert!(
        refused(cycle)
            .await
            .iter()
            .any(|(field, description)| field.starts_with("definition.steps")
                && description.contains("cycle"))
    );
    let stranger = definition("order", vec![step("stranger", "one", &[])]);
    assert_eq!(
        names(refused(stranger).await),
        ["definition.steps[0].call.participant"]
    );
    let uncompensated = definition(
        "order",
        vec![with_call(step("a", "one", &[]), |call| {
            call.compensation.clear()
        })],
    );
    assert_eq!(
        names(refused(uncompensated).await),
        ["definition.steps[0].call.compensation"]
    );
    let pivots = definition(
        "order",
        vec![
            phase_step(Phase::Pivot, "a", "one", &[]),
            phase_step(Phase::Pivot, "a", "two", &["one"]),
        ],
    );
    assert!(!refused(pivots).await.is_empty());
    let empty = system
        .definitions
        .clone()
        .register_definition(RegisterDefinitionRequest::default())
        .await
        .expect_err("nothing");
    assert_eq!(chassis::problem::fields(&empty)[0].0, "definition");
}
