//! Keys that sign ID tokens.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// Making one takes long.
const RSA_KEY: &str = include_str!("test-key.pem");

/// A key with its id.
pub struct Signer {
    id: String,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Shared(hmac::Key),
}

impl Signer {
    pub fn rsa(id: &str) -> Self {
        let base64: String = RSA_KEY.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64.decode(base64.as_bytes()).expect("a PEM file");
        let key = RsaKeyPair::from_pkcs8(&der).expect("an RSA key");
        Self { id: id.to_owned(), key: Key::Rsa(Box::new(key)) }
    }

    /// With a key of its own.
    pub fn ec(id: &str) -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random);
        Self { id: id.to_owned(), key: Key::Ec(Box::new(key.expect("an EC key"))) }
    }

    /// Another key with the same id.
    pub fn renewed(&self) -> Self {
        Self::ec(&self.id)
    }

    /// With a secret that others know as well.
    pub fn shared(id: &str, secret: &[u8]) -> Self {
        Self { id: id.to_owned(), key: Key::Shared(hmac::Key::new(hmac::HMAC_SHA256, secret)) }
    }

    /// As the provider publishes it.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match &self.key {
            Key::Rsa(key) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": encode(&n), "e": encode(&e)})
            }
            Key::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "use": "sig", "crv": "P-256", "kid": self.id, "x": encode(x), "y": encode(y)})
            }
            Key::Shared(_) => json!({"kty": "oct", "kid": self.id}),
        }
    }

    /// A signed token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let algorithm = match &self.key {
            Key::Rsa(_) => "RS256",
            Key::Ec(_) => "ES256",
            Key::Shared(_) => "HS256",
        };
        let header = json!({"alg": algorithm, "kid": self.id, "typ": "JWT"});
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64URL_NOPAD.encode(&self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature).expect("a signature");
                signature
            }
            Key::Ec(key) => key.sign(&random, text).expect("a signature").as_ref().to_vec(),
            Key::Shared(key) => hmac::sign(key, text).as_ref().to_vec(),
        }
    }
}
