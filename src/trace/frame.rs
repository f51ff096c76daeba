//! Frames and tracebacks: the names of a stack, user first.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::id::Depth;
use super::owner;

/// Whose code a frame is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Owner {
    /// The program's own.
    User,
    /// A dependency's: its name and version, such as `bytes-1.11.0`, or the file name of a C library.
    Dependency(Arc<str>),
    /// std's, the runtime's or the allocator's: kept with the stack, folded when shown.
    Plumbing,
}

/// One logical frame: a function, inlined or not, and the line in it.
///
/// Two frames are equal, and are ordered, by what people read of them: file, line and function; without a file by module and
/// offset.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(crate) function: Option<Arc<str>>,
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: u32,
    pub(crate) module: Arc<str>,
    pub(crate) offset: usize,
    pub(crate) inlined: bool,
    pub(crate) owner: Owner,
}

/// The module of an address that lies in none.
pub(crate) const NO_MODULE: &str = "?";

impl Frame {
    /// Stands for a stack of which nothing is known.
    fn unknown() -> Self {
        Self {
            function: None,
            file: None,
            line: 0,
            module: NO_MODULE.into(),
            offset: 0,
            inlined: false,
            owner: Owner::User,
        }
    }

    /// The function's path without its hash; nothing without symbols. With `line-tables-only` an inlined function is known
    /// by the last part of its path alone.
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
            None if self.offset == 0 => "<unknown>".to_owned(),
            None => format!("{}+{:#x}", self.module, self.offset),
        }
    }

    /// What is compared: file and line, else module and offset; and the function.
    fn names(&self) -> (Option<&str>, u32, Option<&str>, &str, usize) {
        let (module, offset) = if self.file.is_none() { (&*self.module, self.offset) } else { ("", 0) };
        (self.file(), self.line, self.function(), module, offset)
    }

    /// The package, or the root of the function's path, of a frame of plumbing.
    fn root(&self) -> &str {
        let function = self.function().unwrap_or("").trim_start_matches(['<', '&']);
        let root = function.split("::").next().unwrap_or(function);
        match self.file.as_deref().and_then(|f| owner::origin(f).package) {
            // Of the user's line that installs the allocator.
            Some(package) if !root.starts_with("__rust") => match package {
                std::borrow::Cow::Borrowed(package) => package,
                std::borrow::Cow::Owned(_) => root,
            },
            _ => root,
        }
    }

    /// Whether it is the allocator's, or one of its shims.
    fn is_ours(&self) -> bool {
        let root = self.root();
        self.owner == Owner::Plumbing
            && (root.starts_with("__rust")
                || ["birthmark", "backtrace"].iter().any(|p| {
                    root.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                }))
    }

    /// Whether it is worth showing where a whole stack is plumbing: not what every allocation goes through.
    fn is_telling(&self) -> bool {
        !self.is_ours() && !["alloc", "core"].contains(&self.root())
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}
impl Eq for Frame {}
impl Hash for Frame {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}
impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Frame {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
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

/// The current directory, for [`owner::shown`].
pub(crate) fn here() -> Option<String> {
    std::env::current_dir().ok()?.into_os_string().into_string().ok()
}

/// A path as it is shown: relative below the current directory, else from its crate, else whole.
pub(crate) fn shown(file: &str) -> String {
    owner::shown(file, here().as_deref()).into_owned()
}

/// A line of the source as people find it.
pub(crate) fn shown_place(at: &std::panic::Location<'_>) -> String {
    format!("{}:{}", shown(at.file()), at.line())
}

/// The stack that made a block: the user's most recent frame leads, and then its callers.
///
/// Two are equal, and are ordered, by the frames that are shown.
#[derive(Clone, Debug)]
pub struct Traceback {
    pub(crate) frames: Arc<[Frame]>,
    /// Which of them leads.
    lead: usize,
    pub(crate) kept: u32,
    pub(crate) depth: u32,
    pub(crate) more: bool,
}

impl Traceback {
    /// `frames`: most recent first, plumbing too.
    pub(crate) fn new(mut frames: Vec<Frame>, kept: u32, depth: Depth) -> Self {
        let (depth, more) = match depth {
            Depth::Exactly(n) => (n, false),
            Depth::MoreThan(n) => (n, true),
        };
        // The allocator's own frames and its shims are on every stack.
        let ours = frames.iter().take_while(|f| f.is_ours()).count();
        if ours < frames.len() {
            frames.drain(..ours);
        }
        if frames.is_empty() {
            frames.push(Frame::unknown());
        }
        let first = |want: &dyn Fn(&Frame) -> bool| frames.iter().position(want);
        let lead = first(&|f| f.owner == Owner::User)
            .or_else(|| first(&|f| f.owner != Owner::Plumbing))
            .or_else(|| first(&Frame::is_telling))
            .unwrap_or(0);
        Self { frames: frames.into(), lead, kept, depth, more }
    }

    /// The frames that are shown: the user's most recent one, then its callers, the user's and those of dependencies.
    /// Never empty: a stack without one of the user's begins at a dependency's, and one of plumbing alone shows that.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> + Clone {
        let all = self.frames[self.lead].owner == Owner::Plumbing;
        self.frames[self.lead..].iter().filter(move |f| all || f.owner != Owner::Plumbing)
    }

    /// The frame that leads: the first of [`frames`](Self::frames).
    pub fn lead(&self) -> &Frame {
        &self.frames[self.lead]
    }

    /// What the leading frame had called into when the block was made, where that is a dependency's function.
    pub fn via(&self) -> Option<&Frame> {
        self.frames[..self.lead].iter().rev().find(|f| f.owner != Owner::Plumbing)
    }

    /// All frames, plumbing too, most recent first.
    pub fn all_frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Every frame that isn't plumbing, dependencies above the leading one too; what is shown where all are plumbing.
    pub(crate) fn that_count(&self) -> impl Iterator<Item = &Frame> {
        let above = self.frames[..self.lead].iter().filter(|f| f.owner != Owner::Plumbing);
        above.chain(self.frames())
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

    /// `via bytes-1.11.0 BytesMut::put_slice`, where the user's own line called into a dependency.
    pub(crate) fn via_words(&self) -> Option<String> {
        let frame = self.via()?;
        let Owner::Dependency(package) = &frame.owner else { return None };
        Some(match frame.function() {
            Some(function) => format!("via {package} {}", last_parts(function)),
            None => format!("via {package}"),
        })
    }
}

/// The last two parts of a function's path, arguments and all; `BytesMut::put` of `<bytes::BytesMut as bytes::Buf>::put`.
pub(crate) fn last_parts(function: &str) -> String {
    let (parent, name) = split_last(function);
    let Some(parent) = parent else { return name.to_owned() };
    let kind = match parent.strip_prefix('<').and_then(|inner| inner.split_once(" as ")) {
        Some((kind, _)) => kind,
        None => parent,
    };
    format!("{}::{name}", split_last(kind).1)
}

/// A path's last part, and what stands before it. What stands between angle brackets belongs to one part.
fn split_last(path: &str) -> (Option<&str>, &str) {
    let (mut depth, mut end) = (0u32, path.len());
    let bytes = path.as_bytes();
    while let Some(at) = path[..end].rfind(['<', '>', ':']) {
        match bytes[at] {
            b'>' if at == 0 || bytes[at - 1] != b'-' => depth += 1,
            b'<' => depth = depth.saturating_sub(1),
            b':' if depth == 0 && at > 0 && bytes[at - 1] == b':' => {
                return (Some(&path[..at - 1]), &path[at + 1..]);
            }
            _ => {}
        }
        end = at;
    }
    (None, path)
}

impl PartialEq for Traceback {
    fn eq(&self, other: &Self) -> bool {
        self.frames().eq(other.frames())
    }
}
impl Eq for Traceback {}
impl Hash for Traceback {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.frames().for_each(|f| f.hash(state));
    }
}
impl PartialOrd for Traceback {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Traceback {
    fn cmp(&self, other: &Self) -> Ordering {
        self.frames().cmp(other.frames())
    }
}

impl fmt::Display for Traceback {
    /// One frame a line, functions and places in two columns; with `{:#}` all frames.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = lines(self, f.alternate());
        f.write_str(&lines.join("\n"))
    }
}

