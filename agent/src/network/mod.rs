//! The sandbox's network: which of the VM's cards are in it, under which names and addresses (docs/agent-protocol.md
//! section 5.1). A card that nobody asked for is *parked*: it is taken from its driver, so that there is no interface
//! which anybody could see or use, whatever capabilities a container has. Giving it back to the driver takes 2 ms under
//! emulation; moving it from another network namespace took 14 to 28, waiting for the kernel, and left a number in the
//! sandbox's namespace by which CAP_NET_ADMIN reaches the other one. `netlink` speaks with the kernel.

mod netlink;

use crate::error::{describe, Context, Error, Result};
use crate::messages::{Interface, Route};
use netlink::{Card, Message, Socket};
use serde_json::{json, Map, Value};
use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

/// A container with NET_ADMIN can make any number of interfaces; an answer must fit one message.
const MAX_COUNTED: usize = 256;
/// The kernel puts a number in place of `%d`.
const SPARE_NAME: &str = "card%d";
const CREATE_OR_REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// A card's device, and the driver that has it when it is not parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    name: String,
    driver: PathBuf,
}

impl Device {
    /// None for what hangs on no driver.
    fn of(card: &Card) -> Option<Self> {
        let device = fs::canonicalize(format!("/sys/class/net/{}/device", card.name)).ok()?;
        let driver = fs::canonicalize(device.join("driver")).ok()?;
        Some(Device { name: device.file_name()?.to_string_lossy().into_owned(), driver })
    }

    /// Takes it from its driver. The kernel waits here until nobody looks at the interface any more: a job's work.
    pub fn park(&self) -> Result<()> {
        fs::write(self.driver.join("unbind"), &self.name).context(|| format!("cannot park the card {}", self.name))
    }

    fn is_parked(&self) -> bool {
        !self.driver.join(&self.name).exists() && self.driver.join("../../devices").join(&self.name).exists()
    }

    fn give_back(&self) -> Result<()> {
        fs::write(self.driver.join("bind"), &self.name).context(|| format!("cannot bring back the card {}", self.name))
    }
}

#[derive(Default)]
pub struct Network {
    socket: Option<Socket>,
    parked: Vec<Device>,
    /// What was set up, by the interface's index.
    applied: HashMap<u32, Interface>,
}

/// How far a configuration has come.
pub enum Progress {
    Done,
    /// There are not yet as many cards; nothing is changed.
    TooFew,
    /// These have to be parked by a job first, then it is to be tried again.
    Park(Vec<Device>),
    /// It is done when these are parked.
    ParkLast(Vec<Device>),
}

/// Everything about a list of interfaces that can be wrong, before anything is changed.
pub fn check(wanted: &[Interface]) -> Result<()> {
    for (at, interface) in wanted.iter().enumerate() {
        let name = &interface.name;
        let bad_letter = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
        if name.is_empty() || name.len() > 15 || name.contains(bad_letter) || matches!(name.as_str(), "." | ".." | "lo")
        {
            return Err(Error::InvalidArgument(format!("{name:?} is no interface name")));
        }
        let mac = parse_mac(&interface.mac)?;
        for other in &wanted[..at] {
            if other.name == *name || parse_mac(&other.mac)? == mac {
                return Err(Error::InvalidArgument(format!("two interfaces have the name {name} or its address")));
            }
        }
        interface.addresses.iter().try_for_each(|text| parse_prefix(text).map(|_| ()))?;
        interface.routes.iter().try_for_each(|route| Target::of(route).map(|_| ()))?;
    }
    Ok(())
}

pub fn loopback_up() -> Result<()> {
    const LOOPBACK_INDEX: u32 = 1;
    let up = libc::IFF_UP as u32;
    let started = Socket::open().and_then(|mut socket| socket.request(Message::link(LOOPBACK_INDEX, up, up)));
    started.context(|| "cannot set lo up".into())
}

