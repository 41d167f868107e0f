//! `shop.payments.v1.PaymentService`.

use std::time::Duration;

use chassis::{Domain, Problem, page};
use ledger::Ledger;
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentService;
use tonic::{Code, Request, Response, Status};

use crate::decider::Payments;
use crate::domain::{MAX_ID_CHARS, is_payment_id};
use crate::{projection, queries};

/// Who speaks in errors.
pub const ERRORS: Domain = Domain("payments.sagamesh");

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;
/// How long a read waits for its position when the call has no deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone, Debug)]
pub struct PaymentApi {
    ledger: Ledger<Payments>,
}

impl PaymentApi {
    /// A service on `ledger`.
    pub fn new(ledger: Ledger<Payments>) -> Self {
        Self { ledger }
    }

    /// Waits until the read side has this position.
    async fn reach(&self, position: u64) -> Result<(), Problem> {
        let ledger = &self.ledger;
        ledger
            .reach(projection::NAME, position, LONGEST_WAIT, ERRORS)
            .await
    }
}

#[tonic::async_trait]
impl PaymentService for PaymentApi {
    async fn get_payment(
        &self,
        request: Request<api::GetPaymentRequest>,
    ) -> Result<Response<api::GetPaymentResponse>, Status> {
        let api::GetPaymentRequest {
            payment_id: id,
            min_position,
        } = request.into_inner();
        if !is_payment_id(&id) {
            let rule = "must be 1 to 128 characters of [A-Za-z0-9._:-]";
            return Err(ERRORS.invalid_field("payment_id", rule).into());
        }
        self.reach(min_position).await?;
        let payment = queries::payment(&self.ledger.reader(), &id)
            .await
            .map_err(storage)?;
        let payment = payment.ok_or_else(|| {
            ERRORS.problem(
                Code::NotFound,
                "PAYMENT_UNKNOWN",
                format!("there is no payment for order `{id}`"),
            )
        })?;
        Ok(Response::new(api::GetPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn list_payments(
        &self,
        request: Request<api::ListPaymentsRequest>,
    ) -> Result<Response<api::ListPaymentsResponse>, Status> {
        let request = request.into_inner();
        if request.customer_id.chars().count() > MAX_ID_CHARS {
            let rule = format!("must be at most {MAX_ID_CHARS} characters");
            return Err(ERRORS.invalid_field("customer_id", rule).into());
        }
        let size = page::page_size(ERRORS, request.page_size, DEFAULT_PAGE, MAX_PAGE)?;
        let filter = format!("payments/{}", request.customer_id);
        let before = match page::decode_token(ERRORS, &filter, &request.page_token)? {
            None => u64::MAX >> 1,
            Some(cursor) => cursor.try_into().map(u64::from_be_bytes).map_err(|_| {
                ERRORS.invalid_field("page_token", "is not a token of this service")
            })?,
        };
        let sql = self.ledger.reader();
        let mut found = queries::payments(&sql, &request.customer_id, before, size + 1)
            .await
            .map_err(storage)?;
        let more = found.len() > size as usize;
        found.truncate(size as usize);
        let next_page_token = match found.last() {
            Some((seq, _)) if more => page::encode_token(&filter, &seq.to_be_bytes()),
            _ => String::new(),
        };
        let payments = found.into_iter().map(|(_, payment)| payment).collect();
        Ok(Response::new(api::ListPaymentsResponse {
            payments,
            next_page_token,
        }))
    }

    async fn get_trial_balance(
        &self,
        _request: Request<api::GetTrialBalanceRequest>,
    ) -> Result<Response<api::GetTrialBalanceResponse>, Status> {
        let balance = queries::trial_balance(&self.ledger.reader())
            .await
            .map_err(storage)?;
        if !balance.balanced {
            tracing::error!(position = balance.position, "the books do not balance");
        }
        Ok(Response::new(balance))
    }
}

/// The one place that says what an error of the ledger is to a caller.
fn storage(error: ledger::Error) -> Problem {
    ERRORS.storage(error.is_transient(), &error)
}
