#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# setup.sh [PACKAGE...]: installs what the build needs and this machine lacks: Debian packages, those named as well, and libtorch into ./libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ pkg-config unzip python3-pip
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-base-apps
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav "$@")
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# A Python of its own, such as pyenv's, brings its own pip.
if python3 -m pip --version >/dev/null 2>&1; then
    missing=("${missing[@]/python3-pip/}")
fi
missing=(${missing[@]})
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
scripts/libtorch.sh
