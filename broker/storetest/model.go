package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

func contextThatEnds(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// model is a log that keeps everything, and looks for what is still valid whenever it
// is asked.
type model struct {
	limits broker.LogLimits
	all    []broker.Record
	base   uint64
	values []broker.Record // by offset
}

func size(r *broker.Record) int {
	n := len(r.Payload.Data) + len(r.Key)
	for _, h := range r.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

func (m *model) append(r broker.Record) {
	if r.Retain {
		m.values = slices.DeleteFunc(m.values, func(v broker.Record) bool { return v.Key == r.Key })
		if len(r.Payload.Data) > 0 {
			m.values = append(m.values, r)
		}
		m.expire(r.Time)
		m.values = m.values[max(0, len(m.values)-m.limits.Keys):]
	}
	if r.Reliable.Set {
		return
	}
	m.all = append(m.all, r)
	m.trim(r.Time)
}

func (m *model) expire(now uint64) {
	m.values = slices.DeleteFunc(m.values, func(v broker.Record) bool { return v.Expires > 0 && v.Expires <= now })
}

func (m *model) trim(now uint64) {
	m.expire(now)
	bytes, keep := 0, 0
	for i := len(m.all) - 1; i >= 0; i-- {
		r := &m.all[i]
		bytes += size(r)
		if keep+1 > m.limits.Count || m.limits.Bytes > 0 && bytes > m.limits.Bytes ||
			m.limits.Age > 0 && r.Time+uint64(m.limits.Age/time.Millisecond) < now {
			break
		}
		keep++
	}
	if gone := len(m.all) - keep; gone > 0 {
		m.base = m.all[gone-1].Offset
		m.all = m.all[gone:]
	}
}

// choice takes decisions from a script.
type choice struct{ script []byte }

func (c *choice) of(n int) int {
	if len(c.script) == 0 {
		return 0
	}
	b := int(c.script[0])
	c.script = c.script[1:]
	return b % n
}

// compare does with a log, and with a model of it, what the script says.
func compare(t *testing.T, b *bench, script []byte) {
	c := &choice{script}
	limits := broker.LogLimits{
		Retention: broker.Retention{
			Count: []int{0, 1, 2, 5, 17, 1000}[c.of(6)],
			Age:   []time.Duration{0, 0, time.Second, 20 * time.Second}[c.of(4)],
			Bytes: []int{0, 0, 60, 500}[c.of(4)],
		},
		Keys: []int{0, 1, 3, 100}[c.of(4)],
	}
	l, m := b.store.Open("topic", 1, limits), &model{limits: limits}
	offset := uint64(0)
	for len(c.script) > 0 && !t.Failed() {
		switch c.of(8) {
		case 0, 1, 2, 3:
			offset += uint64(1 + c.of(3)/2)
			r := b.record(offset, string(make([]byte, c.of(100)/(1+3*c.of(2)))))
			r.Key = []string{"", "a", "b", "c", "d"}[c.of(5)]
			r.Retain = c.of(2) == 0
			if c.of(4) == 0 {
				r.Expires = b.now() + uint64(c.of(40)*100)
			}
			if c.of(5) == 0 {
				r.Mode, r.Reliable, r.Retain = codec.ModeLossy, codec.Some(1), false
			}
			if c.of(9) == 0 {
				r.Headers = codec.Headers{{Name: "n", Value: "value"}}
			}
			l.Append(r)
			m.append(r)
		case 4:
			time.Sleep(time.Duration(c.of(60)) * 100 * time.Millisecond)
		case 5:
			compareRead(t, b, l, m, uint64(c.of(100)), uint64(c.of(120)), 1+c.of(12), c.of(200))
		case 6:
			compareSeek(t, b, l, m, c)
		case 7:
			m.trim(b.now())
			after, to, limit := uint64(c.of(100)), uint64(c.of(120)), 1+c.of(12)
			got, err := l.Retained(t.Context(), after, to, limit, math.MaxInt)
			var want []broker.Record
			for _, v := range m.values {
				if v.Offset > after && v.Offset <= to && len(want) < limit {
					want = append(want, v)
				}
			}
			same(t, fmt.Sprintf("last values in (%d, %d]", after, to), got, err, want)
		}
		m.trim(b.now())
		if empty := len(m.all) == 0 && len(m.values) == 0; empty && b.store.Bytes() != 0 && l.Empty() {
			t.Errorf("an empty log has %d bytes", b.store.Bytes())
		}
	}
	m.trim(b.now())
	got, base, err := l.Read(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
	same(t, "all", got, err, m.all)
	if base != m.base {
		t.Errorf("up to %d is gone, want %d", base, m.base)
	}
	if empty := len(m.all) == 0 && len(m.values) == 0; l.Empty() != empty || empty && b.store.Bytes() != 0 {
		t.Errorf("Empty is %v with %d messages and %d values, %d bytes", l.Empty(), len(m.all), len(m.values), b.store.Bytes())
	}
	l.Close()
	if n := b.store.Bytes(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

// compareRead reads one page in each direction.
func compareRead(t *testing.T, b *bench, l broker.Log, m *model, after, to uint64, limit, bytes int) {
	m.trim(b.now())
	page := func(list []broker.Record, in func(*broker.Record) bool) (want []broker.Record) {
		left := bytes
		for i := range list {
			r := &list[i]
			if !in(r) || len(want) == limit {
				continue
			}
			if left -= size(r); left < 0 && len(want) > 0 {
				break
			}
			want = append(want, *r)
		}
		return want
	}
	got, base, err := l.Read(t.Context(), after, to, limit, bytes)
	same(t, fmt.Sprintf("read (%d, %d], %d, %d bytes", after, to, limit, bytes), got, err,
		page(m.all, func(r *broker.Record) bool { return r.Offset > after && r.Offset <= to }))
	if base != m.base {
		t.Errorf("read: up to %d is gone, want %d", base, m.base)
	}
	newest := slices.Clone(m.all)
	slices.Reverse(newest)
	got, base, err = l.ReadBack(t.Context(), to, limit, bytes)
	same(t, fmt.Sprintf("read back from %d, %d, %d bytes", to, limit, bytes), got, err,
		page(newest, func(r *broker.Record) bool { return r.Offset < to }))
	if base != m.base {
		t.Errorf("read back: up to %d is gone, want %d", base, m.base)
	}
}

func compareSeek(t *testing.T, b *bench, l broker.Log, m *model, c *choice) {
	m.trim(b.now())
	after := func(i int) uint64 { // the i-th is the first that is wanted
		if i == 0 {
			return m.base
		}
		return m.all[i-1].Offset
	}
	n := c.of(20)
	wantSeek(t, l, codec.From{Kind: codec.FromLast, N: uint64(n)}, after(max(0, len(m.all)-n)))
	wantSeek(t, l, codec.From{Kind: codec.FromBeginning}, m.base)
	if m.base > 0 {
		return // whether the time reaches back to what is gone is another test's
	}
	since := b.now() - uint64(c.of(100)*100)
	i := slices.IndexFunc(m.all, func(r broker.Record) bool { return r.Time >= since })
	if i < 0 {
		i = len(m.all)
	}
	wantSeek(t, l, codec.From{Kind: codec.FromTime, Time: since}, after(i))
}

func same(t *testing.T, what string, got []broker.Record, err error, want []broker.Record) {
	t.Helper()
	if err != nil || !slices.Equal(offsets(got), offsets(want)) {
		t.Errorf("%s: %v (%v), want %v", what, offsets(got), err, offsets(want))
		return
	}
	for i := range got {
		if g, w := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); g != w {
			t.Errorf("%s: record\n %s, want\n %s", what, g, w)
		}
	}
}
