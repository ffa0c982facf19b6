//! What JavaScript hands in: read, checked and named, so that one wrong argument refuses one call.
//!
//! A refusal is a string for JavaScript, which its face makes a `HubError` with the code `bad_frame` of.

use js_sys::{Array, Function, Object, Reflect};
use prom_protocol::{limits, scan::quote};
use wasm_bindgen::{JsCast, JsValue};

/// The longest time any engine's timer takes, in milliseconds: a longer one fires at once.
const TIMER_MAX: f64 = i32::MAX as f64;

/// A refusal, put together of its parts.
#[cold]
#[inline(never)]
pub(crate) fn refused(parts: &[&str]) -> JsValue {
    JsValue::from_str(&parts.concat())
}

/// What a timer is set to: whole milliseconds that every engine takes.
pub(crate) fn timer_ms(ms: f64) -> u32 {
    // Bounds that are constant: others are formatted in a panic, and that formatter is a tenth of the module.
    ms.ceil().clamp(0.0, TIMER_MAX) as u32
}

/// JavaScript's milliseconds; `as` clamps what is negative, too large or not a number.
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// A field of any value; undefined where there is none. Whatever the value is, only its getters can fail.
pub(crate) fn get(value: &JsValue, name: &str) -> Result<JsValue, JsValue> {
    if value.is_object() { Reflect::get(value, &JsValue::from_str(name)) } else { Ok(JsValue::UNDEFINED) }
}

/// A string argument. Half a surrogate pair would become another character on its way, and two ids the same one.
pub(crate) fn text(value: &JsValue, name: &str) -> Result<String, JsValue> {
    let Some(text) = value.as_string() else { return Err(refused(&[name, " must be a string"])) };
    let replaced = text.as_bytes().windows(3).any(|bytes| bytes == [0xef, 0xbf, 0xbd]);
    if replaced && JsValue::from_str(&text) != *value {
        return Err(refused(&[name, " is not Unicode: it holds one half of a surrogate pair"]));
    }
    Ok(text)
}

/// A function argument.
pub(crate) fn function(value: &JsValue, name: &str) -> Result<Function, JsValue> {
    value.dyn_ref().cloned().ok_or_else(|| refused(&[name, " must be a function"]))
}

/// What a field of the options must be.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A time in milliseconds, and the longest there can be, beyond which it counts as that.
    Ms(f64),
    /// A whole number from 0, and the largest there can be, beyond which it counts as that.
    Whole(f64),
    Text,
    /// One of these.
    Word(&'static [&'static str]),
    Texts,
    /// A list of strings, or one that is a list of one.
    OneOrTexts,
    Map,
    /// An object of these fields.
    Object(&'static [Field]),
    Flag,
    Function,
    /// An `AbortSignal`, which the face listens to.
    Signal,
}

/// A field of the options.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    kind: Kind,
    /// Whether the hub is told.
    wire: bool,
}

const fn wire(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, wire: true }
}

const fn own(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, wire: false }
}

const FROM: Field = wire("from", Kind::Word(&["latest", "earliest", "ts", "afterId", "afterSeq"]));
const TS: Field = wire("ts", Kind::Whole(f64::MAX));
const AFTER_ID: Field = wire("afterId", Kind::Text);
const AFTER_SEQ: Field = wire("afterSeq", Kind::Whole(f64::MAX));
const TIMEOUT: Field = own("timeoutMs", Kind::Ms(f64::MAX));
const SIGNAL: Field = own("signal", Kind::Signal);
const FILTER: Field =
    wire("filter", Kind::Object(&[wire("keys", Kind::Texts), wire("tags", Kind::Texts), wire("headers", Kind::Map)]));

/// Options of a publish. The id is not the hub's alone: the session repeats it.
pub(crate) const PUBLISH: &[Field] = &[
    own("id", Kind::Text),
    TS,
    wire("key", Kind::Text),
    wire("sid", Kind::Text),
    wire("headers", Kind::Map),
    wire("tags", Kind::Texts),
    wire("causedBy", Kind::OneOrTexts),
    TIMEOUT,
    SIGNAL,
];

/// Options of a member of a group.
pub(crate) const MEMBER: &[Field] = &[
    FROM,
    TS,
    AFTER_ID,
    AFTER_SEQ,
    wire("maxInFlight", Kind::Whole(limits::TS_MAX as f64)),
    wire("ackTimeoutMs", Kind::Ms(limits::LEASE_MS_MAX as f64)),
    wire("maxAttempts", Kind::Whole(limits::TS_MAX as f64)),
    wire("batchSize", Kind::Whole(limits::TS_MAX as f64)),
    wire("ordered", Kind::Word(&["key"])),
    wire("ack", Kind::Word(&["explicit", "none"])),
    FILTER,
    own("autoExtend", Kind::Flag),
    own("handlerTimeoutMs", Kind::Ms(f64::MAX)),
    SIGNAL,
];

