//! Which tasks there are: a table, and a tree of who spawned whom. `kill -QUIT` prints the same while it runs.
//!
//! ```sh
//! cargo run --example tasks
//! ```
//!
//! ```text
//! 6 tasks: 1 running, 5 idle
//!   task     state    age     polls  busy    held   future             spawned at
//!   root     running  103 ms  2      358 us  200 B  tasks::main        examples/tasks.rs:56
//!   task 22  idle     102 ms  1      468 us  256 B  tasks::accept      examples/tasks.rs:58
//!   task 24  idle     102 ms  1      0 us    256 B  tasks::connection  examples/tasks.rs:46
//!   task 25  idle     101 ms  1      0 us    256 B  tasks::connection  examples/tasks.rs:46
//!   task 26  idle     101 ms  1      0 us    256 B  tasks::connection  examples/tasks.rs:46
//!   task 23  idle     ?       ?      ?       128 B  ?                  examples/tasks.rs:59
//!   help       age, polls and busy time are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//!
//! 6 tasks: 1 running, 5 idle
//!   root  tasks::main               running  examples/tasks.rs:56
//!     task 22  tasks::accept        idle     examples/tasks.rs:58
//!       task 24  tasks::connection  idle     examples/tasks.rs:46
//!       task 25  tasks::connection  idle     examples/tasks.rs:46
//!       task 26  tasks::connection  idle     examples/tasks.rs:46
//!   task 23                         idle     examples/tasks.rs:59
//!   help       age, polls and busy time are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//! ```

use std::time::Duration;

use birthmark::tasks::{TaskKind, TaskState};
use tokio::sync::oneshot;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);

/// Waits for its peer.
async fn connection(peer: oneshot::Receiver<()>) {
    let _ = peer.await;
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
