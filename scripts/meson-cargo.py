#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Builds the outputs of meson.build with cargo. The crate has one library name; the plugins are two builds of it."""

import argparse
import filecmp
import os
import pathlib
import shutil
import subprocess

# Output -> cargo's options, and the name of what it makes.
PLUGINS = {
    "libgsttvc.so": (["--lib", "--no-default-features"], "libgsttvc.so"),
    "libgsttvccodec.so": (["--lib", "--features", "codec-plugin"], "libgsttvc.so"),
}
TOOLS = ["--bins", "--features", "train"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["cargo", "source", "target-dir", "profile", "libtorch", "rpath", "out"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("outputs", nargs="+")
    arguments = parser.parse_args()
    source = pathlib.Path(arguments.source)
    environment = dict(os.environ, TVC_RPATH=arguments.rpath)
    if arguments.libtorch:
        environment["LIBTORCH"] = arguments.libtorch
    else:
        environment.pop("LIBTORCH", None)
        subprocess.run([source / "scripts" / "libtorch.sh"], check=True, env=environment)
    for output in arguments.outputs:
        options, made = PLUGINS.get(output, (TOOLS, output))
        command = [arguments.cargo, "build", "--profile", arguments.profile, "--target-dir", arguments.target_dir]
        subprocess.run(command + options, check=True, cwd=source, env=environment)
        folder = "debug" if arguments.profile == "dev" else arguments.profile
        copy(pathlib.Path(arguments.target_dir) / folder / made, pathlib.Path(arguments.out) / output)


def copy(made, output):
    """Leaves an output alone that is the same already: it does not have to be installed again."""
    if not output.exists() or not filecmp.cmp(made, output, shallow=False):
        shutil.copy2(made, output)


if __name__ == "__main__":
    main()
