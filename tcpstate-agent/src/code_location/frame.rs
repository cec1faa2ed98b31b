//! A place in code, whatever the language, and whose code it is.

use serde::{Deserialize, Serialize};

use super::native::NativeFrame;

/// A place in code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// The function, where that is known.
    pub function: Option<String>,
    /// The file of the source, where that is known.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// Whether the compiler put the function into the one that follows.
    pub inlined: bool,
    /// The path of the program or library, as the process sees it; none for interpreted code and
    /// for code that was made while it ran.
    pub module: Option<String>,
    /// The address in that file, or in the process where there is no file.
    pub offset: Option<u64>,
    /// Whether it is the program's own code, and not a library's or a runtime's, as far as that can
    /// be told by its path and its name.
    pub own: bool,
}

impl From<NativeFrame> for Frame {
    fn from(frame: NativeFrame) -> Self {
        let NativeFrame {
            function,
            source,
            line,
            is_inlined,
            module,
            offset,
        } = frame;
        let own = is_own(function.as_deref(), source.as_deref(), &module);
        Self {
            function,
            file: source,
            line,
            inlined: is_inlined,
            own,
            module: (!module.is_empty()).then_some(module),
            offset: Some(offset),
        }
    }
}

impl Frame {
    /// A line of Python.
    #[must_use]
    pub fn python(function: String, file: String, line: Option<u32>) -> Self {
        let own = !is_library_of_python(&file);
        Self {
            function: Some(function),
            file: Some(file),
            line,
            inlined: false,
            module: None,
            offset: None,
            own,
        }
    }

    /// `handle_leak (leak.c:18)`, or what there is of it.
    #[must_use]
    pub fn text(&self) -> String {
        let name = match &self.function {
            Some(function) => function.clone(),
            None => self.place_in_module(),
        };
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{name} ({}:{line})", base_name(file)),
            (Some(file), None) => format!("{name} ({})", base_name(file)),
            (None, _) if self.function.is_none() => name,
            (None, _) => match &self.module {
                Some(module) => format!("{name} ({})", base_name(module)),
                None => name,
            },
        }
    }

    fn place_in_module(&self) -> String {
        let offset = self.offset.unwrap_or(0);
        match &self.module {
            Some(module) => format!("{}+{offset:#x}", base_name(module)),
            None => format!("{offset:#x}"),
        }
    }
}

/// The functions of the program's own code that called each other, on one line: `a (x.c:1) <
/// b (x.c:9)`. All of them where none is known to be its own.
#[must_use]
pub fn own_chain(frames: &[Frame], most: usize) -> String {
    let own: Vec<&Frame> = frames.iter().filter(|frame| frame.own).collect();
    let shown = if own.is_empty() {
        frames
            .iter()
            .take(most)
            .map(Frame::text)
            .collect::<Vec<_>>()
    } else {
        own.into_iter().take(most).map(Frame::text).collect()
    };
    shown.join(" < ")
}

/// The last part of a path; of one of Rust's `mod.rs`, `main.rs` and the like too: the line is
/// beside it.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Folders of libraries that a distribution brings along.
const LIBRARY_FOLDERS: [&str; 4] = ["/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/"];
/// Where sources of languages' own libraries and of others' packages lie.
const LIBRARY_SOURCES: [&str; 9] = [
    "/rustc/",
    "/.cargo/registry/",
    "/cargo/registry/",
    "/rustlib/src/",
    "/usr/local/go/src/",
    "/usr/lib/go",
    "/pkg/mod/",
    "/usr/include/c++/",
    "glibc",
];
/// How the names of languages' own libraries and runtimes begin.
const LIBRARY_NAMES: [&str; 25] = [
    "std::",
    "core::",
    "alloc::",
    "tokio::",
    "mio::",
    "hashbrown::",
    "__rust",
    "runtime.",
    "runtime/",
    "net.",
    "io.",
    "syscall.",
    "internal/",
    "bufio.",
    "crypto/tls.",
    "net/http.",
    "database/sql.",
    "java.",
    "jdk.",
    "sun.",
    "__gnu",
    "__libc",
    "_start",
    "boost::",
    "__GI_",
];

