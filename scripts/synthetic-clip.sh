#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# synthetic-clip.sh FILE: ten seconds of moving colour bars and a ball, 640x360, uncompressed, as Matroska.
set -euo pipefail
gst-launch-1.0 -q \
    videomixer name=mix sink_1::xpos=160 sink_1::ypos=60 ! videoconvert ! video/x-raw,format=I420 \
    ! matroskamux ! filesink location="$1" \
    videotestsrc num-buffers=250 pattern=smpte horizontal-speed=2 ! video/x-raw,width=640,height=360,framerate=25/1 ! mix. \
    videotestsrc num-buffers=250 pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 ! mix.
