//! `unoptimised`: built without optimisation.
//! `native`: the targets on which stacks are walked by our own rules. All others, and `--cfg birthmark_portable`,
//! capture by the `backtrace` crate.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(native, unoptimised)");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    // Unoptimised hooks take four times the stack.
    if is("OPT_LEVEL", "0") {
        println!("cargo::rustc-cfg=unoptimised");
    }
    let native = is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("CARGO_CFG_TARGET_POINTER_WIDTH", "64");
    if native && std::env::var_os("CARGO_CFG_BIRTHMARK_PORTABLE").is_none() {
        println!("cargo::rustc-cfg=native");
    }
}
