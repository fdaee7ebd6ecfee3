//! Clients that mean harm.

use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::rig::Rig;
use crate::wire::garbage;

const ATTACKERS: u64 = 12;
const KINDS: u32 = 9;
/// Between two bytes of a slow client.
const SLOW: Duration = Duration::from_millis(20);
const MEMBERS: usize = 200_000;

/// Lets some of them loose on all gateways for this time.
pub async fn attack(rig: &Rig, time: Duration, rng: &mut StdRng) {
    let end = Instant::now() + time;
    let targets = rig.targets.list();
    let attackers = (0..ATTACKERS).map(|n| {
        let address = targets[n as usize % targets.len()].trim_start_matches("http://").to_owned();
        let secret = rig.secrets[n as usize % rig.secrets.len()].clone();
        let rng = StdRng::seed_from_u64(rng.random());
        attacker(address, secret, rng, end)
    });
    join_all(attackers.collect::<Vec<_>>()).await;
}

async fn attacker(address: String, secret: String, mut rng: StdRng, end: Instant) {
    while Instant::now() < end {
        // How each ends does not matter to it.
        let attempt = attempt(&address, &secret, &mut rng);
        if timeout_at(end, attempt).await.is_ok_and(|ended| ended.is_none()) {
            sleep(SLOW).await;
        }
    }
}

/// One attack; `None` if the gateway ended it.
async fn attempt(address: &str, secret: &str, rng: &mut StdRng) -> Option<()> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = |secret: &str, rest: &str| {
        format!(
            "POST /v1/responses HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {secret}\r\n{rest}\r\n"
        )
    };
    let sized = |body: &str| head(secret, &format!("content-length: {}\r\n", body.len())) + body;
    let text = match rng.random_range(0..KINDS) {
        // Half a head, and then nothing.
        0 => {
            let whole = sized("{}");
            whole[..rng.random_range(1..whole.len())].to_owned()
        }
        // A huge body that is announced, but does not come.
        1 => head(secret, "content-length: 9000000000000\r\n") + "{\"model\":",
        // A head that comes byte by byte.
        2 => {
            for byte in sized("{\"model\":\"sim\",\"input\":\"x\"}").bytes() {
                stream.write_all(&[byte]).await.ok()?;
                sleep(SLOW).await;
            }
            String::new()
        }
        3 => {
            stream.write_all(socket_head(secret).as_bytes()).await.ok()?;
            let length = rng.random_range(1..400);
            stream.write_all(&garbage(rng, length)).await.ok()?;
            String::new()
        }
        // A frame that announces more than there is memory.
        4 => {
            stream.write_all(socket_head(secret).as_bytes()).await.ok()?;
            stream
                .write_all(&[0x81, 0xff, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, b'x'])
                .await
                .ok()?;
            String::new()
        }
        5 => {
            let members: String = (0..MEMBERS).map(|n| format!("\"m{n}\":0,")).collect();
            sized(&format!("{{{members}\"model\":\"sim\",\"input\":\"x\"}}"))
        }
        6 => sized(&"[".repeat(100_000)),
        7 => {
            let wrong = format!("apn-{:064x}", rng.random::<u64>());
            head(&wrong, "content-length: 0\r\n")
        }
        _ => {
            let length = rng.random_range(1..4000);
            stream.write_all(&garbage(rng, length)).await.ok()?;
            String::new()
        }
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut reply = [0; 4096];
    while stream.read(&mut reply).await.ok()? > 0 {}
    None
}

fn socket_head(secret: &str) -> String {
    format!(
        "GET /v1/responses HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {secret}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
