#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# [YES=1] setup.sh [PACKAGE...]: installs what the build needs and this machine lacks: Debian packages, those named as well, and libtorch into
# ./libtorch. Somebody at a terminal is asked before sudo is used, unless YES=1.
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
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    if [ -n "$sudo" ] && [ -t 0 ] && [ -z "${YES:-}" ]; then
        read -r -p "Install ${missing[*]} with sudo apt-get? [y/N] " answer
        [[ $answer == [yY]* ]] || { echo "setup: these packages are needed" >&2; exit 1; }
    fi
    echo "installing ${missing[*]}"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
scripts/libtorch.sh
