#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# peer.sh NAME CLIP SIZED FOLDER: a clip by another codec in two passes, in as many bytes as the file SIZED has, or as near as the codec comes.
# NAME: x264, x265, x265-half, svt-av1 or svt-av1-half (half the width and height, enlarged again). Writes FOLDER/NAME.coded and .mkv.
# Exits with 3 where the codec refuses: x264 codes at no less than 4 kbit/s.
set -euo pipefail
name=$1 input=$2 sized=$3 out=$4
filter=null
case $name in *-half) filter="scale=trunc(iw/4)*2:trunc(ih/4)*2:flags=bicubic" ;; esac
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
case $name in
    x264) format=h264 options=(-c:v libx264 -preset veryslow) ;;
    x265*) format=hevc options=(-c:v libx265 -preset slow -x265-params "log-level=error:stats=$scratch/x265.log") ;;
    svt-av1*) format=ivf options=(-c:v libsvtav1 -preset 4) ;;
    *) echo "peer: unknown $name" >&2; exit 1 ;;
esac
seconds=$(ffprobe -v error -select_streams v:0 -show_entries stream=nb_read_packets,r_frame_rate -count_packets -of csv=p=0 "$input" \
    | awk -F '[,/]' '{print $3 * $2 / $1}')
rate=$(stat -c %s "$sized" | awk -v s="$seconds" '{printf "%d", $1 * 8 / s}')
size=$(ffprobe -v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0:s=x "$input")
for pass in 1 2; do
    SVT_LOG=1 ffmpeg -v error -y -i "$input" -map 0:v:0 -vf "$filter" -pix_fmt yuv420p "${options[@]}" -b:v "$rate" -g 250 \
        -pass "$pass" -passlogfile "$scratch/pass" -f "$format" "$out/$name.coded" 2>"$scratch/errors" >/dev/null \
        || { cat "$scratch/errors" >&2; exit 3; }
done
ffmpeg -v error -y -i "$out/$name.coded" -fps_mode passthrough -vf "scale=${size/x/:}:flags=bicubic" -pix_fmt yuv420p -c:v ffv1 "$out/$name.mkv"
