// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Options of Load. The capacities are fixed for the life of a Collection.
type Options struct {
	// Routers is the number of router ids; 256 if it is 0.
	Routers int
	// Addresses is the number of virtual addresses, and of addresses that
	// adverts are sent from; four for each router if it is 0.
	Addresses int
	// Ports is the number of interfaces; as many as Routers if it is 0. Their
	// counters take memory for each CPU.
	Ports int
	// Version of the daemon, for whoever reads the maps.
	Version string
	// PinDir is the folder for pins; none are made if it is empty. If another
	// daemon has it, a folder beside it is used.
	PinDir string
	// Ifindex is that of an interface that will be attached to. Of several
	// folders that daemons left, it tells which one is a predecessor's.
	Ifindex int
	Log     *slog.Logger
}

const (
	defaultRouters     = 256
	addressesPerRouter = 4
	sourcesPerRouter   = 4
	// One advert of each router and a few more at the same moment.
	ringPerRouter = 1024
)

func (o *Options) setDefaults() {
	if o.Routers <= 0 {
		o.Routers = defaultRouters
	}
	if o.Addresses <= 0 {
		o.Addresses = addressesPerRouter * o.Routers
	}
	if o.Ports <= 0 {
		o.Ports = o.Routers
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Collection is the programs and maps of one daemon.
type Collection struct {
	log  *slog.Logger
	pins pins
	coll *ebpf.Collection
	maps map[string]*ebpf.Map

	egress, exit *ebpf.Program
	opts         Options
	change       func(*ebpf.CollectionSpec)
	ingress      map[string]*ingress // those that a port wanted, by name

	exitLink interface{ Close() error }
	events   *ring
	noise    *ring
	mappings [][]byte

	// Memory that the programs see, by router id, port id or session.
	lease     *rxXvrrpLease
	routers   []rxXvrrpRouter
	templates []rxXvrrpTemplate
	slots     []rxXvrrpSlot
	fences    []rxXvrrpFence
	serving   []rxXvrrpServing
	sessions  []rxXvrrpSession

	// The loop's.
	event Event
	roles []Role // by router id

	// The others'. Where an address or an identity moves from one router to
	// another, the maps have the later one, and so do these.
	mu        sync.Mutex
	live      []bool // by router id
	ids       map[rxXvrrpId]RouterID
	vips      map[rxXvrrpAddress]RouterID
	locals    map[rxXvrrpAddress]rxXvrrpLocal
	ports     map[int]*port // by ifindex
	freePorts []uint32      // port ids
	usedPorts []bool        // by port id: the counters have counted
	orphans   map[rxXvrrpId]orphan
	adopted   map[RouterID]RouterID // to the id that a predecessor had for it
	dead      *ebpf.Map             // fences of that predecessor, whose programs may still count
	pinned    bool                  // everything is, in pins
}

// orphan is the fence of a predecessor's router, and its id there.
type orphan struct {
	was   RouterID
	fence rxXvrrpFence
}

// ingress is the program that meets the frames in one or two of the modes.
type ingress struct {
	*ebpf.Program
	err    error // it cannot be loaded
	pinned bool
}

// Load loads maps and the programs that every port needs; those of a mode are
// loaded with the first port that wants it. Nothing is attached and nothing is
// pinned yet.
func Load(opts Options) (*Collection, error) { return load(opts, func(*ebpf.CollectionSpec) {}) }

// load changes the programs before the kernel gets them.
func load(opts Options, change func(*ebpf.CollectionSpec)) (c *Collection, err error) {
	opts.setDefaults()
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the locked-memory limit: %w: %w", ErrUnsupported, err)
	}
	folder, err := openPins(opts.PinDir, opts.Ifindex)
	if err != nil {
		return nil, err
	}
	c = &Collection{
		opts: opts, change: change, log: opts.Log, pins: folder, ingress: map[string]*ingress{},
		roles: make([]Role, opts.Routers), live: make([]bool, opts.Routers),
		ids: map[rxXvrrpId]RouterID{}, vips: map[rxXvrrpAddress]RouterID{},
		locals: map[rxXvrrpAddress]rxXvrrpLocal{}, ports: map[int]*port{},
		usedPorts: make([]bool, opts.Ports+1),
	}
	for id := uint32(opts.Ports); id > 0; id-- {
		c.freePorts = append(c.freePorts, id)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.release())
			c = nil
		}
	}()
	if err := c.loadPrograms(); err != nil {
		return c, err
	}
	if err := c.mapMemory(); err != nil {
		return c, err
	}
	generation := c.adopt()
	meta := rxXvrrpMeta{Layout: uint32(rxXvrrpLimitXVRRP_LIMIT_LAYOUT), Generation: generation}
	putName(meta.Version[:], opts.Version)
	if err := c.maps["meta"].Put(uint32(0), meta); err != nil {
		return c, fmt.Errorf("write meta: %w", err)
	}
	if err := c.watchExit(); err != nil {
		// The lease still runs out, a little later.
		opts.Log.Warn("no exit hook: the lease of a killed daemon runs out instead of ending at once", "err", err)
	}
	return c, nil
}

