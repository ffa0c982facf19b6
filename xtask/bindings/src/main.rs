//! Generates JavaScript and type declarations around the SDK's module: `xtask-bindings MODULE NAME FOLDER`.
//!
//! A program of its own, because the generator takes half a minute to compile: xtask itself is there in seconds, and
//! shows this as one of its steps.

use anyhow::{Context as _, Result, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [module, name, folder] = args.as_slice() else { bail!("usage: xtask-bindings MODULE NAME FOLDER") };
    Bindgen::new()
        .input_path(module)
        .web(true)?
        .typescript(true)
        // The face finds the module, as it also must for bundlers and Node; `new URL` here would fetch it twice.
        .omit_default_module_path(true)
        .out_name(name)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(folder)
        .context("the bindings generator failed")
}
