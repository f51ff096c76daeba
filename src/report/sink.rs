//! Delivers a finished report by one write: to standard error, or to the file that was named.

use super::json;
use super::record::Report;
use super::text::{self, Style};
use crate::config::{Color, settings};
use crate::sys::{self, Descriptor, STDERR, write_all};
use crate::thread::Ours;

pub(crate) use super::path::open;

/// Whether text goes out coloured. Takes no heap.
pub(crate) fn colored() -> bool {
    let report = &settings().report;
    match report.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => report.file.is_none() && sys::is_terminal(STDERR),
    }
}

/// How reports look. Takes no heap.
pub(crate) fn style() -> Style {
    Style { full: settings().report.full, color: colored() }
}

/// The whole report as it goes out.
pub(crate) fn written(report: &Report, style: Style) -> String {
    if settings().report.json {
        return format!("{}\n", json::line(report, sys::process_id()));
    }
    format!("{}\n{}", text::head(report.kind, &report.sentence, style), text::body(report, style))
}

/// Writes a report from ordinary code, unless its level is left out.
pub(crate) fn deliver(report: &Report) {
    let settings = settings();
    if report.level > settings.report.level {
        return;
    }
    let _ours = Ours::enter();
    send(written(report, style()).as_bytes());
}

/// Where reports go; closed again when dropped. Takes no heap.
pub(crate) struct Out {
    fd: Descriptor,
    ours: bool,
}

impl Out {
    /// The file that was named, or standard error where there is none or it can't be opened.
    pub(crate) fn open() -> Self {
        match settings().report.file.and_then(open) {
            Some(fd) => Self { fd, ours: true },
            None => Self { fd: STDERR, ours: false },
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        write_all(self.fd, bytes);
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if self.ours {
            sys::close(self.fd);
        }
    }
}

/// Writes finished text where reports go. Takes no heap.
pub(crate) fn send(bytes: &[u8]) {
    sys::keep_errno(|| Out::open().write(bytes));
}
