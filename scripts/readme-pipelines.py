#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""readme-pipelines.py README CLIP: runs the pipelines of a document as they stand there, in a scratch folder, with CLIP as in.mp4. Sinks
that need a screen show nothing; pipelines that need a camera, a GPU or another machine are named and left out."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Words of pipelines that need what a test machine lacks, and why.
NEEDS = {"v4l2src": "a camera", "device=cuda": "a GPU", "udpsrc": "a sender", "rtsp://": "a server"}
TIMEOUT_S = 120


def commands(text):
    """The gst-launch-1.0 commands of indented blocks, continued lines joined."""
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.startswith("gst-launch-1.0")]


def runnable(command):
    command = command.replace("autovideosink", "fakevideosink")
    if " playbin " in command:
        command += " video-sink=fakevideosink"
    return command.replace("gst-launch-1.0", "gst-launch-1.0 -q", 1)


def main():
    readme, clip = map(pathlib.Path, sys.argv[1:])
    found = commands(readme.read_text())
    if not found:
        sys.exit(f"{readme} has no pipelines")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(clip, pathlib.Path(folder) / "in.mp4")
        for command in found:
            need = next((why for word, why in NEEDS.items() if word in command), None)
            if need:
                print(f"needs {need}: {command}")
                continue
            result = subprocess.run(["bash", "-c", runnable(command)], cwd=folder, timeout=TIMEOUT_S,
                                    capture_output=True, text=True)
            if result.returncode or "ERROR" in result.stderr:
                sys.exit(f"failed: {command}\n{result.stdout}{result.stderr}")
            print(f"works: {command}")


if __name__ == "__main__":
    main()
