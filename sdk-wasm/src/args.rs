//! What JavaScript hands in: read, checked and named, so that one wrong argument refuses one call.

use js_sys::{Array, Reflect};
use prom_protocol::{ErrorCode, limits, scan::quote};
use prom_sdk_core::Error;
use wasm_bindgen::{JsCast, JsValue};

/// The longest time any engine's timer takes, in milliseconds: a longer one fires at once.
const TIMER_MAX: f64 = i32::MAX as f64;

/// `bad_frame`, for an argument that is not what it must be.
pub(crate) fn refused(message: &str) -> Error {
    Error::of(ErrorCode::BadFrame, message)
}

/// What a timer is set to: whole milliseconds that every engine takes.
pub(crate) fn timer_ms(ms: f64) -> u32 {
    ms.ceil().min(TIMER_MAX).max(0.0) as u32
}

/// JavaScript's milliseconds; `as` clamps what is negative, too large or not a number.
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// A string argument. Half a surrogate pair would become another character on its way, and two ids the same one.
pub(crate) fn text(value: &JsValue, name: &str) -> Result<String, Error> {
    let Some(text) = value.as_string() else { return Err(refused(&[name, " must be a string"].concat())) };
    if holds_replacement(&text) && JsValue::from_str(&text) != *value {
        return Err(refused(&[name, " is not Unicode: it holds one half of a surrogate pair"].concat()));
    }
    Ok(text)
}

fn holds_replacement(text: &str) -> bool {
    text.as_bytes().windows(3).any(|bytes| bytes == [0xef, 0xbf, 0xbd])
}

/// A group's name; empty is none, and none is refused.
pub(crate) fn group(value: &JsValue) -> Result<String, Error> {
    match text(value, "group")? {
        empty if empty.is_empty() => Err(Error::of(ErrorCode::BadTopic, "a group is required")),
        group => Ok(group),
    }
}

/// A function argument.
pub(crate) fn function(value: &JsValue, name: &str) -> Result<js_sys::Function, Error> {
    value.dyn_ref().cloned().ok_or_else(|| refused(&[name, " must be a function"].concat()))
}

/// The options of a call: an object whose every field is known. A field that is `undefined` is absent.
pub(crate) struct Options<'a> {
    object: Option<&'a JsValue>,
    name: &'static str,
}

impl<'a> Options<'a> {
    /// `known` are the names it may have.
    pub(crate) fn new(object: &'a JsValue, name: &'static str, known: &[&str]) -> Result<Self, Error> {
        if object.is_undefined() {
            return Ok(Self { object: None, name });
        }
        if !object.is_object() || Array::is_array(object) {
            return Err(refused(&[name, " must be an object"].concat()));
        }
        let keys = Reflect::own_keys(object).map_err(|_| refused(&[name, " cannot be read"].concat()))?;
        for key in keys.iter().filter_map(|key| key.as_string()) {
            if !known.contains(&key.as_str()) {
                return Err(unknown(name, &key, known));
            }
        }
        Ok(Self { object: Some(object), name })
    }

    fn full(&self, name: &str) -> String {
        [self.name, ".", name].concat()
    }

    /// A field as it is.
    pub(crate) fn raw(&self, name: &str) -> Result<Option<JsValue>, Error> {
        let Some(object) = self.object else { return Ok(None) };
        let value = Reflect::get(object, &JsValue::from_str(name))
            .map_err(|_| refused(&[&self.full(name), " cannot be read"].concat()))?;
        Ok((!value.is_undefined()).then_some(value))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.raw(name)? else { return Ok(None) };
        let number = value.as_f64().filter(|number| !number.is_nan());
        number.map(Some).ok_or_else(|| refused(&[&self.full(name), " must be a number"].concat()))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.raw(name)? else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| refused(&[&self.full(name), " must be true or false"].concat()))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        self.raw(name)?.map(|value| text(&value, &self.full(name))).transpose()
    }

    /// Appends a field that is a string.
    fn put_text(&self, json: &mut Json, name: &str) -> Result<(), Error> {
        if let Some(text) = self.text(name)? {
            json.name(name);
            quote(&mut json.0, &text);
        }
        Ok(())
    }

    /// Appends a field that is a list of strings.
    fn put_texts(&self, json: &mut Json, name: &str) -> Result<(), Error> {
        let Some(value) = self.raw(name)? else { return Ok(()) };
        let Some(list) = value.dyn_ref::<Array>() else {
            return Err(refused(&[&self.full(name), " must be a list of strings"].concat()));
        };
        json.name(name);
        json.0.push('[');
        for (at, entry) in list.iter().enumerate() {
            if at > 0 {
                json.0.push(',');
            }
            quote(&mut json.0, &text(&entry, &[&self.full(name), "[", &decimal(at as f64), "]"].concat())?);
        }
        json.0.push(']');
        Ok(())
    }

    /// Appends a field that is an object of strings.
    fn put_map(&self, json: &mut Json, name: &str) -> Result<(), Error> {
        let Some(value) = self.raw(name)? else { return Ok(()) };
        let wrong = || refused(&[&self.full(name), " must be an object of strings"].concat());
        if !value.is_object() || Array::is_array(&value) {
            return Err(wrong());
        }
        let mut inner = Json::default();
        for key in Reflect::own_keys(&value).map_err(|_| wrong())?.iter().filter(JsValue::is_string) {
            let entry = Reflect::get(&value, &key).map_err(|_| wrong())?;
            if !entry.is_undefined() {
                let key = text(&key, &self.full(name))?;
                inner.name(&key);
                quote(&mut inner.0, &text(&entry, &[&self.full(name), ".", &key].concat())?);
            }
        }
        json.name(name);
        json.0.push_str(&inner.end());
        Ok(())
    }

    fn put_number(&self, json: &mut Json, name: &str, most: f64) -> Result<(), Error> {
        if let Some(number) = self.number(name)? {
            json.name(name);
            json.0.push_str(&decimal(number.min(most).max(-most)));
        }
        Ok(())
    }
}

