#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""meson-install-libtorch.py FROM TO: installs the shared libraries of a libtorch, below DESTDIR if there is one."""

import os
import pathlib
import shutil
import sys


def main():
    source, folder = map(pathlib.Path, sys.argv[1:])
    root = os.environ.get("DESTDIR")
    if root:
        folder = pathlib.Path(root) / folder.relative_to(folder.anchor)
    folder.mkdir(parents=True, exist_ok=True)
    for library in sorted(source.glob("*.so*")):
        # The linker script is for builds.
        if library.name != "libtorch.so":
            print(f"Installing {library.name} to {folder}")
            shutil.copy2(library, folder)


if __name__ == "__main__":
    main()
