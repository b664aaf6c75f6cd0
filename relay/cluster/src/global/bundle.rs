//! A bundle: the objects of some kinds as one text, the same bytes for the same objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::kinds;

/// Longest bundle, in bytes: it fits into one request to a running relay.
pub const MOST_BYTES: usize = 900 << 10;

/// What a bundle of this version says that it is.
const FORMAT: &str = "sallyport-config/1";

/// Faults that are told; there may be more.
const MOST_FAULTS: usize = 100;

/// Longest piece of somebody's text in a fault, in characters.
const MOST_SHOWN: usize = 80;

/// What an object says.
pub type Object = Map<String, Value>;

/// Objects by kind and name, all of them checked. A kind that is not in it is not spoken of; one that is in it without
/// objects has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle(BTreeMap<String, BTreeMap<String, Object>>);

/// How an object of one bundle stands in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It was not there.
    Added,
    /// It says something else.
    Changed,
    /// It goes.
    Removed,
    /// It stays as it is.
    Same,
}

/// Why a text is no bundle. It says where the fault is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It is larger than any may be.
    #[error("{0} bytes are too many: a configuration has at most {MOST_BYTES}")]
    TooLarge(usize),
    /// It is no JSON, or not of this shape.
    #[error("it is no configuration: {0}")]
    Shape(String),
    /// Another version wrote it.
    #[error("its format is `{0}` and this version reads `{FORMAT}`: use the version that wrote it")]
    Format(String),
    /// Objects are not what they should be.
    #[error(transparent)]
    Faults(Faults),
    /// A kind was asked for that is not there.
    #[error("there is no kind `{kind}`; there are: {there}")]
    NoKind {
        /// As it was asked for.
        kind: String,
        /// Those that are there.
        there: String,
    },
}

/// All that is wrong with the objects of a bundle, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// What is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: String,
    /// Its name; empty for the kind itself.
    pub name: String,
    /// The field; none for the object as a whole.
    pub field: Option<String>,
    /// What is wrong.
    pub text: String,
}

/// The text as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: String,
    objects: Unique<Unique<Value>>,
}

#[derive(Serialize)]
struct Written<'b> {
    format: &'static str,
    objects: &'b BTreeMap<String, BTreeMap<String, Object>>,
}

impl Bundle {
    /// Every kind, without objects.
    #[must_use]
    pub fn empty() -> Self {
        let kinds = kinds::names().map(|kind| (kind.to_owned(), BTreeMap::new()));
        Self(kinds.collect())
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// [`BundleError`], with all faults of all objects.
    pub fn parse(text: &[u8]) -> Result<Self, BundleError> {
        if text.len() > MOST_BYTES {
            return Err(BundleError::TooLarge(text.len()));
        }
        let raw = serde_json::from_slice(text);
        Self::check(raw.map_err(|error| BundleError::Shape(error.to_string()))?)
    }

    /// Checks what was read already.
    ///
    /// # Errors
    /// [`BundleError`], with all faults of all objects.
    pub fn from_value(value: Value) -> Result<Self, BundleError> {
        let raw = serde_json::from_value(value);
        Self::check(raw.map_err(|error| BundleError::Shape(error.to_string()))?)
    }

    fn check(raw: Raw) -> Result<Self, BundleError> {
        if raw.format != FORMAT {
            return Err(BundleError::Format(shown(&raw.format)));
        }
        let (mut bundle, mut faults) = (Self::default(), Faults::default());
        for (kind, objects) in raw.objects.0 {
            let objects = check_kind(&kind, objects.0, &mut faults);
            bundle.0.insert(kind, objects);
        }
        if !faults.0.is_empty() {
            faults.0.truncate(MOST_FAULTS);
            return Err(BundleError::Faults(faults));
        }
        Ok(bundle)
    }

    /// The text: sorted, and the same bytes for the same objects.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // names, numbers and texts always become JSON
        let mut text = serde_json::to_vec_pretty(&self.written()).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// The same as a value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self.written()).unwrap_or_default()
    }

