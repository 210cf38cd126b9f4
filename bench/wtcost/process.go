package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// runSide does what the task of a process says, until standard input ends.
func runSide(argument string) error {
	var t task
	if err := json.Unmarshal([]byte(argument), &t); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop, err := startProfile(t.Profile, t.Work.Kind == kindIdle)
	if err != nil {
		return err
	}
	defer stop()
	out := json.NewEncoder(os.Stdout)
	p := &process{task: t}
	if t.Server {
		addr, hash, err := p.listen(ctx)
		if err != nil {
			return err
		}
		if err := out.Encode(struct{ Addr, Hash string }{addr, hash}); err != nil {
			return err
		}
	} else if err := p.dial(ctx); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		failed := p.do(ctx, o)
		answer, err := look()
		answer.Count = int(p.count.Load())
		if err = errors.Join(failed, err); err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// process is what a side does, in its own process.
type process struct {
	task  task
	count atomic.Int64 // of messages, datagrams or sessions

	// client opens the sessions of kindSetUp and kindIdle.
	client *sessionClient
	// transfer is what kindStream and kindDatagram are done with. On a server it
	// comes with the first connection.
	transfer  *transfer
	connected chan *transfer
}

// transferred returns the transfer when there is one.
func (p *process) transferred() *transfer {
	if p.transfer == nil {
		p.transfer = <-p.connected
	}
	return p.transfer
}

// listen starts the server, and returns its address and its certificate's hash.
func (p *process) listen(ctx context.Context) (addr, hash string, err error) {
	identity, err := wt.NewDevIdentity()
	if err != nil {
		return "", "", err
	}
	serve := func(context.Context, link) { p.count.Add(1) }
	if p.task.Work.transfers() {
		p.connected = make(chan *transfer, 1)
		serve = func(ctx context.Context, l link) { p.connected <- newTransfer(ctx, l, p.task, &p.count) }
	}
	var bound net.Addr
	switch {
	case p.task.Library == libWT:
		bound, err = listenWT(identity, serve)
	case p.task.Work.Stream:
		bound, err = listenQUIC(ctx, holdStream, identity, serve)
	default:
		bound, err = listenQUIC(ctx, holdConn, identity, serve)
	}
	if err != nil {
		return "", "", err
	}
	sum := identity.Hash()
	return bound.String(), hex.EncodeToString(sum[:]), nil
}

// dial connects the client, as far as it does not wait for orders to do so.
func (p *process) dial(ctx context.Context) error {
	sum, err := hex.DecodeString(p.task.Hash)
	if err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("hash %q is not a SHA-256 in hex", p.task.Hash)
	}
	hash := [sha256.Size]byte(sum)
	if !p.task.Work.transfers() {
		p.client, err = newSessionClient(p.task, hash)
		return err
	}
	dial := dialQUIC
	if p.task.Library == libWT {
		dial = dialWT
	}
	l, err := dial(ctx, p.task.Addr, hash)
	if err != nil {
		return err
	}
	p.transfer = newTransfer(ctx, l, p.task, &p.count)
	return nil
}

// do obeys an order.
func (p *process) do(ctx context.Context, o order) error {
	switch o.Do {
	case "look":
		return nil
	case "settle":
		settle()
		return writeProfiles(p.task.Profile)
	case "send":
		return p.transferred().send(ctx, o.Count)
	case "receive":
		return p.transferred().receive(o.Count)
	case "open", "open and close":
		err := p.client.open(ctx, o.Count, o.Do == "open and close")
		p.count.Add(int64(o.Count))
		return err
	default:
		return fmt.Errorf("no order %q", o.Do)
	}
}

// settle returns what memory the process does not need.
func settle() {
	for range 3 {
		runtime.GC()
		debug.FreeOSMemory()
		time.Sleep(100 * time.Millisecond)
	}
}

// look returns what the process has used, but for its count.
func look() (snapshot, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return snapshot{}, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	rss, err := residentSet()
	return snapshot{
		CPU:        time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		Mallocs:    memory.Mallocs,
		Allocated:  memory.TotalAlloc,
		Heap:       int64(memory.HeapAlloc),
		Stacks:     int64(memory.StackInuse),
		RSS:        rss,
		Goroutines: runtime.NumGoroutine(),
	}, err
}

// residentSet returns the resident memory of the process in bytes.
func residentSet() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/self/status")
}

// startProfile begins a CPU profile, in a file whose name begins with path, if it
// is not "". A fine profile of the heap takes CPU, so it is made only where it is
// asked for.
func startProfile(path string, heap bool) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	if heap {
		runtime.MemProfileRate = 1
	}
	cpu, err := os.Create(path + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = cpu.Close()
	}, nil
}

// writeProfiles writes profiles of the heap and of the goroutines, to files whose
// names begin with path, if it is not "".
func writeProfiles(path string) error {
	if path == "" {
		return nil
	}
	for _, name := range []string{"heap", "goroutine"} {
		f, err := os.Create(path + "." + name)
		if err != nil {
			return err
		}
		if err := errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
