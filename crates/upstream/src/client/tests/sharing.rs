//! HTTP/2 connections, without TLS in these tests.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Barrier;

use super::super::http2::Http2;
use super::super::origin::Origin;
use super::*;

#[tokio::test]
async fn requests_share_a_connection_until_it_ends() {
    let upstream = Upstream::start().await;
    let origin = Origin::new(upstream.request("").uri(), &Route::default()).unwrap();
    let stream = upstream.clients.connector.connect(&origin).await.unwrap();
    let accepted = upstream.accept().await.0;
    // Replies only when two requests are there.
    let both = Arc::new(Barrier::new(2));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let both = Arc::clone(&both);
        async move {
            both.wait().await;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        }
    });
    let serving = tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(accepted), service),
    );
    let pool = &upstream.clients.pools[0];
    let connection = Http2::open(stream).await.unwrap();
    pool.share(origin.clone(), connection);
    let (one, two) = (upstream.send("one"), upstream.send("two"));
    assert_eq!((read(one).await, read(two).await), (Bytes::from("one"), Bytes::from("two")));
    serving.abort();
    serving.await.unwrap_err();
    let _peer = upstream.exchange().await;
    assert!(pool.take(&origin).is_some());
}
