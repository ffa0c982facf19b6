//! A key set as identity providers publish it (RFC 7517), and which of its keys a token is verified with.
//!
//! What a set holds is of many kinds: keys to encrypt with, of curves this hub does not speak, with certificates nobody
//! here asks for. Those are passed over. A key that claims to be one of ours and is not whole is passed over too, with a
//! warning that names it: one bad key must not lock everybody out.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use prom_protocol::RawValue;
use serde::Deserialize;

/// Most keys of a set.
pub(super) const MAX_KEYS: usize = 100;
/// Longest `kid`, in bytes.
pub(super) const KID_BYTES: usize = 512;
/// Most characters of why a key is left out: it goes into the log.
const WHY_CHARS: usize = 200;
/// The sizes of RSA keys that are taken, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The algorithm of that name, if tokens of key sets may be signed with it.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "PS256" => Algorithm::PS256,
        "ES256" => Algorithm::ES256,
        // RFC 9864 names the curve.
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// A public key.
#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// What it may be used for: what its type can do, or the one that it names.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The usable keys of a set.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

/// What a set has for a token.
#[derive(Debug)]
pub(super) enum Find<'a> {
    Key(&'a DecodingKey),
    /// No key of that name: the set may have become older than the token.
    Unknown,
    /// The key of that name is for something else.
    Unfit,
    /// The token names no key, and not exactly one fits.
    Unnamed,
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set. Beside its keys: what is to be said of those that were left out because something is wrong with them.
    ///
    /// # Errors
    /// It is no key set, has more than [`MAX_KEYS`] keys, or none that a token could be verified with.
    pub(super) fn parse(body: &[u8]) -> Result<(Self, Vec<String>), String> {
        let set: Set<'_> = serde_json::from_slice(body)
            .ok()
            .filter(|_| body.trim_ascii_start().first() == Some(&b'{'))
            .ok_or("the answer is not a key set: a JSON object with a list `keys`")?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("the key set has {} keys, more than {MAX_KEYS}", set.keys.len()));
        }
        let (mut keys, mut odd) = (Self(Vec::new()), Vec::new());
        for (at, raw) in set.keys.into_iter().enumerate() {
            match key(raw) {
                Ok(Some(key)) if keys.clash(&key) => {
                    odd.push(format!("a second key {:?}", key.kid.as_deref().map(shortened)));
                }
                Ok(Some(key)) => keys.0.push(key),
                Ok(None) => {}
                Err(Odd { kid: Some(kid), why }) => odd.push(format!("key {kid:?}: {why}")),
                Err(Odd { kid: None, why }) => odd.push(format!("key number {at}, without a kid: {why}")),
            }
        }
        if keys.0.is_empty() {
            let why = odd.first().map(|odd| format!(" ({odd})")).unwrap_or_default();
            return Err(format!("the key set has no key for RS256, PS256, ES256 or EdDSA{why}"));
        }
        Ok((keys, odd))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is one of that name for the same: then nobody could say which one a token means.
    fn clash(&self, key: &Key) -> bool {
        let same = |own: &&Key| own.kid == key.kid && own.algorithms.iter().any(|one| key.algorithms.contains(one));
        key.kid.is_some() && self.0.iter().any(|own| same(&own))
    }

    /// The key for a token of this algorithm.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Find<'_> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        match kid {
            Some(kid) => {
                let mut named = self.0.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
                if named.peek().is_none() {
                    return Find::Unknown;
                }
                named.find(fits).map_or(Find::Unfit, |key| Find::Key(&key.key))
            }
            None => {
                let mut fitting = self.0.iter().filter(fits);
                match (fitting.next(), fitting.next()) {
                    (Some(key), None) => Find::Key(&key.key),
                    _ => Find::Unnamed,
                }
            }
        }
    }
}

/// What is wrong with a key.
struct Odd {
    kid: Option<String>,
    why: String,
}

