//! A scripted, strict upstream that behaves like the OpenAI Responses API.
//!
//! Start it with [`upstream::Simulator::bind`], script its replies with [`upstream::Script`], and inspect the requests that
//! reached it with [`upstream::Simulator::requests`].

pub mod upstream;
