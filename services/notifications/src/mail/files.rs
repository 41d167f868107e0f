//! Mails as files: `<folder>/<id>.eml`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use ledger::BoxFuture;

use super::{Mail, MailError, Mailer};

/// Puts mails into a folder that only this user can read. A mail that is sent again replaces itself.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Mails go to this folder; it is made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self { folder })
    }

    /// The file of a mail. Ids are safe as names; whatever is not, is replaced.
    #[must_use]
    pub fn path(&self, id: &str) -> PathBuf {
        let name: String = id
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-._@".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        self.folder
            .join(format!("{}.eml", name.trim_start_matches('.')))
    }
}

impl Mailer for Files {
    fn send<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<(), MailError>> {
        let (folder, path, text) = (
            self.folder.clone(),
            self.path(&mail.id),
            mail.message.formatted(),
        );
        async move {
            let written = tokio::task::spawn_blocking(move || write(&folder, &path, &text)).await;
            match written {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(MailError::Passing(format!(
                    "the outbox folder cannot be written: {error}"
                ))),
                Err(_) => Err(MailError::Passing(
                    "writing the mail was interrupted".to_owned(),
                )),
            }
        }
        .boxed()
    }

    fn kind(&self) -> &'static str {
        "files"
    }
}

/// Durable when it returns, and never half there: beside it, flushed, renamed, and the folder flushed. Another replica may be
/// at the same mail: each has a place of its own beside it.
fn write(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}