/// A key of the set; none for one that is not for us.
fn key(raw: &RawValue) -> Result<Option<Key>, Odd> {
    #[derive(Deserialize)]
    struct Named {
        kid: Option<String>,
    }

    // A derived struct reads an array too, by position.
    if !raw.get().starts_with('{') {
        return Err(Odd { kid: None, why: "is not a JSON object".into() });
    }
    let jwk: Jwk = match serde_json::from_str(raw.get()) {
        Ok(jwk) => jwk,
        Err(error) => {
            let kid = serde_json::from_str::<Named>(raw.get()).ok().and_then(|named| named.kid);
            // It repeats what stands there instead, however long that is.
            let why = error.to_string().chars().take(WHY_CHARS).collect();
            return Err(Odd { kid: kid.as_deref().map(shortened), why });
        }
    };
    let odd = |why: &str| Odd { kid: jwk.kid.as_deref().map(shortened), why: why.into() };
    if jwk.kty == "oct" {
        // Whoever can read the set could sign with it.
        return Err(odd("is a secret, and what a secret can verify it can sign"));
    }
    let verifies = jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if jwk.usage.as_ref().is_some_and(|usage| usage != "sig") || !verifies {
        return Ok(None);
    }
    if jwk.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES) {
        return Err(odd(&format!("its kid is not 1 to {KID_BYTES} bytes")));
    }
    let part = |name: &str, value: &Option<String>| {
        let bytes = value.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
        bytes.ok_or_else(|| odd(&format!("{name} is missing or not base64url")))
    };
    let (possible, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (part("n", &jwk.n)?, part("e", &jwk.e)?);
            let (n, e) = (without_zeros(&n), without_zeros(&e));
            check_rsa(n, e).map_err(|why| odd(&why))?;
            (vec![Algorithm::RS256, Algorithm::PS256], DecodingKey::from_rsa_raw_components(n, e))
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (part("x", &jwk.x)?, part("y", &jwk.y)?);
            if (x.len(), y.len()) != (32, 32) {
                return Err(odd("x and y of P-256 are 32 bytes each"));
            }
            (vec![Algorithm::ES256], DecodingKey::from_ec_der(&[&[4], x.as_slice(), &y].concat()))
        }
        ("OKP", Some("Ed25519")) => {
            let x = part("x", &jwk.x)?;
            if x.len() != 32 {
                return Err(odd("x of Ed25519 is 32 bytes"));
            }
            (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&x))
        }
        ("EC" | "OKP", None) => return Err(odd("crv is missing")),
        _ => return Ok(None),
    };
    let algorithms = match &jwk.alg {
        None => possible,
        Some(name) => match algorithm(name) {
            Some(named) if possible.contains(&named) => vec![named],
            Some(_) => return Err(odd(&format!("alg is not for a key of type {}", jwk.kty))),
            None => return Ok(None),
        },
    };
    Ok(Some(Key { kid: jwk.kid, algorithms, key }))
}

