#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [SIZES=WxH,...] [FRAMES=n] [THREADS=n] bench.sh [CLIP]: speed of this codec and of others on this machine, as a table. See bench.py.
set -euo pipefail
cd "$(dirname "$0")/.."
input=${1:-}
scripts/setup.sh gstreamer1.0-plugins-ugly ffmpeg
cargo build --release --quiet --features train
export GST_PLUGIN_PATH="$PWD/target/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
if [ -z "$input" ]; then
    mkdir -p demo-out
    input=demo-out/source.mkv
    scripts/synthetic-clip.sh "$input"
fi
exec python3 scripts/bench.py "$input" --sizes "${SIZES:-320x180,640x360,1280x720}" --frames "${FRAMES:-150}" --threads "${THREADS:-0}"
