//! Work that is lost on drop without a word: Python's `ResourceWarning`. A changed `use` line, or a guard as a field, and each tells
//! what is lost, where it was made, touched last and dropped; what was flushed, waited for, sent or committed is silent.
//!
//! ```sh
//! cargo run --example resources
//! ```
//!
//! prints (numbers of processes and tasks may differ):
//!
//! ```text
//! 1. tokio's BufWriter is dropped unflushed
//! birthmark: resource-warning: BufWriter was dropped with 8 bytes unflushed: they are lost
//!   allocated  resources::write_report::{{closure}}  examples/resources.rs:76
//!   touched    resources::write_report::{{closure}}  examples/resources.rs:77
//!   dropped    resources::write_report::{{closure}}  examples/resources.rs:79  thread main
//!              resources::main                       examples/resources.rs:175
//!   help       call `flush().await` or `shutdown().await` before it is dropped
//!
//! 2. std's BufWriter can't write what it holds when it is dropped
//! birthmark: resource-warning: BufWriter was dropped with 18 bytes unwritten, which are lost: No space left on device (os error 28)
//!   allocated  resources::write_table  examples/resources.rs:84
//!   touched    examples/resources.rs:86
//!   dropped    resources::write_table        examples/resources.rs:89  thread main
//!              resources::main::{{closure}}  examples/resources.rs:178
//!              resources::main               examples/resources.rs:178
//!   help       call `flush()` or `into_inner()` before it is dropped
//!
//! 3. tokio's File is dropped, and a write has failed
//! birthmark: resource-warning: File was dropped with a write of 14 bytes that failed, which nobody saw: No space left on device (os error 28)
//!   path       /dev/full
//!   allocated  resources::write_journal::{{closure}}  examples/resources.rs:94
//!   touched    resources::write_journal::{{closure}}  examples/resources.rs:95
//!   dropped    resources::write_journal::{{closure}}  examples/resources.rs:98  thread main
//!              resources::main                        examples/resources.rs:181
//!   help       call `flush().await` before it is dropped
//!
//! 4. A time-out drops a child process
//! birthmark: resource-warning: Child was dropped and not waited for: process 19175 `sleep` still runs, and nobody will know how it ends
//!   allocated  resources::compress::{{closure}}  examples/resources.rs:102
//!   dropped    resources::compress::{{closure}}  examples/resources.rs:103  thread main
//!              resources::main                   examples/resources.rs:184
//!   help       call `wait().await`, `kill().await` or `detach()`, or set `kill_on_drop(true)` before it is dropped
//!
//! 5. A question gets no answer
//! birthmark: resource-warning: oneshot::Sender<usize> was dropped with nothing sent while its receiver waited
//!   allocated  resources::ask::{{closure}}  examples/resources.rs:120
//!   dropped    resources::serve                          examples/resources.rs:117  thread tokio-rt-worker, task 145
//!              resources::ask::{{closure}}::{{closure}}  examples/resources.rs:121
//!   waited     resources::ask::{{closure}}  examples/resources.rs:122               thread main
//!              resources::main              examples/resources.rs:187
//!   help       send a value in every case, an `Err` for one, or drop the receiver first
//!
//! 6. A transaction is neither committed nor rolled back
//! birthmark: resource-warning: Transaction was dropped with 2 statements neither committed nor rolled back
//!   allocated  resources::Transaction::begin  examples/resources.rs:133
//!   touched    examples/resources.rs:151
//!   dropped    resources::transfer           examples/resources.rs:155   thread main
//!              resources::main::{{closure}}  examples/resources.rs:190
//!              resources::main               examples/resources.rs:190
//!   help       call `commit()` or `rollback()` before it is dropped
//! ```

use std::io::Result;
use std::time::Duration;

use birthmark::tokio::process::Command; // instead of tokio::process::Command
use birthmark::tokio::sync::oneshot; // instead of tokio::sync::oneshot
use birthmark::{ResourceGuard, warnings};
use tokio::io::AsyncWriteExt as _;

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(1);

