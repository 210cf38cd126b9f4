// Webtransportgo is the server on webtransport-go that wtcost measures. It is a
// module of its own because that library does not compile with the version of
// quic-go that Tidewire uses.
//
// It is told what to do as the processes of wtcost are: by one JSON object a line
// of its standard input, each of which it answers with a snapshot of itself.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "side" {
		fmt.Fprintln(os.Stderr, "webtransportgo: wtcost starts it")
		os.Exit(2)
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "webtransportgo:", err)
		os.Exit(1)
	}
}

// snapshot is what wtcost reads.
type snapshot struct {
	CPU        time.Duration
	Count      int
	Mallocs    uint64
	Allocated  uint64 // bytes
	Heap       int64  // bytes
	Stacks     int64  // bytes
	RSS        int64
	Goroutines int
	Error      string
}

func run(argument string) error {
	var task struct {
		Profile string
		Work    struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(argument), &task); err != nil {
		return err
	}
	stop, err := startProfile(task.Profile, task.Work.Kind == "idle")
	if err != nil {
		return err
	}
	defer stop()
	var sessions atomic.Int64
	addr, hash, err := serve(&sessions)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(struct{ Addr, Hash string }{addr.String(), hash}); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var order struct{ Do string }
		if err := in.Decode(&order); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if order.Do == "settle" {
			for range 3 {
				runtime.GC()
				debug.FreeOSMemory()
				time.Sleep(100 * time.Millisecond)
			}
			if err := writeProfiles(task.Profile); err != nil {
				return err
			}
		}
		answer, err := look()
		answer.Count = int(sessions.Load())
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// serve accepts sessions until the process ends, each with a handler that waits
// for its end.
func serve(sessions *atomic.Int64) (net.Addr, string, error) {
	certificate, hash, err := selfSigned()
	if err != nil {
		return nil, "", err
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	mux := http.NewServeMux()
	server := &webtransport.Server{H3: &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		Handler:   mux,
	}}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		sessions.Add(1)
		<-session.Context().Done()
	})
	go func() { _ = server.Serve(packets) }() // ends with the process
	return packets.LocalAddr(), hash, nil
}

// selfSigned makes a certificate of a P-256 key, and its SHA-256 in hex.
func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	sum := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, hex.EncodeToString(sum[:]), nil
}

func look() (snapshot, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return snapshot{}, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s := snapshot{
		CPU:        time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		Mallocs:    memory.Mallocs,
		Allocated:  memory.TotalAlloc,
		Heap:       int64(memory.HeapAlloc),
		Stacks:     int64(memory.StackInuse),
		Goroutines: runtime.NumGoroutine(),
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			s.RSS = kib << 10
			return s, err
		}
	}
	return s, errors.New("no VmRSS in /proc/self/status")
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
