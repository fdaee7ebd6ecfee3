//! PgBouncer in front of a cluster, handing out its connections for one transaction each.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Postgres;
use super::port::Port;

const PATIENCE: Duration = Duration::from_secs(180);

impl Postgres {
    /// The URL of a new, empty database in the [shared](Self::shared) cluster, behind PgBouncer in transaction mode.
    pub async fn shared_pooled_database() -> String {
        Self::pooled(&Self::shared_database().await)
    }

    /// The URL of a database in the shared cluster, as it is behind PgBouncer.
    pub(super) fn pooled(url: &str) -> String {
        static POOLER: OnceLock<(Child, Port)> = OnceLock::new();
        let shared = Self::shared();
        let (_, port) = POOLER.get_or_init(|| shared.start_pooler());
        url.replace(&format!(":{}/", shared.port()), &format!(":{}/", port.number()))
    }

    /// Starts PgBouncer, which ends with the cluster. Returns its port, too.
    fn start_pooler(&self) -> (Child, Port) {
        let reserved = Port::reserve();
        let port = reserved.number();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = transaction\npidfile = pooler.pid\n\
             max_client_conn = 2000\ndefault_pool_size = 2\n",
            self.port()
        );
        for (name, content) in [("pooler.ini", config.as_str()), ("users", "\"postgres\" \"\"\n")] {
            std::fs::write(self.folder.join(name), content).expect("the folder is ours");
        }
        let mut pooler = self.server.command("pgbouncer", &self.folder);
        pooler.args(["-q", "pooler.ini"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pooler =
            pooler.spawn().expect("PgBouncer is missing: run the tests with `make test`, which installs it");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = pooler.try_wait().expect("it can be waited for");
            assert!(ended.is_none() && Instant::now() < deadline, "PgBouncer does not start: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        (pooler, reserved)
    }
}
