// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

// What the program costs a frame, as BPF_PROG_TEST_RUN measures it: `make
// bench` compares each with the empty program of the same run.

func benchFrame(b *testing.B, prog *ebpf.Program, frame []byte) {
	b.Helper()
	const repeat = 100000
	best := time.Duration(1<<63 - 1)
	for b.Loop() {
		_, d, err := prog.Benchmark(frame, repeat, nil)
		require.NoError(b, err)
		best = min(best, d)
	}
	b.ReportMetric(float64(best.Nanoseconds()), "bpf-ns/frame")
}

func BenchmarkFrame(b *testing.B) {
	requireRoot(b)
	s := packettest.Valid(3)
	udp := packettest.Valid(3)
	udp.Mutate = func(b []byte, ip, _ int) []byte { b[ip+9] = 17; return b }
	b.Run("empty program", func(b *testing.B) {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		require.NoError(b, err)
		defer p.Close()
		benchFrame(b, p, udp.Build())
	})
	b.Run("not VRRP", func(b *testing.B) { benchFrame(b, open(b, ModeNative, ours).prog, udp.Build()) })
	b.Run("steady advert", func(b *testing.B) {
		f := open(b, ModeNative, ours)
		f.Install(ourID, template(s, packet.Append(nil, &s.Advert, s.Src, s.Dst), 1))
		benchFrame(b, f.prog, s.Build())
	})
	b.Run("unknown VRID", func(b *testing.B) { benchFrame(b, open(b, ModeNative).prog, s.Build()) })
	b.Run("over the rate", func(b *testing.B) { benchFrame(b, open(b, ModeNative, ours).prog, s.Build()) })
}
