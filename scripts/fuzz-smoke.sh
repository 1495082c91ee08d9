#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [SECONDS_EACH=30] fuzz-smoke.sh: every fuzz target for a while, with the coverage that a stable compiler can instrument. For more, with a
# nightly compiler's sanitizers: cargo fuzz run TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A named target keeps the instrumentation out of build scripts.
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions $coverage" cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target-dir "$target" --target "$triple"
# The targets are no part of the plugin, whose search path they would have.
export LD_LIBRARY_PATH="${LIBTORCH:-$PWD/libtorch}/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
for source in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    mkdir "$scratch/$name"
    "$target/$triple/release/$name" -max_total_time="${SECONDS_EACH:-30}" -timeout=60 -rss_limit_mb=4096 \
        -artifact_prefix="$scratch/" "$scratch/$name" 2>"$scratch/log" \
        || { tail -n 40 "$scratch/log" >&2; echo "fuzz-smoke: $name failed" >&2; exit 1; }
    grep -oE 'Done [0-9]+ runs.*' "$scratch/log" | sed "s/^/$name: /"
done
