//! The provider as `openidconnect` sees it: discovery, requests, and which ID tokens are accepted.

use std::time::{Duration, SystemTime};

use antiphon_config::is_secure;
use antiphon_store::Timestamp;
use antiphon_upstream::transport::ExchangeError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim,
    CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata,
    CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdTokenFields, IdTokenVerifier, IssuerUrl,
    RedirectUrl, StandardErrorResponse, StandardTokenResponse,
};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::claims::OtherClaims;
use super::{Provider, chain_text};

/// Where the provider sends browsers back to.
const REDIRECT_PATH: &str = "/login/callback";
/// For each request to the provider.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a reply of the token endpoint.
const USED_MEMBERS: [&str; 6] =
    ["access_token", "token_type", "id_token", "error", "error_description", "error_uri"];

/// What a provider with keys of its own signs with. With a shared secret, anybody who knows that could sign.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

type Fields = IdTokenFields<
    OtherClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

pub(super) type IdToken = openidconnect::IdToken<
    OtherClaims,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

/// Of the token endpoint.
pub(super) type Reply = StandardTokenResponse<Fields, CoreTokenType>;

/// This gateway at the provider, with the provider's addresses and keys.
pub(super) type Client = openidconnect::Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Reply,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{0} is not an https URL")]
    Insecure(String),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

impl Provider {
    /// Reads the provider's addresses and keys. The error says why they cannot be used.
    pub(super) async fn discover(&self) -> Result<Client, String> {
        let config = &self.config;
        let issuer = IssuerUrl::new(config.issuer.clone()).map_err(|error| chain_text(&error))?;
        let metadata = CoreProviderMetadata::discover_async(issuer, self).await;
        let metadata = metadata.map_err(|error| chain_text(&error))?;
        if !is_secure(metadata.authorization_endpoint().url()) {
            return Err("its authorization endpoint is not an https URL".to_owned());
        }
        let methods = metadata.token_endpoint_auth_methods_supported().map_or(&[][..], Vec::as_slice);
        let only_in_body = methods.contains(&CoreClientAuthMethod::ClientSecretPost)
            && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic);
        let secret = ClientSecret::new(config.client_secret.secret().expose_secret().to_owned());
        let id = ClientId::new(config.client_id.clone());
        let mut redirect = config.public_url.clone();
        redirect.set_path(REDIRECT_PATH);
        Ok(Client::from_provider_metadata(metadata, id, Some(secret))
            .set_redirect_uri(RedirectUrl::from_url(redirect))
            .set_auth_type(if only_in_body { AuthType::RequestBody } else { AuthType::BasicAuth }))
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, SendError> {
        let url = request.uri().to_string();
        if !url.parse().is_ok_and(|url| is_secure(&url)) {
            return Err(SendError::Insecure(url));
        }
        Ok(self.upstream.exchange(request, &self.config.route, REQUEST_TIMEOUT).await?)
    }
}

impl<'c> AsyncHttpClient<'c> for Provider {
    type Error = SendError;
    type Future = BoxFuture<'c, Result<HttpResponse, SendError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        self.send(request).boxed()
    }
}

/// The provider's token endpoint.
pub(super) struct TokenEndpoint<'p>(pub(super) &'p Provider);

impl<'c> AsyncHttpClient<'c> for TokenEndpoint<'_> {
    type Error = SendError;
    type Future = BoxFuture<'c, Result<HttpResponse, SendError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        self.0.send(request).map(|reply| reply.map(without_unused)).boxed()
    }
}

/// Some providers give members that are of no use other types than OAuth does.
fn without_unused(reply: HttpResponse) -> HttpResponse {
    reply.map(|body| match serde_json::from_slice::<Map<String, Value>>(&body) {
        Ok(mut members) => {
            members.retain(|name, _| USED_MEMBERS.contains(&name.as_str()));
            Value::Object(members).to_string().into_bytes()
        }
        Err(_) => body,
    })
}

/// Accepts ID tokens that the provider has issued to this gateway and that are valid at this time. Whether it is right that a
/// token has several audiences is left to the caller.
pub(super) fn verifier(client: &Client, now: Timestamp) -> IdTokenVerifier<'_, CoreJsonWebKey> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.unix_ms().unsigned_abs());
    let verifier = client.id_token_verifier().set_allowed_algs(ALGORITHMS);
    verifier.set_time_fn(move || now.into()).set_other_audience_verifier_fn(|_| true)
}
