//! Mails over SMTP.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::FutureExt as _;
use ledger::BoxFuture;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::{Mail, MailError, Mailer};

/// How long the server may take for each of its answers.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Where the mail server is: `smtp://host:25`, `smtp://user:password@host:587?tls=required`, `smtps://user:password@host`. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpUrl(String);

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        AsyncSmtpTransport::<Tokio1Executor>::from_url(text)
            .map(|_| Self(text.to_owned()))
            .map_err(|error| {
                format!(
                    "no SMTP address ({error}): write smtp://host:25 or smtps://user:password@host"
                )
            })
    }
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpUrl(..)")
    }
}

/// Hands mails to a mail server, one connection a mail.
#[derive(Debug)]
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Smtp {
    /// The server at this address.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub fn new(url: &SmtpUrl) -> Result<Self, lettre::transport::smtp::Error> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url.0)?
            .timeout(Some(TIMEOUT))
            .build();
        Ok(Self { transport })
    }
}

impl Mailer for Smtp {
    fn send<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<(), MailError>> {
        async move {
            match self
                .transport
                .send_raw(mail.message.envelope(), &mail.message.formatted())
                .await
            {
                Ok(_) => Ok(()),
                // Only the code: servers repeat addresses in their words.
                Err(error) => {
                    let code = error
                        .status()
                        .map_or_else(String::new, |code| format!(" with code {code}"));
                    if error.is_permanent() {
                        Err(MailError::Lasting(format!(
                            "the mail server refused the mail{code}"
                        )))
                    } else if error.is_transient() {
                        Err(MailError::Passing(format!(
                            "the mail server put the mail off{code}"
                        )))
                    } else if error.is_timeout() {
                        Err(MailError::Passing(
                            "the mail server did not answer in time".to_owned(),
                        ))
                    } else {
                        Err(MailError::Passing(
                            "the mail server cannot be reached".to_owned(),
                        ))
                    }
                }
            }
        }
        .boxed()
    }

    fn kind(&self) -> &'static str {
        "smtp"
    }
}