    const fn written(&self) -> Written<'_> {
        Written {
            format: FORMAT,
            objects: &self.0,
        }
    }

    /// Only the kind with this name.
    ///
    /// # Errors
    /// [`BundleError::NoKind`] if the bundle does not speak of it.
    pub fn only(&self, kind: &str) -> Result<Self, BundleError> {
        let Some(objects) = self.0.get(kind) else {
            let there: Vec<_> = self.0.keys().map(String::as_str).collect();
            return Err(BundleError::NoKind {
                kind: shown(kind),
                there: there.join(", "),
            });
        };
        Ok(Self([(kind.to_owned(), objects.clone())].into()))
    }

    /// Whether it speaks of every kind that there is.
    pub(super) fn is_of_all_kinds(&self) -> bool {
        kinds::names().all(|kind| self.0.contains_key(kind))
    }

    /// The object of a kind with this name.
    #[must_use]
    pub fn object(&self, kind: &str, name: &str) -> Option<&Object> {
        self.0.get(kind)?.get(name)
    }

    /// All objects of a kind, by name.
    pub fn objects(&self, kind: &str) -> impl Iterator<Item = (&str, &Object)> {
        let objects = self.0.get(kind).into_iter().flatten();
        objects.map(|(name, object)| (name.as_str(), object))
    }

    /// How many objects it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether it has no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This one, with the kinds that `other` speaks of as they are there.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut all = self.0.clone();
        all.extend(other.0.clone());
        Self(all)
    }

    /// What [`with`](Self::with) makes of each object of the kinds that `other` speaks of, by kind and name.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let none = BTreeMap::new();
        let mut differences = Vec::new();
        for (kind, new) in &other.0 {
            let old = self.0.get(kind).unwrap_or(&none);
            let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
            names.sort_unstable();
            names.dedup();
            differences.extend(names.into_iter().map(|name| Difference {
                kind: kind.clone(),
                name: name.clone(),
                change: change(old.get(name), new.get(name)),
            }));
        }
        differences
    }

    /// What is wrong between the objects of a bundle that speaks of every kind: scripts of chains that are not there.
    ///
    /// # Errors
    /// [`BundleError::Faults`].
    pub(super) fn check_whole(&self) -> Result<(), BundleError> {
        let mut faults = Faults::default();
        for (chain, object) in self.objects(kinds::CHAINS) {
            let is_there = |name: &&str| {
                kinds::PREDEFINED.contains(name) || self.object(kinds::SCRIPTS, name).is_some()
            };
            for name in kinds::chained(object).filter(|name| !is_there(name)) {
                let field = Some(kinds::SCRIPTS.to_owned());
                let text = format!("there is no script `{}`", shown(name));
                faults.add(kinds::CHAINS, chain, field, text);
            }
        }
        if faults.0.is_empty() {
            return Ok(());
        }
        faults.0.truncate(MOST_FAULTS);
        Err(BundleError::Faults(faults))
    }

    /// This one, with the object of a kind as it is given, or without it. The object is not checked.
    #[must_use]
    pub fn with_object(&self, kind: &str, name: &str, object: Option<Object>) -> Self {
        let mut all = self.0.clone();
        let objects = all.entry(kind.to_owned()).or_default();
        match object {
            Some(object) => drop(objects.insert(name.to_owned(), object)),
            None => drop(objects.remove(name)),
        }
        Self(all)
    }

    /// How many epochs are kept.
    pub(super) fn kept(&self) -> usize {
        const DEFAULT: usize = 10;
        let (name, field) = kinds::HISTORY;
        let kept = self.object(kinds::SETTINGS, name);
        let kept = kept.and_then(|history| history.get(field)?.as_u64());
        kept.and_then(|kept| usize::try_from(kept).ok())
            .unwrap_or(DEFAULT)
    }
}

fn change(old: Option<&Object>, new: Option<&Object>) -> Change {
    match (old, new) {
        (None, _) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(old), Some(new)) if old == new => Change::Same,
        (Some(_), Some(_)) => Change::Changed,
    }
}

fn check_kind(
    kind: &str,
    objects: BTreeMap<String, Value>,
    faults: &mut Faults,
) -> BTreeMap<String, Object> {
    let Some(most) = kinds::most(kind) else {
        let there: Vec<_> = kinds::names().collect();
        faults.add(
            kind,
            "",
            None,
            format!("there is no such kind; there are: {}", there.join(", ")),
        );
        return BTreeMap::new();
    };
    if objects.len() > most {
        faults.add(
            kind,
            "",
            None,
            format!("{} are too many: at most {most} are allowed", objects.len()),
        );
    }
    let mut checked = BTreeMap::new();
    for (name, value) in objects {
        let Value::Object(object) = value else {
            faults.add(kind, &name, None, "it is no object".to_owned());
            continue;
        };
        for (field, text) in kinds::check(kind, &name, &object) {
            faults.add(kind, &name, field, text);
        }
        checked.insert(name, object);
    }
    checked
}

impl Faults {
    fn add(&mut self, kind: &str, name: &str, field: Option<String>, text: String) {
        self.0.push(Fault {
            kind: shown(kind),
            name: shown(name),
            field: field.map(|field| shown(&field)),
            text,
        });
    }
}

/// Somebody's text, cut and without control characters.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(MOST_SHOWN).collect();
    cut.escape_debug().to_string()
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.name.is_empty() {
            write!(f, "/{}", self.name)?;
        }
        if let Some(field) = &self.field {
            write!(f, ": `{field}`")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Same => "same",
        })
    }
}

/// A map in which no name stands twice: JSON would let the last one win silently.
struct Unique<T>(BTreeMap<String, T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            match all.entry(name) {
                Entry::Vacant(place) => drop(place.insert(map.next_value()?)),
                Entry::Occupied(place) => {
                    let text = format!("`{}` stands there twice", shown(place.key()));
                    return Err(de::Error::custom(text));
                }
            }
        }
        Ok(Unique(all))
    }
}

#[cfg(test)]
mod tests;