impl Network {
    /// Puts exactly these interfaces into the sandbox's network. What is there as it is wanted is left alone; what is there
    /// otherwise is parked and begins anew.
    pub fn configure(&mut self, wanted: &[Interface]) -> Result<Progress> {
        let here = self.cards()?;
        self.applied.retain(|index, _| here.iter().any(|card| card.index == *index));
        let settled = |card: &Card| {
            let applied = self.applied.get(&card.index).filter(|applied| wanted.contains(applied))?;
            (card.up && card.name == applied.name).then(|| applied.clone())
        };
        let kept: Vec<(u32, Interface)> = here.iter().filter_map(|c| Some((c.index, settled(c)?))).collect();
        let free: Vec<Card> = here.into_iter().filter(|c| kept.iter().all(|(index, _)| *index != c.index)).collect();
        let open: Vec<&Interface> = wanted.iter().filter(|w| kept.iter().all(|(_, applied)| applied != *w)).collect();
        if open.is_empty() {
            let idle = devices(&free);
            return Ok(if idle.is_empty() { Progress::Done } else { Progress::ParkLast(idle) });
        }
        // Nothing of an earlier use stays.
        let used: Vec<Card> =
            free.iter().filter(|card| card.up || self.applied.contains_key(&card.index)).cloned().collect();
        if !used.is_empty() {
            return Ok(Progress::Park(devices(&used)));
        }
        if free.len() + self.parked.len() < open.len() {
            return Ok(Progress::TooFew);
        }
        let found = |interface: &&Interface| free.iter().any(|card| interface.mac.eq_ignore_ascii_case(&card.mac));
        let free = if open.iter().all(found) || self.parked.is_empty() {
            free
        } else {
            self.give_back()?;
            self.cards()?.into_iter().filter(|c| kept.iter().all(|(index, _)| *index != c.index)).collect()
        };
        let Some(claims) = claim(&open, &free) else { return Ok(Progress::TooFew) };
        let claimed = |card: &&Card| claims.iter().any(|(_, claimed)| claimed.index == card.index);
        let idle = devices(&free.iter().filter(|card| !claimed(card)).cloned().collect::<Vec<_>>());
        for card in &free {
            // Another card may have the name still that one of these is to have.
            let stays = claims.iter().any(|(wanted, claimed)| claimed.index == card.index && card.name == wanted.name);
            if !stays && wanted.iter().any(|wanted| wanted.name == card.name) {
                let message = Message::link(card.index, 0, 0).name(SPARE_NAME);
                self.socket()?.request(message).context(|| format!("cannot rename {}", card.name))?;
            }
        }
        claims.iter().try_for_each(|(wanted, card)| self.set_up(wanted, card))?;
        Ok(if idle.is_empty() { Progress::Done } else { Progress::ParkLast(idle) })
    }

    /// A job has taken these from their drivers.
    pub fn parked(&mut self, devices: Vec<Device>) {
        self.parked.extend(devices);
    }

    /// All of them: what address a card has is only known when it has its driver.
    fn give_back(&mut self) -> Result<()> {
        while let Some(device) = self.parked.last() {
            match device.give_back() {
                Err(error) if device.is_parked() => return Err(error),
                // It has its driver, or was pulled out meanwhile.
                _ => self.parked.pop(),
            };
        }
        Ok(())
    }

    fn socket(&mut self) -> Result<&mut Socket> {
        if self.socket.is_none() {
            self.socket = Some(Socket::open().context(|| "cannot open a netlink socket".into())?);
        }
        self.socket.as_mut().ok_or_else(|| Error::Internal("there is no netlink socket".into()))
    }

    fn cards(&mut self) -> Result<Vec<Card>> {
        self.socket()?.cards().context(|| "cannot list the network cards".into())
    }

    fn set_up(&mut self, wanted: &Interface, card: &Card) -> Result<()> {
        let (name, index, up) = (&wanted.name, card.index, libc::IFF_UP as u32);
        let mut message = Message::link(index, up, up).name(name);
        if !wanted.mac.eq_ignore_ascii_case(&card.mac) {
            message = message.attribute(libc::IFLA_ADDRESS, &parse_mac(&wanted.mac)?);
        }
        if let Some(mtu) = wanted.mtu {
            message = message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        let socket = self.socket()?;
        socket.request(message).context(|| format!("cannot set up {name}"))?;
        wanted.addresses.iter().try_for_each(|text| add_address(socket, index, name, text))?;
        wanted.routes.iter().try_for_each(|route| add_route(socket, index, route))?;
        self.applied.insert(index, wanted.clone());
        Ok(())
    }
}

fn devices(cards: &[Card]) -> Vec<Device> {
    cards.iter().filter_map(Device::of).collect()
}

/// A card for each interface: by address, else the first that is left. None when there are too few.
fn claim<'a>(open: &[&'a Interface], cards: &[Card]) -> Option<Vec<(&'a Interface, Card)>> {
    let mut left: Vec<&Card> = cards.iter().collect();
    let by_address = |wanted: &&Interface| {
        let at = left.iter().position(|card| wanted.mac.eq_ignore_ascii_case(&card.mac))?;
        Some(left.remove(at))
    };
    let taken: Vec<Option<&Card>> = open.iter().map(by_address).collect();
    let mut left = left.into_iter();
    open.iter().zip(taken).map(|(wanted, card)| Some((*wanted, card.or_else(|| left.next())?.clone()))).collect()
}

fn parse_mac(text: &str) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = text
        .split(':')
        .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    if text.len() == 17 && bytes.len() == 6 {
        return Ok(bytes);
    }
    Err(Error::InvalidArgument(format!("{text:?} is no MAC address, like 02:00:00:00:00:01")))
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

