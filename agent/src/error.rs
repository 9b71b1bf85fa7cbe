//! The one error type. Its variants are the kinds of `hyper.errors` on the host, and its JSON form is the protocol's
//! `error` object; `Rule` (in `frames`) is apart because breaking the protocol closes the link instead of failing a request.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

pub type Result<T> = std::result::Result<T, Error>;

/// What a request can fail with. The text is shown to users as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "message")]
pub enum Error {
    InvalidArgument(String),
    NotFound(String),
    Conflict(String),
    AlreadyExists(String),
    FailedPrecondition(String),
    PermissionDenied(String),
    ResourceExhausted(String),
    Unavailable(String),
    Unsupported(String),
    DeadlineExceeded(String),
    Internal(String),
}

impl Error {
    pub fn message(&self) -> &str {
        use Error::*;
        match self {
            InvalidArgument(m)
            | NotFound(m)
            | Conflict(m)
            | AlreadyExists(m)
            | FailedPrecondition(m)
            | PermissionDenied(m)
            | ResourceExhausted(m)
            | Unavailable(m)
            | Unsupported(m)
            | DeadlineExceeded(m)
            | Internal(m) => m,
        }
    }
}

/// A helper process reports its error in one bounded message; what a user can read is far shorter.
const MAX_TEXT_BYTES: usize = 2_000;

impl Error {
    fn text(&mut self) -> &mut String {
        use Error::*;
        match self {
            InvalidArgument(m)
            | NotFound(m)
            | Conflict(m)
            | AlreadyExists(m)
            | FailedPrecondition(m)
            | PermissionDenied(m)
            | ResourceExhausted(m)
            | Unavailable(m)
            | Unsupported(m)
            | DeadlineExceeded(m)
            | Internal(m) => m,
        }
    }

    /// The same with a text of bounded length: paths and arguments in it can be of any.
    pub fn cut(mut self) -> Self {
        let text = self.text();
        if text.len() > MAX_TEXT_BYTES {
            let end = (0..=MAX_TEXT_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push_str("...");
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

/// Says what was being done when the kernel refused.
pub trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let text = format!("{}: {}", what(), describe(&e));
            match e.raw_os_error() {
                Some(libc::ENOSPC | libc::ENOMEM | libc::EDQUOT | libc::EMFILE | libc::ENFILE) => {
                    Error::ResourceExhausted(text)
                }
                _ => Error::Internal(text),
            }
        })
    }
}

/// The kernel's text without Rust's " (os error N)", in the form that Go programs (and so Docker) print.
pub fn describe(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or("").to_string();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().collect::<String>() + chars.as_str(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let cut = Error::NotFound("\u{e9}".repeat(50_000)).cut();
        assert!(
            matches!(&cut, Error::NotFound(text) if text.ends_with("\u{e9}...") && text.len() <= MAX_TEXT_BYTES + 3)
        );
        assert_eq!(Error::Conflict("short".into()).cut(), Error::Conflict("short".into()));
    }
}
