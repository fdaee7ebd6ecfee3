//! Checkpoints: what commits have added to the write-ahead log is copied into the database.
//!
//! Within a commit, a checkpoint would make its turns wait for all of that. Instead, a thread with a connection of its own copies while
//! commits go on. What these add meanwhile is little: the writer copies it itself after a commit, and the log starts over.

use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};

use super::database_file::DatabaseFile;
use super::error;
use super::readers::{Shared, lock};

/// How many pages the write-ahead log holds before they are copied: enough that a page that is written often is copied once, and that
/// hardly a turn in a hundred waits for a checkpoint. A start after a crash reads all of them.
pub(super) const CHECKPOINT_PAGES: u32 = 4096;
/// So few pages are copied after a commit.
const REMAINDER: u32 = 256;
/// Commits wait for the copying of a log that has grown to this.
pub(super) const MAX_LOG_PAGES: u32 = 4 * CHECKPOINT_PAGES;

/// The thread that copies. It ends when the writer's connection is closed.
pub(super) struct Checkpoints {
    thread: JoinHandle<()>,
}

/// What the writer knows after each of its commits.
struct Course {
    requests: Sender<()>,
    copied: Receiver<()>,
    stage: Stage,
    /// How many pages the log had after the latest commit.
    pages: u32,
    /// At how many pages the next checkpoint begins.
    due: u32,
}

enum Stage {
    Idle,
    /// The thread copies, or has copied, what the log had when it was asked.
    Copying {
        pages: u32,
    },
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Takes over the checkpoints of a connection that writes. `copier` is another connection to the same file.
    pub(super) fn start(
        writer: &mut Connection,
        copier: Shared,
        file: DatabaseFile,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (requests, asked) = channel();
        let (done, copied) = channel();
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let thread = thread.spawn(move || copy_when_asked(&asked, &copier, &file, &done))?;
        let mut course = Course { requests, copied, stage: Stage::Idle, pages: 0, due: CHECKPOINT_PAGES };
        writer.wal_hook(Some(move |log: &mut Wal, pages| {
            course.committed(log, u32::try_from(pages).unwrap_or_default());
            Ok(())
        }))?;
        Ok(Self { thread })
    }

    /// Waits for a checkpoint that is under way. No commit begins another one.
    pub(super) fn stop(self, writer: &mut Connection) -> rusqlite::Result<()> {
        writer.wal_hook(None::<fn(&mut Wal, i32) -> rusqlite::Result<()>>)?;
        // A panic of the thread has been logged.
        self.thread.join().ok();
        Ok(())
    }
}

// === impl Course ===

impl Course {
    /// Called after each commit, with the pages of the whole log.
    fn committed(&mut self, log: &mut Wal, pages: u32) {
        if pages < self.pages {
            // The log has started over.
            self.due = CHECKPOINT_PAGES;
        }
        self.pages = pages;
        match self.stage {
            Stage::Idle if pages >= self.due => self.copy(),
            Stage::Idle => {}
            Stage::Copying { .. } if self.is_copying() => {}
            Stage::Copying { pages: copied } if pages < copied => self.stage = Stage::Idle,
            Stage::Copying { pages: copied } if pages - copied > REMAINDER && pages < MAX_LOG_PAGES => {
                self.copy();
            }
            Stage::Copying { .. } => {
                report(log.checkpoint());
                self.stage = Stage::Idle;
                // A reader of an older state can keep the log from starting over.
                self.due = pages + CHECKPOINT_PAGES;
            }
        }
    }

    fn copy(&mut self) {
        // A thread that has ended copies nothing, and `is_copying` does not wait for it.
        self.requests.send(()).ok();
        self.stage = Stage::Copying { pages: self.pages };
    }

    /// Waits for the thread if the log has grown too long.
    fn is_copying(&self) -> bool {
        match self.copied.try_recv() {
            Err(TryRecvError::Empty) if self.pages >= MAX_LOG_PAGES => {
                self.copied.recv().ok();
                false
            }
            Err(TryRecvError::Empty) => true,
            Ok(()) | Err(TryRecvError::Disconnected) => false,
        }
    }
}

fn copy_when_asked(asked: &Receiver<()>, copier: &Shared, file: &DatabaseFile, done: &Sender<()>) {
    for () in asked {
        report(lock(copier).wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE));
        // SQLite itself waits for the disk only when it has copied all of the log, which is within a commit.
        if let Err(error) = file.sync() {
            tracing::warn!(%error, "the database cannot be written to the disk; the next checkpoint tries again");
        }
        // The writer may have gone.
        done.send(()).ok();
    }
}

fn report<T>(checkpoint: rusqlite::Result<T>) {
    match checkpoint {
        // Another process is at it.
        Err(error) if error::is_busy(&error) => {}
        Err(error) => {
            tracing::warn!(%error, "a checkpoint failed; the write-ahead log grows until one succeeds");
        }
        Ok(_) => {}
    }
}
