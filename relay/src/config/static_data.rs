//! The `[static_data]` table: any keys and values, as JSON can say them.

use sallyport_node::static_data::{self, Object};
use serde_json::{Map, Number, Value};
use toml::Spanned;

use super::Faults;

/// The table as a JSON object, its bounds checked.
pub(super) fn check(table: Spanned<toml::Table>, faults: &mut Faults<'_>) -> Object {
    let span = table.span();
    let data = object(table.into_inner());
    let keys = data.keys().map(|key| static_data::check_key(key));
    let size = static_data::check_size(&data).map(drop);
    for fault in keys.chain([size]).filter_map(Result::err) {
        faults.at(&span, format!("`[static_data]`: {fault}"));
    }
    data
}

fn object(table: toml::Table) -> Object {
    let entries = table.into_iter().map(|(key, value)| (key, json(value)));
    entries.collect::<Map<_, _>>()
}

/// JSON has neither times nor infinity: a time is text, what is no number is null.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        toml::Value::Boolean(yes) => yes.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(object(table)),
    }
}
