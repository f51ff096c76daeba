//! Waits for what the list of tasks shows.

use std::time::Duration;

use birthmark::all_tasks;
use birthmark::tasks::Tasks;
use tokio::task::yield_now;

/// Waits until the list has what is asked for: other threads may not have come so far.
pub async fn until(what: &str, there: impl Fn(&Tasks) -> bool) -> Tasks {
    for _ in 0..2000 {
        let tasks = all_tasks();
        if there(&tasks) {
            return tasks;
        }
        yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never {what}: {}", all_tasks());
}