fn add_address(socket: &mut Socket, index: u32, name: &str, text: &str) -> Result<()> {
    const IFA_F_NODAD: u8 = 2;
    let (address, length) = parse_prefix(text)?;
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut body = vec![family(address), length, flags, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    let message = Message::new(libc::RTM_NEWADDR, CREATE_OR_REPLACE, &body)
        .attribute(libc::IFA_LOCAL, &octets(address))
        .attribute(libc::IFA_ADDRESS, &octets(address));
    socket.request(message).context(|| format!("cannot give {name} the address {text}"))
}

/// Where a route leads: a prefix (none is everything) and a gateway.
struct Target {
    prefix: Option<(IpAddr, u8)>,
    via: Option<IpAddr>,
}

impl Target {
    fn of(route: &Route) -> Result<Self> {
        let bad = |text: &str| Error::InvalidArgument(format!("{text:?} is no address"));
        let via = route.via.as_deref().map(|text| text.parse().map_err(|_| bad(text))).transpose()?;
        let prefix = if route.to == "default" { None } else { Some(parse_prefix(&route.to)?) };
        Ok(Target { prefix, via })
    }
}

fn add_route(socket: &mut Socket, index: u32, route: &Route) -> Result<()> {
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    const LINK_SCOPE: u8 = 253;
    let Target { prefix, via } = Target::of(route)?;
    let family = prefix.map(|p| family(p.0)).or(via.map(family)).unwrap_or(libc::AF_INET as u8);
    let scope = if via.is_some() { 0 } else { LINK_SCOPE };
    let body = [family, prefix.map_or(0, |p| p.1), 0, 0, MAIN, STATIC, scope, UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE_OR_REPLACE, &body);
    if let Some((address, _)) = prefix {
        message = message.attribute(libc::RTA_DST, &octets(address));
    }
    if let Some(via) = via {
        message = message.attribute(libc::RTA_GATEWAY, &octets(via));
    }
    socket
        .request(message.attribute(libc::RTA_OIF, &index.to_ne_bytes()))
        .map_err(|e| Error::InvalidArgument(format!("cannot add the route to {}: {}", route.to, describe(&e))))
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

    fn interface(mac: &str, name: &str) -> Interface {
        Interface { mac: mac.into(), name: name.into(), mtu: None, addresses: vec![], routes: vec![] }
    }

    fn card(index: u32, mac: &str) -> Card {
        Card { index, name: format!("eth{index}"), mac: mac.into(), up: false }
    }

    #[test]
    fn prefixes_are_read_and_checked() {
        assert_eq!(parse_prefix("172.29.0.2/16"), Ok((IpAddr::from([172, 29, 0, 2]), 16)));
        assert_eq!(parse_prefix("fd00::2/64").map(|p| p.1), Ok(64));
        for bad in ["172.29.0.2", "172.29.0.2/33", "x/8", "172.29.0.2/-1", "::1/129", ""] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_cards_are_read_and_checked() {
        assert_eq!(parse_mac("02:00:aA:00:00:ff"), Ok(vec![2, 0, 0xaa, 0, 0, 0xff]));
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:0", "02:00:00:00:00:0g", "02:00:00:00:00:+1", "02-00-00-00-00-01"]
        {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_refused_before_anything_is_changed() {
        let good = interface("02:00:00:00:00:01", "eth0");
        assert_eq!(check(&[good.clone(), interface("02:00:00:00:00:02", "eth1")]), Ok(()));
        for name in ["", "lo", "..", "a/b", "eth%d", "sixteen-letters-"] {
            assert!(check(&[interface("02:00:00:00:00:01", name)]).is_err(), "{name}");
        }
        assert!(check(&[good.clone(), interface("02:00:00:00:00:02", "eth0")]).is_err());
        assert!(check(&[good.clone(), interface("02:00:00:00:00:01", "eth1")]).is_err());
        let address = Interface { addresses: vec!["10.0.0.1".into()], ..good.clone() };
        let route = Interface { routes: vec![Route { to: "default".into(), via: Some("x".into()) }], ..good };
        assert!(check(&[address]).is_err() && check(&[route]).is_err());
    }

    #[test]
    fn a_card_goes_to_who_names_it_and_else_to_the_first_who_needs_one() {
        let (first, second) = (interface("02:00:00:00:00:09", "eth0"), interface("02:00:00:00:00:0A", "eth1"));
        let cards = [card(2, "02:00:00:00:00:0a"), card(3, "02:00:00:00:00:02"), card(4, "02:00:00:00:00:03")];
        let claimed = |cards: &[Card]| {
            let claims = claim(&[&first, &second], cards)?;
            Some(claims.into_iter().map(|(wanted, card)| (wanted.name.clone(), card.index)).collect::<Vec<_>>())
        };
        assert_eq!(claimed(&cards), Some(vec![("eth0".into(), 3), ("eth1".into(), 2)]));
        assert_eq!(claimed(&cards[1..]), Some(vec![("eth0".into(), 3), ("eth1".into(), 4)]));
        assert_eq!(claimed(&cards[..1]), None);
        assert_eq!(claimed(&[]), None);
    }
}
