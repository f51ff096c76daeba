//! Which tasks there are and where each waits: a table, and a tree of who spawned whom with the chains of `.await`s. `kill -QUIT`
//! prints the table while it runs.
//!
//! ```sh
//! cargo run --example tasks
//! ```
//!
//! ```text
//! 6 tasks: 1 running, 5 idle
//!   task     state    age     polls  busy    held   future             spawned at            waits at
//!   root     running  103 ms  2      828 us  200 B  tasks::main        examples/tasks.rs:81
//!   task 48  idle     102 ms  1      648 us  256 B  tasks::accept      examples/tasks.rs:83  examples/tasks.rs:73 Receiver<T>
//!   task 51  idle     101 ms  1      5 us    384 B  tasks::connection  examples/tasks.rs:71  examples/tasks.rs:56 Receiver<T>, and 1 more
//!   task 52  idle     101 ms  1      4 us    384 B  tasks::connection  examples/tasks.rs:71  examples/tasks.rs:56 Receiver<T>, and 1 more
//!   task 53  idle     101 ms  1      80 us   384 B  tasks::connection  examples/tasks.rs:71  examples/tasks.rs:56 Receiver<T>, and 1 more
//!   task 49  idle     ?       ?      ?       128 B  ?                  examples/tasks.rs:84  ?
//!   help       age, polls, busy time and where it waits are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//!
//! 6 tasks: 1 running, 5 idle
//!   root  tasks::main               running  examples/tasks.rs:81
//!     task 48  tasks::accept        idle     examples/tasks.rs:83
//!       waits for Receiver<T>
//!         in tasks::accept                   examples/tasks.rs:73
//!       task 51  tasks::connection  idle     examples/tasks.rs:71
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:56
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:63
//!           in tasks::connection             examples/tasks.rs:56
//!       task 52  tasks::connection  idle     examples/tasks.rs:71
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:56
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:63
//!           in tasks::connection             examples/tasks.rs:56
//!       task 53  tasks::connection  idle     examples/tasks.rs:71
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:56
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:63
//!           in tasks::connection             examples/tasks.rs:56
//!   task 49                         idle     examples/tasks.rs:84
//!   help       age, polls, busy time and where it waits are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//! ```

use std::time::Duration;

use birthmark::tasks::{TaskKind, TaskState};
use tokio::sync::oneshot;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);

/// Waits for its peer, but not for ever.
async fn connection(peer: oneshot::Receiver<()>) {
    tokio::select! {
        _ = peer => {}
        () = idle() => {}
    }
}

async fn idle() {
    tokio::time::sleep(Duration::from_secs(30)).await;
}

/// Spawns a task for each connection, and waits until all are closed.
async fn accept(mut close: oneshot::Receiver<()>) {
    let mut open = Vec::new();
    for _ in 0..3 {
        let (peer, theirs) = oneshot::channel();
        open.push((peer, birthmark::tokio::spawn(connection(theirs))));
    }
    let _ = (&mut close).await;
    for (peer, task) in open {
        let _ = peer.send(());
        task.await.unwrap();
    }
}

fn main() {
    birthmark::tokio::run(true, async {
        let (close, theirs) = oneshot::channel();
        let server = birthmark::tokio::spawn(accept(theirs));
        let plain = tokio::spawn(std::future::pending::<()>()); // nothing wraps it
        tokio::time::sleep(Duration::from_millis(100)).await;

        let tasks = birthmark::all_tasks();
        println!("{tasks}\n\n{}", tasks.tree());

        assert!(tasks.is_complete(), "{:?}", tasks.missing());
        let idle = tasks.iter().filter(|task| task.state() == TaskState::Idle).count();
        assert_eq!((tasks.len(), idle), (6, 5));
        let root = tasks.iter().find(|task| task.kind() == TaskKind::Root).unwrap();
        let children = tasks.iter().filter(|task| task.parent() == Ok(Some(root.id()))).count();
        assert_eq!(children, 1);

        plain.abort();
        let _ = close.send(());
        server.await.unwrap();
    });
}
