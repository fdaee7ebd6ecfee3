//! The signals that ask the process to stop, and the one that must not.

use tokio::signal::unix::{SignalKind, signal};

/// A write beyond the process's limit of file sizes (`ulimit -f`) fails as on a full disk, instead of ending the process. Needs
/// a runtime.
pub fn survive_file_size_limit() {
    // A handler stays for as long as the process runs.
    let installed = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
        .expect("signal handlers can be installed");
    drop(installed);
}

/// Resolves at the first SIGINT or SIGTERM after the call; a second one ends the process at once.
pub fn stop_requested() -> impl Future<Output = ()> {
    let mut interrupts = Signals::new();
    async move {
        interrupts.next().await;
        tracing::info!(
            "shutting down: finishing running turns and refusing new ones; send the signal again to stop immediately"
        );
        tokio::spawn(async move {
            interrupts.next().await;
            std::process::exit(1);
        });
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Self {
        let listen = |kind| signal(kind).expect("signal handlers can be installed");
        Self { interrupt: listen(SignalKind::interrupt()), terminate: listen(SignalKind::terminate()) }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
