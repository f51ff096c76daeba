//! The tables of values: what is accepted, what it means, what is refused and with which words.

#![allow(clippy::type_complexity)]

use core::time::Duration;

use super::parse::parse;
use super::refuse::BadValue;
use super::*;
use crate::watch::Kind;

type Vars<'v, 'a> = &'v [(&'v str, &'a str)];

fn with<'a>(vars: Vars<'_, 'a>, defaults: &Code) -> Result<Settings<'a>, BadValue<'a>> {
    parse(
        &mut |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes()),
        &defaults.said,
        defaults.debug_assertions,
    )
}

fn good<'a>(vars: Vars<'_, 'a>) -> Settings<'a> {
    with(vars, &Code::NONE).unwrap_or_else(|bad| panic!("{bad}"))
}

fn line(name: &str, value: &str) -> String {
    match with(&[(name, value)], &Code::NONE) {
        Ok(settings) => panic!("{name}={value:?} was accepted: {settings:?}"),
        Err(bad) => bad.to_string(),
    }
}

fn heap(quarantine: usize, why: Why) -> Option<Heap> {
    Some(Heap { quarantine, go_on: false, why })
}

/// What the code says, and how it was built.
#[derive(Clone, Copy, Debug)]
struct Code {
    said: Defaults,
    debug_assertions: bool,
}

impl Code {
    const NONE: Self = Self { said: Defaults::NONE, debug_assertions: false };
    const BUILD: Self = Self { debug_assertions: true, ..Self::NONE };
    const DEV: Self = Self { said: Defaults { dev: true, ..Defaults::NONE }, ..Self::NONE };

    const fn tracemalloc(mut self, frames: u16) -> Self {
        self.said.tracemalloc = Some(frames);
        self
    }
    const fn malloc(mut self, words: &'static str) -> Self {
        self.said.malloc = Some(words);
        self
    }
}

#[test]
fn nothing_set_is_everything_off() {
    assert_eq!(good(&[]), Settings::OFF);
    assert_eq!((Settings::OFF.watch.slow, Settings::OFF.watch.coop), (Duration::from_millis(100), true));
}

#[test]
fn an_empty_variable_is_as_one_that_is_not_set() {
    let empty: Vec<_> = KNOWN.iter().map(|name| (*name, "")).collect();
    assert_eq!(good(&empty), good(&[]));
    assert_eq!(with(&empty, &Code::DEV).unwrap(), with(&[], &Code::DEV).unwrap());
}

