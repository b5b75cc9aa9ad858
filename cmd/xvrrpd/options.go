// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/syslog"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/xvrrp/xvrrp/cmd/internal/logging"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
)

type options struct {
	config        string
	test          bool
	findings      string // the file that -t adds them to, or onStderr
	version       bool
	signum        string
	foreground    bool
	namespace     string
	configID      string
	pid           string
	controlSocket string
	metricsListen string
	dataplane     string
	logging       logging.Options
	ignored       []string // options of keepalived that mean nothing here
}

// Options of keepalived that are taken and ignored: they concern its other
// half, its processes, or what xvrrpd does not have yet.
var ignoredFlags = []struct{ long, short, usage string }{
	{"vrrp", "P", "run the VRRP half only: always so"},
	{"check", "C", "run the load balancer only"},
	{"no_bfd", "B", "do not run BFD"},
	{"all", "", "run every half"},
	{"flush-log-file", "", "flush the log file: always so"},
	{"release-vips", "X", "remove addresses on transitions"},
	{"dont-release-vrrp", "V", "keep addresses on stop"},
	{"dont-release-ipvs", "I", "keep IPVS on stop"},
	{"dont-respawn", "R", "do not respawn children"},
	{"dump-conf", "d", "dump the configuration"},
	{"snmp", "x", "SNMP"},
	{"core-dump", "m", "core dumps"},
	{"address-monitoring", "a", "log addresses"},
	{"ignore-sigint", "", "ignore SIGINT"},
	{"all-config", "e", "refuse files whose includes match nothing"},
}

var ignoredValues = []struct{ long, short string }{
	{"vrrp_pid", "r"}, {"checkers_pid", "c"}, {"bfd_pid", "b"}, {"snmp-agent-socket", "A"},
	{"umask", "u"}, {corePattern, "M"},
}

const corePattern = "core-dump-pattern"

// attached are the options that have their value in the same word, or none.
var attached = map[string]string{"-M": corePattern, "-t": "config-test"}

// spellOut gives the values of attached options to their long names. Short ones
// with a default would be followed by other short options.
func spellOut(args []string) []string {
	args = slices.Clone(args)
	for n, a := range args {
		if a == "--" {
			break
		}
		if len(a) > 2 && attached[a[:2]] != "" {
			args[n] = "--" + attached[a[:2]] + "=" + strings.TrimPrefix(a[2:], "=")
		}
	}
	return args
}

// onStderr stands for -t without a file.
const onStderr = "-"

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := pflag.NewFlagSet("xvrrpd", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.StringVarP(&o.config, "use-file", "f", "/etc/keepalived/keepalived.conf", "configuration `FILE`")
	f.StringVarP(&o.findings, "config-test", "t", "", "check the configuration, write findings to standard error or =`FILE`, exit: 0 clean, 5 a line is ignored, 4 or 2 it cannot be run")
	f.Lookup("config-test").NoOptDefVal = onStderr
	f.BoolVarP(&o.foreground, "dont-fork", "n", false, "stay in the foreground")
	f.BoolVarP(&o.logging.Console, "log-console", "l", false, "log to standard error")
	f.BoolVarP(&o.logging.Detail, "log-detail", "D", false, "log more")
	facility := f.StringP("log-facility", "S", "daemon", "syslog `FACILITY`: 0 to 7 or local0 to local7, user, daemon")
	f.StringVarP(&o.logging.File, "log-file", "g", "", "log to `FILE`")
	f.BoolVarP(&o.logging.NoSyslog, "no-syslog", "G", false, "do not log to syslog")
	format := f.String("log-format", "text", "text or json")
	f.StringVarP(&o.pid, "pid", "p", "", "pid `FILE`")
	f.StringVarP(&o.namespace, "namespace", "s", "", "run in the network namespace `NAME`")
	f.StringVarP(&o.configID, "config-id", "i", "", "`ID` of @ID lines (default: the host name up to its first dot)")
	f.StringVar(&o.dataplane, "dataplane", "auto", "how adverts are received: auto, native, generic, tcx, socket")
	f.StringVar(&o.controlSocket, "control-socket", "", "`PATH` of the control socket (default below "+rundir.Root+", by namespace and instance)")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "also serve metrics on TCP `ADDRESS`")
	f.StringVar(&o.signum, "signum", "", "print the number of the signal for `FUNCTION` and exit: STOP, RELOAD")
	f.BoolVarP(&o.version, "version", "v", false, "print the version and exit")
	for _, i := range ignoredFlags {
		f.BoolP(i.long, i.short, false, i.usage)
		_ = f.MarkHidden(i.long)
	}
	for _, i := range ignoredValues {
		f.StringP(i.long, i.short, "", "")
		_ = f.MarkHidden(i.long)
	}
	f.Lookup(corePattern).NoOptDefVal = "core"
	if err := f.Parse(spellOut(args)); err != nil {
		return nil, err
	}
	o.test = f.Changed("config-test")
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	f.Visit(func(flag *pflag.Flag) {
		if flag.Hidden {
			o.ignored = append(o.ignored, "--"+flag.Name)
		}
	})
	if *format != "text" && *format != "json" {
		return nil, fmt.Errorf("--log-format: %q is neither text nor json", *format)
	}
	o.logging.JSON = *format == "json"
	var ok bool
	if o.logging.Facility, ok = parseFacility(*facility); !ok {
		return nil, fmt.Errorf("--log-facility: %q is not one of 0 to 7, local0 to local7, user, daemon", *facility)
	}
	if !slices.Contains([]string{"auto", "native", "generic", "tcx", "socket"}, o.dataplane) {
		return nil, fmt.Errorf("--dataplane: %q is not one of auto, native, generic, tcx, socket", o.dataplane)
	}
	return o, nil
}

func parseFacility(s string) (syslog.Priority, bool) {
	switch s {
	case "user":
		return syslog.LOG_USER, true
	case "daemon":
		return syslog.LOG_DAEMON, true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "local"), 10, 8)
	return syslog.LOG_LOCAL0 + syslog.Priority(n)<<3, err == nil && n <= 7
}
