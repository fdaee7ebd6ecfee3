//! Failures of operators' requests.

use antiphon_protocol::error::{ApiError, ErrorKind};

use crate::http::error::Refused;
use crate::operations::{InvalidRequest, OperationError};
use crate::turn::Failure;

impl From<OperationError> for Refused {
    fn from(error: OperationError) -> Self {
        let message = || {
            let mut text = error.to_string();
            text[..1].make_ascii_uppercase();
            format!("{text}.")
        };
        let failure = match &error {
            OperationError::Invalid(invalid) => return invalid.clone().into(),
            OperationError::AccountNotFound(name) => Failure::AccountNotFound(name.clone()),
            OperationError::KeyNotFound(name) => Failure::KeyNotFound(name.clone()),
            OperationError::KeyExists(_) => {
                Failure::Conflict { code: "key_exists", param: Some("name"), message: message() }
            }
            OperationError::KeyNotActive { .. } => {
                Failure::Conflict { code: "key_not_active", param: None, message: message() }
            }
            OperationError::UnreadableKey(_) => Failure::Internal,
            OperationError::Store(error) => error.clone().into(),
        };
        failure.into()
    }
}

impl From<InvalidRequest> for Refused {
    fn from(InvalidRequest { code, param, message }: InvalidRequest) -> Self {
        let kind = ErrorKind::InvalidRequest;
        Failure::Request(ApiError { kind, code: Some(code.into()), param: param.map(Into::into), message })
            .into()
    }
}