/// Says which option is not one, and which was meant: letters swapped, another case, an underscore.
fn unknown(name: &str, key: &str, known: &[&str]) -> Error {
    let letters = |text: &str| {
        let mut letters = [0_u8; 32];
        for byte in text.bytes().filter(|byte| *byte != b'_') {
            let count = &mut letters[usize::from(byte & 31)];
            *count = count.saturating_add(1);
        }
        letters
    };
    let mut message = [name, ".", key, " is not an option"].concat();
    if let Some(meant) = known.iter().find(|known| letters(known) == letters(key)) {
        message = [&message, "; did you mean ", meant, "?"].concat();
    }
    refused(&message)
}

/// A number as JSON has it. The engine writes it: a formatter of floats is large.
fn decimal(number: f64) -> String {
    JsValue::from_f64(number).unchecked_into::<js_sys::Number>().to_string_with_radix(10).map(String::from).unwrap_or_default()
}

/// A JSON object under construction.
#[derive(Default)]
struct Json(String);

impl Json {
    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        quote(&mut self.0, name);
        self.0.push(':');
    }

    /// The object; empty when it has no fields.
    fn end_or_empty(self) -> String {
        if self.0.is_empty() { self.0 } else { self.end() }
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

/// What a publish was given beside topic and payload.
#[derive(Default)]
pub(crate) struct PublishOptions {
    pub(crate) id: Option<String>,
    /// The others as a JSON object, or empty.
    pub(crate) json: String,
    pub(crate) timeout_ms: Option<u64>,
}

impl PublishOptions {
    pub(crate) fn read(options: &JsValue) -> Result<Self, Error> {
        if options.is_undefined() {
            return Ok(Self::default());
        }
        let known = ["id", "ts", "key", "sid", "headers", "tags", "caused_by", "timeoutMs", "signal"];
        let options = Options::new(options, "options", &known)?;
        let mut json = Json::default();
        options.put_number(&mut json, "ts", f64::MAX)?;
        options.put_text(&mut json, "key")?;
        options.put_text(&mut json, "sid")?;
        options.put_map(&mut json, "headers")?;
        options.put_texts(&mut json, "tags")?;
        options.put_text(&mut json, "caused_by")?;
        let timeout_ms = options.number("timeoutMs")?.map(whole);
        Ok(Self { id: options.text("id")?, json: json.end_or_empty(), timeout_ms })
    }
}

/// What a subscription was given beside topic and group.
pub(crate) struct SubscribeOptions {
    /// What the hub is told: a JSON object, or empty.
    pub(crate) json: String,
    pub(crate) lease_ms: f64,
    pub(crate) auto_extend: bool,
    /// Infinite: none.
    pub(crate) handler_timeout_ms: f64,
}

/// The fields of a start, which stand in every kind of subscription and in a history.
const START: [&str; 5] = ["from", "ts", "afterId", "afterSeq", "signal"];

impl SubscribeOptions {
    /// Those of a member of a group.
    pub(crate) fn durable(options: &JsValue) -> Result<Self, Error> {
        let own = ["maxInFlight", "ackTimeoutMs", "maxAttempts", "batchSize", "ordered", "ack", "filter"];
        let face = ["autoExtend", "handlerTimeoutMs"];
        let options = Options::new(options, "options", &[&START[..], &own, &face].concat())?;
        let mut json = Json::default();
        put_start(&options, &mut json)?;
        for name in ["maxInFlight", "maxAttempts", "batchSize"] {
            options.put_number(&mut json, name, limits::TS_MAX as f64)?;
        }
        options.put_number(&mut json, "ackTimeoutMs", limits::LEASE_MS_MAX as f64)?;
        options.put_text(&mut json, "ordered")?;
        options.put_text(&mut json, "ack")?;
        put_filter(&options, &mut json)?;
        Ok(Self {
            lease_ms: options.number("ackTimeoutMs")?.unwrap_or(30_000.0),
            auto_extend: options.flag("autoExtend")?.unwrap_or(true),
            handler_timeout_ms: options.number("handlerTimeoutMs")?.unwrap_or(f64::INFINITY),
            json: json.end_or_empty(),
        })
    }

    /// What the hub is told for a subscription without a group.
    pub(crate) fn live(options: &JsValue) -> Result<String, Error> {
        let options = Options::new(options, "options", &[&START[..], &["filter"]].concat())?;
        let mut json = Json::default();
        put_start(&options, &mut json)?;
        put_filter(&options, &mut json)?;
        Ok(json.end_or_empty())
    }

    /// What the hub is told for a watch.
    pub(crate) fn watch(options: &JsValue) -> Result<String, Error> {
        let options = Options::new(options, "options", &["filter", "onChange", "signal"])?;
        if let Some(listener) = options.raw("onChange")? {
            function(&listener, "options.onChange")?;
        }
        let mut json = Json::default();
        json.name("from");
        json.0.push_str("\"snapshot\"");
        put_filter(&options, &mut json)?;
        Ok(json.end())
    }
}

fn put_filter(options: &Options<'_>, json: &mut Json) -> Result<(), Error> {
    let Some(filter) = options.raw("filter")? else { return Ok(()) };
    let filter = Options::new(&filter, "options.filter", &["keys", "tags", "headers"])?;
    let mut inner = Json::default();
    filter.put_texts(&mut inner, "keys")?;
    filter.put_texts(&mut inner, "tags")?;
    filter.put_map(&mut inner, "headers")?;
    json.name("filter");
    json.0.push_str(&inner.end());
    Ok(())
}

fn put_start(options: &Options<'_>, json: &mut Json) -> Result<(), Error> {
    let from = options.text("from")?;
    check_start(options, from.as_deref())?;
    if let Some(from) = from {
        json.name("from");
        quote(&mut json.0, &from);
    }
    for name in ["ts", "afterSeq"] {
        options.put_number(json, name, f64::MAX)?;
    }
    options.put_text(json, "afterId")
}

/// A position that nothing asks for would be ignored, and one that is asked for must be there.
fn check_start(options: &Options<'_>, from: Option<&str>) -> Result<(), Error> {
    for name in ["ts", "afterId", "afterSeq"] {
        let given = options.raw(name)?.is_some();
        if given && from != Some(name) {
            return Err(refused(&[&options.full(name), " needs from: \"", name, "\""].concat()));
        }
        if !given && from == Some(name) {
            return Err(refused(&["from: \"", name, "\" needs ", &options.full(name)].concat()));
        }
    }
    Ok(())
}

/// Where a reading of the past starts, as the parameters of a request, and how many events it may give.
pub(crate) struct HistoryOptions {
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) limit: f64,
}

