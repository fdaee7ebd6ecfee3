//! The parameters of a PostgreSQL URL. Each is honoured, has no effect here, or is refused by name; none is dropped silently.

use std::ops::RangeInclusive;

use super::{StoreUrlError, shown_name};

/// The given parameters, decoded. Whoever knows one takes it out.
pub(super) struct Parameters(Vec<(String, String)>);

/// Parameters that are fixed here, the values that they may have, and why.
const FIXED: [(&str, &[&str], &str); 9] = [
    ("client_encoding", &["UTF8", "utf8", "UTF-8", "utf-8", "auto"], "must be UTF8: all text is"),
    ("gssencmode", &["disable", "prefer"], "must be disable or prefer: GSSAPI is not supported"),
    ("load_balance_hosts", &["disable"], "must be disable: addresses are tried in their order"),
    ("pgbouncer", TRUE_OR_FALSE, "must be true or false"),
    ("prepared_statements", TRUE_OR_FALSE, "must be true or false"),
    ("sslcompression", &["0"], "must be 0: TLS is never compressed"),
    ("sslsni", &["1"], "must be 1: the server is told its name"),
    ("uselibpqcompat", &["true"], "must be true: sslmode means what it means to libpq"),
    ("workaround", &["supabase-pooler.vercel"], "must be supabase-pooler.vercel"),
];
const TRUE_OR_FALSE: &[&str] = &["true", "false"];

const POOL: &str = "the [store] section of the config sets this";
const FILES: &str = "only the URL is read";
const GSSAPI: &str = "GSSAPI is not supported";
const WRITE_SSLMODE: &str = "write sslmode";
const REVOCATION: &str = "revocation lists are not supported";
const ROLE: &str = "poolers refuse or forget it; use ALTER ROLE … SET on the server";

/// Parameters that would matter but can't be honoured.
const REFUSED: [(&str, &str); 27] = [
    ("connection_limit", POOL),
    ("gssdelegation", GSSAPI),
    ("gsslib", GSSAPI),
    ("krbsrvname", GSSAPI),
    ("max_protocol_version", "the protocol is version 3.0"),
    ("min_protocol_version", "the protocol is version 3.0"),
    ("options", ROLE),
    ("passfile", FILES),
    ("pool_max_conns", POOL),
    ("pool_timeout", POOL),
    ("replication", "the store does not replicate"),
    ("require_auth", "the server chooses the method; channel_binding=require asks for SCRAM"),
    ("requirepeer", "a socket is as safe as its directory"),
    ("schema", ROLE),
    ("search_path", ROLE),
    ("service", FILES),
    ("servicefile", FILES),
    ("ssl", WRITE_SSLMODE),
    ("ssl_max_protocol_version", "the newest version that both sides know is used"),
    ("sslaccept", WRITE_SSLMODE),
    ("sslcertmode", "a client certificate is sent if sslcert names one"),
    ("sslcrl", REVOCATION),
    ("sslcrldir", REVOCATION),
    ("sslkeylogfile", "TLS keys are never written"),
    ("sslpassword", "encrypted key files are not supported"),
    ("statement_timeout", POOL),
    ("tcp_user_timeout", "each statement has its own limit"),
];

// === impl Parameters ===

impl Parameters {
    pub(super) fn parse(query: &str) -> Result<Self, StoreUrlError> {
        let mut parameters = Self(Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if parameters.0.iter().any(|(other, _)| *other == name) {
                return Err(StoreUrlError::RepeatedParameter(shown_name(&name)));
            }
            parameters.0.push((name, value));
        }
        Ok(parameters)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(given, _)| given == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given == name)
    }

    /// Takes a parameter whose value is one of these words.
    pub(super) fn word<T: Copy>(
        &mut self,
        parameter: &'static str,
        words: &[(&str, T)],
        rule: &'static str,
    ) -> Result<Option<T>, StoreUrlError> {
        let Some(value) = self.take(parameter) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => Err(StoreUrlError::BadValue { parameter, rule }),
        }
    }

    pub(super) fn number(
        &mut self,
        parameter: &'static str,
        allowed: RangeInclusive<u32>,
        rule: &'static str,
    ) -> Result<Option<u32>, StoreUrlError> {
        let Some(value) = self.take(parameter) else { return Ok(None) };
        let number = value.parse().ok().filter(|number| allowed.contains(number));
        number.map(Some).ok_or(StoreUrlError::BadValue { parameter, rule })
    }

    /// Refuses what is left, except for parameters without effect.
    pub(super) fn finish(mut self) -> Result<(), StoreUrlError> {
        for (name, words, rule) in FIXED {
            let words: Vec<(&str, ())> = words.iter().map(|word| (*word, ())).collect();
            self.word(name, &words, rule)?;
        }
        // Sizes of statement caches: no statement has a name, so none is cached.
        self.number("statement_cache_size", 0..=u32::MAX, "must be a number")?;
        // Added by a marketplace.
        self.take("supa");
        let Some((given, _)) = self.0.first() else { return Ok(()) };
        match REFUSED.iter().find(|(name, _)| name == given) {
            Some((parameter, reason)) => Err(StoreUrlError::RefusedParameter { parameter, reason }),
            None => Err(StoreUrlError::UnknownPostgresParameter(shown_name(given))),
        }
    }
}

/// Undoes percent-encoding. A `+` stands for itself.
pub(super) fn decode(text: &str) -> Result<String, StoreUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return Err(StoreUrlError::BadEscape) };
        let digit = |byte: &u8| (*byte as char).to_digit(16).ok_or(StoreUrlError::BadEscape);
        bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| StoreUrlError::BadEscape)?;
    if text.contains('\0') { Err(StoreUrlError::NulByte) } else { Ok(text) }
}

/// Percent-encodes all but unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
