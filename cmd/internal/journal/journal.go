// SPDX-License-Identifier: Apache-2.0

// Package journal is the one stream of what happened: numbered, in order, kept
// for a while, and told to the log. Nothing in it is lost silently: a gap in
// the numbers is an entry itself.
package journal

import (
	"context"
	"sync"
	"time"
)

// Kind is the kind of an Entry.
type Kind string

const (
	Transition      Kind = "transition"
	Reject          Kind = "reject"
	Recovered       Kind = "recovered"
	FastDetect      Kind = "fast_detect"
	Alarm           Kind = "alarm"
	AlarmOver       Kind = "alarm_over"
	SendFailed      Kind = "send_failed"
	SendRecovered   Kind = "send_recovered"
	AddressFailed   Kind = "address_failed"
	AddressRestored Kind = "address_restored"
	Reloaded        Kind = "reloaded"
	ReloadRefused   Kind = "reload_refused"
	Displaced       Kind = "program_displaced" // by another program, or taken off by force
	Missed          Kind = "missed"
)

// Entry is one thing that happened. Kind says which fields count.
type Entry struct {
	Seq       uint64
	Time      time.Time
	Kind      Kind
	Instance  string // empty for what concerns an interface or the daemon
	Interface string
	From, To  string
	Why       string
	Priority  uint8
	Peer      string
	MAC       string
}

// Journal keeps the newest entries.
type Journal struct {
	mu      sync.Mutex
	kept    []Entry // oldest first
	limit   int
	last    uint64
	changed chan struct{} // closed by the next Append
}

// New returns a Journal that keeps up to limit entries.
func New(limit int) *Journal {
	return &Journal{limit: limit, changed: make(chan struct{})}
}

// Append numbers an entry and keeps it.
func (j *Journal) Append(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.Seq = j.last
	if len(j.kept) == j.limit {
		copy(j.kept, j.kept[1:])
		j.kept = j.kept[:j.limit-1]
	}
	j.kept = append(j.kept, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// Last returns the number of the newest entry, 0 if there is none.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// After returns the entries with a number above seq, oldest first. If some of
// them are not kept any more, the first is a Missed entry with the number of
// the last one that is gone.
func (j *Journal) After(seq uint64) []Entry {
	entries, _ := j.after(seq)
	return entries
}

func (j *Journal) after(seq uint64) ([]Entry, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Entry
	if len(j.kept) > 0 && j.kept[0].Seq > seq+1 {
		out = append(out, Entry{Seq: j.kept[0].Seq - 1, Time: time.Now(), Kind: Missed, Why: "entries are not kept any more"})
	}
	for _, e := range j.kept {
		if e.Seq > seq {
			out = append(out, e)
		}
	}
	return out, j.changed
}

// Follow calls fn with what is kept after seq, and with every later entry,
// until fn fails or ctx ends. A slow fn delays nobody.
func (j *Journal) Follow(ctx context.Context, seq uint64, fn func(Entry) error) error {
	for {
		entries, changed := j.after(seq)
		for _, e := range entries {
			if err := fn(e); err != nil {
				return err
			}
			seq = e.Seq
		}
		if len(entries) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
