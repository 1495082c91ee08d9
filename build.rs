// SPDX-License-Identifier: MPL-2.0

fn main() {
    gst_plugin_version_helper::info();
    // torch-sys links libtorch but leaves the run-time search path of a downstream library alone.
    let Ok(built_with) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    // An installation has its libtorch elsewhere than the build.
    println!("cargo:rerun-if-env-changed=TVC_RPATH");
    let installed = std::env::var("TVC_RPATH").ok().filter(|folder| !folder.is_empty());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", installed.unwrap_or(built_with));
}