/// Mistake 1: tokio's `BufWriter` doesn't flush when it is dropped.
async fn write_report() -> Result<()> {
    let mut out = birthmark::tokio::io::BufWriter::new(tokio::io::sink()); // instead of tokio::io::BufWriter
    out.write_all(b"42 rows\n").await?;
    Ok(())
}

/// Mistake 2: std's does, and swallows the error.
fn write_table() -> Result<()> {
    use birthmark::io::{BufWriter, Write}; // instead of std::io
    let mut out = BufWriter::new(std::fs::File::options().write(true).open("/dev/full")?);
    for row in 1..=3 {
        writeln!(out, "row {row}")?;
    }
    Ok(())
}

/// Mistake 3: tokio's `File` writes later, and tells the error to the next call alone.
async fn write_journal() -> Result<()> {
    use birthmark::tokio::fs::OpenOptions; // instead of tokio::fs
    let mut journal = OpenOptions::new().write(true).open("/dev/full").await?;
    journal.write_all(b"paid: 100 EUR\n").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Mistake 4: a time-out drops the child, which goes on.
async fn compress() {
    let work = Command::new("sleep").arg("2").status();
    let _ = tokio::time::timeout(Duration::from_millis(20), work).await;
}

struct Request {
    question: &'static str,
    answer: oneshot::Sender<usize>,
}

/// Mistake 5: no answer at all to an empty question, and its asker only learns that the channel is closed.
fn serve(request: Request) {
    if request.question.is_empty() {
        return;
    }
    let _ = request.answer.send(request.question.len());
}

async fn ask(question: &'static str) -> Option<usize> {
    let (answer, waiting) = oneshot::channel();
    tokio::spawn(async move { serve(Request { question, answer }) });
    waiting.await.ok()
}

/// One's own: the guard is a field.
struct Transaction {
    statements: Vec<&'static str>,
    guard: ResourceGuard,
}

impl Transaction {
    fn begin() -> Self {
        let guard = ResourceGuard::new("Transaction", "commit()` or `rollback()")
            .unit("statements neither committed nor rolled back");
        Self { statements: Vec::new(), guard }
    }
    #[track_caller]
    fn execute(&mut self, statement: &'static str) {
        self.statements.push(statement);
        self.guard.pending(self.statements.len());
    }
    fn commit(self) {
        self.guard.close();
    }
}

/// Mistake 6: the early return forgets the commit.
fn transfer(amount: u32) -> Option<u32> {
    let mut transaction = Transaction::begin();
    transaction.execute("update account set balance = balance - 100 where owner = 'ada'");
    transaction.execute("update account set balance = balance + 100 where owner = 'grace'");
    let fee = amount.checked_sub(200)?;
    transaction.commit();
    Some(fee)
}

/// Not mistakes: nothing is lost.
async fn in_order() -> Result<()> {
    let mut out = birthmark::tokio::io::BufWriter::new(tokio::io::sink());
    out.write_all(b"42 rows\n").await?;
    out.shutdown().await?;

    use birthmark::io::Write as _;
    let mut out = birthmark::io::BufWriter::new(std::io::sink());
    writeln!(out, "its drop writes this, and can")?;

    Command::new("sleep").arg("100").kill_on_drop(true).spawn()?;
    assert_eq!(ask("what?").await, Some(5));
    assert_eq!(transfer(300), Some(100));
    Ok(())
}

fn main() -> Result<()> {
    eprintln!("1. tokio's BufWriter is dropped unflushed");
    birthmark::tokio::run(true, write_report())?;

    eprintln!("\n2. std's BufWriter can't write what it holds when it is dropped");
    birthmark::tokio::run(true, async { write_table() })?;

    eprintln!("\n3. tokio's File is dropped, and a write has failed");
    birthmark::tokio::run(true, write_journal())?;

    eprintln!("\n4. A time-out drops a child process");
    birthmark::tokio::run(true, compress());

    eprintln!("\n5. A question gets no answer");
    birthmark::tokio::run(true, ask(""));

    eprintln!("\n6. A transaction is neither committed nor rolled back");
    birthmark::tokio::run(true, async { transfer(100) });

    birthmark::tokio::run(true, in_order())?;
    warnings::check(); // with `BIRTHMARK_WARNINGS=error` each of them would end the program here
    Ok(())
}
