// SPDX-License-Identifier: Apache-2.0

// Package arch keeps the rooms apart: who may import what, CONTRIBUTING.md.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/xvrrp/xvrrp/"

// rooms has, for each room and for each package of the runtime, what product
// code may import besides the standard library; without is what it may not
// import of that.
var rooms = map[string]struct{ may, without []string }{
	"loader": {
		may: []string{"github.com/cilium/ebpf", "golang.org/x/sys"},
	},
	"control": {
		may:     []string{module + "control"},
		without: []string{"os", "net", "log", "log/slog", "syscall", "os/exec", "sync", "context"},
	},
	"vip": {
		may: []string{module + "control/plan", "github.com/vishvananda/netlink", "github.com/google/nftables", "golang.org/x/sys"},
	},

	internal + "build":     {},
	internal + "clock":     {may: []string{"golang.org/x/sys"}},
	internal + "ctlapi":    {without: []string{"os", "net", "syscall"}},
	internal + "histogram": {without: []string{"sync"}},
	internal + "logging":   {},
	internal + "realtime":  {may: []string{"golang.org/x/sys"}},
	internal + "release": {may: []string{
		module + "cmd/internal/realtime", module + "vip", "golang.org/x/sys",
	}},
	internal + "rundir": {may: []string{"golang.org/x/sys"}},

	internal + "transport": {may: []string{
		module + "cmd/internal/clock", module + "control/bfd", module + "control/packet", module + "loader",
		"golang.org/x/net", "golang.org/x/sys",
	}},
	internal + "engine": {may: []string{
		module + "cmd/internal/clock", module + "cmd/internal/histogram", module + "cmd/internal/transport",
		module + "control", module + "loader", "golang.org/x/sys",
	}, without: []string{"log", "log/slog", "net", "net/http", "context"}},
	internal + "dataplane": {may: []string{
		module + "cmd/internal/engine", module + "cmd/internal/transport", module + "control/bfd", module + "control/config", module + "control/packet",
		module + "control/plan", module + "loader", "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "golang.org/x/sys",
	}},
	internal + "journal":  {may: []string{module + "cmd/internal/engine", module + "control"}},
	internal + "snapshot": {may: []string{module + "cmd/internal/engine", module + "control", module + "loader"}},
	internal + "alarm": {may: []string{
		module + "cmd/internal/engine", module + "cmd/internal/journal", module + "cmd/internal/snapshot", module + "control",
	}},
	internal + "metrics": {may: []string{
		module + "cmd/internal/alarm", module + "cmd/internal/engine", module + "cmd/internal/histogram",
		module + "cmd/internal/snapshot", module + "control", module + "loader", "github.com/prometheus/client_golang",
	}},
	internal + "api": {may: []string{
		module + "cmd/internal/alarm", module + "cmd/internal/ctlapi", module + "cmd/internal/engine",
		module + "cmd/internal/journal", module + "cmd/internal/rundir", module + "cmd/internal/snapshot",
		module + "control", module + "loader", "github.com/prometheus/client_golang", "golang.org/x/net",
		"golang.org/x/sync", "golang.org/x/sys",
	}},
	internal + "daemon": {may: []string{
		module, "github.com/coreos/go-systemd/v22", "golang.org/x/sync",
	}},
}

// internal is the folder of the packages of the runtime. Arrows between them go
// in one direction: what a package may import has a row of its own.
const internal = "cmd/internal/"

func TestEveryPackageHasARow(t *testing.T) {
	entries, err := os.ReadDir("../../" + internal)
	require.NoError(t, err)
	for _, e := range entries {
		_, ok := rooms[internal+e.Name()]
		assert.True(t, ok, "%s has no row: what may it import?", internal+e.Name())
	}
}

