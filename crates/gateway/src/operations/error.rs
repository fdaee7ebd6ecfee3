//! Why an operator does not get what was asked for.

use antiphon_access::keys::{KeyError, KeyState};
use antiphon_access::usage::InvalidParameter;
use antiphon_store::StoreError;

use super::InvalidRequest;

#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("there is no account {0:?} in the configuration")]
    AccountNotFound(String),
    #[error("there is no key named {0:?}")]
    KeyNotFound(String),
    #[error("there is a key named {0:?} already, maybe a revoked one")]
    KeyExists(String),
    #[error("the key {name:?} is {}", state.as_str())]
    KeyNotActive { name: String, state: KeyState },
    #[error("the limits of the key {0:?} can't be read")]
    UnreadableKey(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeyError> for OperationError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid { param, why } => Self::Invalid(InvalidRequest::value(param, why)),
            KeyError::NameTaken(name) => Self::KeyExists(name),
            KeyError::NotFound(name) => Self::KeyNotFound(name),
            KeyError::NotActive { name, state } => Self::KeyNotActive { name, state },
            KeyError::Store(error) => Self::Store(error),
        }
    }
}

impl From<InvalidParameter> for OperationError {
    fn from(InvalidParameter { name, why }: InvalidParameter) -> Self {
        Self::Invalid(InvalidRequest::value(name, why))
    }
}
