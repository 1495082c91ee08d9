#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Format, lints, build and tests, with and without libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
cargo clippy --quiet --all-targets --no-default-features -- -D warnings
# The plugin without libtorch has the same file name: it is tested first, the full one stays.
cargo test --quiet --no-default-features
cargo build --quiet
cargo test --quiet
