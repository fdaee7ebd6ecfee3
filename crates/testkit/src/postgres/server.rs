//! The programs of a PostgreSQL server, as the operating system sees them.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::Signal;

use super::PostgresOptions;
use crate::process::pid;

/// Waits until nobody holds the other end of its standard input, then ends the server and removes its folder.
const WATCHDOG: &str = r#"
    read -r _
    [ -e "$1/pooler.pid" ] && kill -KILL "$(cat "$1/pooler.pid")" 2>/dev/null
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
        # They may be frozen.
        kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children") 2>/dev/null
        for _ in $(seq 200); do
            [ -e "$1/data/postmaster.pid" ] || break
            sleep 0.02
        done
        kill -KILL "$pid" 2>/dev/null
    fi
    rm -rf "$1"
"#;

/// For the administrator, whatever the options ask of others.
const HBA_OURS: &str = "local all postgres trust\n";
const HBA_TRUST: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n";

/// An installed server, and who runs it.
#[derive(Debug)]
pub(super) struct Server {
    programs: PathBuf,
    /// User and group; PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
}

// === impl Server ===

impl Server {
    pub(super) fn find() -> Self {
        let programs = installed().unwrap_or_else(|| {
            panic!("PostgreSQL is missing: run the tests with `make test`, which installs it")
        });
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| {
            use std::os::unix::fs::MetadataExt;
            me.uid() == 0
        });
        Self { programs, user: is_root.then(unprivileged) }
    }

    /// A new folder that the server may use, for the watchdog to remove.
    pub(super) fn folder(&self) -> PathBuf {
        let made = tempfile::Builder::new().prefix("antiphon-pg-").tempdir();
        let folder = made.expect("a folder for temporary files").keep();
        std::fs::create_dir(folder.join("socket")).expect("the folder is new");
        for path in [&folder, &folder.join("socket")] {
            self.own(path, 0o755);
        }
        folder
    }

    fn own(&self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("root may do that");
        }
    }

    pub(super) fn watch(&self, folder: &Path) -> Child {
        Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What is typed at the terminal is meant for the tests.
            .process_group(0)
            .spawn()
            .expect("sh is there")
    }

    /// One of the server's own programs, or another one that goes with it.
    pub(super) fn command(&self, program: &str, folder: &Path) -> Command {
        let own = self.programs.join(program);
        let other = Path::new("/usr/sbin").join(program);
        let mut command = Command::new(if own.exists() { own } else { other });
        command.current_dir(folder).env_clear().env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Of the running server and its children; those that are born after the server got its limit have the same.
    pub(super) fn limit_files(&self, running: &Child, max_bytes: Option<u64>) {
        let limit = max_bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let then_children = std::iter::once_with(|| children(running.id())).flatten();
        for pid in std::iter::once(running.id()).chain(then_children) {
            let mut command = Command::new("prlimit");
            command
                .arg(format!("--pid={pid}"))
                .arg(format!("--fsize={limit}:unlimited"))
                .stderr(Stdio::null());
            if let Some((user, group)) = self.user {
                command.uid(user).gid(group);
            }
            let is_limited = command.status().expect("prlimit is there").success();
            assert!(is_limited || pid != running.id(), "the server's limits can't be changed");
        }
    }

    pub(super) fn initialise(&self, folder: &Path, options: &PostgresOptions) {
        let data = folder.join("data");
        let mut command = self.command("initdb", folder);
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"]);
        command.arg(&data).arg(format!("--wal-segsize={}", options.wal_segment_mib));
        if let Some(password) = &options.password {
            let file = folder.join("password");
            std::fs::write(&file, password).expect("the folder is ours");
            self.own(&file, 0o600);
            command.arg("--pwfile").arg(file);
        }
        let done = command.output().expect("initdb can be run");
        assert!(done.status.success(), "initdb fails: {}", String::from_utf8_lossy(&done.stderr));
        let hba = options.hba.as_deref().unwrap_or(HBA_TRUST);
        let files = options.files.iter().map(|(name, content)| (name.as_str(), content.clone()));
        for (name, content) in files.chain([("pg_hba.conf", format!("{HBA_OURS}{hba}").into_bytes())]) {
            std::fs::write(data.join(name), content).expect("the folder is ours");
            self.own(&data.join(name), 0o600);
        }
    }

    pub(super) fn run(&self, folder: &Path, port: u16, options: &PostgresOptions) -> Child {
        let fsync = if options.fsync { "on" } else { "off" };
        let conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = {fsync}\nfull_page_writes = {fsync}\n\
             max_connections = 1000\nshared_buffers = '64MB'\nautovacuum = off\n{}\n",
            folder.join("socket").display(),
            options.conf,
        );
        let file = folder.join("data/postgresql.conf");
        std::fs::write(&file, conf).expect("the folder is ours");
        self.own(&file, 0o600);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"));
        let log = log.expect("the folder is ours");
        self.command("postgres", folder)
            .arg("-D")
            .arg(folder.join("data"))
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("postgres can be run")
    }
}

/// The newest of Debian's, or else what the search path has.
fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = versions.into_iter().rev().map(|(_, programs)| programs);
    debian
        .chain(std::env::split_paths(&path))
        .find(|programs| programs.join("initdb").exists() && programs.join("postgres").exists())
}

/// Somebody who is not root.
fn unprivileged() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2).map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        })
        .expect("a user named postgres or nobody, as PostgreSQL does not run as root")
}

/// The server says so in the file that it locks its folder with.
pub(super) fn is_ready(folder: &Path, pid: u32) -> bool {
    let lock = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    let mut lines = lock.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.next_back() == Some("ready")
}

/// The server, which then has no further ones if it is frozen, and its children; nothing happens to one that has ended.
pub(super) fn signal_all(running: &Child, sent: Signal) {
    signal(sent, running.id());
    for child in children(running.id()) {
        signal(sent, child);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Kills the server and its children, and waits until none of them is left.
pub(super) fn kill9(running: &mut Child) {
    let pid = running.id();
    let children = children(pid);
    running.kill().expect("it is ours");
    for &child in &children {
        signal(Signal::KILL, child);
    }
    running.wait().expect("it can be waited for");
    // Those that were forked in the meantime end by themselves; a new server waits for them.
    while children.iter().any(|child| is_running(*child)) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Not so for one that only waits to be buried.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Nothing happens if the process has ended.
pub(super) fn signal(signal: Signal, id: u32) {
    let sent = rustix::process::kill_process(pid(id), signal);
    assert!(matches!(sent, Ok(()) | Err(Errno::SRCH)), "{sent:?}");
}
