//! Delivers a finished report by one write: to standard error, or to the file that was named.

use std::io::IsTerminal;

use super::raw::write_all;
use super::record::Report;
use super::text::{self, Style};
use super::{expand, json};
use crate::config::{Color, settings};
use crate::thread::Ours;

/// Whether text goes out coloured.
pub(crate) fn colored() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    let report = &settings().report;
    match report.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto
            if report.file.is_some() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) =>
        {
            false
        }
        Color::Auto => set("CLICOLOR_FORCE") || std::io::stderr().is_terminal(),
    }
}

pub(crate) fn style() -> Style {
    Style { full: settings().report.full, color: colored() }
}

/// The whole report as it goes out.
pub(crate) fn written(report: &Report, style: Style) -> String {
    if settings().report.json {
        return format!("{}\n", json::line(report));
    }
    format!("{}\n{}", text::head(report.kind, &report.sentence, style), text::body(report, style))
}

/// Writes a report from ordinary code.
pub(crate) fn deliver(report: &Report) {
    let settings = settings();
    if report.level > settings.report.level {
        return;
    }
    let _ours = Ours::enter();
    send(written(report, style()).as_bytes());
}

/// Writes finished text where reports go.
pub(crate) fn send(bytes: &[u8]) {
    match settings().report.file {
        None => write_all(2, bytes),
        Some(path) => match open(path) {
            Some(file) => {
                write_all(file, bytes);
                // SAFETY: our own descriptor.
                unsafe { libc::close(file) };
            }
            None => write_all(2, bytes),
        },
    }
}

/// Opens a file to append to; nothing where that fails. No heap.
pub(crate) fn open(path: &[u8]) -> Option<i32> {
    let path = expand(path);
    // SAFETY: the path ends in zero; a plain system call.
    let fd = unsafe {
        libc::open(
            path.as_ptr().cast(),
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC,
            0o644,
        )
    };
    (fd >= 0).then_some(fd)
}
