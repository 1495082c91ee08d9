#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [BITRATE=kbit/s | QUANTIZER=0..63] [LPIPS=weights] against.sh CLIP: the clip as demo.sh codes it, and by x264, x265 (also at half the size) and
# SVT-AV1 in as many bytes as they come near to in two passes; compares, and writes demo-out/against.png.
set -euo pipefail
cd "$(dirname "$0")/.."
input=${1:-}
[ -r "$input" ] || { echo "against: INPUT=clip, one that can be read" >&2; exit 1; }
scripts/setup.sh ffmpeg
scripts/demo.sh "$input"
out=demo-out
passes=$(mktemp -d)
trap 'rm -r "$passes"' EXIT
seconds=$(ffprobe -v error -select_streams v:0 -show_entries stream=nb_read_packets,r_frame_rate -count_packets -of csv=p=0 "$input" \
    | awk -F '[,/]' '{print $3 * $2 / $1}')
rate=$(stat -c %s "$out/clip.tvc" | awk -v s="$seconds" '{printf "%d", $1 * 8 / s}')
size=$(ffprobe -v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0:s=x "$input")
pairs=()

# NAME ENCODER FORMAT FILTER OPTIONS...: codes in two passes, decodes, and adds both files to the pairs.
code() {
    local name=$1 encoder=$2 format=$3 filter=$4
    shift 4
    echo "coding at $rate bit/s: $name"
    for pass in 1 2; do
        ffmpeg -v error -y -i "$input" -map 0:v:0 -vf "$filter" -pix_fmt yuv420p -c:v "$encoder" "$@" -b:v "$rate" -g 250 \
            -pass "$pass" -passlogfile "$passes/$name" -f "$format" "$out/$name" 2>"$passes/errors" >/dev/null \
            || { cat "$passes/errors" >&2; exit 1; }
    done
    ffmpeg -v error -y -i "$out/$name" -fps_mode passthrough -vf "scale=${size/x/:}:flags=bicubic" -pix_fmt yuv420p -c:v ffv1 "$out/$name.mkv"
    pairs+=(--coded "$out/$name" "$out/$name.mkv")
}

x265_log=log-level=error:stats=$passes/x265.log
code x264.h264 libx264 h264 null -preset veryslow
code x265.hevc libx265 hevc null -preset slow -x265-params "$x265_log"
code x265-half.hevc libx265 hevc "scale=trunc(iw/4)*2:trunc(ih/4)*2:flags=bicubic" -preset slow -x265-params "$x265_log"
SVT_LOG=1 code svt-av1.ivf libsvtav1 ivf null -preset 4
target/release/tvc-model compare "$input" --coded "$out/clip.tvc" "$out/decoded.mkv" "${pairs[@]}" --png "$out/against.png" \
    ${LPIPS:+--lpips "$LPIPS"}
