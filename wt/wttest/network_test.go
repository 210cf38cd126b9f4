package wttest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// arrival is a packet and when it came, since the start of the test.
type arrival struct {
	text  string
	after time.Duration
}

// listen collects what arrives at an endpoint until none has come for a minute.
func listen(t *testing.T, e *wttest.Endpoint) []arrival {
	t.Helper()
	began := time.Now()
	var got []arrival
	b := make([]byte, 2000)
	for {
		if err := e.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, _, err := e.ReadFrom(b)
		if err != nil {
			return got
		}
		got = append(got, arrival{string(b[:n]), time.Since(began)})
	}
}

// send sends texts from one endpoint to another.
func send(t *testing.T, from, to *wttest.Endpoint, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := from.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to.Addr())); err != nil {
			t.Fatal(err)
		}
	}
}

// inBubble runs f with two endpoints of a network, in virtual time.
func inBubble(t *testing.T, link wttest.Link, seed uint64, f func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, link, seed)
		f(t, n, n.NewEndpoint(), n.NewEndpoint())
	})
}

func numbers(n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprint(i)
	}
	return texts
}

func texts(arrivals []arrival) []string {
	var got []string
	for _, a := range arrivals {
		got = append(got, a.text)
	}
	return got
}

func TestPerfectLink(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		send(t, a, b, numbers(1000)...)
		got := listen(t, b)
		if !slices.Equal(texts(got), numbers(1000)) || got[999].after != 0 {
			t.Errorf("got %v", got)
		}
		if s := n.Stats(); s != (wttest.Stats{Sent: 1000, Delivered: 1000}) {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestRate(t *testing.T) {
	link := wttest.Link{Latency: 7 * time.Second, Rate: 100, Queue: 500}
	inBubble(t, link, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		packet := strings.Repeat("x", 100)
		send(t, a, b, slices.Repeat([]string{packet}, 8)...)
		got := listen(t, b)
		if len(got) != 5 {
			t.Fatalf("%d packets passed a queue of 5", len(got))
		}
		for i, p := range got {
			if want := time.Duration(i+1)*time.Second + 7*time.Second; p.after != want {
				t.Errorf("packet %d after %v, want %v", i, p.after, want)
			}
		}
		if n.Stats().Overflowed != 3 {
			t.Errorf("stats %+v", n.Stats())
		}
		send(t, a, b, packet) // the link has rested since
		if got := listen(t, b); len(got) != 1 || got[0].after != 8*time.Second {
			t.Errorf("later: %v", got)
		}
	})
}

// Loss and repetition come in their shares, are counted, and depend on the seed
// alone.
func TestRandomIsOfTheSeed(t *testing.T) {
	run := func(seed uint64) (got []string, stats wttest.Stats) {
		link := wttest.Link{Loss: 0.1, Duplicate: 0.2, Reorder: 0.3, Jitter: time.Millisecond}
		inBubble(t, link, seed, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
			send(t, a, b, numbers(1000)...)
			got, stats = texts(listen(t, b)), n.Stats()
		})
		return got, stats
	}
	first, stats := run(1)
	again, _ := run(1)
	other, _ := run(2)
	if !slices.Equal(first, again) {
		t.Error("one seed gave two results")
	}
	if slices.Equal(first, other) {
		t.Error("two seeds gave one result")
	}
	if stats.Lost < 70 || stats.Lost > 130 || stats.Duplicated < 130 || stats.Duplicated > 230 || stats.Reordered < 220 || stats.Reordered > 320 {
		t.Errorf("shares are far from 10, 20 and 30 %%: %+v", stats)
	}
	if len(first) != 1000-stats.Lost+stats.Duplicated || stats.Delivered != len(first) {
		t.Errorf("%d arrived, stats %+v", len(first), stats)
	}
}

func TestReorder(t *testing.T) {
	link := wttest.Link{Reorder: 1, ReorderBy: 5 * time.Second}
	inBubble(t, link, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		send(t, a, b, "first")
		a.SetLink(wttest.Link{})
		send(t, a, b, "second")
		want := []arrival{{"second", 0}, {"first", 5 * time.Second}}
		if got := listen(t, b); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if n.Stats().Reordered != 1 {
			t.Errorf("stats %+v", n.Stats())
		}
	})
}

func TestMTU(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		send(t, a, b, strings.Repeat("x", 1452), strings.Repeat("x", 1453))
		if got := listen(t, b); len(got) != 1 || len(got[0].text) != 1452 || n.Stats().TooLarge != 1 {
			t.Errorf("%d arrived, stats %+v", len(got), n.Stats())
		}
	})
}

