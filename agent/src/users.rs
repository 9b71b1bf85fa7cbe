//! Who a process runs as: Docker's `-u` text looked up in the image's /etc/passwd and /etc/group. The texts come from
//! the image, so they are read with bounds; the rules are Docker's (names before numbers, numbers need no entry).

use crate::error::{Error, Result};
use crate::spec;
use std::collections::HashSet;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_ID: u32 = i32::MAX as u32;
const MAX_GROUPS: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, _, uid, gid) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let home = parts.nth(1).unwrap_or("");
        (!name.is_empty()).then_some(())?;
        Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, _, gid) = (parts.next()?, parts.next()?, parts.next()?);
        (!name.is_empty()).then_some(())?;
        Some((name, gid.parse().ok()?, parts.next().unwrap_or("")))
    })
}

fn number(text: &str, what: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(Error::InvalidArgument(format!("{what} {text} must be in range 0-{MAX_ID}"))),
    }
}

/// The identity that `user` means in an image with these two files.
pub fn resolve(user: &spec::User, passwd_text: &str, group_text: &str) -> Result<Identity> {
    let username = user.username.as_deref().unwrap_or("");
    let mut found = if username.is_empty() {
        let home = passwd(passwd_text).find(|e| e.uid == user.uid).map_or("", |e| e.home);
        Identity { uid: user.uid, gid: user.gid, groups: Vec::new(), home: home.to_string() }
    } else {
        by_text(username, passwd_text, group_text)?
    };
    // The primary group is one of the supplementary ones, too: without it a program could gain what a file denies to its
    // own group by dropping it (CVE-2022-36109).
    if !found.groups.contains(&found.gid) {
        found.groups.insert(0, found.gid);
    }
    found.groups.extend(user.additional_gids.iter().filter(|g| !found.groups.contains(g)).copied().collect::<Vec<_>>());
    for wanted in &user.additional_groups {
        let group = group_by_text(wanted, group_text)?;
        if !found.groups.contains(&group) {
            found.groups.push(group);
        }
    }
    if found.groups.len() > MAX_GROUPS {
        return Err(Error::InvalidArgument("a process cannot have more than 65536 groups".into()));
    }
    if found.home.is_empty() {
        found.home = "/".into();
    }
    Ok(found)
}

/// A group by its name or number; a number needs no entry.
fn group_by_text(text: &str, group_text: &str) -> Result<u32> {
    let named = groups(group_text).find(|(name, _, _)| *name == text).map(|group| group.1);
    match named {
        Some(id) => Ok(id),
        None => number(text, "gid")?.ok_or_else(|| {
            Error::InvalidArgument(format!("Unable to find group {text}: no matching entries in group file"))
        }),
    }
}

fn by_text(text: &str, passwd_text: &str, group_text: &str) -> Result<Identity> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let wanted = if user.is_empty() { "0" } else { user };
    let as_number = number(wanted, "uid")?;
    let entry = passwd(passwd_text)
        .find(|e| e.name == wanted)
        .or_else(|| as_number.and_then(|id| passwd(passwd_text).find(|e| e.uid == id)));
    let (uid, mut gid, home) = match (&entry, as_number) {
        (Some(e), _) => (e.uid, e.gid, e.home.to_string()),
        (None, Some(id)) => (id, 0, String::new()),
        (None, None) => {
            return Err(Error::InvalidArgument(format!(
                "unable to find user {wanted}: no matching entries in passwd file"
            )))
        }
    };
    let (mut extra, mut seen) = (Vec::new(), HashSet::new());
    match (group, &entry) {
        (Some(group), _) => {
            let as_number = number(group, "gid")?;
            let entry = groups(group_text)
                .find(|(name, _, _)| *name == group)
                .or_else(|| as_number.and_then(|id| groups(group_text).find(|g| g.1 == id)));
            gid = entry.map(|g| g.1).or(as_number).ok_or_else(|| {
                Error::InvalidArgument(format!("unable to find group {group}: no matching entries in group file"))
            })?;
        }
        (None, Some(e)) => {
            for (_, id, members) in groups(group_text) {
                if members.split(',').any(|m| m == e.name) && seen.insert(id) {
                    extra.push(id);
                }
            }
        }
        (None, None) => {}
    }
    Ok(Identity { uid, gid, groups: extra, home })
}

