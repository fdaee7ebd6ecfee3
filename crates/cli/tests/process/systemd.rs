//! The gateway as a service of systemd: what it tells the manager, and the unit file.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Setup, Signal};
use rustix::process::{Pid, kill_process};

use crate::binary;
use crate::command::antiphon;

const PACKAGED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/deb/antiphon.toml");
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/systemd/antiphon.service");
/// The most that the unit may be exposed, of 10.
const MAX_EXPOSURE: f64 = 2.0;

/// What the service manager is told next.
fn next(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = manager.recv(&mut buffer).expect("the gateway tells its service manager");
    String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_when_the_gateway_is_ready_alive_and_stopping() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let directory = setup.database().parent().unwrap().to_owned();
    std::fs::write(directory.join("unit.toml"), format!("listen = \"127.0.0.1:0\"\n{}", setup.toml()))
        .unwrap();
    let socket = directory.join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let gateway = Command::new(binary())
        .args(["serve", "--config", "unit.toml"])
        .current_dir(&directory)
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "3000000")
        .spawn();
    let mut gateway = gateway.unwrap();
    assert_eq!(next(&manager), "READY=1");
    assert_eq!(next(&manager), "WATCHDOG=1");
    kill_process(Pid::from_raw(gateway.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    while next(&manager) != "STOPPING=1" {}
    assert!(gateway.wait().unwrap().success());
}

#[test]
fn the_unit_is_valid_and_confined() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("antiphon.service");
    let text = std::fs::read_to_string(UNIT).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/antiphon "), "{text}");
    std::fs::write(&unit, text.replace("/usr/bin/antiphon ", &format!("{} ", binary().display()))).unwrap();
    let verified = analyze(&["verify"], &unit);
    assert_eq!(verified, (true, String::new()));
    let (_, security) = analyze(&["security", "--offline=true", "--no-pager"], &unit);
    let (_, level) = security.rsplit_once("antiphon.service: ").expect("an exposure level");
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level < MAX_EXPOSURE, "{security}");
}

#[tokio::test]
async fn the_service_and_commands_with_its_configuration_use_one_database() {
    const DATABASE: &str = "sqlite:///var/lib/antiphon/antiphon.db";
    let directory = tempfile::tempdir().unwrap();
    let shown = async |args: &[&str], environment: &[(&str, &str)]| {
        let (code, shown, error) =
            antiphon(directory.path(), &[&["config", "show"], args].concat(), environment).await;
        assert_eq!(code, 0, "{error}");
        shown
    };
    let with_file = shown(&["--config", PACKAGED], &[]).await;
    assert!(with_file.contains(DATABASE), "{with_file}");
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let variables: Vec<_> = variables.collect();
    assert!(variables.iter().all(|(name, _)| !name.starts_with("ANTIPHON_")), "they would override the file");
    let without_url = shown(&[], &variables).await;
    assert!(without_url.contains(DATABASE), "a file of an earlier version has no store.url: {without_url}");
}

/// Whether it succeeded, and all that it printed.
fn analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze, which `make test` installs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
