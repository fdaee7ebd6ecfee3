//! What differs between two configurations, and what of a new one takes effect without a restart.

use std::collections::BTreeMap;

use super::{Config, Sources};

/// The sections that a reload applies.
const RELOADED: [&str; 3] = ["accounts", "routing", "projects"];

impl Config {
    /// The sections that differ from those of an earlier configuration, but for those that a reload applies.
    pub fn changed_since(&self, earlier: &Self) -> Vec<&'static str> {
        let Self {
            listen,
            admin_listen,
            dashboard,
            auth,
            allowed_hosts,
            store,
            limits,
            timeouts,
            turns,
            background,
            sockets,
            usage,
            log,
            tls,
            traces,
            oidc,
            proxy_sign_in,
            prices,
            // [`RELOADED`]
            accounts: _,
            routing: _,
            projects: _,
            sources: _,
            written: _,
        } = self;
        let sections = [
            ("listen", *listen != earlier.listen),
            ("admin_listen", *admin_listen != earlier.admin_listen),
            ("dashboard", *dashboard != earlier.dashboard),
            ("auth", *auth != earlier.auth),
            ("allowed_hosts", *allowed_hosts != earlier.allowed_hosts),
            ("store", *store != earlier.store),
            ("limits", *limits != earlier.limits),
            ("timeouts", *timeouts != earlier.timeouts),
            ("turns", *turns != earlier.turns),
            ("background", *background != earlier.background),
            ("sockets", *sockets != earlier.sockets),
            ("usage", *usage != earlier.usage),
            ("log", *log != earlier.log),
            ("tls", *tls != earlier.tls),
            ("traces", *traces != earlier.traces),
            ("oidc", *oidc != earlier.oidc),
            ("proxy_sign_in", *proxy_sign_in != earlier.proxy_sign_in),
            ("prices", *prices != earlier.prices),
        ];
        sections.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// What is in effect once this configuration was loaded by a gateway that has started with another one.
    #[must_use]
    pub fn over(&self, started: &Self) -> Self {
        Self {
            accounts: self.accounts.clone(),
            routing: self.routing.clone(),
            projects: self.projects.clone(),
            sources: Sources(values_over(&self.sources.0, &started.sources.0)),
            written: values_over(&self.written, &started.written),
            ..started.clone()
        }
    }
}

/// By the keys of the configuration.
fn values_over(
    new: &BTreeMap<String, String>,
    started: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let is_reloaded = |key: &str| key.split(['.', '[']).next().is_some_and(|name| RELOADED.contains(&name));
    let kept = started.iter().filter(|(key, _)| !is_reloaded(key));
    let values = kept.chain(new.iter().filter(|(key, _)| is_reloaded(key)));
    values.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::{Environment, Overrides};

    fn with(lines: &str) -> Config {
        let environment: Environment = [("HOME".to_owned(), "/home/ada".to_owned())].into_iter().collect();
        let file = Path::new("antiphon.toml");
        Config::parse(Some((file, lines)), Path::new("/"), &environment, Overrides::default()).unwrap()
    }

    #[test]
    fn sections_that_need_a_restart_are_named() {
        let old = Config::default();
        let mut new = Config::default();
        assert!(new.changed_since(&old).is_empty());
        new.listen = "127.0.0.1:1".parse().unwrap();
        new.timeouts.idle = Duration::from_secs(1);
        new.routing.max_queued = 7;
        assert_eq!(new.changed_since(&old), ["listen", "timeouts"]);
    }

    #[test]
    fn values_that_wait_for_a_restart_are_not_in_effect() {
        let account = |name: &str| {
            format!(
                "[[accounts]]\nname = \"{name}\"\nbase_url = \"http://{name}.example/v1\"\napi = \"responses\"\n"
            )
        };
        let started = with(&format!("[timeouts]\nidle = \"90s\"\n{}", account("one")));
        let new = with(&format!(
            "[timeouts]\nidle = \"7m\"\nturn = \"8m\"\n[routing]\nmax_queued = 7\n{}{}",
            account("two"),
            account("three")
        ));
        let in_effect = new.over(&started);
        assert_eq!((&in_effect.accounts, in_effect.routing.max_queued), (&new.accounts, 7));
        assert_eq!(in_effect.timeouts, started.timeouts);
        let origin = |key: &str| in_effect.sources.of(key).kind();
        assert_eq!(["timeouts.idle", "timeouts.turn"].map(origin), ["file", "default"]);
        assert_eq!(["routing.max_queued", "accounts[1].name"].map(origin), ["file"; 2]);
        let shown = in_effect.show();
        assert!(shown.contains("idle = \"90s\"") && shown.contains("three.example"), "{shown}");
        assert_eq!(new.changed_since(&in_effect), ["timeouts"]);
    }

    #[test]
    fn a_secret_is_a_change_although_it_is_not_shown() {
        let secrets = |secret: &str| {
            with(&format!(
                "store.url = \"postgres://ada:{secret}@localhost/db\"\n\
                 [traces]\nendpoint = \"http://localhost:4318\"\nheaders = {{ authorization = \"{secret}\" }}\n\
                 [oidc]\nissuer = \"https://id.example\"\nclient_id = \"antiphon\"\nadmin_values = [\"ops\"]\n\
                 client_secret = {{ value = \"{secret}\" }}\npublic_url = \"https://gateway.example\"\n"
            ))
        };
        let (old, new) = (secrets("one"), secrets("two"));
        assert_eq!(old.show(), new.show());
        assert_eq!(new.changed_since(&old), ["store", "traces", "oidc"]);
        assert!(secrets("one").changed_since(&old).is_empty());
    }
}
