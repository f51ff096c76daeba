//! Which tasks there are, what each holds and where it waits: a table, and a tree of who spawned whom with the chains of `.await`s;
//! and what the tasks of one place have left behind. `kill -QUIT` prints the table while it runs.
//!
//! ```sh
//! cargo run --example tasks
//! ```
//!
//! ```text
//! 6 tasks: 1 running, 5 idle
//!   task     state    age    polls  busy    held     peak     cell   future             spawned at            waits at
//!   root     running  1.1 s  2      1 ms    544 B    544 B    296 B  tasks::main        examples/tasks.rs:93
//!   task 48  idle     1.1 s  1      664 us  1.7 KiB  1.7 KiB  256 B  tasks::accept      examples/tasks.rs:96  examples/tasks.rs:85 Receiver<T>
//!   task 51  idle     1.1 s  1      357 us  1.0 MiB  1.0 MiB  384 B  tasks::connection  examples/tasks.rs:83  examples/tasks.rs:67 Receiver<T>, and 1 more
//!   task 52  idle     1.1 s  1      25 us   1.0 MiB  1.0 MiB  384 B  tasks::connection  examples/tasks.rs:83  examples/tasks.rs:67 Receiver<T>, and 1 more
//!   task 53  idle     1.1 s  1      305 us  1.0 MiB  1.0 MiB  384 B  tasks::connection  examples/tasks.rs:83  examples/tasks.rs:67 Receiver<T>, and 1 more
//!   task 49  idle     ?      ?      ?       0 B      0 B      128 B  ?                  examples/tasks.rs:97  ?
//!   help       age, polls, busy time and where it waits are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//!
//! 6 tasks: 1 running, 5 idle
//!   root  tasks::main               running  examples/tasks.rs:93
//!     task 48  tasks::accept        idle     examples/tasks.rs:96
//!       waits for Receiver<T>
//!         in tasks::accept                   examples/tasks.rs:85
//!       task 51  tasks::connection  idle     examples/tasks.rs:83
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:67
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:75
//!           in tasks::connection             examples/tasks.rs:67
//!       task 52  tasks::connection  idle     examples/tasks.rs:83
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:67
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:75
//!           in tasks::connection             examples/tasks.rs:67
//!       task 53  tasks::connection  idle     examples/tasks.rs:83
//!         waits for Receiver<T>
//!           in tasks::connection             examples/tasks.rs:67
//!         waits for Sleep
//!           in tasks::idle                   examples/tasks.rs:75
//!           in tasks::connection             examples/tasks.rs:67
//!   task 49                         idle     examples/tasks.rs:97
//!   help       age, polls, busy time and where it waits are known of tasks that `birthmark::tokio::spawn` or `.watched()` wraps
//!
//! 3124 KiB in 115 live blocks (+3073 KiB, +6), 39 traces of 5 frames, Birthmark's own 377 MiB mapped
//! tasks spawned at examples/tasks.rs:83 grew by 2342 KiB a second: size=3072 KiB (+3072 KiB), count=4 (+4), average=768 KiB
//! and 1 more place: size=1152 B (+1152 B), count=2 (+2)
//! 1 place unchanged: size=51.1 KiB (+0 B), count=109 (+0)
//! ```

use std::sync::Mutex;
use std::time::Duration;

use birthmark::tasks::{TaskKind, TaskState};
use birthmark::{GroupBy, snapshot};
use tokio::sync::oneshot;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5);

/// Only grows.
static SESSIONS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Waits for its peer, but not for ever, and leaves a session behind.
async fn connection(peer: oneshot::Receiver<()>) {
    let request = vec![0u8; 1 << 20];
    tokio::select! {
        _ = peer => {}
        () = idle() => {}
    }
    SESSIONS.lock().unwrap().push(request);
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
        let before = snapshot();
        let (close, theirs) = oneshot::channel();
        let server = birthmark::tokio::spawn(accept(theirs));
        let plain = tokio::spawn(std::future::pending::<()>()); // nothing wraps it
        tokio::time::sleep(Duration::from_millis(1100)).await;

        let tasks = birthmark::all_tasks();
        println!("{tasks}\n\n{}\n", tasks.tree());

        assert!(tasks.is_complete(), "{:?}", tasks.missing());
        let idle = tasks.iter().filter(|task| task.state() == TaskState::Idle).count();
        assert_eq!((tasks.len(), idle), (6, 5));
        let root = tasks.iter().find(|task| task.kind() == TaskKind::Root).unwrap();
        let children = tasks.iter().filter(|task| task.parent() == Ok(Some(root.id()))).count();
        assert_eq!(children, 1);

        plain.abort();
        let _ = close.send(());
        server.await.unwrap();

        // The tasks have ended; what they left behind still counts for the place that spawned them.
        let changes = snapshot().compare_to(&before, GroupBy::SpawnSite);
        println!("{}", changes.top(1));
        assert!(changes[0].size_diff >= 3 << 20 && changes[0].count_diff >= 3);
    });
}
