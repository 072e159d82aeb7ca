//! Tokens and chat templates.

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod jinja;
mod tokens;