// collectionSpec reads the programs of all modes, and sizes the maps. It is
// read again for each program: kept, it would be half a megabyte for ever.
func (c *Collection) collectionSpec() (*ebpf.CollectionSpec, error) {
	opts := &c.opts
	spec, err := loadRx()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	c.change(spec)
	// Any tc program: the kernel may have no tcx.
	spec.Programs["xvrrp_tcx"].AttachType = ebpf.AttachNone
	spec.Programs["xvrrp_egress"].AttachType = ebpf.AttachNone
	routers, addresses, ports := uint32(opts.Routers), uint32(opts.Addresses), uint32(opts.Ports)
	for name, n := range map[string]uint32{
		"ids": routers, "routers": routers, "templates": routers, "slots": routers, "fences": routers,
		"vrid_budgets": routers, "vips": addresses, "locals": addresses,
		// Port 0 is none, but counts.
		"ports": ports, "serving": ports + 1, "counters": ports + 1, "budgets": ports + 1,
	} {
		spec.Maps[name].MaxEntries = max(n, spec.Maps[name].MaxEntries)
	}
	spec.Maps["sources"].MaxEntries = max(sourcesPerRouter*routers, spec.Maps["sources"].MaxEntries)
	ring := uint32(1) << bits.Len32(ringPerRouter*routers-1)
	spec.Maps["events"].MaxEntries = max(ring, spec.Maps["events"].MaxEntries)
	return spec, nil
}

func (c *Collection) loadPrograms() error {
	spec, err := c.collectionSpec()
	if err != nil {
		return err
	}
	for _, name := range []string{programXDP, programTCX} {
		delete(spec.Programs, "xvrrp_"+name)
	}
	if c.coll, err = ebpf.NewCollection(spec); err != nil {
		return fmt.Errorf("load the programs: %w: %w", ErrUnsupported, err)
	}
	c.maps, c.egress, c.exit = c.coll.Maps, c.coll.Programs["xvrrp_egress"], c.coll.Programs["xvrrp_exit"]
	return nil
}

// Names of the programs that meet the frames.
const (
	programXDP = "xdp"
	programTCX = "tcx"
)

func programName(mode Mode) string {
	if mode == ModeTCX {
		return programTCX
	}
	return programXDP
}

// program returns the program of a mode. The kernel takes a tenth of a second to
// verify each, so one that no port wants is not loaded, and one that the kernel
// has refused is not tried again. Other errors, as for want of memory, may pass.
func (c *Collection) program(mode Mode) (*ebpf.Program, error) {
	name := programName(mode)
	if in := c.ingress[name]; in != nil {
		return in.Program, in.err
	}
	prog, err := c.loadProgram("xvrrp_" + name)
	var refused *ebpf.VerifierError
	if err == nil || errors.As(err, &refused) || errors.Is(err, ebpf.ErrNotSupported) {
		c.ingress[name] = &ingress{Program: prog, err: err}
	}
	return prog, err
}

