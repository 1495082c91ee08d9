#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [BITRATE=kbit/s | QUANTIZER=0..63] [PEERS="name ..."] [LPIPS=weights] [YES=1] demo.sh [CLIP]: clip -> demo-out/clip.tvc -> demo-out/decoded.mkv, with
# GStreamer pipelines as a user types them; the same clip by other codecs at the rate next to that which they reach; a table, and demo-out/side-by-side.png.
set -euo pipefail
cd "$(dirname "$0")/.."
input=${1:-}
quantizer=${QUANTIZER:-}
bitrate=${BITRATE:-}
peers=${PEERS-svt-av1-half}
scripts/setup.sh ${peers:+ffmpeg}
echo "building: some ten minutes on two cores the first time"
cargo build --release --quiet --features train
out=demo-out
mkdir -p "$out"
export GST_PLUGIN_PATH="$PWD/target/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"

if [ -z "$input" ]; then
    input=$out/bikes.mp4
    if scripts/real-clip.sh "$input"; then
        echo "no INPUT=: taking $input, ten seconds of cyclists in a street"
    else
        input=$out/source.mkv
        echo "no INPUT=, and no network: making $input, ten seconds of moving colour bars and a ball"
        scripts/synthetic-clip.sh "$input"
    fi
fi
[ -r "$input" ] || { echo "demo: cannot read $input" >&2; exit 1; }
# What is there of another clip must not be taken for this one's.
rm -f "$out"/clip.tvc "$out"/decoded.mkv "$out"/side-by-side.png

now() { date +%s.%N; }
echo "encoding: filesrc ! decodebin ! videoconvert ! tvcenc ! tvcparse ! filesink"
start=$(now)
gst-launch-1.0 -q filesrc location="$input" ! decodebin ! videoconvert \
    ! tvcenc ${quantizer:+quantizer=$quantizer} ${bitrate:+bitrate=$bitrate} ! tvcparse ! filesink location="$out/clip.tvc"
encoded=$(now)
echo "decoding: filesrc ! tvcparse ! tvcdec ! matroskamux ! filesink"
gst-launch-1.0 -q filesrc location="$out/clip.tvc" ! tvcparse ! tvcdec ! video/x-raw,format=I420 \
    ! matroskamux ! filesink location="$out/decoded.mkv"
decoded=$(now)
pairs=(--coded "$out/clip.tvc" "$out/decoded.mkv")
for peer in $peers; do
    echo "at the rate next to that: $peer"
    scripts/peer.sh "$peer" "$input" "$out/clip.tvc" "$out" && refused=0 || refused=$?
    case $refused in
        0) pairs+=(--coded "$out/$peer.coded" "$out/$peer.mkv") ;;
        3) echo "$peer refuses, it is left out" ;;
        *) exit "$refused" ;;
    esac
done
target/release/tvc-model compare "$input" "${pairs[@]}" --png "$out/side-by-side.png" ${LPIPS:+--lpips "$LPIPS"}
echo "$start $encoded $decoded" | awk '{printf "tvc: encoded in %.1f s, decoded in %.1f s, start of the processes and decoding of the source included\n", $2 - $1, $3 - $2}'
