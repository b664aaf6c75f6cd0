//! Path and query of a request, in the one form that is routed, logged and sent on.

/// Most bytes of path and query together (RELIABILITY §5).
pub(crate) const TARGET_MAX: usize = 8 * 1024;

/// An origin-form target (RFC 9112 §3.2.1) in which no two readers can see different paths: it starts with exactly one
/// slash, has printable ASCII only, no backslash, no fragment, no encoded NUL and no dot segment, however it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    path: String,
    query: Option<String>,
}

/// A target that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(&'static str);

impl PathError {
    /// What is wrong, for the log.
    #[must_use]
    pub const fn why(self) -> &'static str {
        self.0
    }
}

impl Path {
    /// Checks a target.
    ///
    /// # Errors
    /// [`PathError`] if it is malformed or could be read in two ways.
    pub fn parse(target: &str) -> Result<Self, PathError> {
        if target.len() > TARGET_MAX {
            return Err(PathError("the target is too long"));
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PathError("the target has more than printable ASCII"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        check_path(path)?;
        if query.is_some_and(|query| query.contains('#')) {
            return Err(PathError("the target has a fragment"));
        }
        Ok(Self {
            path: path.to_owned(),
            query: query.map(str::to_owned),
        })
    }

    /// The path, beginning with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What stands after the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The same query under another path.
    ///
    /// # Errors
    /// [`PathError`] as for [`Path::parse`].
    pub fn with_path(&self, path: &str) -> Result<Self, PathError> {
        check_path(path)?;
        Ok(Self {
            path: path.to_owned(),
            query: self.query.clone(),
        })
    }

    /// Path and query as they are sent on.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

fn check_path(path: &str) -> Result<(), PathError> {
    if !path.starts_with('/') {
        return Err(PathError("the target is not in origin form"));
    }
    if path.starts_with("//") {
        return Err(PathError("the path starts with two slashes"));
    }
    if path.contains(['\\', '#']) {
        return Err(PathError("the path has a backslash or a fragment"));
    }
    if path.split('/').any(is_dotted) {
        return Err(PathError("the path has a dot segment"));
    }
    if percent_decoded(path.as_bytes()).any(|byte| byte == 0) {
        return Err(PathError("the path has an encoded NUL"));
    }
    Ok(())
}

/// Whether a segment is, or holds once decoded, a `.` or `..` between separators or path parameters.
fn is_dotted(segment: &str) -> bool {
    let plain: Vec<u8> = percent_decoded(segment.as_bytes()).collect();
    plain
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(|part| part.split(|byte| *byte == b';').next().unwrap_or(part))
        .any(|part| matches!(part, b"." | b".."))
}

/// The bytes with each `%XX` replaced once; what is no such triple stays as it is.
fn percent_decoded(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(*first)
    })
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_applications_use_goes_through_unchanged() {
        for target in [
            "/",
            "/?",
            "/a//b",
            "/a%2Fb",
            "/a%5Cb",
            "/a;x=1/b",
            "/.well-known/x",
            "/a..b/...",
            "/a?b=../c&d=//e?f",
            "/%E4%B8%AD",
            "/100%",
            "/a?x=\\",
        ] {
            let path = Path::parse(target).expect(target);
            assert_eq!(path.target(), target);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for target in [
            "",
            "*",
            "a",
            "//evil/x",
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a/..%5cb",
            "/a\\b",
            "/a/..;x/b",
            "/a%00b",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/\u{7f}",
            "/ä",
            "http://a/b",
        ] {
            assert!(Path::parse(target).is_err(), "{target}");
        }
        assert!(Path::parse(&format!("/{}", "a".repeat(TARGET_MAX - 1))).is_ok());
        assert!(Path::parse(&format!("/{}", "a".repeat(TARGET_MAX))).is_err());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(target in "/[a-z./%25cCfFeE;?#\\\\ 0]{0,40}") {
            if let Ok(path) = Path::parse(&target) {
                prop_assert_eq!(Path::parse(&path.target()), Ok(path));
            }
        }

        #[test]
        fn no_dot_segment_survives_decoding(target in "/([a./]|%2[eEfF]|%5[cC]){0,12}") {
            if Path::parse(&target).is_ok() {
                let decoded: Vec<u8> = percent_decoded(target.as_bytes()).collect();
                let dotted = decoded
                    .split(|byte| matches!(byte, b'/' | b'\\'))
                    .any(|part| matches!(part, b"." | b".."));
                prop_assert!(!dotted);
            }
        }
    }
}
