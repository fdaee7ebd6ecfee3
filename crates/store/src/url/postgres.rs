//! PostgreSQL URLs: `postgres://user:password@host:port/database?parameters`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::StoreUrlError;
use super::host::Host;
use super::network::Network;
use super::parameters::{Parameters, decode, encode};
use super::tls::TlsOptions;

const DEFAULT_PORT: u16 = 5432;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const APPLICATION_NAME: &str = "antiphon";

/// A PostgreSQL database, how to reach it and how to log in. Comes from the URL alone, not from the environment or libpq's files.
/// Never shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresTarget {
    pub(crate) host: Host,
    /// Replaces the addresses of the host's name.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) application_name: String,
    /// For resolving, connecting and logging in together.
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    /// Whether a server that can't write is refused.
    pub(crate) must_write: bool,
    pub(crate) tls: TlsOptions,
    pub(crate) network: Network,
}

/// How an idle connection is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

/// The parts of a URL, still percent-encoded.
struct Parts<'a> {
    user: &'a str,
    password: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
    database: &'a str,
    query: &'a str,
}

// === impl PostgresTarget ===

impl PostgresTarget {
    /// Parses what follows `postgres://`.
    pub(super) fn parse(rest: &str, network: Network) -> Result<Self, StoreUrlError> {
        let parts = Parts::split(rest)?;
        let mut parameters = Parameters::parse(parts.query)?;
        let host = one("host", decode(parts.host)?, parameters.take("host"))?;
        let host = Host::parse(&host.ok_or(StoreUrlError::NoHost)?, network)?;
        let port = one("port", parts.port.unwrap_or_default().to_owned(), parameters.take("port"))?;
        let user = one("user", decode(parts.user)?, parameters.take("user"))?;
        let password = match (parts.password.map(decode).transpose()?, parameters.take("password")) {
            (Some(_), Some(_)) => return Err(StoreUrlError::GivenTwice("password")),
            (one, other) => one.or(other),
        };
        let database = one("database", decode(parts.database)?, parameters.take("dbname"))?;
        let address = take_address(&mut parameters, &host, network)?;
        let is_local = address.map_or(host.is_local(), |address| address.to_canonical().is_loopback());
        let target = Self {
            address,
            port: port.map_or(Ok(DEFAULT_PORT), |port| parse_port(&port))?,
            user: user.ok_or(StoreUrlError::NoUser)?,
            password: password.filter(|password| !password.is_empty()),
            database: database.ok_or(StoreUrlError::NoDatabase)?,
            application_name: parameters.take("application_name").unwrap_or(APPLICATION_NAME.to_owned()),
            connect_timeout: take_timeout(&mut parameters)?,
            keepalive: Keepalive::take(&mut parameters)?,
            must_write: take_must_write(&mut parameters)?,
            tls: TlsOptions::take(&mut parameters, &host, is_local)?,
            host,
            network,
        };
        parameters.finish()?;
        Ok(target)
    }

    /// The server's address, if the URL has one: as its host, or as `hostaddr`. Else the host's name is resolved at every
    /// connect, or the server is reached through a socket.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Address(address) => Some(address),
            Host::Name(_) | Host::Socket(_) => self.address,
        }
    }
}

/// Omits user, password and parameters.
impl fmt::Display for PostgresTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}:{}/{}", self.host, self.port, encode(&self.database))
    }
}

impl fmt::Debug for PostgresTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresTarget({self})")
    }
}

/// A value given in its place in the URL or as a parameter. An empty value counts as none.
fn one(
    what: &'static str,
    in_place: String,
    parameter: Option<String>,
) -> Result<Option<String>, StoreUrlError> {
    match (in_place.is_empty(), parameter) {
        (false, Some(_)) => Err(StoreUrlError::GivenTwice(what)),
        (false, None) => Ok(Some(in_place)),
        (true, parameter) => Ok(parameter.filter(|text| !text.is_empty())),
    }
}

