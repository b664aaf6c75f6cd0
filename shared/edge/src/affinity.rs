//! The cookie that keeps a client with one member of a pool.
//!
//! Its value is random, is told to nobody but the front, and names nothing: which member it means follows from it and from
//! what members there are. It proves nothing either, and need not: who makes a value up, or throws cookies away until
//! one leads to the member that he wants, reaches only what any client of the pool may be sent to.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, SET_COOKIE};

use crate::cookies;

/// Name of the cookie where a pool has a host of its own, whose pages cannot set it for each other then.
const OF_HOST: &str = "__Host-sallyport-pool";

/// Name of the cookie where pools share a host and each has a path, which `__Host-` does not allow.
const OF_PATH: &str = "__Secure-sallyport-pool";

/// Digits of a value.
const DIGITS: usize = 32;

/// What a client of a pool is known by: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affinity([u8; 16]);

impl Affinity {
    /// The one with this value.
    #[must_use]
    pub const fn new(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// Its value.
    #[must_use]
    pub const fn value(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// One that nobody has; none without randomness.
    pub(crate) fn fresh() -> Option<Self> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Reads a value just as it was given.
    fn read(value: &[u8]) -> Option<Self> {
        let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if value.len() != DIGITS || !value.iter().all(digit) {
            return None;
        }
        let text = std::str::from_utf8(value).ok()?;
        u128::from_str_radix(text, 16).ok().map(Self::new)
    }

    /// Gives it to a client, for a pool below `prefix` of a host that it shares; none if its host is its own.
    pub(crate) fn give(self, headers: &mut HeaderMap, prefix: Option<&str>) {
        let (name, prefix) = prefix.map_or((OF_HOST, ""), |prefix| (OF_PATH, prefix));
        let value = self.value();
        let cookie = format!("{name}={value:032x}; Path={prefix}/; Secure; HttpOnly; SameSite=Lax");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            headers.append(SET_COOKIE, cookie);
            // or a cache on the way could give it to others (RFC 9111 §7.3)
            headers.append(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
    }
}

/// What a client shows, by the place that its cookie is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    of_host: Option<Affinity>,
    of_path: Option<Affinity>,
}

impl Shown {
    /// What counts for a pool below `prefix`; none if its host is its own.
    pub(crate) const fn below(&self, prefix: Option<&str>) -> Option<Affinity> {
        if prefix.is_some() {
            self.of_path
        } else {
            self.of_host
        }
    }
}

/// Takes the cookies out of a request whose cookies stand in one line. The first that is well-formed and spelt as ours
/// counts.
pub(crate) fn take(headers: &mut HeaderMap) -> Shown {
    let mut shown = Shown::default();
    for (name, value) in cookies::take(headers, is_our_name) {
        let place = match name.as_slice() {
            name if name == OF_HOST.as_bytes() => &mut shown.of_host,
            name if name == OF_PATH.as_bytes() => &mut shown.of_path,
            _ => continue, // in another case browsers may let anybody set it
        };
        *place = place.or_else(|| Affinity::read(&value));
    }
    shown
}

/// Whether a cookie's name is that of ours, in any case: some programs compare without it.
pub(crate) fn is_our_name(name: &[u8]) -> bool {
    [OF_HOST, OF_PATH]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;

    const PATH: Option<&str> = Some("/s/web");
    const HOST: Option<&str> = None;

    fn taken(cookie: &str) -> (Shown, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().expect("a value"));
        let shown = take(&mut headers);
        let rest = headers.get(COOKIE).map(|rest| rest.to_str().expect("text"));
        (shown, rest.map(str::to_owned))
    }

    fn given(affinity: Affinity, prefix: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        affinity.give(&mut headers, prefix);
        assert_eq!(headers.get(CACHE_CONTROL).expect("given"), "private");
        let cookie = headers.get(SET_COOKIE).expect("given");
        cookie.to_str().expect("text").to_owned()
    }

    #[test]
    fn a_cookie_is_for_the_place_of_its_pool_and_for_no_script() {
        let one = Affinity::new(0x1f);
        let digits = "0000000000000000000000000000001f";
        assert_eq!(
            given(one, PATH),
            format!(
                "__Secure-sallyport-pool={digits}; Path=/s/web/; Secure; HttpOnly; SameSite=Lax"
            )
        );
        assert_eq!(
            given(one, HOST),
            format!("__Host-sallyport-pool={digits}; Path=/; Secure; HttpOnly; SameSite=Lax")
        );
    }

    #[test]
    fn the_first_well_formed_value_of_the_place_counts_and_none_is_passed_on() {
        let (a, b) = (Affinity::new(0xa), Affinity::new(0xb));
        let line = format!(
            "x=1; __Secure-sallyport-pool=zz; __secure-SALLYPORT-pool={:032x}; \
             __Secure-sallyport-pool={:032x}; __Secure-sallyport-pool={:032x}; \
             __Host-sallyport-pool={:032x};y=2",
            b.value(),
            a.value(),
            b.value(),
            b.value()
        );
        let (shown, rest) = taken(&line);
        assert_eq!((shown.below(PATH), shown.below(HOST)), (Some(a), Some(b)));
        assert_eq!(rest.as_deref(), Some("x=1; y=2"));

        let (shown, rest) = taken("__Host-sallyport-pool");
        assert_eq!((shown, rest), (Shown::default(), None));
    }

    #[test]
    fn no_two_are_alike() {
        assert_ne!(
            Affinity::fresh().expect("one"),
            Affinity::fresh().expect("another")
        );
    }

    proptest! {
        #[test]
        fn what_was_given_reads_back(value in any::<u128>(), in_path in any::<bool>()) {
            let prefix = PATH.filter(|_| in_path);
            let cookie = given(Affinity::new(value), prefix);
            let pair = cookie.split(';').next().expect("a pair");
            let (shown, rest) = taken(pair);
            prop_assert_eq!(shown.below(prefix), Some(Affinity::new(value)));
            prop_assert_eq!(rest, None);
        }

        #[test]
        fn only_what_could_have_been_given_is_read(value in prop_oneof![
            "[0-9a-fA-F+_ ]{30,34}", "\\PC{0,40}", "[0-9a-f]{32}",
        ]) {
            let read = Affinity::read(value.as_bytes());
            let again = read.map(|affinity| format!("{:032x}", affinity.value()));
            prop_assert!(again.is_none_or(|again| again == value));
        }
    }
}