/// Options of a subscription without a group.
pub(crate) const LIVE: &[Field] = &[FROM, TS, AFTER_ID, AFTER_SEQ, FILTER, SIGNAL];

/// Options of a watch.
pub(crate) const WATCH: &[Field] = &[FILTER, own("onChange", Kind::Function), SIGNAL];

/// Options of a reading of the past.
pub(crate) const HISTORY: &[Field] = &[FROM, TS, AFTER_ID, AFTER_SEQ, own("limit", Kind::Whole(f64::INFINITY)), SIGNAL];

/// Options of a flush.
pub(crate) const FLUSH: &[Field] = &[TIMEOUT, SIGNAL];

/// Options of a NACK.
pub(crate) const NACK: &[Field] =
    &[own("reason", Kind::Text), own("delayMs", Kind::Ms(f64::MAX)), own("dead", Kind::Flag)];

/// Checks the options of a call: an object whose every field is known and what it must be. A field that is `undefined` is
/// absent. Gives the JSON object of those that the hub is told; empty when there are none.
pub(crate) fn options(options: &JsValue, fields: &[Field]) -> Result<String, JsValue> {
    let mut json = String::new();
    if !options.is_undefined() {
        object(&mut json, options, "options", fields)?;
        if fields.iter().any(|field| field.name == "from") {
            check_start(options)?;
        }
        if !json.is_empty() {
            json.push('}');
        }
    }
    Ok(json)
}

/// Appends the fields that the hub is told, without the last brace.
fn object(json: &mut String, object: &JsValue, name: &str, fields: &[Field]) -> Result<(), JsValue> {
    each(object, name, " must be an object", &mut |key, full, value| {
        let Some(field) = fields.iter().find(|field| field.name == key) else { return Err(unknown(full, key, fields)) };
        if value.is_undefined() {
            return Ok(());
        }
        let mut own = String::new();
        let json = if field.wire { &mut *json } else { &mut own };
        begin(json, if key == "causedBy" { "caused_by" } else { key });
        match field.kind {
            Kind::Ms(most) => match value.as_f64().filter(|ms| !ms.is_nan()) {
                Some(ms) => json.push_str(&decimal(ms.min(most).max(0.0).floor())),
                None => return Err(refused(&[full, " must be a number of milliseconds"])),
            },
            Kind::Whole(most) => match value.as_f64().filter(|number| number.floor() == *number && *number >= 0.0) {
                Some(number) if number <= most => json.push_str(&decimal(number)),
                _ => return Err(refused(&[full, " must be a whole number from 0"])),
            },
            Kind::Text => quote(json, &text(value, full)?),
            Kind::Word(words) => {
                let word = text(value, full)?;
                if !words.contains(&word.as_str()) {
                    return Err(refused(&[full, " must be one of ", &words.join(", ")]));
                }
                quote(json, &word);
            }
            Kind::OneOrTexts if value.is_string() => quote(json, &text(value, full)?),
            Kind::Texts | Kind::OneOrTexts => texts(json, value, full)?,
            Kind::Map => {
                let mut map = String::new();
                each(value, full, " must be an object of strings", &mut |key, full, value| {
                    if value.is_undefined() {
                        return Ok(());
                    }
                    begin(&mut map, key);
                    quote(&mut map, &text(value, full)?);
                    Ok(())
                })?;
                end(json, &map);
            }
            Kind::Object(fields) => {
                let mut inner = String::new();
                self::object(&mut inner, value, full, fields)?;
                end(json, &inner);
            }
            Kind::Flag if value.as_bool().is_none() => return Err(refused(&[full, " must be true or false"])),
            Kind::Function if !value.is_function() => return Err(refused(&[full, " must be a function"])),
            Kind::Signal if !get(value, "throwIfAborted").is_ok_and(|method| method.is_function()) => {
                return Err(refused(&[full, " must be an AbortSignal"]));
            }
            Kind::Flag | Kind::Function | Kind::Signal => {}
        }
        Ok(())
    })
}

/// Calls `each` with name, full name and value of every field.
fn each(
    object: &JsValue,
    name: &str,
    expected: &str,
    each: &mut dyn FnMut(&str, &str, &JsValue) -> Result<(), JsValue>,
) -> Result<(), JsValue> {
    let keys = if is_plain(object) { Reflect::own_keys(object).ok() } else { None };
    let Some(keys) = keys else { return Err(refused(&[name, expected])) };
    for key in keys.iter().filter(JsValue::is_string) {
        let own = text(&key, name)?;
        let full = [name, ".", &own].concat();
        let value = Reflect::get(object, &key).map_err(|_| refused(&[&full, " cannot be read"]))?;
        each(&own, &full, &value)?;
    }
    Ok(())
}

