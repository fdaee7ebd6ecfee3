//! The models that an upstream lists at `/models`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use antiphon_protocol::json;
use antiphon_protocol::model::other_name;
use antiphon_protocol::response::array;
use antiphon_store::Timestamp;
use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

/// An older list is requested again when a model is missing from it, or when the list is shown.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// One account's latest list.
#[derive(Debug, Default)]
pub struct Catalog {
    known: Mutex<Option<Arc<Known>>>,
    last_requested: AsyncMutex<Option<Timestamp>>,
}

#[derive(Debug)]
struct Known {
    models: Vec<Model>,
    ids: HashSet<String>,
}

/// Whether a list has a model.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    SoNamed,
    /// By the other name of the same model.
    As(String),
    No,
}

/// Permission to request the list. Others wait until this is dropped, and then request it themselves if no reply was noted.
pub struct Refresh<'a> {
    catalog: &'a Catalog,
    last_requested: MutexGuard<'a, Option<Timestamp>>,
    now: Timestamp,
}

/// The upstream's reply is not a list of models.
#[derive(Debug, thiserror::Error)]
#[error("the reply is not a list of models")]
pub struct NotAList;

/// A model as its upstream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub id: String,
    /// The model object, byte for byte as the upstream sent it.
    pub object: Bytes,
    /// How its upstream describes it to Codex, if it does.
    pub for_codex: Option<Bytes>,
}

/// The models of all accounts, each id once.
#[derive(Debug, Clone, Default)]
pub struct ModelList {
    models: Vec<Model>,
}

// === impl Catalog ===

impl Catalog {
    /// What the list calls the model; `None` while there is no list.
    pub fn find(&self, model: &str) -> Option<Listed> {
        let ids = &self.known()?.ids;
        Some(match other_name(model) {
            _ if ids.contains(model) => Listed::SoNamed,
            Some(other) if ids.contains(&*other) => Listed::As(other.into_owned()),
            _ => Listed::No,
        })
    }

    pub fn is_known(&self) -> bool {
        self.known().is_some()
    }

    pub fn models(&self) -> Vec<Model> {
        self.known().map(|known| known.models.clone()).unwrap_or_default()
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Permission to request the list; `None` if it is fresh. Of concurrent callers only the first gets it.
    pub async fn begin_refresh(&self, now: Timestamp) -> Option<Refresh<'_>> {
        let last_requested = self.last_requested.lock().await;
        if last_requested.is_some_and(|at| at.plus(FRESH_FOR) > now) {
            return None;
        }
        Some(Refresh { catalog: self, last_requested, now })
    }
}

// === impl Refresh ===

impl Refresh<'_> {
    /// Notes that the upstream has replied or failed: it is not asked again for a while.
    pub fn note_reply(&mut self) {
        *self.last_requested = Some(self.now);
    }

    /// Keeps the list in the reply of an account's upstream.
    ///
    /// # Errors
    ///
    /// [`NotAList`] if the reply is not a list of models.
    pub fn finish(&self, body: &Bytes, account: &str) -> Result<(), NotAList> {
        let models = parse(body, account).ok_or(NotAList)?;
        let ids = models.iter().map(|model| model.id.clone()).collect();
        let known = Arc::new(Known { models, ids });
        *self.catalog.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(())
    }
}

/// Reads the API's list in `data`, and the list for Codex in `models`; one of them may be missing.
fn parse(body: &Bytes, account: &str) -> Option<Vec<Model>> {
    json::validate(body).ok()?;
    let list = |name| json::member(body, name).filter(|list| list.first() == Some(&b'['));
    let (data, for_codex) = (list("data"), list("models"));
    data.or(for_codex)?;
    let mut models: Vec<Model> = entries(data, "id")
        .map(|(id, object)| Model { id, object: Bytes::copy_from_slice(object), for_codex: None })
        .collect();
    let places: HashMap<String, usize> =
        models.iter().enumerate().rev().map(|(n, model)| (model.id.clone(), n)).collect();
    for (id, entry) in entries(for_codex, "slug") {
        let entry = Some(Bytes::copy_from_slice(entry));
        match places.get(&id) {
            Some(n) => models[*n].for_codex = entry,
            None => models.push(Model { for_codex: entry, ..Model::configured(&id, account) }),
        }
    }
    Some(models)
}

/// The objects of a list, with the names of their models.
fn entries<'a>(list: Option<&'a [u8]>, name: &'a str) -> impl Iterator<Item = (String, &'a [u8])> {
    let list = list.unwrap_or(b"[]");
    json::elements(list).map_while(Result::ok).filter_map(move |range| {
        let object = &list[range];
        Some((json::string_member(object, name)?.into_owned(), object))
    })
}

