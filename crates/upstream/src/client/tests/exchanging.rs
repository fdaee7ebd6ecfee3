//! Requests and replies.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

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
async fn pieces_that_have_come_are_handed_on_together_and_others_are_not_waited_for() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    let events: String = (0..50).map(|n| chunk(&format!("event {n};"))).collect();
    peer.answer("x", &format!("{CHUNKED}{events}")).await;
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
async fn no_byte_is_lost_or_moved_where_small_pieces_meet_large_ones() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    let pieces: Vec<String> = [10, 5000, 10, 10, 4096, 4095, 1, 70_000, 3, 9000, 9000]
        .map(|n| "abcdefg".repeat(n / 7 + 1))
        .to_vec();
    let sent = pieces.concat();
    let writing = tokio::spawn(async move {
        let chunks: String = pieces.iter().map(|piece| chunk(piece)).collect();
        peer.answer("x", &format!("{CHUNKED}{chunks}0\r\n\r\n")).await;
        peer
    });
    assert_eq!(read(sending).await, sent);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn what_came_before_a_reply_breaks_off_is_handed_on() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.answer("x", &format!("{CHUNKED}{}{}", chunk("one"), chunk("two"))).await;
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
async fn nothing_is_read_from_the_upstream_while_nobody_reads_the_reply() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.answer("x", "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
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
    peer.answer("x", &format!("{CHUNKED}{}", chunk("one"))).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), "one");
    assert!(peer.is_open().await);
    drop(body);
    peer.closed().await;
}

#[tokio::test]
async fn giving_up_a_request_closes_the_connection() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.receive("x").await;
    assert!(peer.is_open().await);
    sending.abort();
    peer.closed().await;
}

#[tokio::test]
async fn a_reply_can_be_read_on_by_another_task() {
    let upstream = Upstream::start().await;
    let sending = upstream.send("x");
    let mut peer = upstream.accept().await;
    peer.answer("x", CHUNKED).await;
    let mut body = sending.await.unwrap().unwrap().into_body();
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(matches!(Pin::new(&mut body).poll_frame(&mut nobody), Poll::Pending));
    let reading = tokio::spawn(async move { body.collect().await.unwrap().to_bytes() });
    tokio::task::yield_now().await;
    peer.write(&chunk("one")).await;
    peer.write("0\r\n\r\n").await;
    assert_eq!(reading.await.unwrap(), "one");
}

#[tokio::test]
async fn an_upstream_that_can_not_be_reached_is_told_apart() {
    let upstream = Upstream::start().await;
    let request = upstream.request("x");
    let clients = upstream.clients.clone();
    drop(upstream);
    assert!(matches!(clients.send(request).await, Err(SendError::Connect(_))));
}