/// Whether it is an object as `{}` makes them: neither a list nor a `Map` nor anything else that keeps its things elsewhere
/// than in fields. A proxy that is revoked throws whatever it is asked, and is none.
fn is_plain(value: &JsValue) -> bool {
    if !value.is_object() {
        return false;
    }
    match Reflect::get_prototype_of(value.unchecked_ref::<Object>()) {
        Ok(prototype) if prototype.is_null() => true,
        // That of another realm is as good.
        Ok(prototype) => Reflect::get_prototype_of(&prototype).is_ok_and(|root| root.is_null()),
        Err(_) => false,
    }
}

fn texts(json: &mut String, value: &JsValue, name: &str) -> Result<(), JsValue> {
    // Whether a revoked proxy is a list cannot be asked.
    let is_list = value.is_object() && Reflect::own_keys(value).is_ok() && Array::is_array(value);
    if !is_list {
        return Err(refused(&[name, " must be a list of strings"]));
    }
    json.push('[');
    for at in 0..value.unchecked_ref::<Array>().length() {
        if at > 0 {
            json.push(',');
        }
        let full = [name, "[", &decimal(at.into()), "]"].concat();
        let entry = Reflect::get_u32(value, at).map_err(|_| refused(&[&full, " cannot be read"]))?;
        quote(json, &text(&entry, &full)?);
    }
    json.push(']');
    Ok(())
}

/// Appends the name of the next field.
fn begin(json: &mut String, name: &str) {
    json.push(if json.is_empty() { '{' } else { ',' });
    quote(json, name);
    json.push(':');
}

/// Appends an object that lacks its last brace; empty: one without fields.
fn end(json: &mut String, object: &str) {
    json.push_str(if object.is_empty() { "{" } else { object });
    json.push('}');
}

/// Says which option is not one, and which was meant: a letter too few or too many, two swapped, another case, an
/// underscore, the beginning of one.
#[cold]
fn unknown(full: &str, key: &str, fields: &[Field]) -> JsValue {
    match fields.iter().find(|field| is_near(key, field.name)) {
        Some(meant) => refused(&[full, " is not an option; did you mean ", meant.name, "?"]),
        None => refused(&[full, " is not an option"]),
    }
}

fn is_near(given: &str, meant: &str) -> bool {
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let (given, meant) = (plain(given), plain(meant));
    if given.len() > 2 && (meant.starts_with(&given) || given.starts_with(&meant)) {
        return true;
    }
    let mut letters = [0_i32; 32];
    given.bytes().for_each(|byte| letters[usize::from(byte & 31)] += 1);
    meant.bytes().for_each(|byte| letters[usize::from(byte & 31)] -= 1);
    letters.iter().map(|count| count.abs()).sum::<i32>() <= i32::from(meant.len() > 3)
}

/// A position that nothing asks for would be ignored, and one that is asked for must be there.
fn check_start(options: &JsValue) -> Result<(), JsValue> {
    let from = get(options, "from")?.as_string();
    for name in ["ts", "afterId", "afterSeq"] {
        let given = !get(options, name)?.is_undefined();
        let asked = from.as_deref() == Some(name);
        if given && !asked {
            return Err(refused(&["options.", name, " needs from: \"", name, "\""]));
        }
        if asked && !given {
            return Err(refused(&["from: \"", name, "\" needs options.", name]));
        }
    }
    Ok(())
}

/// A number as JSON has it. The engine writes it: a formatter of floats is large.
pub(crate) fn decimal(number: f64) -> String {
    JsValue::from_f64(number)
        .unchecked_into::<js_sys::Number>()
        .to_string_with_radix(10)
        .map(String::from)
        .unwrap_or_default()
}

/// A number among options that were checked.
pub(crate) fn number(options: &JsValue, name: &str) -> Option<f64> {
    get(options, name).ok()?.as_f64()
}

/// A string among options that were checked.
pub(crate) fn string(options: &JsValue, name: &str) -> Option<String> {
    get(options, name).ok()?.as_string()
}

/// What something that was thrown says. Whatever it is, this is a string and throws nothing.
pub(crate) fn reason_of(thrown: &JsValue) -> String {
    for name in ["message", "name"] {
        if let Ok(value) = get(thrown, name)
            && !value.is_undefined()
            && let Some(text) = spoken(&value)
            && !text.is_empty()
        {
            return text;
        }
    }
    let text = spoken(thrown).filter(|text| !text.is_empty());
    text.unwrap_or_else(|| "something was thrown that has no text".to_owned())
}

/// A value as `String()` says it, unless that throws.
fn spoken(value: &JsValue) -> Option<String> {
    value.as_string().or_else(|| {
        let string: Function = Reflect::get(&js_sys::global(), &JsValue::from_str("String")).ok()?.dyn_into().ok()?;
        string.call1(&JsValue::UNDEFINED, value).ok()?.as_string()
    })
}
