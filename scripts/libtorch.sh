#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Puts the CPU part of libtorch 2.11.0 into ./libtorch from the PyPI wheels (pinned by hash).
#
# The full wheel holds CUDA libraries that a CPU build never loads; only what libtorch_cpu.so needs is
# unpacked. Does nothing when ./libtorch is complete, or when LIBTORCH already points somewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${LIBTORCH:-}" ] && { echo "using LIBTORCH=$LIBTORCH"; exit 0; }
[ -e libtorch/.complete ] && exit 0
echo "fetching libtorch 2.11.0 (530 MB, once)"
tmp=$(mktemp -d -p .)
trap 'rm -rf "$tmp"' EXIT
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    -r scripts/requirements-libtorch.txt -d "$tmp"
rm -rf libtorch
mkdir -p libtorch/lib
unzip -q "$tmp"/torch-*.whl 'torch/include/*' 'torch/lib/libc10.so' 'torch/lib/libgomp.so.1' \
    'torch/lib/libtorch_cpu.so' 'torch/version.py' -d "$tmp/torch"
mv "$tmp"/torch/torch/include libtorch/
mv "$tmp"/torch/torch/lib/* libtorch/lib/
unzip -q -j "$tmp"/nvidia_cuda_runtime-*.whl '*/libcudart.so.13' -d libtorch/lib
unzip -q -j "$tmp"/nvidia_cuda_cupti-*.whl '*/libcupti.so.13' -d libtorch/lib
# The linker asks for -ltorch; everything in it is in libtorch_cpu.
echo 'INPUT(-ltorch_cpu)' > libtorch/lib/libtorch.so
echo 2.11.0 > libtorch/build-version
touch libtorch/.complete
