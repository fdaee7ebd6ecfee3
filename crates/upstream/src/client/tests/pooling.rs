//! Idle connections and their reuse.

use std::cell::Cell;

use super::super::connect::Connector;
use super::super::http1::Http1;
use super::super::origin::Origin;
use super::super::pool::{Bounds, Pool};
use super::*;

#[tokio::test]
async fn a_connection_is_reused_after_a_reply() {
    let upstream = Upstream::start().await;
    let mut peer = upstream.exchange().await;
    for reply in [OK, "HTTP/1.1 204 No Content\r\n\r\n", &format!("{CHUNKED}2\r\nok\r\n0\r\n\r\n")] {
        let sending = upstream.send("again");
        peer.reply("again", reply).await;
        read(sending).await;
    }
    assert_eq!(upstream.clients.pools[0].idle(), 1);
}

#[tokio::test]
async fn a_connection_with_connection_close_is_not_reused() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(read(sending).await, "ok");
    peer.closed().await;
    assert_eq!(upstream.clients.pools[0].idle(), 0);
}

#[tokio::test]
async fn a_connection_whose_request_was_not_read_completely_is_not_reused() {
    let upstream = Upstream::start().await;
    let request = upstream.request(vec![b'x'; 50_000_000]);
    let clients = upstream.clients.clone();
    let sending = tokio::spawn(async move { clients.send(request, &Route::default()).await });
    let mut peer = upstream.accept().await;
    peer.write(OK).await;
    assert_eq!(read(sending).await, "ok");
    peer.closed().await;
    assert_eq!(upstream.clients.pools[0].idle(), 0);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_before_anything_is_sent() {
    let upstream = Upstream::start().await;
    for _ in 0..20 {
        drop(upstream.exchange().await);
        // The runtime has no chance to notice it before the next request.
    }
}

#[tokio::test]
async fn a_connection_with_unexpected_data_is_not_reused() {
    let upstream = Upstream::start().await;
    let mut peer = upstream.exchange().await;
    peer.write("HTTP/1.1 408 Request Timeout\r\n\r\n").await;
    upstream.exchange().await;
    peer.closed().await;
}

#[tokio::test]
async fn a_request_is_not_sent_again_if_any_of_it_was_written() {
    let upstream = Upstream::start().await;
    let mut peer = upstream.exchange().await;
    let sending = upstream.send("second");
    peer.receive("second").await;
    drop(peer);
    assert!(matches!(sending.await.unwrap(), Err(SendError::Broken(_))));
    let connecting = tokio::time::timeout(Duration::from_millis(100), upstream.listener.accept()).await;
    assert!(connecting.is_err(), "the request was sent again");
}

#[tokio::test]
async fn a_request_is_unsent_only_if_nothing_of_it_was_written() {
    let upstream = Upstream::start().await;
    let request = || {
        let mut request = upstream.request("x");
        Origin::new(request.uri(), &Route::default()).unwrap().prepare(&mut request);
        request
    };
    let origin = Origin::new(&upstream.url().parse().unwrap(), &Route::default()).unwrap();
    let mut connections = Vec::new();
    for _ in 0..2 {
        let stream = upstream.clients.connector.connect(&origin).await.unwrap();
        connections.push((Http1::new(stream), upstream.accept().await));
    }
    let [(closed, peer), (read, reader)] = &mut connections[..] else { panic!("two connections") };
    peer.0.shutdown().await.unwrap();
    closed.probe();
    assert!(closed.send(request()).await.err().unwrap().is_unsent);
    let reading = async {
        reader.receive("x").await;
        reader.0.shutdown().await.unwrap();
    };
    let (sent, ()) = tokio::join!(read.send(request()), reading);
    assert!(!sent.err().unwrap().is_unsent);
}

#[tokio::test]
async fn a_connection_is_closed_after_the_idle_limit() {
    let upstream = Upstream::start().await;
    let mut peer = upstream.exchange().await;
    tokio::time::pause();
    // Time also passes by itself.
    tokio::time::advance(Duration::from_secs(15)).await;
    tokio::time::resume();
    let sending = upstream.send("again");
    peer.reply("again", OK).await;
    read(sending).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    upstream.exchange().await;
    peer.closed().await;
}

#[tokio::test]
async fn idle_connections_are_closed_without_further_requests() {
    let upstream = Upstream::start().await;
    let mut peer = upstream.exchange().await;
    tokio::time::pause();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    tokio::time::resume();
    peer.closed().await;
    assert_eq!(upstream.clients.pools[0].idle(), 0);
    // The sweep has ended, and begins again.
    let mut peer = upstream.exchange().await;
    tokio::time::pause();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    tokio::time::resume();
    peer.closed().await;
}

#[tokio::test]
async fn idle_connections_are_limited_per_origin_and_in_total() {
    let bounds = Bounds { per_origin: 2, total: 3 };
    let clients = Clients {
        connector: Connector::new(PATIENCE),
        pools: [Pool::new(bounds).into()].into(),
        pool_index: || 0,
    };
    let (one, two) =
        (Upstream::with_clients(clients.clone()).await, Upstream::with_clients(clients.clone()).await);
    let mut kept = Vec::new();
    for (upstream, idle) in [(&one, 2), (&two, 3)] {
        let mut open = Vec::new();
        for _ in 0..3 {
            let sending = upstream.send("x");
            open.push((sending, upstream.accept().await));
        }
        for (sending, mut peer) in open {
            peer.reply("x", OK).await;
            read(sending).await;
            kept.push(peer);
        }
        assert_eq!(clients.pools[0].idle(), idle);
    }
    let mut open = 0;
    for peer in &mut kept {
        open += usize::from(peer.is_open().await);
    }
    assert_eq!(open, 3);
}

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

#[tokio::test]
async fn a_connection_stays_with_the_worker_that_opened_it() {
    let upstream = Upstream::with_clients(Clients::new(PATIENCE, 2, || INDEX.get())).await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.receive("x").await;
    INDEX.set(1);
    peer.write(OK).await;
    read(sending).await;
    let idle = || upstream.clients.pools.iter().map(|pool| pool.idle()).collect::<Vec<_>>();
    assert_eq!(idle(), [1, 0]);
    let _other = upstream.exchange().await;
    assert_eq!(idle(), [1, 1]);
}
