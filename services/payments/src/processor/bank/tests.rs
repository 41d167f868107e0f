use sagamesh_api::shop::v1::Money;

use super::*;

fn request(payment_id: &str, operation: Operation, method: Method) -> Request {
    Request {
        key: operation.key(payment_id),
        payment_id: payment_id.into(),
        operation,
        amount: Money {
            minor_units: 100,
            currency: "EUR".into(),
        },
        payment_method: method.token().into(),
    }
}

#[tokio::test]
async fn a_key_does_its_work_once_and_a_reopened_bank_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    let authorize = request("p", Operation::Authorize, Method::Fine);
    let answer = {
        let bank = Bank::in_file(&path).await.unwrap();
        assert_eq!(bank.status(&authorize.key).await.unwrap(), None);
        let answer = bank.perform(&authorize).await.unwrap();
        assert_eq!(bank.perform(&authorize).await.unwrap(), answer);
        answer
    };
    let bank = Bank::in_file(&path).await.unwrap();
    assert_eq!(
        bank.status(&authorize.key).await.unwrap(),
        Some(answer.clone())
    );
    assert_eq!(bank.perform(&authorize).await.unwrap(), answer);
    assert_eq!(bank.approved("p").await.unwrap(), [Operation::Authorize]);
}

/// What was answered after a full disk is as durable as before it.
#[tokio::test]
async fn what_is_answered_after_the_disk_was_full_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    let bank = Bank::in_file(&path).await.unwrap();
    let Place::Sqlite(pool) = &bank.place else {
        unreachable!("a file")
    };
    let limit = async |pages: i64| {
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    };
    let mut full = 0;
    for number in 0..200 {
        if number == 50 {
            limit(1).await;
        }
        if number == 100 {
            limit(1 << 20).await;
        }
        let authorize = request(&format!("p{number}"), Operation::Authorize, Method::Fine);
        let answered = bank.perform(&authorize).await;
        full += usize::from(answered.is_err());
        // Reads open transactions too, and never commit them.
        assert!(bank.status(&authorize.key).await.is_ok());
    }
    assert!(full > 0, "never full");
    assert!(full <= 50, "full for ever");
    // As after a crash: another connection sees what is on disk, and nothing else.
    let other = Bank::in_file(&path).await.unwrap();
    for number in 100..200 {
        let payment = format!("p{number}");
        assert_eq!(
            other.approved(&payment).await.unwrap(),
            [Operation::Authorize],
            "{payment}"
        );
    }
}

/// A new bank of each kind; of PostgreSQL where that is on the machine.
async fn banks(folder: &Path) -> Vec<Bank> {
    let mut banks = vec![Bank::in_file(&folder.join("bank.db")).await.unwrap()];
    if let Some(cluster) = ledger::testing::postgres().await {
        let url = cluster.database().await;
        banks.push(Bank::in_postgres(&url).await.unwrap());
    }
    banks
}

/// Replicas of payments open the same bank, at the same time and each with its own connections.
#[tokio::test]
async fn replicas_share_one_bank_that_never_takes_and_voids_the_same_money() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let url = cluster.database().await;
    let (one, other) = tokio::try_join!(Bank::in_postgres(&url), Bank::in_postgres(&url)).unwrap();
    let flaky = request("flaky", Operation::Authorize, Method::Flaky);
    assert!(one.perform(&flaky).await.is_err());
    assert!(other.perform(&flaky).await.is_err());
    assert!(
        one.perform(&flaky).await.is_ok(),
        "calls are counted together"
    );
    for number in 0..40 {
        let payment = format!("p{number}");
        let ask = |operation| request(&payment, operation, Method::Fine);
        one.perform(&ask(Operation::Authorize)).await.unwrap();
        let (capture, void) = (ask(Operation::Capture), ask(Operation::Void));
        let (captured, voided, again) = tokio::join!(
            one.perform(&capture),
            other.perform(&void),
            other.perform(&capture)
        );
        assert_eq!(captured.unwrap(), again.unwrap(), "one answer for a key");
        voided.unwrap();
        assert_eq!(one.approved(&payment).await.unwrap().len(), 2, "{payment}");
    }
}

#[tokio::test]
async fn flaky_is_unavailable_twice_for_each_key() {
    let folder = tempfile::tempdir().unwrap();
    for bank in banks(folder.path()).await {
        for operation in [Operation::Authorize, Operation::Capture] {
            let request = request("p", operation, Method::Flaky);
            for _ in 0..2 {
                assert!(matches!(
                    bank.perform(&request).await,
                    Err(ProcessorError::Unavailable(_))
                ));
                assert_eq!(bank.status(&request.key).await.unwrap(), None);
            }
            assert!(matches!(
                bank.perform(&request).await,
                Ok(Answer::Approved { .. })
            ));
        }
    }
}

#[tokio::test]
async fn the_silent_methods_do_the_work_and_answer_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    for bank in banks(folder.path()).await {
        let authorize = request("p", Operation::Authorize, Method::SilentCapture);
        assert!(matches!(
            bank.perform(&authorize).await,
            Ok(Answer::Approved { .. })
        ));
        let capture = request("p", Operation::Capture, Method::SilentCapture);
        // The work is done although the caller hears nothing.
        let done = async {
            while bank.status(&capture.key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = bank.perform(&capture) => panic!("answered {answer:?}"),
            () = done => {}
        }
        assert!(matches!(
            bank.perform(&capture).await,
            Ok(Answer::Approved { .. })
        ));
    }
}

#[tokio::test]
async fn slow_keeps_the_first_caller_waiting_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for bank in banks(folder.path()).await {
        let authorize = request("p", Operation::Authorize, Method::Slow);
        let done = async {
            while bank.status(&authorize.key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = done => {}
            answer = bank.perform(&authorize) => panic!("answered {answer:?} at once"),
        }
        assert!(matches!(
            bank.perform(&authorize).await,
            Ok(Answer::Approved { .. })
        ));
    }
}

/// Each is answered at once: nobody can play an outage that others have too.
#[tokio::test]
async fn without_test_cards_the_bank_knows_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::in_file(&folder.path().join("bank.db")).await.unwrap();
    let bank = bank.with_test_cards(false);
    for method in Method::ALL {
        let authorize = request(method.token(), Operation::Authorize, method);
        let answer = bank.perform(&authorize).await.unwrap();
        let unknown = matches!(&answer, Answer::Declined { reason, .. } if reason == "UNKNOWN_PAYMENT_METHOD");
        assert_eq!(unknown, method != Method::Fine, "{method:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_late_authorization_finds_its_void() {
    let folder = tempfile::tempdir().unwrap();
    for bank in banks(folder.path()).await {
        assert!(matches!(
            bank.perform(&request("p", Operation::Void, Method::Fine))
                .await,
            Ok(Answer::Approved { .. })
        ));
        let late = bank
            .perform(&request("p", Operation::Authorize, Method::Fine))
            .await
            .unwrap();
        assert!(
            matches!(late, Answer::Declined { reason, .. } if reason == "AUTHORIZATION_VOIDED")
        );
    }
}

#[tokio::test]
async fn a_file_that_is_no_bank_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    std::fs::write(
        &path,
        "this is no database, but long enough to look like something else entirely",
    )
    .unwrap();
    let error = Bank::in_file(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("bank.db") && error.contains("move it away"),
        "{error}"
    );
}
