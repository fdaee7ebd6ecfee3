//! Requests of the gateway's own to servers that are no upstreams.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};

use super::Upstream;
use crate::client::{PartsBody, SendError};
use crate::route::Route;

const MAX_REPLY_BYTES: usize = 512 * 1024;

/// Why there is no whole reply.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the reply was cut off, or is larger than {} KiB", MAX_REPLY_BYTES / 1024)]
    Body,
    #[error("no reply in time")]
    Timeout,
}

impl Upstream {
    /// Sends a request once, and reads the whole reply. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`] if there is no whole reply in time.
    pub async fn exchange(
        &self,
        request: Request<Vec<u8>>,
        route: &Route,
        timeout: Duration,
    ) -> Result<Response<Vec<u8>>, ExchangeError> {
        let request = request.map(|body| PartsBody::new(vec![Bytes::from(body)]));
        let exchange = async {
            let (head, body) = self.clients.send(request, route).await?.into_parts();
            let body = Limited::new(body, MAX_REPLY_BYTES).collect().await;
            let body = body.map_err(|_| ExchangeError::Body)?.to_bytes();
            Ok(Response::from_parts(head, body.into()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(ExchangeError::Timeout))
    }
}
