//! Requests to services of the operator that are no upstreams: they carry no account's credential.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Collected, Limited};

use super::Upstream;
use crate::client::{PartsBody, SendError};
use crate::route::Route;

/// Larger than any acknowledgement.
const MAX_REPLY_BYTES: usize = 64 * 1024;

impl Upstream {
    /// POST to an address, with these headers. Of a reply that is too large or cut off, the body is left out.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no reply.
    pub async fn deliver(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
        route: &Route,
    ) -> Result<Response<Bytes>, SendError> {
        let mut request = Request::new(PartsBody::new(vec![body]));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let (head, body) = self.clients.send(request, route).await?.into_parts();
        let body = Limited::new(body, MAX_REPLY_BYTES).collect().await;
        Ok(Response::from_parts(head, body.map(Collected::to_bytes).unwrap_or_default()))
    }
}
