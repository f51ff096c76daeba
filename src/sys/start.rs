//! Functions that run before `main` and at the program's end, where the object format has places for them.

/// Names a function that runs before `main`, among the earliest. Where there is no such place, nothing runs it.
macro_rules! before_main {
    ($name:ident = $f:path) => {
        // SAFETY: the C runtime calls each entry once, with (argc, argv, envp) or with nothing; `$f` takes nothing, which
        // the C calling conventions allow.
        #[cfg_attr(all(unix, not(target_vendor = "apple")), unsafe(link_section = ".init_array.00099"))]
        #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
        #[cfg_attr(windows, unsafe(link_section = ".CRT$XCU"))]
        #[used]
        static $name: extern "C" fn() = $f;
    };
}

/// Names a function that runs at the program's end, after the program's own. Where the object format has no place for it,
/// `ensure_linked` registers it.
macro_rules! after_main {
    ($name:ident = $f:path) => {
        #[cfg_attr(all(unix, not(target_vendor = "apple")), unsafe(link_section = ".fini_array.00099"))]
        #[used]
        static $name: extern "C" fn() = $f;
    };
}

pub(crate) use {after_main, before_main};

/// Whether [`after_main`] needs a call of `at_exit`.
pub(crate) const REGISTER_AT_EXIT: bool = cfg!(not(all(unix, not(target_vendor = "apple"))));
