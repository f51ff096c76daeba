//! The main job: a word-count and cache server on tokio, fed by its own client with this repository's sources, with four
//! mistakes planted in it. Birthmark tells each of them with the guilty line of this file.
//!
//! ```sh
//! cargo run --example service
//! ```
//!
//! 1. [`Server::reindex`] blocks its worker for 150 ms;
//! 2. [`write_log`] drops its log with bytes that were never flushed;
//! 3. [`Server::remember`] keeps every answer for ever, since no key comes twice;
//! 4. [`fill`], in a child process, writes one byte past the end of its buffer.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use birthmark::{GroupBy, snapshot};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new().tracemalloc(5).malloc("debug");

/// How long a poll may take here; 100 ms where nobody says so.
const LIMIT: Duration = Duration::from_millis(50);
/// Time for a report to be written.
const REPORTS: Duration = Duration::from_millis(400);

/// What every connection shares.
#[derive(Default)]
struct Server {
    answers: Mutex<HashMap<String, Vec<String>>>,
    served: AtomicU64,
}

impl Server {
    /// The words of a text, most frequent first.
    fn count(text: &str) -> Vec<(String, usize)> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| w.len() > 2) {
            *counts.entry(word).or_default() += 1;
        }
        let mut counts: Vec<(String, usize)> = counts.into_iter().map(|(w, n)| (w.to_owned(), n)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts
    }

    /// Mistake 3: the number of the request is part of the key, so no entry is ever found again.
    fn remember(&self, request: u64, name: &str, counts: &[(String, usize)]) {
        let answer = counts.iter().map(|(word, n)| format!("{word} {n}")).collect();
        self.answers.lock().unwrap().insert(format!("{name}#{request}"), answer);
    }

    /// Mistake 1: waits in the middle of a task, and no other task of this worker runs meanwhile.
    fn reindex(&self) -> usize {
        std::thread::sleep(Duration::from_millis(150));
        self.answers.lock().unwrap().len()
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let mut words = line.split_whitespace();
            let reply = match (words.next(), words.next(), words.next()) {
                (Some("COUNT"), Some(name), Some(length)) => {
                    let mut text = vec![0; length.parse().unwrap_or(0)];
                    stream.read_exact(&mut text).await?;
                    let counts = Self::count(&String::from_utf8_lossy(&text));
                    let request = self.served.fetch_add(1, Ordering::Relaxed);
                    self.remember(request, name, &counts);
                    let (word, n) = counts.first().cloned().unwrap_or_default();
                    format!("{} words, most often `{word}` ({n} times)\n", counts.len())
                }
                (Some("REINDEX"), ..) => format!("{} answers indexed\n", self.reindex()),
                _ => String::from("say COUNT name length, or REINDEX\n"),
            };
            stream.write_all(reply.as_bytes()).await?;
            line.clear();
        }
        Ok(())
    }
}

/// Accepts connections until it is aborted, which ends them too.
async fn accept(listener: TcpListener, server: Arc<Server>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(server.clone().serve(stream));
    }
}

/// A client: sends files over loopback and collects the answers.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    async fn connect(to: std::net::SocketAddr) -> std::io::Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(to).await?) })
    }
    async fn ask(&mut self, request: &str, body: &[u8]) -> std::io::Result<String> {
        self.stream.write_all(&[request.as_bytes(), body].concat()).await?;
        let mut reply = String::new();
        self.stream.read_line(&mut reply).await?;
        Ok(reply)
    }
}