#[test]
fn tracemalloc_takes_frames_from_1_to_65535() {
    for (value, frames) in [("1", 1), ("5", 5), ("05", 5), ("65535", 65535), ("0", 0), ("00", 0)] {
        assert_eq!(good(&[("TRACEMALLOC", value)]).tracemalloc, frames, "{value}");
    }
    for value in
        ["5x", "-1", "+5", " 5", "5 ", "65536", "70000", "99999999999999999999999", "on", "0x5", "5,"]
    {
        let line = line("TRACEMALLOC", value);
        assert!(line.starts_with(&format!("birthmark: TRACEMALLOC=\"{value}\": ")), "{line}");
        assert!(line.contains("is not understood; allowed: 0 (off) or a number of frames from 1 to 65535"));
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn tracemalloc_sample_is_refused_by_name() {
    assert_eq!(
        line("TRACEMALLOC", "5,sample=512K"),
        "birthmark: TRACEMALLOC=\"5,sample=512K\": \"sample=512K\" is not built yet; \
         allowed: 0 (off) or a number of frames from 1 to 65535"
    );
}

#[test]
fn tracemalloc_zero_is_off_over_everything() {
    let defaults = Code::DEV.tracemalloc(9);
    let vars = [("TRACEMALLOC", "0"), ("BIRTHMARK_DEV", "1"), ("BIRTHMARK_SNAPSHOT", "exit")];
    let settings = with(&vars, &defaults).unwrap();
    assert_eq!(settings.tracemalloc, 0);
    assert!(settings.forbidden);
}

#[test]
fn without_a_number_tracemalloc_is_as_dev_says_then_the_code_then_off() {
    let nine = Code::NONE.tracemalloc(9);
    let dev_and_nine = Code::DEV.tracemalloc(9);
    let none = Code::NONE;
    let frames = |vars: Vars<'_, '_>, defaults| with(vars, &defaults).unwrap().tracemalloc;
    assert_eq!(frames(&[("BIRTHMARK_DEV", "1")], nine), 5);
    assert_eq!(frames(&[], nine), 9);
    assert_eq!(frames(&[], dev_and_nine), 9);
    assert_eq!(frames(&[], Code::DEV), 5);
    assert_eq!(frames(&[("BIRTHMARK_DEV", "0")], Code::DEV), 0);
    assert_eq!(frames(&[("TRACEMALLOC", "3"), ("BIRTHMARK_DEV", "1")], nine), 3);
    assert_eq!(frames(&[("BIRTHMARK_SNAPSHOT", "exit")], none), 5);
    assert_eq!(frames(&[("BIRTHMARK_SNAPSHOT", "exit"), ("TRACEMALLOC", "2")], none), 2);
    assert_eq!(frames(&[("BIRTHMARK_SNAPSHOT", "exit")], nine), 9);
    assert_eq!(frames(&[("BIRTHMARK_SNAPSHOT", "0")], none), 0);
}

#[test]
fn malloc_takes_debug_and_its_words() {
    let malloc = |value| good(&[("BIRTHMARK_MALLOC", value)]).heap;
    for (value, quarantine) in [
        ("debug", 4 << 20),
        ("debug,quarantine=0", 0),
        ("debug,quarantine=100", 100),
        ("debug,quarantine=512K", 512 << 10),
        ("debug,quarantine=16M", 16 << 20),
        ("debug,quarantine=1G", 1 << 30),
        ("debug,on_error=abort", 4 << 20),
    ] {
        assert_eq!(malloc(value), heap(quarantine, Why::Variable), "{value}");
    }
    let go_on = malloc("debug,on_error=continue,quarantine=1K");
    assert_eq!(go_on, Some(Heap { quarantine: 1024, go_on: true, why: Why::Variable }));
    for value in ["off", "0"] {
        assert_eq!(malloc(value), None, "{value}");
    }
}

#[test]
fn malloc_refuses_what_it_does_not_know() {
    for value in [
        "1",
        "on",
        "Debug",
        " debug",
        "debug ",
        "debug,",
        "debug,,quarantine=1M",
        "debug,debug",
        "debug,off",
        "off,debug",
        "quarantine=4M",
        "quarantine=4M,debug",
        "debug,quarantine",
        "debug,quarantine=",
        "debug,quarantine=-1",
        "debug,quarantine=4MB",
        "debug,quarantine=4m",
        "debug,quarantine=M",
        "debug,quarantine= 4M",
        "debug,quarantine=4.5M",
        "debug,quarantine=99999999999G",
        "debug,quarantine=99999999999999999999",
        "debug,on_error=",
        "debug,on_error=panic",
        "debug,what=1",
        "malloc",
    ] {
        let line = line("BIRTHMARK_MALLOC", value);
        assert!(line.contains("is not understood; allowed: debug[,quarantine=BYTES]"), "{line}");
    }
    for word in ["guard_pages=1/1000", "on_error=deferred", "check_every=100", "break_at=7", "leaks=exit"] {
        let line = line("BIRTHMARK_MALLOC", &format!("debug,quarantine=1M,{word}"));
        assert!(line.contains(&format!("\"{word}\" is not built yet; allowed: debug[,")), "{line}");
    }
    let twice = line("BIRTHMARK_MALLOC", "debug,quarantine=1M,quarantine=2M");
    assert!(twice.contains("\"quarantine=2M\" is given twice"), "{twice}");
    assert!(line("BIRTHMARK_MALLOC", "debug,on_error=abort,on_error=abort").contains("given twice"));
}

#[test]
fn the_heap_is_the_variable_s_then_dev_s_then_the_code_s_then_the_build_s() {
    let off_in_code = Code::BUILD.malloc("off");
    let debug_in_code = Code::BUILD.malloc("debug,quarantine=2M");
    let dev_but_off = Code::DEV.malloc("off");
    let dev = ("BIRTHMARK_DEV", "1");
    for (vars, code, expected) in [
        (&[("BIRTHMARK_MALLOC", "debug"), dev][..], off_in_code, heap(4 << 20, Why::Variable)),
        (&[("BIRTHMARK_MALLOC", "0"), dev], debug_in_code, None),
        (&[dev], off_in_code, heap(16 << 20, Why::Dev)),
        (&[], off_in_code, None),
        (&[], debug_in_code, heap(2 << 20, Why::Code)),
        (&[], dev_but_off, None),
        (&[], Code::DEV, heap(16 << 20, Why::Dev)),
        (&[("BIRTHMARK_DEV", "0")], Code::DEV, None),
        (&[], Code::BUILD, heap(1 << 20, Why::DebugAssertions)),
        (&[("BIRTHMARK_DEV", "0")], Code::BUILD, heap(1 << 20, Why::DebugAssertions)),
        (&[("BIRTHMARK_MALLOC", "off")], Code::BUILD, None),
        (&[("BIRTHMARK_MALLOC", "debug")], Code::BUILD, heap(4 << 20, Why::Variable)),
    ] {
        assert_eq!(with(vars, &code).unwrap().heap, expected, "{vars:?} {code:?}");
    }
}

#[test]
fn a_bad_default_in_code_names_the_method() {
    let defaults = Code::NONE.malloc("bogus");
    let bad = with(&[], &defaults).unwrap_err().to_string();
    assert!(bad.starts_with("birthmark: DebugAlloc::malloc=\"bogus\": is not understood"), "{bad}");
}

#[test]
fn dev_mode_is_the_other_variables_together() {
    let settings = good(&[("BIRTHMARK_DEV", "1")]);
    assert_eq!((settings.tracemalloc, settings.heap), (5, heap(16 << 20, Why::Dev)));
    assert_eq!((settings.watch.on, settings.watch.asked), (true, None));
    for value in ["2", "yes", "on", "off", "1,", " 1", "-1"] {
        assert!(line("BIRTHMARK_DEV", value).ends_with("is not understood; allowed: 1 or 0"));
    }
}

#[test]
fn async_debug_takes_a_limit_and_the_coop_switch() {
    let ms = Duration::from_millis;
    for (value, slow, coop) in [
        ("1", ms(100), true),
        ("1,slow=50ms", ms(50), true),
        ("1,slow=0", ms(0), true),
        ("1,slow=0ms", ms(0), true),
        ("1,slow=2s", ms(2000), true),
        ("1,slow=250us", Duration::from_micros(250), true),
        ("1,slow=9ns,coop=off", Duration::from_nanos(9), false),
        ("1,coop=0,slow=1ms", ms(1), false),
        ("1,coop=on", ms(100), true),
    ] {
        let watch = good(&[("BIRTHMARK_ASYNC_DEBUG", value)]).watch;
        assert_eq!(watch, Async { asked: Some(true), on: true, slow, coop }, "{value}");
    }
    let off = with(&[("BIRTHMARK_ASYNC_DEBUG", "0"), ("BIRTHMARK_DEV", "1")], &Code::DEV).unwrap().watch;
    assert_eq!((off.asked, off.on), (Some(false), false));
    assert!(with(&[], &Code::DEV).unwrap().watch.on);
    assert!(!with(&[("BIRTHMARK_DEV", "0")], &Code::DEV).unwrap().watch.on);
}

#[test]
fn async_debug_refuses_what_it_does_not_know() {
    for value in [
        "2",
        "on",
        "0,slow=50ms",
        "slow=50ms",
        "1,",
        "1,slow",
        "1,slow=",
        "1,slow=50",
        "1,slow=ms",
        "1,slow=-5ms",
        "1,slow=1.5s",
        "1,slow=5min",
        "1,slow=50 ms",
        "1,coop=maybe",
        "1,coop",
        "1,tick=3",
    ] {
        let line = line("BIRTHMARK_ASYNC_DEBUG", value);
        assert!(line.contains("is not understood; allowed: 1[,slow=TIME]"), "{line}");
    }
    assert!(line("BIRTHMARK_ASYNC_DEBUG", "1,slow=1s,slow=1s").contains("is given twice"));
}

#[test]
fn report_takes_its_words_in_any_order() {
    let report = |value| good(&[("BIRTHMARK_REPORT", value)]).report;
    let text = Report::DEFAULT;
    for (value, expected) in [
        ("text", text),
        ("json", Report { json: true, ..text }),
        ("full", Report { full: true, ..text }),
        ("text,full,color=always", Report { full: true, color: Color::Always, ..text }),
        ("color=never", Report { color: Color::Never, ..text }),
        ("text,color=auto", text),
        ("level=error,json", Report { json: true, level: Level::Error, ..text }),
        ("text,level=warning", Report { level: Level::Warning, ..text }),
        ("text,level=info", text),
        ("text,level=debug", Report { level: Level::Debug, ..text }),
        ("text,file=/tmp/r-%p.txt", Report { file: Some(b"/tmp/r-%p.txt"), ..text }),
        ("file=100%%", Report { file: Some(b"100%%"), ..text }),
    ] {
        assert_eq!(report(value), expected, "{value}");
    }
    let long = format!("file={}", "x".repeat(4096));
    for value in [
        "0",
        "xml",
        "Text",
        "text,",
        "color=",
        "color=yes",
        "level=",
        "level=trace",
        "file=",
        "file=%d",
        "file=a%",
        "file=a,b",
        "full=1",
        &long,
    ] {
        let line = line("BIRTHMARK_REPORT", value);
        assert!(line.contains("is not understood; allowed: text|json[,full]"), "{line}");
        assert!(line.len() < 600);
    }
    assert!(line("BIRTHMARK_REPORT", "sarif,full").contains("\"sarif\" is not built yet"));
    for twice in ["text,json", "full,full", "file=a,file=b", "level=info,level=info", "color=auto,color=auto"]
    {
        assert!(line("BIRTHMARK_REPORT", twice).contains("is given twice"), "{twice}");
    }
}

#[test]
fn colour_follows_the_conventions_of_other_tools_below_our_own_variable() {
    let color = |vars: Vars<'_, '_>| good(vars).report.color;
    assert_eq!(color(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]), Color::Never);
    assert_eq!(color(&[("NO_COLOR", "")]), Color::Auto);
    assert_eq!(color(&[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")]), Color::Always);
    assert_eq!(color(&[("CLICOLOR_FORCE", "0")]), Color::Auto);
    assert_eq!(color(&[("TERM", "dumb")]), Color::Never);
    assert_eq!(color(&[("NO_COLOR", "1"), ("BIRTHMARK_REPORT", "text,color=always")]), Color::Always);
    assert_eq!(color(&[("NO_COLOR", "1"), ("BIRTHMARK_REPORT", "color=auto")]), Color::Never);
}

#[test]
fn snapshot_takes_exit_and_a_file() {
    let snapshot = |value| good(&[("BIRTHMARK_SNAPSHOT", value)]).at_exit;
    assert_eq!(snapshot("exit"), Some(None));
    assert_eq!(snapshot("exit:top-%p.json"), Some(Some(&b"top-%p.json"[..])));
    assert_eq!(snapshot("exit:a,b"), Some(Some(&b"a,b"[..])));
    assert_eq!(snapshot("0"), None);
    for value in ["1", "exit:", "exit:%s", "Exit", "exit ", "exit,exit", "signal", "at_exit"] {
        assert!(line("BIRTHMARK_SNAPSHOT", value).contains("is not understood; allowed: exit, exit:FILE"));
    }
    for value in ["signal=USR2:x", "over=2G:x"] {
        assert!(line("BIRTHMARK_SNAPSHOT", value).contains(": is not built yet; allowed: exit"));
    }
}

fn filters(value: &str) -> Vec<warnings::Written<'_>> {
    warnings::each(good(&[("BIRTHMARK_WARNINGS", value)]).warnings).collect()
}

#[test]
fn warnings_takes_filters_in_pythons_grammar() {
    let any = warnings::Written { action: Action::Default, message: "", category: None, module: "", line: 0 };
    let lost = Some(Kind::ResourceWarning);
    for (value, expected) in [
        ("default", any),
        ("error", warnings::Written { action: Action::Error, ..any }),
        ("e", warnings::Written { action: Action::Error, ..any }),
        ("all", warnings::Written { action: Action::Always, ..any }),
        ("always", warnings::Written { action: Action::Always, ..any }),
        ("once::::", warnings::Written { action: Action::Once, ..any }),
        ("module::Warning", warnings::Written { action: Action::Module, ..any }),
        ("i", warnings::Written { action: Action::Ignore, ..any }),
        ("0", warnings::Written { action: Action::Ignore, ..any }),
        ("::ResourceWarning", warnings::Written { category: lost, ..any }),
        ("::resource-warning::7", warnings::Written { category: lost, line: 7, ..any }),
        ("::task-error", warnings::Written { category: Some(Kind::TaskError), ..any }),
        (":Export was:::", warnings::Written { message: "Export was", ..any }),
        (" default : Export was : : a_crate.cache : 41 ", {
            warnings::Written { message: "Export was", module: "a_crate.cache", line: 41, ..any }
        }),
    ] {
        assert_eq!(filters(value), [expected], "{value}");
    }
    let both = filters("error,ignore::resource-warning");
    assert_eq!((both.len(), both[0].action, both[1].category), (2, Action::Error, lost));
}

#[test]
fn warnings_refuses_what_it_does_not_know_and_says_which_part() {
    let allowed = |value, part: &str, allowed: &str| {
        let line = line("BIRTHMARK_WARNINGS", value);
        let (refused, said) = line.split_once("; allowed: ").unwrap();
        assert!(refused.starts_with("birthmark: BIRTHMARK_WARNINGS=\""), "{line}");
        assert!(refused.ends_with(&format!("{part} is not understood")), "{line}");
        assert!(said.starts_with(allowed) && line.len() < 600, "{line}");
    };
    allowed("loud", "", "default, always, once, module, ignore or error");
    allowed("Error", "", "default, always");
    allowed("default,2::resource-warning", "\"2\"", "default, always");
    allowed("error::use-after-free", "\"use-after-free\"", "slow-callback, worker-busy");
    allowed("error::UserWarning", "\"UserWarning\"", "slow-callback, worker-busy");
    allowed("error:::my_crate..cache", "\"my_crate..cache\"", "a module's path with dots");
    allowed("error:::my-crate", "\"my-crate\"", "a module's path with dots");
    allowed("error::::-1", "\"-1\"", "a line's number");
    allowed("error::::99999999999", "\"99999999999\"", "a line's number");
    allowed("error::::1:2", "", "filters parted by commas");
    for value in ["default,", ",default", "default,,error", " "] {
        assert!(line("BIRTHMARK_WARNINGS", value).contains("is not understood; allowed: filters"), "{value}");
    }
    let long = "x".repeat(4096);
    assert!(line("BIRTHMARK_WARNINGS", &long).contains("is not understood; allowed: filters"));
}

#[test]
fn dev_mode_is_the_default_filter_and_the_variable_wins() {
    let dev = ("BIRTHMARK_DEV", "1");
    assert_eq!(good(&[dev]).warnings, b"default");
    assert_eq!(with(&[], &Code::DEV).unwrap().warnings, b"default");
    assert_eq!(good(&[dev, ("BIRTHMARK_ASYNC_DEBUG", "0")]).warnings, b"default");
    assert_eq!(good(&[dev, ("BIRTHMARK_WARNINGS", "error")]).warnings, b"error");
}

#[test]
fn budgets_refuse_by_name_what_is_not_built() {
    assert_eq!(good(&[("BIRTHMARK_BUDGETS", "0")]), good(&[]));
    assert!(line("BIRTHMARK_BUDGETS", "update").ends_with(": is not built yet; allowed: 0"));
    assert!(line("BIRTHMARK_BUDGETS", "1").ends_with(": is not understood; allowed: 0"));
}

#[test]
fn a_refused_value_is_shown_escaped_and_cut() {
    let value = "\x1b[31m\n\"".to_owned() + &"x".repeat(500);
    let line = line("BIRTHMARK_DEV", &value);
    assert!(line.starts_with("birthmark: BIRTHMARK_DEV=\"\\x1b[31m\\n\\\"xxx"), "{line}");
    assert!(line.ends_with("xx..\": is not understood; allowed: 1 or 0"), "{line}");
    assert!(line.is_ascii() && line.len() < 200);
}

#[test]
fn a_variable_that_is_not_text_is_refused_and_not_lost() {
    let bad = parse(&mut |name| (name == "TRACEMALLOC").then_some(&b"\xff5"[..]), &Defaults::NONE, false);
    assert!(bad.unwrap_err().to_string().contains("TRACEMALLOC=\"\\xff5\""));
}

#[test]
fn kept_settings_are_equal_and_point_to_memory_of_our_own() {
    let value = String::from("text,file=out-%p");
    let exit = String::from("exit:top");
    let filters = String::from("error::resource-warning,once");
    let vars =
        [("BIRTHMARK_REPORT", &*value), ("BIRTHMARK_SNAPSHOT", &*exit), ("BIRTHMARK_WARNINGS", &*filters)];
    let before = good(&vars);
    let kept = before.kept();
    assert_eq!(kept, before);
    assert_ne!(kept.report.file.unwrap().as_ptr(), before.report.file.unwrap().as_ptr());
    assert_ne!(kept.warnings.as_ptr(), before.warnings.as_ptr());
}

/// This test program again, running no test, with `vars`: its constructor is the one that every program gets.
fn child(vars: Vars<'_, '_>) -> std::process::Output {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "no such test"]);
    for name in KNOWN {
        command.env_remove(name);
    }
    command.envs(vars.iter().copied()).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_bad_value_stops_the_program_before_main_with_one_line_and_status_2() {
    for (name, value) in
        [("TRACEMALLOC", "5x"), ("BIRTHMARK_MALLOC", "debug,leaks=exit"), ("BIRTHMARK_WARNINGS", "loud")]
    {
        let output = child(&[(name, value)]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(output.stdout.is_empty(), "main ran");
        assert_eq!(told, line(name, value) + "\n");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_unknown_variable_of_ours_gets_one_line_and_the_program_runs() {
    let output = child(&[("BIRTHMARK_MALOC", "debug"), ("BIRTHMARK_DEV", "1"), ("BIRTHDAY", "1")]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(
        told.starts_with("birthmark: the variable \"BIRTHMARK_MALOC\" is unknown and ignored; known are ")
    );
    assert_eq!(told.lines().count(), 1, "{told}");
}
