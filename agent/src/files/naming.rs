//! Paths as users of `docker cp` write them, by Docker's rules: which name the entries of an archive get, what a slash or a
//! "/." at the end means, and what is told of a path. The texts are bytes of a container's file system.

use crate::error::{describe, Error, Result};
use crate::{paths, sys};
use serde_json::{json, Value};
use std::io;
use std::path::Path;

/// An absolute path without "." and "..", as Go's filepath.Clean makes it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The path from the root, with the slash or "/." at its end that was written.
pub fn absolute(path: &str) -> String {
    let mut out = clean(path);
    if path.trim_end_matches('/').rsplit('/').next() == Some(".") {
        if !out.ends_with('/') {
            out.push('/');
        }
        out.push('.');
    }
    if path.ends_with('/') && !out.ends_with('/') {
        out.push('/');
    }
    out
}

/// The last part, by which the entries of an archive begin.
pub fn base(absolute: &str) -> &str {
    match absolute.trim_end_matches('/') {
        "" => "/",
        text => text.rsplit('/').next().unwrap_or(text),
    }
}

/// The folder that the last part is in.
pub fn folder(absolute: &str) -> &str {
    match absolute.trim_end_matches('/').rfind('/') {
        None | Some(0) => "/",
        Some(at) => &absolute[..at],
    }
}

/// What is at an absolute path, itself if it is a link. In the container's root only.
pub fn look(absolute: &str) -> Result<libc::stat> {
    sys::lstat(absolute.as_bytes()).map_err(|e| refusal("lstat", absolute, &e))
}

/// What stands in a path's way, as a kind of error that tells whether anything is there.
pub fn refusal(what: &str, path: &str, e: &io::Error) -> Error {
    let text = format!("{what} {path}: {}", describe(e));
    match e.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound(text),
        Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM) => Error::ResourceExhausted(text),
        Some(libc::EROFS) => Error::PermissionDenied(text),
        Some(libc::EIO) => Error::Internal(text),
        _ => Error::InvalidArgument(text),
    }
}

/// What `docker cp` wants to know of a path. `mode` is st_mode.
pub fn stat(path: &str) -> Result<Value> {
    let absolute = absolute(path);
    let stat = look(&absolute)?;
    let mut target = String::new();
    if stat.st_mode & libc::S_IFMT == libc::S_IFLNK {
        target = paths::resolve(Path::new("/"), &absolute)?.to_string_lossy().into_owned();
    }
    Ok(json!({
        "name": base(&absolute), "size": stat.st_size, "mode": stat.st_mode,
        "mtime_ns": i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec), "link_target": target,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_keeps_its_meaning() {
        for (path, wanted) in [
            ("/", "/"),
            (".", "/."),
            ("/.", "/."),
            ("./", "/./"),
            ("/./", "/./"),
            ("bar/quux", "/bar/quux"),
            ("bar/quux/", "/bar/quux/"),
            ("bar/quux/.", "/bar/quux/."),
            ("//bar/../../x", "/x"),
            ("a/./b", "/a/b"),
            ("..", "/"),
            ("../", "/"),
        ] {
            assert_eq!(absolute(path), wanted, "{path}");
        }
    }

    #[test]
    fn entries_are_called_as_the_user_called_the_thing() {
        for (path, name) in [("/", "/"), ("/.", "."), ("/./", "."), ("/a/b", "b"), ("/a/b/", "b"), ("/a/b/.", ".")] {
            assert_eq!(base(path), name, "{path}");
        }
        assert_eq!([folder("/a"), folder("/a/b"), folder("/a/b/"), folder("/")], ["/", "/a", "/a", "/"]);
    }
}