// === impl Model ===

impl Model {
    /// A model that only the configuration names.
    pub fn configured(id: &str, owner: &str) -> Self {
        let object = serde_json::json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
        Self { id: id.to_owned(), object: object.to_string().into(), for_codex: None }
    }
}

// === impl ModelList ===

impl ModelList {
    /// The models' names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.id.as_str())
    }

    /// Keeps the first of several models with the same id.
    pub fn merge(models: impl IntoIterator<Item = Model>) -> Self {
        let mut seen = HashSet::new();
        let mut is_new = |id: &str| {
            let is_known = other_name(id).is_some_and(|other| seen.contains(&*other));
            seen.insert(id.to_owned()) && !is_known
        };
        Self { models: models.into_iter().filter(|model| is_new(&model.id)).collect() }
    }

    /// Keeps only the models for which `is_shown` returns `true`.
    #[must_use]
    pub fn only(mut self, is_shown: impl Fn(&str) -> bool) -> Self {
        self.models.retain(|model| is_shown(&model.id));
        self
    }

    pub fn find(&self, id: &str) -> Option<&Model> {
        let find = |id: &str| self.models.iter().find(|model| model.id == id);
        find(id).or_else(|| find(&other_name(id)?))
    }

    /// The API's list object. For Codex it also holds, in `models`, what upstreams say to Codex about theirs. Codex knows most
    /// models itself and keeps what it knows of those that are not there.
    pub fn to_json(&self, for_codex: bool) -> Vec<u8> {
        let mut out = br#"{"object":"list","data":"#.to_vec();
        out.extend(array(self.models.iter().map(|model| &model.object)));
        if for_codex {
            out.extend_from_slice(b",\"models\":");
            out.extend(array(self.models.iter().filter_map(|model| model.for_codex.as_ref())));
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_merged_and_model_objects_are_unchanged() {
        let parse = |text: &'static str| parse(&Bytes::from_static(text.as_bytes()), "acc");
        let first = parse(r#"{"data":[{"id":"a","x":1.0},{"id":"b"},{"no":"id"}]}"#).unwrap();
        let list = ModelList::merge(
            first.into_iter().chain([Model::configured("b", "acc"), Model::configured("c", "acc")]),
        );
        assert_eq!(
            String::from_utf8(list.to_json(false)).unwrap(),
            r#"{"object":"list","data":[{"id":"a","x":1.0},{"id":"b"},{"created":0,"id":"c","object":"model","owned_by":"acc"}]}"#
        );
        assert!(list.find("c").is_some() && list.find("d").is_none());
        let tagged = ModelList::merge(["a:latest", "a", "b:1", "b"].map(|id| Model::configured(id, "acc")));
        assert_eq!(tagged.ids().collect::<Vec<_>>(), ["a:latest", "b:1", "b"]);
        assert_eq!(tagged.find("a").unwrap().id, "a:latest");
        assert!(parse("<html>").is_none() && parse("{}").is_none());
    }

    #[tokio::test]
    async fn a_request_without_a_reply_makes_no_list_fresh() {
        let (catalog, now) = (Catalog::default(), Timestamp::from_unix_ms(0));
        drop(catalog.begin_refresh(now).await);
        let mut refresh = catalog.begin_refresh(now).await.unwrap();
        refresh.note_reply();
        drop(refresh);
        assert!(catalog.begin_refresh(now).await.is_none());
        assert!(catalog.begin_refresh(now.plus(FRESH_FOR)).await.is_some());
    }

    #[test]
    fn entries_for_codex_are_those_of_upstreams_that_have_them() {
        let list = |text: &'static str| parse(&Bytes::from_static(text.as_bytes()), "acc").unwrap();
        let both = list(r#"{"data":[{"id":"a"}],"models":[{"slug":"a","n":1.0},{"name":"no slug"}]}"#);
        let only_for_codex = list(r#"{"models":[{"slug":"b"}]}"#);
        let list = ModelList::merge(both.into_iter().chain(only_for_codex));
        assert_eq!(
            String::from_utf8(list.to_json(true)).unwrap(),
            r#"{"object":"list","data":[{"id":"a"},{"created":0,"id":"b","object":"model","owned_by":"acc"}],"models":[{"slug":"a","n":1.0},{"slug":"b"}]}"#
        );
        let none = ModelList::merge([Model::configured("c", "acc")]).to_json(true);
        assert!(none.ends_with(br#","models":[]}"#));
    }
}
