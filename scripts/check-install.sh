#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [CARGO_TARGET_DIR=folder] check-install.sh: meson install into an empty prefix gives both plugins, each feature once, and they work from there.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
fail() { echo "check-install: $*" >&2; exit 1; }

# Debian's Python has no venv of its own, and its meson is too old.
tools=$PWD/target/meson-tools
[ -x "$tools/bin/meson" ] || python3 -m pip install --quiet --require-hashes --target "$tools" -r scripts/requirements-meson.txt
export PATH="$tools/bin:$PATH" PYTHONPATH="$tools${PYTHONPATH:+:$PYTHONPATH}"
# A debug build without tools shares most of what the tests have built.
meson setup "$scratch/build" -Dprefix="$prefix" -Dlibdir=lib -Dbuildtype=debug -Dtools=false \
    -Dcargo-target-dir="${CARGO_TARGET_DIR:-$PWD/target}" >/dev/null
meson install -C "$scratch/build" --quiet >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "meson install"; }

export GST_PLUGIN_PATH=$prefix/lib/gstreamer-1.0 GST_REGISTRY=$scratch/registry.bin
unset LIBTORCH LD_LIBRARY_PATH
features() { gst-inspect-1.0 "$1" | grep -oE '^  ((rtp)?tvc[a-z_]+)' | tr -d ' ' | sort | tr '\n' ' '; }
[ "$(features tvc)" = "rtptvcdepay rtptvcpay tvc_typefind tvcparse " ] || fail "libgsttvc.so has $(features tvc)"
[ "$(features tvccodec)" = "tvcdec tvcenc " ] || fail "libgsttvccodec.so has $(features tvccodec)"
# Into files first: a grep that ends early would break the pipe, and hide what it found.
ldd "$GST_PLUGIN_PATH/libgsttvc.so" >"$scratch/ldd"
if grep -q torch "$scratch/ldd"; then fail "libgsttvc.so is linked to libtorch"; fi
ldd "$GST_PLUGIN_PATH/libgsttvccodec.so" >"$scratch/ldd"
grep -q "libtorch_cpu.* $prefix" "$scratch/ldd" || fail "libtorch is not the installed one"
PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --exists gsttvc || fail "no pkg-config file"

# A text file must not open libtorch: that takes a third of a second and 110 MB.
echo "some text" >"$scratch/text.txt"
LD_DEBUG=files gst-typefind-1.0 "$scratch/text.txt" >"$scratch/typefind" 2>&1 || true
grep -q libgsttvc.so "$scratch/typefind" || fail "gst-typefind-1.0 does not ask the typefinder"
if grep -q libtorch_cpu "$scratch/typefind"; then fail "gst-typefind-1.0 opens libtorch"; fi

gst-launch-1.0 -q videotestsrc num-buffers=9 ! video/x-raw,width=64,height=48,framerate=25/1 ! tvcenc ! tvcparse \
    ! filesink location="$scratch/clip.tvc"
frames=$(gst-launch-1.0 -v filesrc location="$scratch/clip.tvc" ! decodebin ! identity silent=false ! fakesink \
    | grep -c 'identity.*chain')
[ "$frames" = 9 ] || fail "$frames of 9 frames came back"
echo "check-install: both plugins work from an empty prefix"