/// Mistake 2: nobody flushes the log, so what stands in its buffer is lost with it.
async fn write_log(path: PathBuf, replies: Vec<String>) -> std::io::Result<()> {
    let mut log = birthmark::tokio::io::BufWriter::new(tokio::fs::File::create(path).await?);
    for reply in replies {
        log.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

/// Mistake 4: `<=` where `<` was meant.
fn fill(length: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(length);
    let p: *mut u8 = buffer.as_mut_ptr();
    let mut i = 0;
    while i <= length {
        // SAFETY: there is none: the last byte lies behind the buffer. That is the mistake.
        unsafe { p.add(i).write(b'!') };
        i += 1;
    }
    // SAFETY: `length` bytes were written.
    unsafe { buffer.set_len(length) };
    buffer
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Sends every file once; how many bytes went out, and the answers.
async fn feed(client: &mut Client, files: &[PathBuf]) -> std::io::Result<(usize, Vec<String>)> {
    let (mut sent, mut replies) = (0, Vec::new());
    for file in files {
        let text = std::fs::read(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        sent += text.len();
        replies.push(client.ask(&format!("COUNT {name} {}\n", text.len()), &text).await?);
    }
    Ok((sent, replies))
}

fn heading(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{text}\x1b[0m");
    } else {
        println!("\n{text}");
    }
}

async fn main_job(server: Arc<Server>) -> std::io::Result<()> {
    let begin = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(accept(listener, server.clone()));

    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files.sort();
    let mut client = Client::connect(address).await?;
    feed(&mut client, &files).await?;
    let before = snapshot();
    let first = before.clone();
    let held = tokio::task::spawn_blocking(move || first.statistics(GroupBy::Line).len()).await?;
    println!("serving {address}: {} files sent once, {held} lines hold memory", files.len());

    heading("1. A handler blocks its worker for 150 ms: slow-callback, while it is stuck and when it ended");
    let indexed = client.ask("REINDEX\n", b"").await?;
    print!("the client waited for: {indexed}");
    // Reports are written by a thread of their own: let it finish before the next heading.
    tokio::time::sleep(REPORTS).await;

    let (sent, replies) = feed(&mut client, &files).await?;

    heading("2. A log is dropped with bytes that were never flushed: resource-warning");
    let log = std::env::temp_dir().join(format!("birthmark-service-{}.log", std::process::id()));
    let written: usize = replies.iter().map(String::len).sum();
    tokio::spawn(write_log(log.clone(), replies)).await??;
    let kept = std::fs::metadata(&log)?.len();
    println!("the log should hold {written} bytes and holds {kept}");
    std::fs::remove_file(&log)?;
    tokio::time::sleep(REPORTS).await;

    heading("3. A cache that only grows: the ten lines that hold most, then what grew between two snapshots");
    let after = snapshot();
    // Finding names for a snapshot's stacks takes a while, so it is no work for a task.
    let tables = tokio::task::spawn_blocking(move || {
        format!("{}\n\n{}", after.statistics(GroupBy::Line), after.compare_to(&before, GroupBy::Line).top(5))
    });
    println!("{}", tables.await?);

    heading("4. One byte written past the end of a buffer, in a child process: heap-buffer-overflow");
    let status = tokio::process::Command::new(std::env::current_exe()?).arg("overflow").status().await?;
    println!("the child ended with: {status}");

    heading("Summary");
    let (bytes, peak) = birthmark::tracemalloc::traced_memory();
    println!(
        "  {} files, {} sent, {} requests served",
        files.len(),
        size(2 * sent),
        server.served.load(Ordering::Relaxed)
    );
    println!(
        "  {} in live blocks now, {} at the peak, 5 frames kept for each",
        size(bytes as usize),
        size(peak as usize)
    );
    println!("  four mistakes planted, four told, in {:.1} s", begin.elapsed().as_secs_f64());
    accepting.abort();
    assert!(accepting.await.is_err_and(|error| error.is_cancelled()));
    Ok(())
}

fn size(bytes: usize) -> String {
    birthmark::format_size(bytes as i64, false)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("overflow") {
        drop(std::hint::black_box(fill(24)));
        return ExitCode::SUCCESS;
    }
    birthmark::set_slow_callback_duration(LIMIT);
    // Kept beyond the run: freeing its answers takes a while, which is no work for a task either.
    let server = Arc::new(Server::default());
    match birthmark::tokio::run(true, main_job(server.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("service: {error}");
            ExitCode::FAILURE
        }
    }
}
