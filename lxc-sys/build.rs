//! Bindings of our own declaration of liblxc's ABI; the library itself is found by pkg-config.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let header = "../vendor-headers/warren-lxc.h";
    println!("cargo:rerun-if-changed={header}");
    pkg_config::Config::new().atleast_version("5.0").probe("lxc")?;
    bindgen::Builder::default()
        .header(header)
        .allowlist_type("lxc_container|lxc_attach_options_t|lxc_attach_command_t|migrate_opts")
        .allowlist_function(
            "lxc_container_new|lxc_container_put|lxc_get_version|lxc_has_api_extension|lxc_attach_run_command|lxc_config_item_is_supported",
        )
        .derive_default(false)
        .derive_copy(false)
        .generate_comments(false)
        .layout_tests(true)
        .generate()?
        .write_to_file(PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs"))?;
    Ok(())
}
