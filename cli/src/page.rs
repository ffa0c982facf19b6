//! The live page: built into a release binary, read from the checkout by all others.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../web-demo/dist"]
struct Files;

/// The contents of the page's file at `path`; see [`prom_hub::Page`].
pub(crate) fn file(path: &str) -> Option<Cow<'static, [u8]>> {
    Files::get(path).map(|file| file.data)
}
