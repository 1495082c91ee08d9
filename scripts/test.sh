#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Everything that must hold: format, lints, documents, tests with and without libtorch, examples, README, installation, fuzz targets.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "== $*"; }
scripts/setup.sh ffmpeg python3-gi gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0

step "format and lints"
# cargo fmt does not see modules that a macro declares, as in lib.rs.
find build.rs src tests benches examples fuzz -name target -prune -o -name '*.rs' -print0 | xargs -0 rustfmt --edition 2021 --check
for features in "--no-default-features --all-targets" --all-targets "--all-targets --features train" "--lib --features codec-plugin"; do
    # shellcheck disable=SC2086 # several options
    cargo clippy --quiet $features -- -D warnings
done
if command -v cargo-deny >/dev/null; then
    cargo deny --offline check licenses bans sources
else
    echo "cargo-deny is not there: licences are not checked"
fi

step "documents of the interface"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps

step "tests without libtorch"
# The plugin without libtorch has the same file name: it is tested first, the full one stays.
cargo test --quiet --no-default-features

step "tests"
cargo build --quiet --features train --lib --bins --examples
cargo test --quiet --features train

step "examples and the README's pipelines"
export GST_PLUGIN_PATH="$PWD/target/debug" GST_REGISTRY="$PWD/target/registry.bin"
target/debug/examples/encode_decode
/usr/bin/python3 examples/encode_decode.py 20
mkdir -p demo-out
clip=demo-out/bikes.mp4
scripts/real-clip.sh "$clip" || { clip=demo-out/source.mkv; scripts/synthetic-clip.sh "$clip"; }
ffmpeg -v error -y -i "$clip" -t 1 -vf scale=160:-2 demo-out/short.mp4
scripts/readme-pipelines.py README.md demo-out/short.mp4
scripts/rtp-examples.py target/debug/examples
scripts/rtsp-example.py
unset GST_PLUGIN_PATH GST_REGISTRY

step "installation"
scripts/check-install.sh
# The plugin of the installation looks for libtorch in a prefix that is gone.
cargo build --quiet --features train --lib

step "fuzz targets"
scripts/fuzz-smoke.sh