// daemon is the root of the runtime.
func TestOnlyTheProgramImportsTheDaemon(t *testing.T) {
	for _, room := range []string{"cmd", "test"} {
		each(t, room, func(path string, f *ast.File) {
			for _, i := range f.Imports {
				if i.Path.Value == strconv.Quote(module+internal+"daemon") {
					assert.Equal(t, "../../cmd/xvrrpd", filepath.Dir(path), path)
				}
			}
		})
	}
}

func TestRooms(t *testing.T) {
	for room, rule := range rooms {
		checked := 0
		each(t, room, func(path string, f *ast.File) {
			checked++
			for _, i := range f.Imports {
				name, err := strconv.Unquote(i.Path.Value)
				require.NoError(t, err)
				assert.True(t, allowed(name, rule.may), "%s imports %s", path, name)
				assert.NotContains(t, rule.without, name, path)
			}
		})
		assert.Positive(t, checked, room)
	}
}

// clocks are what package time has that looks at a clock or waits for it.
var clocks = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "Tick": true, "After": true, "AfterFunc": true,
	"NewTimer": true, "NewTicker": true, "Timer": true, "Ticker": true,
}

// control has no clock and no goroutine.
func TestControlIsPure(t *testing.T) {
	each(t, "control", func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt:
				t.Errorf("%s uses goroutines", path)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && clocks[n.Sel.Name] {
					t.Errorf("%s uses time.%s", path, n.Sel.Name)
				}
			case *ast.ImportSpec:
				if n.Path.Value == `"time"` && n.Name != nil {
					t.Errorf("%s renames time", path)
				}
			}
			return true
		})
	})
}

// The client is a small program: it needs neither BPF nor netlink.
func TestClientKnowsOnlyTheAPI(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/xvrrpctl")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	assert.Contains(t, deps, module+"cmd/internal/ctlapi")
	for _, d := range deps {
		for _, no := range []string{
			module + "loader", module + "control", module + "vip", module + "cmd/internal/daemon",
			"github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/prometheus",
		} {
			assert.False(t, d == no || strings.HasPrefix(d, no+"/"), "xvrrpctl depends on %s", d)
		}
	}
}

func TestNobodyImportsTests(t *testing.T) {
	for _, room := range []string{"loader", "control", "vip", "cmd"} {
		each(t, room, func(path string, f *ast.File) {
			for _, i := range f.Imports {
				assert.False(t, strings.HasPrefix(i.Path.Value, `"`+module+"test"), path)
				for helper := range helpers {
					assert.NotContains(t, i.Path.Value, helper, path)
				}
			}
		})
	}
}

func TestEveryFileHasItsLicence(t *testing.T) {
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		ext := filepath.Ext(path)
		if ext != ".go" && ext != ".c" && ext != ".h" || strings.HasSuffix(path, "_bpfel.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		assert.Contains(t, first, "SPDX-License-Identifier: ", path)
		return nil
	}))
}

func allowed(name string, may []string) bool {
	if !strings.Contains(strings.Split(name, "/")[0], ".") {
		return true // standard library
	}
	for _, m := range may {
		if name == m || strings.HasPrefix(name, strings.TrimSuffix(m, "/")+"/") {
			return true
		}
	}
	return false
}

// helpers are packages for tests alone.
var helpers = map[string]bool{"packettest": true, "controltest": true}

// each parses the product files of a room.
func each(t *testing.T, room string, fn func(path string, f *ast.File)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join("../..", room), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && helpers[d.Name()] {
			if err == nil {
				return fs.SkipDir
			}
			return err
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		fn(path, f)
		return nil
	}))
}

// Lines of documents have at most 120 characters: diffs stay readable. Code
// blocks and generated results are as they are.
func TestDocumentsHaveShortLines(t *testing.T) {
	documents := 0
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		documents++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		written, _, _ := strings.Cut(string(text), "<!-- results -->")
		code := false
		for n, line := range strings.Split(written, "\n") {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if !code {
				assert.LessOrEqual(t, utf8.RuneCountInString(line), 120, "%s:%d", path, n+1)
			}
		}
		return nil
	}))
	assert.Greater(t, documents, 10)
}