/// Looks `user` up in the root file system this process stands in.
pub fn resolve_here(user: &spec::User) -> Result<Identity> {
    resolve(user, &read_here("/etc/passwd"), &read_here("/etc/group"))
}

/// A missing, special or unreadable file is an empty one, as for Docker; a huge one is cut.
fn read_here(path: &str) -> String {
    // The file is the image's: opening a FIFO must not wait for a writer, a terminal must not become this session's.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let Ok(file) = file else { return String::new() };
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no entry\nbroken:x\nwww:x:33:34:www:/var/www:/bin/false\n77:x:500:501::/home/digits:\nnohome:x:9:9\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,www\nstaff:x:50:www\nother:x:51:wwwx\n";

    fn user(text: &str) -> Result<Identity> {
        resolve(&spec::User { username: Some(text.into()), ..Default::default() }, PASSWD, GROUP)
    }

    fn is(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity> {
        Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn a_name_brings_its_group_supplementary_groups_and_home() {
        assert_eq!(user("www"), is(33, 34, &[34, 10, 50], "/var/www"));
        assert_eq!(user("0"), is(0, 0, &[0, 10], "/root"));
        assert_eq!(user("nohome"), is(9, 9, &[9], "/"));
    }

    #[test]
    fn an_explicit_group_leaves_out_the_supplementary_ones() {
        assert_eq!(user("www:staff"), is(33, 50, &[50], "/var/www"));
        assert_eq!(user("1000:staff"), is(1000, 50, &[50], "/"));
        assert_eq!(user("1000:1234"), is(1000, 1234, &[1234], "/"));
        assert_eq!(user(":staff"), is(0, 50, &[50], "/root"));
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_of_digits_wins() {
        assert_eq!(user("1000"), is(1000, 0, &[0], "/"));
        assert_eq!(user("77"), is(500, 501, &[501], "/home/digits"));
    }

    #[test]
    fn what_cannot_be_found_says_so_in_dockers_words() {
        let text = |r: Result<Identity>| r.map_err(|e| e.message().to_string());
        assert_eq!(text(user("foo")), Err("unable to find user foo: no matching entries in passwd file".into()));
        assert_eq!(text(user("www:bar")), Err("unable to find group bar: no matching entries in group file".into()));
        assert!(user("99999999999").is_err());
        assert!(user("4294967295").is_err());
    }

    #[test]
    fn additional_groups_are_names_and_numbers() {
        let more = |groups: &[&str]| {
            let additional_groups = groups.iter().map(|g| g.to_string()).collect();
            let user = spec::User { username: Some("1000".into()), additional_groups, ..Default::default() };
            resolve(&user, PASSWD, GROUP)
        };
        assert_eq!(more(&["staff", "77", "50", "0"]), is(1000, 0, &[0, 50, 77], "/"));
        let said = more(&["nobodys"]).map_err(|e| e.message().to_string());
        assert_eq!(said, Err("Unable to find group nobodys: no matching entries in group file".into()));
        assert!(more(&["99999999999"]).is_err());
    }

    #[test]
    fn numbers_of_the_spec_are_taken_as_they_are() {
        let plain = spec::User { uid: 33, gid: 5, additional_gids: vec![7], ..Default::default() };
        assert_eq!(resolve(&plain, PASSWD, GROUP), is(33, 5, &[5, 7], "/var/www"));
        let both = spec::User { username: Some("www".into()), additional_gids: vec![7, 50], ..Default::default() };
        assert_eq!(resolve(&both, PASSWD, GROUP), is(33, 34, &[34, 10, 50, 7], "/var/www"));
    }
}
