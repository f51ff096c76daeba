//! From the variables' text to settings: a pure function over plain bytes. No heap, no panic.

use core::time::Duration;

use super::value::{pair, plain, size, time, words};
use super::{Async, Color, Defaults, Heap, Level, Report, Settings, Why};

/// A value that can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadValue {
    /// The variable, or the call in the code.
    pub name: &'static str,
    pub value: &'static [u8],
    /// What is wrong, where it isn't simply unknown.
    pub reason: &'static str,
    pub allowed: &'static str,
}

const FRAMES: &str = "a number of frames from 1 to 65535, or 0 for off";
const MALLOC: &str = "off, 0, or debug[,quarantine=SIZE][,on_error=abort|continue]";
const ASYNC: &str = "1 or 0, then [,slow=TIME][,coop=off]";
const DEV: &str = "1 or 0";
const REPORT: &str =
    "text or json, then [,full][,color=auto|always|never][,level=error|warning|info][,file=PATH%p]";
const SNAPSHOT: &str = "0, or exit[:FILE%p]";
const WARNINGS: &str = "default";
const BUDGETS: &str = "0";
const NOT_BUILT: &str = "not built yet";
const UNKNOWN: &str = "";

/// Frames that dev mode and `BIRTHMARK_SNAPSHOT` keep.
const USUAL_FRAMES: u16 = 5;
const QUARANTINE: usize = 4 << 20;
const QUARANTINE_DEV: usize = 16 << 20;
const QUARANTINE_ASSERTIONS: usize = 1 << 20;

type Variable = dyn Fn(&str) -> Option<&'static [u8]>;

/// Reads all variables.
///
/// # Errors
/// The first value that can't be read.
pub(crate) fn parse(variable: &Variable, defaults: &Defaults) -> Result<Settings, BadValue> {
    let get = |name: &str| variable(name).map(<[u8]>::trim_ascii).filter(|v| !v.is_empty());
    let mut s = Settings::OFF;

    let dev = match get("BIRTHMARK_DEV") {
        None => defaults.dev,
        Some(b"1") => true,
        Some(b"0") => false,
        Some(value) => return Err(bad("BIRTHMARK_DEV", value, UNKNOWN, DEV)),
    };
    if let Some(value) = get("BIRTHMARK_SNAPSHOT") {
        s.at_exit = at_exit(value)?;
    }

    s.tracemalloc = match get("TRACEMALLOC") {
        Some(value) => {
            let n = frames(value)?;
            s.forbidden = n == 0;
            n
        }
        None if dev => USUAL_FRAMES,
        None => match defaults.tracemalloc {
            Some(n) if n != 0 => n,
            _ if s.at_exit.is_some() => USUAL_FRAMES,
            _ => 0,
        },
    };

    let asked = |heap: Option<Heap>| heap.map(|h| Heap { why: Why::Asked, ..h });
    s.heap = match (get("BIRTHMARK_MALLOC"), defaults.malloc) {
        (Some(value), _) => asked(malloc("BIRTHMARK_MALLOC", value)?),
        (None, _) if dev => Some(Heap { quarantine: QUARANTINE_DEV, go_on: false, why: Why::Asked }),
        (None, Some(value)) => asked(malloc("DebugAlloc::malloc", value.as_bytes().trim_ascii())?),
        (None, None) if cfg!(debug_assertions) => {
            Some(Heap { quarantine: QUARANTINE_ASSERTIONS, go_on: false, why: Why::DebugAssertions })
        }
        (None, None) => None,
    };

    s.watch.on = dev;
    if let Some(value) = get("BIRTHMARK_ASYNC_DEBUG") {
        s.watch = watch(value)?;
    }
    if let Some(value) = get("BIRTHMARK_REPORT") {
        s.report = report(value)?;
    }
    if let Some(value) = get("BIRTHMARK_WARNINGS")
        && value != b"default"
    {
        return Err(bad("BIRTHMARK_WARNINGS", value, NOT_BUILT, WARNINGS));
    }
    if let Some(value) = get("BIRTHMARK_BUDGETS")
        && value != b"0"
    {
        return Err(bad("BIRTHMARK_BUDGETS", value, NOT_BUILT, BUDGETS));
    }
    Ok(s)
}

