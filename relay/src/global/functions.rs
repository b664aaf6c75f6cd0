//! Whether the JavaScript functions of what is to hold could ever be called: a worker process compiles them before.

use std::time::Duration;

use sallyport_cluster::global::{
    Bundle, BundleError, Fault, Faults, METRICS, Object, Put, SCRIPTS,
};
use sallyport_ops::Tasks;
use sallyport_scripts::{self as scripts, Script, Scripts, Settings};
use serde_json::Value;
use tracing::warn;

/// The kinds of objects that may be functions.
const KINDS: [&str; 2] = [SCRIPTS, METRICS];

/// The field of an object with its text.
const SOURCE: &str = "source";

/// A function of the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function<'b> {
    kind: &'b str,
    name: &'b str,
    source: &'b str,
}

impl<'b> Function<'b> {
    fn of_object(kind: &'b str, name: &'b str, object: &'b Object) -> Option<Self> {
        let source = object.get(SOURCE).and_then(Value::as_str)?;
        KINDS.contains(&kind).then_some(Self { kind, name, source })
    }
}

/// The functions of a bundle.
pub(super) fn of_bundle(bundle: &Bundle) -> Vec<Function<'_>> {
    let of_kind = |kind| {
        let objects = bundle.objects(kind);
        objects.filter_map(move |(name, object)| Function::of_object(kind, name, object))
    };
    KINDS.into_iter().flat_map(of_kind).collect()
}

/// The function that an object is put as, if it is one.
pub(super) fn of_put(put: &Put) -> Vec<Function<'_>> {
    let object = put.object.as_ref();
    let function = object.and_then(|object| Function::of_object(&put.kind, &put.name, object));
    function.into_iter().collect()
}

/// Compiles all of them. Where no worker can, the configuration is not held up.
///
/// # Errors
/// [`BundleError::Faults`] with every one that is no function.
pub(super) async fn compile(functions: &[Function<'_>]) -> Result<(), BundleError> {
    if functions.is_empty() {
        return Ok(());
    }
    let tasks = Tasks::new();
    let settings = Settings {
        workers: 1,
        ..Settings::default()
    };
    let workers = Scripts::start(settings, &tasks);
    let mut faults = Faults::default();
    for function in functions {
        let script = Script::new(function.name, function.source);
        match workers.compile(&script).await {
            Err(fault @ scripts::Fault::NotAFunction(_)) => faults.0.push(Fault {
                kind: function.kind.to_owned(),
                name: function.name.to_owned(),
                field: Some(SOURCE.to_owned()),
                text: fault.to_string(),
            }),
            Err(fault @ scripts::Fault::Unavailable(_)) => {
                warn!(%fault, "functions are taken as they are, without a look whether they can be called");
                break;
            }
            Ok(()) | Err(_) => {} // what else goes wrong may go well when it is called
        }
    }
    tasks.drain(Duration::ZERO).await;
    if faults.0.is_empty() {
        Ok(())
    } else {
        Err(BundleError::Faults(faults))
    }
}
