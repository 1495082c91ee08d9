// SPDX-License-Identifier: MPL-2.0

fn main() {
    gst_plugin_version_helper::info();
    // torch-sys links libtorch but leaves the run-time search path of a downstream library alone.
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
        println!("cargo:rustc-env=TVC_LIBTORCH_LIB={libtorch}");
    }
}
