//! Room for so many running turns, which projects share fairly: the next turn to run is of a project with fewest running ones, and
//! of those of the project that has waited longest since it got room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_protocol::id::ProjectId;
use tokio::sync::oneshot;

/// The room, and who waits for it.
#[derive(Debug)]
pub struct Room(Mutex<State>);

/// Room for one turn. Dropping it makes room for the next.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    project: ProjectId,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Those that run turns or wait.
    projects: HashMap<ProjectId, Project>,
    /// The projects that wait, the next one first.
    line: BTreeSet<(Rank, ProjectId)>,
    /// Counts what has happened.
    tick: u64,
}

#[derive(Debug)]
struct Project {
    rank: Rank,
    /// The turns that wait, in their order.
    waiting: BTreeMap<u64, oneshot::Sender<Place>>,
}

/// Lower is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    running: usize,
    /// When it last got room, or came.
    since: u64,
}

/// Leaves the line on drop.
struct InLine<'a> {
    room: &'a Room,
    project: &'a ProjectId,
    ticket: u64,
}

// === impl Room ===

impl Room {
    pub fn new(turns: usize) -> Self {
        let (projects, line) = (HashMap::new(), BTreeSet::new());
        Self(Mutex::new(State { free: turns, projects, line, tick: 0 }))
    }

    /// Waits for room for a turn of this project.
    pub async fn enter(self: &Arc<Self>, project: &ProjectId) -> Place {
        let (sender, place) = oneshot::channel();
        let ticket = self.state().join_line(project, sender);
        let _in_line = InLine { room: self, project, ticket };
        self.hand_out();
        match place.await {
            Ok(place) => place,
            // Only this takes it out of the line without a place.
            Err(_) => std::future::pending().await,
        }
    }

    /// Room for a turn of this project, if nobody has to wait for it.
    pub fn try_enter(self: &Arc<Self>, project: &ProjectId) -> Option<Place> {
        let mut state = self.state();
        if state.free == 0 {
            return None;
        }
        state.free -= 1;
        state.change(project, |project, tick| project.rank = project.rank.with_one_more(tick));
        Some(self.place(project))
    }

    fn hand_out(self: &Arc<Self>) {
        let mut served = Vec::new();
        let mut state = self.state();
        while let Some((project, sender)) = state.next() {
            served.push((sender, self.place(&project)));
        }
        drop(state);
        for (sender, place) in served {
            // The place of a turn that has gone is handed out again.
            sender.send(place).ok();
        }
    }

    fn place(self: &Arc<Self>, project: &ProjectId) -> Place {
        Place { room: Arc::clone(self), project: project.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn join_line(&mut self, project: &ProjectId, sender: oneshot::Sender<Place>) -> u64 {
        let mut ticket = 0;
        self.change(project, |project, tick| {
            ticket = tick;
            project.waiting.insert(tick, sender);
        });
        ticket
    }

    /// Takes the next turn out of the line, if there is room for one.
    fn next(&mut self) -> Option<(ProjectId, oneshot::Sender<Place>)> {
        let (_, project) = self.line.first().filter(|_| self.free > 0)?.clone();
        let mut next = None;
        self.change(&project, |project, tick| {
            next = project.waiting.pop_first();
            project.rank = project.rank.with_one_more(tick);
        });
        self.free -= 1;
        next.map(|(_, sender)| (project, sender))
    }

    /// Changes a project, and with it its place in the line.
    fn change(&mut self, id: &ProjectId, change: impl FnOnce(&mut Project, u64)) {
        self.tick += 1;
        let rank = Rank { running: 0, since: self.tick };
        let project =
            self.projects.entry(id.clone()).or_insert_with(|| Project { rank, waiting: BTreeMap::new() });
        self.line.remove(&(project.rank, id.clone()));
        change(project, self.tick);
        if !project.waiting.is_empty() {
            self.line.insert((project.rank, id.clone()));
        } else if project.rank.running == 0 {
            self.projects.remove(id);
        }
    }
}

// === impl Rank ===

impl Rank {
    fn with_one_more(self, since: u64) -> Self {
        Self { running: self.running + 1, since }
    }
}

// === impl InLine ===

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if state.projects.get(self.project).is_some_and(|project| project.waiting.contains_key(&self.ticket))
        {
            state.change(self.project, |project, _| drop(project.waiting.remove(&self.ticket)));
        }
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.free += 1;
        state.change(&self.project, |project, _| {
            project.rank.running = project.rank.running.saturating_sub(1);
        });
        drop(state);
        self.room.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    fn project(name: &str) -> ProjectId {
        ProjectId::new(name)
    }

    /// The projects of turns that wait for room, in the order in which they get it while one turn runs at once.
    async fn order(waiting: &[&str]) -> Vec<String> {
        let room = Arc::new(Room::new(1));
        let first = room.try_enter(&project("first"));
        let (said, mut served) = mpsc::unbounded_channel();
        let mut turns = JoinSet::new();
        for name in waiting {
            let (room, said, name) = (Arc::clone(&room), said.clone(), (*name).to_owned());
            let mut turn = Box::pin(async move {
                let place = room.enter(&project(&name)).await;
                said.send((name, place)).ok();
            });
            assert!(turn.as_mut().now_or_never().is_none(), "it joins the line");
            turns.spawn(turn);
        }
        drop((first, said));
        let mut order = Vec::new();
        while let Some((name, place)) = served.recv().await {
            order.push(name);
            drop(place);
        }
        order
    }

    #[tokio::test]
    async fn projects_take_turns_whatever_they_have_queued() {
        let mut waiting = vec!["a"; 50];
        waiting.extend(["b", "b", "c"]);
        let order = order(&waiting).await;
        assert_eq!(order[..6], ["a", "b", "c", "a", "b", "a"]);
        assert_eq!(order.len(), 53);
    }

    #[tokio::test]
    async fn a_project_with_fewer_running_turns_is_next() {
        let room = Arc::new(Room::new(3));
        let mut of_a: VecDeque<_> = (0..2).map(|_| room.try_enter(&project("a")).unwrap()).collect();
        let _of_b = room.try_enter(&project("b")).unwrap();
        assert!(room.try_enter(&project("c")).is_none());
        let names = ["a", "b", "c"].map(project);
        let mut waiting = names.each_ref().map(|name| Box::pin(room.enter(name)));
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let mut order = Vec::new();
        for _ in 0..2 {
            of_a.pop_front();
            for (name, turn) in names.iter().zip(&mut waiting) {
                if !order.contains(&name)
                    && let Some(place) = turn.now_or_never()
                {
                    order.push(name);
                    of_a.push_back(place);
                }
            }
        }
        // `c` has none, then `a` has none, and `b` has one.
        assert_eq!(order, [&names[2], &names[0]]);
    }

    #[tokio::test]
    async fn a_turn_that_goes_leaves_the_line_and_gives_its_room_back() {
        let room = Arc::new(Room::new(1));
        let place = room.try_enter(&project("a"));
        let (of_a, of_b) = (project("a"), project("b"));
        let mut leaves = Box::pin(room.enter(&of_a));
        assert!(leaves.as_mut().now_or_never().is_none());
        drop(leaves);
        let mut served = Box::pin(room.enter(&of_b));
        assert!(served.as_mut().now_or_never().is_none());
        drop(place);
        // It has got room, but does not know it.
        drop(served);
        assert!(room.try_enter(&of_b).is_some());
        assert!(room.state().projects.is_empty() && room.state().line.is_empty());
    }
}
