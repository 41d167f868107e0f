//! Watching and listing.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::*;

use crate::support::*;

#[tokio::test]
async fn watching_from_a_version_misses_and_repeats_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        step("a", "one", &[]),
        step("a", "two", &["one"]),
        step("a", "three", &["two"]),
    ];
    system.define(definition("order", steps)).await;
    let mut a = system
        .link(
            "a",
            "a1",
            &[
                "one.do",
                "one.undo",
                "two.do",
                "two.undo",
                "three.do",
                "three.undo",
            ],
            10,
        )
        .await;
    system.start_saga("order", "s-1").await;
    let mut early = system.watch("s-1", 0).await;
    assert_eq!(early.next().await.expect("started").version, 1);
    let command = a.command().await;
    a.answer(&command, success(""));
    let second = early.next().await.expect("one done");
    assert_eq!(second.version, 2);
    let late = system.watch("s-1", 1).await;
    for _ in 0..2 {
        let command = a.command().await;
        a.answer(&command, success(""));
    }
    let late = late.all().await;
    assert_eq!(
        late.iter().map(|event| event.version).collect::<Vec<_>>(),
        [2, 3, 4]
    );
    assert_eq!(late[0], second);
    assert_eq!(
        early
            .all()
            .await
            .iter()
            .map(|event| event.version)
            .collect::<Vec<_>>(),
        [3, 4]
    );
    // An ended saga: its rest, and then the end.
    assert_eq!(system.watch("s-1", 3).await.all().await.len(), 1);
    assert_eq!(system.watch("s-1", 4).await.all().await.len(), 0);
    let beyond = system.try_watch("s-1", 5).await.err().expect("beyond");
    assert_eq!(beyond.code(), tonic::Code::OutOfRange);
    let missing = system
        .try_watch("nobody", 0)
        .await
        .err()
        .expect("no such saga");
    assert_eq!(missing.code(), tonic::Code::NotFound);
}

async fn list(
    system: &System,
    filter: SagaFilter,
    page_size: i32,
    page_token: &str,
) -> ListSagasResponse {
    let request = ListSagasRequest {
        filter: Some(filter),
        page_size,
        page_token: page_token.to_owned(),
    };
    system
        .sagas
        .clone()
        .list_sagas(request)
        .await
        .expect("a page")
        .into_inner()
}

async fn ids(system: &System, filter: SagaFilter) -> Vec<String> {
    let mut ids: Vec<_> = list(system, filter, 0, "")
        .await
        .sagas
        .into_iter()
        .map(|saga| saga.saga_id)
        .collect();
    ids.sort();
    ids
}