// loadProgram drops the multi-buffer flag where the kernel is older than that
// (5.18) and does not know it.
func (c *Collection) loadProgram(name string) (*ebpf.Program, error) {
	spec, err := c.collectionSpec()
	if err != nil {
		return nil, err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	opts := ebpf.CollectionOptions{MapReplacements: c.maps}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if errors.Is(err, unix.EINVAL) && spec.Programs[name].Flags != 0 {
		c.log.Info("loading a BPF program without support for frames in several buffers", "program", name, "err", err)
		spec.Programs[name].Flags = 0
		coll, err = ebpf.NewCollectionWithOptions(spec, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w: %w", name, ErrUnsupported, err)
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

func (c *Collection) mapMemory() error {
	var err error
	if c.events, err = openRing(c.maps["events"]); err != nil {
		return fmt.Errorf("map events: %w", err)
	}
	if c.noise, err = openRing(c.maps["noise"]); err != nil {
		return fmt.Errorf("map noise: %w", err)
	}
	leases, err := mapArray[rxXvrrpLease](c, "lease")
	if err != nil {
		return err
	}
	c.lease = &leases[0]
	if c.routers, err = mapArray[rxXvrrpRouter](c, "routers"); err != nil {
		return err
	}
	if c.templates, err = mapArray[rxXvrrpTemplate](c, "templates"); err != nil {
		return err
	}
	if c.slots, err = mapArray[rxXvrrpSlot](c, "slots"); err != nil {
		return err
	}
	if c.fences, err = mapArray[rxXvrrpFence](c, "fences"); err != nil {
		return err
	}
	if c.serving, err = mapArray[rxXvrrpServing](c, "serving"); err != nil {
		return err
	}
	c.sessions, err = mapArray[rxXvrrpSession](c, "sessions")
	return err
}

// mapArray views a BPF_F_MMAPABLE array as a slice. Its elements are laid out
// at multiples of eight bytes, as the sizes of all value types are.
func mapArray[T any](c *Collection, name string) ([]T, error) {
	m := c.maps[name]
	n := int(m.MaxEntries())
	var elem T
	page := unix.Getpagesize()
	length := (n*int(unsafe.Sizeof(elem)) + page - 1) &^ (page - 1)
	mem, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	c.mappings = append(c.mappings, mem)
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n), nil
}

// watchExit makes the end of this process end the lease. The program learns
// the process's number by being run from inside it.
func (c *Collection) watchExit() error {
	if _, err := c.exit.Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("run %s: %w", "xvrrp_exit", err)
	}
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exit", Program: c.exit})
	if err != nil {
		return fmt.Errorf("attach to the exit of processes: %w", err)
	}
	c.exitLink = l
	return nil
}

// PinDir returns the folder for pins; it is empty if none are made.
func (c *Collection) PinDir() string { return c.pins.dir }

// KeepPins pins everything again if somebody removed the folder: without pins the
// programs, and the fence, end with this process. It reports whether it had to.
func (c *Collection) KeepPins() (made bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pins.dir == "" || c.pinned && isAt(c.pins.lock, c.pins.dir) {
		return false, nil
	}
	for _, p := range c.ports {
		if p.attached {
			return true, c.pins.save(c, p) // and the others
		}
	}
	return false, nil
}

// Close detaches the programs and removes the pins: the clean stop.
func (c *Collection) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range c.ports {
		errs = append(errs, c.detach(p))
	}
	return errors.Join(append(errs, c.pins.remove(), c.release())...)
}

// release frees what this process holds and leaves pins alone.
func (c *Collection) release() error {
	var errs []error
	for _, r := range []*ring{c.events, c.noise} {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	for _, m := range c.mappings {
		errs = append(errs, unix.Munmap(m))
	}
	c.events, c.noise, c.mappings = nil, nil, nil
	c.lease, c.routers, c.templates, c.slots = nil, nil, nil, nil
	c.fences, c.serving, c.sessions = nil, nil, nil
	for _, p := range c.ports {
		errs = append(errs, closeLink(p.link), closeLink(p.egress))
		p.link, p.egress = nil, nil
	}
	if c.exitLink != nil {
		errs = append(errs, c.exitLink.Close())
		c.exitLink = nil
	}
	closeMap(c.dead)
	c.dead = nil
	for name, p := range c.ingress {
		if p.Program != nil {
			errs = append(errs, p.Close())
		}
		delete(c.ingress, name)
	}
	if c.coll != nil {
		c.coll.Close()
		c.coll = nil
	}
	return errors.Join(append(errs, c.pins.release())...)
}

// putName writes a C string, cut if it is too long.
func putName(to []int8, name string) {
	clear(to)
	for i := 0; i < len(name) && i < len(to)-1; i++ {
		to[i] = int8(name[i])
	}
}
