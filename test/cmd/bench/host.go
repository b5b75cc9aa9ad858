// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// What others change on the master's host. A time begins before something is
// deleted, or with the news that an instance waits for, as a program of that
// host hears them; it ends with news, or with an advert on the wire.

// hostWatched is how long the mending of a host is waited for.
const hostWatched = 5 * time.Second

// hostApart is how long something is missing.
const hostApart = 300 * time.Millisecond

// ownMasterDown is Master_Down_Interval of the master, which it waits for when
// it is back.
const ownMasterDown = 3*interval + interval*(256-masterPriority)/256

var hostChanges = []fault{
	{"vip", "address deleted to there again, ms", (*site).addressDeleted, everybody[:3]},
	{"ruleset", "firewall deleted to there again, ms", (*site).rulesetFlushed, everybody[:2]},
	{"link", "link up again to the first advert, above Master_Down_Interval, ms", (*site).linkFlapped, everybody[:3]},
	{"source", "source address there again to the first advert, above Master_Down_Interval, ms", (*site).sourceSet, everybody[:3]},
	{"remade", "interface made anew to the first advert, above Master_Down_Interval, ms", (*site).interfaceRemade, everybody[:3]},
}

func isHostChange(name string) bool {
	return slices.ContainsFunc(hostChanges, func(f fault) bool { return f.name == name })
}

// news is what the kernel of a host told.
type news struct {
	s    *site
	ns   netns.NsHandle
	nft  *nftables.Conn
	mu   sync.Mutex
	told []piece
	lost error // why there is no more of it
}

type piece struct {
	at    time.Time
	what  string
	there bool
}

// The pieces of news.
const (
	newsLink  = "ens33 carries"
	newsTable = "a firewall table"
) // and addresses

func (w *news) tell(what string, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, piece{time.Now(), what, there})
}

func (w *news) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = err
}

// pieces are those so far.
func (w *news) pieces() ([]piece, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told), w.lost
}

// firstOf is the first of a kind after a moment.
func firstOf(told []piece, what string, there bool, after time.Time) (time.Time, bool) {
	for _, p := range told {
		if p.what == what && p.there == there && p.at.After(after) {
			return p.at, true
		}
	}
	return time.Time{}, false
}

// measured asks for a time until it has come, or for as long as it is waited
// for. What then is still wrong is wrong with the trial.
func (w *news) measured(took func(told []piece) (sample, error)) map[string]sample {
	var v sample
	var err error
	w.s.within(hostWatched, func() bool {
		var told []piece
		if told, err = w.pieces(); err != nil {
			return true
		}
		v, err = took(told)
		return err == nil && v < ms(hostWatched)
	})
	w.s.must("measure a change of the host", err)
	return map[string]sample{"": v}
}

// again is the time until something that was deleted is there again.
func (w *news) again(what string, deleted time.Time) map[string]sample {
	return w.measured(func(told []piece) (sample, error) { return againOf(told, what, deleted) })
}

// againOf is the time from before something was deleted to when it was heard to
// be there again, or as long as that is waited for.
func againOf(told []piece, what string, deleted time.Time) (sample, error) {
	gone, ok := firstOf(told, what, false, deleted)
	if !ok {
		return 0, fmt.Errorf("nobody heard that %s is gone", what)
	}
	back, ok := firstOf(told, what, true, gone)
	if !ok {
		return ms(hostWatched), nil
	}
	return ms(back.Sub(deleted)), nil
}

// news listens on a host until the trial ends.
func (s *site) news(n *lab.Node) *news {
	ns, err := netns.GetFromPath(n.Netns())
	s.must("open the namespace of "+n.Name, err)
	s.b.Cleanup(func() { _ = ns.Close() })
	w := &news{s: s, ns: ns}
	stop := make(chan struct{})
	s.b.Cleanup(func() { close(stop) })
	addrs, links := make(chan netlink.AddrUpdate, 64), make(chan netlink.LinkUpdate, 64)
	s.must("listen for addresses", netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{Namespace: &ns, ErrorCallback: w.fail}))
	s.must("listen for links", netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: w.fail}))
	go func() {
		for a := range addrs {
			w.tell(a.LinkAddress.IP.String(), a.NewAddr)
		}
	}()
	go func() {
		for l := range links {
			if l.Link.Attrs().Name == "ens33" {
				up := l.IfInfomsg.Flags&unix.IFF_RUNNING != 0 && l.Header.Type == unix.RTM_NEWLINK
				w.tell(newsLink, up)
			}
		}
	}()
	w.nft, err = nftables.New(nftables.WithNetNSFd(int(ns)))
	s.must("open nftables", err)
	monitor := nftables.NewMonitor(nftables.WithMonitorObject(nftables.MonitorObjectTables))
	tables, err := w.nft.AddMonitor(monitor)
	s.must("listen for tables", err)
	s.b.Cleanup(func() { _ = monitor.Close() })
	go func() {
		for t := range tables {
			if t.Error != nil {
				w.fail(t.Error)
			}
			switch t.Type {
			case nftables.MonitorEventTypeNewTable:
				w.tell(newsTable, true)
			case nftables.MonitorEventTypeDelTable:
				w.tell(newsTable, false)
			}
		}
	}()
	return w
}

func (s *site) addressDeleted(string) map[string]sample {
	w := s.news(s.master)
	h, err := netlink.NewHandleAt(w.ns)
	s.must("ask the kernel of "+s.master.Name, err)
	defer h.Close()
	link, err := h.LinkByName("ens33")
	s.must("find ens33", err)
	addr, err := netlink.ParseAddr(vip + "/24")
	s.must("read the address", err)
	at := time.Now()
	s.must("delete the address", h.AddrDel(link, addr))
	return w.again(vip, at)
}

