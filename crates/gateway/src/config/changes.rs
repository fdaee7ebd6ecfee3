//! What differs between two configurations.

use super::Config;

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
            // A reload applies these.
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
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{Environment, Overrides};

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
