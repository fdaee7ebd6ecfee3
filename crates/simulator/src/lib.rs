//! A scripted, strict upstream that answers like the OpenAI Responses API, and a load generator.
//!
//! Start an upstream with [`upstream::Simulator::bind`], tell it what to say with [`upstream::Script`], and look at
//! what reached it with [`upstream::Simulator::requests`]. Measure anything that speaks the API with [`load::run`].

pub mod load;
pub mod upstream;
