//! Who wins: the variables, `BIRTHMARK_DEV`, the code's const defaults, the build. Pure: variables come through a
//! closure, so tests pass plain records.

use super::refuse::{BadValue, Refusal};
use super::settings::{ConstDefaults, Heap, OnError, Settings, Why};
use super::{async_debug, malloc, report, snapshot, tracemalloc};

/// Frames that dev mode traces.
const DEV_FRAMES: u16 = 5;

/// The settings, from `vars` (a variable's value by its name) and the code's defaults. An empty value is as none.
pub(super) fn parse<'a>(
    vars: &mut dyn FnMut(&str) -> Option<&'a [u8]>,
    defaults: &ConstDefaults,
) -> Result<Settings<'a>, BadValue<'a>> {
    let mut set = |name: &str| vars(name).filter(|value| !value.is_empty());
    let dev = set("BIRTHMARK_DEV").map(dev).transpose()?;
    let frames = set(tracemalloc::NAME).map(tracemalloc::parse).transpose()?;
    let heap = set(malloc::NAME).map(|value| malloc::parse(malloc::NAME, value)).transpose()?;
    let asynchronous = set(async_debug::NAME).map(async_debug::parse).transpose()?;
    let mut report = set(report::NAME).map_or(Ok(super::ReportSettings::DEFAULT), report::parse)?;
    let snapshot_exit = set(snapshot::NAME).map_or(Ok(None), snapshot::parse)?;
    set("BIRTHMARK_WARNINGS").map_or(Ok(()), warnings)?;
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
    let asked = if asked == 0 && snapshot_exit.is_some() { snapshot::FRAMES } else { asked };

    let build = |quarantine| Some(Heap { quarantine, on_error: OnError::Abort });
    let (malloc, why_heap) = match (heap, defaults.malloc) {
        (Some(heap), _) => (heap, Why::Variable),
        (None, _) if dev_by_variable => (build(malloc::QUARANTINE_DEV), Why::Dev),
        (None, Some(code)) => (malloc::parse(malloc::IN_CODE, code.as_bytes())?, Why::Code),
        (None, None) if dev_in_code => (build(malloc::QUARANTINE_DEV), Why::Dev),
        (None, None) if defaults.debug_assertions => (build(malloc::QUARANTINE_BUILD), Why::DebugAssertions),
        (None, None) => (None, Why::Nobody),
    };

    Ok(Settings {
        tracemalloc: frames.unwrap_or(asked),
        tracemalloc_forced_off: frames == Some(0),
        malloc,
        why_heap,
        async_debug: asynchronous.map_or(dev_by_variable || dev_in_code, |asked| asked.on),
        async_debug_by_variable: asynchronous.is_some_and(|asked| asked.on),
        async_forced_off: asynchronous.is_some_and(|asked| !asked.on),
        slow: asynchronous.map_or(async_debug::SLOW, |asked| asked.slow),
        coop: asynchronous.is_none_or(|asked| asked.coop),
        report,
        snapshot_exit,
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

/// `BIRTHMARK_WARNINGS`: only what says the default; filters are refused by name until they are built.
fn warnings(value: &[u8]) -> Result<(), BadValue<'_>> {
    if value == b"default" {
        return Ok(());
    }
    let action = value.split(|byte| matches!(*byte, b':' | b',')).next().unwrap_or_default();
    let known: [&[u8]; 6] = [b"default", b"always", b"once", b"module", b"ignore", b"error"];
    let refusal =
        if known.contains(&action) { Refusal::NotBuilt(value) } else { Refusal::NotAllowed(action) };
    Err(BadValue { variable: "BIRTHMARK_WARNINGS", value, refusal, allowed: "default" })
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
