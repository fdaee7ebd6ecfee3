//! Limits as operators write them, in requests and in the configuration.

use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::Window;
use crate::object;
use crate::pattern::PatternText;

/// The limits of a key or a project. All of them apply at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object of limits")]
#[schema(as = Limits)]
pub struct LimitSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub concurrent_turns: Option<u64>,
    /// The same limits for some models only.
    #[serde(default, deserialize_with = "object::list", skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 50)]
    pub per_model: Option<Vec<ModelLimits>>,
    #[serde(default, deserialize_with = "object::list", skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 50)]
    pub budgets: Option<Vec<Budget>>,
}

/// Limits that some models share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with models and their limits")]
pub struct ModelLimits {
    #[schema(min_items = 1, max_items = 50)]
    pub models: Vec<PatternText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub concurrent_turns: Option<u64>,
}

/// How many tokens, or how much cost, may be used in a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with tokens or cost, and a window")]
pub struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_u64)]
    pub tokens: Option<u64>,
    /// In US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1_000_000)]
    pub cost: Option<Number>,
    pub window: Window,
    /// Default: all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 50)]
    pub models: Option<Vec<PatternText>>,
}
