package loader

import (
	"errors"
	"github.com/cilium/ebpf"
	"log/slog"
	"testing"
)

func TestOpenX(t *testing.T) {
	for _, m := range []Mode{ModeGeneric, ModeTCX} {
		f, err := Open(Options{Ifindex: 1, Ifname: "lo", Modes: []Mode{m}, Log: slog.Default()})
		if err != nil {
			var ve *ebpf.VerifierError
			errors.As(err, &ve)
			for _, l := range ve.Log[max(0, len(ve.Log)-70):] {
				t.Log(l)
			}
			t.Fatal()
		}
		i, _ := f.prog.Info()
		x, _ := i.VerifiedInstructions()
		t.Log(f.Mode(), x)
		f.Close()
	}
}
