//! The sandbox's network interfaces by route netlink: found by MAC address, named, addressed, routed.
//! Source: rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h.

use crate::error::{describe, Context, Error, Result};
use crate::messages::Interface;
use crate::sys;
use serde_json::{json, Map, Value};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const INTERFACE_DEADLINE: Duration = Duration::from_secs(2);
/// A container with NET_ADMIN can make any number of interfaces; an answer must fit one message.
const MAX_COUNTED: usize = 256;
const CREATE_OR_REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        while self.0.len() % 4 != 0 {
            self.0.push(0);
        }
        self
    }

    /// Sends it and waits for the kernel's answer.
    fn send(mut self, socket: &OwnedFd) -> io::Result<()> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        sys::write(socket, &self.0)?;
        let mut answer = [0u8; 4096];
        loop {
            let n = sys::read(socket, &mut answer)?;
            if n < 20 {
                return Err(io::Error::from_raw_os_error(libc::EBADMSG));
            }
            let kind = u16::from_ne_bytes([answer[4], answer[5]]);
            if i32::from(kind) == libc::NLMSG_ERROR {
                let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }
}

/// An `ifinfomsg` that changes the interface `index`.
fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

fn set_up(socket: &OwnedFd, index: u32, up: bool) -> io::Result<()> {
    let flag = libc::IFF_UP as u32;
    Message::new(libc::RTM_NEWLINK, 0, &link_body(index, if up { flag } else { 0 }, flag)).send(socket)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

/// "172.29.0.2/16" as address and prefix length.
fn parse_prefix(text: &str) -> Result<(IpAddr, u8)> {
    let bad = || Error::InvalidArgument(format!("{text:?} is no address with a prefix length, like 172.29.0.2/16"));
    let (address, length) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    if length > if address.is_ipv4() { 32 } else { 128 } {
        return Err(bad());
    }
    Ok((address, length))
}

fn index_of(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

fn find_by_mac(mac: &str) -> Option<(String, u32)> {
    for entry in fs::read_dir("/sys/class/net").ok()?.flatten() {
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if address.trim().eq_ignore_ascii_case(mac) {
            let name = entry.file_name().to_string_lossy().into_owned();
            return index_of(&name).map(|index| (name, index));
        }
    }
    None
}

pub fn loopback_up() -> Result<()> {
    let socket = sys::route_socket().context(|| "cannot open a netlink socket".into())?;
    let index = index_of("lo").ok_or_else(|| Error::Internal("there is no lo".into()))?;
    set_up(&socket, index, true).context(|| "cannot set lo up".into())
}

/// Waits for the interface and sets what the request names.
pub fn configure(wanted: &Interface) -> Result<()> {
    let began = Instant::now();
    let (name, index) = loop {
        match find_by_mac(&wanted.mac) {
            Some(found) => break found,
            None if began.elapsed() > INTERFACE_DEADLINE => {
                return Err(Error::NotFound(format!("no network interface has the address {} after 2 s", wanted.mac)))
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let socket = sys::route_socket().context(|| "cannot open a netlink socket".into())?;
    let failed = |what: String| move |e: io::Error| Error::Internal(format!("{what}: {}", describe(&e)));
    if name != wanted.name {
        let good = !wanted.name.is_empty() && wanted.name.len() < 16 && !wanted.name.contains(['/', ' ', ':', '\0']);
        if !good {
            return Err(Error::InvalidArgument(format!("{:?} is no interface name", wanted.name)));
        }
        let text = [wanted.name.as_bytes(), b"\0"].concat();
        set_up(&socket, index, false)
            .and_then(|()| {
                Message::new(libc::RTM_NEWLINK, 0, &link_body(index, 0, 0))
                    .attribute(libc::IFLA_IFNAME, &text)
                    .send(&socket)
            })
            .map_err(failed(format!("cannot name {name} {}", wanted.name)))?;
    }
    if let Some(mtu) = wanted.mtu {
        Message::new(libc::RTM_NEWLINK, 0, &link_body(index, 0, 0))
            .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
            .send(&socket)
            .map_err(failed(format!("cannot set the MTU of {} to {mtu}", wanted.name)))?;
    }
    set_up(&socket, index, true).map_err(failed(format!("cannot set {} up", wanted.name)))?;
    for text in &wanted.addresses {
        let (address, length) = parse_prefix(text)?;
        const IFA_F_NODAD: u8 = 2;
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut body = vec![family(address), length, flags, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        Message::new(libc::RTM_NEWADDR, CREATE_OR_REPLACE, &body)
            .attribute(libc::IFA_LOCAL, &octets(address))
            .attribute(libc::IFA_ADDRESS, &octets(address))
            .send(&socket)
            .map_err(failed(format!("cannot give {} the address {text}", wanted.name)))?;
    }
    for route in &wanted.routes {
        add_route(&socket, index, &route.to, route.via.as_deref())?;
    }
    Ok(())
}

fn add_route(socket: &OwnedFd, index: u32, to: &str, via: Option<&str>) -> Result<()> {
    let bad = |text: &str| Error::InvalidArgument(format!("{text:?} is no address"));
    let via: Option<IpAddr> = via.map(|text| text.parse().map_err(|_| bad(text))).transpose()?;
    let target = if to == "default" { None } else { Some(parse_prefix(to)?) };
    let family = target.map(|t| family(t.0)).or(via.map(family)).unwrap_or(libc::AF_INET as u8);
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    const LINK_SCOPE: u8 = 253;
    let scope = if via.is_some() { 0 } else { LINK_SCOPE };
    let body = [family, target.map_or(0, |t| t.1), 0, 0, MAIN, STATIC, scope, UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE_OR_REPLACE, &body);
    if let Some((address, _)) = target {
        message = message.attribute(libc::RTA_DST, &octets(address));
    }
    if let Some(via) = via {
        message = message.attribute(libc::RTA_GATEWAY, &octets(via));
    }
    message
        .attribute(libc::RTA_OIF, &index.to_ne_bytes())
        .send(socket)
        .map_err(|e| Error::InvalidArgument(format!("cannot add the route to {to}: {}", describe(&e))))
}

/// Counters of every interface but `lo`, as `container.stats` gives them.
pub fn counters() -> Value {
    let mut out = Map::new();
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten().take(MAX_COUNTED) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "lo" {
            continue;
        }
        let mut numbers = Map::new();
        for direction in ["rx", "tx"] {
            for what in ["bytes", "packets", "errors", "dropped"] {
                let key = format!("{direction}_{what}");
                let text = fs::read_to_string(entry.path().join("statistics").join(&key)).unwrap_or_default();
                numbers.insert(key, json!(text.trim().parse::<u64>().unwrap_or(0)));
            }
        }
        out.insert(name, Value::Object(numbers));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_checked() {
        assert_eq!(parse_prefix("172.29.0.2/16"), Ok((IpAddr::from([172, 29, 0, 2]), 16)));
        assert_eq!(parse_prefix("fd00::2/64").map(|p| p.1), Ok(64));
        for bad in ["172.29.0.2", "172.29.0.2/33", "x/8", "172.29.0.2/-1", "::1/129", ""] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let message = Message::new(libc::RTM_NEWLINK, 0, &link_body(7, 1, 1)).attribute(libc::IFLA_IFNAME, b"eth0\0");
        assert_eq!(message.0.len(), 16 + 16 + 12);
        assert_eq!(&message.0[32..36], &[9, 0, 3, 0]);
    }
}
