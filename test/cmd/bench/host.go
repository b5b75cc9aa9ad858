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

// first is the first of a kind after a moment.
func (w *news) first(what string, there bool, after time.Time) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.told {
		if p.what == what && p.there == there && p.at.After(after) {
			return p.at, true
		}
	}
	return time.Time{}, false
}

// all is when the last of several facts was told that came after a moment.
func (w *news) all(after time.Time, facts ...string) (last time.Time, ok bool) {
	for _, what := range facts {
		at, ok := w.first(what, true, after)
		if !ok {
			return time.Time{}, false
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

// again is the time from before something was deleted to when it was heard to be
// there again, or as long as that is waited for.
func (w *news) again(what string, deleted time.Time) sample {
	var back time.Time
	if !w.s.within(hostWatched, func() bool {
		gone, ok := w.first(what, false, deleted)
		if ok {
			back, ok = w.first(what, true, gone)
		}
		return ok
	}) {
		return ms(hostWatched)
	}
	return ms(back.Sub(deleted))
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
	s.must("listen for addresses", netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{Namespace: &ns}))
	s.must("listen for links", netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{Namespace: &ns}))
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
	return map[string]sample{"": w.again(vip, at)}
}

// rulesetFlushed has an instance that does not accept: it has a firewall.
func (s *site) rulesetFlushed(d string) map[string]sample {
	w, at := s.news(s.master), time.Now()
	s.File(s.master.Name+".conf", strings.Replace(fastConf(masterPriority), "advert_int", "no_accept\nadvert_int", 1))
	s.must("give the instance a firewall", s.reload(d, s.master, s.m))
	s.Eventually("the firewall is there", 5*time.Second, func() bool {
		_, ok := w.first(newsTable, true, at)
		return ok
	})
	s.hold(hostApart)
	at = time.Now()
	w.nft.FlushRuleset()
	s.must("flush the ruleset", w.nft.Flush())
	return map[string]sample{"": w.again(newsTable, at)}
}

func (s *site) must(what string, err error) {
	if err != nil {
		s.b.Fatalf("%s: %v", what, err)
	}
}

// hostBackup is a number of daemons that keep a journal: without what the
// protocol has a backup wait.
const hostBackup = "the same news to the state BACKUP, ms"

// back is the time from the last of the news that an instance waits for to its
// first advert, above what the protocol has it wait.
func (s *site) back(d string, w *news, after time.Time, facts ...string) map[string]sample {
	var last, advert time.Time
	if !s.within(hostWatched, func() (ok bool) {
		if last, ok = w.all(after, facts...); !ok {
			return false
		}
		for _, f := range s.wire.Adverts(masterAddr) {
			if f.Time.After(last) {
				advert = f.Time
				return true
			}
		}
		return false
	}) {
		out := map[string]sample{"": ms(hostWatched)}
		if ours(d) {
			out[hostBackup] = ms(hostWatched)
		}
		return out
	}
	out := map[string]sample{"": ms(advert.Sub(last) - ownMasterDown)}
	if ours(d) {
		events, err := s.journal(s.master)
		s.must("read the events of "+s.master.Name, err)
		out[hostBackup] = ms(hostWatched)
		if at, ok := outOfFault(events, after); ok {
			out[hostBackup] = ms(at.Sub(last))
		}
	}
	return out
}

func (s *site) linkFlapped(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "link", "set", "ens33", "down")
	s.hold(hostApart)
	at := time.Now()
	s.master.Run("ip", "link", "set", "ens33", "up")
	return s.back(d, w, at, newsLink)
}

func (s *site) sourceSet(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "address", "del", masterAddr+"/24", "dev", "ens33")
	s.hold(hostApart)
	at := time.Now()
	s.master.Run("ip", "address", "add", masterAddr+"/24", "brd", "+", "dev", "ens33")
	return s.back(d, w, at, masterAddr)
}

func (s *site) interfaceRemade(d string) map[string]sample {
	w := s.news(s.master)
	s.master.Run("ip", "link", "del", "ens33")
	s.hold(hostApart)
	at := time.Now()
	s.master.Attach("ens33")
	s.master.Run("ip", "address", "add", masterAddr+"/24", "brd", "+", "dev", "ens33")
	s.master.Run("ip", "link", "set", "ens33", "up")
	return s.back(d, w, at, newsLink, masterAddr)
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
		bound := 100.0
		if f.name == "vip" || f.name == "ruleset" {
			bound = 50
		}
		numbers := r.Faults[f.name]["xvrrp"]
		t.bar(f.name+": "+f.what+", max", bound, summarize(numbers[""]).max, "")
		if f.name != "vip" && f.name != "ruleset" {
			t.bar(f.name+": "+hostBackup+", max", bound, summarize(numbers[hostBackup]).max, "")
		}
	}
}
