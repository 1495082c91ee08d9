# SPDX-License-Identifier: MPL-2.0
.PHONY: demo against test bench

# Codes INPUT (any file that GStreamer decodes; a test clip without it) and shows what became of it.
demo:
	@scripts/demo.sh "$(INPUT)"

# INPUT at the rate that this codec takes for it, by x264, x265 and SVT-AV1 as well.
against:
	@scripts/against.sh "$(INPUT)"

# Everything that must hold, as CI runs it.
test:
	@scripts/test.sh

# Speed on this machine, beside other codecs: a table. `cargo bench` measures the parts.
bench:
	@scripts/bench.sh "$(INPUT)"
