//! Configurations loaded from a directory and variables of their own.

mod errors;
mod loading;
mod mistakes;
mod oidc;
mod proxy_sign_in;
mod secrets;
mod traces;
mod values;

use std::path::Path;

use tempfile::TempDir;

use super::{Config, ConfigError, Environment, Loaded, Overrides};

/// The certificate of an authority, in `ca.pem` of each directory.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBiTCCAS+gAwIBAgIUQaqVzwmEVMDuGcNB9eR/Dj3qms4wCgYIKoZIzj0EAwIw\n\
GTEXMBUGA1UEAwwOVGVzdCBhdXRob3JpdHkwIBcNMjYxMTIyMDA0MzU1WhgPMjEy\n\
NjEwMjkwMDQzNTVaMBkxFzAVBgNVBAMMDlRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI\n\
zj0CAQYIKoZIzj0DAQcDQgAELJ2u7z3ECQNA4XiiBaOkfBiG8/FvAl1LompeMQbt\n\
ShEngAbLHFf9cpVwGkGsgHJ9vdgYd2xl+zlCSfSy60/vrqNTMFEwHQYDVR0OBBYE\n\
FPc77eXcUzbBjqKqi6Q4/e83PrNcMB8GA1UdIwQYMBaAFPc77eXcUzbBjqKqi6Q4\n\
/e83PrNcMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgV0okBzDS\n\
H4MF8fgbha/2lwXdVa8j836MmXylJ6tFnkkCIQD+7Nd5HRVWZhKFKNZOxgcBPDg4\n\
xh9GHwHZSHkWT8V5Ag==\n\
-----END CERTIFICATE-----\n";

/// A directory with a configuration file, and variables, to load from.
struct Case {
    directory: TempDir,
    variables: Vec<(String, String)>,
    overrides: Overrides,
}

impl Case {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let variables = vec![("HOME".into(), "/home/ada".into())];
        let case = Self { directory, variables, overrides: Overrides::default() };
        case.write("ca.pem", AUTHORITY);
        case
    }

    fn file(text: &str) -> Self {
        let case = Self::empty();
        case.write("antiphon.toml", text);
        case
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn listen(mut self, address: &str) -> Self {
        self.overrides.listen = Some(address.parse().unwrap());
        self
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn load_from(&self, file: Option<&str>) -> Result<Loaded, ConfigError> {
        let environment: Environment = self.variables.iter().cloned().collect();
        Config::load(file.map(Path::new), self.path(), &environment, self.overrides)
    }

    fn load(&self) -> Config {
        self.load_from(None).unwrap().config
    }

    /// The error text without the directory.
    fn error(&self) -> String {
        self.error_from(None)
    }

    fn error_from(&self, file: Option<&str>) -> String {
        let error = self.load_from(file).unwrap_err();
        error.to_string().replace(&format!("{}/", self.path().display()), "")
    }
}
