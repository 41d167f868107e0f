//! A service on a temporary folder, and commands as the coordinator sends them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Env, Tasks};
use ledger::{Ledger, StoreConfig};
use participant::barrier::Key;
use participant::{Direction, HeartbeatHandle, Kind, Outcome, StepCommand, Value};
use payments::api::PaymentApi;
use payments::decider::{Command, Payments, Reply};
use payments::domain::{self, Details};
use payments::processor::Guarded;
use payments::processor::bank::Bank;
use payments::steps::Steps;
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentService as _;
use sagamesh_api::shop::v1::Money;
use tonic::Request;

/// How long the processor may take: far longer than the bank needs.
const PROCESSOR_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the attempts may take that never get an answer: longer than the bank needs to do the work.
const SILENT_ATTEMPT: Duration = Duration::from_secs(1);

pub(crate) struct Shop {
    pub(crate) ledger: Ledger<Payments>,
    pub(crate) bank: Bank,
    pub(crate) steps: Steps,
    pub(crate) api: PaymentApi,
    tasks: Tasks,
}

impl Shop {
    pub(crate) async fn open(folder: &Path) -> Self {
        Self::on(StoreConfig::sqlite(folder, "payments"), folder).await
    }

    pub(crate) async fn on(store: StoreConfig, folder: &Path) -> Self {
        let (env, tasks) = (Env::system(), Tasks::new());
        let ledger = payments::open(&store, &env, &tasks)
            .await
            .expect("the log opens");
        let beside = StoreConfig {
            data_dir: folder.to_owned(),
            ..store
        };
        let bank = Bank::open(&beside).await.expect("the bank opens");
        let processor = Guarded::new(
            Arc::new(bank.clone()),
            env,
            PROCESSOR_TIMEOUT,
            Duration::from_secs(60),
        );
        let steps = Steps::new(ledger.clone(), processor);
        let api = PaymentApi::new(ledger.clone());
        Self {
            ledger,
            bank,
            steps,
            api,
            tasks,
        }
    }

    /// Stops it as a restart does.
    pub(crate) async fn stop(self) {
        self.tasks
            .shutdown(Duration::from_secs(10))
            .await
            .expect("every task stops");
        self.ledger.close().await;
    }

    pub(crate) async fn authorize(&self, order: &str, method: &str) -> Outcome {
        self.steps.authorize(authorize(order, method)).await.into()
    }

    pub(crate) async fn void(&self, order: &str) -> Outcome {
        self.steps.void(undo(order)).await.into()
    }

    pub(crate) async fn capture(&self, order: &str) -> Outcome {
        self.steps
            .capture(step(
                order,
                "capture-payment",
                Direction::Action,
                &[("order_id", order)],
            ))
            .await
            .into()
    }

    /// An attempt to authorize that the bank never answers.
    pub(crate) async fn authorize_in_silence(&self, order: &str) -> Outcome {
        let command = StepCommand {
            timeout: SILENT_ATTEMPT,
            ..authorize(order, "pm_timeout_authorize")
        };
        self.steps.authorize(command).await.into()
    }

    /// An attempt to capture that the bank never answers.
    pub(crate) async fn capture_in_silence(&self, order: &str) -> Outcome {
        let command = step(
            order,
            "capture-payment",
            Direction::Action,
            &[("order_id", order)],
        );
        self.steps
            .capture(StepCommand {
                timeout: SILENT_ATTEMPT,
                ..command
            })
            .await
            .into()
    }

    pub(crate) async fn refund(&self, order: &str) -> Outcome {
        let saga = format!("refund-of-{order}");
        self.steps
            .refund(step(
                &saga,
                "refund-payment",
                Direction::Action,
                &[("order_id", order)],
            ))
            .await
            .into()
    }

    /// Records the intent to authorize, and nothing more: what is left when the process dies before the processor answers.
    pub(crate) async fn intend_to_authorize(&self, order: &str, method: &str) {
        let details = Details {
            customer_id: "alice".into(),
            amount: Money {
                minor_units: 1_250,
                currency: "EUR".into(),
            },
            payment_method: method.into(),
        };
        self.intend(
            order,
            "authorize-payment",
            domain::Command::Authorize(details),
        )
        .await;
    }

    /// Records the intent to capture, and nothing more.
    pub(crate) async fn intend_to_capture(&self, order: &str) {
        self.intend(order, "capture-payment", domain::Command::Capture)
            .await;
    }

    async fn intend(&self, order: &str, step: &str, command: domain::Command) {
        let key = Key {
            saga_id: order.into(),
            step: step.into(),
            direction: Direction::Action,
            not_after: None,
        };
        let reply = self
            .ledger
            .execute(Command {
                key,
                payment_id: order.into(),
                command,
            })
            .await
            .unwrap()
            .reply;
        assert!(matches!(reply, Reply::Call(..)), "{reply:?}");
    }

    /// The payment as people see it, once the read side has seen everything.
    pub(crate) async fn payment(&self, order: &str) -> api::Payment {
        let request = api::GetPaymentRequest {
            payment_id: order.into(),
            min_position: self.ledger.head(),
        };
        let response = self
            .api
            .get_payment(Request::new(request))
            .await
            .expect("the payment exists");
        response.into_inner().payment.expect("a payment")
    }

    pub(crate) async fn balance(&self) -> api::GetTrialBalanceResponse {
        let head = self.ledger.head();
        self.ledger
            .wait_for_projection("books", head, Duration::from_secs(10))
            .await
            .unwrap();
        let balance = self
            .api
            .get_trial_balance(Request::new(api::GetTrialBalanceRequest {}))
            .await;
        balance.expect("a balance").into_inner()
    }

    /// Accounts that are not zero, as (name, minor units).
    pub(crate) async fn accounts(&self) -> Vec<(String, i64)> {
        let balance = self.balance().await;
        assert!(balance.balanced, "{balance:?}");
        let minor = |account: &api::Account| {
            account
                .balance
                .as_ref()
                .map_or(0, |money| money.minor_units)
        };
        balance
            .accounts
            .iter()
            .map(|account| (account.name.clone(), minor(account)))
            .collect()
    }
}

/// A command for authorize-payment of 12.50 EUR.
pub(crate) fn authorize(order: &str, method: &str) -> StepCommand {
    step(
        order,
        "authorize-payment",
        Direction::Action,
        &[
            ("order_id", order),
            ("customer_id", "alice"),
            ("total", r#"{"minor_units":1250,"currency":"EUR"}"#),
            ("payment_method", method),
        ],
    )
}

/// The compensation of authorize-payment, which must work from the saga's id alone.
pub(crate) fn undo(order: &str) -> StepCommand {
    step(order, "authorize-payment", Direction::Compensation, &[])
}

pub(crate) fn step(
    saga: &str,
    step: &str,
    direction: Direction,
    input: &[(&str, &str)],
) -> StepCommand {
    let text = |text: &str| Value {
        kind: Some(Kind::Text(text.to_owned())),
    };
    StepCommand {
        saga_id: saga.to_owned(),
        step: step.to_owned(),
        direction,
        action: format!("test.{step}"),
        attempt: 1,
        lease_token: 1,
        timeout: Duration::from_secs(60),
        not_after: None,
        input: input
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(value)))
            .collect(),
        outputs: BTreeMap::new(),
        action_output: None,
        traceparent: String::new(),
        heartbeat: HeartbeatHandle::detached(),
    }
}

pub(crate) fn reason(outcome: &Outcome) -> &str {
    outcome
        .failure()
        .map_or("", |failure| failure.reason.as_str())
}