fn parse_port(text: &str) -> Result<u16, StoreUrlError> {
    if text.contains(',') {
        return Err(StoreUrlError::SeveralHosts);
    }
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| *port > 0 && is_digits).ok_or(StoreUrlError::BadPort)
}

fn take_address(
    parameters: &mut Parameters,
    host: &Host,
    network: Network,
) -> Result<Option<IpAddr>, StoreUrlError> {
    const RULE: &str = "must be the address of a host that is given by its name";
    let Some(text) = parameters.take("hostaddr") else { return Ok(None) };
    match (Host::parse(&text, network)?, host) {
        (Host::Address(address), Host::Name(_)) => Ok(Some(address)),
        _ => Err(StoreUrlError::BadValue { parameter: "hostaddr", rule: RULE }),
    }
}

fn take_timeout(parameters: &mut Parameters) -> Result<Duration, StoreUrlError> {
    let seconds =
        parameters.number("connect_timeout", 1..=3600, "must be a number of seconds from 1 to 3600")?;
    Ok(seconds.map_or(CONNECT_TIMEOUT, |seconds| Duration::from_secs(seconds.into())))
}

fn take_must_write(parameters: &mut Parameters) -> Result<bool, StoreUrlError> {
    let words = [("any", false), ("read-write", true), ("primary", true)];
    let rule = "must be any, read-write or primary: the store writes";
    parameters.word("target_session_attrs", &words, rule).map(Option::unwrap_or_default)
}

// === impl Keepalive ===

impl Keepalive {
    fn take(parameters: &mut Parameters) -> Result<Option<Self>, StoreUrlError> {
        const SECONDS: &str = "must be a number of seconds from 1 to 3600";
        let is_on = parameters.word("keepalives", &[("0", false), ("1", true)], "must be 0 or 1")?;
        let idle = parameters.number("keepalives_idle", 1..=3600, SECONDS)?;
        let interval = parameters.number("keepalives_interval", 1..=3600, SECONDS)?;
        let count = parameters.number("keepalives_count", 1..=100, "must be a number from 1 to 100")?;
        let seconds = |given: Option<u32>, usual| Duration::from_secs(given.unwrap_or(usual).into());
        // Notices within two minutes that a server has vanished.
        let keepalive =
            Self { idle: seconds(idle, 60), interval: seconds(interval, 15), count: count.unwrap_or(4) };
        Ok(is_on.unwrap_or(true).then_some(keepalive))
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Result<Self, StoreUrlError> {
        if rest.contains('\0') {
            return Err(StoreUrlError::NulByte);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        // An unescaped password would else be parsed, and shown, as a host, database or parameter.
        if tail.contains(['@', '#']) || authority.matches('@').count() > 1 {
            return Err(StoreUrlError::NotEscaped);
        }
        let (login, host_port) = authority.split_once('@').unwrap_or(("", authority));
        let (user, password) =
            login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        let (host, port) = split_port(host_port)?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let database = path.strip_prefix('/').unwrap_or(path);
        if database.contains('/') || query.contains('?') {
            return Err(StoreUrlError::NotEscaped);
        }
        Ok(Self { user, password, host, port, database, query })
    }
}

fn split_port(host_port: &str) -> Result<(&str, Option<&str>), StoreUrlError> {
    if host_port.contains(',') {
        return Err(StoreUrlError::SeveralHosts);
    }
    let bracket = host_port.rfind(']').map_or(0, |at| at + 1);
    let (inside, after) = host_port.split_at(bracket);
    match after.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(StoreUrlError::BadHost),
        None if inside.is_empty() || after.is_empty() => Ok((host_port, None)),
        Some((host, port)) if inside.is_empty() || host.is_empty() => {
            Ok((&host_port[..bracket + host.len()], Some(port)))
        }
        _ => Err(StoreUrlError::BadHost),
    }
}