fn bad(name: &'static str, value: &'static [u8], reason: &'static str, allowed: &'static str) -> BadValue {
    BadValue { name, value, reason, allowed }
}

fn frames(value: &'static [u8]) -> Result<u16, BadValue> {
    let mut words = words(value);
    let n = words.next().and_then(plain).and_then(|n| u16::try_from(n).ok());
    let Some(n) = n else { return Err(bad("TRACEMALLOC", value, UNKNOWN, FRAMES)) };
    match words.next() {
        None => Ok(n),
        Some(word) if word.starts_with(b"sample=") => {
            Err(bad("TRACEMALLOC", value, "sample= is not built yet", FRAMES))
        }
        Some(_) => Err(bad("TRACEMALLOC", value, UNKNOWN, FRAMES)),
    }
}

fn malloc(name: &'static str, value: &'static [u8]) -> Result<Option<Heap>, BadValue> {
    let mut words = words(value);
    match words.next() {
        Some(b"off" | b"0") => {
            return match words.next() {
                None => Ok(None),
                Some(_) => Err(bad(name, value, "nothing can follow off", MALLOC)),
            };
        }
        Some(b"debug") => {}
        _ => return Err(bad(name, value, UNKNOWN, MALLOC)),
    }
    let mut heap = Heap { quarantine: QUARANTINE, go_on: false, why: Why::Asked };
    for word in words {
        match pair(word) {
            Some((b"quarantine", bytes)) => match size(bytes) {
                Some(bytes) => heap.quarantine = bytes,
                None => return Err(bad(name, value, "quarantine= takes a size such as 512K or 16M", MALLOC)),
            },
            Some((b"on_error", b"abort")) => heap.go_on = false,
            Some((b"on_error", b"continue")) => heap.go_on = true,
            Some((b"on_error", b"deferred")) => {
                return Err(bad(name, value, "on_error=deferred is not built yet", MALLOC));
            }
            Some((b"guard_pages", _)) => {
                return Err(bad(name, value, "guard_pages= is not built yet", MALLOC));
            }
            Some((b"check_every", _)) => {
                return Err(bad(name, value, "check_every= is not built yet", MALLOC));
            }
            Some((b"break_at", _)) => return Err(bad(name, value, "break_at= is not built yet", MALLOC)),
            Some((b"leaks", _)) => return Err(bad(name, value, "leaks= is not built yet", MALLOC)),
            _ => return Err(bad(name, value, UNKNOWN, MALLOC)),
        }
    }
    Ok(Some(heap))
}

fn watch(value: &'static [u8]) -> Result<Async, BadValue> {
    const NAME: &str = "BIRTHMARK_ASYNC_DEBUG";
    let mut words = words(value);
    let on = match words.next() {
        Some(b"1") => true,
        Some(b"0") => false,
        _ => return Err(bad(NAME, value, UNKNOWN, ASYNC)),
    };
    let mut watch = Async { asked: Some(on), on, slow: Duration::from_millis(100), coop: true };
    for word in words {
        match pair(word) {
            Some((b"slow", limit)) => match time(limit) {
                Some(limit) => watch.slow = limit,
                None => return Err(bad(NAME, value, "slow= takes a time such as 50ms, 2s or 0", ASYNC)),
            },
            Some((b"coop", b"off")) => watch.coop = false,
            Some((b"coop", b"on")) => watch.coop = true,
            _ => return Err(bad(NAME, value, UNKNOWN, ASYNC)),
        }
    }
    Ok(watch)
}

