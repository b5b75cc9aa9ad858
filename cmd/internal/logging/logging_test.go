// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowWriter is an output that nobody reads until open is closed.
type slowWriter struct {
	bytes.Buffer
	entered chan struct{} // a value for each write that began
	open    chan struct{}
	closed  bool
}

func newSlowWriter() *slowWriter {
	return &slowWriter{entered: make(chan struct{}, 100), open: make(chan struct{})}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.entered <- struct{}{}
	<-w.open
	return w.Buffer.Write(p)
}

func (w *slowWriter) Close() error {
	w.closed = true
	return nil
}

func output(o Options, size int, to ...*slowWriter) (*slog.Logger, *Output) {
	out := &Output{}
	for _, w := range to {
		out.queues = append(out.queues, newQueue(w, o, size))
	}
	return slog.New(o.handler(out)), out
}

// Lines that nobody reads are dropped and counted; nobody waits for them.
func TestUnreadLog(t *testing.T) {
	w := newSlowWriter()
	log, out := output(Options{}, 3, w)
	log.Info("first")
	<-w.entered // it has left the queue
	for i := range 3 {
		log.Info("kept", "i", i)
	}
	assert.Zero(t, out.Dropped())
	for range 5 {
		log.Info("dropped")
	}
	assert.Equal(t, uint64(5), out.Dropped())
	close(w.open)
	require.NoError(t, out.Close())
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	require.Len(t, lines, 5)
	for i, want := range []string{"msg=first", "i=0", "i=1", "i=2", "lines=5"} {
		assert.Contains(t, lines[i], want)
	}
	assert.True(t, w.closed)
}

// There is one line about it each time, with what was dropped since the last.
func TestUnreadAgain(t *testing.T) {
	w := newSlowWriter()
	close(w.open)
	q := &queue{to: w, notice: slog.New(Options{}.handler(w))}
	for _, total := range []uint64{0, 2, 2, 7} {
		q.dropped.Store(total)
		q.write([]byte("line\n"))
	}
	assert.Equal(t, 2, strings.Count(w.String(), "lines were dropped"))
	assert.Contains(t, w.String(), "lines=2\n")
	assert.Contains(t, w.String(), "lines=5\n")
}

// One output that is not read does not keep lines from another.
func TestOutputsAreIndependent(t *testing.T) {
	stuck, fine := newSlowWriter(), newSlowWriter()
	close(fine.open)
	log, out := output(Options{}, 1, stuck, fine)
	for i := range 10 {
		log.Info("line", "i", i)
		<-fine.entered
	}
	assert.Positive(t, out.Dropped())
	close(stuck.open)
	require.NoError(t, out.Close())
	assert.Equal(t, 10, strings.Count(fine.String(), "msg=line"))
	assert.NotContains(t, fine.String(), "dropped")
}

func TestCloseGivesUp(t *testing.T) {
	w := newSlowWriter()
	log, out := output(Options{}, 3, w)
	log.Info("first")
	limit, cancel := context.WithCancel(t.Context())
	cancel()
	close(out.queues[0].closing)
	require.ErrorIs(t, out.queues[0].wait(limit), errUnread)
	require.ErrorIs(t, out.queues[0].wait(limit), errUnread, "the limit is for all of them")
	assert.False(t, w.closed, "it is still being written to")
	close(w.open)
}

func TestJSON(t *testing.T) {
	w := newSlowWriter()
	log, out := output(Options{JSON: true}, 1, w)
	log.Info("first")
	<-w.entered
	log.Info("kept")
	log.Info("dropped")
	close(w.open)
	require.NoError(t, out.Close())
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	require.Len(t, lines, 3)
	for _, l := range lines {
		assert.True(t, json.Valid([]byte(l)), l)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, out, err := New(Options{File: path})
	require.NoError(t, err)
	for i := range 100 {
		log.Info(fmt.Sprint(i))
		log.Debug("detail")
	}
	require.NoError(t, out.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, 100, strings.Count(string(text), "\n"))
	assert.NotContains(t, string(text), "detail")

	log, out, err = New(Options{File: path, Detail: true})
	require.NoError(t, err)
	log.Debug("detail")
	require.NoError(t, out.Close())
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	assert.Contains(t, string(text), "detail", "the file is appended to")

	_, _, err = New(Options{File: filepath.Join(path, "none")})
	assert.Error(t, err)
}