fn is_own(function: Option<&str>, source: Option<&str>, module: &str) -> bool {
    // Nothing is known of it.
    if function.is_none() && module.is_empty() {
        return false;
    }
    let is_library = LIBRARY_FOLDERS
        .iter()
        .any(|folder| module.starts_with(folder))
        || module.starts_with('[');
    let is_library_source =
        source.is_some_and(|source| LIBRARY_SOURCES.iter().any(|folder| source.contains(folder)));
    let is_library_name = function.is_some_and(|function| {
        let name = judged_part(function, module);
        LIBRARY_NAMES
            .iter()
            .any(|beginning| name.starts_with(beginning))
    });
    !is_library && !is_library_source && !is_library_name
}

/// The part of a function's name that says whose it is.
fn judged_part<'a>(function: &'a str, module: &str) -> &'a str {
    // What was made while the program ran: Java writes what a function returns before it, and what
    // it takes behind it.
    if module.is_empty() {
        let name = function.split('(').next().unwrap_or(function);
        return name.rsplit(' ').next().unwrap_or(name);
    }
    // `<shop::Body as std::io::Read>::read` is the shop's, whose trait it implements.
    let mut name = function;
    while let Some(inner) = ["<", "&", "*const ", "*mut ", "mut ", "dyn "]
        .iter()
        .find_map(|before| name.strip_prefix(before))
    {
        name = inner;
    }
    name
}

fn is_library_of_python(file: &str) -> bool {
    file.starts_with('<')
        || [
            "/site-packages/",
            "/dist-packages/",
            "/lib/python",
            "/lib64/python",
        ]
        .iter()
        .any(|folder| file.contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(function: &str, source: Option<(&str, u32)>, module: &str) -> Frame {
        NativeFrame {
            function: (!function.is_empty()).then(|| function.to_owned()),
            source: source.map(|(file, _)| file.to_owned()),
            line: source.map(|(_, line)| line),
            is_inlined: false,
            module: module.to_owned(),
            offset: 0x1234,
        }
        .into()
    }

    #[test]
    fn a_place_is_named_by_what_is_known_of_it() {
        for (frame, text) in [
            (native("f", Some(("/src/a.c", 7)), "/app"), "f (a.c:7)"),
            (native("f", None, "/bin/app"), "f (app)"),
            (native("", None, "/bin/app"), "app+0x1234"),
            (native("", None, ""), "0x1234"),
            (native("Leak.read", None, ""), "Leak.read"),
            (
                Frame::python("query".into(), "/srv/fifty.py".into(), Some(8)),
                "query (fifty.py:8)",
            ),
        ] {
            assert_eq!(frame.text(), text);
        }
    }

    #[test]
    fn a_chain_leaves_out_what_a_library_does() {
        let frames = [
            native("recv", None, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            native("read_all", Some(("leak.c", 3)), "/app"),
            native("std::io::Read::read", Some(("/rustc/1/io.rs", 1)), "/app"),
            native("net.(*conn).Read", None, "/app"),
            native("handle", Some(("leak.c", 9)), "/app"),
        ];
        assert_eq!(
            own_chain(&frames, 3),
            "read_all (leak.c:3) < handle (leak.c:9)"
        );
        assert_eq!(own_chain(&frames[..1], 3), "recv (libc.so.6)");
    }

    #[test]
    fn a_function_is_whose_type_it_is_of_and_not_whose_trait() {
        for (function, module, own) in [
            ("<shop::Body as std::io::Read>::read", "/app", true),
            (
                "<std::net::TcpStream as std::io::Read>::read",
                "/app",
                false,
            ),
            (
                "<&std::net::TcpStream as std::io::Read>::read",
                "/app",
                false,
            ),
            (
                "<&mut std::net::TcpStream as shop::Fill>::fill",
                "/app",
                false,
            ),
            ("<tokio::net::TcpStream as shop::Fill>::fill", "/app", false),
            ("shop::Handler<std::net::TcpStream>::serve", "/app", true),
            ("operator new(unsigned long)", "/app", true),
            // Only Java has what is returned before the name.
            ("shop::convert to std::string", "/app", true),
            ("java.lang.String Leak.read(int)", "", true),
            ("int java.net.SocketInputStream.read(byte[])", "", false),
        ] {
            assert_eq!(native(function, None, module).own, own, "{function}");
        }
    }

    #[test]
    fn libraries_of_python_are_told_by_their_folders() {
        for (file, own) in [
            ("/srv/app.py", true),
            ("/usr/lib/python3.11/socket.py", false),
            ("/venv/lib/python3.12/site-packages/x.py", false),
            ("<frozen importlib._bootstrap>", false),
        ] {
            let frame = Frame::python("f".into(), file.into(), None);
            assert_eq!(frame.own, own, "{file}");
        }
    }
}
