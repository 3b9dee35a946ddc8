//! Why a text cannot be encoded.

use std::fmt;

/// A text that could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodeError {
    PieceTooLong { bytes: usize },
    NoSuchSpecial(String),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PieceTooLong { bytes } => {
                write!(f, "the pattern leaves a piece of {bytes} bytes uncut: too long to merge")
            }
            Self::NoSuchSpecial(name) => write!(f, "{name:?} is no special token of this vocabulary"),
        }
    }
}

impl std::error::Error for EncodeError {}