// rulesetFlushed has an instance that does not accept: it has a firewall.
func (s *site) rulesetFlushed(d string) map[string]sample {
	w, at := s.news(s.master), time.Now()
	s.File(s.master.Name+".conf", strings.Replace(fastConf(masterPriority), "advert_int", "no_accept\nadvert_int", 1))
	s.must("give the instance a firewall", s.reload(d, s.master, s.m))
	s.Eventually("the firewall is there", 5*time.Second, func() bool {
		told, err := w.pieces()
		_, ok := firstOf(told, newsTable, true, at)
		return ok && err == nil
	})
	s.hold(hostApart)
	at = time.Now()
	w.nft.FlushRuleset()
	s.must("flush the ruleset", w.nft.Flush())
	return w.again(newsTable, at)
}

func (s *site) must(what string, err error) {
	if err != nil {
		s.b.Fatalf("%s: %v", what, err)
	}
}

// hostBackup is a number of daemons that keep a journal: without what the
// protocol has a backup wait.
const hostBackup = "the same news to the state BACKUP, ms"

// advertsAgain is the time from the news that an instance waits for to its first
// advert.
func (s *site) advertsAgain(d string, w *news, after time.Time, facts ...string) map[string]sample {
	out := w.measured(func(told []piece) (sample, error) {
		return advertsAgainOf(told, s.wire.Adverts(masterAddr), after, facts...)
	})
	if !ours(d) {
		return out
	}
	events, err := s.journal(s.master)
	s.must("read the events of "+s.master.Name, err)
	told, err := w.pieces()
	s.must("listen for news", err)
	out[hostBackup] = ms(hostWatched)
	last, _ := allOf(told, after, facts...)
	if at, ok := outOfFault(events, after); ok {
		out[hostBackup] = ms(at.Sub(last))
	}
	return out
}

// allOf is when the last of several facts was told that came after a moment.
func allOf(told []piece, after time.Time, facts ...string) (last time.Time, err error) {
	for _, what := range facts {
		at, ok := firstOf(told, what, true, after)
		if !ok {
			return time.Time{}, fmt.Errorf("nobody heard that %s is there again", what)
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}

// advertsAgainOf is the time from the last of the news that an instance waits for
// to its first advert, above what the protocol has it wait, or as long as that is
// waited for. An instance that was not silent before never went away.
func advertsAgainOf(told []piece, adverts []lab.Frame, after time.Time, facts ...string) (sample, error) {
	last, err := allOf(told, after, facts...)
	if err != nil {
		return 0, err
	}
	silent := after.Add(-hostApart / 2)
	for _, f := range adverts {
		switch {
		case f.Time.Before(silent): // one on its way
		case f.Time.After(last):
			return ms(f.Time.Sub(last) - ownMasterDown), nil
		default:
			return 0, fmt.Errorf("it advertised %v before the news", last.Sub(f.Time))
		}
	}
	return ms(hostWatched), nil
}

func (s *site) linkFlapped(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "link", "set", "ens33", "down")
	s.hold(hostApart)
	at := time.Now()
	s.master.Run("ip", "link", "set", "ens33", "up")
	return s.advertsAgain(d, w, at, newsLink)
}

func (s *site) sourceSet(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "address", "del", masterAddr+"/24", "dev", "ens33")
	s.hold(hostApart)
	at := time.Now()
	s.master.Run("ip", "address", "add", masterAddr+"/24", "brd", "+", "dev", "ens33")
	return s.advertsAgain(d, w, at, masterAddr)
}

func (s *site) interfaceRemade(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "link", "del", "ens33")
	s.hold(hostApart)
	at := time.Now()
	s.master.Attach("ens33")
	s.master.Run("ip", "address", "add", masterAddr+"/24", "brd", "+", "dev", "ens33")
	s.master.Run("ip", "link", "set", "ens33", "up")
	return s.advertsAgain(d, w, at, newsLink, masterAddr)
}

// event is the part of a journal's entry that is measured here.
type event struct {
	Time           time.Time
	Kind, From, To string
}

// journal is the events that a daemon keeps. Their time is the wall clock's, of the
// moment at which the loop decided.
func (s *site) journal(n *lab.Node) (out []event, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
		},
	}}
	resp, err := client.Get("http://xvrrp/v1/events?since=0&follow=false")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the daemon answers %s", resp.Status)
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var e event
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, e)
	}
}

// outOfFault is when an instance left the state FAULT for the last time after a
// moment: it may have fallen back into it.
func outOfFault(events []event, after time.Time) (time.Time, bool) {
	for _, e := range slices.Backward(events) {
		if e.Kind == "transition" && e.From == "FAULT" && e.To == "BACKUP" && e.Time.After(after) {
			return e.Time, true
		}
	}
	return time.Time{}, false
}

// hostBars are the bars of what is mended: addresses and rules are put back, and
// an instance is back by itself.
func hostBars(r *result, t bars) {
	for _, f := range hostChanges {
		s := summarize(r.Faults[f.name]["xvrrp"][""])
		if f.name == "vip" || f.name == "ruleset" {
			t.bar(f.name+": "+f.what+", max", 50, s.max, "")
			continue
		}
		t.bar(f.name+": "+f.what+", max", 100, s.max, "")
		t.bar(f.name+": "+hostBackup+", max", 100, summarize(r.Faults[f.name]["xvrrp"][hostBackup]).max, "")
		// Earlier than the protocol allows: it never went away.
		t.bar(f.name+": too early, max: 3 ms + noise floor (timer p99)", 3+summarize(r.Wakeup).p99, -s.min, "ms")
	}
}
