//! A gateway with a dashboard, and a browser in front of it.

use std::ops::Deref;
use std::sync::Arc;

use antiphon_access::admin::{AdminToken, Role};
use antiphon_access::audit::Actor;
use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Browser, Gateway, ManualClock, Setup};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// One browser at a time, as each takes much of a machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How wide phones are.
pub(crate) const NARROW: u32 = 380;

pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Simulator,
    browser: Browser,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Rig {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        &self.browser
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(|setup| setup).await
    }

    /// With a clock that stands still.
    pub(crate) async fn start_at(clock: &Arc<ManualClock>) -> Self {
        Self::start_with(|setup| setup.clock(clock)).await
    }

    pub(crate) async fn start_with(prepare: impl FnOnce(Setup) -> Setup) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let upstream = Simulator::bind(Options::default()).await.unwrap();
        let gateway = prepare(Setup::over(&upstream)).start().await;
        Self { gateway, upstream, browser: Browser::start().await, _turn: turn }
    }

    pub(crate) async fn token(&self, role: Role) -> String {
        let (store, clock) = (&**self.gateway.app.chains.store(), &*self.gateway.app.env.clock);
        AdminToken::rotate(store, clock, role, Actor::CommandLine).await.unwrap().expose().to_owned()
    }

    /// Opens a page of the dashboard.
    pub(crate) async fn visit(&self, path: &str) {
        self.open(&format!("http://{}{path}", self.gateway.address())).await;
    }

    /// Signs in by hand, and ends on the overview.
    pub(crate) async fn sign_in(&self, role: Role) {
        let token = self.token(role).await;
        self.visit("/login").await;
        self.fill_in_token(&token).await;
        self.until("document.querySelector('nav[aria-label=Screens]')").await;
    }

    pub(crate) async fn fill_in_token(&self, token: &str) {
        self.type_into("input[name=token]", token).await;
        self.click("button[type=submit]").await;
    }

    /// The path and query of the page.
    pub(crate) async fn path(&self) -> String {
        let path = self.run("return location.pathname + location.search").await;
        path.as_str().unwrap().to_owned()
    }

    pub(crate) async fn until_at(&self, path: &str) {
        self.until(&format!("location.pathname + location.search === {}", json!(path))).await;
    }

    /// What every page has to be like.
    pub(crate) async fn assert_well_made(&self) {
        let path = self.path().await;
        for width in [NARROW, 1280, 2560] {
            self.set_width(width).await;
            let overflow = self.run("return document.documentElement.scrollWidth - innerWidth").await;
            assert!(overflow.as_i64() <= Some(0), "{path} scrolls sideways by {overflow} at {width}");
        }
        self.set_width(1280).await;
        let foreign = self
            .run("return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))")
            .await;
        assert_eq!(foreign, json!([]), "{path} requests nothing from elsewhere");
        let violations = self.accessibility_violations().await;
        assert_eq!(violations, json!([]), "{path}: {violations:#}");
        let console = self.console().await;
        assert!(console.is_empty(), "{path}: {console:#?}");
    }

    /// What axe's rules find, each with the elements that break it.
    async fn accessibility_violations(&self) -> Value {
        let axe = antiphon_testkit::client_tool("node_modules/axe-core/axe.min.js");
        self.run(&std::fs::read_to_string(&axe).unwrap_or_else(|_| panic!("{} is missing", axe.display())))
            .await;
        self.run_async(
            "const done = arguments[0]; axe.run({ resultTypes: ['violations'] }).then(found => done(found.violations.map(\
             rule => [rule.id, ...rule.nodes.map(node => node.html + ' ' + node.failureSummary)])))",
        )
        .await
    }
}