fn report(value: &'static [u8]) -> Result<Report, BadValue> {
    const NAME: &str = "BIRTHMARK_REPORT";
    let mut report = Settings::OFF.report;
    for (i, word) in words(value).enumerate() {
        match (i, word, pair(word)) {
            (0, b"text", _) => report.json = false,
            (0, b"json", _) => report.json = true,
            (0, b"sarif", _) => return Err(bad(NAME, value, "sarif is not built yet", REPORT)),
            (_, b"full", _) => report.full = true,
            (_, _, Some((b"color", b"auto"))) => report.color = Color::Auto,
            (_, _, Some((b"color", b"always"))) => report.color = Color::Always,
            (_, _, Some((b"color", b"never"))) => report.color = Color::Never,
            (_, _, Some((b"level", b"error"))) => report.level = Level::Error,
            (_, _, Some((b"level", b"warning"))) => report.level = Level::Warning,
            (_, _, Some((b"level", b"info"))) => report.level = Level::Info,
            (_, _, Some((b"level", b"debug"))) => {
                return Err(bad(NAME, value, "level=debug is not built yet", REPORT));
            }
            (_, _, Some((b"file", path))) if !path.is_empty() => report.file = Some(path),
            _ => return Err(bad(NAME, value, UNKNOWN, REPORT)),
        }
    }
    Ok(report)
}

