//! What the configuration means to each part of the gateway.

use std::sync::Arc;

use antiphon_access::keys::Keys;
use antiphon_access::prices::Prices;
use antiphon_config::{Config, OnDisconnect};
use antiphon_runtime::files;
use antiphon_store::QueueLimits;
use antiphon_upstream::settings::UpstreamSettings;
use tokio::sync::Semaphore;

use crate::body_memory::BodyMemory;
use crate::conversations::ConversationLimits;
use crate::http::app_state::BodyLimits;
use crate::http::socket::settings::SocketSettings;
use crate::turn::{BackgroundSettings, TurnSettings};

pub fn upstream_settings(config: &Config) -> UpstreamSettings {
    UpstreamSettings {
        connect_timeout: config.timeouts.connect,
        max_message_bytes: config.limits.max_body,
        key_file: config.store.key_file().unwrap_or_default(),
    }
}

pub fn body_limits(config: &Config) -> BodyLimits {
    let limits = &config.limits;
    BodyLimits {
        max_bytes: limits.max_body,
        read_timeout: config.timeouts.body_read,
        memory: Arc::new(BodyMemory::new(limits.body_memory, limits.body_memory_share())),
    }
}

pub fn socket_settings(config: &Config) -> SocketSettings {
    SocketSettings {
        is_enabled: config.sockets.enabled,
        max_age: config.sockets.max_age,
        ping_interval: config.sockets.ping_interval,
        memory: Arc::new(Semaphore::new(config.sockets.memory / 1024)),
    }
}

pub fn background_settings(
    config: &Config,
    keys: &Arc<Keys>,
    request_memory: &Arc<BodyMemory>,
) -> BackgroundSettings {
    let background = &config.background;
    BackgroundSettings {
        max_running: background.max_running,
        queue: QueueLimits { turns: background.max_queued, bytes: background.max_queued_bytes as u64 },
        max_duration: background.max_duration,
        log_retention: background.log_retention,
        retries: background.retries,
        lease: background.lease,
        keys: Arc::clone(keys),
        request_memory: Arc::clone(request_memory),
    }
}

pub fn turn_settings(config: &Config, background: BackgroundSettings) -> TurnSettings {
    TurnSettings {
        retention: config.store.retention.as_duration(),
        max_chain_depth: config.limits.max_chain_depth,
        conversations: ConversationLimits {
            max_items: config.limits.max_conversation_items.into(),
            max_bytes: config.limits.max_conversation as u64,
            max_project_bytes: config.limits.max_project_conversations as u64,
        },
        max_history_bytes: config.limits.max_history,
        max_reply_bytes: config.limits.max_body,
        first_byte_timeout: config.timeouts.first_byte,
        idle_timeout: config.timeouts.idle,
        keep_alive_interval: config.timeouts.keep_alive,
        turn_timeout: config.timeouts.turn,
        finish_timeout: match config.turns.on_disconnect {
            OnDisconnect::Finish => Some(config.turns.finish_timeout),
            OnDisconnect::Cancel => None,
        },
        max_detached: files::fitting(config.limits.max_connections),
        prices: Arc::new(Prices::new(&config.prices)),
        assumed_output_tokens: config.limits.assumed_output_tokens,
        background,
        traces: None,
    }
}
