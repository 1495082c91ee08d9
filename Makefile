# SPDX-License-Identifier: MPL-2.0
.PHONY: demo test bench

# Codes INPUT (any file that GStreamer decodes; a test clip without it) and shows what became of it.
demo:
	@scripts/demo.sh "$(INPUT)"

# Everything that must hold, as CI runs it.
test:
	@scripts/test.sh

# Speed on this machine.
bench:
	@scripts/setup.sh && cargo bench