/// The widest column of functions.
const WIDEST: usize = 56;

/// A stack's lines: `function  file:line`, the first with what it called into.
pub(crate) fn lines(traceback: &Traceback, all: bool) -> Vec<String> {
    let frames: Vec<&Frame> =
        if all { traceback.all_frames().iter().collect() } else { traceback.frames().collect() };
    let widths = frames.iter().map(|f| f.function().map_or(0, |n| n.chars().count()));
    let width = widths.filter(|w| *w <= WIDEST).max().unwrap_or(0);
    let mut lines: Vec<String> = frames
        .iter()
        .map(|frame| match frame.function() {
            Some(function) => format!("{function:width$}  {}", frame.place()),
            None => frame.place(),
        })
        .collect();
    if !all && let (Some(first), Some(via)) = (lines.first_mut(), traceback.via_words()) {
        first.push_str("  ");
        first.push_str(&via);
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as its file's path has it.
    pub(crate) fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame {
            function: Some(function.into()),
            file: Some(file.into()),
            line,
            module: "app".into(),
            offset: line as usize,
            inlined: false,
            owner: owner::origin(file).owner,
        }
    }

    pub(crate) fn traceback(frames: Vec<Frame>) -> Traceback {
        let n = frames.len() as u32;
        Traceback::new(frames, n, Depth::Exactly(n))
    }

    const VEC: &str = "/rustc/1/library/alloc/src/vec/mod.rs";
    const RT: &str = "/rustc/1/library/std/src/rt.rs";
    const BYTES: &str = "/x/registry/src/i/bytes-1.11.0/src/bytes_mut.rs";

    fn functions(t: &Traceback) -> Vec<&str> {
        t.frames().filter_map(Frame::function).collect()
    }

    #[test]
    fn the_users_own_line_leads_and_tells_what_it_called_into() {
        let t = traceback(vec![
            frame("alloc::vec::Vec<T>::push", VEC, 9),
            frame("bytes::bytes_mut::BytesMut::reserve_inner", BYTES, 8),
            frame("<bytes::bytes_mut::BytesMut as bytes::buf::BufMut>::put_slice", BYTES, 7),
            frame("parser::Frame::with_capacity", "src/parser.rs", 41),
            frame("std::rt::lang_start", RT, 1),
            frame("parser::run", "src/parser.rs", 12),
        ]);
        assert_eq!(
            t.to_string(),
            "parser::Frame::with_capacity  src/parser.rs:41  via bytes-1.11.0 \
             BytesMut::put_slice\n\
             parser::run                   src/parser.rs:12"
        );
        assert_eq!(format!("{t:#}").lines().count(), 6, "all frames");
        assert_eq!(t.that_count().count(), 4);
    }

    #[test]
    fn a_dependency_leads_where_no_frame_is_the_users_and_plumbing_where_nothing_else_is() {
        let t = traceback(vec![frame("alloc::vec::push", VEC, 9), frame("bytes::new", BYTES, 8)]);
        assert_eq!(functions(&t), ["bytes::new"]);
        assert_eq!(t.via(), None);
        let t = traceback(vec![frame("alloc::vec::push", VEC, 9), frame("std::rt::init", RT, 8)]);
        assert_eq!(functions(&t), ["std::rt::init"]);
        let t = traceback(vec![frame("alloc::vec::push", VEC, 9)]);
        assert_eq!(functions(&t), ["alloc::vec::push"]);
        assert_eq!(traceback(Vec::new()).to_string(), "<unknown>");
    }

    #[test]
    fn the_allocators_own_frames_are_left_out_unless_there_are_no_others() {
        let own = frame("birthmark::hook::alloc", concat!(env!("CARGO_MANIFEST_DIR"), "/src/hook.rs"), 9);
        let mut shim = frame("__rustc::__rust_alloc", "src/main.rs", 3);
        shim.owner = Owner::Plumbing;
        let kin = frame("birthmark_app::f", "src/main.rs", 4);
        let t = traceback(vec![own.clone(), shim.clone(), frame("alloc::vec::push", VEC, 9), kin.clone()]);
        assert_eq!(t.all_frames().len(), 2);
        assert_eq!(traceback(vec![own.clone(), shim.clone(), kin]).all_frames().len(), 1);
        assert_eq!(traceback(vec![own, shim]).all_frames().len(), 2);
    }

    #[test]
    fn frames_without_names_show_module_and_offset() {
        let mut f = frame("x", "x.rs", 1);
        (f.function, f.file, f.offset) = (None, None, 0x1f0);
        assert_eq!(traceback(vec![f]).to_string(), "app+0x1f0");
    }

    #[test]
    fn stacks_that_read_alike_are_equal_whatever_their_addresses_and_plumbing() {
        let mut a = vec![frame("f", "a.rs", 1), frame("g", "a.rs", 9)];
        let t = traceback(a.clone());
        a[0].offset = 77;
        a.insert(0, frame("alloc::vec::push", VEC, 9));
        assert_eq!(t, traceback(a.clone()));
        a[1].line = 2;
        assert_ne!(t, traceback(a));
    }

    #[test]
    fn what_was_cut_short_is_told_with_both_numbers() {
        let t = |depth| Traceback::new(vec![frame("f", "a.rs", 1)], 5, depth);
        assert_eq!(t(Depth::Exactly(12)).shortened().unwrap(), "5 of 12 frames kept");
        assert_eq!(t(Depth::MoreThan(256)).shortened().unwrap(), "5 of more than 256 frames kept");
        assert_eq!(t(Depth::Exactly(5)).shortened(), None);
    }

    #[test]
    fn the_last_parts_of_a_function_keep_their_arguments() {
        for (function, parts) in [
            ("bytes::bytes_mut::BytesMut::put_slice", "BytesMut::put_slice"),
            ("main", "main"),
            ("a::b", "a::b"),
            ("serde::de::Map<K, std::vec::Vec<V>>::insert", "Map<K, std::vec::Vec<V>>::insert"),
            ("a::b::<fn() -> x::Y>::c", "<fn() -> x::Y>::c"),
            ("<bytes::BytesMut<u8> as bytes::Buf>::put", "BytesMut<u8>::put"),
            ("<bytes::BytesMut>::put", "<bytes::BytesMut>::put"),
        ] {
            assert_eq!(last_parts(function), parts);
        }
    }
}
