//! Handing mails over: to a folder, or to a mail server.

mod files;
mod smtp;

use std::str::FromStr;

use chassis::Env;
use ledger::BoxFuture;
use lettre::Address;
use lettre::message::{Mailbox, Message, header::ContentType};
use sagamesh_api::shop::notifications::v1::NotificationRecorded;

pub use files::Files;
pub use smtp::{Smtp, SmtpUrl};

/// The domain in the Message-IDs, after the notification's id.
const ID_DOMAIN: &str = "notifications.sagamesh";

/// A mail, ready to be handed over.
#[derive(Debug)]
pub struct Mail {
    /// Id of the notification; its Message-ID is `<id@notifications.sagamesh>`, the same whenever it is sent.
    pub id: String,
    /// The mail.
    pub message: Message,
}

/// Why a mail was not handed over. Names nobody: what servers answer often repeats addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Another try may work.
    #[error("{0}")]
    Passing(String),
    /// Only somebody who changes something can help.
    #[error("{0}")]
    Lasting(String),
}

/// Takes mails. A mail may come twice, with the same Message-ID; once it is taken it must not be lost.
pub trait Mailer: Send + Sync + 'static {
    /// Hands a mail over.
    fn send<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<(), MailError>>;

    /// What it is, for logs and metrics.
    fn kind(&self) -> &'static str;
}

/// The address, if mail can be sent there; otherwise empty: the notification is recorded only.
pub(crate) fn recipient(text: &str) -> String {
    if !text.is_empty() && text.is_ascii() && text.len() <= 254 && Address::from_str(text).is_ok() {
        text.to_owned()
    } else {
        String::new()
    }
}

/// Writes the mail for a notification.
///
/// # Errors
/// If the recipient is no address.
pub fn write(
    id: &str,
    note: &NotificationRecorded,
    from: &Mailbox,
    env: &Env,
) -> Result<Mail, MailError> {
    let to = Address::from_str(&note.recipient)
        .map_err(|_| MailError::Lasting("the recipient is no e-mail address".to_owned()))?;
    let message = Message::builder()
        .message_id(Some(format!("<{id}@{ID_DOMAIN}>")))
        .date(env.clock.now())
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(note.subject.clone())
        .header(ContentType::TEXT_PLAIN)
        .body(note.body.clone())
        .map_err(|error| MailError::Lasting(format!("the mail cannot be written: {error}")))?;
    Ok(Mail {
        id: id.to_owned(),
        message,
    })
}