fn at_exit(value: &'static [u8]) -> Result<Option<Option<&'static [u8]>>, BadValue> {
    const NAME: &str = "BIRTHMARK_SNAPSHOT";
    if value == b"0" {
        return Ok(None);
    }
    if value == b"exit" {
        return Ok(Some(None));
    }
    if let Some(file) = value.strip_prefix(b"exit:")
        && !file.is_empty()
    {
        return Ok(Some(Some(file)));
    }
    let reason = if value.starts_with(b"signal=") {
        "signal= is not built yet"
    } else if value.starts_with(b"over=") {
        "over= is not built yet"
    } else {
        UNKNOWN
    };
    Err(bad(NAME, value, reason, SNAPSHOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &'static [(&'static str, &'static str)]) -> Result<Settings, BadValue> {
        with_code(vars, Defaults::NONE)
    }

    fn with_code(
        vars: &'static [(&'static str, &'static str)],
        defaults: Defaults,
    ) -> Result<Settings, BadValue> {
        let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        parse(&get, &defaults)
    }

    #[test]
    fn the_number_of_frames_comes_from_the_variable_then_dev_then_the_code() {
        let code = Defaults { tracemalloc: Some(9), ..Defaults::NONE };
        assert_eq!(with_code(&[], code).unwrap().tracemalloc, 9);
        assert_eq!(with_code(&[("TRACEMALLOC", "")], code).unwrap().tracemalloc, 9);
        assert_eq!(with_code(&[("BIRTHMARK_DEV", "1")], code).unwrap().tracemalloc, 5);
        let s =
            with_code(&[("TRACEMALLOC", "0"), ("BIRTHMARK_DEV", "1"), ("BIRTHMARK_SNAPSHOT", "exit")], code)
                .unwrap();
        assert!(s.tracemalloc == 0 && s.forbidden, "0 is off over everything");
        assert_eq!(with(&[("TRACEMALLOC", "65535")]).unwrap().tracemalloc, 65_535);
        assert_eq!(with(&[("BIRTHMARK_SNAPSHOT", "exit")]).unwrap().tracemalloc, 5);
        assert_eq!(with(&[]).unwrap().tracemalloc, 0);
    }

    #[test]
    fn dev_mode_switches_all_on_and_each_variable_of_its_own_wins_over_it() {
        let s = with(&[("BIRTHMARK_DEV", "1")]).unwrap();
        assert_eq!(s.heap, Some(Heap { quarantine: 16 << 20, go_on: false, why: Why::Asked }));
        assert!(s.watch.on && s.watch.asked.is_none() && s.tracemalloc == 5);
        let s = with(&[
            ("BIRTHMARK_DEV", "1"),
            ("BIRTHMARK_MALLOC", "off"),
            ("BIRTHMARK_ASYNC_DEBUG", "0"),
            ("TRACEMALLOC", "2"),
        ])
        .unwrap();
        assert!(s.heap.is_none() && !s.watch.on && s.tracemalloc == 2);
        let s = with_code(&[("BIRTHMARK_DEV", "0")], Defaults { dev: true, ..Defaults::NONE }).unwrap();
        assert_eq!(s.tracemalloc, 0);
    }

    #[test]
    fn the_debug_heap_is_on_in_a_build_with_debug_assertions() {
        let heap = with(&[]).unwrap().heap;
        if cfg!(debug_assertions) {
            assert_eq!(heap, Some(Heap { quarantine: 1 << 20, go_on: false, why: Why::DebugAssertions }));
        } else {
            assert_eq!(heap, None);
        }
        assert_eq!(with(&[("BIRTHMARK_MALLOC", "0")]).unwrap().heap, None);
        let code = Defaults { malloc: Some("debug,quarantine=2M"), ..Defaults::NONE };
        assert_eq!(with_code(&[], code).unwrap().heap.unwrap().quarantine, 2 << 20);
        assert_eq!(
            with_code(&[("BIRTHMARK_MALLOC", "debug")], code).unwrap().heap.unwrap().quarantine,
            4 << 20
        );
    }

    #[test]
    fn every_word_that_is_built_is_understood() {
        let s = with(&[
            ("BIRTHMARK_MALLOC", "debug, quarantine=512K, on_error=continue"),
            ("BIRTHMARK_ASYNC_DEBUG", "1,slow=50ms,coop=off"),
            ("BIRTHMARK_REPORT", "json,full,color=never,level=error,file=/tmp/r.%p"),
            ("BIRTHMARK_SNAPSHOT", "exit:/tmp/s.%p"),
            ("BIRTHMARK_WARNINGS", "default"),
        ])
        .unwrap();
        assert_eq!(s.heap, Some(Heap { quarantine: 512 << 10, go_on: true, why: Why::Asked }));
        assert_eq!(
            s.watch,
            Async { asked: Some(true), on: true, slow: Duration::from_millis(50), coop: false }
        );
        assert_eq!(
            s.report,
            Report {
                json: true,
                full: true,
                color: Color::Never,
                level: Level::Error,
                file: Some(b"/tmp/r.%p")
            }
        );
        assert_eq!(s.at_exit, Some(Some(&b"/tmp/s.%p"[..])));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        const BAD: &[(&str, &[&str])] = &[
            ("TRACEMALLOC", &["5x", "-1", "70000", "65536", "x", "5,", "5,sample=512K", "1.5", "+5"]),
            (
                "BIRTHMARK_MALLOC",
                &[
                    "1",
                    "debugg",
                    "debug,",
                    "debug,quarantine",
                    "debug,quarantine=",
                    "debug,quarantine=4MB",
                    "off,debug",
                    "debug,guard_pages=1/1000",
                    "debug,on_error=deferred",
                    "debug,on_error=x",
                    "debug,check_every=5",
                    "debug,break_at=5",
                    "debug,leaks=exit",
                    "quarantine=4M",
                ],
            ),
            ("BIRTHMARK_ASYNC_DEBUG", &["2", "yes", "1,slow", "1,slow=50", "1,coop=maybe", "slow=50ms"]),
            ("BIRTHMARK_DEV", &["2", "true"]),
            (
                "BIRTHMARK_REPORT",
                &["sarif", "xml", "text,json", "text,color=red", "text,level=debug", "text,file="],
            ),
            ("BIRTHMARK_SNAPSHOT", &["exit:", "1", "signal=USR2:x", "over=2G:x"]),
            ("BIRTHMARK_WARNINGS", &["error", "ignore::leak"]),
            ("BIRTHMARK_BUDGETS", &["update"]),
        ];
        for (name, values) in BAD {
            for value in *values {
                let get = |n: &str| (n == *name).then_some(value.as_bytes());
                let bad = parse(&get, &Defaults::NONE).expect_err(value);
                assert_eq!((bad.name, bad.value), (*name, value.as_bytes()));
                assert!(!bad.allowed.is_empty());
            }
        }
    }
}