fn shortened(kid: &str) -> String {
    kid.chars().take(64).collect()
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |byte| byte.leading_zeros() as usize));
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !RSA_BITS.contains(&bits) || !odd(n) {
        return Err(format!(
            "n has {bits} bits; an RSA key has {} to {}, and is odd",
            RSA_BITS.start(),
            RSA_BITS.end()
        ));
    }
    if e.len() > 4 || !odd(e) || e == [1] {
        return Err("e must be odd, from 3 to 2^32".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn n(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    fn rsa(kid: &str) -> Value {
        json!({"kty": "RSA", "kid": kid, "n": n(256), "e": "AQAB"})
    }

    fn ec(kid: &str) -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": n(32), "y": n(32)})
    }

    fn parse(keys: &[Value]) -> Result<(Keys, Vec<String>), String> {
        Keys::parse(json!({"keys": keys, "other": 1}).to_string().as_bytes())
    }

    fn edited(mut key: Value, field: &str, value: Value) -> Value {
        key[field] = value;
        key
    }

    /// What is passed over, and in what words.
    #[test]
    fn odd_keys_are_left_out_and_named() {
        for (bad, words) in [
            (edited(rsa("bad"), "n", json!(n(100))), "key \"bad\": n has 800 bits"),
            (edited(rsa("bad"), "n", json!(n(1025))), "key \"bad\": n has 8200 bits"),
            (edited(rsa("bad"), "n", json!("AAAA")), "key \"bad\": n has 0 bits"),
            (edited(rsa("bad"), "n", json!("+/+/")), "key \"bad\": n is missing or not base64url"),
            (edited(rsa("bad"), "n", json!(null)), "key \"bad\": n is missing or not base64url"),
            (edited(rsa("bad"), "n", json!(5)), "key \"bad\": invalid type"),
            (edited(rsa("bad"), "e", json!("")), "key \"bad\": e must be odd"),
            (edited(rsa("bad"), "e", json!("AQ")), "key \"bad\": e must be odd"),
            (edited(rsa("bad"), "alg", json!("ES256")), "key \"bad\": alg is not for a key of type RSA"),
            (edited(ec("bad"), "x", json!(n(31))), "key \"bad\": x and y of P-256 are 32 bytes each"),
            (edited(ec("bad"), "crv", json!(null)), "key \"bad\": crv is missing"),
            (json!({"kty": "OKP", "crv": "Ed25519", "kid": "bad", "x": n(33)}), "x of Ed25519 is 32 bytes"),
            (json!({"kty": "oct", "kid": "bad", "k": n(32), "alg": "HS256"}), "key \"bad\": is a secret"),
            (json!({"kid": "bad"}), "key \"bad\": missing field `kty`"),
            (json!({"kty": "RSA"}), "key number 1, without a kid: n is missing"),
            (edited(rsa("bad"), "kid", json!(5)), "key number 1, without a kid: invalid type"),
            (edited(rsa("bad"), "kid", json!("")), "its kid is not 1 to 512 bytes"),
            (json!(["RSA"]), "key number 1, without a kid"),
            (json!(null), "key number 1, without a kid"),
            (rsa("good"), "a second key Some(\"good\")"),
        ] {
            let (keys, odd) = parse(&[rsa("good"), bad.clone()]).unwrap();
            assert_eq!(keys.len(), 1, "{bad}");
            assert!(matches!(&odd[..], [said] if said.contains(words)), "{bad}: {odd:?}");
        }
    }

    /// A line of the log was as long as what stood in the key: up to 256 KiB.
    #[test]
    fn little_is_said_of_a_key_whatever_is_in_it() {
        let long = "\u{202e}".repeat(10_000);
        let second = edited(rsa("good"), "kid", json!("\u{202e}".repeat(170)));
        for keys in [
            [rsa("good"), edited(rsa("bad"), "key_ops", json!(long))],
            [rsa("good"), edited(rsa(&long), "key_ops", json!(long))],
            [second.clone(), second],
        ] {
            let (_, odd) = parse(&keys).unwrap();
            assert!(matches!(&odd[..], [said] if said.len() < 2048), "{} bytes", odd[0].len());
        }
    }

    /// Nothing is wrong with these; they are for others.
    #[test]
    fn keys_for_something_else_are_passed_over_in_silence() {
        for other in [
            edited(rsa("x"), "use", json!("enc")),
            edited(rsa("x"), "alg", json!("RSA-OAEP")),
            edited(rsa("x"), "alg", json!("RS512")),
            edited(rsa("x"), "key_ops", json!(["encrypt", "wrapKey"])),
            edited(ec("x"), "crv", json!("P-384")),
            json!({"kty": "OKP", "crv": "X25519", "kid": "x", "x": n(32)}),
            json!({"kty": "AKP", "kid": "x", "alg": "ML-DSA-44", "pub": "AAAA"}),
        ] {
            let (keys, odd) = parse(&[rsa("good"), other.clone()]).unwrap();
            assert_eq!((keys.len(), odd.len()), (1, 0), "{other}: {odd:?}");
        }
    }

    #[test]
    fn a_set_of_another_shape_or_without_a_usable_key_is_an_error() {
        for body in
            ["", "null", "[]", "[[]]", "<html>", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "\u{feff}{\"keys\":[]}"]
        {
            assert!(Keys::parse(body.as_bytes()).unwrap_err().contains("is not a key set"), "{body}");
        }
        assert!(Keys::parse(b"\xff\xfe").is_err());
        assert!(parse(&[]).unwrap_err().contains("no key for RS256"));
        assert!(parse(&[json!({"kty": "oct", "kid": "k", "k": "AAAA"})]).unwrap_err().contains("is a secret"));
        let many: Vec<Value> = (0..=MAX_KEYS).map(|at| ec(&at.to_string())).collect();
        assert!(parse(&many).unwrap_err().contains("101 keys, more than 100"));
        assert_eq!(parse(&many[1..]).unwrap().0.len(), MAX_KEYS);
    }

    #[test]
    fn a_key_is_found_by_name_and_for_what_it_is_for() {
        let pinned = edited(rsa("pinned"), "alg", json!("RS256"));
        let (keys, _) = parse(&[rsa("r"), pinned, ec("e")]).unwrap();
        assert!(matches!(keys.find(Some("r"), Algorithm::RS256), Find::Key(_)));
        assert!(matches!(keys.find(Some("r"), Algorithm::PS256), Find::Key(_)));
        assert!(matches!(keys.find(Some("r"), Algorithm::ES256), Find::Unfit));
        assert!(matches!(keys.find(Some("pinned"), Algorithm::PS256), Find::Unfit));
        assert!(matches!(keys.find(Some("else"), Algorithm::RS256), Find::Unknown));
        // Without a name: only where there is no choice.
        assert!(matches!(keys.find(None, Algorithm::ES256), Find::Key(_)));
        assert!(matches!(keys.find(None, Algorithm::PS256), Find::Key(_)));
        assert!(matches!(keys.find(None, Algorithm::RS256), Find::Unnamed));
        assert!(matches!(keys.find(None, Algorithm::EdDSA), Find::Unnamed));
    }
}
