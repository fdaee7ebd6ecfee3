//! Requests and replies.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::StatusCode;
use http_body::Body;

use super::*;

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

async fn next(body: &mut ReplyBody) -> Option<Bytes> {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("nothing comes")?;
    Some(frame.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn a_request_goes_out_with_its_host_and_length() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("the body");
    let mut peer = upstream.accept().await;
    let request = peer.receive("the body").await;
    assert!(request.starts_with("POST /v1 HTTP/1.1\r\n"), "{request}");
    let host = format!("host: {}\r\n", upstream.listener.local_addr().unwrap());
    assert!(request.contains(&host) && request.contains("content-length: 8\r\n"), "{request}");
    peer.write(OK).await;
    assert_eq!(read(sending).await, "ok");
}

#[tokio::test]
async fn a_peer_that_never_answers_the_tls_handshake_is_left_after_the_connect_timeout() {
    let upstream = Upstream::with_clients(Clients::new(Duration::from_millis(100), 1, || 0)).await;
    let mut request = upstream.request("x");
    *request.uri_mut() = upstream.url().replace("http:", "https:").parse().unwrap();
    let (sent, mut peer) = tokio::join!(upstream.clients.send(request, &Route::default()), upstream.accept());
    assert!(matches!(sent, Err(SendError::ConnectTimeout)));
    peer.closed().await;
}

#[tokio::test]
async fn pieces_that_have_arrived_are_joined_without_waiting_for_more() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    let events: String = (0..50).map(|n| chunk(&format!("event {n};"))).collect();
    peer.reply("x", &format!("{CHUNKED}{events}")).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    let first = next(&mut body).await.unwrap();
    assert!(first.starts_with(b"event 0;event 1;") && first.ends_with(b"event 49;"), "{first:?}");
    peer.write(&chunk("one more")).await;
    assert_eq!(next(&mut body).await.unwrap(), "one more");
    peer.write("0\r\n\r\n").await;
    assert_eq!(next(&mut body).await, None);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn interim_replies_are_skipped() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n").await;
    peer.write(&format!("\r\n{OK}")).await;
    let reply = sending.await.unwrap().unwrap();
    assert_eq!((reply.status(), reply.headers().contains_key("link")), (StatusCode::OK, false));
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn a_reply_without_a_length_ends_with_its_connection() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", "HTTP/1.1 200 OK\r\n\r\nall of it").await;
    drop(peer);
    assert_eq!(read(sending).await, "all of it");
    assert_eq!(upstream.clients.pools[0].idle(), 0);
}

#[tokio::test]
async fn a_reply_may_begin_before_its_request_has_ended() {
    let upstream = Upstream::start().await;
    let request = upstream.request(vec![b'x'; 20_000_000]);
    let clients = upstream.clients.clone();
    let sending = tokio::spawn(async move { clients.send(request, &Route::default()).await });
    let mut peer = upstream.accept().await;
    peer.write(&format!("{CHUNKED}{}", chunk("one"))).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), "one");
    let receiving = async {
        let mut left = 20_000_000;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let read = peer.0.read(&mut buffer).await.unwrap();
            left -= buffer[..read].iter().filter(|&&byte| byte == b'x').count();
        }
        peer.write("0\r\n\r\n").await;
    };
    assert_eq!(tokio::join!(next(&mut body), receiving).0, None);
    assert_eq!(upstream.clients.pools[0].idle(), 1);
}

/// As upstreams do with a request that is too large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_read_although_the_connection_was_closed_before_the_whole_request() {
    let upstream = Upstream::start().await;
    for _ in 0..50 {
        let request = upstream.request(vec![b'x'; 5_000_000]);
        let clients = upstream.clients.clone();
        let sending = tokio::spawn(async move { clients.send(request, &Route::default()).await });
        let mut peer = upstream.accept().await;
        peer.0.read_exact(&mut [0; 1_000_000]).await.unwrap();
        peer.write("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await;
        drop(peer);
        assert_eq!(sending.await.unwrap().unwrap().status(), 413);
    }
}

#[tokio::test]
async fn what_is_not_http_breaks_the_exchange() {
    for reply in ["SSH-2.0-OpenSSH\r\n\r\n", &format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(70_000)), ""] {
        let upstream = Upstream::start().await;
        let sending = upstream.send("x");
        let mut peer = upstream.accept().await;
        peer.reply("x", reply).await;
        peer.0.shutdown().await.unwrap();
        assert!(matches!(sending.await.unwrap(), Err(SendError::Broken(_))), "{reply}");
        peer.closed().await;
    }
}

#[tokio::test]
async fn small_and_large_pieces_arrive_complete_and_in_order() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    let pieces: Vec<String> = [10, 5000, 10, 10, 4096, 4095, 1, 70_000, 3, 9000, 9000]
        .map(|n| "abcdefg".repeat(n / 7 + 1))
        .to_vec();
    let sent = pieces.concat();
    let writing = tokio::spawn(async move {
        let chunks: String = pieces.iter().map(|piece| chunk(piece)).collect();
        peer.reply("x", &format!("{CHUNKED}{chunks}0\r\n\r\n")).await;
        peer
    });
    assert_eq!(read(sending).await, sent);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn what_arrived_before_a_reply_was_cut_off_is_returned() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", &format!("{CHUNKED}{}{}", chunk("one"), chunk("two"))).await;
    drop(peer);
    let mut body = sending.await.unwrap().unwrap().into_body();
    let (mut came, mut error) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => came.extend_from_slice(&frame.into_data().unwrap()),
            Err(broken) => error = Some(broken),
        }
    }
    assert_eq!(came, b"onetwo");
    assert!(error.is_some());
}

#[tokio::test]
async fn nothing_is_read_from_the_upstream_unless_the_reply_is_read() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    let writing = tokio::spawn(async move {
        let mut written = 0;
        while let Ok(Ok(more)) =
            tokio::time::timeout(Duration::from_millis(200), peer.0.write(&[b'x'; 65536])).await
        {
            written += more;
        }
        (peer, written)
    });
    let (_peer, written) = writing.await.unwrap();
    assert!(written < 50_000_000, "{written} bytes were taken");
    assert!(!next(&mut body).await.unwrap().is_empty());
}

#[tokio::test]
async fn dropping_a_reply_before_its_end_closes_the_connection() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", &format!("{CHUNKED}{}", chunk("one"))).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), "one");
    assert!(peer.is_open().await);
    drop(body);
    peer.closed().await;
}

#[tokio::test]
async fn dropping_a_request_closes_the_connection() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.receive("x").await;
    assert!(peer.is_open().await);
    sending.abort();
    peer.closed().await;
}

#[tokio::test]
async fn another_task_can_read_the_rest_of_a_reply() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.reply("x", CHUNKED).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    let mut no_task = Context::from_waker(Waker::noop());
    assert!(matches!(Pin::new(&mut body).poll_frame(&mut no_task), Poll::Pending));
    let reading = tokio::spawn(async move { body.collect().await.unwrap().to_bytes() });
    tokio::task::yield_now().await;
    peer.write(&chunk("one")).await;
    peer.write("0\r\n\r\n").await;
    assert_eq!(reading.await.unwrap(), "one");
}

#[tokio::test]
async fn an_unreachable_upstream_has_an_error_of_its_own() {
    let upstream = Upstream::start().await;
    let request = upstream.request("x");
    let clients = upstream.clients.clone();
    drop(upstream);
    assert!(matches!(clients.send(request, &Route::default()).await, Err(SendError::Connect(_))));
}
