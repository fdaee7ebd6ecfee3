//! A scripted, strict upstream that answers like the OpenAI Responses API.
//!
//! Start an upstream with [`upstream::Simulator::bind`], tell it what to say with [`upstream::Script`], and look at
//! what reached it with [`upstream::Simulator::requests`].

pub mod upstream;
