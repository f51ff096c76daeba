//! Frames and tracebacks: the names of a stack, user first.

use std::fmt;
use std::sync::Arc;

use super::id::Depth;

/// Whose code a frame is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The program's own.
    User,
    /// A dependency's: its name and version, such as `bytes-1.11.0`.
    Dependency(Arc<str>),
    /// std's, the runtime's or the allocator's: kept with the stack, folded when shown.
    Plumbing,
}

/// One logical frame: a function, inlined or not, and the line in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    pub(crate) function: Option<Arc<str>>,
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: u32,
    pub(crate) module: Arc<str>,
    pub(crate) offset: usize,
    pub(crate) inlined: bool,
    pub(crate) owner: Owner,
}

impl Frame {
    /// The function's path without its hash; nothing without symbols.
    pub fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }
    /// The source file, whole as the compiler wrote it; nothing without line tables.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
    /// The line, from 1; 0 where it isn't known.
    pub fn line(&self) -> u32 {
        self.line
    }
    /// The file name of the program or library that holds the code.
    pub fn module(&self) -> &str {
        &self.module
    }
    /// Where in that file, in bytes from its load address.
    pub fn offset(&self) -> usize {
        self.offset
    }
    /// Whether the function was inlined into the one of the next frame.
    pub fn is_inlined(&self) -> bool {
        self.inlined
    }
    /// Whose code it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
    /// The place in the shortest form that finds it: `src/parser.rs:41`, `serde_json-1.0.1/src/de.rs:7`, or module and
    /// offset.
    pub fn place(&self) -> String {
        match &self.file {
            Some(file) if self.line != 0 => format!("{}:{}", shown(file), self.line),
            Some(file) => shown(file),
            None => format!("{}+{:#x}", self.module, self.offset),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => write!(f, "{function}  {}", self.place()),
            None => f.write_str(&self.place()),
        }
    }
}

/// A path as it is shown: relative below the current directory, else from its crate, else whole.
pub(crate) fn shown(file: &str) -> String {
    if let Some((_, rest)) = file.split_once("/registry/src/")
        && let Some((_, rest)) = rest.split_once('/')
    {
        return rest.to_owned();
    }
    if let Some((_, rest)) = file.split_once("/library/")
        && (file.starts_with("/rustc/") || file.contains("/rustlib/src/"))
    {
        return rest.to_owned();
    }
    if let Ok(here) = std::env::current_dir()
        && let Some(here) = here.to_str()
        && let Some(rest) = file.strip_prefix(here)
        && let Some(rest) = rest.strip_prefix('/')
    {
        return rest.to_owned();
    }
    file.to_owned()
}

/// The stack that made a block, most recent frame first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Traceback {
    pub(crate) frames: Arc<[Frame]>,
    pub(crate) kept: u32,
    pub(crate) depth: u32,
    pub(crate) more: bool,
}

impl Traceback {
    pub(crate) fn new(frames: Vec<Frame>, kept: u32, depth: Depth) -> Self {
        let (depth, more) = match depth {
            Depth::Exactly(n) => (n, false),
            Depth::MoreThan(n) => (n, true),
        };
        Self { frames: frames.into(), kept, depth, more }
    }

    /// The frames that count: the user's and those of dependencies, most recent first. Where a stack has none, all.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> + Clone {
        let any = self.frames.iter().any(|f| f.owner != Owner::Plumbing);
        self.frames.iter().filter(move |f| !any || f.owner != Owner::Plumbing)
    }

    /// All frames, plumbing too.
    pub fn all_frames(&self) -> &[Frame] {
        &self.frames
    }

    /// How many user frames (physical functions) were kept.
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// How many user frames the whole stack had; nothing where that wasn't counted to its end.
    #[doc(alias = "total_nframe")]
    pub fn depth(&self) -> Option<u32> {
        (!self.more).then_some(self.depth)
    }

    /// `2 of 9 frames kept`, where not all were.
    pub(crate) fn shortened(&self) -> Option<String> {
        if self.more {
            Some(format!("{} of more than {} frames kept", self.kept, self.depth))
        } else {
            (self.kept < self.depth).then(|| format!("{} of {} frames kept", self.kept, self.depth))
        }
    }
}

impl fmt::Display for Traceback {
    /// One frame a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, frame) in self.frames().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{frame}")?;
        }
        Ok(())
    }
}
