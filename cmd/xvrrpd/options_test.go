// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/config"
)

// hangingStop makes the test program behave like a daemon whose stop hangs.
const hangingStop = "XVRRP_TEST_HANGING_STOP"

func TestMain(m *testing.M) {
	if os.Getenv(hangingStop) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := untilSignal()
	defer stop()
	fmt.Println("serving")
	<-ctx.Done()
	fmt.Println("stopping")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends it
}

func TestSecondSignalEndsAHangingStop(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		limit, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(limit, os.Args[0])
		cmd.Env = append(os.Environ(), hangingStop+"=1")
		_, err := cmd.StdinPipe() // stays open
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(stdout)
		require.True(t, lines.Scan())
		require.Equal(t, "serving", lines.Text())
		require.NoError(t, cmd.Process.Signal(s))
		require.True(t, lines.Scan())
		require.Equal(t, "stopping", lines.Text())
		require.NoError(t, cmd.Process.Signal(s))
		require.False(t, lines.Scan())
		_ = cmd.Wait()
		assert.Equal(t, s, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-nlDf", "/x.conf", "-S", "3", "--dataplane=tcx", "-p/run/p", "-i", "ka1"}, io.Discard)
	require.NoError(t, err)
	assert.True(t, o.foreground)
	assert.True(t, o.logging.Console)
	assert.True(t, o.logging.Detail)
	assert.Equal(t, "/x.conf", o.config)
	assert.Equal(t, syslog.LOG_LOCAL3, o.logging.Facility)
	assert.False(t, o.test)
	assert.Equal(t, "tcx", o.dataplane)
	assert.Equal(t, "/run/p", o.pid)
	assert.Equal(t, "ka1", o.configID)
	assert.Empty(t, o.ignored)
}

// keepalived's own options are taken, whether they mean something here or not.
func TestIgnoredOptions(t *testing.T) {
	o, err := parseOptions([]string{"-P", "-r", "/run/v", "-x", "--no_bfd", "-V", "-e", "-M", "-f", "/x.conf"}, io.Discard)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{
		"--vrrp", "--vrrp_pid", "--snmp", "--no_bfd", "--dont-release-vrrp", "--all-config", "--core-dump-pattern",
	}, o.ignored)
	assert.Equal(t, "/x.conf", o.config, "-e and -M take no word")
	o, err = parseOptions([]string{"-M/var/core.%p", "-f", "/x.conf"}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []string{"--core-dump-pattern"}, o.ignored)
	assert.Equal(t, "/x.conf", o.config)
}

func TestFacilities(t *testing.T) {
	for text, want := range map[string]syslog.Priority{
		"0": syslog.LOG_LOCAL0, "local7": syslog.LOG_LOCAL7, "user": syslog.LOG_USER, "daemon": syslog.LOG_DAEMON,
	} {
		o, err := parseOptions([]string{"-S", text}, io.Discard)
		require.NoError(t, err)
		assert.Equal(t, want, o.logging.Facility, text)
	}
	o, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, syslog.LOG_DAEMON, o.logging.Facility)
}

// Scripts that check a file name one for the findings.
func TestFindingsInAFile(t *testing.T) {
	dir := t.TempDir()
	conf, found := filepath.Join(dir, "k.conf"), filepath.Join(dir, "found")
	require.NoError(t, os.WriteFile(conf, []byte("bogus\n"), 0o600))
	for _, args := range [][]string{{"-t"}, {"--config-test=" + found}, {"-t=" + found}, {"-t" + found}} {
		var stderr bytes.Buffer
		assert.Equal(t, exitConfig, run(append(args, "-f", conf), io.Discard, &stderr))
		assert.Equal(t, len(args[0]) <= 3, stderr.Len() > 0, args)
	}
	text, err := os.ReadFile(found)
	require.NoError(t, err)
	assert.Equal(t, 3, strings.Count(string(text), conf+":1:1: warning: unknown keyword"), "it is added to")
	assert.Equal(t, exitRuntime, run([]string{"--config-test=" + dir, "-f", conf}, io.Discard, io.Discard))
}

func TestBadOptions(t *testing.T) {
	for want, args := range map[string][]string{
		`unexpected argument "extra"`:                  {"extra"},
		`unknown flag: --bogus`:                        {"--bogus"},
		`--dataplane: "quick" is not one of`:           {"--dataplane", "quick"},
		`--log-format: "xml" is neither text nor json`: {"--log-format", "xml"},
		`--log-facility: "8" is not one of 0 to 7`:     {"-S", "8"},
		`flag needs an argument: 'f' in -f`:            {"-f"},
	} {
		var stderr bytes.Buffer
		assert.Equal(t, exitUsage, run(args, io.Discard, &stderr))
		assert.Contains(t, stderr.String(), want)
	}
}

func TestVersionAndSignum(t *testing.T) {
	var out bytes.Buffer
	assert.Equal(t, exitOK, run([]string{"-v"}, &out, io.Discard))
	assert.Contains(t, out.String(), "xvrrpd ")
	out.Reset()
	assert.Equal(t, exitOK, run([]string{"--signum", "STOP"}, &out, io.Discard))
	assert.Equal(t, "15\n", out.String())
	out.Reset()
	assert.Equal(t, exitOK, run([]string{"--signum=RELOAD"}, &out, io.Discard))
	assert.Equal(t, "1\n", out.String())
	assert.Equal(t, exitUsage, run([]string{"--signum", "DANCE"}, io.Discard, io.Discard))
}

func TestExitCodes(t *testing.T) {
	diags := func(s ...config.Severity) (out config.Diagnostics) {
		for _, x := range s {
			out = append(out, config.Diagnostic{Severity: x})
		}
		return out
	}
	assert.Equal(t, exitOK, exitCode(diags(config.Note)))
	assert.Equal(t, exitWarning, exitCode(diags(config.Note, config.Warning)))
	assert.Equal(t, exitMissing, exitCode(diags(config.Warning, config.Missing, config.Warning)))
	assert.Equal(t, exitConfig, exitCode(diags(config.Error, config.Missing, config.Warning)))
}

func TestOSFilesWantRegularFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := osFiles{}.ReadFile(dir)
	assert.ErrorContains(t, err, "is a directory")
	_, err = osFiles{}.ReadFile("/dev/null")
	assert.ErrorContains(t, err, "is not a regular file")
	_, err = osFiles{}.ReadFile(filepath.Join(dir, "none"))
	assert.EqualError(t, err, "no such file or directory")
	file := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	text, err := osFiles{}.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "x", string(text))
}

// A pid file that was asked for must be written.
func TestPIDFile(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	pid, err := claimPID(&options{pid: filepath.Join(dir, "a", "pid")}, "", log)
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "a", "pid"))
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(os.Getpid())+"\n", string(text))
	pid.remove()
	assert.NoFileExists(t, filepath.Join(dir, "a", "pid"))

	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	_, err = claimPID(&options{pid: filepath.Join(dir, "file", "pid")}, "", log)
	assert.Error(t, err)
}
