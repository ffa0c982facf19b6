//! The cryptography of tokens: `ring`, which TLS uses anyway, for `jsonwebtoken`.
//!
//! That library brings two choices of its own. RustCrypto is 33 crates, among them an RSA that tells about its key by the
//! time it takes (RUSTSEC-2023-0071); aws-lc is a second large C library, which takes far longer to compile than `ring`.
//!
//! ```text
//! HS256, HS384, HS512     sign and verify, in constant time
//! RS*, PS*, ES*, EdDSA    verify, with a public key of a key set
//! ```

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
    signature::{Error as Mismatch, Signer, Verifier},
};
use ring::{hmac, signature};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For writing key sets, not for reading them; what is not there by default panics.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Must be called before the first token is signed or verified; more often does no harm.
pub(super) fn install() {
    // An error says that the process has one already: ours, as nobody else installs any.
    let _ = PROVIDER.install_default();
}

fn unsupported() -> jsonwebtoken::errors::Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

/// Of one algorithm: what `ring` calls it.
enum Method {
    Hmac(hmac::Algorithm),
    Rsa(&'static signature::RsaParameters),
    /// With a key that is a point of a curve: ECDSA and EdDSA.
    Point(&'static dyn signature::VerificationAlgorithm),
}

/// Fails if the algorithm is not for this family of keys: a public key is no secret to sign with.
fn method(algorithm: Algorithm, key: AlgorithmFamily) -> Result<Method> {
    if !key.algorithms().contains(&algorithm) {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(match algorithm {
        Algorithm::HS256 => Method::Hmac(hmac::HMAC_SHA256),
        Algorithm::HS384 => Method::Hmac(hmac::HMAC_SHA384),
        Algorithm::HS512 => Method::Hmac(hmac::HMAC_SHA512),
        Algorithm::RS256 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        // "Fixed" is the form that JWS has: both numbers, one after the other.
        Algorithm::ES256 => Method::Point(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Method::Point(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Method::Point(&signature::ED25519),
        _ => return Err(unsupported()),
    })
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    match method(*algorithm, key.family())? {
        Method::Hmac(hmac) => Ok(Box::new(Secret(*algorithm, hmac::Key::new(hmac, key.as_bytes())))),
        Method::Rsa(_) | Method::Point(_) => Err(unsupported()),
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    match method(*algorithm, key.family())? {
        Method::Hmac(hmac) => Ok(Box::new(Secret(*algorithm, hmac::Key::new(hmac, key.try_get_as_bytes()?)))),
        Method::Rsa(parameters) => Ok(Box::new(Rsa(*algorithm, parameters, key.clone()))),
        Method::Point(verification) => {
            let key = signature::UnparsedPublicKey::new(verification, key.try_get_as_bytes()?.to_vec());
            Ok(Box::new(Point(*algorithm, key)))
        }
    }
}

struct Secret(Algorithm, hmac::Key);
struct Rsa(Algorithm, &'static signature::RsaParameters, DecodingKey);
struct Point(Algorithm, signature::UnparsedPublicKey<Vec<u8>>);

type Verdict = std::result::Result<(), Mismatch>;

fn verdict(result: std::result::Result<(), ring::error::Unspecified>) -> Verdict {
    result.map_err(|_| Mismatch::new())
}

impl Signer<Vec<u8>> for Secret {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Mismatch> {
        Ok(hmac::sign(&self.1, message).as_ref().to_vec())
    }
}

impl JwtSigner for Secret {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

impl Verifier<Vec<u8>> for Secret {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verdict {
        verdict(hmac::verify(&self.1, message, signature))
    }
}

impl JwtVerifier for Secret {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

impl Verifier<Vec<u8>> for Rsa {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verdict {
        verdict(match self.2.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                signature::RsaPublicKeyComponents { n, e }.verify(self.1, message, signature)
            }
            DecodingKeyKind::SecretOrDer(der) => {
                signature::UnparsedPublicKey::new(self.1, der).verify(message, signature)
            }
        })
    }
}

impl JwtVerifier for Rsa {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

impl Verifier<Vec<u8>> for Point {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verdict {
        verdict(self.1.verify(message, signature))
    }
}

impl JwtVerifier for Point {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{
        crypto::{sign, verify},
        jwk::Jwk,
    };
    use serde_json::{Value, json};

    use super::*;

    /// Of the examples of RFC 7515.
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn key(jwk: Value) -> DecodingKey {
        DecodingKey::from_jwk(&serde_json::from_value::<Jwk>(jwk).unwrap()).unwrap()
    }

    /// RFC 7515, A.2.1.
    fn rsa() -> DecodingKey {
        key(json!({
            "kty": "RSA",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS\
                  -pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2\
                  CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9\
                  gb54h4FRWyuXpoQ",
            "e": "AQAB",
        }))
    }

    /// That the signature is good, and that no other is: not for another text, not with a bit turned, not cut, not none.
    fn verifies(algorithm: Algorithm, key: &DecodingKey, header: &str, payload: &str, signature: &str) {
        install();
        let message = format!("{header}.{payload}");
        let good = |signature: &str, message: &str| verify(signature, message.as_bytes(), key, algorithm).unwrap();
        assert!(good(signature, &message), "{algorithm:?}");
        assert!(!good(signature, &format!("{message}x")), "{algorithm:?}");
        let (first, rest) = signature.split_at(1);
        let other = if first == "A" { "B" } else { "A" };
        assert!(!good(&format!("{other}{rest}"), &message), "{algorithm:?}");
        assert!(!good(&signature[4..], &message), "{algorithm:?}");
        assert!(!good("", &message), "{algorithm:?}");
    }

    #[test]
    fn hs256_signs_and_verifies() {
        // RFC 7515, A.1.
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let header = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
        verifies(Algorithm::HS256, &key(json!({"kty": "oct", "k": secret})), header, PAYLOAD, signature);
        let secret = EncodingKey::from_urlsafe_base64_secret(&format!("{secret}==")).unwrap();
        let signed = sign(format!("{header}.{PAYLOAD}").as_bytes(), &secret, Algorithm::HS256).unwrap();
        assert_eq!(signed, signature);
    }

    #[test]
    fn rs256_verifies() {
        // RFC 7515, A.2.
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJ\
            dbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO\
            --xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypG\
            lUPQGe77Rw";
        verifies(Algorithm::RS256, &rsa(), "eyJhbGciOiJSUzI1NiJ9", PAYLOAD, signature);
    }

    #[test]
    fn ps256_verifies() {
        // Made by OpenSSL with the private key of the same example.
        let signature = "QQpr4xUuCVIDetmN4X33nUKilInFEvTnVDZrY-h-DZcFoNoy6HMpiEy6HfFi4RyAMdujygGRrmleyaGdy_ct9hG6-lHfzyNx8DMez4\
            4VCCLCos13_zOYdC8o2AEw-45wmkZSDn2vrx02cLqoEs-l9P3uRdekLRmcbJvtCgyoa2JLc0pefMFtRnWGPQZ7Qki3wTZW-KZnl9ZGM1Y1sqRW1X1b3\
            Urqx3b8keLOkiK-nO64oHNNbuzt17-P-SjQkgROjdM6Vj4pfFBGar-H8Tlz9aaOF0ILHEq5HAtjpc6nFA1kcOMrrYqhhFZIaAs5c9dGplHCiuLLsxUT\
            MjT2zGpsRw";
        verifies(Algorithm::PS256, &rsa(), "eyJhbGciOiJQUzI1NiJ9", PAYLOAD, signature);
    }

    #[test]
    fn es256_verifies() {
        // RFC 7515, A.3.
        let key = key(json!({
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }));
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        verifies(Algorithm::ES256, &key, "eyJhbGciOiJFUzI1NiJ9", PAYLOAD, signature);
    }

    #[test]
    fn eddsa_verifies() {
        // RFC 8037, A.4.
        let key = key(json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }));
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        verifies(Algorithm::EdDSA, &key, "eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", signature);
    }

    #[test]
    fn a_key_is_good_for_the_algorithms_of_its_family_only() {
        install();
        // A public key, used as the secret of an HMAC, is how forgers confuse verifiers.
        for algorithm in [Algorithm::HS256, Algorithm::ES256, Algorithm::EdDSA] {
            let error = verify("AAAA", b"text", &rsa(), algorithm).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidKeyFormat), "{algorithm:?}: {error}");
        }
        let secret = EncodingKey::from_secret(&[7; 32]);
        assert!(sign(b"text", &secret, Algorithm::RS256).is_err());
    }
}