func TestPartition(t *testing.T) {
	inBubble(t, wttest.Link{Latency: time.Second}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		send(t, a, b, "under way")
		n.Partition()
		send(t, a, b, "cut")
		n.Heal()
		send(t, a, b, "healed")
		b.Partition()
		send(t, a, b, "cut off")
		send(t, b, a, "cut off")
		b.Heal()
		send(t, a, b, "again")
		if got := texts(listen(t, b)); !slices.Equal(got, []string{"under way", "healed", "again"}) {
			t.Errorf("got %q", got)
		}
		if n.Stats().Cut != 3 {
			t.Errorf("stats %+v", n.Stats())
		}
	})
}

func TestHold(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, _ *wttest.Network, a, b *wttest.Endpoint) {
		a.Hold()
		send(t, a, b, "1", "2", "3")
		if got := listen(t, b); got != nil {
			t.Errorf("held packets arrived: %v", got)
		}
		a.Release()
		a.Hold()
		send(t, a, b, "4", "5", "6")
		a.ReleaseReversed()
		send(t, a, b, "7")
		if got := texts(listen(t, b)); !slices.Equal(got, []string{"1", "2", "3", "6", "5", "4", "7"}) {
			t.Errorf("got %q", got)
		}
	})
}

func TestIntercept(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		n.Intercept(func(p wttest.Packet) wttest.Fate {
			if p.From != a || p.To != b.Addr() || !bytes.Equal(p.Data, fmt.Append(nil, p.N)) {
				t.Errorf("packet %+v", p)
			}
			switch p.N {
			case 1:
				return wttest.Fate{Drop: true}
			case 2:
				return wttest.Fate{Delay: time.Second}
			case 3:
				return wttest.Fate{Copies: 2}
			}
			return wttest.Fate{}
		})
		send(t, a, b, numbers(5)...)
		n.Intercept(nil)
		send(t, a, b, "5")
		if got := texts(listen(t, b)); !slices.Equal(got, []string{"0", "3", "3", "3", "4", "5", "2"}) {
			t.Errorf("got %q", got)
		}
		if s := n.Stats(); s.Intercepted != 1 || s.Duplicated != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestMove(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		before, after := a.Addr(), netip.MustParseAddrPort("192.0.2.1:99")
		a.Move(after)
		send(t, a, b, "from elsewhere")
		buf := make([]byte, 100)
		_, from, err := b.ReadFrom(buf)
		if err != nil || from.String() != after.String() || a.Addr() != after || a.LocalAddr().String() != before.String() {
			t.Errorf("from %v, %v", from, err)
		}
		if _, err := b.WriteTo([]byte("lost"), net.UDPAddrFromAddrPort(before)); err != nil {
			t.Fatal(err)
		}
		send(t, b, a, "found")
		if got := texts(listen(t, a)); !slices.Equal(got, []string{"found"}) || n.Stats().Unreachable != 1 {
			t.Errorf("got %q, stats %+v", got, n.Stats())
		}
	})
}

// An endpoint that nobody reads holds a bounded number of packets, and its end
// waits for nothing.
func TestUnreadEndpoint(t *testing.T) {
	inBubble(t, wttest.Link{}, 0, func(t *testing.T, n *wttest.Network, a, b *wttest.Endpoint) {
		send(t, a, b, numbers(20000)...)
		if s := n.Stats(); s.Overflowed < 3000 || s.Delivered+s.Overflowed != 20000 {
			t.Errorf("stats %+v", s)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		send(t, a, b, "late")
		if _, _, err := b.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read of a closed endpoint: %v", err)
		}
		if n.Stats().Unreachable != 1 {
			t.Errorf("stats %+v", n.Stats())
		}
	})
}

// One server takes several clients, one after the other from one endpoint too.
func TestServe(t *testing.T) {
	n := wttest.NewNetwork(t, wttest.Link{}, 0)
	server := wttest.Serve(t, n, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(ctx, b) != nil {
				return
			}
		}
	})})
	endpoint := n.NewEndpoint()
	for range 3 {
		session, err := server.Dialer(wt.Dialer{PacketConn: endpoint}).Dial(t.Context(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		other, err := server.Dialer(wt.Dialer{}).Dial(t.Context(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*wt.Session{session, other} {
			if err := s.SendDatagram(t.Context(), []byte("ping")); err != nil {
				t.Fatal(err)
			}
			if b, err := s.ReceiveDatagram(t.Context()); err != nil || string(b) != "ping" {
				t.Fatalf("got %q, %v", b, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
