#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [BITRATE=kbit/s | QUANTIZER=0..63] [LPIPS=weights] against.sh CLIP: demo.sh beside all codecs that peer.sh knows.
set -euo pipefail
[ -r "${1:-}" ] || { echo "against: INPUT=clip, one that can be read" >&2; exit 1; }
PEERS="x264 x265 x265-half svt-av1 svt-av1-half" exec "$(dirname "$0")/demo.sh" "$1"