impl HistoryOptions {
    pub(crate) fn read(options: &JsValue) -> Result<Self, Error> {
        let options = Options::new(options, "options", &[&START[..], &["limit"]].concat())?;
        let from = options.text("from")?;
        check_start(&options, from.as_deref())?;
        let mut query = Vec::new();
        query.extend(from.map(|from| ("from", from)));
        query.extend(options.text("afterId")?.map(|id| ("afterId", id)));
        for name in ["ts", "afterSeq"] {
            query.extend(options.number(name)?.map(|number| (name, decimal(number))));
        }
        Ok(Self { query, limit: options.number("limit")?.unwrap_or(f64::INFINITY) })
    }
}

/// How a delivery is given back.
pub(crate) struct NackOptions {
    pub(crate) reason: Option<String>,
    pub(crate) delay_ms: Option<u64>,
    pub(crate) dead: bool,
}

impl NackOptions {
    pub(crate) fn read(options: &JsValue) -> Result<Self, Error> {
        let options = Options::new(options, "options", &["reason", "delayMs", "dead"])?;
        Ok(Self {
            reason: options.text("reason")?,
            delay_ms: options.number("delayMs")?.map(whole),
            dead: options.flag("dead")?.unwrap_or(false),
        })
    }
}

/// What something that was thrown says. Whatever it is, this is a string and throws nothing.
pub(crate) fn reason_of(thrown: &JsValue) -> String {
    let said = ["message", "name"].into_iter().find_map(|name| {
        if !thrown.is_object() {
            return None;
        }
        let value = Reflect::get(thrown, &JsValue::from_str(name)).ok()?;
        (!value.is_undefined()).then(|| spoken(&value)).flatten().filter(|text| !text.is_empty())
    });
    said.or_else(|| spoken(thrown)).unwrap_or_else(|| "the handler threw something without a text".to_owned())
}

/// A value as `String()` says it, unless that throws.
fn spoken(value: &JsValue) -> Option<String> {
    value.as_string().or_else(|| {
        js_string().ok()?.call1(&JsValue::UNDEFINED, value).ok()?.as_string()
    })
}

fn js_string() -> Result<js_sys::Function, JsValue> {
    Reflect::get(&js_sys::global(), &JsValue::from_str("String"))?.dyn_into()
}