/// Waits until the list has so many sagas in these states.
async fn listed(system: &System, filter: SagaFilter, count: usize) {
    soon("the list", async {
        while list(system, filter.clone(), 500, "").await.sagas.len() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn lists_filter_by_everything_and_page_newest_first() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    system
        .define(definition("refund", vec![step("b", "two", &[])]))
        .await;
    system
        .worker("a", &["one.do", "one.undo"], |command| {
            Some(if command.saga_id.ends_with('7') {
                rejection("NO")
            } else {
                success("")
            })
        })
        .await;
    for number in 0..30 {
        let mut request = start("order", &format!("o-{number:02}"));
        request.search_attributes = BTreeMap::from([
            ("customer".to_owned(), format!("c{}", number % 3)),
            ("shop".to_owned(), "x".to_owned()),
        ]);
        system.try_start(request).await.expect("started");
    }
    for number in 0..5 {
        system.start_saga("refund", &format!("r-{number}")).await;
    }
    let completed = SagaFilter {
        states: vec![SagaState::Completed.into()],
        ..SagaFilter::default()
    };
    listed(&system, completed.clone(), 27).await;
    let compensated = SagaFilter {
        states: vec![SagaState::Compensated.into()],
        ..SagaFilter::default()
    };
    listed(&system, compensated.clone(), 3).await;
    listed(&system, SagaFilter::default(), 35).await;
    assert_eq!(ids(&system, compensated).await, ["o-07", "o-17", "o-27"]);
    let running = SagaFilter {
        states: vec![SagaState::Running.into()],
        ..SagaFilter::default()
    };
    assert_eq!(
        ids(&system, running).await,
        ["r-0", "r-1", "r-2", "r-3", "r-4"]
    );
    let refunds = SagaFilter {
        definitions: vec!["refund".to_owned()],
        ..SagaFilter::default()
    };
    assert_eq!(ids(&system, refunds).await.len(), 5);
    let both = SagaFilter {
        definitions: vec!["refund".to_owned(), "order".to_owned()],
        states: vec![SagaState::Compensated.into(), SagaState::Running.into()],
        ..SagaFilter::default()
    };
    assert_eq!(ids(&system, both).await.len(), 8);
    let attributes = BTreeMap::from([
        ("customer".to_owned(), "c1".to_owned()),
        ("shop".to_owned(), "x".to_owned()),
    ]);
    let customer = SagaFilter {
        search_attributes: attributes,
        states: vec![SagaState::Compensated.into()],
        ..SagaFilter::default()
    };
    assert_eq!(ids(&system, customer).await, ["o-07"]);
    let nobody = SagaFilter {
        search_attributes: BTreeMap::from([("customer".to_owned(), "nobody".to_owned())]),
        ..SagaFilter::default()
    };
    assert!(ids(&system, nobody).await.is_empty());

    let times = system.get("o-10").await.start_time;
    let from = SagaFilter {
        started_after_time: times,
        definitions: vec!["order".to_owned()],
        ..SagaFilter::default()
    };
    let before = SagaFilter {
        started_before_time: times,
        definitions: vec!["order".to_owned()],
        ..SagaFilter::default()
    };
    assert_eq!(
        ids(&system, from).await.len() + ids(&system, before).await.len(),
        30
    );

    let (mut token, mut paged) = (String::new(), Vec::new());
    loop {
        let page = list(&system, SagaFilter::default(), 8, &token).await;
        assert!(page.sagas.iter().all(|saga| saga.steps.is_empty()));
        paged.extend(page.sagas);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged.len(), 35);
    let place = |saga: &Saga| {
        (
            saga.start_time.map(|time| (time.seconds, time.nanos)),
            saga.saga_id.clone(),
        )
    };
    assert!(
        paged
            .windows(2)
            .all(|pair| place(&pair[0]) > place(&pair[1])),
        "newest first, each once"
    );
    let of_get = system.get("o-03").await;
    let of_list = paged
        .into_iter()
        .find(|saga| saga.saga_id == "o-03")
        .expect("listed");
    assert_eq!(
        of_list,
        Saga {
            steps: Vec::new(),
            ..of_get
        }
    );
}

#[tokio::test]
async fn bad_filters_and_tokens_are_refused_by_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let refused = |request| {
        let mut client = system.sagas.clone();
        async move {
            chassis::problem::fields(&client.list_sagas(request).await.expect_err("refused"))[0]
                .0
                .clone()
        }
    };
    assert_eq!(
        refused(ListSagasRequest {
            page_size: -1,
            ..ListSagasRequest::default()
        })
        .await,
        "page_size"
    );
    assert_eq!(
        refused(ListSagasRequest {
            page_token: "garbage".to_owned(),
            ..ListSagasRequest::default()
        })
        .await,
        "page_token"
    );
    let filter = SagaFilter {
        states: vec![99],
        ..SagaFilter::default()
    };
    assert_eq!(
        refused(ListSagasRequest {
            filter: Some(filter),
            ..ListSagasRequest::default()
        })
        .await,
        "filter.states[0]"
    );
    let many = [
        (
            "filter.definitions",
            SagaFilter {
                definitions: vec!["order".to_owned(); 65],
                ..SagaFilter::default()
            },
        ),
        (
            "filter.states",
            SagaFilter {
                states: vec![SagaState::Running.into(); 65],
                ..SagaFilter::default()
            },
        ),
    ];
    let many = many.into_iter().chain([(
        "filter.search_attributes[\"customer\"]",
        SagaFilter {
            search_attributes: BTreeMap::from([("customer".to_owned(), "a\0b".to_owned())]),
            ..SagaFilter::default()
        },
    )]);
    for (field, filter) in many {
        let request = ListSagasRequest {
            filter: Some(filter),
            ..ListSagasRequest::default()
        };
        assert_eq!(refused(request).await, field);
    }
}
