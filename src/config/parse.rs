//! Who wins: the variables, `BIRTHMARK_DEV`, the code's const defaults, the build. Pure: variables come through a
//! closure, so tests pass plain records.

use super::refuse::{BadValue, Refusal};
use super::settings::{Async, Defaults, Heap, Report, Settings, Why};
use super::{async_debug, malloc, report, snapshot, tracemalloc, warnings};

/// Frames that dev mode traces.
const DEV_FRAMES: u16 = 5;

/// The settings, from `vars` (a variable's value by its name), the code's defaults, and whether the build has
/// `debug_assertions`. An empty value is as none.
pub(super) fn parse<'a>(
    vars: &mut dyn FnMut(&str) -> Option<&'a [u8]>,
    defaults: &Defaults,
    debug_assertions: bool,
) -> Result<Settings<'a>, BadValue<'a>> {
    let mut set = |name: &str| vars(name).filter(|value| !value.is_empty());
    let dev = set("BIRTHMARK_DEV").map(dev).transpose()?;
    let frames = set(tracemalloc::NAME).map(tracemalloc::parse).transpose()?;
    let heap =
        set(malloc::NAME).map(|value| malloc::parse(malloc::NAME, value, Why::Variable)).transpose()?;
    let asynchronous = set(async_debug::NAME).map(async_debug::parse).transpose()?;
    let mut report = set(report::NAME).map_or(Ok(Report::DEFAULT), report::parse)?;
    let at_exit = set(snapshot::NAME).map_or(Ok(None), snapshot::parse)?;
    let filters = set(warnings::NAME).map(warnings::parse).transpose()?;
    set("BIRTHMARK_BUDGETS").map_or(Ok(()), budgets)?;
    report.color = report::color(report.color, &mut set);

    let dev_by_variable = dev == Some(true);
    let dev_in_code = defaults.dev && dev != Some(false);

    // The snapshot at exit adds tracing only where nothing else has a number for it.
    let asked = match (dev_by_variable, defaults.tracemalloc, dev_in_code) {
        (true, ..) => DEV_FRAMES,
        (_, Some(frames), _) => frames,
        (_, None, true) => DEV_FRAMES,
        (_, None, false) => 0,
    };
    let asked = if asked == 0 && at_exit.is_some() { snapshot::FRAMES } else { asked };

    let plain = |quarantine, why| Some(Heap { quarantine, go_on: false, why });
    let heap = match (heap, defaults.malloc) {
        (Some(heap), _) => heap,
        (None, _) if dev_by_variable => plain(malloc::QUARANTINE_DEV, Why::Dev),
        (None, Some(code)) => malloc::parse(malloc::IN_CODE, code.as_bytes(), Why::Code)?,
        (None, None) if dev_in_code => plain(malloc::QUARANTINE_DEV, Why::Dev),
        (None, None) if debug_assertions => plain(malloc::QUARANTINE_BUILD, Why::DebugAssertions),
        (None, None) => None,
    };
    let by_dev = Async { on: dev_by_variable || dev_in_code, ..Settings::OFF.watch };

    Ok(Settings {
        tracemalloc: frames.unwrap_or(asked),
        forbidden: frames == Some(0),
        heap,
        watch: asynchronous.unwrap_or(by_dev),
        warnings: filters.unwrap_or(if by_dev.on { warnings::DEV } else { b"" }),
        report,
        at_exit,
    })
}

/// `BIRTHMARK_DEV`: on or off.
fn dev(value: &[u8]) -> Result<bool, BadValue<'_>> {
    match value {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(BadValue {
            variable: "BIRTHMARK_DEV",
            value,
            refusal: Refusal::NotAllowed(value),
            allowed: "1 or 0",
        }),
    }
}

/// `BIRTHMARK_BUDGETS`: nothing of it is built yet.
fn budgets(value: &[u8]) -> Result<(), BadValue<'_>> {
    let refusal = match value {
        b"0" => return Ok(()),
        b"update" => Refusal::NotBuilt(value),
        _ => Refusal::NotAllowed(value),
    };
    Err(BadValue { variable: "BIRTHMARK_BUDGETS", value, refusal, allowed: "0" })
}
